"""The losses over precomputed embeddings: from labels, and from what a teacher says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_ranking_loss(
    scores: Tensor, positive_scores: Tensor, excluded: Tensor, weights: Tensor, log_priors: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy of every (query, positive) pair against its negatives.

    For a pair with score ``s+`` the loss is ``-log(exp(s+) / (exp(s+) + sum_n exp(s_n)))`` over its negatives ``n``.
    This is InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748), in Sentence Transformers
    ``MultipleNegativesRankingLoss``, with the candidates given instead of taken from the batch. A candidate that
    stands for several documents counts as many times, which makes a sampled sum an estimate of the whole one (Bengio &
    Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic language model").

    Args:
        scores: (..., B, M) similarity of each pair's query with every candidate, times the scale (1 / temperature).
        positive_scores: (..., B) similarity of each pair, on the same scale.
        excluded: (..., B, M) bool, True where the candidate must not count as a negative of the pair.
        weights: (..., B) weight of each pair, >= 0.
        log_priors: (M,), or (..., 1, M), logarithm of how many documents each candidate stands for; one each if None.

    Returns:
        (...), >= 0: the mean over the pairs, each times its weight. A pair without negatives contributes 0.

    Inputs:
        One row per (query, positive) pair: a query with three positives has three rows, and in each of them the other
        two positives are excluded.

    Examples:
        >>> excluded = torch.tensor([[True, True, False]])
        >>> loss = softmax_ranking_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([2.0]), excluded, torch.ones(1))
        >>> round(loss.item(), 4)  # log(1 + e^-2)
        0.1269
    """
    if log_priors is not None:
        scores = scores + log_priors
    # Finite, because the gradient of a logsumexp over -inf alone is NaN.
    floor = torch.finfo(scores.dtype).min / 2
    negatives = scores.masked_fill(excluded, floor).logsumexp(dim=-1)  # (..., B)
    return (F.softplus(negatives - positive_scores) * weights).mean(dim=-1)


def soft_target_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax of a query's scores from a teacher's distribution.

    For targets ``p`` and scores ``s`` over the same documents, ``sum_d p_d (log p_d - log softmax(s)_d)``: listwise
    distillation (Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach"; Hinton, Vinyals &
    Dean 2015, https://arxiv.org/abs/1503.02531).

    Args:
        scores: (S, K) similarity of each query with each of its documents, times the scale (1 / temperature).
        targets: (S, K) >= 0, the sum of each row 1.

    Returns:
        Scalar, >= 0: the mean over the queries; 0 where the scores say what the teacher says.

    Inputs:
        One row per query without a label, its documents those that the teacher scored.

    Examples:
        >>> loss = soft_target_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.75, 0.25]]))
        >>> round(loss.item(), 4)  # .75 log(.75 / .5) + .25 log(.25 / .5)
        0.1308
    """
    return F.kl_div(scores.log_softmax(dim=1), targets, reduction="batchmean")
