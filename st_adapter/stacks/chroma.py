"""Chroma: an embedding function that embeds queries with the adapter, documents without."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

try:
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function
except ImportError as error:
    raise ImportError('st_adapter.stacks.chroma needs Chroma. Run `pip install "st-adapter[chroma]"`.') from error


class AdaptedEmbeddingFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]  # chromadb is skipped by mypy
    """Chroma's own function for Sentence Transformers uses plain ``encode`` for queries too; this one does not.

    It is registered under the name ``st_adapter``: a collection that was created with it uses it again when it is
    reopened, if this module has been imported; if not, Chroma says that it does not know the name. A collection that
    was created with another embedding function keeps that one: search it with ``query_embeddings``.

    A new collection compares as the model does: by inner product if the model compares by dot product. A model whose
    folder is replaced is opened anew; one from the Hub is looked up once in a process.

    Args:
        model_name: Folder or Hub id of a model that ``save_pretrained`` or ``push_to_hub`` wrote.
        device: Such as ``cpu`` or ``cuda:0``.
        **kwargs: Further arguments of ``SentenceTransformer``, plain values that JSON can hold.

    Raises:
        ValueError: an argument is not a plain value.
    """

    def __init__(self, model_name: str, device: str | None = None, **kwargs: Any) -> None:
        config = {"model_name": model_name, "device": device, "kwargs": kwargs}
        try:
            self._config = json.dumps(config, sort_keys=True)
        except TypeError as error:
            raise ValueError(
                f"The arguments {sorted(kwargs)} are not all plain values ({error}), but Chroma keeps them with the "
                "collection as JSON. Pass strings, numbers, lists and dicts only."
            ) from error

    def __call__(self, input: Documents) -> Embeddings:
        """Embed documents as the base model does, one float32 vector of (D,) each."""
        return _rows(self._opened().encode_document(list(input)))

    def embed_query(self, input: Documents) -> Embeddings:
        """Embed queries with the adapter, one float32 vector of (D,) each."""
        return _rows(self._opened().encode_query(list(input)))

    @staticmethod
    def name() -> str:
        """Under which it is registered."""
        return "st_adapter"

    def default_space(self) -> Space:
        """What a new collection compares by."""
        return self.supported_spaces()[0]

    def supported_spaces(self) -> list[Space]:
        """What a collection may compare by: only the inner product says what the model's dot product says."""
        similarity = str(getattr(self._opened().similarity_fn_name, "value", self._opened().similarity_fn_name))
        return ["ip"] if similarity == "dot" else ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """What Chroma keeps with the collection."""
        config: dict[str, Any] = json.loads(self._config)
        return config

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> AdaptedEmbeddingFunction:
        """Make it again when a collection is reopened."""
        return AdaptedEmbeddingFunction(config["model_name"], config["device"], **config["kwargs"])

    def _opened(self) -> SentenceTransformer:
        return _model(self._config, _state(Path(json.loads(self._config)["model_name"])))


register_embedding_function(AdaptedEmbeddingFunction)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Another value once a file in the folder is another one; empty for what is no folder, such as a Hub id."""
    stats = sorted((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


# Chroma builds the function anew for every query of a reopened collection. All arguments count, not the name alone.
@functools.lru_cache(maxsize=4)
def _model(config: str, state: tuple[tuple[str, int, int], ...]) -> SentenceTransformer:
    arguments = json.loads(config)
    return SentenceTransformer(arguments["model_name"], device=arguments["device"], **arguments["kwargs"])


def _rows(vectors: Any) -> Embeddings:
    return [np.asarray(row, dtype=np.float32) for row in vectors]
