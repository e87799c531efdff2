"""Chroma: an embedding function whose queries are adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space


def query_vector(embedding: EmbeddingFunction[Documents], text: str) -> Any:
    """A query as the base model embeds it."""
    return embedding.embed_query([text])[0]


def adapted(embedding: EmbeddingFunction[Documents], adapt: Callable[[Any], Any]) -> EmbeddingFunction[Documents]:
    """The same with an adapter on its queries.

    A collection remembers the name of what it embeds with and refuses any other, so the name stays. Chroma asks the
    class for it, so there is one class for each.
    """

    class AdaptedFunction(EmbeddingFunction[Documents]):  # type: ignore[misc]  # chromadb is skipped by mypy
        """An embedding function of Chroma; documents pass through."""

        name = staticmethod(type(embedding).name)
        build_from_config = staticmethod(type(embedding).build_from_config)
        validate_config = staticmethod(type(embedding).validate_config)

        def __init__(self) -> None:
            """Chroma warns of a class without."""

        def __call__(self, input: Documents) -> Embeddings:
            return embedding(input)

        def embed_query(self, input: Documents) -> Embeddings:
            return [adapt(vector) for vector in embedding.embed_query(input)]

        def default_space(self) -> Space:
            return embedding.default_space()

        def supported_spaces(self) -> list[Space]:
            spaces: list[Space] = embedding.supported_spaces()
            return spaces

        def get_config(self) -> dict[str, Any]:
            config: dict[str, Any] = embedding.get_config()
            return config

        def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
            embedding.validate_config_update(old_config, new_config)

    return AdaptedFunction()
