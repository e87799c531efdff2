"""The README's figures come from result files, and its code runs as printed."""

import re

import pandas as pd
import pytest
import update_readme

from problems import ROOT
from st_adapter.embeddings import embedding as embeddings

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_tables_and_output_are_those_of_the_result_files():
    assert update_readme.filled(TEXT) == TEXT, "run scripts/update_readme.py"


def test_the_first_screen_shows_python():
    assert "```python" in "\n".join(TEXT.splitlines()[:20])


def test_the_python_code_runs_as_printed(tiny_model_path, tmp_path, monkeypatch, capsys):
    words = [
        f"{color} {thing}" for color in ("red", "blue", "old", "new") for thing in ("car", "house", "river", "book")
    ]
    pairs = pd.DataFrame(
        {"query": [f"where is the {w}" for w in words], "document": [f"the {w} is here" for w in words]}
    )
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embeddings, "HF_HOME", str(tmp_path / "cache"))
    code = "".join(PYTHON).replace("sentence-transformers/all-MiniLM-L6-v2", str(tiny_model_path))
    exec(compile(code, "README.md", "exec"), {})
    assert "held-out queries" in capsys.readouterr().out
    assert (tmp_path / "model-with-adapter" / "modules.json").is_file()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_commands_exist(target):
    assert f"```bash\nmake {target}\n```" in TEXT
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
