"""The page on stacks is made from the recipes that are run, and names every stack that is not."""

import ast
import hashlib
import json
import re
import sys

import check_stacks
import numpy as np
import pytest
import run_recipe
import stack_recipes

from problems import ROOT

FOLDER = ROOT / "docs" / "stacks"
RECIPES = sorted(path.stem for path in (FOLDER / "recipes").glob("*.py"))
ARGUMENTS = {
    "embedders": [{"model_path", "query_model_path"}, {"onnx_model_path"}],
    "index": [{"folder", "base_model_path", "documents"}, {"url", "base_model_path", "documents"}],
    "search": [
        {place, model, "queries", "k"} for place in ("folder", "url") for model in ("model_path", "query_model_path")
    ],
    "stored_vectors": [{"folder"}, {"url"}],
    "evaluate": [
        {"model_path", "documents", "queries", "qrels"},
        {"model_path", "query_model_path", "documents", "queries", "qrels"},
    ],
}
RECIPE = '''# /// script
# requires-python = ">=3.10"
# dependencies = {dependencies}
# ///
"""Some stack: set this."""


def embedders(model_path, query_model_path):
    return None
'''


@pytest.fixture
def results():
    return json.loads((ROOT / "scripts" / "results" / "check_stacks.json").read_text(encoding="utf-8"))


def test_the_page_is_that_of_recipes_and_results(results):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert stack_recipes.page(results) == page, "run scripts/stack_recipes.py"


def test_every_recipe_was_run_as_it_is_or_the_reason_is_given(results):
    in_javascript = {path.stem for path in (FOLDER / "recipes").glob("*.mjs")}
    assert {*RECIPES, *in_javascript} <= set(results["stacks"])
    for name, entry in results["stacks"].items():
        assert entry["verified"] or entry["reason"], name
        if entry["verified"]:
            content = (ROOT / entry["recipe"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == entry["recipe_sha256"], f"{name} has changed: run it again"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_what_the_page_and_the_checks_use(name):
    recipe = stack_recipes.read(FOLDER / "recipes" / f"{name}.py")
    assert recipe.title
    assert re.fullmatch(r"[^\n]+\.", recipe.setting)
    functions = {
        node.name: {argument.arg for argument in node.args.args}
        for node in ast.parse(recipe.code).body
        if isinstance(node, ast.FunctionDef)
    }
    known = {function: arguments for function, arguments in functions.items() if function in ARGUMENTS}
    assert known
    assert all(arguments in ARGUMENTS[function] for function, arguments in known.items())
    assert {"index", "search", "stored_vectors"} & set(known) in ({"index", "search", "stored_vectors"}, set())


@pytest.mark.parametrize(
    ("dependencies", "expected"),
    [
        ('["some-stack"]', ("some-stack",)),
        ('[\n#     "st-adapter[some]",\n#     "b>=1",\n# ]', ("st-adapter[some]", "b>=1")),
    ],
)
def test_the_metadata_of_a_recipe_is_read(dependencies, expected, tmp_path):
    path = tmp_path / "some_stack.py"
    path.write_text(RECIPE.format(dependencies=dependencies))
    recipe = stack_recipes.read(path)
    assert (recipe.name, recipe.title, recipe.setting) == ("some_stack", "Some stack", "set this.")
    assert recipe.requirements == expected
    assert recipe.functions == ("embedders",)
    assert recipe.code.startswith("def embedders")
    assert recipe.needs_st_adapter == expected[0].startswith("st-adapter")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("# ///\n", "no PEP 723 metadata"),
        (": set", "no docstring of the form"),
        ("# dependencies = []\n", "no 'dependencies ="),
    ],
)
def test_a_recipe_without_them_is_refused(cut, message, tmp_path):
    path = tmp_path / "some_stack.py"
    path.write_text(RECIPE.format(dependencies="[]").replace(cut, "", 1 if cut != "# ///\n" else -1))
    with pytest.raises(ValueError, match=message):
        stack_recipes.read(path)


def test_a_recipe_in_javascript_is_read(tmp_path):
    path = tmp_path / "some_stack.mjs"
    path.write_text(
        '// /// script\n// dependencies = ["@some/stack"]\n// ///\n// Some stack: set this,\n// and that.\n\n'
        "export async function embedders(onnx_model_path) {}\n"
    )
    recipe = stack_recipes.read_javascript(path)
    assert (recipe.name, recipe.title, recipe.setting) == ("some_stack", "Some stack", "set this, and that.")
    assert (recipe.requirements, recipe.functions) == (("@some/stack",), ("embedders",))
    assert recipe.code == "export async function embedders(onnx_model_path) {}"
    path.write_text("export function embedders() {}\n")
    with pytest.raises(ValueError, match="does not start with '// /// script'"):
        stack_recipes.read_javascript(path)


def test_results_of_other_recipes_stay(tmp_path):
    path = tmp_path / "results.json"
    entry = {"stack": "a", "version": "1", "verified": True, "reason": None, "date": "2026-01-01"}
    check_stacks.keep(path, {"chroma": entry})
    check_stacks.keep(path, {"langchain": entry})
    check_stacks.keep(path, {"langchain": {**entry, "version": "2"}, "no such recipe": entry})
    stacks = json.loads(path.read_text())["stacks"]
    assert {name: entry["version"] for name, entry in stacks.items() if entry["version"]} == {
        "chroma": "1",
        "langchain": "2",
    }


def test_a_recipe_runs_as_in_its_environment(tmp_path, monkeypatch):
    recipe = tmp_path / "fake.py"
    recipe.write_text(
        "def embedders(model_path, query_model_path):\n"
        "    one = lambda text: [len(text.upper()), len(query_model_path)]\n"
        "    return one, lambda texts: [one(text) for text in texts]\n"
        "def search(url, query_model_path, queries, k):\n"
        "    return [[(7, 0.5)] * k for query in queries]\n"
        "def stored_vectors(folder):\n"
        "    return {'b': [1.0], 'a': [2.0]}\n"
    )
    paths = {"model_path": "m", "query_model_path": "qq"}
    arguments = {**paths, "models": {"tiny": paths}, "queries": ["a", "bc"], "documents": ["x"], "k": 1, "url": "f"}
    (tmp_path / "job.json").write_text(json.dumps({**arguments, "folder": "f"}))

    def run(step):
        words = ["run_recipe.py", str(recipe), step, str(tmp_path / "job.json"), str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        run_recipe.main()
        return dict(np.load(tmp_path / "arrays.npz")), json.loads((tmp_path / "values.json").read_text())

    vectors, values = run("embed")
    assert vectors["tiny.queries"].tolist() == [[1, 2], [2, 2]]
    assert vectors["tiny.documents"].tolist() == [[1, 2]]
    assert values["versions"]["numpy"] == np.__version__
    stored, values = run("search")
    assert values["hits"] == [[["7", 0.5]], [["7", 0.5]]]
    assert (stored["ids"].tolist(), stored["vectors"].tolist()) == (["a", "b"], [[2.0], [1.0]])
