"""Ranking losses over precomputed embeddings: one function per loss, the paper in its docstring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_ranking_loss(
    scores: Tensor, excluded: Tensor, rows: Tensor, positive_scores: Tensor, weights: Tensor
) -> Tensor:
    """Softmax cross-entropy of every (query, positive) pair against the negatives of its query.

    For a pair with score ``s+`` the loss is ``-log(exp(s+) / (exp(s+) + sum_n exp(s_n)))`` over the negatives ``n`` of
    its query; the other positives of the query are neither rewarded nor pushed away. This is InfoNCE (van den Oord et
    al. 2018, https://arxiv.org/abs/1807.03748), in Sentence Transformers ``MultipleNegativesRankingLoss``, with the
    candidates given instead of taken from the batch.

    Args:
        scores: (B, M) similarity of every query with every candidate, times the scale (1 / temperature).
        excluded: (B, M) bool, True where the candidate must not count as a negative: it is a positive of that query.
        rows: (P,) int64, the query (row of ``scores``) of each pair; 0 <= rows < B.
        positive_scores: (P,) score of each pair, on the same scale.
        weights: (P,) weight of each pair, >= 0, not all 0.

    Returns:
        Scalar, >= 0: the weighted mean over the pairs. A query whose candidates are all excluded contributes 0.

    Inputs:
        One row of scores per query of the batch, and one entry per (query, positive) pair: a query with three positives
        has three entries.

    Example:
        >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
        >>> excluded = torch.tensor([[True, True, False]])
        >>> pairs = dict(rows=torch.tensor([0, 0]), positive_scores=torch.tensor([2.0, 1.0]), weights=torch.ones(2))
        >>> round(softmax_ranking_loss(scores, excluded, **pairs).item(), 4)  # (log(1 + e^-2) + log(1 + e^-1)) / 2
        0.2201
    """
    # Finite, because the gradient of a logsumexp over -inf alone is NaN.
    floor = torch.finfo(scores.dtype).min / 2
    negatives = scores.masked_fill(excluded, floor).logsumexp(dim=1)  # (B,)
    losses = F.softplus(negatives[rows] - positive_scores)  # (P,)
    return (losses * weights).sum() / weights.sum()
