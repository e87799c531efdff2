"""Run one function of a recipe in that recipe's own environment; needs nothing but NumPy and the recipe.

    python -I scripts/run_recipe.py RECIPE.py FUNCTION JOB.json OUTPUT_DIR

JOB.json holds the function's arguments by name; what it returns is left in OUTPUT_DIR as vectors.npz or returned.json.
"""

from __future__ import annotations

import importlib.util
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


def main() -> None:
    recipe, function, job, output = sys.argv[1:]
    arguments = json.loads(Path(job).read_text(encoding="utf-8"))
    folder = Path(output)
    module = load(Path(recipe))
    ran = RUN[function](module, arguments)
    if all(isinstance(value, np.ndarray) for value in ran.values()):
        np.savez(folder / "vectors.npz", **ran)
    else:
        (folder / "returned.json").write_text(json.dumps(ran), encoding="utf-8")
    (folder / "versions.json").write_text(json.dumps(versions()), encoding="utf-8")


def load(recipe: Path) -> Any:
    """The recipe as a module, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe.stem}", recipe)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embed(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Vectors of queries and documents, through the callables of ``embedders``."""
    embed_query, embed_documents = module.embedders(arguments["model_path"], arguments["query_model_path"])
    return {
        "queries": rows(embed_query, arguments["queries"]),
        "documents": rows(embed_documents, arguments["documents"]),
    }


def rows(embed_texts: Callable[[Any], Any], texts: Sequence[str]) -> NDArray[Any]:
    """One vector per text; a function that refuses a list is called with each text."""
    try:
        vectors = np.asarray(embed_texts(list(texts)))
    except (TypeError, AttributeError, ValueError):
        vectors = np.asarray([embed_texts(text) for text in texts])
    return vectors


def index(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Index the documents with the base model."""
    module.index(arguments["place"], arguments["base_model_path"], arguments["documents"])
    return {"indexed": len(arguments["documents"])}


def search(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The hits of every query, best first."""
    hits = module.search(arguments["place"], arguments["model_path"], arguments["queries"], arguments["k"])
    return {"hits": [[(str(corpus_id), float(score)) for corpus_id, score in row] for row in hits]}


def stored_vectors(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the store holds, in the order of the ids."""
    stored = {
        str(corpus_id): np.asarray(vector) for corpus_id, vector in module.stored_vectors(arguments["place"]).items()
    }
    ids = sorted(stored)
    return {"ids": np.asarray(ids), "vectors": np.stack([stored[corpus_id] for corpus_id in ids])}


def evaluate(module: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The nDCG@10 that the stack itself reports."""
    return {"ndcg@10": float(module.evaluate(**arguments))}


RUN = {"embed": embed, "index": index, "search": search, "stored_vectors": stored_vectors, "evaluate": evaluate}


def versions() -> dict[str, str]:
    """Every distribution of the environment, with Python, by normalised name."""
    found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in distributions()}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


if __name__ == "__main__":
    main()
