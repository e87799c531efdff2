"""Run the notebooks of the documentation and keep what their cells printed, as the site shows it.

python scripts/run_notebooks.py
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def run(path: Path, folder: str) -> Any:
    """The notebook at ``path`` with the outputs of a run in ``folder``, but without warnings and times of day."""
    # The kernel is a process of its own: it has to find this checkout, wherever it starts.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = nbclient.NotebookClient(
        notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(nbformat.writes(run(path, folder)) + "\n", encoding="utf-8")  # type: ignore[no-untyped-call]
        print(f"Written: {path.relative_to(ROOT)}")
