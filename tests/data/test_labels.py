import numpy as np
import pandas as pd
import pytest

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.labels import looks_like_labels
from st_adapter.errors import InputError

RANDOM = np.random.default_rng(0)
NUMBER = 40
BINARY = [n % 2 for n in range(NUMBER)]
GRADES = [n % 4 for n in range(NUMBER)]
RATINGS = [n % 5 + 1 for n in range(NUMBER)]

LABELS = {
    "clicked": BINARY,
    "is_relevant": [bool(n) for n in BINARY],
    "isRelevant": [str(bool(n)) for n in BINARY],
    "helpful": ["yes" if n else "no" for n in BINARY],
    "relevance_label": GRADES,
    "rating": RATINGS,
    "stars": [str(n) for n in RATINGS],
    "clicks": [n * 7 for n in range(NUMBER)],
    "similarity": [n / NUMBER for n in range(NUMBER)],
    "target": [float(n) for n in BINARY],
    "judgment": [None if n == 3 else n for n in GRADES],
    "thumbs up": ["1" if n else "" for n in BINARY],
    "esci_label": ["ESCI"[n] for n in GRADES],
    "anything": BINARY,
    "x": [str(n) for n in BINARY],
    "y": GRADES,
    "how much": RATINGS,
    "z": [n / NUMBER for n in range(NUMBER)][::-1],
}
OTHERS = {
    "Unnamed: 0": range(NUMBER),
    "doc_id": range(NUMBER),
    "target_id": [n * 3 for n in range(NUMBER)],
    "anything": range(NUMBER),
    "year": [2000 + n for n in BINARY],
    "rank": RATINGS,
    "fold": BINARY,
    "clicked_at_timestamp": [10**9 + n for n in GRADES],
    "num_tokens": GRADES,
    "author": ["me"] * NUMBER,
    "category": ["a" if n else "b" for n in BINARY],
    "price": [n * 1.5 for n in range(NUMBER)],
    "clicked": [1] * NUMBER,
    "constant": [0] * NUMBER,
}


@pytest.mark.parametrize("name", LABELS)
def test_what_looks_like_labels(name):
    assert looks_like_labels(name, list(LABELS[name]))


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not(name):
    assert not looks_like_labels(name, list(OTHERS[name]))


def pairs(**columns):
    queries = [f"Query {n // 2}?" for n in range(NUMBER)]
    return pd.DataFrame({"query": queries, "document": [f"D{n}" for n in range(NUMBER)], **columns})


def qrels(**columns):
    ids = [f"q{n // 2}" for n in range(NUMBER)]
    judged = pd.DataFrame({"query_id": ids, "corpus_id": [f"d{n}" for n in range(NUMBER)], **columns})
    return {
        "queries": pd.DataFrame({"id": sorted(set(ids)), "text": [f"Query {i}?" for i in sorted(set(ids))]}),
        "corpus": pd.DataFrame({"id": judged["corpus_id"], "text": [f"D{n}" for n in range(NUMBER)]}),
        "qrels": judged,
    }


def relevant(dataset):
    return {
        (row["query_id"], row["corpus_id"]): row["relevance"] for rows in dataset.qrels.values() for row in rows
    }  # all splits


@pytest.mark.parametrize("source", [pairs, qrels])
def test_unused_labels_are_refused_in_the_words_of_the_door(source):
    with pytest.raises(InputError, match="Column 'clicked'.*columns={'score': 'clicked'}.*ignore_columns=") as caught:
        RetrievalDataset.load(source(clicked=BINARY))
    assert "--score-column clicked" in caught.value.for_command_line
    assert "--ignore-columns clicked" in caught.value.for_command_line
    scored = relevant(RetrievalDataset.load(source(clicked=BINARY), columns={"score": "clicked"}))
    assert sorted(scored.values()) == [0.0] * 20 + [1.0] * 20
    ignored = relevant(RetrievalDataset.load(source(clicked=BINARY), ignore_columns=["clicked"]))
    assert set(ignored.values()) == {1.0}


@pytest.mark.parametrize("score", [[n + 0.5 for n in range(NUMBER)], BINARY])
@pytest.mark.parametrize("name,labels", [("clicked", BINARY), ("rating", RATINGS), ("label", GRADES)])
def test_a_score_excuses_no_other_column_of_labels(score, name, labels):
    with pytest.raises(InputError, match=f"Column '{name}': .* not used, .*; 'score' says it too."):
        RetrievalDataset.load(pairs(score=score, **{name: labels}))
    dataset = RetrievalDataset.load(pairs(score=score, **{name: labels}), columns={"score": "score"})
    assert f"Columns left unused: '{name}'." in dataset.notes


def test_words_are_read_as_scores():
    dataset = RetrievalDataset.load(pairs(helpful=LABELS["helpful"]), columns={"score": "helpful"})
    assert sorted(relevant(dataset).values()) == [0.0] * 20 + [1.0] * 20


@pytest.mark.parametrize("source", [pairs, qrels])
def test_relevant_from(source):
    dataset = RetrievalDataset.load(source(rating=RATINGS), columns={"score": "rating"})
    assert any(note.startswith("Every score in column 'rating'") and "(1 to 5)" in note for note in dataset.notes)
    dataset = RetrievalDataset.load(source(rating=RATINGS), columns={"score": "rating"}, relevant_from=4)
    # Queries have the ratings 1, 2 | 3, 4 | 5, 1 | 2, 3 | 4, 5 four times over: two of five have none of 4 or more.
    assert sorted(relevant(dataset).values()) == [0.0] * 8 + [4.0] * 8 + [5.0] * 8
    assert "24 judgements above 0, but below 4, read as not relevant." in dataset.notes
    assert "8 queries without a relevant document left out of all splits." in dataset.notes
    tables = {"train": source(rating=RATINGS), "test": source(rating=[2] * len(RATINGS))}
    if source is pairs:
        with pytest.raises(
            InputError, match="None of 20 queries of split 'test' has a document that counts as relevant"
        ):
            RetrievalDataset.load(tables, columns={"score": "rating"}, relevant_from=4)
    assert not any(note.startswith("Every score") for note in dataset.notes)


@pytest.mark.parametrize("least,columns", [(0, {"score": 1}), (float("nan"), {"score": 1}), (2, {}), (9, {"score": 1})])
def test_relevant_from_that_cannot_be(least, columns):
    with pytest.raises(InputError) as caught:
        RetrievalDataset.load(pairs(**columns), relevant_from=least)
    assert "--" in caught.value.for_command_line and "--" not in str(caught.value)
