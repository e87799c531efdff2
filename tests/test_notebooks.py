"""The notebooks of the documentation run from top to bottom."""

import os

import pytest

from problems import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    # The kernel is a process of its own: it has to find this checkout, wherever it starts.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(path, as_version=4)
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert shown, "the site shows what it printed: jupyter execute --inplace"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[-2].outputs[-1]["data"]["text/plain"] == "True"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_names_no_place_of_a_machine(path):
    assert not any(f'"{place}' in path.read_text(encoding="utf-8") for place in ("/home/", "/tmp/", "/root/", "/opt/"))
