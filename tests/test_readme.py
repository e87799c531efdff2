"""Figures of README and documentation come from result files, their code runs as printed, their links lead on."""

import functools
import importlib
import itertools
import random
import re
from pathlib import Path

import pandas as pd
import pytest
import readme_example
import update_readme
import yaml

import st_adapter
from problems import ROOT
from st_adapter.embeddings import embedding as embeddings

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
# Pages whose Python runs from top to bottom, beside a file pairs.csv.
IDEAS = ("data", "evidence", "fit", "saving", "stores")
PAGES = ["README.md", "docs/tutorial.md", "docs/query_model.md", *(f"docs/ideas/{name}.md" for name in IDEAS)]
SITE = "https://st-adapter.github.io/st-adapter/"
FILES = ("https://github.com/st-adapter/st-adapter/blob/main/", "https://github.com/st-adapter/st-adapter/tree/main/")
# What goes into a repository, as far as it says something to people.
MARKDOWN = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "model_cards").glob("*.md")]


def python_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return "".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


@pytest.fixture
def workplace(page, tmp_path, monkeypatch):
    """A folder to work in, with pairs.csv, and a cache of its own."""
    parts = "red blue old new big", "fast slow warm cold small round", "car house river book tree door lamp road"
    words = [" ".join(chosen) for chosen in itertools.product(*(part.split() for part in parts))]
    # These need an adapter that is adopted, and a bridge between two models; fewer pairs are enough to run the others.
    sizes = {"docs/ideas/saving.md": 60, "docs/query_model.md": 90}
    words = random.Random(0).sample(words, sizes.get(page, 30))
    pairs = pd.DataFrame({"query": [f"find the {w}" for w in words], "document": [f"the {w} here" for w in words]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embeddings, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", update_readme.PAGES)
def test_tables_and_output_are_those_of_the_result_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert update_readme.filled(page, text) == text, "run scripts/update_readme.py"


def test_the_first_screen_shows_python():
    assert "```python" in "\n".join(TEXT.splitlines()[:20])


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8_000


def test_the_example_is_the_one_that_was_run_and_shows_what_it_printed():
    lines = python_of("README.md").splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("# =>")) == readme_example.EXAMPLE
    printed = [line for line in lines if line.startswith("# =>")]
    assert any("ndcg@10" in line for line in printed), "run scripts/readme_example.py"
    assert len(readme_example.EXAMPLE.replace("\n\n", "\n").splitlines()) <= 12


@pytest.mark.parametrize("page", PAGES)
def test_the_python_code_runs_as_printed(page, tiny_model_path, workplace, capsys, monkeypatch):
    code = re.sub(r"sentence-transformers/[\w-]+", str(tiny_model_path), python_of(page))
    if page == "docs/ideas/saving.md":  # shows what is done with an adapter, so that there has to be one
        eager = functools.partial(st_adapter.train, method="closed-form", alpha=0.99)
        monkeypatch.setattr(st_adapter, "train", eager)
    exec(compile(code, page, "exec"), {})
    printed = capsys.readouterr().out
    if page in ("README.md", "docs/tutorial.md", "docs/ideas/fit.md"):
        assert "held-out queries" in printed
    if "model-with-adapter" in code:
        assert (workplace / "model-with-adapter" / "modules.json").is_file()
    if page == "docs/ideas/saving.md":
        assert (workplace / "adapter" / "model.safetensors").is_file()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_commands_exist(target):
    assert f"```bash\nmake {target}\n```" in TEXT
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def links_of(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def page_of(address):
    """The page of the documentation that an address of the site is made from."""
    name, _, anchor = address.removeprefix(SITE).partition("#")
    found = [DOCS / f"{name.rstrip('/') or 'index'}.md", DOCS / name / "index.md", DOCS / name / "README.md"]
    return next((path for path in found if path.is_file()), None), anchor


# The package index shows README.md alone.
def test_links_of_the_readme_are_absolute():
    links = links_of(ROOT / "README.md")
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_ourselves_lead_somewhere(path):
    for link in links_of(path):
        if link.startswith(SITE):
            page, anchor = page_of(link)
            assert page is not None, link
            assert not anchor or f"{{ #{anchor} }}" in page.read_text(encoding="utf-8"), link
        elif link.startswith(FILES):
            assert (ROOT / re.sub("^.*?/main/", "", link)).exists(), link


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        children = entry.values() if isinstance(entry, dict) else entry
        return [page for child in children for page in pages(child)]

    listed = pages(settings["nav"])
    there = [path.relative_to(DOCS).as_posix() for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)]
    assert sorted(listed) == sorted(there)


def test_the_architecture_fits_a_page_and_names_what_is_there():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    named = {name for name in re.findall(r"`([\w./]+)`", text) if name.endswith((".py", "/"))}
    assert len(named) > 30
    places = [ROOT, ROOT / "st_adapter"]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_every_public_name_is_documented_and_every_documented_name_is_there():
    documented = [
        name for path in DOCS.rglob("*.md") for name in re.findall(r"(?m)^::: (\S+)$", path.read_text(encoding="utf-8"))
    ]
    named = set()
    for name in documented:
        module, _, attribute = name.rpartition(".")
        if module not in {f"st_adapter.stacks.{stack}" for stack in ("chroma", "lancedb", "llama_index")}:
            assert hasattr(importlib.import_module(module), attribute), name
        named.add(attribute)
    assert set(st_adapter.__all__) - {"__version__"} <= named


def test_every_function_of_the_api_has_an_example():
    names = re.findall(r"(?m)^::: (\S+)$", "\n".join(path.read_text("utf-8") for path in (DOCS / "api").glob("*.md")))
    for name in names:
        module, _, attribute = name.rpartition(".")
        if not module.startswith("st_adapter.stacks."):  # whose stacks may not be installed
            found = getattr(importlib.import_module(module), attribute)
            assert isinstance(found, type) or "Examples:" in (found.__doc__ or ""), name


def test_examples_are_under_the_word_that_the_site_reads_as_code():
    """Under `Example:` it takes the prompt of Python for quotations within quotations."""
    for path in (ROOT / "st_adapter").rglob("*.py"):
        assert not re.search(r"(?m)^\s+Example:$", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_names_a_place_of_a_machine(path):
    assert not re.search(r"(?<![\w.])/(?:home|tmp|root|work|opt|Users)/", path.read_text(encoding="utf-8"))


def test_the_picture_of_every_page_is_there():
    for path in MARKDOWN:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert picture.startswith("https://") or (path.parent / Path(picture)).is_file(), f"{path.name}: {picture}"


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_rows_of_a_table_are_as_long_as_its_head(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for table in re.findall(r"(?m)(?:^\|.*\n?)+", text):
        assert len({len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
