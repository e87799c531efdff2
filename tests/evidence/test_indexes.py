"""Evaluation through truncated, quantised and approximate indexes, against exact search and slow loops."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import corpus_of, split_of
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.search import TopK, rescore, search
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import search_split
from st_adapter.evidence.index_evaluation import evaluate_indexes
from st_adapter.evidence.indexes import build_index, check_index

EVERY_INDEX = ["exact", "truncate:5", "int8", "int8-both", "binary:4", "binary-rescored:4", "hnsw:6", "ivf:1"]


def random_split(seed, num_queries=5, num_documents=40, dim=12, similarity="cosine"):
    """Random vectors of which some documents are equal, and one to three relevant documents per query."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(num_queries, dim, generator=generator)
    documents = torch.randn(num_documents, dim, generator=generator)
    documents[num_documents // 2 :] = documents[: num_documents - num_documents // 2].clone()
    if similarity == "cosine":
        queries, documents = map(torch.nn.functional.normalize, (queries, documents))
    rows = torch.arange(num_queries).repeat(3)
    pairs = torch.stack([rows, torch.randint(num_documents, rows.shape, generator=generator)], dim=1).unique(dim=0)
    judgements = [(*pair, 1.0) for pair in pairs.tolist()]
    return split_of(queries, documents, judgements, similarity=similarity, normalized=similarity == "cosine")


def random_adapter(seed, dim=12):
    return QueryAdapter.from_matrix(torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=torch.manual_seed(seed)))


def best_first(scores, k):
    """Indices by descending score, equal ones in corpus order."""
    return sorted(range(len(scores)), key=lambda document: -scores[document])[:k]


# --- rescoring ---


def test_rescoring_is_exact_search_among_the_candidates():
    split = random_split(0)
    candidates = torch.tensor([[31, 4, 11, -1], [-1, -1, 2, 22], [7, 8, 9, 10], [-1, -1, -1, -1], [0, 20, 3, 1]])
    found = rescore(split.query_embeddings, split.corpus.embeddings, candidates)
    whole = search(split.query_embeddings, split.corpus.embeddings, 40)
    for row, allowed in enumerate(candidates.tolist()):
        kept = [
            (document, score)
            for document, score in zip(whole.indices[row].tolist(), whole.scores[row].tolist(), strict=True)
            if document in allowed
        ]
        empty = [(-1, -float("inf"))] * (4 - len(kept))
        assert list(zip(found.indices[row].tolist(), found.scores[row].tolist(), strict=True)) == kept + empty


def test_an_empty_place_is_no_document():
    """The place before the first document of query 1 is not the last document of query 0, which is relevant there."""
    split = split_of(torch.eye(2), torch.eye(2), [(0, 1, 1.0), (1, 0, 1.0)])
    nothing = TopK(torch.full((2, 2), -torch.inf), torch.full((2, 2), -1))
    result = evaluate(split, index=lambda queries, k: nothing)
    assert all(values.tolist() == [0.0, 0.0] for values in result.base.values())


# --- what each index finds ---


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from(["cosine", "dot"]))
def test_the_exact_index_is_evaluate_without_one(seed, similarity):
    split, adapter = random_split(seed, similarity=similarity), random_adapter(seed)
    expected = evaluate(split, adapter)
    (entry,) = evaluate_indexes(split, adapter, [])
    for side in ("base", "adapted"):
        for name, values in getattr(expected, side).items():
            assert values.tolist() == getattr(entry.result, side)[name].tolist()
    assert (entry.index, entry.base_recall, entry.adapted_recall) == ("exact", 1.0, 1.0)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from(["cosine", "dot"]))
def test_truncation_against_a_slow_loop(seed, dim, similarity):
    split = random_split(seed, similarity=similarity)
    queries, documents = (m.numpy().astype(np.float64) for m in (split.query_embeddings, split.corpus.embeddings))
    found = search_split(split, split.query_embeddings, 7, build_index(split.corpus, f"truncate:{dim}"))
    for row, query in enumerate(queries):
        scores = []
        for document in documents:
            product = sum(query[i] * document[i] for i in range(dim))
            if similarity == "cosine":
                product /= np.sqrt(sum(query[:dim] ** 2)) * np.sqrt(sum(document[:dim] ** 2))
            scores.append(product)
        assert found.scores[row].tolist() == pytest.approx(sorted(scores, reverse=True)[:7], abs=1e-5)
        assert [scores[d] for d in found.indices[row].tolist()] == pytest.approx(found.scores[row].tolist(), abs=1e-5)


def test_truncated_documents_have_unit_length_again():
    """By hand: cut to one dimension, both documents are (1,), so they tie and keep corpus order."""
    split = split_of(torch.tensor([[0.6, 0.8]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]]))
    found = build_index(split.corpus, "truncate:1")(split.query_embeddings, 2)
    assert found.indices.tolist() == [[0, 1]] and found.scores.tolist() == [[1.0, 1.0]]


def int8_by_hand(embeddings, documents):
    """Each dimension's range in the documents cut into 255 steps, rounded down, clipped, and read as its centre."""
    low, high = documents.min(axis=0), documents.max(axis=0)
    decoded = np.empty_like(embeddings)
    for row, column in np.ndindex(*embeddings.shape):
        step = (high[column] - low[column]) / np.float32(255)
        code = min(max(np.floor((embeddings[row, column] - low[column]) / step), 0), 255)
        decoded[row, column] = low[column] + (code + 0.5) * step
    return decoded


@pytest.mark.parametrize("name", ["int8", "int8-both"])
@pytest.mark.parametrize("seed", range(5))
def test_int8_against_a_slow_loop(name, seed):
    split = random_split(seed)
    queries, documents = split.query_embeddings.numpy(), split.corpus.embeddings.numpy()
    decoded = int8_by_hand(documents, documents)
    if name == "int8-both":
        queries = int8_by_hand(3 * queries, documents)  # three times as long: much lies outside the ranges
    found = build_index(split.corpus, name)(
        3 * split.query_embeddings if name == "int8-both" else split.query_embeddings, 40
    )
    for row, query in enumerate(queries):
        scores = [sum(a * b for a, b in zip(query, document, strict=True)) for document in decoded]
        assert found.scores[row].tolist() == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
        assert [scores[d] for d in found.indices[row].tolist()] == pytest.approx(found.scores[row].tolist(), abs=1e-5)


def test_int8_loses_at_most_half_a_step_per_dimension():
    split = random_split(0, num_documents=200)
    decoded = build_index(split.corpus, "int8")
    documents = split.corpus.embeddings
    units = torch.eye(12)  # the score of a unit vector is one number of the document
    found = decoded(units, 200)
    steps = (documents.max(dim=0).values - documents.min(dim=0).values) / 255
    for column in range(12):
        numbers = documents[found.indices[column], column]
        assert ((found.scores[column] - numbers).abs() <= 0.501 * steps[column]).all()


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 45), st.sampled_from(["binary", "binary-rescored"]))
def test_binary_against_a_slow_loop(seed, num_candidates, name):
    split = random_split(seed)
    queries, documents = (m.numpy().astype(np.float64) for m in (split.query_embeddings, split.corpus.embeddings))
    found = build_index(split.corpus, f"{name}:{num_candidates}")(split.query_embeddings, 10)
    assert found.indices.shape == (5, min(10, num_candidates))
    for row, query in enumerate(queries):
        distances = [sum((q > 0) != (d > 0) for q, d in zip(query, document, strict=True)) for document in documents]
        candidates = sorted(best_first([-distance for distance in distances], num_candidates))
        known = np.where(documents > 0, 1, -1) if name == "binary" else documents
        # Equal documents have scores that are equal in float32 only.
        scores = [float(np.float32(sum(q * d for q, d in zip(query, known[c], strict=True)))) for c in candidates]
        expected = [scores[place] for place in best_first(scores, 10)]
        assert found.scores[row].tolist() == pytest.approx(expected, abs=1e-6)
        assert set(found.indices[row].tolist()) <= set(candidates)


def test_binary_candidates_tied_by_distance_are_taken_in_corpus_order():
    documents = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 3.0], [-1.0, 1.0], [2.0, 1.0], [1.0, -1.0]])
    corpus = corpus_of(documents, "dot")
    query = torch.tensor([[1.0, 0.1]])
    # Documents 0, 1, 2 and 4 have the bits of the query.
    assert sorted(build_index(corpus, "binary:3")(query, 6).indices[0].tolist()) == [0, 1, 2]
    assert build_index(corpus, "binary-rescored:3")(query, 6).indices[0].tolist() == [0, 2, 1]  # 3.1, 1.3, 1.1
    assert build_index(corpus, "binary-rescored:4")(query, 6).indices[0].tolist() == [0, 4, 2, 1]  # 2.1 as well


@pytest.mark.parametrize(("name", "similarity"), [("hnsw:400", "cosine"), ("ivf:1000", "cosine"), ("ivf:1000", "dot")])
def test_an_approximate_index_that_looks_everywhere_is_exact(name, similarity):
    split, adapter = random_split(1, num_queries=30, num_documents=400, similarity=similarity), random_adapter(1)
    exact, entry = evaluate_indexes(split, adapter, [name])
    assert entry.base_recall == entry.adapted_recall == 1.0
    for side in ("base", "adapted"):
        for metric, values in getattr(exact.result, side).items():
            assert values.tolist() == getattr(entry.result, side)[metric].tolist(), metric


def test_a_graph_drawn_by_inner_products_may_hold_documents_that_no_path_leads_to():
    split, adapter = random_split(1, num_queries=30, num_documents=400, similarity="dot"), random_adapter(1)
    _, entry = evaluate_indexes(split, adapter, ["hnsw:400"])
    assert 0.9 <= min(entry.base_recall, entry.adapted_recall)


def test_a_narrow_approximate_index_misses_some_and_says_so():
    split, adapter = random_split(2, num_queries=40, num_documents=2000), random_adapter(2)
    exact, hnsw, ivf, narrow = evaluate_indexes(split, adapter, ["hnsw:10", "ivf:2", "ivf:1"])
    assert exact.base_recall == exact.adapted_recall == 1.0
    for entry in (hnsw, ivf, narrow):
        assert 0.1 < entry.base_recall < 1.0 and 0.1 < entry.adapted_recall < 1.0
    assert narrow.base_recall < ivf.base_recall and narrow.adapted_recall < ivf.adapted_recall


def test_recall_against_a_slow_count():
    split, adapter = random_split(3, num_queries=20, num_documents=300), random_adapter(3)
    entry = evaluate_indexes(split, adapter, ["binary:15"])[1]
    index = build_index(split.corpus, "binary:15")
    for queries, recall in (
        (split.query_embeddings, entry.base_recall),
        (adapter.transform(split.query_embeddings).detach(), entry.adapted_recall),
    ):
        scores = (queries.double() @ split.corpus.embeddings.double().T).float()
        shares = []
        for row, found in zip(scores.tolist(), search_split(split, queries, 10, index).indices.tolist(), strict=True):
            tenth = sorted(row, reverse=True)[9]
            shares.append(sum(row[document] >= tenth - 1e-7 for document in found) / 10)
        assert recall == pytest.approx(sum(shares) / 20, abs=1e-6)


# --- whatever the index ---


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(EVERY_INDEX), st.integers(0, 4), st.integers(1, 50), st.integers(1, 60))
def test_shapes_order_and_empty_places(seed, name, num_queries, num_documents, k):
    split = random_split(seed, num_queries=max(1, num_queries), num_documents=num_documents)
    queries = split.query_embeddings[:num_queries]
    found = build_index(split.corpus, name)(queries, k)
    limit = int(name.partition(":")[2]) if name.startswith(("binary", "hnsw")) else k
    assert found.scores.shape == found.indices.shape
    if name.startswith("hnsw"):  # what it does not find it may leave empty
        assert found.indices.shape[1] <= min(k, limit)
    else:
        assert found.indices.shape == (num_queries, min(k, limit, num_documents))
    assert found.scores.dtype == torch.float32 and found.indices.dtype == torch.int64
    assert ((found.indices < 0) == torch.isneginf(found.scores)).all()
    assert (found.indices < num_documents).all()
    # The later score is not higher; empty places are last, and their difference is not a number.
    assert not (found.scores.diff(dim=1) > 0).any()
    for row in found.indices.tolist():
        documents = [document for document in row if document >= 0]
        assert len(set(documents)) == len(documents)
        assert row == documents + [-1] * (len(row) - len(documents))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(EVERY_INDEX), st.integers(1, 20))
def test_a_shallow_search_is_the_beginning_of_a_deep_one_and_repeats(seed, name, k):
    split = random_split(seed)
    deep = build_index(split.corpus, name)(split.query_embeddings, 40)
    shallow = build_index(split.corpus, name)(split.query_embeddings, k)
    assert torch.equal(shallow.indices, deep.indices[:, :k]) and torch.equal(shallow.scores, deep.scores[:, :k])


@pytest.mark.parametrize("name", EVERY_INDEX)
def test_documents_and_faiss_threads_stay_as_they_were(name):
    faiss = pytest.importorskip("faiss")
    split = random_split(5)
    before, threads = split.corpus.embeddings.clone(), faiss.omp_get_max_threads()
    evaluate_indexes(split, random_adapter(5), [name])
    assert torch.equal(split.corpus.embeddings, before) and faiss.omp_get_max_threads() == threads


def test_one_entry_per_index_with_gain_and_interval():
    split, adapter = random_split(6, num_queries=30, num_documents=100), random_adapter(6)
    entries = evaluate_indexes(split, adapter, ["int8", "exact", "binary", "binary:40"])
    assert [entry.index for entry in entries] == ["exact", "int8", "binary:40"]
    for entry in entries:
        differences = entry.result.adapted["ndcg@10"] - entry.result.base["ndcg@10"]
        assert entry.result.compare().difference == pytest.approx(differences.mean())
        assert len(differences) == 30
    base_alone = evaluate_indexes(split, None, ["int8"])[1]
    assert base_alone.result.adapted_means == base_alone.result.base_means
    assert base_alone.base_recall == base_alone.adapted_recall


# --- names and errors ---


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("exact", "exact"),
        ("truncate:007", "truncate:7"),
        ("binary", "binary:40"),
        ("hnsw", "hnsw:100"),
        ("ivf:3", "ivf:3"),
    ],
)
def test_names_are_filled_in(name, full):
    assert check_index(name) == full


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("faiss", r"There is no index 'faiss'. Choose from exact, truncate:DIM, int8, .*hnsw\[:EF_SEARCH\]"),
        ("", "There is no index ''"),
        ("int8:4", "'int8' takes no number, but 'int8:4' was given"),
        ("truncate", "'truncate' is not in the form truncate:DIM with DIM >= 1"),
        ("truncate:", "'truncate:' is not in the form"),
        ("binary:", r"'binary:' is not in the form binary\[:CANDIDATES\]"),
        ("hnsw:0", "'hnsw:0' is not in the form"),
        ("ivf:-1", "'ivf:-1' is not in the form"),
        ("hnsw:²", "'hnsw:²' is not in the form"),
        ("truncate:13", "truncate:13 was asked for, but the embeddings have 12 dimensions"),
    ],
)
def test_a_name_that_cannot_be_built(name, message):
    with pytest.raises(ValueError, match=message):
        evaluate_indexes(random_split(0), None, [name])


@pytest.mark.parametrize("name", ["hnsw", "ivf"])
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'st-adapter\[index\]'"):
        evaluate_indexes(random_split(0), None, [name])
    evaluate_indexes(random_split(0), None, ["binary", "int8"])  # these need nothing
