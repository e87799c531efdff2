"""Run one step of a recipe in that recipe's own environment; needs nothing but NumPy and the recipe.

    python -I scripts/run_recipe.py RECIPE.py STEP JOB.json OUTPUT_DIR

JOB.json holds the arguments of the recipe's functions by name. The result is left in OUTPUT_DIR: arrays.npz
and values.json.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Returned = tuple[dict[str, NDArray[Any]], dict[str, Any]]


def main() -> None:
    recipe, step, job, output = sys.argv[1:]
    arguments = json.loads(Path(job).read_text(encoding="utf-8"))
    arrays, values = STEPS[step](load(Path(recipe)), arguments)
    folder = Path(output)
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
    written = {**values, "versions": versions()}
    (folder / "values.json").write_text(json.dumps(written), encoding="utf-8")


def load(recipe: Path) -> Any:
    """The recipe as a module, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe.stem}", recipe)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call with those arguments that the function names: a recipe takes the model that it needs."""
    return function(*(arguments[name] for name in inspect.signature(function).parameters))


def embed(module: Any, arguments: dict[str, Any]) -> Returned:
    """Vectors of queries and documents, through the callables of ``embedders``, for each model."""
    arrays = {}
    for name, paths in arguments["models"].items():
        embed_query, embed_documents = call(module.embedders, paths)
        arrays[f"{name}.queries"] = rows(embed_query, arguments["queries"])
        arrays[f"{name}.documents"] = rows(embed_documents, arguments["documents"])
    return arrays, {}


def rows(embed_texts: Callable[[Any], Any], texts: Sequence[str]) -> NDArray[Any]:
    """One vector per text; a function that refuses a list is called with each text."""
    try:
        return np.asarray(embed_texts(list(texts)))
    except (TypeError, AttributeError, ValueError):
        return np.asarray([embed_texts(text) for text in texts])


def index(module: Any, arguments: dict[str, Any]) -> Returned:
    """Index the documents with the base model, and read what the store holds then."""
    call(module.index, arguments)
    return stored(module, arguments), {}


def search(module: Any, arguments: dict[str, Any]) -> Returned:
    """The hits of every query, best first, and what the store holds afterwards."""
    hits = [[(str(corpus_id), float(score)) for corpus_id, score in row] for row in call(module.search, arguments)]
    return stored(module, arguments), {"hits": hits}


def stored(module: Any, arguments: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """All vectors of the store, in the order of their ids."""
    vectors = {
        str(corpus_id): np.asarray(vector) for corpus_id, vector in call(module.stored_vectors, arguments).items()
    }
    ids = sorted(vectors)
    return {"ids": np.asarray(ids), "vectors": np.stack([vectors[corpus_id] for corpus_id in ids])}


def evaluate(module: Any, arguments: dict[str, Any]) -> Returned:
    """The nDCG@10 that the stack itself reports."""
    return {}, {"ndcg@10": float(call(module.evaluate, arguments))}


STEPS = {"embed": embed, "index": index, "search": search, "evaluate": evaluate}


def versions() -> dict[str, str]:
    """Every distribution of the environment, with Python, by normalised name."""
    found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in distributions()}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


if __name__ == "__main__":
    main()
