"""LlamaIndex: an embedding whose queries are adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import BaseEmbedding


def query_vector(embedding: BaseEmbedding, text: str) -> list[float]:
    """A query as the base model embeds it."""
    vector: list[float] = embedding.get_query_embedding(text)
    return vector


class AdaptedBaseEmbedding(BaseEmbedding):  # type: ignore[misc]  # llama_index is skipped by mypy
    """An embedding of LlamaIndex; documents pass through.

    Callbacks, cache and limits stay with what embeds, and see the base model's vectors: a cache knows a text, not
    whether it is a query.

    Args:
        embedding: what embeds.
        adapt: one query's vector -> the adapted one.
    """

    _embedding: BaseEmbedding = PrivateAttr()
    _adapt: Callable[[Any], Any] = PrivateAttr()

    def __init__(self, embedding: BaseEmbedding, adapt: Callable[[Any], Any]) -> None:
        super().__init__(
            model_name=embedding.model_name,
            embed_batch_size=embedding.embed_batch_size,
            num_workers=embedding.num_workers,
        )
        self._embedding = embedding
        self._adapt = adapt

    @classmethod
    def class_name(cls) -> str:
        """Under which LlamaIndex writes it down."""
        return "AdaptedBaseEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._adapt(self._embedding.get_query_embedding(query)).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._adapt(await self._embedding.aget_query_embedding(query)).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        vector: list[float] = self._embedding.get_text_embedding(text)
        return vector

    async def _aget_text_embedding(self, text: str) -> list[float]:
        vector: list[float] = await self._embedding.aget_text_embedding(text)
        return vector

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedding.get_text_embedding_batch(texts)
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = await self._embedding.aget_text_embedding_batch(texts)
        return vectors


adapted = AdaptedBaseEmbedding
