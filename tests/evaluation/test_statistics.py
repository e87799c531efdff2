"""Interval and test against SciPy, and their error rates on systems with no difference."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from st_adapter.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_intervals,
    gate,
    sign_flip_p_values,
    two_sided_p_values,
)


@pytest.mark.parametrize("num_queries", [10, 200])
def test_the_interval_is_scipys_percentile_interval_moved_out_for_few_queries(num_queries):
    differences = np.random.default_rng(1).normal(0.05, 0.3, num_queries)
    ours = bootstrap_interval(differences, seed=3)
    # Hesterberg 2015: the normal share beyond Student's quantile, widened by sqrt(n / (n - 1)).
    quantile = scipy.stats.t.ppf(0.975, num_queries - 1) * np.sqrt(num_queries / (num_queries - 1))
    theirs = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=2 * scipy.stats.norm.cdf(quantile) - 1,
        method="percentile",
        n_resamples=40_000,
        rng=7,
    ).confidence_interval
    near = 0.03 * (theirs.high - theirs.low)
    assert ours.low == pytest.approx(theirs.low, abs=near) and ours.high == pytest.approx(theirs.high, abs=near)
    assert bootstrap_interval(differences, seed=3) == ours, "seeded"
    assert bootstrap_interval(differences, level=0.5).low > ours.low


def test_many_intervals_are_those_of_each_alone():
    differences = np.random.default_rng(5).normal(size=(4, 30))
    differences[2] = 0.0
    together = bootstrap_intervals(differences, seed=1)
    for row, (low, high) in zip(differences, together, strict=True):
        assert bootstrap_interval(row, seed=1) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_the_two_sided_test_agrees_with_scipys(shift):
    differences = np.random.default_rng(2).normal(shift, 0.3, (2, 60))
    differences[:, ::3] = 0.0
    for row, p_value in zip(differences, two_sided_p_values(differences, seed=1), strict=True):
        theirs = scipy.stats.permutation_test(
            (row, np.zeros_like(row)),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=5,
        )
        assert p_value == pytest.approx(theirs.pvalue, abs=0.015)
        assert two_sided_p_values(row[None], seed=1)[0] == pytest.approx(p_value, abs=0.015)


def test_the_two_sided_test_counts_every_pattern_of_signs():
    # Of 16 patterns of four equal differences, two are as extreme as the observed one; ties count, at any scale.
    for scale in (1e-6, 0.1, 7.0):
        assert two_sided_p_values(np.full((1, 4), scale))[0] == pytest.approx(2 / 16, abs=0.01)
    assert two_sided_p_values(np.zeros((3, 5))).tolist() == [1.0, 1.0, 1.0]


def test_the_interval_covers_and_the_test_errs_as_they_say():
    """A small form of scripts/check_statistics.py: 1,000 systems, on most queries equal, the rest skewed."""
    generator = np.random.default_rng(8)
    differences = generator.exponential(0.4, (1000, 60)) * (generator.random((1000, 60)) < 0.4)
    low, high = bootstrap_intervals(differences).T
    assert 0.93 <= ((low <= 0.16) & (high >= 0.16)).mean() <= 0.97  # .4 of them times .4
    # 5 % of 1,000 is 50, standard deviation 6.9.
    signs = generator.choice([-1, 1], differences.shape)
    assert 30 <= (two_sided_p_values(differences * signs) <= 0.05).sum() <= 70


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_one_candidate_agrees_with_scipys_paired_permutation_test(shift):
    differences = np.random.default_rng(2).normal(shift, 0.3, 60)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=20_000,
        rng=5,
    )
    assert sign_flip_p_values(differences[None], seed=0)[0] == pytest.approx(theirs.pvalue, abs=0.015)


def test_choosing_the_best_of_many_useless_candidates_passes_as_rarely_as_one():
    generator = np.random.default_rng(4)
    passed = sum(sign_flip_p_values(generator.normal(size=(10, 40)), seed=n).min() <= 0.05 for n in range(200))
    # 5 % of 200 is 10, standard deviation 3.1; without the adjustment about 80 would pass.
    assert passed <= 20


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**31))
def test_p_values_are_probabilities_and_ordered_as_the_evidence(num_candidates, num_queries, seed):
    differences = np.random.default_rng(seed).normal(size=(num_candidates, num_queries))
    p_values = sign_flip_p_values(differences, seed)
    assert ((p_values > 0) & (p_values <= 1)).all()
    evidence = differences.sum(axis=1) / np.sqrt(np.square(differences).sum(axis=1))
    assert (np.diff(p_values[np.argsort(-evidence)]) >= 0).all()
    np.testing.assert_allclose(sign_flip_p_values(7.5 * differences, seed), p_values)


def test_the_gate_says_why():
    generator = np.random.default_rng(0)
    assert gate(generator.normal(0.1, 0.2, 300)).reason.startswith("Better than the base model: +.09")
    assert gate(np.tile([0.3, -0.2], 15), p_value=0.3).reason.startswith("Not surely better")
    assert gate(-np.ones(30)).reason.startswith("Worse than the base model: -1.000 nDCG@10 on 30")
    assert gate(np.tile([-0.3, 0.2], 15)).reason.startswith("Not better than the base model: -.050 nDCG@10 on 30")
    assert (
        gate(-np.ones(19)).reason
        == "Not better than the base model: -1.000 nDCG@10 on 19 held-out queries, p = 1.0000."
    )
    rejected = gate(np.full(30, 0.1), rejected=True)
    assert not rejected.adopted and rejected.reason.startswith("Clearly worse than the base model on a part")
    assert gate(np.zeros(10)).adopted is False, "no difference is no gain"


def test_bad_input():
    with pytest.raises(ValueError, match=r"There are no differences"):
        bootstrap_interval(np.zeros(0))
    with pytest.raises(ValueError, match=r"alpha is 0, but the level of a test lies between 0 and 1"):
        gate(np.ones(3), alpha=0)
