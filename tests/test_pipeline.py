"""The main job from end to end on a tiny real model, through the command line as users call it."""

import json

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter import cli
from st_adapter.data import RetrievalDataset
from st_adapter.embeddings import embed
from st_adapter.model import detach
from st_adapter.pipeline import run_training

COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Pairs whose two sides name things differently, so that there is something to learn."""
    rows = [
        {"question": f"where is the {color} {thing}", "passage": f"{thing} : this {thing} has the color {color}"}
        for color in COLORS
        for thing in THINGS
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(pairs_file, tiny_model_path, tmp_path_factory):
    """One training run through the command line; the folder it leaves behind."""
    folder = tmp_path_factory.mktemp("run") / "out"
    cache = str(tmp_path_factory.mktemp("cache"))
    status = cli.main(
        ["train", "--model", str(tiny_model_path), "--data", str(pairs_file), "--output-dir", str(folder)]
        + ["--cache-dir", cache, "--device", "cpu", "--alpha", "0.5"]
    )
    assert status == 0
    return folder


def test_results_hold_what_is_needed_to_judge_and_to_repeat(finished, tiny_model_path):
    results = json.loads((finished / "results.json").read_text())
    for split in ("dev", "test"):
        for side in ("base", "adapted"):
            assert set(results[split][side]) >= {"ndcg@10", "mrr@10", "accuracy@10", "recall@10", "map@100"}
        assert results[split]["num_queries"] == len(results[split]["per_query"]["base"]["ndcg@10"])
        compared = results[split]["comparisons"]["all"]["ndcg@10"]
        means = [results[split][side]["ndcg@10"] for side in ("base", "adapted")]
        assert [compared["base"], compared["adapted"]] == means
    # One query a document: none of test was seen, and dev is seen because it was fitted on.
    assert set(results["dev"]["comparisons"]) == {"all", "seen"}
    assert set(results["test"]["comparisons"]) == {"all", "unseen"}
    num_train = results["data"]["train"]["num_queries"]
    assert results["dev"]["num_queries"] + results["test"]["num_queries"] + num_train == len(COLORS) * len(THINGS)
    assert results["data"]["num_documents"] == len(COLORS) * len(THINGS)
    assert results["method"] == "auto" and results["fitted_on"] == ["train", "dev"] and results["alpha"] == 0.5
    selection = results["selection"]
    assert results["adopted"] is selection["gate"]["adopted"]
    assert selection["candidates"][0]["name"] == selection["chosen"]
    assert set(results["seconds"]) == {"embedding", "fitting", "evaluating", "saving"}
    assert results["base_model"] == str(tiny_model_path) and results["seed"] == 0
    assert set(results["versions"]) >= {"python", "torch", "sentence-transformers"}


def test_the_learning_curve_joins_the_report(finished, pairs_file, tiny_model_path, tmp_path, capsys):
    page = finished / "report.html"
    assert page.is_file() and "How many labels are enough" not in page.read_text()
    arguments = [
        "learning-curve",
        "--model",
        str(tiny_model_path),
        "--data",
        str(pairs_file),
        "--method",
        "closed-form",
    ]
    arguments += ["--num-draws", "2", "--cache-dir", str(tmp_path), "--output-dir", str(finished)]
    assert cli.main(arguments) == 0
    curve = json.loads((finished / "learning_curve.json").read_text())
    assert curve["sentence"] in " ".join(capsys.readouterr().out.split())
    assert (
        curve["points"][-1]["num_queries"]
        == json.loads((finished / "results.json").read_text())["data"]["train"]["num_queries"]
    )
    assert (finished / "learning_curve.png").is_file()
    assert curve["sentence"] in page.read_text() and "How many labels are enough" in page.read_text()
    assert cli.main(["learning-curve", *arguments[1:5], "--sizes", "1"]) == 2
    assert "each has to be at least 2" in capsys.readouterr().err.replace("\n", " ")


def test_the_saved_model_reaches_the_reported_figures(finished, pairs_file, tmp_path, capsys):
    results = json.loads((finished / "results.json").read_text())
    output = tmp_path / "evaluation.json"
    arguments = ["evaluate", "--model", str(finished / "model"), "--data", str(pairs_file), "--output", str(output)]
    assert cli.main([*arguments, "--cache-dir", str(tmp_path)]) == 0
    again = json.loads(output.read_text())
    for side in ("base", "adapted"):
        assert again[side] == pytest.approx(results["test"][side], abs=1e-6)
    assert set(again["comparisons"]) == {"all", "unseen"}, "the model knows what it was fitted on"
    shown = capsys.readouterr().out
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    assert f"{compared['adapted']:.4f}" in shown and f"{compared['interval'][0]:+.4f} to" in shown
    sentence = f"better on {compared['wins']} of {compared['num_queries']} queries, worse on {compared['losses']}; "
    assert f"All queries: {sentence}" in shown and f"Documents new: {sentence}" in shown


def test_queries_are_adapted_and_documents_are_not(finished, tiny_model_path):
    results = json.loads((finished / "results.json").read_text())
    assert results["adopted"], "the pairs are made so that an adapter helps on dev"
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    saved = SentenceTransformer(str(finished / "model"), device="cpu")
    texts = ["where is the red car", "a window : blue"]
    assert (saved.encode_document(texts) == base.encode_document(texts)).all()
    assert (saved.encode(texts) == base.encode(texts)).all()
    assert abs(saved.encode_query(texts) - base.encode_query(texts)).max() > 1e-3


def test_a_second_run_replaces_the_first_and_finds_its_embeddings(pairs_file, tiny_model_path, tmp_path):
    dataset = RetrievalDataset.load(str(pairs_file))
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    options = {"method": "closed-form", "cache_dir": tmp_path / "cache", "show_progress_bar": False}
    first = run_training(model, dataset, tmp_path / "out", **options)
    again = run_training(model, dataset, tmp_path / "out", **options)
    for run in (first, again):
        run.results.pop("seconds"), run.results["selection"].pop("seconds")
    assert first.results == again.results
    assert json.loads(again.results_file.read_text())["test"] == again.results["test"]


NOTHING_HELPS = ["--method", "gradient", "--learning-rate", "1e-12", "--start", "identity", "--num-train-epochs", "1"]


def test_when_nothing_helps_the_base_model_is_saved(pairs_file, tiny_model_path, tmp_path, capsys):
    arguments = ["train", "--model", str(tiny_model_path), "--data", str(pairs_file), "--cache-dir", str(tmp_path)]
    arguments += ["--output-dir", str(tmp_path / "out"), *NOTHING_HELPS]
    assert cli.main(arguments) == 0
    assert "The base model is kept. Not better than the base model: +0.000" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["adopted"] is False and results["test"]["adapted"] == results["test"]["base"]
    saved = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    assert detach(saved)[1] == []
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    assert (saved.encode_query(["the red car"]) == base.encode_query(["the red car"])).all()

    assert cli.main([*arguments, "--fail-if-not-better"]) == 3
    assert cli.main([*arguments, "--no-save-base"]) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"results.json", "report.html", "report.png"}, "an old model must not stay"


def test_the_gate_keeps_the_base_model_when_the_gain_may_be_chance(pairs_file, tiny_model_path, tmp_path, capsys):
    arguments = ["train", "--model", str(tiny_model_path), "--data", str(pairs_file), "--cache-dir", str(tmp_path)]
    arguments += ["--output-dir", str(tmp_path / "out"), "--method", "gradient", "--learning-rate", "0.02"]
    assert cli.main([*arguments, "--alpha", "1e-9"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    gate = results["selection"]["gate"]
    assert results["adopted"] is False and gate["gain"] > 0 and gate["p_value"] > 1e-9
    assert "Not surely better than the base model" in capsys.readouterr().out.replace("\n", " ")
    assert results["test"]["adapted"] == results["test"]["base"]


def test_bad_input_is_one_clear_message_and_status_2(pairs_file, tiny_model_path, tmp_path, capsys):
    def fails(message, *changes):
        options = {"--model": str(tiny_model_path), "--data": str(pairs_file), "--output-dir": str(tmp_path / "new")}
        options |= {"--cache-dir": str(tmp_path / "cache"), **dict(zip(changes[::2], changes[1::2], strict=True))}
        assert cli.main(["train", *(word for pair in options.items() for word in pair)]) == 2
        error = capsys.readouterr().err
        assert message in error.replace("\n", " ") and "Traceback" not in error

    fails("nowhere.csv", "--data", str(tmp_path / "nowhere.csv"))
    fails("learning_rate is -1.0", "--learning-rate", "-1")
    fails("--kind, --learning-rate came with --method auto", "--learning-rate", "0.1", "--kind", "mlp")
    fails("alpha is 2.0", "--alpha", "2")
    fails("seed is -1", "--seed", "-1")
    fails("The device 'tpu9' cannot be used", "--device", "tpu9")
    fails("no_such_column", "--query-column", "no_such_column")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    fails("holds files that are not from an earlier run, the first: ['thesis.txt']", "--output-dir", str(foreign))
    assert (foreign / "thesis.txt").read_text() == "mine" and len(list(foreign.iterdir())) == 1
    fails("is a file", "--output-dir", str(foreign / "thesis.txt"))


def test_unknown_options_and_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--modell", "x"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--learning-rate" in shown and "Peak learning rate of AdamW" in shown


def test_evaluation_knows_what_the_model_was_fitted_on(pairs_file, tiny_model_path, tmp_path, capsys):
    common = ["--data", str(pairs_file), "--cache-dir", str(tmp_path / "cache")]
    train = ["train", "--model", str(tiny_model_path), "--output-dir", str(tmp_path / "out"), "--seed", "3"]
    assert cli.main([*train, "--method", "closed-form", *common]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    metadata = json.loads((tmp_path / "out" / "model" / "st_adapter_config.json").read_text())["metadata"]
    assert metadata["seed"] == 3 and set(metadata["ndcg@10"]) == {"test"}
    capsys.readouterr()
    for split, warned in (("test", False), ("dev", True)):
        output = tmp_path / f"{split}.json"
        arguments = ["evaluate", "--model", str(tmp_path / "out" / "model"), "--split", split, "--output", str(output)]
        assert cli.main([*arguments, *common]) == 0
        assert ("fitted on the split" in capsys.readouterr().out) is warned
        assert json.loads(output.read_text())["num_queries"] == results[split]["num_queries"], (
            "the seed of the training"
        )


def test_an_unknown_split_is_named(finished, pairs_file, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(finished / "model"), "--data", str(pairs_file), "--split", "holdout"]
    assert cli.main([*arguments, "--cache-dir", str(tmp_path)]) == 2
    assert "There is no split 'holdout'; the data have ['train', 'dev', 'test']" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_the_test_split_chooses_nothing(pairs_file, tiny_model_path, tmp_path):
    """Judgements of the test split may be anything: the adapter stays the same to the last bit."""
    dataset = RetrievalDataset.load(str(pairs_file))
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    embedded = embed(model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    weights = []
    for change in (0, 7):
        frame = dataset.qrels["test"].to_pandas()
        frame["corpus_id"] = frame["corpus_id"].tolist()[change:] + frame["corpus_id"].tolist()[:change]
        changed = RetrievalDataset(
            dataset.queries,
            dataset.corpus,
            {**dataset.qrels, "test": type(dataset.qrels["test"]).from_pandas(frame)},
        )
        options = {"alpha": 0.5, "cache_dir": tmp_path / "cache", "show_progress_bar": False}
        run = run_training(model, changed, tmp_path / str(change), **options)
        saved = SentenceTransformer(str(run.model_dir), device="cpu")
        features = {"sentence_embedding": torch.eye(embedded.query_embeddings.shape[1])}
        for module in detach(saved)[1]:
            features = module(features)
        weights.append(features["sentence_embedding"])
    assert torch.equal(*weights)
