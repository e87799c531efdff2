"""The second gate: what is fitted now takes the place of the adapter in use only if it beats that as well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import rotated_problem
from st_adapter.adapter import QueryAdapter
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.statistics import gate, sign_flip_p_values
from st_adapter.fitting.auto import fit
from st_adapter.fitting.candidates import MapName, ShrunkMap
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.reference import DeployedAdapter
from st_adapter.fitting.selection import Scoreboard

PROBLEM = rotated_problem()
LABELLED = labelled_split(PROBLEM)
BEST = fit(PROBLEM, method="closed-form").adapter
ONE, OTHER = ((ShrunkMap(MapName(name, "one"), 1.0),) for name in ("one", "other"))


def test_what_the_deployed_adapter_gains_is_what_an_evaluation_says():
    evaluated = evaluate(LABELLED, BEST, ks=(10,))
    base = torch.from_numpy(evaluated.base["ndcg@10"]).float()
    known = frozenset(LABELLED.query_ids[:3])
    gains = DeployedAdapter(BEST, known).gains(LABELLED, base)
    assert gains[:3].isnan().all(), "it was fitted on these"
    expected = evaluated.adapted["ndcg@10"] - evaluated.base["ndcg@10"]
    np.testing.assert_allclose(gains[3:], expected[3:], atol=1e-6)


def test_a_deployed_adapter_that_does_nothing_stands_in_nobodys_way():
    alone = fit(PROBLEM, method="closed-form")
    idle = fit(PROBLEM, method="closed-form", deployed=DeployedAdapter(QueryAdapter(16)))
    assert alone.adopted and idle.adopted
    torch.testing.assert_close(idle.adapter.delta, alone.adapter.delta)
    against = idle.verdict.against_deployed
    assert against.gate.gain == pytest.approx(idle.verdict.gate.gain, abs=1e-6)
    assert against.gate.reason.startswith("Better than the deployed adapter: +")
    assert against.deployed.gain == 0.0 and not against.deployed.adopted
    assert against.deployed.reason.startswith("Not better than the base model: .000")


def test_what_is_better_than_the_base_model_alone_is_not_handed_over():
    found = fit(PROBLEM, method="closed-form", deployed=DeployedAdapter(BEST))
    against = found.verdict.against_deployed
    assert found.verdict.gate.adopted and not against.gate.adopted and found.adapter is None
    assert "the deployed adapter" in against.gate.reason
    assert against.deployed.reason.startswith("Better than the base model: +")


def test_only_queries_that_the_deployed_adapter_was_not_fitted_on_count():
    known = frozenset(LABELLED.query_ids[::2])
    found = fit(
        PROBLEM, method="closed-form", deployed=DeployedAdapter(QueryAdapter.from_matrix(-torch.eye(16)), known)
    )
    against = found.verdict.against_deployed
    assert found.adopted and against.gate.adopted and not against.deployed.adopted
    assert f"on {len(LABELLED.query_ids) - len(known)} held-out queries" in against.gate.reason
    assert f"on {len(LABELLED.query_ids)} held-out queries" in found.verdict.gate.reason


def board_of(gains, deployed):
    """Two candidates on 40 queries, all of documents seen before."""
    board = Scoreboard([ONE, OTHER], np.zeros(40, dtype=bool), 0.5, with_deployed=True)
    rows, seen = torch.arange(40), torch.zeros(40, dtype=torch.int64)
    board.add(rows, seen, torch.full((40,), 0.5), dict(zip((ONE, OTHER), gains, strict=True)), deployed)
    return board


def test_the_second_gate_is_the_paired_test_of_the_differences():
    generator = np.random.default_rng(0)
    gains = torch.from_numpy(generator.normal((0.1, 0.06), 0.1, (40, 2)).T)
    deployed = torch.from_numpy(generator.normal(0.05, 0.1, 40))
    deployed[:10] = torch.nan
    verdict = board_of(gains, deployed).verdict(0.05, seed=0)
    assert verdict.chosen == ONE
    ahead = (gains - deployed)[:, 10:].numpy()
    expected = gate(ahead[0], float(sign_flip_p_values(ahead)[0]), against="the deployed adapter")
    assert verdict.against_deployed.gate.gain == pytest.approx(ahead[0].mean())
    assert verdict.against_deployed.gate.p_value == pytest.approx(expected.p_value)
    assert verdict.against_deployed.gate.reason == expected.reason
    assert verdict.against_deployed.deployed.gain == pytest.approx(float(deployed[10:].mean()))


def test_of_two_candidates_the_one_that_loses_nowhere_to_the_deployed_adapter_is_chosen():
    # The first gains more on average, and loses to it on what dev asks for.
    gains = torch.stack([torch.full((40,), 0.4), torch.full((40,), 0.3)])
    gains[0, :10] = 0.05
    board = Scoreboard([ONE, OTHER], np.arange(40) < 10, 0.5, with_deployed=True)
    rows, seen = torch.arange(40), torch.zeros(40, dtype=torch.int64)
    deployed = torch.full((40,), 0.2)
    board.add(rows, seen, torch.full((40,), 0.5), {ONE: gains[0], OTHER: gains[1]}, deployed)
    verdict = board.verdict(0.05, seed=0)
    assert verdict.chosen == OTHER and verdict.passed


def test_splits_that_are_not_labelled_take_no_part():
    changed = replace(PROBLEM, qrels={**PROBLEM.qrels, "test": PROBLEM.qrels["dev"]})
    found = [fit(each, method="closed-form", deployed=DeployedAdapter(BEST)) for each in (PROBLEM, changed)]
    assert found[0].verdict.against_deployed == found[1].verdict.against_deployed
