"""Comparisons by hand, against SciPy, and their shape on odd input."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from st_adapter.evaluation.comparison import compare
from st_adapter.evaluation.statistics import bootstrap_interval


def test_a_comparison_by_hand():
    base = {"ndcg@10": np.array([0.5, 0.5, 0.5, 1.0]), "map@100": np.array([0.0, 0.0, 0.0, 0.0])}
    adapted = {"map@100": np.array([0.1, 0.1, 0.1, 0.1]), "ndcg@10": np.array([0.6, 0.8, 0.5 + 1e-12, 0.9])}
    compared = compare(base, adapted)
    ndcg = compared["ndcg@10"]
    assert (ndcg.base, ndcg.adapted, ndcg.difference) == pytest.approx((0.625, 0.7, 0.075))  # (.1 + .3 + 0 - .1) / 4
    assert (ndcg.wins, ndcg.ties, ndcg.losses) == (2, 1, 1), "a difference of rounding is a tie"
    # Deviations from .075: .025, .225, -.075, -.175; squares sum to .0875, variance .0875 / 3, root .17078.
    assert ndcg.effect_size == pytest.approx(0.075 / 0.17078, abs=1e-4)
    # Of the 8 sign patterns of .1, .3, .1, the sums are +-.5, +-.3, +-.3, +-.1; 6 of 8 are as far from 0 as .3.
    assert ndcg.p_value == pytest.approx(6 / 8, abs=0.02)
    average = compared["map@100"]
    assert average.effect_size is None and average.interval == (pytest.approx(0.1), pytest.approx(0.1))
    assert average.p_value == pytest.approx(2 / 16, abs=0.02)  # all four the same sign
    assert list(compared) == ["ndcg@10", "map@100"]


def test_the_sentence():
    generator = np.random.default_rng(0)
    base = np.round(generator.random(819), 1)
    change = np.where(np.arange(819) < 214, 0.35, np.where(np.arange(819) < 310, -0.25, 0.0))
    compared = compare({"ndcg@10": base}, {"ndcg@10": base + change})["ndcg@10"]
    # (214 * .35 - 96 * .25) / 819 = .0621
    assert compared.sentence.startswith("better on 214 of 819 queries, worse on 96; +.062 nDCG@10, 95 % interval .04")
    worse = compare({"mrr@10": base + change}, {"mrr@10": base})["mrr@10"]
    assert worse.sentence.startswith("better on 96 of 819 queries, worse on 214; -.062 MRR@10, 95 % interval -.0")
    same = compare({"recall@10": base[:1]}, {"recall@10": base[:1]})["recall@10"]
    assert same.sentence == "better on 0 of 1 query, worse on 0; .000 recall@10", (
        "one query does not tell how it varies"
    )
    assert same.shown_interval is None and "p =" not in repr(same)
    twenty = compare({"recall@10": base[:20]}, {"recall@10": base[:20]})["recall@10"]
    assert twenty.shown_interval == twenty.interval and "p = 1.0000" in repr(twenty)
    assert same.effect_size is None and same.p_value == 1
    whole = compare({"mrr@1": np.zeros(1200)}, {"mrr@1": np.ones(1200)})["mrr@1"]
    assert whole.sentence == (
        "better on 1,200 of 1,200 queries, worse on 0; +1.000 MRR@1, 95 % interval 1.000 to 1.000"
    )


def test_each_metric_is_compared_as_if_alone():
    generator = np.random.default_rng(3)
    base = {name: generator.random(50) for name in "abc"}
    adapted = {name: values + generator.normal(0.1, 0.3, 50) for name, values in base.items()}
    together = compare(base, adapted, seed=5)
    for name in "abc":
        alone = compare({name: base[name]}, {name: adapted[name]}, seed=5)[name]
        assert alone.interval == pytest.approx(together[name].interval)
        assert replace(alone, interval=together[name].interval) == together[name]
        assert together[name].interval == pytest.approx(bootstrap_interval(adapted[name] - base[name], seed=5))
        t_test = scipy.stats.ttest_rel(adapted[name], base[name])
        assert together[name].effect_size == pytest.approx(t_test.statistic / np.sqrt(50))
        assert together[name].p_value == pytest.approx(t_test.pvalue, abs=0.02)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    st.integers(0, 3),
)
def test_swapping_the_systems_turns_every_sign(values, seed):
    base, adapted = np.array(values).T
    there = compare({"m": base}, {"m": adapted}, seed)["m"]
    back = compare({"m": adapted}, {"m": base}, seed)["m"]
    assert there.wins + there.ties + there.losses == there.num_queries == len(values)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.difference == pytest.approx(-back.difference, abs=1e-9)
    assert there.p_value == back.p_value and 0 < there.p_value <= 1
    assert there.interval == pytest.approx((-back.interval.high, -back.interval.low), abs=1e-9)
    assert there.interval.low - 1e-9 <= there.difference <= there.interval.high + 1e-9
    assert (there.effect_size is None) == (back.effect_size is None)


def test_bad_input():
    with pytest.raises(ValueError, match=r"has the metrics \['a'\], the adapted model \['b'\]"):
        compare({"a": np.zeros(2)}, {"b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"has the metrics \[\]"):
        compare({}, {})
    with pytest.raises(ValueError, match=r"shapes \[\(2,\), \(3,\)\]. Pass one value per query"):
        compare({"a": np.zeros(2)}, {"a": np.zeros(3)})
    with pytest.raises(ValueError, match=r"shapes \[\(0,\)\]"):
        compare({"a": np.zeros(0)}, {"a": np.zeros(0)})
    with pytest.raises(ValueError, match=r"shapes \[\(1, 2\)\]"):
        compare({"a": np.zeros((1, 2))}, {"a": np.zeros((1, 2))})
