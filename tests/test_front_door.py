"""What a user meets first: names, help and errors that come at once, without anything heavy."""

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import st_adapter
from st_adapter import cli
from st_adapter.cli.options import GradientOptions
from st_adapter.fitting.arguments import AdapterTrainingArguments

PACKAGE = Path(st_adapter.__file__).parent
DOORS = ["st_adapter", *(f"st_adapter.{path.parent.name}" for path in sorted(PACKAGE.glob("*/__init__.py")))]
# Seconds to import, each of them; what the words of a command line mean can be told without.
HEAVY = {
    "datasets",
    "huggingface_hub.hf_api",
    "matplotlib",
    "numpy",
    "pandas",
    "scipy",
    "sentence_transformers",
    "torch",
    "transformers",
}
EXTRAS = {
    "chromadb",
    "faiss",
    "gradio",
    "lancedb",
    "llama_index",
    "matplotlib",
    "mteb",
    "onnx",
    "onnxruntime",
    "onnxscript",
}
FORMER = """
    BaseModel Comparison IndexEvaluation LeakReport LearningCurve SplitScores StackCheck StackProblem TrainingRecord
    adapt build_index check_leaks drop_leaks evaluate_indexes evaluate_saved export_onnx
    model_fingerprint mteb_task push_folder ranking_metrics run_metrics search seen_documents write_report write_trec
"""


def run(*words):
    """A command of Python, what it shows, and the modules that it imported."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True)
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, flags=re.MULTILINE))
    assert "encodings" in imported
    told = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    return done.returncode, done.stdout, told, imported


# Light


@pytest.mark.parametrize(
    ("words", "status", "shown"),
    [
        ([], 2, "subcommands"),
        (["--help"], 0, "learning-curve"),
        (["--version"], 0, f"st-adapter {st_adapter.__version__}\n"),
        (["train", "--help"], 0, "--output-dir"),
        (["train", "--method", "gradient", "--help"], 0, "--learning-rate"),
        (["check", "--help"], 0, "--tolerance"),
        (["tran"], 2, "train, evaluate, demo"),
        (["train", "--model", "a", "--data", "b", "--lerning-rate", "1"], 2, "--learning-rate FLOAT"),
        (["train", "--model", "a"], 2, "--data"),
        (["train", "--model", "a", "--data", "b", "--method", "best"], 2, "closed-form"),
    ],
)
def test_the_command_line_answers_before_anything_heavy_is_imported(words, status, shown):
    returned, out, told, imported = run("-m", "st_adapter", *words)
    assert returned == status, told
    assert shown in (told if status and words else out)
    assert "tyro" in imported and not imported & HEAVY


def test_the_package_opens_without_anything_heavy():
    rooms = "; ".join(f"import {door}" for door in DOORS)
    returned, out, told, imported = run("-c", f"{rooms}; print(dir(st_adapter))")
    assert returned == 0, told
    assert "'QueryAdapter'" in out and "'check_leaks'" not in out
    assert "st_adapter.saving" in imported and not imported & HEAVY
    imported = run("-c", "from st_adapter import *")[3]
    assert "torch" in imported and not imported & EXTRAS


# Names


def declared(door):
    """Name -> module, as a package's ``__init__.py`` tells type checkers."""
    imports = [node for node in ast.walk(source(door)) if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module for node in imports for alias in node.names}
    return {name: home for name, home in homes.items() if home.startswith(f"{door}.") and home != "st_adapter.lazy"}


def resolved(door, which="homes"):
    """Name -> module, as it resolves names when they are used."""
    for node in ast.walk(source(door)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "names_on_demand":
            tables = {"homes": node.args[1], **{keyword.arg: keyword.value for keyword in node.keywords}}
            homes = ast.literal_eval(tables[which])
            return {name: f"{door}.{home}" for home, names in homes.items() for name in names}
    return {}


def source(door):
    return ast.parse(Path(importlib.import_module(door).__file__).read_text(encoding="utf-8"))


@pytest.mark.parametrize("door", DOORS)
def test_names_are_what_type_checkers_are_told(door):
    package = importlib.import_module(door)
    if door not in ("st_adapter.cli", "st_adapter.storage"):
        assert resolved(door) == declared(door) and resolved(door)
    for name, module in declared(door).items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
    assert set(declared(door)) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'nothing'"):
        _ = package.nothing


def test_the_package_has_at_most_25_names():
    assert len(st_adapter.__all__) <= 25
    assert set(st_adapter.__all__) == {*declared("st_adapter"), "__version__"}


def test_what_was_public_in_version_0_1_still_is():
    former = resolved("st_adapter", "former")
    assert {name.rpartition(" as ")[2] for name in former} == set(FORMER.split())
    for name, home in former.items():
        named, _, known_as = name.partition(" as ")
        assert getattr(st_adapter, known_as or named) is getattr(importlib.import_module(home), named)


@pytest.mark.parametrize("door", DOORS)
def test_no_module_is_hidden_by_a_name(door):
    folder = Path(importlib.import_module(door).__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    names = {*declared(door), *resolved(door)}
    if door == "st_adapter":
        names |= set(resolved(door, "former"))
    assert not modules & names


def test_types_are_declared_to_be_there():
    assert (PACKAGE / "py.typed").is_file()


# Flags


def test_the_settings_of_gradient_are_flags_in_a_group_of_their_own(capsys):
    def groups(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", *words, "--help"])
        assert stop.value.code == 0
        boxes = re.split(r"^\W*((?:\w+ )?options)\W*$", capsys.readouterr().out, flags=re.MULTILINE)[1:]
        return {
            title: set(re.findall(r"^[│ ]*--(?:no-)?([a-z][a-z-]*)", box, re.MULTILINE))
            for title, box in zip(boxes[::2], boxes[1::2], strict=True)
        }

    brief, full = groups(), groups("--method", "gradient")
    gradient = full.pop("gradient options")
    assert full == brief
    assert list(full) == ["options", "data options", "embedding options", "fitting options", "output options"]
    data = {"data", "labels", "queries", "corpus", "memory", "ray-address"}
    assert full["options"] == {"model", "output-dir", "method", "seed", *data}
    settings = {each.name.replace("_", "-") for each in fields(AdapterTrainingArguments)}
    asked_elsewhere = {"output-dir", "seed", "disable-tqdm"}
    assert gradient == settings - asked_elsewhere | {"resume-from-checkpoint"}
    assert asked_elsewhere <= set().union(*full.values())
    assert not gradient & set().union(*full.values())


def test_the_defaults_of_gradient_are_those_of_its_settings():
    assert GradientOptions().arguments() == AdapterTrainingArguments()
    assert GradientOptions().given() == []
    changed = GradientOptions(kind="low_rank", rank=3, torch_compile=True, resume_from_checkpoint=True)
    assert changed.given() == ["--kind", "--rank", "--torch-compile", "--resume-from-checkpoint"]
    assert changed.arguments() == AdapterTrainingArguments(kind="low_rank", rank=3, torch_compile=True)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"]])
def test_who_stops_reading_gets_no_traceback(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "st_adapter", *words], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
