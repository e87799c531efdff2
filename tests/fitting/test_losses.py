"""The loss against a slow Python loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.fitting.losses import softmax_ranking_loss


def slow_softmax(positive, negatives):
    return -math.log(math.exp(positive) / (math.exp(positive) + sum(math.exp(s) for s in negatives)))


@st.composite
def problems(draw):
    """Scores, positives, exclusions (sometimes of every candidate) and weights."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_pairs, num_candidates = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    scores = 3 * torch.randn(num_pairs, num_candidates, generator=generator, dtype=torch.float64)
    positive_scores = 3 * torch.randn(num_pairs, generator=generator, dtype=torch.float64)
    excluded = torch.rand(scores.shape, generator=generator) < draw(st.sampled_from([0.2, 0.9]))
    weights = torch.rand(num_pairs, generator=generator, dtype=torch.float64)
    return scores, positive_scores, excluded, weights


@given(problem=problems())
def test_equal_to_a_slow_loop(problem):
    scores, positive_scores, excluded, weights = problem
    expected = 0.0
    for row, positive, out, weight in zip(*(part.tolist() for part in problem), strict=True):
        negatives = [score for score, gone in zip(row, out, strict=True) if not gone]
        expected += weight * slow_softmax(positive, negatives) / len(scores)
    assert softmax_ranking_loss(scores, positive_scores, excluded, weights).item() == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


@given(problem=problems())
def test_gradients_are_finite_and_spare_what_is_excluded(problem):
    scores, positive_scores, excluded, weights = problem
    scores.requires_grad_(), positive_scores.requires_grad_()
    softmax_ranking_loss(scores, positive_scores, excluded, weights).backward()
    assert torch.isfinite(scores.grad).all() and torch.isfinite(positive_scores.grad).all()
    assert (scores.grad[excluded] == 0).all(), "other positives are neither pulled nor pushed"
    assert (scores.grad[~excluded] >= 0).all() and (positive_scores.grad <= 0).all()


def test_no_negatives_give_no_loss():
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    value = softmax_ranking_loss(scores, torch.tensor([0.0]), torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
    value.backward()
    assert value.item() == 0 and torch.equal(scores.grad, torch.zeros(1, 2))


def test_a_log_prior_counts_a_candidate_several_times():
    scores, positive = torch.randn(1, 3), torch.zeros(1)
    three = torch.cat([scores, scores[:, :1], scores[:, :1]], dim=1)
    prior = torch.tensor([math.log(3), 0.0, 0.0])
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        softmax_ranking_loss(scores, positive, nothing[:, :3], torch.ones(1), prior),
        softmax_ranking_loss(three, positive, nothing, torch.ones(1)),
    )
