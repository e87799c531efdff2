"""``train`` in Python: what a result holds, shows and writes, and that nothing is written unless asked for."""

import json

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter import cli, train
from st_adapter.cli import tables
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.evidence.results import Results
from st_adapter.saving.folder import read_saved


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def options(cache):
    return {"method": "closed-form", "alpha": 0.99, "cache_dir": cache, "show_progress_bar": False}


@pytest.fixture(scope="module")
def result(tiny_model_path, pairs_file, options):
    """Of a model and data by name, as in the README."""
    return train(str(tiny_model_path), pairs_file, **options)


@pytest.fixture(scope="module")
def kept(tiny_model_path, pairs_file, options):
    """A result that keeps the base model: no gain passes a test at this level."""
    return train(str(tiny_model_path), pairs_file, **{**options, "alpha": 1e-9})


def test_the_model_of_a_result_adapts_queries_alone(result, tiny_model):
    texts = ["where is the red car", "a window : blue"]
    assert result.verdict.adopted and result.adapter is not None, "the pairs are made so that an adapter helps"
    assert (result.model.encode_document(texts) == tiny_model.encode_document(texts)).all()
    assert (result.model.encode(texts) == tiny_model.encode(texts)).all()
    queries = torch.from_numpy(tiny_model.encode_query(texts))
    with torch.no_grad():
        expected = result.adapter.transform(queries)
    torch.testing.assert_close(torch.from_numpy(result.model.encode_query(texts)), expected, rtol=0, atol=1e-6)


def test_what_is_printed_is_what_the_command_line_prints(
    result, tiny_model_path, pairs_file, cache, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(tables.console, "width", 100)
    arguments = ["train", "--model", tiny_model_path, "--data", pairs_file, "--cache-dir", cache, "--alpha", "0.99"]
    arguments += ["--method", "closed-form", "--output-dir", tmp_path / "out"]
    assert cli.main([str(word) for word in arguments]) == 0
    printed = capsys.readouterr().out
    assert str(result) in "\n".join(line.rstrip() for line in printed.splitlines())
    shown = " ".join(str(result).split())
    compared = result.evaluation.compare("ndcg@10")
    assert f"test: {compared.num_queries} queries, 80 documents, the labelled ones only" in shown
    assert f"{compared.adapted:.4f}" in shown
    assert shown.endswith(result.verdict.sentence)
    assert result.verdict.sentence.startswith(f"Deploy. {result.results.selection.gate.reason[:-1]}, the chance of")
    difference = f"{compared.difference:+.3f}".replace("0.", ".", 1)
    assert f"; the {compared.num_queries} queries of test are too few to check that ({difference} on average)." in shown
    assert f"{compared.interval.low:+.4f} to" not in shown, "an interval of 16 queries says more than they know"
    assert "\x1b" not in str(result) and repr(result) == f"Result({result.verdict.sentence!r})"
    # The command line and Python give the same figures.
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["test"] == result.results.to_json()["test"]
    # One verdict, in the same words wherever it stands.
    assert written["verdict"]["sentence"] == result.verdict.sentence and written["verdict"]["decision"] == "deploy"
    assert read_saved(tmp_path / "out" / "model").training.reason == result.verdict.sentence
    assert f"- Verdict: {result.verdict}" in (tmp_path / "out" / "model" / "README.md").read_text()
    assert f"<strong>{result.verdict.headline}</strong> {result.verdict.why}" in (
        (tmp_path / "out" / "report.html").read_text()
    )


def test_a_result_writes_what_it_is_asked_for_alone(result, tmp_path):
    texts = ["where is the red car"]
    assert result.output_dir is None and result.model_dir is None
    saved = SentenceTransformer(str(result.save_pretrained(tmp_path / "saved")), device="cpu")
    assert abs(saved.encode_query(texts) - result.model.encode_query(texts)).max() < 1e-6
    recorded = read_saved(tmp_path / "saved").training
    assert recorded.data == "pairs.csv" and recorded.scores.num_queries == len(result.evaluation.query_ids)
    page = result.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html" and result.verdict.why in page.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "saved"]


def test_the_report_of_a_result_is_that_of_the_folder(result, tiny_model_path, pairs_file, options, tmp_path):
    again = train(str(tiny_model_path), pairs_file, output_dir=tmp_path / "out", **options)
    assert again.output_dir == tmp_path / "out" and again.model_dir == tmp_path / "out" / "model"
    assert cli.main(["report", "--output-dir", str(tmp_path / "out")]) == 0
    page = again.report(tmp_path / "page.html")
    assert page.read_bytes() == (tmp_path / "out" / "report.html").read_bytes()
    assert Results.read(tmp_path / "out" / "results.json") == again.results


def test_a_kept_base_model_is_the_one_that_was_given(kept, tmp_path):
    assert kept.adapter is None and not kept.verdict.adopted and kept.model is kept.base.model
    assert kept.verdict.decision != "deploy" and "the base model is kept" in kept.verdict.headline
    assert kept.verdict.measured == "" and str(kept.verdict) in " ".join(str(kept).split())
    assert kept.evaluation.base_means == kept.evaluation.adapted_means
    with pytest.raises(ValueError, match=r"the base model is kept.* There is no adapter to upload"):
        kept.push_to_hub("user/name")
    assert "No adapter: the base model is kept." in kept.report(tmp_path / "page.html").read_text()


def test_without_a_test_split_dev_is_shown_only_if_it_was_not_fitted_on(tiny_model, pairs_file, options):
    dataset = RetrievalDataset.load(pairs_file, cut_into=("train", "dev"))
    result = train(tiny_model, dataset, **options)
    assert result.evaluation.split == "dev" and result.results.held_out is None
    assert "ndcg@10" not in str(result), "how well it fits is no evidence"
    assert result.verdict.measured == ""


def test_a_gradient_run_without_a_folder_leaves_none(tiny_model, pairs_file, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(tiny_model, pairs_file, method="gradient", cache_dir=cache, show_progress_bar=False)
    assert result.results.fitted_on == ["train"] and result.results.held_out == "test"
    assert result.results.selection.step <= result.results.selection.num_steps
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_before_anything_is_embedded(tiny_model, pairs_file, tmp_path):
    unused = {"cache_dir": tmp_path / "cache", "show_progress_bar": False}
    (tmp_path / "file").write_text("mine")
    for arguments, message in (
        ({"alpha": 2.0}, "alpha is 2.0"),
        ({"output_dir": tmp_path / "file"}, "is a file. Name a folder"),
        ({"dataset": RetrievalDataset.load(pairs_file, cut_into=())}, "The data have no split 'train'"),
        ({"dataset": tmp_path / "nowhere.csv"}, "nowhere.csv"),
    ):
        given = {"dataset": pairs_file, **arguments}
        with pytest.raises(ValueError, match=message):
            train(tiny_model, given.pop("dataset"), **given, **unused)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "Linear"},
            "method is 'Linear', but one of .'auto', 'linear', 'closed-form', 'gradient'. is expected",
        ),
        ({"precision": "float16"}, "precision is 'float16', but one of .'fp32', 'bf16', 'fp16'. is expected"),
        ({"seed": "0"}, "seed is '0', but has to be a whole number from 0"),
        ({"seed": 1.5}, "seed is 1.5, but has to be a whole number"),
        ({"seed": 2**70}, "but has to be a whole number from 0 to 4294967295"),
        ({"seed": True}, "seed is True, but has to be a whole number"),
        ({"batch_size": True}, "batch_size is True, but has to be a whole number"),
        ({"batch_size": 8.0}, "batch_size is 8.0, but has to be a whole number of at least 1"),
        ({"query_model": ""}, "The name of a model is empty"),
        ({"teacher": ""}, "The name of the teacher is empty"),
        ({"options": {"drop_leaks": True}}, "options are a dict, but RunOptions are expected"),
    ],
)
def test_settings_of_another_kind_are_refused_before_anything_is_embedded(options, message, tiny_model, tmp_path):
    pairs = pd.DataFrame({"query": [f"where is {n}" for n in range(40)], "document": [f"{n}, here" for n in range(40)]})
    with pytest.raises(ValueError, match=message):
        train(tiny_model, pairs, cache_dir=tmp_path / "cache", show_progress_bar=False, **options)
    assert not (tmp_path / "cache").exists()
