"""The loss against a slow Python loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.fitting.losses import soft_target_loss, softmax_ranking_loss


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


def test_soft_targets_by_hand():
    scores, targets = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # softmax: 2/3, 1/3 and 1/2, 1/2. .5 log(.5 / (2/3)) + .5 log(.5 / (1/3)) = .0589; 1 log(1 / .5) + 0 = .6931
    assert soft_target_loss(scores, targets).item() == pytest.approx((0.0588915 + math.log(2)) / 2, rel=1e-5)
    assert soft_target_loss(targets.clamp_min(1e-30).log(), targets).item() == pytest.approx(0, abs=1e-7)


@given(seed=st.integers(0, 2**31), num_queries=st.integers(1, 5), num_documents=st.integers(1, 8))
def test_soft_targets_are_equal_to_a_slow_loop_and_so_is_their_gradient(seed, num_queries, num_documents):
    generator = torch.Generator().manual_seed(seed)
    scores, raw = (
        3 * torch.randn(num_queries, num_documents, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    targets = raw.softmax(dim=1)
    scores.requires_grad_()
    loss = soft_target_loss(scores, targets)
    loss.backward()
    expected, gradient = 0.0, []
    for row, wanted in zip(scores.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(score) for score in row)
        shares = [math.exp(score) / total for score in row]
        expected += sum(p * math.log(p / s) for p, s in zip(wanted, shares, strict=True)) / num_queries
        gradient.append([(s - p) / num_queries for p, s in zip(wanted, shares, strict=True)])
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(scores.grad, torch.tensor(gradient, dtype=torch.float64))
