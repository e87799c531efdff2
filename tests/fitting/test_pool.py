"""What a fit sees of a large corpus: a part that stands for the whole."""

from dataclasses import replace

import pytest
import torch

from problems import rotated_problem
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedQrels, EmbeddedSplit
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import measure as measuring
from st_adapter.fitting import pool
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import fit
from st_adapter.fitting.candidates import BASE, MapName, ShrunkMap
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.maps import QueryMap
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.pool import pooled
from st_adapter.fitting.sampling import BatchSampler

DIM = 16


def large_split(num_documents=6000, num_queries=40, seed=0):
    """Queries near one document each, among many others."""
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randn(num_documents, DIM, generator=generator)
    relevant = torch.randperm(num_documents, generator=generator)[:num_queries]
    queries = documents[relevant] + 1.1 * torch.randn(num_queries, DIM, generator=generator)
    return EmbeddedSplit(
        name="labelled",
        query_ids=[f"q{number}" for number in range(num_queries)],
        query_embeddings=torch.nn.functional.normalize(queries),
        corpus=MemoryCorpus([f"d{number}" for number in range(num_documents)], documents),
        qrels=EmbeddedQrels(torch.arange(num_queries), relevant, torch.ones(num_queries)),
    )


def test_judged_and_found_documents_stand_for_themselves_and_the_sample_for_the_rest():
    split = large_split()
    part = pooled(split, depth=20, sample=500)
    corpus, weights = part.corpus, part.corpus.stands_for
    names = {name: float(weight) for name, weight in zip(corpus.ids, weights, strict=True)}
    found = split.corpus.search(split.query_embeddings, 20).indices.unique()
    known = set(found.tolist()) | set(split.qrels.corpus_index.tolist())
    assert {name for name, weight in names.items() if weight == 1} == {f"d{row}" for row in known}
    assert len(names) == len(known) + 500 and sum(names.values()) == pytest.approx(6000, rel=1e-5)
    assert len(set(names.values())) == 2
    rows = torch.tensor([int(name[1:]) for name in corpus.ids])
    assert torch.equal(corpus.embeddings, split.corpus.rows(rows)), "each id has its own vector"
    assert [corpus.ids[row] for row in part.qrels.corpus_index.tolist()] == [
        split.corpus.ids[row] for row in split.qrels.corpus_index.tolist()
    ]


def test_the_base_is_measured_exactly_and_others_nearly():
    split, turned = (
        large_split(num_queries=60),
        torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(3)))[0],
    )
    slightly = QueryMap(torch.lerp(torch.eye(DIM), turned, 0.15))
    name = MapName("some", "map")
    candidates = [(ShrunkMap(name, 1.0),)]
    whole = Measure(split)
    exact = whole.gains(candidates, {name: slightly})[candidates[0]] + whole.base
    estimates = []
    for seed in range(12):
        part = Measure(pooled(split, seed=seed, depth=50, sample=600))
        torch.testing.assert_close(part.base, whole.base)
        estimates.append((part.gains(candidates, {name: slightly})[candidates[0]] + part.base).mean())
    assert abs(torch.stack(estimates).mean() - exact.mean()) < 0.006
    assert exact.mean() < whole.base.mean() - 0.02, "the map is not the identity"
    assert (BASE,) != tuple(candidates)


@pytest.mark.parametrize("pool_from", [1, 10**9], ids=["best documents", "all documents"])
def test_a_document_counts_as_many_times_as_it_stands_for(pool_from, monkeypatch):
    """Weights are the same as documents that are there so many times."""
    monkeypatch.setattr(measuring, "_POOL_FROM", pool_from)
    split = large_split(num_documents=1500, num_queries=20)
    weights = torch.ones(1500)
    weights[torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:400]] = 3
    weights[split.qrels.corpus_index] = 1
    repeated = torch.arange(1500).repeat_interleave(weights.long())
    first = torch.searchsorted(repeated, split.qrels.corpus_index)
    vectors = split.corpus.embeddings
    many = replace(
        split,
        corpus=MemoryCorpus([str(row) for row in range(len(repeated))], vectors[repeated]),
        qrels=split.qrels._replace(corpus_index=first),
    )
    few = replace(split, corpus=MemoryCorpus(split.corpus.ids, vectors, "cosine", weights))
    name = MapName("some", "map")
    matrix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1))
    candidate = (ShrunkMap(name, 0.5),)
    of_many, of_few = (Measure(each).gains([candidate], {name: QueryMap(matrix)})[candidate] for each in (many, few))
    torch.testing.assert_close(of_few, of_many, atol=1e-5, rtol=0)


def test_the_sampler_counts_what_its_candidates_stand_for():
    part = pooled(large_split(), depth=20, sample=500)
    sampler = BatchSampler(part, AdapterTrainingArguments(num_negatives=10**6, unlabelled_weight=1.0))
    batch = sampler.next()
    assert batch.log_priors.exp().sum() == pytest.approx(6000, rel=1e-4)


def test_a_fit_on_a_part_does_what_a_fit_on_all_does(monkeypatch):
    embedded = rotated_problem(num_documents=1500, noise=0.3)
    whole = fit(embedded, method="closed-form")
    monkeypatch.setattr(pool, "MAX_DOCUMENTS", 1000)
    monkeypatch.setattr(pool, "_DEPTH", 5)
    monkeypatch.setattr(pool, "_SAMPLE", 300)
    part = fit(embedded, method="closed-form")
    assert whole.num_documents is None and part.num_documents < 1500
    assert "choosing documents" in part.seconds
    gains = [evaluate(embedded["test"], found.adapter).adapted_means["ndcg@10"] for found in (whole, part)]
    assert abs(gains[0] - gains[1]) < 0.03 and gains[1] > evaluate(embedded["test"]).base_means["ndcg@10"] + 0.1


def test_a_small_corpus_is_seen_whole():
    embedded = rotated_problem()
    assert pool.seen_by_fit(labelled_split(embedded)).corpus is embedded.corpus


def test_own_copies_stay_own_copies():
    split = large_split()
    copies = split.corpus.search(split.query_embeddings, 1).indices[:, 0]
    from st_adapter.embeddings.own_copies import OwnCopies

    split = replace(split, own_copies=OwnCopies(torch.arange(40), copies))
    part = pooled(split, depth=5, sample=50)
    assert [part.corpus.ids[row] for row in part.own_copies.corpus_index.tolist()] == [
        f"d{row}" for row in copies.tolist()
    ]
