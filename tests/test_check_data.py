"""What `st-adapter check-data` shows, and that `train` reads and says the same."""

import json

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter import cli
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.summary import how_read, summarised
from st_adapter.embeddings.cost import embedding_cost

ROWS = [
    {"question": f"how to {a} {b}?", "answer": answer, "score": int(n == 0), "note": "n"}
    for a in "abcdefgh"
    for b in "xyzuv"
    for n, answer in enumerate((f"{a} {b}", f"{b} {a}"))
]


@pytest.fixture
def pairs_file(tmp_path):
    pd.DataFrame(ROWS).to_csv(tmp_path / "pairs.csv", index=False, sep=";", encoding="utf-16")
    return tmp_path / "pairs.csv"


def said_by(capsys, *words, status=0):
    assert cli.main([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def test_counts_and_columns(pairs_file, capsys, monkeypatch):
    monkeypatch.setattr(SentenceTransformer, "__init__", lambda *_: pytest.fail("a model was opened"))
    said = said_by(capsys, "check-data", pairs_file)
    assert said == said_by(capsys, "check-data", "--data", pairs_file)
    assert "pairs.csv: 80 documents, the labelled ones only" in said
    assert "Columns: query = 'question', document = 'answer', score = 'score'." in said
    assert "Read as UTF-16" in said and "separated by semicolons" in said and "left unused: 'note'" in said
    dataset = RetrievalDataset.load(pairs_file)
    for split, number in dataset.num_queries.items():
        assert f"│ {split} │ {number} │ {number} │ {number} │ 1 to 1, median 1 │" in said
    assert "40 queries of 11 to 11 characters, median 11." in said


def test_the_same_flags_as_train(pairs_file, capsys):
    by_document = said_by(capsys, "check-data", pairs_file, "--split-by", "document", "--seed", "3")
    assert "to be cut │ 40" in by_document
    said = said_by(capsys, "check-data", pairs_file, "--relevant-from", "2", status=2)
    assert "Give a lower --relevant-from" in said
    turned = ["--query-column", "answer", "--document-column", "question", "--ignore-columns", "score"]
    mapped = said_by(capsys, "check-data", pairs_file, *turned)
    assert "query = 'answer', document = 'question'" in mapped


@pytest.mark.parametrize("flags", [("--memory", "1GB"), ("--ray-address", "local")])
def test_flags_of_a_folder_of_vectors_are_refused_without_one_as_train_refuses_them(
    flags, pairs_file, tiny_model_path, capsys
):
    asked = f"{flags[0]} is for a --corpus that st-adapter embed wrote, but there is none"
    assert asked in said_by(capsys, "check-data", pairs_file, *flags, status=2)
    assert asked in said_by(capsys, "train", "--model", tiny_model_path, "--data", pairs_file, *flags, status=2)


def test_logs_say_how_they_were_read(tmp_path, capsys):
    log = [
        {"q": f"{n}?", "d": f"D{n + m}", "vues": 20, "clics": 15 * (m == 0), "rang": m + 1}
        for n in range(30)
        for m in (0, 1)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    flags = [
        "--query-column",
        "q",
        "--document-column",
        "d",
        "--clicks-column",
        "clics",
        "--impressions-column",
        "vues",
    ]
    said = said_by(capsys, "check-data", tmp_path / "log.jsonl", *flags, "--rank-column", "rang")
    assert "clicks = 'clics', impressions = 'vues', rank = 'rang'" in said
    assert "Read as a click log" in said and "looked at with probability 1/r^1.00 (assumed" in said


def test_labels_and_corpus_apart(tmp_path, capsys):
    pd.DataFrame({"id": list("abcd"), "text": list("ABCD")}).to_csv(tmp_path / "corpus.csv", index=False)
    labels = pd.DataFrame({"query": ["1?", "2?", "3?"], "corpus_id": list("abc"), "split": ["train", "dev", "test"]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    said = said_by(capsys, "check-data", "--labels", tmp_path / "labels.csv", "--corpus", tmp_path / "corpus.csv")
    assert "labels.csv: 4 documents" in said
    assert "Columns in corpus: id = 'id', text = 'text'." in said


def test_with_a_model(tiny_model_path, tmp_path, capsys):
    rows = [*ROWS, {"question": "long?", "answer": "word " * 100, "score": 1, "note": "n"}]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    output = tmp_path / "check.json"
    said = said_by(capsys, "check-data", tmp_path / "pairs.csv", "--model", tiny_model_path, "--output", output)
    assert "1 document longer than the 64 tokens that the model reads" in said
    # 41 queries and 81 documents of 32 dimensions, 4 bytes each.
    assert "Embedding 122 texts takes about" in said and "as 105 of them show, and 0.0 MB" in said
    found = json.loads(output.read_text())
    assert found["embedding"]["num_bytes"] == 122 * 32 * 4 and found["long_texts"]["num_documents"] == 1
    assert sum(split["num_relevant"] for split in found["splits"]) == 41
    dataset = RetrievalDataset.load(tmp_path / "pairs.csv")
    assert found["how_read"] == list(how_read(dataset))
    assert {sample["query"] for sample in found["samples"]} <= set(dataset.query_texts)


def test_neither_or_both_is_refused(pairs_file, capsys):
    assert "--data or --labels is needed, but neither came" in said_by(capsys, "check-data", status=2)
    assert "--data came with" in said_by(capsys, "check-data", pairs_file, "--data", pairs_file, status=2)
    assert "There is no file or folder" in said_by(capsys, "check-data", "nowhere.csv", status=2)


def test_variants_of_a_text_are_counted():
    rows = [{"query": text, "document": "D"} for text in ("a b?", "A b?", "a  b?", "c?")]
    summary = summarised(RetrievalDataset.load(rows, cut_into=()), num_samples=9)
    assert summary.queries.num_texts == 4 and summary.queries.num_variants == 2
    assert summary.documents.num_texts == 1 and len(summary.samples) == 4
    assert (summary.splits[0].fewest, summary.splits[0].median, summary.splits[0].most) == (1, 1, 1)


def test_vectors_cost_nothing(tiny_model):
    eye = torch.eye(32).tolist()
    parts = {
        "queries": pd.DataFrame({"id": range(32), "text": [f"q{n}" for n in range(32)]}),
        "corpus": pd.DataFrame({"id": range(32), "embedding": eye}),
        "qrels": pd.DataFrame({"query_id": range(32), "corpus_id": range(32)}),
    }
    dataset = RetrievalDataset.load(parts, cut_into=())
    assert summarised(dataset).documents is None and summarised(dataset).samples[0].document == "0"
    assert embedding_cost(tiny_model, dataset).num_texts == 32
