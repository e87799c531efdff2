"""The folder that runs leave behind: what lies in it, by which name, and which of the runs is in use.

``versions/<date>-<hash>/`` holds what one run left, and never changes but for its report. The file ``current`` names
the run in use, and is replaced in one step: ``current_run`` is the one answer to the question where model and results
are. What lies beside it, ``model/`` or ``adapter/``, ``results.json`` and the report, is the same once more, for those
who open it by that name: hard links, which take no room, or copies where a file system has none. So nothing depends on
symbolic links, which Windows makes for administrators alone and which archives, object stores and the Hub lose. Each of
these is replaced as a whole, one after the other, right after ``current``; if the process is killed in that instant,
the others are those of the run before until the next run, or ``rollback`` to the one in use, puts them right.

Folders of version 0.1, in which there is nothing but that, are read as they are; the next run takes them in.
"""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

from st_adapter.saving.alone import is_adapter_alone
from st_adapter.saving.folder import is_saved_model, read_saved
from st_adapter.storage.paths import file_sha256
from st_adapter.storage.writing import file_written_whole, folder_written_whole, linked, write_text

MODEL_FOLDER, CHECKPOINT_FOLDER = "model", "checkpoints"
# Of a base that is no Sentence Transformers model.
ALONE_FOLDER = "adapter"
RESULTS_FILE = "results.json"
REPORT_FILE, REPORT_PICTURE = "report.html", "report.png"
# Of data and base model, whichever run is in use: a report shows it if it is of the same.
CURVE_FILE, CURVE_PICTURE = "learning_curve.json", "learning_curve.png"
VERSIONS_FOLDER, CURRENT_FILE = "versions", "current"
# In the folder of versions: the runs that were in use one after the other, a name a line, without those that were gone
# back from. Earlier versions did not write it.
_USED_FILE = "in_use"
_OF_A_RUN = (RESULTS_FILE, REPORT_FILE, REPORT_PICTURE)
_FOLDERS_OF_A_RUN = (MODEL_FOLDER, ALONE_FOLDER)
_OTHERS = {CURVE_FILE, CURVE_PICTURE, CHECKPOINT_FOLDER, VERSIONS_FOLDER, CURRENT_FILE}
_DATE, _HASH_LENGTH = "%Y%m%dT%H%M%SZ", 8
_NAME = re.compile(rf"\d{{8}}T\d{{6}}Z-[0-9a-f]{{{_HASH_LENGTH}}}")


def check_output_folder(folder: Path) -> None:
    """Check that a folder is new, empty or one of an earlier run.

    Raises:
        ValueError: it is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output folder {folder} is a file. Name a folder.")
    if folder.is_dir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        ours = {*_OF_A_RUN, *_OTHERS, *(name for name in _FOLDERS_OF_A_RUN if _is_ours(folder / name))}
        foreign = sorted(names - ours)
        if foreign:
            raise ValueError(
                f"The output folder {folder} holds files that are not from an earlier run, the first: {foreign[:3]}. "
                "Name a new or empty folder."
            )
        current_run(folder)


def _is_ours(folder: Path) -> bool:
    return is_saved_model(folder) or is_adapter_alone(folder) or (folder.is_dir() and not any(folder.iterdir()))


def current_run(output_dir: str | Path) -> Path:
    """The folder of the run in use, with ``model/`` or ``adapter/`` and ``results.json``: what an output folder is for.

    Args:
        output_dir: what ``train`` wrote to; of any other folder, such as that of one run, the answer is itself.

    Raises:
        ValueError: the run that its ``current`` names is not there.

    Examples:
        >>> current_run("nowhere").name
        'nowhere'
    """
    folder = Path(output_dir)
    pointer = folder / CURRENT_FILE
    if not (pointer.is_file() and (folder / VERSIONS_FOLDER).is_dir()):
        return folder
    name = _named_current(folder)
    run = folder / VERSIONS_FOLDER / name
    if _NAME.fullmatch(name) is None or not run.is_dir():
        raise ValueError(
            f"{pointer} names the run {name[:80]!r}, which is not in {folder / VERSIONS_FOLDER}. Name one of these: "
            f"`st-adapter rollback {folder} VERSION`."
        )
    return run


def _named_current(output_dir: Path) -> str:
    """What ``current`` says, whether the run is there or not."""
    return (output_dir / CURRENT_FILE).read_text(encoding="utf-8", errors="replace").strip()


def output_of(run: Path) -> Path:
    """The output folder that the folder of a run lies in; of a folder without versions, itself."""
    return run.parent.parent if run.parent.name == VERSIONS_FOLDER and _NAME.fullmatch(run.name) else run


def run_names(output_dir: Path) -> list[str]:
    """The names of the runs that were kept, oldest first."""
    folder = output_dir / VERSIONS_FOLDER
    return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def new_run_name(output_dir: Path, content_hash: str, date: datetime) -> str:
    """A name that comes after those of all runs: when it was, in UTC, and the begin of the hash of what made it.

    The order of names is the order of runs, so that a run within the same second as the one before it, or after the
    clock was set back, is dated a second after that one.
    """
    for newest in run_names(output_dir)[-1:]:
        date = max(date, date_of(newest) + timedelta(seconds=1))
    return f"{date.strftime(_DATE)}-{content_hash[:_HASH_LENGTH]}"


def date_of(name: str) -> datetime:
    """When a run was, as its name says it, in UTC."""
    return datetime.strptime(name.partition("-")[0], _DATE).replace(tzinfo=timezone.utc)


def holds_adapter(run: Path) -> bool:
    """Whether there is an adapter in the folder of a run, in a model or alone."""
    model = run / MODEL_FOLDER
    return (is_saved_model(model) and read_saved(model).has_adapter) or is_adapter_alone(run / ALONE_FOLDER)


def holds_model(run: Path) -> bool:
    """Whether there is something to use in the folder of a run, be it the base model."""
    return is_saved_model(run / MODEL_FOLDER) or is_adapter_alone(run / ALONE_FOLDER)


def take_in(output_dir: Path) -> None:
    """Make what an earlier release left in a folder its first version, if there is something; it stays in use."""
    there = [name for name in (*_FOLDERS_OF_A_RUN, *_OF_A_RUN) if (output_dir / name).exists()]
    results = output_dir / RESULTS_FILE
    if (output_dir / CURRENT_FILE).exists() or not (results.is_file() or holds_model(output_dir)):
        return
    dated = results if results.is_file() else output_dir / there[0]
    digest = file_sha256(results) if results.is_file() else "0" * _HASH_LENGTH
    date = datetime.fromtimestamp(dated.stat().st_mtime, timezone.utc)
    name = new_run_name(output_dir, digest, date)
    with folder_written_whole(output_dir / VERSIONS_FOLDER / name) as folder:
        for each in there:
            linked(output_dir / each, folder / each)
    write_text(output_dir / CURRENT_FILE, f"{name}\n")


def were_in_use(output_dir: Path) -> list[str]:
    """The runs that were in use before the present one, oldest first, without those that were gone back from."""
    names, file = run_names(output_dir), output_dir / VERSIONS_FOLDER / _USED_FILE
    current = _named_current(output_dir)
    written = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    if not written:
        return [name for name in names if name < current]
    # Whoever was killed in between wrote the one and not the other; and runs may be deleted by hand.
    before = written[: written.index(current)] if current in written else written
    return [name for name in before if name in names]


def make_current(output_dir: Path, name: str) -> None:
    """Let a run be the one in use, from one moment to the next."""
    if (output_dir / CURRENT_FILE).exists():
        before = [*were_in_use(output_dir), _named_current(output_dir)]
        used = before[: before.index(name)] if name in before else before
        write_text(output_dir / VERSIONS_FOLDER / _USED_FILE, "\n".join([*used, name, ""]))
    write_text(output_dir / CURRENT_FILE, f"{name}\n")
    run = current_run(output_dir)
    for each in _FOLDERS_OF_A_RUN:
        if (run / each).is_dir():
            with folder_written_whole(output_dir / each) as folder:
                for path in (run / each).iterdir():
                    linked(path, folder / path.name)
        elif (output_dir / each).is_dir():
            shutil.rmtree(output_dir / each)
    show_files(run)


def show_files(run: Path) -> None:
    """Have results and report of a run lie in the output folder itself, if it is the run in use."""
    output_dir = output_of(run)
    if output_dir == run or current_run(output_dir) != run:
        return
    for each in _OF_A_RUN:
        if (run / each).is_file():
            with file_written_whole(output_dir / each) as unfinished:
                linked(run / each, unfinished)
        else:
            (output_dir / each).unlink(missing_ok=True)


def shown_at(path: Path) -> Path:
    """Where a file of a run lies in the output folder itself, if it is the run in use; else the path as it is."""
    output_dir = output_of(path.parent)
    return output_dir / path.name if current_run(output_dir) == path.parent else path


def model_path(name: str) -> str:
    """The model of the run in use, if an output folder, or that of a run, was named; else what was named."""
    if not Path(name).is_dir() or is_saved_model(Path(name)):
        return name
    inside = current_run(name) / MODEL_FOLDER
    return str(inside) if inside.is_dir() else name


def adapter_alone(name: str) -> Path | None:
    """The folder of an adapter alone, if it, an output folder or that of a run was named."""
    folder = Path(name)
    if not folder.is_dir() or is_saved_model(folder) or is_saved_model(Path(model_path(name))):
        return None  # keeps its adapter in such a folder
    return next(filter(is_adapter_alone, (folder, current_run(folder) / ALONE_FOLDER)), None)
