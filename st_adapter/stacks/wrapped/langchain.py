"""LangChain: embeddings whose queries are adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.embeddings import Embeddings


def query_vector(embedding: Embeddings, text: str) -> list[float]:
    """A query as the base model embeds it."""
    vector: list[float] = embedding.embed_query(text)
    return vector


class AdaptedEmbeddings(Embeddings):  # type: ignore[misc]  # langchain_core is skipped by mypy
    """Embeddings of LangChain; documents pass through.

    Args:
        embedding: what embeds.
        adapt: one query's vector -> the adapted one.
    """

    def __init__(self, embedding: Embeddings, adapt: Callable[[Any], Any]) -> None:
        self._embedding = embedding
        self._adapt = adapt

    def __repr__(self) -> str:
        return f"AdaptedEmbeddings({self._embedding!r})"

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the adapter."""
        vector: list[float] = self._adapt(self._embedding.embed_query(text)).tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents as the base model does."""
        vectors: list[list[float]] = self._embedding.embed_documents(texts)
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query, with the adapter."""
        vector: list[float] = self._adapt(await self._embedding.aembed_query(text)).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents as the base model does."""
        vectors: list[list[float]] = await self._embedding.aembed_documents(texts)
        return vectors


adapted = AdaptedEmbeddings
