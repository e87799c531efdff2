"""LlamaIndex: an embedding that embeds queries with the adapter, documents without."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings import BaseEmbedding
except ImportError as error:
    raise ImportError(
        'st_adapter.stacks.llama_index needs LlamaIndex. Run `pip install "st-adapter[llama-index]"`.'
    ) from error

# As far as half precision is from length 1.
_UNIT_TOLERANCE = 3e-2


class AdaptedEmbedding(BaseEmbedding):  # type: ignore[misc]  # llama_index is skipped by mypy
    """LlamaIndex's own ``HuggingFaceEmbedding`` uses plain ``encode`` for queries too; this one does not.

    The model's own prompts and lengths are kept, too. LlamaIndex's own store compares by cosine: for a model that
    compares by dot product and gives vectors of other lengths than 1, a warning says so.

    Args:
        model_name: Folder or Hub id of a model that ``save_pretrained`` or ``push_to_hub`` wrote.
        device: Such as ``cpu`` or ``cuda:0``.
        embed_batch_size: Texts per forward pass.
        model_kwargs: Further arguments of ``SentenceTransformer``, such as ``revision``.
        **kwargs: Further arguments of ``BaseEmbedding``, such as ``callback_manager``.
    """

    _model: SentenceTransformer = PrivateAttr()

    def __init__(
        self,
        model_name: str,
        device: str | None = None,
        embed_batch_size: int = 32,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name=model_name, embed_batch_size=embed_batch_size, **kwargs)
        self._model = SentenceTransformer(model_name, device=device, **(model_kwargs or {}))
        _warn_of_dot_product(self._model)

    @classmethod
    def class_name(cls) -> str:
        """Under which LlamaIndex writes it down."""
        return "AdaptedEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._model.encode_query(query, show_progress_bar=False).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode_document(
            texts, batch_size=self.embed_batch_size, show_progress_bar=False
        ).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def _warn_of_dot_product(model: SentenceTransformer) -> None:
    similarity = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name))
    length = float(np.linalg.norm(model.encode_document("length", show_progress_bar=False)))
    if similarity == "dot" and abs(length - 1) > _UNIT_TOLERANCE:
        warnings.warn(
            "The model compares by dot product, but LlamaIndex's own vector store compares by cosine, which ranks "
            "otherwise. Use a vector store that is set to the inner product.",
            stacklevel=3,
        )
