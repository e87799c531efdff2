"""How many queries a gain takes, against the exact power of Student's test and against what more queries really do."""

import math

import numpy as np
import pytest
from scipy import stats

from st_adapter.evaluation.power import queries_missing, queries_needed
from st_adapter.evaluation.statistics import Tolerated, gate, sign_flip_p_values


@pytest.mark.parametrize("effect_size", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.01])
def test_so_many_queries_find_it_four_times_in_five(effect_size, alpha):
    number = math.ceil(queries_needed(effect_size, alpha))
    power = [
        stats.nct.sf(stats.t.ppf(1 - alpha, n - 1), n - 1, effect_size * math.sqrt(n)) for n in (number - 1, number + 1)
    ]
    assert power[0] < 0.805 and power[1] > 0.795


def test_nothing_is_found_where_there_is_no_gain():
    assert queries_needed(0.0) == math.inf
    assert queries_missing(gate(np.tile([-0.2, 0.1], 50)), 0.05) == math.inf
    assert queries_missing(gate(np.full(3, 0.25)), 0.05) is None, "equal differences do not say how they vary"


def test_what_is_missing_is_what_really_lets_the_gate_pass():
    """One of ten candidates is better, by .15 standard deviations; as many queries as estimated make the gate pass."""
    generator = np.random.default_rng(0)
    gains = generator.normal(size=(10, 100))
    gains[0] += 0.15 - gains[0].mean()
    p_value = float(sign_flip_p_values(gains)[0])
    missing = queries_missing(gate(gains[0], p_value), 0.05)
    number = 100 + math.ceil(missing)
    assert number > queries_needed(0.15), "ten candidates are ten chances to be wrong"
    passed = 0
    for _ in range(100):
        more = generator.normal(size=(10, number))
        more[0] += 0.15
        passed += sign_flip_p_values(more)[0] <= 0.05
    # 80 of 100, standard deviation 4.
    assert 68 <= passed <= 92


def test_a_tolerated_loss_is_what_has_to_be_shown():
    differences = np.tile([-0.11, 0.09], 50)  # -.01, deviation .1
    within = gate(differences, tolerated=Tolerated(0.02, 0.16))
    assert queries_missing(within, 0.05) == pytest.approx(queries_needed(0.1) - 100, rel=0.1)
    assert queries_missing(gate(differences, tolerated=Tolerated(0.005, 0.7)), 0.05) == math.inf
