"""The folder that a run leaves behind: what lies in it, by which name."""

from __future__ import annotations

import shutil
from pathlib import Path

MODEL_FOLDER, CHECKPOINT_FOLDER = "model", "checkpoints"
# Of a base that is no Sentence Transformers model.
ALONE_FOLDER = "adapter"
RESULTS_FILE = "results.json"
REPORT_FILE, REPORT_PICTURE = "report.html", "report.png"
CURVE_FILE, CURVE_PICTURE = "learning_curve.json", "learning_curve.png"
_FILES = {RESULTS_FILE, REPORT_FILE, REPORT_PICTURE, CURVE_FILE, CURVE_PICTURE}


def check_output_folder(folder: Path) -> None:
    """Check that a folder is new, empty or one of an earlier run.

    Raises:
        ValueError: it is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output folder {folder} is a file. Name a folder.")
    if folder.is_dir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        foreign = sorted(names - _FILES - {MODEL_FOLDER, ALONE_FOLDER, CHECKPOINT_FOLDER})
        if foreign:
            raise ValueError(
                f"The output folder {folder} holds files that are not from an earlier run, the first: {foreign[:3]}. "
                "Name a new or empty folder."
            )


def remove_report(folder: Path) -> None:
    """Remove the report of an earlier run, so that it does not pass for one of a new run."""
    for name in (REPORT_FILE, REPORT_PICTURE):
        (folder / name).unlink(missing_ok=True)


def remove_models(folder: Path, *, but: str = "") -> None:
    """Remove the models of an earlier run, so that its adapter does not pass for the outcome of a new run."""
    for name in {MODEL_FOLDER, ALONE_FOLDER} - {but}:
        if (folder / name).exists():
            shutil.rmtree(folder / name)
