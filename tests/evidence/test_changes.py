"""Which queries are shown, with which ranks and texts, against a slow search."""

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import random_split
from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import adapt
from st_adapter.evidence.changes import LargestChanges, largest_changes, shortened


def texts_of(split):
    """A data set whose texts name their ids."""
    tables = {
        name: datasets.Dataset.from_dict({"id": ids, "text": [f"text of {i}" for i in ids]})
        for name, ids in (("queries", split.query_ids), ("corpus", split.corpus.ids))
    }
    return RetrievalDataset(tables["queries"], tables["corpus"], {})


def random_adapter(dim, seed, strength=0.5):
    matrix = torch.eye(dim) + strength * torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))
    return QueryAdapter.from_matrix(matrix)


def slow_rank(split, query, row):
    """Rank of the first relevant document, and the first document, from a full stable sort in float64."""
    scores = torch.nn.functional.normalize(query, dim=0).double() @ split.corpus.embeddings.double().T
    order = scores.float().argsort(descending=True, stable=True).tolist()
    relevant = split.qrels.corpus_index[(split.qrels.query_index == row) & (split.qrels.relevance > 0)].tolist()
    return min(order.index(document) for document in relevant) + 1, order[0]


@pytest.mark.parametrize("num_documents", [15, 250])
def test_ranks_and_documents_are_those_of_a_slow_search(num_documents):
    """With 250 documents some ranks lie beyond what the metrics keep."""
    split = random_split(1, num_queries=12 if num_documents == 15 else 150, num_documents=num_documents)
    if num_documents > 15:  # one relevant document each, so that it may lie far down
        first = torch.tensor([int((split.qrels.query_index == row).nonzero()[0]) for row in range(150)])
        split.qrels.relevance[:] = 0
        split.qrels.relevance[first] = 1
    adapter = random_adapter(8, seed=0, strength=0.5 if num_documents == 15 else 3.0)
    evaluation = evaluate(split, adapter)
    changes = largest_changes(texts_of(split), split, evaluation, adapter, number=40)
    assert changes.gains and changes.losses
    adapted = adapt(adapter, split.query_embeddings)
    beyond = 0
    for example in (*changes.gains, *changes.losses):
        row = split.query_ids.index(example.query_id)
        before, after = (slow_rank(split, side[row], row) for side in (split.query_embeddings, adapted))
        assert (example.base_rank, example.adapted_rank) == (before[0], after[0])
        assert example.base_top == f"text of {split.corpus.ids[before[1]]}"
        assert example.adapted_top == f"text of {split.corpus.ids[after[1]]}"
        assert example.base_top_is_relevant is (before[0] == 1)
        assert example.adapted_top_is_relevant is (after[0] == 1)
        assert example.query == f"text of {example.query_id}"
        beyond += max(before[0], after[0]) > 100
    assert (beyond > 0) is (num_documents == 250)


def test_the_largest_changes_come_first_and_unchanged_queries_not_at_all():
    split = random_split(2, num_queries=40)
    adapter = random_adapter(8, seed=1)
    evaluation = evaluate(split, adapter)
    difference = evaluation.adapted["ndcg@10"] - evaluation.base["ndcg@10"]
    changes = largest_changes(texts_of(split), split, evaluation, adapter, number=5)
    assert [e.difference for e in changes.gains] == sorted(difference.tolist(), reverse=True)[:5]
    assert [e.difference for e in changes.losses] == sorted(difference.tolist())[:5]
    everything = largest_changes(texts_of(split), split, evaluation, adapter, number=100)
    assert len(everything.gains) == (difference > 1e-9).sum() and len(everything.losses) == (difference < -1e-9).sum()


def test_without_an_adapter_nothing_changes():
    split = random_split(3)
    for adapter in (None, QueryAdapter(8)):
        changes = largest_changes(texts_of(split), split, evaluate(split, adapter), adapter)
        assert changes == LargestChanges((), ())


@given(text=st.text(max_size=120), number=st.integers(4, 40))
def test_shortened_texts_are_short_printable_and_a_beginning(text, number):
    short = shortened(text, number)
    assert len(short) <= number + 1 and short.isprintable() and short == " ".join(short.split())
    short.encode("utf-8")
    assert " ".join("".join(c if c.isprintable() else " " for c in text).split()).startswith(short.removesuffix(" …"))
