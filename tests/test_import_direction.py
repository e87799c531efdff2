"""Data flows one way: a file of the package imports only files that stand above it here."""

import ast
from pathlib import Path

import pytest

import st_adapter

ORDER = [
    "errors",
    "retrieval",
    "metrics",
    "losses",
    "statistics",
    "storage",
    "hub",
    "plots",
    "comparison",
    "text_files",
    "data_cards",
    "data_files",
    "data_cells",
    "data_labels",
    "data_columns",
    "splits",
    "data",
    "demo",
    "fingerprint",
    "base_model",
    "embeddings",
    "leaks",
    "model_card",
    "model_files",
    "declared_sizes",
    "adapter",
    "evaluation",
    "examples",
    "index",
    "evaluator",
    "trec",
    "mteb_task",
    "model",
    "onnx_export",
    "repository",
    "saving",
    "stack_check",
    "training_args",
    "sampling",
    "closed_form",
    "gradient",
    "folds",
    "selection",
    "auto",
    "learning_curve",
    "trainer",
    "pipeline",
    "report",
    "cli",
]
PACKAGE = Path(st_adapter.__file__).parent
# One class per stack, for users of that stack to import: nothing in the package imports them, and they import nothing.
STACKS = sorted(path.stem for path in (PACKAGE / "stacks").glob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    """The files of the package that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("st_adapter"):
            module = (node.module or "").split(".")[1:]
            rooms.update(module[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            rooms.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("st_adapter."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name} has a relative import"
    return rooms


def test_every_file_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_file_imports_only_what_lies_before_it(room):
    below = imported_rooms(PACKAGE / f"{room}.py") - set(ORDER[: ORDER.index(room)]) - {"__version__"}
    assert not below, f"{room}.py imports {sorted(below)}, which lie behind it"


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_stands_alone(stack):
    assert not imported_rooms(PACKAGE / "stacks" / f"{stack}.py")


@pytest.mark.parametrize("room", ORDER)
def test_no_stack_is_imported_with_the_package(room):
    tree = ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in imported} & {"chromadb", "llama_index", "lancedb"}
