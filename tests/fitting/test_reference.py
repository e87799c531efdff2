"""A fit that is compared with something else than the queries it starts from, and a loss that may be tolerated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import rotated_problem
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.statistics import Tolerated, gate, sign_flip_p_values
from st_adapter.fitting.auto import fit
from st_adapter.fitting.candidates import MapName, ShrunkMap
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.portfolio import fit_candidate
from st_adapter.fitting.reference import Reference, found_by, learned_from
from st_adapter.fitting.selection import Scoreboard
from st_adapter.fitting.verdict import Against

PROBLEM = rotated_problem()
LABELLED = labelled_split(PROBLEM).query_ids
UNCHANGED = (ShrunkMap(MapName("bridge", "as it is"), 1.0),)
OTHER = (ShrunkMap(MapName("other", "one"), 1.0),)


def everywhere(value, margin=0.0):
    return Reference("the status quo", dict.fromkeys(LABELLED, value), margin)


def test_the_reference_is_measured_as_candidates_are():
    found = found_by(PROBLEM)
    labelled = evaluate(labelled_split(PROBLEM), ks=(10,))
    np.testing.assert_allclose([found[one] for one in labelled.query_ids], labelled.base["ndcg@10"], atol=1e-6)


def test_against_itself_a_fit_finds_what_it_finds_without_a_reference():
    alone = fit(PROBLEM, method="closed-form")
    compared = fit(PROBLEM, method="closed-form", reference=Reference("the status quo", found_by(PROBLEM)))
    assert alone.adopted
    assert compared.chosen == alone.chosen
    torch.testing.assert_close(compared.adapter.delta, alone.adapter.delta)
    assert compared.verdict.gate.gain == pytest.approx(alone.verdict.gate.gain, abs=1e-6)
    assert compared.verdict.gate.reason.startswith("Better than the status quo: +")
    assert "bridge, as it is, share 1" in {each.name for each in compared.verdict.candidates}


def test_what_is_better_than_its_start_but_not_than_the_reference_is_refused():
    result = fit(PROBLEM, method="closed-form", reference=everywhere(1.0))
    assert not result.adopted
    assert result.verdict.gate.reason.startswith(
        ("Not better than the status quo", "Worse than the status quo", "Clearly worse than the status quo")
    )


def test_the_bridge_itself_can_be_handed_over():
    kept = fit_candidate(UNCHANGED, [(labelled_split(PROBLEM), [0])])[0]
    assert torch.equal(kept.matrix, torch.eye(16))


def test_queries_are_learned_from_in_both_forms():
    split = labelled_split(PROBLEM).subset(torch.arange(len(LABELLED)) % 5 == 0)
    own = replace(labelled_split(PROBLEM), query_embeddings=-labelled_split(PROBLEM).query_embeddings)
    copied = replace(split, own_copies=OwnCopies(torch.tensor([1]), torch.tensor([left_out_of(split, 1)])))
    both = learned_from(copied, Reference("the status quo", {}, queries=own))
    assert both.query_ids == 2 * split.query_ids
    torch.testing.assert_close(both.query_embeddings, torch.cat([split.query_embeddings, -split.query_embeddings]))
    first = torch.arange(len(both.query_ids)) < len(split.query_ids)
    for half in (both.subset(first), both.subset(~first)):
        assert all(torch.equal(*pair) for pair in zip(half.qrels, split.qrels, strict=True))
        assert all(torch.equal(*pair) for pair in zip(half.left_out, copied.left_out, strict=True))


def left_out_of(split, row):
    """A document that is not relevant to a query, so that it may be its own copy."""
    relevant = split.qrels.corpus_index[split.qrels.query_index == row].tolist()
    return next(document for document in range(len(split.corpus)) if document not in relevant)


def test_without_queries_of_its_own_a_reference_adds_nothing():
    split = labelled_split(PROBLEM)
    assert learned_from(split, None) is split and learned_from(split, everywhere(0.0)) is split


def test_what_a_bridge_blurs_is_learned_from_the_queries_of_the_reference():
    """Queries to come are mapped better than those that the labels are for, as with few texts to fit a bridge on."""
    generator = torch.Generator().manual_seed(1)
    clear = rotated_problem(noise=0.15)
    noise = torch.randn(clear.query_embeddings.shape, generator=generator) / 2
    noise[clear.qrels["test"].query_index] = 0
    blurred = replace(clear, query_embeddings=torch.nn.functional.normalize(clear.query_embeddings + noise))
    found = []
    for queries in (None, labelled_split(clear)):
        result = fit(blurred, method="linear", reference=Reference("the status quo", found_by(blurred), 0.0, queries))
        found.append(evaluate(clear["test"], result.adapter or result.refused).adapted_means["ndcg@10"])
    assert found[1] > found[0] + 0.02


def test_a_reference_without_some_queries_is_refused():
    short = Reference("the run file", dict.fromkeys(LABELLED[1:], 0.5))
    with pytest.raises(
        ValueError, match=r"The run file has nothing for 1 of the 192 labelled queries, the first: \['q0'\]"
    ):
        fit(PROBLEM, method="closed-form", reference=short)


# One query in four loses .04 and the others nothing: on average .01 worse.
LOSSES = np.array([-0.04, 0.0, 0.0, 0.0] * 10)


def test_a_loss_within_the_margin_passes_by_the_same_test_as_a_gain():
    # Shifted by .03: ten at -.01, thirty at +.03. Signs at random reach their sum, .8, only if almost all are plus.
    shifted = LOSSES + 0.03
    p_value = float(sign_flip_p_values(shifted[None])[0])
    assert p_value == pytest.approx(1 / 5001, abs=2e-3)
    passed = gate(LOSSES, tolerated=Tolerated(0.03, p_value))
    assert passed.adopted
    assert passed.reason.startswith(
        "Not worse than the base model by more than .030: -.010 nDCG@10 on 40 held-out queries"
    )
    assert passed.reason.endswith(f"p = {p_value:.4f}.")
    assert not gate(LOSSES).adopted


def test_a_loss_at_the_margin_does_not_pass():
    # Shifted by .01 the mean is 0, so that half of all signs do as well.
    p_value = float(sign_flip_p_values((LOSSES + 0.01)[None])[0])
    assert p_value > 0.3
    refused = gate(LOSSES, tolerated=Tolerated(0.01, p_value))
    assert not refused.adopted
    assert refused.reason.startswith("Not surely within .010 of the base model: -.010")


def test_what_is_better_is_called_better_whatever_is_tolerated():
    passed = gate(np.full(20, 0.1), tolerated=Tolerated(0.01, 0.0002))
    assert passed.reason.startswith("Better than the base model: +.100")


def test_no_margin_saves_what_is_rejected():
    assert not gate(LOSSES, tolerated=Tolerated(0.03, 0.0002), rejected=True).adopted


def board(gains, against):
    """Two candidates, the unchanged one and another, on 40 seen and 40 unseen queries."""
    made = Scoreboard([UNCHANGED, OTHER], np.zeros(80, dtype=bool), 0.5, against)
    rows, unseen = torch.arange(80), (torch.arange(80) >= 40).long()
    made.add(rows, unseen, torch.full((80,), 0.5), {UNCHANGED: gains[0], OTHER: gains[1]})
    return made.verdict(0.05, 0)


def test_a_part_may_lose_as_much_as_the_margin():
    wobble = torch.tensor([-0.001, 0.001]).repeat(40)
    gains = torch.full((80,), -0.02) + wobble, torch.where(torch.arange(80) < 40, 0.031, -0.005) + wobble
    verdict = board(gains, Against("the status quo", 0.01, UNCHANGED))
    assert verdict.gate.adopted
    assert verdict.chosen == OTHER
    assert verdict.gate.reason.startswith("Better than the status quo: +.013 nDCG@10 on 80")
    assert not board(gains, Against("the status quo", 0.0, UNCHANGED)).gate.adopted


def test_a_candidate_clearly_worse_than_the_bridge_on_a_part_is_out_however_good_it_is():
    wobble = torch.tensor([-0.001, 0.001]).repeat(40)
    gains = torch.full((80,), 0.05) + wobble, torch.where(torch.arange(80) < 40, 0.3, 0.02) - wobble
    verdict = board(gains, Against("the status quo", 0.0, UNCHANGED))
    assert verdict.chosen == UNCHANGED
    assert [each.rejected for each in verdict.candidates] == [False, True]


def test_where_nothing_passes_the_best_above_the_bridge_is_still_told():
    wobble = torch.tensor([-0.001, 0.001]).repeat(40)
    gains = torch.full((80,), -0.2) + wobble, torch.where(torch.arange(80) < 40, 0.1, -0.15) - wobble
    verdict = board(gains, Against("the status quo", 0.0, UNCHANGED))
    assert verdict.chosen == OTHER
    assert not verdict.gate.adopted
    assert verdict.gate.reason.startswith("Clearly worse than the status quo on a part of the queries: -.025")
