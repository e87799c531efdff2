"""Runs with a teacher, through the command line and in Python: what they say of it, and what they refuse."""

import json

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from problems import assert_adapted
from st_adapter import cli
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.unlabelled import documents_alone
from st_adapter.evidence.results import Results
from st_adapter.running.run import train
from st_adapter.running.settings import RunOptions
from st_adapter.saving.folder import read_saved

PAIRS = pd.DataFrame(
    {
        "query": [f"where is thing {number} of {number % 7}" for number in range(60)],
        "document": [f"Thing {number} has a name. It is {number % 7}." for number in range(60)],
    }
)
SAYS = (
    "The teacher tiny-cross-encoder scored 30 documents each for 2 queries without labels and 60 portions of documents."
)


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model_path, tiny_cross_encoder_path):
    """A folder with pairs, documents alone and a log; and what all commands begin and end with."""
    folder = tmp_path_factory.mktemp("teacher")
    PAIRS.to_csv(folder / "pairs.csv", index=False)
    PAIRS[["document"]].to_csv(folder / "documents.csv", index=False)
    (folder / "log.txt").write_text("how to open it\nwhat a name is\n\nhow to open it\n")
    common = ["--model", str(tiny_model_path), "--cache-dir", str(folder / "cache"), "--device", "cpu"]
    return folder, ["train", *common, "--teacher", str(tiny_cross_encoder_path)]


def test_without_labels_a_teacher_gives_the_adapter_and_nothing_is_tested(files, tiny_model):
    folder, command = files
    words = ["--without-labels", "--corpus", str(folder / "documents.csv"), "--unlabelled-queries"]
    out = folder / "untested"
    assert cli.main([*command, *words, str(folder / "log.txt"), "--output-dir", str(out)]) == 0
    results = Results.read(out / "results.json")
    assert results.adopted and results.selection.gate is None and results.selection.chosen == "teacher"
    says = (
        "It was learned from a teacher without any label, so that nothing says whether it is better than the base "
        f"model. {SAYS}"
    )
    assert results.selection.reason == says
    assert (
        f"Not tested, too little data to tell: label about 100 queries. {says}"
        in (out / "model" / "README.md").read_text()
    )
    # In Python the same, with the teacher and the queries as they are.
    teacher = CrossEncoder(command[-1], device="cpu")
    options = RunOptions(without_labels=True, unlabelled_queries=["how to open it", "what a name is"])
    again = train(
        tiny_model, documents_alone(PAIRS[["document"]]), teacher=teacher, cache_dir=folder / "cache",
        show_progress_bar=False, options=options,
    )  # fmt: skip
    assert_adapted(SentenceTransformer(str(out / "model"), device="cpu"), tiny_model, again.adapter)
    assert not np.allclose(again.adapter.transform(np.eye(32, dtype=np.float32)), np.eye(32))


def test_with_labels_console_results_and_card_name_the_teacher(files, capsys):
    folder, command = files
    out = folder / "tested"
    data = ["--data", str(folder / "pairs.csv"), "--unlabelled-queries", str(folder / "log.txt")]
    assert cli.main([*command, *data, "--alpha", "0.9", "--output-dir", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    selection = json.loads((out / "results.json").read_text())["selection"]
    teaching = selection["teaching"]
    assert teaching["teacher"] == "tiny-cross-encoder" and teaching["num_queries"] == 2
    assert teaching["num_documents"] == 30 and teaching["num_pseudo_queries"] > 40
    starts = {candidate["name"].partition(",")[0] for candidate in selection["candidates"]}
    assert starts == {"pseudo-queries", "teacher"}
    sentence = Results.read(out / "results.json").selection.teaching.sentence
    assert sentence in printed and sentence in (out / "report.html").read_text()
    assert sentence in read_saved(out / "model").training.reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "gradient"], "'gradient' learns from labels alone, but there is a teacher. Choose --method auto"),
        (["--method", "closed-form"], "or leave out --teacher"),
        (["--teacher", "openai:text-embedding-3-small"], "The teacher openai:text-embedding-3-small cannot be opened"),
        (["--unlabelled-queries", "nowhere.txt"], "'nowhere.txt' is no file or folder here"),
    ],
)
def test_what_does_not_go_with_a_teacher_is_refused_before_anything_is_embedded(words, message, files, capsys):
    folder, command = files
    cache = ["--cache-dir", str(folder / "nothing"), "--output-dir", str(folder / "none")]
    assert cli.main([*command, *cache, "--data", str(folder / "pairs.csv"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (folder / "nothing" / "embeddings").exists()


def test_queries_without_labels_are_nothing_without_a_teacher(files, capsys):
    folder, command = files
    words = ["--data", str(folder / "pairs.csv"), "--unlabelled-queries", str(folder / "log.txt")]
    assert cli.main([*command[:-2], *words]) == 2
    assert "Add --teacher MODEL or --query-model MODEL, or leave out --unlabelled-queries" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_teacher_reads_texts(tiny_model, tiny_cross_encoder_path, tmp_path):
    vectors = list(np.eye(60, 32, dtype=np.float32))
    corpus = pd.DataFrame({"id": [f"d{row}" for row in range(60)], "embedding": vectors})
    labels = pd.DataFrame({"query": PAIRS["query"], "corpus_id": corpus["id"]})
    dataset = RetrievalDataset.load(labels, corpus=corpus)
    with pytest.raises(ValueError, match="A teacher reads the documents, but they have no texts"):
        train(tiny_model, dataset, teacher=str(tiny_cross_encoder_path), cache_dir=tmp_path, show_progress_bar=False)
