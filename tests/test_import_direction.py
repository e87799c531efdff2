"""Data flows one way: a room of the package imports only rooms that stand above it here, and no test another test."""

import ast
from pathlib import Path

import pytest

import st_adapter
from problems import ROOT

# A room is a folder, or a file beside the folders.
ORDER = [
    "lazy",
    "choices",
    "errors",
    "words",
    "storage",
    "stores",
    "data",
    "embeddings",
    "adapter",
    "bridge",
    "evaluation",
    "fitting",
    "saving",
    "trainer",
    "demo",
    "evidence",
    "stacks",
    "running",
    "cli",
]
PACKAGE = Path(st_adapter.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("st_adapter"):
            module = (node.module or "").split(".")[1:]
            rooms.update(module[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            rooms.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("st_adapter."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name} has a relative import"
    return rooms


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_before_it(path):
    room = room_of(path)
    if room not in ORDER:
        pytest.skip("the door of the package")
    below = imported_rooms(path) - {room} - set(ORDER[: ORDER.index(room)]) - {"__version__"}
    assert not below, f"{path.relative_to(PACKAGE)} imports {sorted(below)}, which lie behind it"


# One class per stack, for users of that stack to import: nothing in the package imports them, and they import nothing.
@pytest.mark.parametrize("stack", ["chroma", "lancedb", "llama_index"])
def test_a_stack_stands_alone(stack):
    assert not imported_rooms(PACKAGE / "stacks" / f"{stack}.py")


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) not in ("stacks", "stores")], ids=lambda path: path.stem
)
def test_no_stack_is_imported_with_the_package(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in imported} & {"chromadb", "llama_index", "lancedb"}


# Importing a test file collects its tests a second time, and ties them to a place.
def test_no_test_file_is_imported():
    files = list((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")} | {"conftest", "shared_fixtures"}
    for path in files:
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
                imported |= {part for name in names for part in name.split(".")}
        assert not imported & tests, f"{path.relative_to(ROOT)} imports {sorted(imported & tests)}"
