"""The runs that an output folder keeps: what each found, and which one is in use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from st_adapter.errors import InputError
from st_adapter.evidence.output_folder import (
    RESULTS_FILE,
    VERSIONS_FOLDER,
    current_run,
    date_of,
    holds_model,
    make_current,
    run_names,
    were_in_use,
)
from st_adapter.evidence.results import Results
from st_adapter.saving.folder import is_saved_model


@dataclass(frozen=True)
class Version:
    """One run that was kept.

    Attributes:
        name: of its folder in ``versions/``; empty for what version 0.1 left, until the next run takes it in.
        folder: with ``model/`` or ``adapter/``, if something was handed over, and ``results.json``.
        date: when it was, in UTC.
        results: what it found; None if they are not there.
        is_current: whether it is the run in use.
    """

    name: str
    folder: Path
    date: datetime
    results: Results | None
    is_current: bool

    @property
    def usable(self) -> bool:
        """Whether there is a model or an adapter; a run that handed over nothing left none."""
        return holds_model(self.folder)

    @property
    def outcome(self) -> str:
        """In a few words, what became of it."""
        results = self.results
        if results is None:
            return "unknown"
        if results.adopted:
            deployed = "adopted" if results.verdict.decision != "do not deploy" else "not deployed"
            return deployed if results.selection.tested else "not tested"
        if results.query_model is not None:
            return "not handed over"
        return "deployed kept" if results.kept_deployed else "base kept"


def versions_of(output_dir: str | Path) -> list[Version]:
    """The runs that were kept in an output folder, oldest first.

    Args:
        output_dir: that ``train`` wrote to.

    Raises:
        ValueError: there is no run in it, or what is there is damaged.

    Examples:
        >>> result = st_adapter.train(model, dataset, output_dir="out", cache_dir="cache", show_progress_bar=False)
        >>> [(version.outcome, version.is_current) for version in versions_of("out")]
        [('base kept', True)]
    """
    folder = Path(output_dir)
    names = run_names(folder)
    if not names:
        return [_left_by_an_earlier_release(folder)]
    current = current_run(folder)
    runs = [(name, folder / VERSIONS_FOLDER / name) for name in names]
    return [Version(name, run, date_of(name), _results(run), run == current) for name, run in runs]


def rollback(output_dir: str | Path, version: str | None = None) -> Version:
    """Use another run again: the pointer of an output folder moves to it, and nothing is deleted.

    Args:
        output_dir: that ``train`` wrote to.
        version: name of the run; if None, the one that was in use before, the last that has a model or an adapter.

    Returns:
        The run in use now.

    Raises:
        ValueError: there is no such run, or it left neither model nor adapter.

    Examples:
        >>> how = {"output_dir": "out", "cache_dir": "cache", "show_progress_bar": False}
        >>> first, second = (st_adapter.train(model, dataset, seed=seed, **how) for seed in (0, 1))
        >>> rollback("out").name == first.run_dir.name
        True
    """
    folder = Path(output_dir)
    names = run_names(folder)
    if version is None:
        before = were_in_use(folder) if names else []
        chosen = next((name for name in reversed(before) if holds_model(folder / VERSIONS_FOLDER / name)), None)
        if chosen is None:
            raise ValueError(f"{folder} has no run with a model or an adapter that was in use before the present one.")
    elif version not in names:
        raise InputError(
            f"{folder} has no version {version[:80]!r}; it has {names or 'none'}.",
            python="Name one of versions_of(output_dir).",
            flags=f"Name one that `st-adapter list {folder}` shows.",
        )
    else:
        chosen = version
    run = folder / VERSIONS_FOLDER / chosen
    if not holds_model(run):
        raise ValueError(
            f"The run {chosen} left neither a model nor an adapter, as it handed over nothing. Name another version."
        )
    make_current(folder, chosen)
    return Version(chosen, run, date_of(chosen), _results(run), True)


def _left_by_an_earlier_release(folder: Path) -> Version:
    results = _results(folder)
    if results is None and (is_saved_model(folder) or not holds_model(folder)):
        raise ValueError(f"{folder} holds no run of `st-adapter train`. Name the folder that it wrote to.")
    changed = (folder / RESULTS_FILE if results is not None else folder).stat().st_mtime
    return Version("", folder, datetime.fromtimestamp(changed, timezone.utc), results, True)


def _results(run: Path) -> Results | None:
    path = run / RESULTS_FILE
    return Results.read(path) if path.is_file() else None
