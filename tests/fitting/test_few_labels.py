"""Fits on few labels, which start from portions of the documents; and what share of new documents is expected."""

from dataclasses import replace

import pytest
import torch
from check_false_alarms import Setting, drawn

from problems import DIM, dataset_of, rotated_problem, with_wrong_labels
from st_adapter.embeddings.embedded import EmbeddedQrels, EmbeddedSplit
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import auto
from st_adapter.fitting.auto import fit
from st_adapter.fitting.maps import QueryMap, as_adapter
from st_adapter.fitting.prior import prior_of


def with_pseudo_queries(embedded, seed=0):
    """The data, with queries that are turned as its own are: one a document."""
    generator = torch.Generator().manual_seed(seed)
    documents = embedded.corpus.embeddings
    # The rotation of the problem is that between its queries and their documents.
    train = embedded.qrels["train"]
    matrix = torch.linalg.lstsq(documents[train.corpus_index], embedded.query_embeddings[train.query_index]).solution
    noise = 0.05 * torch.randn(documents.shape, generator=generator)
    queries = torch.nn.functional.normalize(documents @ matrix + noise)
    rows = torch.arange(len(documents))
    pairs = EmbeddedQrels(rows, rows, torch.ones(len(rows)))
    return EmbeddedSplit("pseudo-queries", [f"p{row}" for row in rows.tolist()], queries, embedded.corpus, pairs)


def few_of(embedded, number):
    """The first labelled queries only."""
    qrels = {split: EmbeddedQrels(*(part[:number] for part in embedded.qrels[split])) for split in ("train", "dev")}
    return replace(embedded, qrels={**embedded.qrels, **qrels})


def gain(embedded, adapter):
    return evaluate(embedded["test"], adapter).compare("ndcg@10").difference


def test_pseudo_queries_alone_find_half_of_what_they_have_in_common_with_real_ones():
    embedded = rotated_problem()
    pseudo_queries = with_pseudo_queries(embedded)
    prior = prior_of(pseudo_queries, seed=0)
    assert gain(embedded, as_adapter(QueryMap(prior), normalized=True)) > 0.03
    torch.testing.assert_close(prior, prior_of(pseudo_queries, seed=0))


def test_few_labels_start_from_pseudo_queries_and_there_are_three_candidates():
    embedded = few_of(rotated_problem(noise=0.15), 20)
    alone, started = fit(embedded), fit(embedded, pseudo_queries=with_pseudo_queries(embedded))
    assert [candidate.name.partition(",")[0] for candidate in started.verdict.candidates[:1]] == ["pseudo-queries"]
    assert len(started.verdict.candidates) == 3 and len(alone.verdict.candidates) > 20
    assert started.adopted and gain(embedded, started.adapter) > 0.03
    assert "learning from pseudo-queries" in started.seconds


def test_with_many_labels_pseudo_queries_are_not_looked_at(monkeypatch):
    embedded = rotated_problem(noise=0.3)
    monkeypatch.setattr(auto, "_FEW", 100)
    with_them, without = fit(embedded, pseudo_queries=with_pseudo_queries(embedded)), fit(embedded)
    assert str(with_them.verdict) == str(without.verdict)


@pytest.mark.parametrize("seed", range(5))
def test_few_labels_without_meaning_leave_the_base_model_in_place(seed):
    embedded = with_wrong_labels(few_of(rotated_problem(seed), 30), seed)
    pseudo = with_pseudo_queries(rotated_problem(seed))
    shuffled = replace(pseudo, query_embeddings=pseudo.query_embeddings.flip(0))
    assert not fit(embedded, pseudo_queries=shuffled, seed=seed).adopted


@pytest.mark.parametrize("seed", [2, 15])
def test_what_leads_astray_from_documents_that_nobody_asked_for_is_out(seed, monkeypatch):
    # All labels ask for a tenth of the documents; the queries of test, and the pseudo-queries, for all of them.
    embedded, pseudo_queries = drawn(Setting("topic", 100, "auto", pseudo_queries=True), seed)
    assert not fit(embedded, pseudo_queries=pseudo_queries, seed=seed).adopted
    monkeypatch.setattr(auto, "_TOLERATED", 1.0)
    careless = fit(embedded, pseudo_queries=pseudo_queries, seed=seed)
    assert careless.adopted and gain(embedded, careless.adapter) < -0.02


def test_where_every_document_was_asked_for_new_ones_weigh_nothing():
    generator = torch.Generator().manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(20, DIM, generator=generator))
    answers = torch.arange(400) % 20
    queries = torch.nn.functional.normalize(documents[answers] + 0.2 * torch.randn(400, DIM, generator=generator))
    pairs = [(query, document, 1.0) for query, document in enumerate(answers.tolist())]
    asked = dataset_of(queries, documents, {"train": pairs[:300], "dev": pairs[300:]})
    assert fit(asked).verdict.unseen_weight < 0.05
    more = torch.nn.functional.normalize(torch.randn(200, DIM, generator=generator))
    large = dataset_of(queries, torch.cat([documents, more]), {"train": pairs[:300], "dev": pairs[300:]})
    verdict = fit(large).verdict
    assert verdict.unseen_weight == 0.3, "of a corpus that is mostly unasked for, dev may not be the whole truth"
    assert verdict.num_unseen > 60


@pytest.mark.parametrize("method", ["linear", "closed-form"])
def test_methods_without_corrections_do_without_pseudo_queries(method):
    embedded = few_of(rotated_problem(noise=0.15), 20)
    with_them, without = (fit(embedded, pseudo_queries=p, method=method) for p in (with_pseudo_queries(embedded), None))
    assert str(with_them.verdict) == str(without.verdict) and len(without.verdict.candidates) > 3
