"""What a run leaves in its output folder: one version more, and the run in use if there is something new to use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from st_adapter.evidence import output_folder as output
from st_adapter.evidence.results import Results
from st_adapter.fitting.auto import Clock
from st_adapter.running.result import Result
from st_adapter.running.settings import Settings, model_folder
from st_adapter.saving.folder import is_saved_model, read_saved
from st_adapter.storage.paths import file_sha256
from st_adapter.storage.records import plain
from st_adapter.storage.writing import file_written_whole, folder_written_whole, linked


def finished(result: Result, settings: Settings, clock: Clock) -> Result:
    """Write what is to be written, and put in how long everything took.

    A run that hands over an adapter is the one in use from now on, unless its verdict is not to deploy it, or it was
    not tested and the one in use was. Any other is kept as well, and is in use only where no adapter is: so the folder
    shows the newest figures until there is one.
    """
    folder = settings.output_dir
    if folder is None:
        return replace(result, results=replace(result.results, seconds=clock.seconds))
    output.take_in(folder)
    before = output.current_run(folder)
    replaces = output.holds_adapter(before)
    untested = not result.results.selection.tested and result.verdict.decision != "deploy"
    stays = replaces and result.results.adopted and untested and _was_tested(before)
    new = result.results.adopted and result.verdict.decision != "do not deploy" and not stays
    moves = new or not replaces
    name = output.new_run_name(folder, _hash(result.results), datetime.fromisoformat(result.results.date))
    run = folder / output.VERSIONS_FOLDER / name
    with folder_written_whole(run) as unfinished:
        with clock("saving"):
            if result.results.adopted or (moves and _keeps_base(result, settings)):
                onnx = {"onnx": True} if settings.options.onnx else {}
                saved = result.save_pretrained(unfinished / model_folder(result.base), **onnx)
                _share_files(saved, before / saved.name)
        result = replace(result, results=replace(result.results, seconds=clock.seconds))
        result.results.write(unfinished / output.RESULTS_FILE)
    if moves:
        output.make_current(folder, name)
    instead = ""
    if stays:
        instead = (
            f"{before.name} stays in use in {folder}: it was tested, and this run was not. "
            f"`st-adapter rollback {folder} {name}` uses this one all the same."
        )
    elif new and replaces and result.results.selection.against_deployed is None:
        instead = (
            f"In {folder} it takes the place of {before.name}, which it was not compared with. `st-adapter rollback "
            f"{folder}` goes back."
        )
    return replace(result, output_dir=folder, run_dir=run, instead=instead)


def _was_tested(run: Path) -> bool:
    """Whether labels decided what a run handed over; where results are missing or damaged, it may be."""
    try:
        return Results.read(run / output.RESULTS_FILE).selection.tested
    except (OSError, ValueError):
        return True


def _share_files(saved: Path, before: Path) -> None:
    """Let the files that a model has in common with the one before, such as its weights, take no room again."""
    if not (is_saved_model(saved) and is_saved_model(before)):
        return
    known = read_saved(before).files
    for name, digest in read_saved(saved).files.items():
        if known.get(name) == digest and file_sha256(before / name) == digest:
            with file_written_whole(saved / name) as unfinished:
                linked(before / name, unfinished)


def _keeps_base(result: Result, settings: Settings) -> bool:
    possible = result.model is not None and result.results.query_model is None
    return settings.options.save_base and possible and not result.results.kept_deployed


def _hash(results: Results) -> str:
    """Of model, data and settings: the same for the same run once more."""
    made_by = (
        *(results.base_model, results.data.fingerprint, results.method, results.seed, results.arguments),
        *(results.alpha, results.opened_with, results.precision, results.query_model and results.query_model.model),
    )
    return hashlib.sha256(json.dumps(plain(made_by), sort_keys=True, default=str).encode()).hexdigest()
