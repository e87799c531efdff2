"""Adapters that are learned from documents alone: handed over, and called untested wherever they are shown."""

import json
import re

import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from problems import assert_adapted
from st_adapter import cli
from st_adapter.data.unlabelled import documents_alone
from st_adapter.evidence.results import Results
from st_adapter.running.run import train
from st_adapter.running.settings import RunOptions
from st_adapter.saving.folder import read_saved

DOCUMENTS = pd.DataFrame(
    {"uuid": [f"u{n}" for n in range(80)], "body": [f"Thing {n} has a name. It is number {n % 9}." for n in range(80)]}
)


@pytest.fixture(scope="module")
def finished(tiny_model_path, tmp_path_factory):
    """A run through the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("without-labels")
    DOCUMENTS.to_csv(folder / "documents.csv", index=False)
    command = ["train", "--without-labels", "--model", str(tiny_model_path), "--corpus", str(folder / "documents.csv")]
    options = ["--columns", "corpus.id=uuid", "--output-dir", str(folder / "out"), "--cache-dir", str(folder / "cache")]
    assert cli.main([*command, *options, "--device", "cpu"]) == 0
    assert cli.main([*command, *options, "--device", "cpu", "--fail-if-not-better"]) == 3
    return folder / "out"


def test_the_saved_model_opens_and_leaves_documents_alone(finished, tiny_model):
    result = train(
        tiny_model, documents_alone(DOCUMENTS, {"id": "uuid"}), cache_dir=finished.parent / "cache",
        show_progress_bar=False, options=RunOptions(without_labels=True),
    )  # fmt: skip
    saved = SentenceTransformer(str(finished / "model"), device="cpu")
    assert_adapted(saved, tiny_model, result.adapter)
    assert result.adapter.normalize == (len(tiny_model) == 3)  # as the model does that ends in Normalize
    assert not result.verdict.tested and result.verdict.sentence.startswith(
        "Not tested, too little data to tell: label about 100 queries. It was learned from 80 portions"
    )


def test_results_card_and_report_say_that_nothing_was_tested(finished):
    results = Results.read(finished / "results.json")
    assert results.adopted and results.selection.gate is None and results.held_out is None
    assert json.loads((finished / "results.json").read_text())["selection"]["num_pseudo_queries"] == 80
    assert str(results.verdict) in (finished / "model" / "README.md").read_text()
    assert f"<strong>{results.verdict.headline}</strong> It was learned" in (finished / "report.html").read_text()
    assert read_saved(finished / "model").has_adapter


def test_it_is_explored_where_its_documents_lie(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)
    words = ["explore", "out", "--columns", "corpus.id=uuid", "--cache-dir", "cache", "--device", "cpu"]
    assert cli.main([*words, "--space-dir", str(tmp_path / "space")]) == 0
    assert json.loads((tmp_path / "space" / "explore.json").read_text())["ids"] == list(DOCUMENTS["uuid"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "pairs.csv"], "learns from the documents of --corpus alone, but --data came with it"),
        (["--corpus", "c.csv", "--labels", "l.csv"], "alone, but --labels came with it"),
        ([], "alone, but --corpus is missing"),
        (["--corpus", "nowhere.csv"], "There is no nowhere.csv. Without labels, --corpus expects a file or folder"),
        (["--corpus", "{documents}", "--method", "linear"], "Leave out --method, or --without-labels"),
        (["--corpus", "{documents}", "--memory", "4GB"], "--memory is for labels, or for documents that are vectors"),
        (["--corpus", "{documents}", "--ray-address", "local"], "--ray-address is for labels"),
        (["--corpus", "{documents}", "--relevant-from", "2"], "--relevant-from is for labels"),
        (["--corpus", "{documents}", "--ignore-columns", "uuid"], "--ignore-columns is for labels"),
        (["--corpus", "{documents}", "--split-by", "document"], "--split-by is for labels"),
        (["--corpus", "{documents}", "--drop-leaks"], "--drop-leaks is for labels"),
        (["--corpus", "{documents}", "--paraphrase-threshold", ".5"], "--paraphrase-threshold is for labels"),
        (["--corpus", "{documents}", "--allow-other-vectors"], "--allow-other-vectors is for labels"),
        (["--corpus", "{documents}", "--query-column", "body"], "maps the role 'query', but this data has"),
        (["--corpus", "{documents}", "--columns", "labels.query=body"], "the role 'labels.query', but this data"),
        (["--corpus", "{documents}", "--title-column", "name"], "'title' to 'name', which is not there. Found the"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_anything_is_embedded(
    words, message, finished, tiny_model_path, capsys
):
    words = [word.format(documents=finished.parent / "documents.csv") for word in words]
    assert cli.main(["train", "--without-labels", "--model", str(tiny_model_path), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_documents_of_one_sentence_are_too_little(tiny_model, tmp_path):
    short = documents_alone(pd.DataFrame({"text": [f"two {n}" for n in range(100)]}))
    with pytest.raises(ValueError, match="Fewer than 50 documents are longer than a sentence"):
        train(tiny_model, short, cache_dir=tmp_path, show_progress_bar=False, options=RunOptions(without_labels=True))


def test_a_table_of_documents():
    table = pd.DataFrame({"_id": ["a", "b", "c"], "title": ["T", None, None], "text": ["one", "two", " two "]})
    dataset = documents_alone(table, name="docs")
    assert list(dataset.corpus["id"]) == ["a", "b"] and dataset.document_texts == ["T one", "two"]
    assert dataset.splits == [] and dataset.query_texts == [] and dataset.name == "docs"
    with pytest.raises(ValueError, match="holds no document with a text"):
        documents_alone(pd.DataFrame({"text": ["", None]}))


def test_judgements_take_no_part_in_it(tiny_model, tmp_path):
    rows = {"query": [f"where is {n}" for n in range(80)], "document": DOCUMENTS["body"]}
    options = RunOptions(without_labels=True)
    labelled = train(tiny_model, pd.DataFrame(rows), cache_dir=tmp_path, show_progress_bar=False, options=options)
    assert labelled.results.fitted_on == [] and labelled.results.held_out == "test"
    assert "of test" in labelled.verdict.measured


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a", "a"], "text": ["one thing", "another"]}, "1 document id given to several different texts: 'a'"),
        ({"text": ["['a', 'b']", "['c']"]}, "holds lists or objects written as text"),
        ({"text": ["one thing", 7]}, "1 documents have an empty text or none that is a string"),
    ],
)
def test_documents_are_read_with_the_same_care_as_those_of_labels(table, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        documents_alone(pd.DataFrame(table))


def test_what_was_left_out_of_a_table_of_documents_is_told():
    notes = documents_alone(pd.DataFrame({"text": ["one thing", "one thing", "", "another"]})).notes
    assert notes == (
        "1 document without text that nothing judges left out.",
        "1 document with exactly the text of an earlier one merged into it.",
    )
