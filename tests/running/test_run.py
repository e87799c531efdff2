"""The main job from end to end on a tiny real model, through the command line as users call it."""

import json
import shutil

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from problems import COLORS, THINGS
from st_adapter import cli
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.fitting import portfolio
from st_adapter.running.run import train
from st_adapter.saving.attach import detach
from st_adapter.saving.folder import read_saved


@pytest.fixture(scope="module")
def finished(pairs_file, tiny_model_path, tmp_path_factory, whole_effort):
    """One training run through the command line, of as many steps as there are; the folder it leaves behind."""
    folder = tmp_path_factory.mktemp("run") / "out"
    words = ["train", "--model", str(tiny_model_path), "--data", str(pairs_file), "--output-dir", str(folder)]
    words += ["--cache-dir", str(tmp_path_factory.mktemp("cache")), "--device", "cpu", "--alpha", "0.5"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(portfolio, "_EFFORT", whole_effort)
        assert cli.main(words) == 0
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
    assert set(results["seconds"]) == {"embedding", "checking", "fitting", "evaluating", "saving"}
    described = identity_of(SentenceTransformer(str(tiny_model_path), device="cpu"))
    assert results["base_model"] == described.facts() and results["seed"] == 0
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
    assert cli.main([*arguments, "--sizes", "20", "40"]) == 0
    assert "How many labels are enough" in page.read_text(), "whatever the sizes"
    other = tmp_path / "other" / pairs_file.name
    other.parent.mkdir()
    table = pd.read_csv(pairs_file)
    table[table.columns[1]] = table[table.columns[1]].iloc[::-1].tolist()
    table.to_csv(other, index=False)
    capsys.readouterr()
    assert cli.main([str(other) if word == str(pairs_file) else word for word in arguments]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "does not show the curve: it is of another base model, or of other data" in said
    assert "How many labels are enough" not in page.read_text()
    assert cli.main(["learning-curve", *arguments[1:5], "--sizes", "1"]) == 2
    assert "--sizes is [1], but has to be whole numbers of at least 2" in capsys.readouterr().err.replace("\n", " ")


def test_the_saved_model_reaches_the_reported_figures(finished, pairs_file, tmp_path, capsys):
    results = json.loads((finished / "results.json").read_text())
    output = tmp_path / "evaluation.json"
    arguments = ["evaluate", "--model", str(finished / "model"), "--data", str(pairs_file), "--output", str(output)]
    assert cli.main([*arguments, "--cache-dir", str(tmp_path), "--run-dir", str(tmp_path / "runs")]) == 0
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "runs" / "qrels")))
    for side in ("base", "adapted"):
        run = ir_measures.read_trec_run(str(tmp_path / "runs" / f"{side}.run"))
        measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)
        assert measured[ir_measures.nDCG @ 10] == pytest.approx(results["test"][side]["ndcg@10"], abs=1e-6)
    again = json.loads(output.read_text())
    for side in ("base", "adapted"):
        assert again[side] == pytest.approx(results["test"][side], abs=1e-6)
    assert set(again["comparisons"]) == {"all", "unseen"}, "the model knows what it was fitted on"
    shown = capsys.readouterr().out
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    assert f"{compared['adapted']:.4f}" in shown and "Fewer than 20 queries" in shown
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


def test_a_second_run_finds_what_the_first_one_found_and_both_are_kept(pairs_file, tiny_model_path, tmp_path):
    dataset = RetrievalDataset.load(str(pairs_file))
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    options = {"method": "closed-form", "cache_dir": tmp_path / "cache", "show_progress_bar": False}
    first = train(model, dataset, output_dir=tmp_path / "out", **options)
    again = train(model, dataset, output_dir=tmp_path / "out", **options)
    found = [result.results.to_json() for result in (first, again)]
    for content in found:
        content.pop("seconds"), content.pop("date"), content["selection"].pop("seconds")
    assert found[0] == found[1]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["test"] == found[1]["test"]
    assert first.run_dir != again.run_dir and first.run_dir.name[-8:] == again.run_dir.name[-8:], "of the same settings"
    assert first.model_dir == first.run_dir / "model" and again.model_dir == tmp_path / "out" / "model"


NOTHING_HELPS = ["--method", "gradient", "--learning-rate", "1e-12", "--start", "identity", "--num-train-epochs", "1"]


def test_when_nothing_helps_the_base_model_is_saved(pairs_file, tiny_model_path, tmp_path, capsys):
    arguments = ["train", "--model", str(tiny_model_path), "--data", str(pairs_file), "--cache-dir", str(tmp_path)]
    arguments += ["--output-dir", str(tmp_path / "out"), *NOTHING_HELPS]
    assert cli.main(arguments) == 0
    assert "the base model is kept. Not better than the base model: .000" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["adopted"] is False and results["test"]["adapted"] == results["test"]["base"]
    saved = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    assert detach(saved)[1] == []
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    assert (saved.encode_query(["the red car"]) == base.encode_query(["the red car"])).all()

    assert cli.main([*arguments, "--fail-if-not-better"]) == 3
    assert cli.main([*arguments, "--no-save-base"]) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    left -= {"versions", "current"}
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
    fails("--learning-rate is -1.0", "--method", "gradient", "--learning-rate", "-1")
    fails("--kind, --learning-rate came with --method auto", "--learning-rate", "0.1", "--kind", "mlp")
    fails("--alpha is 2.0", "--alpha", "2")
    fails("--seed is -1", "--seed", "-1")
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
        cli.main(["train", "--method", "gradient", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--learning-rate" in shown and "Learning rate of AdamW" in shown


def test_evaluation_knows_what_the_model_was_fitted_on(pairs_file, tiny_model_path, tmp_path, capsys):
    common = ["--data", str(pairs_file), "--cache-dir", str(tmp_path / "cache")]
    train = ["train", "--model", str(tiny_model_path), "--output-dir", str(tmp_path / "out"), "--seed", "3"]
    assert cli.main([*train, "--method", "closed-form", *common]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    recorded = read_saved(tmp_path / "out" / "model").training
    assert recorded.seed == 3 and recorded.scores.split == "test"
    capsys.readouterr()
    for split, warned in (("test", False), ("dev", True)):
        output = tmp_path / f"{split}.json"
        arguments = ["evaluate", "--model", str(tmp_path / "out" / "model"), "--split", split, "--output", str(output)]
        assert cli.main([*arguments, *common]) == 0
        assert ("fitted on the split" in capsys.readouterr().out) is warned
        assert json.loads(output.read_text())["num_queries"] == results[split]["num_queries"], (
            "the seed of the training"
        )


def test_evaluation_through_indexes(finished, pairs_file, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(finished / "model"), "--data", str(pairs_file)]
    arguments += ["--cache-dir", str(tmp_path / "cache")]
    output = tmp_path / "indexes.json"
    indexes = ["--index", "truncate:16", "int8", "hnsw"]
    assert cli.main([*arguments, *indexes, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("through each index", "exact", "truncate:16", "int8", "hnsw:100"))
    written = json.loads(output.read_text())
    results = json.loads((finished / "results.json").read_text())
    # Exact search, whose figures are those of an evaluation without indexes, stands first and apart.
    assert written["adapted"]["ndcg@10"] == pytest.approx(results["test"]["adapted"]["ndcg@10"], abs=1e-6)
    assert [entry["index"] for entry in written["indexes"]] == ["truncate:16", "int8", "hnsw:100"]
    truncated = written["indexes"][0]
    assert truncated["adapted"] != written["adapted"] and 0 < truncated["adapted_recall"] < 1

    cache = tmp_path / "unused"
    for name, message in (("flat", "There is no index 'flat'"), ("truncate:64", "have 32 dimensions")):
        assert cli.main([*arguments[:-1], str(cache), "--index", name]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
        assert cache.exists() is (name == "truncate:64"), "a wrong name is found before anything is embedded"


def test_the_users_own_model_is_not_deleted(pairs_file, tiny_model_path, tmp_path):
    own = shutil.copytree(tiny_model_path, tmp_path / "model")
    before = sorted(path.name for path in own.rglob("*"))
    arguments = ["train", "--model", str(own), "--data", str(pairs_file), "--output-dir", str(tmp_path)]
    assert cli.main([*arguments, "--method", "closed-form", "--no-save-base"]) == 2
    assert sorted(path.name for path in own.rglob("*")) == before


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
        result = train(model, changed, output_dir=tmp_path / str(change), **options)
        saved = SentenceTransformer(str(result.model_dir), device="cpu")
        features = {"sentence_embedding": torch.eye(embedded.query_embeddings.shape[1])}
        for module in detach(saved)[1]:
            features = module(features)
        weights.append(features["sentence_embedding"])
    assert torch.equal(*weights)


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_by_document_are_the_same_when_the_model_is_evaluated(seed, tiny_model_path, tmp_path, capsys):
    rows = [
        {"question": f"where is the {color} {thing}", "passage": f"{thing} of the {COLORS.index(color) // 2}. kind"}
        for color in COLORS
        for thing in THINGS
    ]
    data = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(data, index=False)
    common = ["--data", str(data), "--cache-dir", str(tmp_path / "cache")]
    train = ["train", "--model", str(tiny_model_path), "--output-dir", str(tmp_path / "out"), "--seed", str(seed)]
    options = ["--method", "closed-form", "--split-by", "document", "--paraphrase-threshold", "0.98"]
    assert cli.main([*train, *options, *common]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["split_by"] == "document"
    assert results["data"]["leaks"]["paraphrase_threshold"] == 0.98
    cosine = results["data"]["leaks"]["paraphrase_cosine"]
    assert cosine > 0.98, "random weights put all texts near each other"
    assert f"a paraphrase (cosine of at least {cosine:.2f}) and stay on its side." in shown
    for part in results["data"]["leaks"]["between"]:
        assert f"leaks: {part['sentence']}" in shown
        assert part["later_queries_sharing_a_document"] == 0
    output = tmp_path / "evaluation.json"
    assert cli.main(["evaluate", "--model", str(tmp_path / "out" / "model"), "--output", str(output), *common]) == 0
    assert json.loads(output.read_text())["per_query"]["query_ids"] == results["test"]["per_query"]["query_ids"]


def test_leaks_are_shown_and_dropped_on_request_only(pairs_file, tiny_model_path, tmp_path, capsys):
    frame = pd.read_csv(pairs_file)
    frame["split"] = ["train"] * 50 + ["dev"] * 10 + ["test"] * 20
    leaking = frame[:2].assign(question=frame["question"][:2].str.upper(), split="test")
    data = tmp_path / "pairs.csv"
    pd.concat([frame, leaking]).to_csv(data, index=False)
    command = ["train", "--model", str(tiny_model_path), "--data", str(data), "--cache-dir", str(tmp_path / "cache")]
    command += ["--method", "closed-form", "--paraphrase-threshold", "0.9999"]
    found = {}
    for name, options in (("kept", []), ("dropped", ["--drop-leaks"])):
        assert cli.main([*command, "--output-dir", str(tmp_path / name), *options]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        found[name] = json.loads((tmp_path / name / "results.json").read_text())
        assert ("2 of 50 queries of train" in shown) is (name == "dropped")
    between = {name: results["data"]["leaks"]["between"][1] for name, results in found.items()}
    assert between["kept"]["leaking_later_queries"] == {"exact": 0, "normalised": 2, "paraphrase": 0}
    assert between["dropped"]["leaking_later_queries"] == {"exact": 0, "normalised": 0, "paraphrase": 0}
    assert [results["data"]["train"]["num_queries"] for results in found.values()] == [50, 48]
    assert found["kept"]["test"]["base"] == found["dropped"]["test"]["base"]


def evaluated(finished, data, folder, *options):
    output = folder / "evaluation.json"
    arguments = ["evaluate", "--model", str(finished / "model"), "--data", str(data), "--output", str(output)]
    status = cli.main([*arguments, "--cache-dir", str(folder / "cache"), *options])
    return json.loads(output.read_text()) if status == 0 else status


def test_evaluation_uses_all_of_other_data(finished, pairs_file, tmp_path, capsys):
    other = tmp_path / "other.csv"
    shutil.copy(pairs_file, other)
    found = evaluated(finished, other, tmp_path)
    assert (found["split"], found["num_queries"]) == ("all", len(COLORS) * len(THINGS))
    said = " ".join(capsys.readouterr().out.split())
    assert "was trained on 'pairs.csv', so 'other.csv' counts as data that it has not seen, and all queries" in said
    assert "nothing was cut: 80 queries in all" in said and "80 documents, the labelled ones only" in said
    cut = evaluated(finished, other, tmp_path, "--seed", "0")
    assert cut["split"] == "test" and cut["num_queries"] < 80
    assert cut["num_queries"] == evaluated(finished, pairs_file, tmp_path)["num_queries"]
    assert evaluated(finished, other, tmp_path, "--split", "test") == 2
    assert "Pass --seed to have the data cut as for training" in " ".join(capsys.readouterr().err.split())


def test_data_of_the_training_are_not_cut_by_another_seed(finished, pairs_file, tmp_path, capsys):
    assert evaluated(finished, pairs_file, tmp_path, "--seed", "7") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--seed 7 cuts 'pairs.csv' otherwise than seed 0 did for the training" in said and "Leave --seed out" in said
    assert evaluated(finished, pairs_file, tmp_path, "--seed", "7", "--split", "all") == 2, "nor are these all new"
    assert evaluated(finished, pairs_file, tmp_path, "--seed", "0")["num_queries"] < 80


def test_data_are_cut_by_the_seed_that_cut_them_whatever_the_one_of_the_run(pairs_file, tiny_model, tmp_path):
    dataset = RetrievalDataset.load(str(pairs_file), seed=3)
    how = {"method": "closed-form", "cache_dir": tmp_path / "cache", "show_progress_bar": False, "alpha": 0.99}
    train(tiny_model, dataset, seed=np.int64(1), output_dir=tmp_path / "out", **how)
    found = evaluated(tmp_path / "out", pairs_file, tmp_path)
    assert set(found["per_query"]["query_ids"]) == set(dataset.qrels["test"]["query_id"])
    assert evaluated(tmp_path / "out", pairs_file, tmp_path, "--seed", "3")["seed"] == 3
    assert evaluated(tmp_path / "out", pairs_file, tmp_path, "--seed", "1") == 2


@pytest.mark.parametrize("dev", ["dev", "train"])
def test_a_seed_changes_nothing_about_splits_that_were_given(dev, pairs_file, tiny_model_path, tmp_path):
    frame = pd.read_csv(pairs_file).assign(split=["train"] * 50 + [dev] * 10 + ["test"] * 20)
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    command = ["train", "--model", str(tiny_model_path), "--data", str(tmp_path / "pairs.csv")]
    assert cli.main([*command, "--output-dir", str(tmp_path / "out"), "--method", "closed-form"]) == 0
    by_seed = [evaluated(tmp_path / "out", tmp_path / "pairs.csv", tmp_path, *seed) for seed in ((), ("--seed", "7"))]
    without, given = ({**found, "seed": None} for found in by_seed)
    assert without == given and without["comparisons"]["unseen"]


def test_evaluation_of_a_test_split_alone(finished, pairs_file, tmp_path):
    folder = tmp_path / "held-out"
    folder.mkdir()
    pd.read_csv(pairs_file).to_csv(folder / "test.csv", index=False)
    found = evaluated(finished, folder, tmp_path)
    assert (found["split"], found["num_queries"]) == ("test", 80)
    assert found["corpus_is_labelled_only"] is True


def test_it_is_said_wherever_figures_stand_that_only_labelled_documents_were_searched(finished):
    assert json.loads((finished / "results.json").read_text())["data"]["corpus_is_labelled_only"] is True
    page, card = (finished / "report.html").read_text(), (finished / "model" / "README.md").read_text()
    # The caption of the table, its label for those who cannot see it, and the paragraph on the data.
    assert page.count("80 documents, the labelled ones only") == 3
    assert card.count("80 documents, the labelled ones only") == 2


def test_long_texts_are_counted_in_notes_and_results(pairs_file, tiny_model, tmp_path, capsys):
    frame = pd.read_csv(pairs_file)
    frame.loc[:6, "passage"] += " and more of it" * 10
    frame.to_csv(tmp_path / "long.csv", index=False)
    dataset = RetrievalDataset.load(tmp_path / "long.csv")
    options = {"cache_dir": tmp_path / "cache", "show_progress_bar": False, "method": "closed-form"}
    data = train(tiny_model, dataset, **options).results.data
    sentence = (
        "7 documents longer than the 64 tokens that the model reads (max_seq_length); the rest of them is not read."
    )
    assert data.notes[-1] == sentence
    assert data.long_texts == LongTexts(max_seq_length=64, num_queries=0, num_documents=7)


@pytest.mark.parametrize(
    "flags,words",
    [
        (["--query-column", "nope"], "Give --query-column one of these"),
        (["--text-column", "question"], "Use --query-column, --document-column"),
        (["--ignore-columns", "nope"], "Name some of these with --ignore-columns"),
        (["--ignore-columns", "question"], "Name yours with --query-column YOUR_COLUMN"),
        (["--relevant-from", "2"], "Name it with --score-column YOUR_COLUMN"),
    ],
)
def test_errors_of_columns_name_flags(pairs_file, tiny_model_path, capsys, flags, words):
    assert cli.main(["learning-curve", "--model", str(tiny_model_path), "--data", str(pairs_file), *flags]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
