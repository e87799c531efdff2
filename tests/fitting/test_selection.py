"""Fast measuring against the full evaluation; the scoreboard against hand-worked numbers."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import corpus_of, dataset_of, random_split
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import measure as measuring
from st_adapter.fitting.auto import fit
from st_adapter.fitting.candidates import MapName, ShrunkMap
from st_adapter.fitting.maps import LocalUnits, QueryMap, as_adapter, averaged
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.selection import Scoreboard


def random_map(generator, size, num_units):
    """A map of six dimensions near the identity, with corrections."""
    draw = partial(torch.randn, generator=generator)
    units = LocalUnits(draw(num_units, 6), draw(num_units).abs(), draw(6, num_units)) if num_units else None
    return QueryMap(torch.eye(6) + size * draw(6, 6), units)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([40, 100, 2**23]))
def test_measuring_equals_the_full_evaluation(seed, block_scores):
    split = random_split(seed, 7, 40, 6, repeated=False)
    generator = torch.Generator().manual_seed(seed)
    names = [MapName("a", "1"), MapName("b", "1")]
    maps = {name: random_map(generator, 0.5, num_units=3 * number) for number, name in enumerate(names)}
    candidates = [
        (ShrunkMap(names[0], 1.0),),
        (ShrunkMap(names[1], 0.25),),
        (ShrunkMap(names[0], 0.5), ShrunkMap(names[1], 1.0)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_BLOCK_SCORES", block_scores)
        measure = Measure(split)
        gains = measure.gains([*candidates, (ShrunkMap(MapName("not", "fitted"), 1.0),)], maps)
    assert list(gains) == candidates
    for candidate in candidates:
        together = averaged([maps[shrunk.name] for shrunk in candidate], [shrunk.share for shrunk in candidate])
        result = evaluate(split, as_adapter(together, normalized=True), ks=[10])
        np.testing.assert_allclose(measure.base.numpy(), result.base["ndcg@10"], atol=1e-6)
        expected = result.adapted["ndcg@10"] - result.base["ndcg@10"]
        np.testing.assert_allclose(gains[candidate].numpy(), expected, atol=1e-6)


def board_of(gains_seen, gains_unseen, unseen_weight=0.5, families=None, in_dev=None):
    """A scoreboard that was shown the given gains (C, Q) on seen queries and on further unseen ones."""
    gains_seen, gains_unseen = np.array(gains_seen, float), np.array(gains_unseen, float)
    families = families or [f"family {number}" for number in range(len(gains_seen))]
    candidates = [(ShrunkMap(MapName(family, str(number)), 1.0),) for number, family in enumerate(families)]
    num_seen, num_unseen = gains_seen.shape[1], gains_unseen.shape[1]
    in_dev = np.zeros(num_seen + num_unseen, dtype=bool) if in_dev is None else np.array(in_dev)
    board = Scoreboard(candidates, in_dev, unseen_weight)
    for first, gains, unseen in ((0, gains_seen, 0), (num_seen, gains_unseen, 1)):
        rows = torch.arange(first, first + gains.shape[1])
        values = {c: torch.tensor(row) for c, row in zip(candidates, gains, strict=True)}
        board.add(rows, torch.full_like(rows, unseen), torch.full((len(rows),), 0.5), values)
    return board


def test_the_two_parts_are_weighted_and_reported_apart():
    # Seen gain 0.3 on 10 queries, unseen gain 0.1 on 30; weight .25 for the unseen: .75 * .3 + .25 * .1 = .25.
    verdict = board_of([[0.3] * 10], [[0.1] * 30], unseen_weight=0.25).verdict(0.05, 0)
    best = verdict.candidates[0]
    assert best.gain == pytest.approx(0.25) and best.gain_seen == pytest.approx(0.3)
    assert best.gain_unseen == pytest.approx(0.1) and verdict.gate.gain == pytest.approx(0.25)
    assert (verdict.num_seen, verdict.num_unseen, verdict.unseen_weight) == (10, 30, 0.25)
    assert verdict.base == pytest.approx(0.5) and verdict.gate.adopted


def test_a_part_of_few_queries_gets_its_natural_share():
    # 4 unseen queries are too few to speak for half of the weight: plain mean over all 40.
    verdict = board_of([[0.2] * 36], [[-1.0] * 4]).verdict(0.05, 0)
    assert verdict.candidates[0].gain == pytest.approx((36 * 0.2 - 4) / 40)


def test_a_candidate_that_loses_on_one_part_is_out_however_much_it_gains_on_the_other():
    spread = np.tile([0.9, 1.1], 10)
    verdict = board_of([spread, 0.01 * spread], [-0.1 * spread, 0.01 * spread]).verdict(0.05, 0)
    assert verdict.candidates[0].name == "family 1, 1, share 1"
    assert [candidate.rejected for candidate in verdict.candidates] == [False, True]
    alone = board_of([spread], [-0.1 * spread]).verdict(0.05, 0)
    assert not alone.gate.adopted and "Clearly worse" in alone.gate.reason


@pytest.mark.parametrize(("unseen_weight", "is_out"), [(0.01, False), (0.049, False), (0.05, True), (1.0, True)])
def test_a_part_that_hardly_any_query_to_come_is_of_puts_none_out(unseen_weight, is_out):
    """A data set all of whose documents were asked for: what a fold does not know, the last fit does."""
    spread = np.tile([0.9, 1.1], 10)
    (candidate,) = board_of([spread], [-0.1 * spread], unseen_weight).verdict(0.05, 0).candidates
    assert candidate.rejected is is_out
    assert candidate.gain == pytest.approx(1 - 1.1 * unseen_weight)
    (candidate,) = board_of([-0.1 * spread], [spread], 1 - unseen_weight).verdict(0.05, 0).candidates
    assert candidate.rejected is is_out, "nor a part of known documents where nobody is expected to ask for these"


def test_a_candidate_that_loses_on_dev_alone_is_out_whatever_the_other_queries_say():
    spread = np.tile([0.9, 1.1], 20)
    lost_on_dev = np.concatenate([spread[:30], -0.2 * spread[30:]])
    in_dev = [False] * 30 + [True] * 10 + [False] * 40
    verdict = board_of([lost_on_dev, 0.01 * spread], [spread, 0.01 * spread], in_dev=in_dev).verdict(0.05, 0)
    assert [(candidate.name[:8], candidate.rejected) for candidate in verdict.candidates] == [
        ("family 1", False),
        ("family 0", True),
    ]
    elsewhere = board_of([lost_on_dev], [spread], in_dev=[True] * 30 + [False] * 50).verdict(0.05, 0)
    assert elsewhere.gate.adopted


def test_of_candidates_that_gain_alike_the_one_is_chosen_that_does_best_on_new_documents():
    spread = np.tile([0.9, 1.1], 20)
    noise = np.tile([0.5, -0.5, 0.5, -0.5], 10)
    # The second gains .01 less in all, with a standard error of the difference of some .04, and more where it counts.
    bold, careful = [0.30 * spread + 0.2 * noise, 0.10 * spread], [0.20 * spread, 0.18 * spread]
    far_behind = [0.02 * spread, 0.30 * spread]
    verdict = board_of(*map(list, zip(bold, careful, far_behind, strict=True))).verdict(0.05, 0)
    assert [candidate.name[:8] for candidate in verdict.candidates] == ["family 1", "family 0", "family 2"]
    assert verdict.gate.gain == pytest.approx(0.19)


def test_a_part_without_queries_has_no_gain_of_its_own():
    board = Scoreboard([(ShrunkMap(MapName("f", "1"), 1.0),)], np.zeros(20, dtype=bool), 0.3)
    rows = torch.arange(20)
    board.add(rows, torch.ones(20, dtype=torch.int64), torch.zeros(20), {board.candidates[0]: torch.full((20,), 0.1)})
    best = board.verdict(0.05, 0).candidates[0]
    assert best.gain_seen is None and best.gain == pytest.approx(0.1)


def test_a_query_measured_twice_counts_once_by_its_mean():
    candidate = (ShrunkMap(MapName("f", "1"), 1.0),)
    board = Scoreboard([candidate], np.zeros(10, dtype=bool), 0.5)
    rows, unseen = torch.arange(10), torch.ones(10, dtype=torch.int64)
    board.add(rows, unseen, torch.zeros(10), {candidate: torch.full((10,), 0.1)})
    board.add(rows, unseen, torch.zeros(10), {candidate: torch.full((10,), 0.3)})
    verdict = board.verdict(0.05, 0)
    assert verdict.gate.gain == pytest.approx(0.2) and verdict.num_unseen == 10


def test_families_are_pruned_and_the_best_of_each_averaged():
    gains = [[0.1] * 20, [0.3] * 20, [0.2] * 20, [-0.1] * 20, [0.05] * 20]
    board = board_of(gains, gains, families=["a", "a", "b", "c", "d"])
    assert board.best_families(2, among=["d", "c", "b"]) == ["d", "b"]
    assert [[str(shrunk.name) for shrunk in c] for c in board.averages_of_the_best()] == [
        ["a, 1", "b, 2"],
        ["a, 1", "b, 2", "d, 4"],
    ]
    board.drop_families(["a"])
    assert [candidate[0].name.family for candidate in board.candidates] == ["b", "c", "d"]
    assert board.verdict(0.05, 0).candidates[0].name == "b, 2, share 1"


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([50, 300, 2**23]), st.booleans())
def test_counting_among_the_best_is_counting_over_all(seed, depth, block_scores, tied):
    split = random_split(seed, 9, 150, 6, repeated=False)
    generator = torch.Generator().manual_seed(seed)
    if tied:  # coarse numbers, so that many documents score the same
        split = replace(split, corpus=corpus_of((3 * split.corpus.embeddings).round(), "dot"))
    copies = torch.randint(0, 150, (9,), generator=generator)
    split = replace(split, own_copies=OwnCopies(torch.arange(9), copies))
    names = [MapName("a", "1"), MapName("b", "1"), MapName("c", "1")]
    maps = {name: random_map(generator, 0.8, num_units=3 * number) for number, name in enumerate(names)}
    candidates = [(ShrunkMap(name, share),) for name in names for share in (0.25, 0.5, 1.0)]
    candidates += [(ShrunkMap(names[0], 1.0), ShrunkMap(names[1], 0.5)), tuple(ShrunkMap(name, 0.75) for name in names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_BLOCK_SCORES", block_scores)
        patch.setattr(measuring, "_GROUP", 7)
        patch.setattr(measuring, "_POOL_DEPTH", depth)
        slow = Measure(split).gains(candidates, maps)
        patch.setattr(measuring, "_POOL_FROM", 1)
        fast = Measure(split).gains(candidates, maps)
    for candidate in candidates:
        assert torch.equal(fast[candidate], slow[candidate])
        together = averaged([maps[shrunk.name] for shrunk in candidate], [shrunk.share for shrunk in candidate])
        if not tied:
            result = evaluate(split, as_adapter(together, normalized=True), ks=[10])
            expected = result.adapted["ndcg@10"] - result.base["ndcg@10"]
            np.testing.assert_allclose(fast[candidate].numpy(), expected, atol=1e-6)


def test_the_same_candidate_is_chosen_in_a_large_corpus(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    documents = torch.nn.functional.normalize(torch.randn(600, 16, generator=generator))
    relevant = torch.randint(0, 600, (90,), generator=generator)
    noise = torch.zeros(90, 16)
    noise[:, :4] = 0.6 * torch.randn(90, 4, generator=generator)
    pairs = [(query, document, 1.0) for query, document in enumerate(relevant.tolist())]
    embedded = dataset_of(documents[relevant] + noise, documents, {"train": pairs[:70], "dev": pairs[70:]})
    monkeypatch.setattr(measuring, "_GROUP", 8)
    outcomes = []
    for pool_from in (10**9, 1):
        monkeypatch.setattr(measuring, "_POOL_FROM", pool_from)
        outcomes.append(fit(embedded, method="closed-form", seed=1))
    assert outcomes[0].adopted
    # As text, because a part without queries has no gain, and NaN is not NaN.
    assert repr(outcomes[0].verdict.candidates) == repr(outcomes[1].verdict.candidates)
    assert torch.equal(*(outcome.adapter.project(torch.eye(16)) for outcome in outcomes))
