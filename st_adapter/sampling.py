"""From the judgements of a split to batches of anchors, candidates and positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings import EmbeddedSplit
from st_adapter.training_args import NegativePool


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
        anchors: (B, D) query embeddings.
        candidates: (M, D) document embeddings that every anchor is scored against.
        rows: (P,) int64, the anchor of each positive pair.
        columns: (P,) int64, the candidate of each positive pair.
        weights: (P,) share of each positive in its query, by relevance; those of one query sum to 1.
    """

    anchors: Tensor
    candidates: Tensor
    rows: Tensor
    columns: Tensor
    weights: Tensor

    @property
    def excluded(self) -> Tensor:
        """(B, M) bool, True where a candidate is a positive of the anchor and so no negative."""
        mask = torch.zeros(len(self.anchors), len(self.candidates), dtype=torch.bool, device=self.anchors.device)
        mask[self.rows, self.columns] = True
        return mask


@dataclass(frozen=True)
class TrainingPool:
    """The training queries of a split with their positives, ready to be cut into batches without a Python loop.

    Attributes:
        anchors: (Q, D) embeddings of the queries that have a positive.
        candidates: (M, D) documents that serve as candidates.
        offsets: (Q + 1,) int64; the positives of query i are ``columns[offsets[i]:offsets[i + 1]]``.
        columns: (P,) int64 into ``candidates``.
        weights: (P,) float32 as in ``Batch``.
        in_batch: whether only the positives of the batch are candidates.
    """

    anchors: Tensor
    candidates: Tensor
    offsets: Tensor
    columns: Tensor
    weights: Tensor
    in_batch: bool

    def __len__(self) -> int:
        """Q, the number of training queries."""
        return len(self.anchors)

    def batch(self, queries: Tensor) -> Batch:
        """The batch of the given (B,) queries, in that order."""
        counts = self.offsets[queries + 1] - self.offsets[queries]
        rows = torch.repeat_interleave(torch.arange(len(queries), device=queries.device), counts)
        within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        pairs = self.offsets[queries][rows] + within
        candidates, columns = self.candidates, self.columns[pairs]
        if self.in_batch:
            kept, columns = columns.unique(return_inverse=True)
            candidates = candidates[kept]
        return Batch(self.anchors[queries], candidates, rows, columns, self.weights[pairs])


def training_pool(split: EmbeddedSplit, negatives: NegativePool) -> TrainingPool:
    """Collect the queries of a split that have a positive, and the documents they are trained against.

    Args:
        split: the training split.
        negatives: ``corpus`` keeps every document, ``positives`` and ``batch`` those that are a positive of some query.

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
    columns = split.qrels.corpus_index[relevant][order]
    relevance = split.qrels.relevance[relevant][order]
    queries, rows = query_index.unique_consecutive(return_inverse=True)
    total = torch.zeros(len(queries), device=relevance.device).index_add_(0, rows, relevance)
    offsets = torch.zeros(len(queries) + 1, dtype=torch.int64, device=rows.device)
    offsets[1:] = torch.bincount(rows, minlength=len(queries)).cumsum(0)
    candidates = split.corpus_embeddings
    if negatives != "corpus":
        kept, columns = columns.unique(return_inverse=True)
        candidates = candidates[kept]
    return TrainingPool(
        split.query_embeddings[queries], candidates, offsets, columns, relevance / total[rows], negatives == "batch"
    )
