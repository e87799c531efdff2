"""Whatever a stack embeds with, so that its queries go through an adapter and its documents do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.evidence.output_folder import adapter_alone, model_path
from st_adapter.storage.adapters import check_task

# Where the classes of a stack are at home -> the file here that knows it.
_HOMES = {
    "langchain_core.embeddings": "langchain",
    "llama_index.core": "llama_index",
    "chromadb": "chroma",
}


def wrap(
    embedding: Any, adapter: QueryAdapter | str | Path, *, task: str | None = None, allow_other_base: bool = False
) -> Any:
    """Put an adapter on the queries of what a stack embeds with: documents pass through as they are, bit for bit.

    Taken are LangChain's ``Embeddings``, LlamaIndex's ``BaseEmbedding``, a text embedder of Haystack and an embedding
    function of Chroma, of any model: what comes back is one as well, asynchronous methods included. Five texts are
    embedded as queries first, to see that the model is the adapter's.

    Chroma keeps with a collection what it embeds with, and there the name of yours stays: a collection that exists can
    be opened with what comes back, and one that is opened without it searches without the adapter.

    Args:
        embedding: what the stack embeds with now.
        adapter: the adapter, or the folder or Hub id that it was saved to, also the output folder of ``train``.
        task: whose adapter, of a folder or Hub id with adapters for several tasks.
        allow_other_base: take a model whose vectors are not those that the adapter was fitted for.

    Raises:
        ValueError: it is none of these; or it is of another model than the adapter, as far as that is known.

    Examples:
        >>> from langchain_openai import OpenAIEmbeddings  # doctest: +SKIP
        >>> embedding = wrap(OpenAIEmbeddings(model="text-embedding-3-small"), "out/adapter")  # doctest: +SKIP
    """
    stack = import_module(f"st_adapter.stacks.wrapped.{_stack_of(embedding)}")
    if isinstance(adapter, QueryAdapter):
        check_task(task, [], has_default=True)
    else:
        adapter = QueryAdapter.from_pretrained(adapter_alone(str(adapter)) or model_path(str(adapter)), task=task)
    adapt = _one_by_one(adapter)
    if not allow_other_base:
        _check_model(adapter, lambda text: stack.query_vector(embedding, text))
    return stack.adapted(embedding, adapt)


def _stack_of(embedding: Any) -> str:
    modules = [each.__module__ for each in type(embedding).__mro__]
    for home, stack in _HOMES.items():
        if any(module == home or module.startswith(f"{home}.") for module in modules):
            return stack
    if hasattr(type(embedding), "run") and hasattr(embedding, "__haystack_input__"):
        return "haystack"
    raise ValueError(
        f"The embedding is a {type(embedding).__module__}.{type(embedding).__name__}, but LangChain's Embeddings, "
        "LlamaIndex's BaseEmbedding, a text embedder of Haystack or an EmbeddingFunction of Chroma is expected. With "
        "anything else, pass its query vectors through adapter.transform."
    )


def _one_by_one(adapter: QueryAdapter) -> Callable[[Sequence[float]], NDArray[np.float32]]:
    def adapt(vector: Sequence[float]) -> NDArray[np.float32]:
        adapted: NDArray[np.float32] = adapter.transform(np.asarray(vector, dtype=np.float32)[None])
        row: NDArray[np.float32] = adapted[0]
        return row

    return adapt


def _check_model(adapter: QueryAdapter, query_vector: Callable[[str], Sequence[float]]) -> None:
    base_model = adapter.base_model
    if base_model is None or base_model.probes is None:
        return
    vectors = torch.tensor(np.array([query_vector(text) for text in CHECK_TEXTS], dtype=np.float32))
    difference = base_model.query_difference(vectors)
    if difference is not None:
        raise ValueError(
            f"This adapter belongs to the base model {base_model}, but the embedding is of another one: {difference}. "
            "Wrap what embeds queries with that model and prompt, or train a new adapter. allow_other_base=True takes "
            "it all the same."
        )
