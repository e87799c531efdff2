"""Haystack: a text embedder whose vectors, which are those of queries, are adapted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from haystack import component


def query_vector(embedding: Any, text: str) -> list[float]:
    """A query as the base model embeds it.

    Raises:
        ValueError: it embeds documents.
    """
    if "text" not in inspect.signature(embedding.run).parameters:
        raise ValueError(
            f"{type(embedding).__name__} embeds no text but something else, such as documents, which no adapter "
            "changes. Wrap the text embedder that queries go through, and leave this one as it is."
        )
    _warm_up(embedding)
    vector: list[float] = embedding.run(text=text)["embedding"]
    return vector


@component
class AdaptedTextEmbedder:
    """A text embedder of Haystack.

    Args:
        embedding: what embeds.
        adapt: one query's vector -> the adapted one.
    """

    def __init__(self, embedding: Any, adapt: Callable[[Any], Any]) -> None:
        self._embedding = embedding
        self._adapt = adapt
        component.set_output_types(self, embedding=list[float], meta=dict[str, Any])

    def warm_up(self) -> None:
        """Load what embeds."""
        _warm_up(self._embedding)

    def run(self, text: str) -> dict[str, Any]:
        """Embed a query, with the adapter; all else that the embedder says is passed on."""
        return self._with_adapter(self._embedding.run(text=text))

    async def run_async(self, text: str) -> dict[str, Any]:
        """Embed a query, with the adapter; in a thread if the embedder knows no other way."""
        if hasattr(self._embedding, "run_async"):
            return self._with_adapter(await self._embedding.run_async(text=text))
        return self._with_adapter(await asyncio.to_thread(self._embedding.run, text=text))

    def _with_adapter(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {"meta": {}, **answer, "embedding": self._adapt(answer["embedding"]).tolist()}


def _warm_up(embedding: Any) -> None:
    if hasattr(embedding, "warm_up"):
        embedding.warm_up()


adapted = AdaptedTextEmbedder
