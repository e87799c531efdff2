"""The curve on problems whose answer is known, and its extrapolation against laws that are exact."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from problems import rotated_problem, with_wrong_labels
from st_adapter.embeddings.embedded import EmbeddedQrels
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evidence.curve import learning_curve
from st_adapter.fitting.folds import draw_labels

# The package has a function of the same name.
module = importlib.import_module("st_adapter.evidence.curve")


@pytest.fixture(scope="module")
def problem():
    return rotated_problem(noise=0.15)


@pytest.fixture(scope="module")
def curve(problem):
    return learning_curve(problem, method="closed-form")


def test_more_labels_give_more_and_the_words_say_so(curve, problem):
    num_train, num_dev = (len(problem[split].query_ids) for split in ("train", "dev"))
    assert [point.num_queries for point in curve.points] == [num_train // 4, num_train // 2, num_train]
    assert curve.points[-1].num_queries == num_train and curve.num_dev_queries == num_dev
    assert curve.points[-1].gain > curve.points[0].gain and curve.points[-1].gain > 0.05
    for point in curve.points:
        assert point.lowest <= point.gain <= point.highest
        assert point.interval.low < point.gain < point.interval.high
    assert curve.points[-1].lowest == pytest.approx(curve.points[-1].highest), "a closed form has no seed"
    dev = problem["dev"]
    assert curve.base == pytest.approx(evaluate(dev, ks=[10]).base_means["ndcg@10"])
    gain = f"{curve.points[-1].gain:+.3f} nDCG@10 on {num_dev} dev queries".replace("0.", ".", 1)
    assert curve.sentence.startswith(f"With {num_train} labelled queries: {gain}")
    assert "Twice as many would bring about +" in curve.sentence
    json.dumps(curve.to_dict(), allow_nan=False)


def test_the_same_seed_gives_the_same_curve(curve, problem):
    again = learning_curve(problem, method="closed-form")
    assert replace(again, seconds={}) == replace(curve, seconds={})


def test_dev_and_test_take_no_part_in_the_fits(problem, monkeypatch):
    """Whatever dev and test judge, the maps are the same to the last bit."""
    fitted, original = [], module.fit_candidate

    def kept(candidate, fits):
        assert {len(labelled.query_ids) for labelled, _ in fits} == {(10, 40)[len(fitted) % 2]}
        fitted.append(original(candidate, fits))
        return fitted[-1]

    monkeypatch.setattr(module, "fit_candidate", kept)
    changed = {
        split: judged if split == "train" else judged._replace(corpus_index=judged.corpus_index.flip(0))
        for split, judged in problem.qrels.items()
    }
    for qrels in (problem.qrels, changed, {split: changed[split] for split in ("train", "dev")}):
        learning_curve(replace(problem, qrels=qrels), sizes=[10, 40], num_draws=2, method="closed-form")
    first, *others = (torch.stack([each.matrix for each in fitted[place] + fitted[place + 1]]) for place in (0, 2, 4))
    for other in others:
        assert torch.equal(first, other)


def test_gradient_recipes_are_fitted_as_well(problem):
    curve = learning_curve(problem, sizes=[20, 60], num_draws=2)
    assert [point.num_queries for point in curve.points] == [20, 60]
    assert curve.doubling is None and "cannot be estimated from fewer than 3 sizes" in curve.sentence


def test_a_recipe_that_does_not_help_is_called_so(problem):
    curve = learning_curve(with_wrong_labels(problem), method="closed-form")
    assert not curve.adopted and "does not call this recipe better" in curve.sentence
    assert curve.doubling is not None and curve.doubling.gain >= 0


def test_bad_requests_are_refused(problem):
    num_train = len(problem["train"].query_ids)
    with pytest.raises(ValueError, match=f"numbers from 2 to {num_train}, the number of labelled"):
        learning_curve(problem, sizes=[10, num_train + 1])
    for sizes in ([], [1], [2.5], "25", 50):
        with pytest.raises(ValueError, match="whole numbers of at least 2"):
            learning_curve(problem, sizes=sizes)
    for num_draws in (0, 2.5, "3"):
        with pytest.raises(ValueError, match="num_draws is .*whole number of at least 1"):
            learning_curve(problem, num_draws=num_draws)
    with pytest.raises(ValueError, match="method is 'gradient', but one of"):
        learning_curve(problem, method="gradient")
    assert [
        p.num_queries
        for p in learning_curve(problem, sizes=np.array([10, 20]), num_draws=1, method="closed-form").points
    ] == [10, 20]
    with pytest.raises(ValueError, match="seed is -1"):
        learning_curve(problem, seed=-1)
    with pytest.raises(ValueError, match="There is no split 'dev'"):
        learning_curve(replace(problem, qrels={"train": problem.qrels["train"]}))


@given(numbers=st.lists(st.integers(0, 12), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_draws_are_nested_and_leave_other_splits_alone(numbers, seed):
    problem = rotated_problem(noise=0.15)
    drawn = [set(draw_labels(problem, {"train": n}, seed)["train"].query_ids) for n in sorted(numbers) if n]
    assert [len(queries) for queries in drawn] == [n for n in sorted(numbers) if n]
    for small, large in zip(drawn, drawn[1:], strict=False):
        assert small <= large
    assert draw_labels(problem, {"train": 5}, seed).qrels["dev"] is problem.qrels["dev"]


def test_queries_without_a_relevant_document_are_never_drawn(problem):
    judged = problem.qrels["train"]
    first = judged.query_index.unique()[:10]
    relevance = torch.where(torch.isin(judged.query_index, first), 0.0, judged.relevance)
    unjudged = EmbeddedQrels(judged.query_index, judged.corpus_index, relevance)
    curve = learning_curve(replace(problem, qrels={**problem.qrels, "train": unjudged}), method="closed-form")
    assert curve.points[-1].num_queries == len(problem["train"].query_ids) - 10


SIZES = np.array([50.0, 100.0, 200.0, 400.0, 800.0])


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
def test_a_power_law_is_continued_exactly(exponent):
    def law(n, a, b, c):
        return a - b * n**-c

    gains = law(SIZES, 0.3, 0.9, exponent)
    estimate = module._estimate(SIZES, gains, np.repeat(gains[None], 50, axis=0), room=1.0)
    assert estimate.gain == pytest.approx(law(1600, 0.3, 0.9, exponent) - gains[-1], abs=1e-9)
    assert estimate.exponent == pytest.approx(exponent)
    assert estimate.expected_before == pytest.approx(estimate.came, abs=1e-9)
    assert estimate.interval == pytest.approx((estimate.gain, estimate.gain), abs=1e-9)
    # A general solver finds the same on the same four sizes.
    found, _ = curve_fit(law, SIZES[1:], gains[1:], p0=(0.2, 0.5, 0.4), maxfev=20_000)
    assert law(1600, *found) - law(800, *found) == pytest.approx(estimate.gain, abs=1e-5)


def test_a_straight_line_over_doublings_goes_on_as_before():
    gains = 0.02 * np.log2(SIZES)
    estimate = module._estimate(SIZES, gains, gains[None], room=1.0)
    assert estimate.gain == pytest.approx(0.02) and estimate.exponent == 0


def test_noise_widens_the_interval_and_a_perfect_model_leaves_no_room():
    generator = np.random.default_rng(0)
    gains = 0.02 * np.log2(SIZES)
    narrow, wide = (gains + generator.normal(0, sd, (500, 5)) for sd in (0.001, 0.01))
    narrow_width, wide_width = (
        np.ptp(module._estimate(SIZES, gains, noisy, room=1.0).interval) for noisy in (narrow, wide)
    )
    assert wide_width > 3 * narrow_width
    estimate = module._estimate(SIZES, gains, narrow, room=0.005)
    assert estimate.gain == 0.005 and estimate.interval.high == 0.005


def test_a_missed_last_step_reaches_into_the_interval():
    gains = np.array([0.0, 0.01, 0.02, 0.03, 0.08])  # the last doubling brought .05, not the .01 of the others
    estimate = module._estimate(SIZES, gains, np.repeat(gains[None], 50, axis=0), room=1.0)
    assert estimate.expected_before == pytest.approx(0.01) and estimate.came == pytest.approx(0.05)
    assert estimate.interval.high == pytest.approx(estimate.gain + 0.04)


def test_a_falling_curve_is_not_continued_downwards():
    gains = -0.01 * np.log2(SIZES)
    assert module._estimate(SIZES, gains, gains[None], room=1.0).gain == 0
    assert module._estimate(SIZES[-2:], gains[-2:], gains[None, -2:], room=1.0) is None


def test_resampling_agrees_with_its_variance_by_hand():
    """One draw: the spread of the mean is that of the ordinary bootstrap, sd / sqrt(Q)."""
    gains = np.random.default_rng(1).normal(0.1, 0.2, (1, 1, 400))
    means = module._resampled_means(gains, seed=0)[:, 0]
    assert means.mean() == pytest.approx(gains.mean(), abs=0.002)
    assert means.std() == pytest.approx(gains.std() / 20, rel=0.06)
    # Draws that differ by a constant add the variance of a mean of two: (.1 ** 2) / 2.
    shifted = np.concatenate([gains - 0.1, gains + 0.1], axis=1)
    spread = module._resampled_means(shifted, seed=0)[:, 0].std()
    assert spread == pytest.approx(np.sqrt(gains.var() / 400 + 0.01 / 2), rel=0.06)
