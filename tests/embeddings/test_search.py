"""Exact search against a slow loop; ties by corpus order whatever the blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.embeddings import search as retrieval
from st_adapter.embeddings.search import search


def slow_search(queries, corpus, k):
    """Rank by float32-rounded float64 dot products; Python's sort is stable, so ties keep corpus order."""
    scores = (queries.double() @ corpus.double().T).float()
    return [sorted(range(len(corpus)), key=lambda i, row=row: -row[i])[:k] for row in scores.tolist()]


@st.composite
def problems(draw):
    """Queries, a corpus with repeated rows, and a k."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distinct = rng.standard_normal((draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 384])))).astype(np.float32)
    corpus = distinct[rng.integers(0, len(distinct), draw(st.integers(1, 60)))]
    queries = rng.standard_normal((draw(st.integers(1, 5)), distinct.shape[1])).astype(np.float32)
    return torch.from_numpy(queries), torch.from_numpy(corpus), draw(st.integers(1, 70))


@given(problems())
def test_equal_to_a_slow_loop_with_ties_in_corpus_order(problem):
    queries, corpus, k = problem
    found = search(queries, corpus, k)
    assert found.indices.shape == found.scores.shape == (len(queries), min(k, len(corpus)))
    assert found.indices.tolist() == slow_search(queries, corpus, k)


@given(problems(), st.integers(1, 40), st.integers(1, 4000))
def test_blocks_change_nothing(problem, block_documents, block_scores):
    queries, corpus, k = problem
    expected = search(queries, corpus, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK_DOCUMENTS", block_documents)
        patch.setattr(retrieval, "_BLOCK_SCORES", block_scores)
        found = search(queries, corpus, k)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.indices, expected.indices)


@given(problems())
def test_query_batches_change_nothing(problem):
    queries, corpus, k = problem
    expected = search(queries, corpus, k)
    one_by_one = [search(query.unsqueeze(0), corpus, k) for query in queries]
    assert torch.equal(torch.cat([found.indices for found in one_by_one]), expected.indices)
    assert torch.equal(torch.cat([found.scores for found in one_by_one]), expected.scores)


def test_a_tie_that_straddles_the_candidates_keeps_corpus_order():
    # 100 equal documents, k = 3: the first three must win, though any of the hundred may be among the candidates.
    torch.manual_seed(0)
    corpus = torch.nn.functional.normalize(torch.randn(1, 384)).repeat(100, 1)
    assert search(torch.randn(4, 384), corpus, 3).indices.tolist() == [[0, 1, 2]] * 4


def test_no_queries_give_no_hits():
    assert search(torch.zeros(0, 3), torch.eye(3), 2).indices.shape == (0, 2)


def test_bad_input():
    with pytest.raises(ValueError, match=r"have 2 dimensions, but corpus_embeddings have 3"):
        search(torch.eye(2), torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"takes two matrices, got shapes \(3,\)"):
        search(torch.zeros(3), torch.eye(3), 1)
    with pytest.raises(ValueError, match=r"The corpus is empty"):
        search(torch.eye(2), torch.zeros(0, 2), 1)
    with pytest.raises(ValueError, match=r"k is 0"):
        search(torch.eye(2), torch.eye(2), 0)
