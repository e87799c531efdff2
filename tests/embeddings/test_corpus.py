"""The corpus in memory, and what works with any other one that keeps to the protocol."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from problems import corpus_of, random_split, rotated_problem
from st_adapter.embeddings import corpus as corpus_module
from st_adapter.embeddings.corpus import MemoryCorpus, blocks
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.search import search
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evidence.index_evaluation import evaluate_indexes
from st_adapter.fitting.auto import fit


class DistantCorpus:
    """A corpus that lies elsewhere: it gives nothing but what the protocol asks, and counts the rows it gave."""

    def __init__(self, corpus):
        self._corpus = corpus
        self.ids, self.dimension, self.similarity = tuple(corpus.ids), corpus.dimension, corpus.similarity
        self.num_rows = 0

    def __len__(self):
        return len(self.ids)

    def rows(self, index):
        self.num_rows += len(index)
        return self._corpus.rows(index)

    def search(self, query_embeddings, k):
        return self._corpus.search(query_embeddings, k)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_vectors_are_brought_into_form_once_and_only_where_it_is_needed(similarity):
    documents = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]])
    corpus = corpus_of(documents, similarity)
    expected = {"cosine": [[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]], "dot": documents.tolist()}[similarity]
    torch.testing.assert_close(corpus.embeddings, torch.tensor(expected))
    assert corpus_of(corpus.embeddings, similarity).embeddings is corpus.embeddings, "not copied"
    assert corpus_of(documents.double(), similarity).embeddings.dtype == torch.float32
    assert torch.equal(corpus.rows(torch.tensor([2, 0])), corpus.embeddings[[2, 0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for ours, theirs in zip(corpus.search(queries, 2), search(queries, corpus.embeddings, 2), strict=True):
        assert torch.equal(ours, theirs)
    assert (len(corpus), corpus.dimension) == (3, 2)
    assert repr(corpus) == f"MemoryCorpus(3 documents, 2 dimensions, {similarity}, cpu)"


@pytest.mark.parametrize(
    ("ids", "documents", "message"),
    [
        (3, torch.ones(6, 2), r"corpus_embeddings have shape \(6, 2\), but there are 3 ids"),
        (3, torch.ones(3), r"corpus_embeddings have shape \(3,\), but there are 3 ids"),
        (3, [[0, 1], [torch.nan, 0], [0, torch.inf]], r"2 rows of corpus_embeddings hold NaN .*first: \['d1', 'd2'\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(ids, documents, message):
    with pytest.raises(ValueError, match=message):
        MemoryCorpus([f"d{n}" for n in range(ids)], torch.as_tensor(documents))


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(corpus_module, "_BLOCK_ROWS", 4)
    corpus = corpus_of(torch.arange(20.0).reshape(10, 2), "dot")
    found = list(blocks(corpus))
    assert [len(block) for block in found] == [4, 4, 2] and torch.equal(torch.cat(found), corpus.embeddings)
    distant = DistantCorpus(corpus)
    read = MemoryCorpus.of(distant)
    assert torch.equal(read.embeddings, corpus.embeddings) and read.similarity == "dot"
    assert MemoryCorpus.of(corpus) is corpus


def test_an_evaluation_asks_a_distant_corpus_for_no_vector():
    split = random_split(0)
    distant = replace(split, corpus=DistantCorpus(split.corpus))
    expected, found = evaluate(split), evaluate(distant)
    assert all(values.tolist() == expected.base[name].tolist() for name, values in found.base.items())
    assert distant.corpus.num_rows == 0
    # Of the documents with a query's id, the vector is compared as well.
    named = replace(distant, query_ids=["d3", *split.query_ids[1:]])
    evaluate(named)
    assert 0 < distant.corpus.num_rows <= 3


def test_fits_and_indexes_work_on_a_distant_corpus_as_in_memory():
    embedded = rotated_problem()
    distant = replace(embedded, corpus=DistantCorpus(embedded.corpus))
    expected, found = (fit(each, method="closed-form") for each in (embedded, distant))
    assert found.adopted and repr(found.verdict.candidates) == repr(expected.verdict.candidates)
    assert torch.equal(*(result.adapter.project(torch.eye(16)) for result in (expected, found)))
    ours, theirs = (evaluate_indexes(each["test"], None, ["int8"]) for each in (distant, embedded))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.index, one.base_recall) == (other.index, other.base_recall)
        assert all(values.tolist() == other.result.base[name].tolist() for name, values in one.result.base.items())
    whole = len(embedded.corpus)
    assert distant.corpus.num_rows <= 3 * whole + 20_000, "read whole a few times, not in every fold or step"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda corpus: pickle.loads(pickle.dumps(corpus))])
def test_a_copy_is_a_corpus_of_its_own(copied):
    corpus = MemoryCorpus(["a", "b"], torch.tensor([[0.6, 0.8], [1.0, 0.0]]), stands_for=torch.tensor([1.0, 3.0]))
    again = copied(corpus)
    assert again.ids == corpus.ids and torch.equal(again.rows(torch.tensor([1])), corpus.embeddings[1:])
    assert again.stands_for is not None and torch.equal(again.stands_for, corpus.stands_for)
    corpus.embeddings[0] = 0
    assert again.embeddings[0].tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("similarity", ["Cosine", "cos_sim", "l2", None])
def test_another_similarity_is_refused(similarity):
    with pytest.raises(ValueError, match="but one of .'cosine', 'dot'. is expected"):
        MemoryCorpus(["a"], torch.eye(1), similarity)


def test_ids_without_an_order_are_refused_by_every_door():
    ids, judged = {"a", "b"}, EmbeddedQrels(torch.tensor([0]), torch.tensor([0]), torch.ones(1))
    with pytest.raises(ValueError, match="The ids are a set, but which vector is whose only their order tells"):
        MemoryCorpus(ids, torch.eye(2))
    corpus = MemoryCorpus(iter(["a", "b"]), torch.eye(2))
    assert corpus.ids == ["a", "b"]
    with pytest.raises(ValueError, match="The ids are a set"):
        EmbeddedSplit("test", ids, torch.eye(2), corpus, judged)
    with pytest.raises(ValueError, match="The ids are a set"):
        EmbeddedDataset(ids, torch.eye(2), corpus, {"test": judged}, normalized=True)
