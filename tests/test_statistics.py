"""Interval and test against SciPy, and their error rates on systems with no difference."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from st_adapter.statistics import bootstrap_interval, gate, sign_flip_p_values


def test_the_interval_agrees_with_scipy():
    differences = np.random.default_rng(1).normal(0.05, 0.3, 200)
    ours = bootstrap_interval(differences, seed=3)
    theirs = scipy.stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=10_000, rng=7)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.003)
    assert bootstrap_interval(differences, seed=3) == ours, "seeded"


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
    assert gate(generator.normal(0.1, 0.2, 300)).reason.startswith("Better than the base model: +0.09")
    assert gate(np.tile([0.3, -0.2], 15), p_value=0.3).reason.startswith("Not surely better")
    assert gate(-np.ones(30)).reason.startswith("Not better than the base model: -1.000 nDCG@10 on 30")
    rejected = gate(np.full(30, 0.1), rejected=True)
    assert not rejected.adopted and rejected.reason.startswith("Clearly worse than the base model on a part")
    assert gate(np.zeros(10)).adopted is False, "no difference is no gain"


def test_bad_input():
    with pytest.raises(ValueError, match=r"There are no differences"):
        bootstrap_interval(np.zeros(0))
    with pytest.raises(ValueError, match=r"alpha is 0, but the level of a test lies between 0 and 1"):
        gate(np.ones(3), alpha=0)
