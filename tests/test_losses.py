"""The loss against a slow Python loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.losses import softmax_ranking_loss


def slow_loss(scores, excluded, rows, positive_scores, weights):
    total = 0.0
    for row, positive, weight in zip(rows.tolist(), positive_scores.tolist(), weights.tolist(), strict=True):
        negatives = [s for s, out in zip(scores[row].tolist(), excluded[row].tolist(), strict=True) if not out]
        denominator = math.exp(positive) + sum(math.exp(s) for s in negatives)
        total += weight * -math.log(math.exp(positive) / denominator)
    return total / sum(weights.tolist())


@st.composite
def problems(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_queries, num_candidates = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    scores = 3 * torch.randn(num_queries, num_candidates, generator=generator, dtype=torch.float64)
    excluded = torch.rand(scores.shape, generator=generator) < draw(st.sampled_from([0.2, 0.9]))
    excluded[:, 0] = True  # every query has at least one positive
    rows, columns = excluded.nonzero(as_tuple=True)
    weights = 0.1 + torch.rand(len(rows), generator=generator, dtype=torch.float64)
    return scores, excluded, rows, columns, weights


@given(problems())
def test_equal_to_a_slow_loop(problem):
    scores, excluded, rows, columns, weights = problem
    fast = softmax_ranking_loss(scores, excluded, rows, scores[rows, columns], weights)
    assert fast.item() == pytest.approx(slow_loss(scores, excluded, rows, scores[rows, columns], weights), rel=1e-9)


@given(problems())
def test_gradients_are_finite_and_other_positives_are_not_pushed_away(problem):
    scores, excluded, rows, columns, weights = problem
    scores.requires_grad_()
    softmax_ranking_loss(scores, excluded, rows, scores[rows, columns], weights).backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[excluded] <= 0).all(), "a positive must only ever be pulled closer"
    assert (scores.grad[~excluded] >= 0).all(), "a negative must only ever be pushed away"


def test_no_negatives_give_no_loss():
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    rows, columns = torch.tensor([0, 0]), torch.tensor([0, 1])
    loss = softmax_ranking_loss(scores, torch.ones(1, 2, dtype=torch.bool), rows, scores[rows, columns], torch.ones(2))
    loss.backward()
    assert loss.item() == 0 and torch.equal(scores.grad, torch.zeros(1, 2))
