"""Batches against a slow construction from the judgements."""

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import split_of
from st_adapter.embeddings.corpus import first_of_equal_rows
from st_adapter.embeddings.embedded import EmbeddedQrels
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import negatives as negatives_module
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.candidates import MapName, ShrunkMap
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.maps import QueryMap
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.pairs import labelled_pairs
from st_adapter.fitting.sampling import BatchSampler


def make_split(judgements, num_queries=5, num_documents=9, documents=None, similarity="cosine"):
    """A split whose embeddings tell the row they came from; the last two documents are the same."""
    if documents is None:
        documents = torch.arange(1.0, num_documents + 1)
        documents[-1] = documents[-2]
        documents = torch.stack([documents.cos(), documents.sin()], dim=1)
    angles = torch.arange(1.0, num_queries + 1)
    queries = torch.stack([angles.cos(), angles.sin()], dim=1)
    return split_of(queries, documents, dict(sorted(judgements.items())), name="train", similarity=similarity)


def row_of(vector, matrix):
    return int((matrix - vector).abs().sum(dim=1).argmin())


judgements = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 8)), st.sampled_from([0.0, 1.0, 3.0]), min_size=1
).filter(lambda qrels: any(grade > 0 for grade in qrels.values()))


def arguments(**changes):
    return AdapterTrainingArguments(**{"per_device_train_batch_size": 4, **changes})


def drawn_from(negatives, num_negatives):
    return {"negatives": negatives, **({"num_negatives": num_negatives} if negatives == "corpus" else {})}


@given(judgements, st.sampled_from(["corpus", "given"]), st.integers(1, 12))
def test_a_batch_holds_its_pairs_and_never_a_positive_as_a_negative(qrels, negatives, num_negatives):
    split = make_split(qrels)
    documents, queries = split.corpus.embeddings, split.query_embeddings
    relevant = {pair for pair, grade in qrels.items() if grade > 0}
    trained = {query for query, _ in relevant}
    # The last two documents are the same vector, so each counts as the other.
    same = {8: 7}
    positives = {(query, same.get(document, document)) for query, document in relevant}
    refused = {(q, same.get(d, d)) for (q, d), grade in qrels.items() if grade == 0 and q in trained}
    if negatives == "given" and not any(grade == 0 and pair[0] in trained for pair, grade in qrels.items()):
        with pytest.raises(ValueError, match=r"no document judged not relevant"):
            BatchSampler(split, arguments(negatives=negatives))
        return
    sampler = BatchSampler(split, arguments(**drawn_from(negatives, num_negatives)))
    for _ in range(3):
        batch = sampler.next()
        pairs = {
            (row_of(anchor, queries), row_of(positive, documents))
            for anchor, positive in zip(batch.anchors, batch.positives, strict=True)
        }
        assert pairs <= positives
        candidates = [row_of(candidate, documents) for candidate in batch.candidates]
        for anchor, excluded in zip(batch.anchors, batch.excluded, strict=True):
            query = row_of(anchor, queries)
            kept = [c for c, out in zip(candidates, excluded.tolist(), strict=True) if not out]
            assert not {(query, c) for c in kept} & positives
            labelled = {document for _, document in positives}
            if negatives == "given":
                assert set(kept) <= labelled | {document for _, document in refused}
            assert len(kept) == len(set(kept)), "each document counts once"


@given(judgements)
def test_with_room_for_all_the_pool_is_the_whole_corpus_once_and_weighted(qrels):
    split = make_split(qrels)
    sampler = BatchSampler(split, arguments(negatives="corpus", unlabelled_weight=0.25, num_negatives=100))
    batch = sampler.next()
    stands_for = {
        row_of(c, split.corpus.embeddings): p for c, p in zip(batch.candidates, batch.log_priors, strict=True)
    }
    labelled = {min(document, 7) for (_, document), grade in qrels.items() if grade > 0}
    expected = {document: 0.0 if document in labelled else math.log(0.25) for document in range(8)}
    assert {document: float(prior) for document, prior in stands_for.items()} == pytest.approx(expected)


@given(judgements)
def test_every_query_weighs_the_same_and_its_positives_by_relevance(qrels):
    pairs = labelled_pairs(make_split(qrels))
    totals = torch.zeros(len(pairs.queries)).index_add_(0, pairs.rows, pairs.weights)
    torch.testing.assert_close(totals, totals[:1].expand_as(totals))
    assert pairs.weights.mean().item() == pytest.approx(1)


def test_an_epoch_sees_every_pair_once():
    split = make_split({(q, d): 1.0 for q in range(4) for d in range(q, q + 2)})
    sampler = BatchSampler(split, arguments(per_device_train_batch_size=4))
    seen = [tuple(a.tolist() + p.tolist()) for _ in range(2) for a, p in zip(*sampler.next()[:4:2], strict=True)]
    assert sampler.steps_per_epoch == 2 and len(set(seen)) == 8


def test_a_sampler_goes_on_where_its_state_was_taken():
    split = make_split({(q, d): 1.0 for q in range(5) for d in range(q, q + 3)})
    first, second = (BatchSampler(split, arguments(num_negatives=2)) for _ in range(2))
    first.next()
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first.next()[:-1], second.next()[:-1], strict=True))


@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.5]), min_size=3, max_size=3), min_size=1, max_size=30))
def test_first_of_equal_rows_equals_a_slow_search(rows):
    assert first_of_equal_rows(torch.tensor(rows)).tolist() == [rows.index(row) for row in rows]


def test_nothing_relevant_is_an_error():
    with pytest.raises(ValueError, match=r"The training split 'train' has no relevant pair"):
        BatchSampler(make_split({(0, 0): 0.0}), arguments())


def peak_memory(reset=False):
    """The most that this process has held since the last reset, in KiB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_memory_grows_with_the_pairs_and_not_with_the_longest_row():
    # One query of 60,000 judged documents among 1,500: rows padded to the longest are 720 MB of indices, each time.
    num_queries, num_documents = 1_500, 60_000
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.arange(1, num_queries), torch.zeros(num_documents, dtype=torch.int64)])
    documents = torch.cat([torch.arange(1, num_queries), torch.arange(num_documents)])
    grades = torch.ones(len(rows))
    grades[-num_documents:][::2] = 0
    embeddings = torch.randn(num_queries + num_documents, 32, generator=generator)
    split = replace(
        split_of(embeddings[:num_queries], embeddings[num_queries:]), qrels=EmbeddedQrels(rows, documents, grades)
    )
    before = peak_memory(reset=True)
    for negatives in ("corpus", "given"):
        args = arguments(**drawn_from(negatives, 64), per_device_train_batch_size=32)
        GradientFit(split, args).step()
    name = MapName("a", "1")
    small = split.subset(torch.arange(num_queries) < 40)
    Measure(small).gains([(ShrunkMap(name, 0.5),)], {name: QueryMap(torch.eye(32) + 0.1)})
    assert evaluate(split, ks=[10]).base["recall@10"][0] <= 10 / 30_000
    assert peak_memory() - before < 400_000, "1,500 rows of 60,000 indices are 700,000"


def test_of_very_many_given_negatives_some_are_drawn(monkeypatch):
    judged = {(0, 0): 1.0, (1, 1): 1.0, (1, 2): 0.0, **{(0, document): 0.0 for document in range(2, 7)}}
    monkeypatch.setattr(negatives_module, "_MANY", 3)
    drawn = set()
    for seed in range(20):
        given = BatchSampler(make_split(judged), arguments(negatives="given", seed=seed)).given
        assert given.shape == (2, 3) and given[1].tolist() == [2, -1, -1]
        drawn |= set(given[0].tolist())
    assert drawn == set(range(2, 7))
