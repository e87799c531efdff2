"""In daily use: new labels every week, what is deployed to be beaten, runs that are kept, and the way back."""

import json
import os
import shutil

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from problems import hashes, names
from st_adapter import QueryAdapter, cli, train
from st_adapter.cli import tables
from st_adapter.evidence import current_run, output_folder, rollback, versions_of
from st_adapter.evidence.results import Results

COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]
TEXTS = ["where is the red car", "a window : blue"]


def pairs(form, wrong=False):
    """What people ask for in one week; with noise, each gets the document of somebody else."""
    rows = [(color, thing) for color in COLORS for thing in THINGS]
    answers = rows[37:] + rows[:37] if wrong else rows
    return pd.DataFrame(
        {
            "query": [form.format(color=color, thing=thing) for color, thing in rows],
            "document": [f"{thing} : this {thing} has the color {color}" for color, thing in answers],
        }
    )


WEEKS = [
    "where is the {color} {thing}",
    "show a {thing} that is {color}",
    "any {color} {thing} left",
    "{thing}, {color}",
]


@pytest.fixture(scope="module")
def place(tiny_flat_model_path, tmp_path_factory):
    """The weeks, and an output folder with the adapter of the first one."""
    folder = tmp_path_factory.mktemp("weeks")
    pairs(WEEKS[0]).to_csv(folder / "week1.csv", index=False)
    noise = pd.concat([pairs(form, wrong=True) for form in WEEKS[1:3]])
    noise.to_csv(folder / "noise.csv", index=False)
    pd.concat([pairs(form) for form in WEEKS]).to_csv(folder / "week2.csv", index=False)
    assert run(folder, tiny_flat_model_path, "week1.csv") == 0
    return folder


def run(folder, model, data, *more, output="out"):
    words = ["train", "--model", model, "--data", folder / data, "--output-dir", folder / output, "--cache-dir"]
    return cli.main([str(word) for word in (*words, folder / "cache", "--method", "closed-form", *more)])


@pytest.fixture
def week(place, tmp_path):
    """A copy of it to go on from: with symbolic links followed and hard ones copied, as archives do."""
    return shutil.copytree(place, tmp_path / "weeks")


def test_wrong_labels_do_not_replace_what_is_deployed(week, tiny_flat_model_path, capsys):
    before, deployed = hashes(week / "out" / "model"), (week / "out" / "current").read_text()
    assert run(week, week / "out", "noise.csv") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the deployed adapter is kept" in shown and "The deployed adapter itself: " in shown
    assert hashes(week / "out" / "model") == before and (week / "out" / "current").read_text() == deployed
    versions = versions_of(week / "out")
    assert [each.outcome for each in versions] == ["adopted", "deployed kept"]
    assert [each.is_current for each in versions] == [True, False]
    assert names(versions[1].folder)[-1] == "results.json" and not versions[1].usable
    assert f"Results: {versions[1].folder}/results.json".replace(" ", "") in shown.replace(" ", "")
    assert run(week, week / "out", "noise.csv", "--fail-if-not-better") == 3


def test_good_labels_replace_what_is_deployed(week, tiny_flat_model_path, capsys):
    first = current_run(week / "out")
    assert run(week, week / "out", "week2.csv") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Better than the deployed adapter: +" in shown and "Better than the base model: +" in shown
    known = Results.read(first / "results.json").data.learned_from
    results = Results.read(week / "out" / "results.json")
    assert results.adopted and set(known) < set(results.data.learned_from)
    num_labelled = results.data.train.num_queries + results.dev.num_queries
    (note,) = [each for each in results.data.notes if "deployed" in each]
    assert note.startswith(
        f"The deployed adapter was fitted on {len(known)} of the {num_labelled} labelled queries; it"
    )
    assert f"on {num_labelled - len(known)} held-out queries" in results.selection.against_deployed.gate.reason

    base, saved = (
        SentenceTransformer(str(each), device="cpu") for each in (tiny_flat_model_path, week / "out" / "model")
    )
    assert (saved.encode_document(TEXTS) == base.encode_document(TEXTS)).all()
    assert (saved.encode(TEXTS) == base.encode(TEXTS)).all()
    assert abs(saved.encode_query(TEXTS) - base.encode_query(TEXTS)).max() > 1e-3
    assert results.base_model == Results.read(first / "results.json").base_model, "by the name that it had before"


def test_the_cache_of_the_base_model_is_used_again(week, monkeypatch):
    cached = hashes(week / "cache")
    assert run(week, week / "out", "week1.csv") == 0
    assert hashes(week / "cache") == cached
    notes = versions_of(week / "out")[-1].results.data.notes
    assert any(each.endswith("too few to compare it on, so that it looks better than it is.") for each in notes)


def test_list_shows_the_runs_and_rollback_goes_back(week, capsys, monkeypatch):
    monkeypatch.setattr(tables.console, "width", 200)
    out, first = week / "out", current_run(week / "out")
    before = hashes(out / "model")
    assert run(week, out, "noise.csv") == 0 and run(week, out, "week2.csv") == 0
    second = current_run(out)
    capsys.readouterr()
    assert cli.main(["list", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("adopted") == 2 and "kept" in shown and shown.count("*") >= 1
    everything = hashes(out / "versions")

    assert cli.main(["rollback", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{first.name} is in use now in place of {second.name}, which is kept: adopted." in said
    assert current_run(out) == first and hashes(out / "model") == before
    assert (out / "results.json").read_bytes() == (first / "results.json").read_bytes()
    assert hashes(out / "versions") == everything, "nothing is deleted"

    assert cli.main(["rollback", str(out)]) == 2
    assert "has no earlier run with a model or an adapter to go back to" in " ".join(capsys.readouterr().err.split())
    kept = versions_of(out)[1].name
    assert cli.main(["rollback", str(out), kept]) == 2
    assert f"The run {kept} left neither a model nor an adapter" in " ".join(capsys.readouterr().err.split())
    assert cli.main(["rollback", str(out), "../.."]) == 2
    assert "has no version '../..'" in " ".join(capsys.readouterr().err.split())
    assert rollback(out, second.name).is_current and current_run(out) == second
    assert cli.main(["list", str(week)]) == 2
    assert "holds no run of `st-adapter train`" in " ".join(capsys.readouterr().err.split())


def test_what_took_an_output_folder_takes_the_run_in_use(week, capsys):
    out, first = week / "out", current_run(week / "out")
    assert run(week, out, "week2.csv") == 0
    for folder in (out, first, current_run(out)):
        assert (
            cli.main(["evaluate", "--model", str(folder), "--data", str(week / "week1.csv"), "--cache-dir", str(week)])
            == 0
        )
    rollback(out)
    assert cli.main(["report", "--output-dir", str(out)]) == 0
    assert (out / "report.html").read_bytes() == (first / "report.html").read_bytes()
    assert cli.main(["report", "--output-dir", str(versions_of(out)[1].folder)]) == 0
    assert (out / "report.html").read_bytes() == (first / "report.html").read_bytes(), "of the run in use"


def test_what_version_0_1_left_is_the_first_version(week, tiny_flat_model_path):
    out = week / "out"
    flat = shutil.copytree(current_run(out), week / "flat")
    assert current_run(flat) == flat and versions_of(flat)[0].is_current
    before = hashes(flat)
    assert run(week, flat, "week2.csv", output="flat") == 0
    old, new = versions_of(flat)
    assert hashes(old.folder) == before and not old.is_current
    assert new.is_current and new.outcome == "adopted"
    rollback(flat)
    assert {name: digest for name, digest in hashes(flat).items() if name in before} == before


def test_in_python_a_model_in_memory_and_a_result_are_taken_as_well(place, tiny_flat_model_path):
    options = {"method": "closed-form", "cache_dir": place / "cache", "show_progress_bar": False}
    deployed = QueryAdapter.from_pretrained(place / "out" / "model")
    kept = train(place / "out", place / "noise.csv", **options)
    assert kept.adapter is not None and not kept.verdict.adopted and kept.results.kept_deployed
    assert torch.equal(kept.adapter.delta, deployed.delta)
    again = train(kept.model, place / "noise.csv", **options)
    torch.testing.assert_close(again.adapter.delta, deployed.delta)
    assert again.run_dir is None and again.model_dir is None
    base = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    assert (again.model.encode_document(TEXTS) == base.encode_document(TEXTS)).all()


def test_a_gradient_run_has_to_beat_it_too(place):
    options = {"cache_dir": place / "cache", "show_progress_bar": False}
    result = train(place / "out", place / "noise.csv", method="gradient", **options)
    assert result.results.kept_deployed and "deployed adapter is kept" in str(result)
    assert result.results.selection.against_deployed is not None


def test_what_cannot_be_is_said_before_anything_is_embedded(place, tiny_flat_model_path, tmp_path, capsys):
    for words, message in (
        (["--query-model", str(tiny_flat_model_path)], "The model has an adapter already, and with a query model"),
        (
            ["--cache-dir", str(tmp_path), "--teacher", "x", "--method", "closed-form"],
            "Method 'closed-form' learns from",
        ),
    ):
        assert cli.main(["train", "--model", str(place / "out"), "--data", str(place / "week2.csv"), *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    words = ["train", "--without-labels", "--model", str(place / "out"), "--corpus", str(place / "week1.csv")]
    assert cli.main([*words, "--document-column", "document"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_results_say_when_by_what_and_of_which_data(place):
    content = json.loads((place / "out" / "results.json").read_text())
    assert content["date"].endswith("+00:00") and len(content["data"]["fingerprint"]) == 64
    assert content["versions"]["st-adapter"] and content["commit"]
    name = current_run(place / "out").name
    assert name[:8] == content["date"][:10].replace("-", "")


def test_a_process_that_is_stopped_while_the_pointer_moves_leaves_one_run_or_the_other(week, monkeypatch):
    out, first = week / "out", current_run(week / "out")
    assert run(week, out, "week2.csv") == 0
    second, before = current_run(out), hashes(out / "model")

    def stopped(*_):
        raise KeyboardInterrupt

    for name in ("write_text", "folder_written_whole", "file_written_whole"):
        rollback(out, second.name)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(output_folder, name, stopped)
            rollback(out, first.name)
        in_use = current_run(out)
        assert in_use == (second if name == "write_text" else first)
        assert hashes(out / "model") == (hashes(first / "model") if name == "file_written_whole" else before)
        rollback(out, in_use.name)
        assert hashes(out / "model") == hashes(in_use / "model"), "moving to the run in use puts everything right"


def test_where_there_are_no_hard_links_files_are_copied(week, monkeypatch):
    def refused(*_):
        raise OSError("this file system has none")

    monkeypatch.setattr(os, "link", refused)
    run_in_use = current_run(week / "out")
    rollback(week / "out", run_in_use.name)
    assert hashes(week / "out" / "model") == hashes(run_in_use / "model")
    (week / "out" / "current").write_text("../../etc\n")
    with pytest.raises(ValueError, match=r"names the run '../../etc', which is not in"):
        current_run(week / "out")
