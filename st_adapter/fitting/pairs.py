"""The relevant pairs that a fit learns from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit

NOBODY = -1
"""Stands where there is no query or document."""


class LabelledPairs(NamedTuple):
    """The relevant pairs of a split, ordered by query.

    Attributes:
        queries: (Q, D) embeddings of the queries with a relevant document.
        rows: (P,) int64, the query of each pair.
        documents: (P,) int64 into the corpus.
        weights: (P,) float32: each query counts alike, its positives by relevance; their mean is 1.
    """

    queries: Tensor
    rows: Tensor
    documents: Tensor
    weights: Tensor


def labelled_pairs(split: EmbeddedSplit) -> LabelledPairs:
    """Collect the relevant pairs of a split.

    Raises:
        ValueError: no query has a relevant document.
    """
    relevant = split.qrels.relevance > 0
    if not relevant.any():
        raise ValueError(
            f"The training split {split.name!r} has no relevant pair, so there is nothing to learn from. "
            "Check the relevance scores: > 0 is relevant."
        )
    query_index, order = split.qrels.query_index[relevant].sort(stable=True)
    relevance = split.qrels.relevance[relevant][order]
    queries, rows = query_index.unique_consecutive(return_inverse=True)
    share = relevance / torch.zeros(len(queries), device=rows.device).index_add_(0, rows, relevance)[rows]
    documents = split.qrels.corpus_index[relevant][order]
    return LabelledPairs(split.query_embeddings[queries], rows, documents, share * (len(share) / len(queries)))


def training_rows(split: EmbeddedSplit) -> Tensor:
    """For each query of a split its row among those with a relevant document: (Q,) int64."""
    rows = torch.full((len(split.query_ids),), NOBODY, device=split.qrels.query_index.device)
    trained = split.qrels.query_index[split.qrels.relevance > 0].unique()
    rows[trained] = torch.arange(len(trained), device=rows.device)
    return rows
