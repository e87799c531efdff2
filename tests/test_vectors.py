"""Vectors that are there already, from the command line and in Python, to an adapted model."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from build_stores import BUILDERS
from sentence_transformers import SentenceTransformer

from st_adapter import RetrievalDataset, cli, embed, train
from st_adapter.data.pseudo_queries import pseudo_queries
from st_adapter.embeddings import embed_pseudo_queries
from st_adapter.running.settings import RunOptions
from st_adapter.stores import open_store

COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]
TEXTS = [f"{thing} : this {thing} has the color {color}" for color in COLORS for thing in THINGS]
IDS = [f"d{number}" for number in range(80)]
QUERIES = [f"where is the {color} {thing}" for color in COLORS for thing in THINGS]


@pytest.fixture(scope="module")
def vectors(tiny_flat_model_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    return model.encode_document(TEXTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory, vectors):
    """A folder with labels, the documents as texts and as vectors, and a table of LanceDB."""
    folder = tmp_path_factory.mktemp("vectors")
    pd.DataFrame({"query": QUERIES, "chunk": IDS}).to_csv(folder / "labels.csv", index=False)
    corpus = pd.DataFrame({"id": IDS, "text": TEXTS})
    corpus.to_parquet(folder / "texts.parquet")
    corpus.assign(embedding=list(vectors)).to_parquet(folder / "vectors.parquet")
    corpus.assign(embedding=list(vectors[::-1])).to_parquet(folder / "wrong.parquet")
    with BUILDERS["lancedb"](folder, IDS, vectors, TEXTS):
        pass
    return folder


def run(tiny_flat_model_path, place, corpus, *more):
    arguments = ["train", "--model", tiny_flat_model_path, "--labels", place / "labels.csv", "--corpus", corpus]
    arguments += ["--method", "closed-form", "--alpha", "0.99", "--disable-tqdm", *more]
    return cli.main([str(argument) for argument in arguments])


def num_cached(folder):
    return sum(pa.ipc.open_stream(path.read_bytes()).read_all().num_rows for path in folder.rglob("*.arrow"))


@pytest.mark.parametrize("corpus", ["texts.parquet", "vectors.parquet", "lancedb#docs"])
def test_wherever_the_documents_lie_the_adapter_is_the_same(corpus, tiny_flat_model_path, place, tmp_path, capsys):
    where = f"lancedb:{place / 'lancedb'}#docs" if corpus.startswith("lancedb") else place / corpus
    arguments = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
    assert run(tiny_flat_model_path, place, where, *arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["adopted"] and results["data"]["num_documents"] == 80
    assert results["data"]["corpus"] == (str(where) if corpus.startswith("lancedb") else corpus)
    if corpus == "texts.parquet":
        assert num_cached(tmp_path / "cache") == 160
    else:
        assert num_cached(tmp_path / "cache") == 80, "no document was embedded and kept"
        assert "50 texts embedded again: the stored vectors are this model's" in printed
    whole = train(
        str(tiny_flat_model_path),
        RetrievalDataset.load(place / "labels.csv", corpus=place / "texts.parquet"),
        method="closed-form",
        alpha=0.99,
        cache_dir=tmp_path / "again",
        show_progress_bar=False,
    )
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    expected = whole.evaluation.compare("ndcg@10")
    assert compared["base"] == pytest.approx(expected.base, abs=1e-6)
    assert compared["adapted"] == pytest.approx(expected.adapted, abs=1e-6)
    model = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    np.testing.assert_allclose(model.encode_query(QUERIES[:3]), whole.model.encode_query(QUERIES[:3]), atol=1e-5)
    np.testing.assert_array_equal(model.encode_document(TEXTS[:3]), whole.base.model.encode_document(TEXTS[:3]))
    assert cli.main(["report", "--output-dir", str(tmp_path / "out")]) == 0


def test_a_saved_model_is_evaluated_on_a_store(tiny_flat_model_path, place, tmp_path, capsys):
    assert (
        run(
            tiny_flat_model_path,
            place,
            place / "vectors.parquet",
            "--output-dir",
            tmp_path / "out",
            "--cache-dir",
            tmp_path / "c",
        )
        == 0
    )
    capsys.readouterr()
    arguments = [
        "evaluate",
        "--model",
        tmp_path / "out",
        "--labels",
        place / "labels.csv",
        "--cache-dir",
        tmp_path / "c",
    ]
    arguments += ["--corpus", f"lancedb:{place / 'lancedb'}#docs", "--output", tmp_path / "evaluated.json"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    trained = json.loads((tmp_path / "out" / "results.json").read_text())
    ours, theirs = (each["comparisons"]["all"]["ndcg@10"] for each in (evaluated, trained["test"]))
    assert (ours["base"], ours["adapted"]) == pytest.approx((theirs["base"], theirs["adapted"]), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--data or --labels is needed, but neither came"),
        (["--data", "labels.csv", "--labels", "labels.csv"], "--data or --labels is needed, but both came"),
        (["--labels", "labels.csv"], "--labels came without --corpus"),
        (["--data", "labels.csv", "--queries", "x.csv"], "--queries came with --data"),
        (["--labels", "labels.csv", "--corpus", "nowhere.parquet"], "no file or folder 'nowhere.parquet'"),
        (["--labels", "labels.csv", "--corpus", "chrom:x#docs"], "There is no store 'chrom'"),
        (["--labels", "labels.csv", "--corpus", "lancedb:lancedb#nope"], "has no table 'nope', only"),
        (["--labels", "labels.csv", "--corpus", "wrong.parquet"], "in another order than ids and texts.*--allow-other"),
        (
            ["--labels", "labels.csv", "--corpus", "texts.parquet", "--columns", "corpus.id"],
            "--columns got 'corpus.id'",
        ),
        (
            ["--labels", "labels.csv", "--corpus", "texts.parquet", "--columns", "corpus.id=x"],
            "no column 'x'.*--columns",
        ),
    ],
)
def test_what_cannot_be_is_said_in_flags(arguments, words, tiny_flat_model_path, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    common = ["train", "--model", str(tiny_flat_model_path), "--output-dir", str(tmp_path / "out")]
    assert cli.main([*common, "--cache-dir", str(tmp_path / "cache"), *arguments]) != 0
    printed = capsys.readouterr()
    assert re.search(words, " ".join((printed.out + printed.err).split()))
    assert not (tmp_path / "out" / "results.json").exists()


def test_queries_that_are_documents_of_the_store_are_left_out(tiny_flat_model_path, tmp_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    texts = [*TEXTS, *(query.upper() for query in QUERIES)]
    ids = [f"d{number}" for number in range(160)]
    with BUILDERS["lancedb"](tmp_path, ids, model.encode_document(texts), texts) as address:
        labels = pd.DataFrame({"query": QUERIES, "corpus_id": IDS})
        results = [
            train(
                model,
                RetrievalDataset.load(labels, corpus=corpus),
                method="closed-form",
                cache_dir=tmp_path / "cache",
                show_progress_bar=False,
            )
            for corpus in (open_store(address), pd.DataFrame({"id": ids, "text": texts}))
        ]
    of_store, of_texts = (result.evaluation for result in results)
    assert of_store.num_own_copies == of_texts.num_own_copies == len(of_texts.query_ids) > 0
    assert of_store.base_means["ndcg@10"] == pytest.approx(of_texts.base_means["ndcg@10"], abs=1e-6)


def test_queries_may_come_as_vectors_too(tiny_flat_model_path, vectors, tmp_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    queries = pd.DataFrame({"id": IDS, "vector": list(model.encode_query(QUERIES))})
    corpus = pd.DataFrame({"id": IDS, "vector": list(vectors)})
    dataset = RetrievalDataset.load(pd.DataFrame({"query_id": IDS, "corpus_id": IDS}), queries=queries, corpus=corpus)
    assert "found by the cosine of their vectors alone" in " ".join(dataset.notes)
    result = train(model, dataset, method="closed-form", alpha=0.99, cache_dir=tmp_path, show_progress_bar=False)
    assert list(tmp_path.rglob("*.arrow")) == [], "nothing was embedded"
    assert "was not checked that they are this model's" in " ".join(result.results.data.notes)
    assert result.adapter is not None and torch.isfinite(result.adapter.transform(torch.eye(32))).all()
    assert result.report(tmp_path / "page.html").is_file()


def test_the_documents_of_a_database_give_no_pseudo_queries(tiny_flat_model_path, tmp_path):
    # Only the labelled ones are at hand, in another order than those of the database.
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    texts = [f"Thing {number} is here. It is big." for number in range(80)]
    labels = pd.DataFrame({"query": QUERIES[:70], "chunk": IDS[79:9:-1]})
    with BUILDERS["lancedb"](tmp_path, IDS, model.encode_document(texts), texts):
        pass
    dataset = RetrievalDataset.load(labels, corpus=open_store(f"lancedb:{tmp_path / 'lancedb'}#docs"))
    embedded = embed(model, dataset, cache_dir=tmp_path / "cache", show_progress_bar=False)
    assert len(pseudo_queries(dataset.document_texts).texts) == 70
    options = {"cache_dir": tmp_path / "cache", "show_progress_bar": False}
    assert embed_pseudo_queries(model, dataset, embedded, **options) is None
    with pytest.raises(ValueError, match="so that without labels there is nothing to learn from"):
        train(model, dataset, options=RunOptions(without_labels=True), **options)
