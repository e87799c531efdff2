"""The fingerprint of data: the same for the same data in any order, another one for anything else."""

import numpy as np
import pandas as pd
import pytest

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.fingerprint import data_fingerprint, query_keys

PAIRS = pd.DataFrame({"query": [f"query {n}" for n in range(80)], "document": [f"document {n % 7}" for n in range(80)]})


def loaded(frame=PAIRS, **arguments):
    return RetrievalDataset.load(frame, **arguments)


def test_the_order_of_rows_does_not_count():
    assert data_fingerprint(loaded(PAIRS.sample(frac=1, random_state=1))) == data_fingerprint(loaded())


@pytest.mark.parametrize(
    "changed",
    [
        PAIRS[:-1],
        PAIRS.replace("query 3", "query three"),
        PAIRS.replace("document 3", "document three"),
        PAIRS.assign(document=PAIRS["document"].tolist()[1:] + ["document 0"]),
        PAIRS.assign(score=2.0),
    ],
    ids=["fewer", "query", "document", "judgement", "relevance"],
)
def test_whatever_is_learned_from_counts(changed):
    assert data_fingerprint(loaded(changed)) != data_fingerprint(loaded())


def test_the_cut_counts():
    assert data_fingerprint(loaded(seed=1)) != data_fingerprint(loaded())


def test_vectors_stand_for_texts_that_are_not_there():
    def of(vectors):
        ids = [str(n) for n in range(20)]
        corpus = pd.DataFrame({"id": ids, "embedding": list(vectors)})
        queries = pd.DataFrame({"id": ids, "embedding": list(vectors[::-1])})
        labels = pd.DataFrame({"query_id": ids, "corpus_id": ids})
        return RetrievalDataset.load(labels, queries=queries, corpus=corpus)

    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert data_fingerprint(of(vectors)) == data_fingerprint(of(vectors)) != data_fingerprint(of(vectors + 1))
    assert len(set(query_keys(of(vectors), ["train", "dev", "test"]).values())) == 20


def test_a_query_is_known_again_in_other_data_by_its_text():
    dataset = loaded()
    keys = query_keys(dataset, ["train", "dev"])
    assert set(keys) == set(dataset.qrels["train"]["query_id"]) | set(dataset.qrels["dev"]["query_id"])
    again = loaded(PAIRS.assign(query=PAIRS["query"].str.upper() + " ")[::-1])
    assert set(query_keys(again, ["train", "dev"]).values()) == set(keys.values())
    assert all(len(key) == 16 for key in keys.values())
