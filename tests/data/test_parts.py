"""Data whose documents, queries and labels lie apart, and vectors that came with them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.vectors import as_vectors
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.errors import InputError
from st_adapter.stores.store import Rows, in_order

N, DIM = 60, 4
IDS = [f"chunk-{number}" for number in range(N)]
VECTORS = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
CORPUS = pd.DataFrame({"id": IDS, "text": [f"document {number}" for number in range(N)]})
LABELS = pd.DataFrame({"query": [f"question {number}" for number in range(N)], "chunk_id": IDS})


class Store:
    address, count, dimension = "memory:", N, DIM

    def fetch(self, ids):
        rows = {one: (VECTORS[row], f"document {row}") for row, one in enumerate(IDS)}
        return in_order(ids, [(one, *rows[one]) for one in ids if one in rows], self.address)


def loaded(labels=LABELS, corpus=CORPUS, **options):
    return RetrievalDataset.load(labels, corpus=corpus, **options)


def pairs_of(dataset):
    queries = dict(zip(dataset.queries["id"], dataset.query_texts, strict=True))
    return {
        (queries[row["query_id"]], row["corpus_id"]): row["relevance"]
        for rows in dataset.qrels.values()
        for row in rows
    }


def test_labels_are_joined_with_a_corpus_by_id():
    dataset = loaded()
    assert len(dataset.corpus) == N and not dataset.corpus_is_labelled_only
    assert pairs_of(dataset) == {(f"question {number}", one): 1.0 for number, one in enumerate(IDS)}


@pytest.mark.parametrize("column", ["chunk", "where it stands", "Antwort"])
def test_the_column_of_documents_is_found_by_what_is_in_it(column):
    labels = LABELS.rename(columns={"chunk_id": column}).assign(topic=[f"topic {n % 3}" for n in range(N)])
    assert pairs_of(loaded(labels)) == pairs_of(loaded())


def test_the_tables_may_call_their_columns_differently():
    labels = LABELS.rename(columns={"query": "frage", "chunk_id": "abschnitt"})
    corpus = CORPUS.rename(columns={"id": "nummer", "text": "inhalt"})
    columns = {"labels.query": "frage", "labels.corpus_id": "abschnitt", "corpus.id": "nummer", "corpus.text": "inhalt"}
    assert pairs_of(loaded(labels, corpus, columns=columns)) == pairs_of(loaded())


def test_one_mapping_of_ids_serves_where_the_column_of_documents_is_found_by_content():
    labels, corpus = LABELS.rename(columns={"chunk_id": "abschnitt"}), CORPUS.rename(columns={"id": "nummer"})
    assert pairs_of(loaded(labels, corpus, columns={"id": "nummer"})) == pairs_of(loaded())
    with pytest.raises(InputError, match=r"No corpus_id column was found in labels.*looked for 'nowhere'"):
        loaded(columns={"corpus_id": "nowhere"})


def test_queries_may_lie_apart_too():
    queries = pd.DataFrame({"qid": range(N), "question": LABELS["query"]})
    labels = pd.DataFrame({"query_id": range(N), "doc_id": IDS, "score": 2})
    dataset = loaded(labels, queries=queries)
    assert pairs_of(dataset) == {key: 2.0 for key in pairs_of(loaded())}


def test_a_cell_may_name_several_documents_and_a_click_log_says_what_counts():
    labels = pd.DataFrame({"query": ["one", "two"] * 20, "docs": [["chunk-1", "chunk-2"], ["chunk-3"]] * 20})
    labels["query"] += [f" {number}" for number in range(40)]
    assert len(pairs_of(loaded(labels))) == 60
    log = LABELS.assign(clicked=[number % 2 for number in range(N)])
    with pytest.raises(InputError, match=r"Column 'clicked'.*may say what is relevant"):
        loaded(log)
    dataset = loaded(log, columns={"score": "clicked"}, relevant_from=1)
    assert set(pairs_of(dataset).values()) == {1.0}


def test_documents_of_a_store_are_named_by_id():
    dataset = loaded(corpus=Store())
    assert pairs_of(dataset) == pairs_of(loaded())
    assert dataset.num_documents == N and "60 documents lie in memory:" in "".join(dataset.notes)
    assert "without a vector" not in "".join(dataset.notes)
    lacking = Store()
    lacking.without_vector = 3
    assert "3 rows of memory: left out: without a vector." in loaded(corpus=lacking).notes
    assert pairs_of(loaded(LABELS.rename(columns={"chunk_id": "whatever"}), Store())) == pairs_of(loaded())
    gone = LABELS.assign(chunk_id=[*IDS[:-4], "a", "b", "c", "d"])
    with pytest.raises(ValueError, match=r"no document for 4 of 60 ids, the first: \['a', 'b', 'c'\]"):
        loaded(gone, Store())
    with pytest.raises(ValueError, match=r"4 corpus_ids of the qrels not in the corpus: 'a', 'b', 'c', \.\.\."):
        loaded(gone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": LABELS.rename(columns={"chunk_id": "x"}).assign(x="nothing")}, "None of the columns 'query', 'x'"),
        ({"labels": LABELS.drop(columns="query")}, "No query column was found in labels"),
        (
            {"columns": {"documents.id": "x"}},
            "names the table 'documents', but there are 'labels', 'queries', 'corpus'",
        ),
        ({"columns": {"corpus.id": "x"}}, "The corpus have no column 'x', which was named as 'id'"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_words(options, words):
    with pytest.raises(InputError, match=words):
        loaded(**options)


def test_queries_without_a_corpus_are_refused():
    with pytest.raises(InputError, match="Queries were given apart, but no corpus"):
        RetrievalDataset.load(LABELS, queries=CORPUS)


def files_with_vectors(folder):
    frame = CORPUS.assign(embedding=list(VECTORS))
    frame.to_parquet(folder / "table.parquet")
    frame.assign(embedding=[json.dumps(vector.tolist()) for vector in VECTORS]).to_csv(
        folder / "table.csv", index=False
    )
    frame.assign(embedding=VECTORS.tolist()).to_json(folder / "table.jsonl", orient="records", lines=True)
    np.savez(folder / "arrays.npz", ids=np.array(IDS), embeddings=VECTORS, texts=np.array(CORPUS["text"].tolist()))
    for name, rows in (("part-a", slice(0, 20)), ("part-b", slice(20, None))):
        (folder / "parts").mkdir(exist_ok=True)
        frame[rows].to_parquet(folder / "parts" / f"{name}.parquet")
    np.save(folder / "plain.npy", VECTORS)
    (folder / "plain.ids.txt").write_text("\n".join(IDS))
    return ["table.parquet", "table.csv", "table.jsonl", "arrays.npz", "parts", "plain.npy"]


def test_vectors_of_every_kind_of_file_are_the_same(tmp_path):
    for name in files_with_vectors(tmp_path):
        dataset = loaded(corpus=tmp_path / name)
        np.testing.assert_allclose(dataset.corpus_embeddings, VECTORS, atol=1e-6, err_msg=name)
        assert list(dataset.corpus["id"]) == IDS
        assert dataset.document_texts == (None if name == "plain.npy" else CORPUS["text"].tolist())


def test_equal_texts_with_vectors_stay_apart():
    corpus = CORPUS.assign(text="the same", embedding=list(VECTORS))
    assert len(loaded(corpus=corpus).corpus) == N, "an index holds both"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[1.0, 2.0], None], r"1 documents hold no vector in column 'e': 'b'"),
        ([[1.0, 2.0], "text"], r"1 documents hold no vector in column 'e': 'b'"),
        ([[1.0, 2.0], [1.0, float("nan")]], r"1 documents have NaN or infinite numbers .*: 'b'"),
        (
            [[1.0, 2.0], [1.0, 2.0], [1.0]],
            r"1 documents have a vector .* dimension is not the 2 of the others: 'c \(1\)'",
        ),
    ],
)
def test_vectors_that_are_none_are_named(cells, words):
    with pytest.raises(ValueError, match=words):
        as_vectors(cells, ["a", "b", "c"][: len(cells)], "documents", "e")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": np.arange(3), "embeddings": VECTORS}, r"shape \(60, 4\) .* but there are 3 ids"),
        ({"ids": np.arange(60), "embeddings": VECTORS[:, 0]}, r"shape \(60,\)"),
        ({"names": np.arange(60), "embeddings": VECTORS}, r"holds the arrays 'names', 'embeddings'. Expected 'ids'"),
        (
            {"ids": np.array([{}], dtype=object), "embeddings": VECTORS[:1]},
            r"cannot be read as npz.*allow_pickle=False",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        loaded(corpus=tmp_path / "x.npz")


def test_an_array_without_ids_says_where_they_belong(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS)
    with pytest.raises(ValueError, match=r"Put them into x.ids.txt, one a line, or x.ids.npy"):
        loaded(corpus=tmp_path / "x.npy")


def test_from_arrays_takes_numpy_torch_and_half_precision():
    ids, qrels = [f"q{n}" for n in range(N)], {f"q{n}": {IDS[n]: 2, IDS[(n + 1) % N]: 0} for n in range(N)}
    made = [
        EmbeddedDataset.from_arrays(queries=(ids, queries), corpus=(IDS, VECTORS), qrels=qrels)
        for queries in (VECTORS, torch.from_numpy(VECTORS), VECTORS.tolist(), torch.from_numpy(VECTORS).bfloat16())
    ]
    for embedded in made:
        assert embedded.qrels.keys() == {"train", "dev", "test"} and embedded.corpus.ids == IDS
        assert all(torch.equal(embedded.qrels[s].relevance, made[0].qrels[s].relevance) for s in embedded.qrels)
        torch.testing.assert_close(embedded.query_embeddings, torch.from_numpy(VECTORS), rtol=1e-2, atol=1e-2)
    train = made[0]["train"]
    for row, query_id in enumerate(train.query_ids):
        judged = train.qrels.query_index == row
        assert {IDS[d] for d in train.qrels.corpus_index[judged & (train.qrels.relevance > 0)]} == {
            IDS[int(query_id[1:])]
        }


def test_from_arrays_keeps_given_splits_and_refuses_what_does_not_fit():
    ids = [f"q{n}" for n in range(N)]
    frame = pd.DataFrame({"query_id": ids, "corpus_id": IDS, "relevance": 1.0})
    splits = {"train": frame[:30], "dev": frame[30:45], "test": frame[45:]}
    embedded = EmbeddedDataset.from_arrays(queries=(ids, VECTORS), corpus=(IDS, VECTORS), qrels=splits)
    assert embedded["test"].query_ids == ids[45:]
    with pytest.raises(ValueError, match=r"query_embeddings have 3 dimensions, but corpus_embeddings have 4"):
        EmbeddedDataset.from_arrays(queries=(ids, VECTORS[:, :3]), corpus=(IDS, VECTORS), qrels=splits)
    with pytest.raises(ValueError, match=r"not in the corpus: 'chunk-59'"):
        EmbeddedDataset.from_arrays(queries=(ids, VECTORS), corpus=(IDS[:-1], VECTORS[:-1]), qrels=splits)


def arrays(**changed):
    ids = [f"q{n}" for n in range(N)]
    given = {
        "queries": (ids, VECTORS),
        "corpus": (IDS, VECTORS),
        "qrels": dict(zip(ids, map(list, zip(IDS)), strict=True)),
    }
    return EmbeddedDataset.from_arrays(**{**given, **changed})


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ((set(IDS), VECTORS), "The ids are a set, but which vector is whose only their order tells. Pass a list"),
        ((frozenset(IDS), VECTORS), "The ids are a frozenset, but"),
        ((7, VECTORS), "The ids are an int, but"),
        (("x" * N, VECTORS), "The ids are a str, but"),
        (
            (IDS, np.ma.masked_where(VECTORS > 1, VECTORS)),
            r"The vectors have masked numbers in \d+ rows, the first: \[\d",
        ),
        ((IDS, list(np.ma.masked_where(VECTORS > 1, VECTORS))), "The vectors have masked numbers"),
        ((IDS, pd.Series([*VECTORS[1:], VECTORS[0, :3]])), "rows of one length are expected"),
        ((IDS, [*VECTORS[1:].tolist(), [1.0]]), "rows of one length are expected"),
        ((IDS, pd.Series([*VECTORS[1:], None])), "rows of one length are expected"),
        ((IDS, None), r"an array of the shape \(\) and the type object"),
        ((IDS, pd.Series(IDS)), r"an array of the shape \(60,\) and the type"),
        ((iter(IDS[1:]), VECTORS), r"the shape \(60, 4\) and the type float32, but there are 59 ids"),
    ],
)
def test_from_arrays_refuses_what_has_no_order_no_number_or_no_form(corpus, message):
    with pytest.raises(ValueError, match=message):
        arrays(corpus=corpus)


def test_from_arrays_takes_whatever_has_an_order():
    given = dict(zip(IDS, VECTORS, strict=True))
    columns = pd.DataFrame({"id": IDS, "embedding": list(VECTORS)}, index=range(N, 0, -1))
    for corpus in (
        (columns["id"], columns["embedding"]),
        (np.array(IDS), columns["embedding"].map(list)),
        (iter(IDS), VECTORS),
        (given.keys(), given.values()),
        (IDS, np.ma.masked_where(VECTORS > 99, VECTORS)),  # nothing is masked
        (IDS, [torch.from_numpy(row) for row in VECTORS]),
    ):
        embedded = arrays(corpus=corpus)
        assert embedded.corpus.ids == IDS
        assert torch.equal(embedded.corpus.embeddings, torch.nn.functional.normalize(torch.from_numpy(VECTORS)))


@pytest.mark.parametrize("seed", ["a", 0.5, True, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match=f"seed is {seed!r}, but has to be a whole number"):
        arrays(seed=seed)
    with pytest.raises(InputError, match=f"seed is {seed!r}"):
        loaded(seed=seed)


def test_masked_numbers_in_a_column_are_none():
    masked = [np.ma.masked_array(row, mask=[number == 3] * DIM) for number, row in enumerate(VECTORS)]
    with pytest.raises(ValueError, match="1 documents hold no vector in column 'embedding': 'chunk-3'"):
        loaded(corpus=CORPUS.assign(embedding=masked))


def test_judgements_that_are_none_are_named():
    ids = [f"q{n}" for n in range(N)]
    some = {one: [document] for one, document in zip(ids, IDS, strict=True)}
    for qrels, words in (({}, "The data set is empty"), ({"train": some, "dev": {}}, "'dev' is empty")):
        with pytest.raises(ValueError, match=words):
            EmbeddedDataset.from_arrays(queries=(ids, VECTORS), corpus=(IDS, VECTORS), qrels=qrels)


@pytest.mark.parametrize("name", ["chunk-0", "7"])
def test_an_id_with_two_vectors_is_refused_and_what_was_done_is_noted(name):
    ids, documents = [f"q{n}" for n in range(N)], [name, *IDS[1:]]
    qrels = {one: [document] for one, document in zip(ids, documents, strict=True)}
    for part, several in (("corpus", "document"), ("queries", "query")):
        there = {"queries": (ids, VECTORS), "corpus": (documents, VECTORS)}
        names, vectors = there[part]
        again = int(name) if name.isdecimal() and part == "corpus" else names[0]
        once_more = {**there, part: ([*names, again], np.concatenate([vectors, vectors[:1]]))}
        embedded = EmbeddedDataset.from_arrays(**once_more, qrels=qrels)
        assert any(note.startswith("1 repeated row of the ") for note in embedded.notes)
        assert any("cut" in note for note in embedded.notes)
        another = {**there, part: ([*names, again], np.concatenate([vectors, vectors[1:2]]))}
        with pytest.raises(ValueError, match=f"1 {several} id given to several different vectors: '{names[0]}'"):
            EmbeddedDataset.from_arrays(**another, qrels=qrels)


def test_rows_of_a_store_come_in_the_order_asked_for():
    rows = Store().fetch(["chunk-3", "chunk-1"])
    assert isinstance(rows, Rows) and rows.texts == ["document 3", "document 1"]
