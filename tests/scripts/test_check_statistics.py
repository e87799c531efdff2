"""The pairs of systems that the check of the statistics is made of, and its verdict."""

import check_statistics as script
import numpy as np
import pytest


def test_the_pairs_have_the_difference_they_claim():
    generator = np.random.default_rng(0)
    same = script.simulated(generator, 200, 1000, shift=0.0)
    shifted = script.simulated(generator, 200, 1000, shift=0.4)
    assert abs(same.mean()) < 0.002 < 0.02 < shifted.mean()
    assert 0.5 < (shifted == 0).mean() < 0.9, "on most queries nothing changes"
    differences = np.array([0.5, 0.0, -0.1, 0.0])
    assert script.drawn(differences)(generator, 500, 100).mean() == pytest.approx(0.1, abs=0.01)
    swapped = script.swapped(differences)(generator, 500, 100)
    assert swapped.mean() == pytest.approx(0, abs=0.01) and set(np.abs(swapped.ravel())) == {0.0, 0.1, 0.5}


def test_what_is_measured_is_measured():
    def always_better(generator, pairs, size):
        return np.full((pairs, size), 0.1)

    assert script.rejection(always_better, 5, 20, seed=0) == 1.0
    assert script.coverage(always_better, 0.1, 5, 20, seed=0) == 1.0
    assert script.coverage(always_better, 0.2, 5, 20, seed=0) == 0.0
    right = {"rejects": 0.05, "covers": 0.95, "covers_no_difference": 0.94}
    assert script.within(right)
    for wrong in ({"rejects": 0.07}, {"covers": 0.92}, {"covers_no_difference": 0.98}):
        assert not script.within({**right, **wrong})
