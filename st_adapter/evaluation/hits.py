"""What the queries of a split find, with the base model's vectors or with adapted ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.embeddings.search import Index, TopK

Adapter: TypeAlias = QueryAdapter | Sequence[Module] | Callable[[Tensor], Tensor]


class NotFiniteError(ValueError):
    """What an adapter gives is no number."""


def adapt(adapter: Adapter, query_embeddings: Tensor) -> Tensor:
    """The adapted (Q, D) query embeddings, without gradients.

    Args:
        adapter: an adapter, the modules that a saved model applies to queries, or a function of such a matrix.
        query_embeddings: (Q, D), as the base model gives them.

    Raises:
        ValueError: the adapter has another dimension.
        NotFiniteError: it gives what is no number; a ``ValueError``, too.

    Examples:
        >>> queries = embedded["test"].query_embeddings
        >>> torch.allclose(adapt(adapter, queries), queries, atol=1e-6)  # the identity before training
        True
    """
    with torch.no_grad():
        adapted = _adapted(adapter, query_embeddings)
    # Where a query is no number itself, no adapter can help.
    bad = ~adapted.isfinite().all(dim=-1) & query_embeddings.isfinite().all(dim=-1)
    if bad.any():
        raise NotFiniteError(
            f"The adapter gives NaN or infinite values for {int(bad.sum()):,} of {len(adapted):,} queries, which rank "
            "nothing. Look at its weights."
        )
    return adapted


def _adapted(adapter: Adapter, query_embeddings: Tensor) -> Tensor:
    if isinstance(adapter, QueryAdapter):
        return adapter.transform(query_embeddings)
    if callable(adapter):
        return torch.as_tensor(adapter(query_embeddings), dtype=torch.float32, device=query_embeddings.device)
    if isinstance(adapter, str | os.PathLike) or not isinstance(adapter, Iterable):
        raise ValueError(
            f"The adapter is a {type(adapter).__name__}, but a QueryAdapter, a list of modules or a function of "
            "vectors is expected. Of a result pass its .adapter, of a folder QueryAdapter.from_pretrained(folder)."
        )
    modules = list(adapter)
    # Those of a model in half precision take no other one.
    dtypes = (parameter.dtype for module in modules for parameter in module.parameters())
    given = query_embeddings.to(next(dtypes, query_embeddings.dtype))
    features: dict[str, Any] = {"sentence_embedding": given}
    for module in modules:
        features = module(features)
    adapted: Tensor = features["sentence_embedding"].to(query_embeddings.dtype)
    return adapted


def search_split(split: EmbeddedSplit, query_embeddings: Tensor, k: int, index: Index | None = None) -> TopK:
    """Search the corpus of a split with (Q, D) vectors, one for each of its queries, by the similarity of its model.

    A query that stands in the corpus itself is searched deeper, and its own copy taken out: see
    ``EmbeddedSplit.left_out``. Where fewer than k documents are left, the last places are -1.

    Raises:
        ValueError: there is not one vector for each query.
    """
    if len(query_embeddings) != len(split.query_ids):
        raise ValueError(
            f"There are {len(query_embeddings)} query vectors, but the split {split.name!r} has {len(split.query_ids)} "
            "queries. Pass one vector for each, in their order, or a subset of the split."
        )
    query_embeddings = split.comparable(query_embeddings)
    find = split.corpus.search if index is None else index
    copies = split.left_out
    if len(copies.query_index) == 0:
        return find(query_embeddings, k)
    rows, query_index = copies.query_index.unique(return_inverse=True)
    most = int(torch.bincount(query_index).max())
    found = _without(find(query_embeddings[rows], k + most), copies._replace(query_index=query_index), k)
    others = torch.ones(len(query_embeddings), dtype=torch.bool, device=rows.device)
    others[rows] = False
    if not others.any():
        return found
    plain = find(query_embeddings[others], k)
    width = max(found.indices.shape[1], plain.indices.shape[1])
    scores = plain.scores.new_full((len(query_embeddings), width), -torch.inf)
    indices = plain.indices.new_full((len(query_embeddings), width), -1)
    for chosen, part in ((rows, found), (others, plain)):
        scores[chosen, : part.scores.shape[1]] = part.scores
        indices[chosen, : part.indices.shape[1]] = part.indices
    return TopK(scores, indices)


def _without(found: TopK, copies: OwnCopies, k: int) -> TopK:
    """The first k hits of each query when its copies are taken out; the others keep their order."""
    rows = torch.arange(len(found.indices), device=found.indices.device).unsqueeze(1)
    num_documents = int(torch.maximum(found.indices.max(), copies.corpus_index.max())) + 1
    wanted = copies.query_index * num_documents + copies.corpus_index
    empty = torch.isin(rows * num_documents + found.indices, wanted) | (found.indices < 0)
    order = empty.long().sort(dim=1, stable=True).indices[:, :k]
    empty = empty.gather(1, order)
    return TopK(
        found.scores.gather(1, order).masked_fill(empty, -torch.inf),
        found.indices.gather(1, order).masked_fill(empty, -1),
    )
