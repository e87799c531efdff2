"""Batches against a slow construction from the judgements."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.embeddings import EmbeddedQrels, EmbeddedSplit
from st_adapter.sampling import training_pool


def make_split(judgements, num_queries, num_documents):
    """A split whose embeddings tell the row they came from."""
    pairs = sorted(judgements)
    return EmbeddedSplit(
        name="train",
        query_ids=[f"q{row}" for row in range(num_queries)],
        corpus_ids=[f"d{row}" for row in range(num_documents)],
        query_embeddings=torch.arange(num_queries, dtype=torch.float32).unsqueeze(1),
        corpus_embeddings=torch.arange(num_documents, dtype=torch.float32).unsqueeze(1),
        qrels=EmbeddedQrels(
            torch.tensor([query for query, _ in pairs]),
            torch.tensor([document for _, document in pairs]),
            torch.tensor([float(judgements[pair]) for pair in pairs]),
        ),
        similarity="dot",
        unit=False,
    )


judgements = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 6)), st.sampled_from([0.0, 1.0, 3.0]), min_size=1
).filter(lambda qrels: any(grade > 0 for grade in qrels.values()))


@given(judgements, st.sampled_from(["corpus", "positives", "batch"]), st.integers(0, 2**31))
def test_a_batch_holds_exactly_the_positives_of_its_queries(qrels, negatives, seed):
    pool = training_pool(make_split(qrels, 5, 7), negatives)
    relevant = {pair: grade for pair, grade in qrels.items() if grade > 0}
    queries = sorted({query for query, _ in relevant})
    assert pool.anchors.squeeze(1).tolist() == queries
    chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:2]
    batch = pool.batch(chosen)

    in_batch = {queries[row] for row in chosen.tolist()}
    documents = batch.candidates.squeeze(1).tolist()
    anchors = batch.anchors.squeeze(1).tolist()
    seen = {
        (anchors[row], documents[column]): weight
        for row, column, weight in zip(batch.rows.tolist(), batch.columns.tolist(), batch.weights.tolist(), strict=True)
    }
    totals = {query: sum(grade for (q, _), grade in relevant.items() if q == query) for query in in_batch}
    expected = {pair: grade / totals[pair[0]] for pair, grade in relevant.items() if pair[0] in in_batch}
    assert seen == pytest.approx(expected)
    excluded = {(anchors[row], documents[column]) for row, column in batch.excluded.nonzero().tolist()}
    assert excluded == set(expected)
    candidates = {
        "corpus": set(range(7)),
        "positives": {document for _, document in relevant},
        "batch": {document for _, document in expected},
    }
    assert set(documents) == candidates[negatives] and len(documents) == len(set(documents))


def test_nothing_relevant_is_an_error():
    with pytest.raises(ValueError, match=r"The training split 'train' has no relevant pair"):
        training_pool(make_split({(0, 0): 0.0}, 1, 1), "corpus")
