"""LanceDB: an embedding function that embeds queries with the adapter, documents without."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr
from sentence_transformers import SentenceTransformer

try:
    from lancedb.embeddings import TextEmbeddingFunction, register
except ImportError as error:
    raise ImportError('st_adapter.stacks.lancedb needs LanceDB. Run `pip install "st-adapter[lancedb]"`.') from error

Vectors = list[NDArray[np.float32]]
# As far as half precision is from length 1.
_UNIT_TOLERANCE = 3e-2


@register("st_adapter")
class AdaptedEmbeddings(TextEmbeddingFunction):  # type: ignore[misc]  # lancedb is skipped by mypy
    """LanceDB's own function for Sentence Transformers uses plain ``encode`` for queries too; this one does not.

    It is registered under the name ``st_adapter``: a table that was created with it uses it again when it is reopened,
    if this module has been imported. Make it with ``AdaptedEmbeddings.create(name=...)``, as LanceDB keeps only what
    is given there. A table that was created with another function keeps that one: search it with vectors.

    LanceDB compares by Euclidean distance unless a search says otherwise, which is the model's own order for vectors of
    length 1 only. For others a warning tells what to say: ``table.search(text).distance_type("dot")``.

    Attributes:
        name: Folder or Hub id of a model that ``save_pretrained`` or ``push_to_hub`` wrote. A name such as
            ``$var:model`` is looked up in LanceDB's registry each time a table is opened.
        device: Such as ``cpu`` or ``cuda:0``.
        revision: Branch, tag or commit of a Hub id.
    """

    name: str
    device: str | None = None
    revision: str | None = None
    _model: SentenceTransformer | None = PrivateAttr(None)

    def ndims(self) -> int:
        """D of the vectors."""
        return int(self._opened().get_embedding_dimension() or 0)

    def compute_query_embeddings(self, query: str | list[str], *args: Any, **kwargs: Any) -> Vectors:
        """Embed one query or several with the adapter, one float32 vector of (D,) each."""
        return list(self._opened().encode_query(list(self.sanitize_input(query)), show_progress_bar=False))

    def generate_embeddings(self, texts: list[str] | NDArray[Any], *args: Any, **kwargs: Any) -> Vectors:
        """Embed documents as the base model does, one float32 vector of (D,) each."""
        return list(self._opened().encode_document(list(texts), show_progress_bar=False))

    def _opened(self) -> SentenceTransformer:
        if self._model is None:
            self._model = SentenceTransformer(self.name, device=self.device, revision=self.revision)
            _warn_unless_unit(self._model)
        return self._model


def _warn_unless_unit(model: SentenceTransformer) -> None:
    similarity = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name))
    length = float(np.linalg.norm(model.encode_document("length", show_progress_bar=False)))
    if abs(length - 1) > _UNIT_TOLERANCE:
        warnings.warn(
            f"The model's vectors are not of length 1 and it compares by {similarity!r}, but LanceDB compares by "
            f"Euclidean distance unless told otherwise: add .distance_type({similarity!r}) to every search, and build "
            "indexes with it.",
            stacklevel=3,
        )
