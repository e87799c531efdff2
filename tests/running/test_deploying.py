"""In daily use: new labels every week, what is deployed to be beaten, runs that are kept, and the way back."""

import contextlib
import io
import json
import os
import re
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from problems import hashes
from st_adapter import QueryAdapter, cli, save_adapter, train
from st_adapter.cli import tables
from st_adapter.data.unlabelled import documents_alone
from st_adapter.evidence import current_run, output_folder, rollback, versions_of
from st_adapter.evidence.output_folder import date_of, model_path, new_run_name, run_names
from st_adapter.evidence.results import Results
from st_adapter.running import RunOptions

COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]
TEXTS = ["where is the red car", "a window : blue"]


FORMS = ["where is the {color} {thing}", "any {color} {thing} left", "a {thing} in {color}"]


def pairs(forms, things, noise=0.0):
    """What people ask for; with noise, that share of them gets the document of somebody else."""
    rows = [(form, color, thing) for form in forms for color in COLORS for thing in things]
    generator = np.random.default_rng(0)
    answers = [rows[generator.integers(len(rows))] if generator.random() < noise else row for row in rows]
    return pd.DataFrame(
        {
            "query": [form.format(color=color, thing=thing) for form, color, thing in rows],
            "document": [f"{thing} : this {thing} has the color {color}" for _, color, thing in answers],
        }
    )


class Place(NamedTuple):
    """What three weeks left: the folder, what each run printed, and what was in use after it."""

    folder: Path
    printed: list[str]
    in_use: list[dict[str, str]]

    @property
    def out(self):
        return self.folder / "out"

    @property
    def runs(self):
        return [each.folder for each in versions_of(self.out)]


@pytest.fixture(scope="module")
def weeks(tiny_flat_model_path, tmp_path_factory):
    """Labels of a week, a week of noise, and a week of more good labels, each trained on from what was deployed."""
    place = Place(tmp_path_factory.mktemp("weeks"), [], [])
    pairs(FORMS[:2], THINGS[:6]).to_csv(place.folder / "week1.csv", index=False)
    pairs(FORMS[:2], THINGS[4:], noise=0.8).to_csv(place.folder / "noise.csv", index=False)
    pairs(FORMS, THINGS).to_csv(place.folder / "week2.csv", index=False)
    for model, data in ((tiny_flat_model_path, "week1.csv"), (place.out, "noise.csv"), (place.out, "week2.csv")):
        words = ["train", "--model", model, "--data", place.folder / data, "--output-dir", place.out]
        words += ["--cache-dir", place.folder / "cache", "--method", "closed-form"]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert cli.main([str(word) for word in words]) == 0
        place.printed.append(" ".join(printed.getvalue().split()))
        place.in_use.append(hashes(place.out / "model") | {"current": current_run(place.out).name})
    return place


@pytest.fixture
def copied(weeks, tmp_path):
    """A copy of it to go on from, made as archives are, which know no links."""
    return weeks._replace(folder=shutil.copytree(weeks.folder, tmp_path / "weeks"))


@pytest.fixture
def options(weeks):
    return {"method": "closed-form", "cache_dir": weeks.folder / "cache", "show_progress_bar": False}


def test_wrong_labels_do_not_replace_what_is_deployed(weeks):
    first, second, _ = versions_of(weeks.out)
    assert "the deployed adapter is kept" in weeks.printed[1] and "The deployed adapter itself: " in weeks.printed[1]
    assert weeks.in_use[1] == weeks.in_use[0] and weeks.in_use[0]["current"] == first.name
    assert (first.outcome, second.outcome) == ("adopted", "deployed kept")
    assert not second.usable and (second.folder / "results.json").is_file()
    assert f"versions/{second.name}/results.json" in weeks.printed[1].replace(" ", "")


def test_good_labels_replace_what_is_deployed(weeks, tiny_flat_model_path):
    first, _, third = weeks.runs
    assert current_run(weeks.out) == third
    said = weeks.printed[2]
    assert "Better than the deployed adapter: +" in said and "Better than the base model: +" in said
    known = Results.read(first / "results.json").data.learned_from
    results = Results.read(weeks.out / "results.json")
    assert results.adopted and set(known) < set(results.data.learned_from)
    num_labelled = results.data.train.num_queries + results.dev.num_queries
    (note,) = [each for each in results.data.notes if "deployed" in each]
    assert f"was fitted on {len(known)} of the {num_labelled} labelled queries; it is compared on the" in note
    assert f"on {num_labelled - len(known)} held-out queries" in results.selection.against_deployed.gate.reason

    base, saved = (SentenceTransformer(str(each), device="cpu") for each in (tiny_flat_model_path, weeks.out / "model"))
    assert (saved.encode_document(TEXTS) == base.encode_document(TEXTS)).all()
    assert (saved.encode(TEXTS) == base.encode(TEXTS)).all()
    assert abs(saved.encode_query(TEXTS) - base.encode_query(TEXTS)).max() > 1e-3
    assert results.base_model == Results.read(first / "results.json").base_model, "by the name that it had before"
    weights = [each / "model" / "model.safetensors" for each in (first, third, weeks.out)]
    assert weights[0].samefile(weights[1]) and weights[0].samefile(weights[2]), "the base model's take room once"


def test_the_embeddings_of_the_base_model_are_found_in_the_cache(weeks, options):
    cached = hashes(weeks.folder / "cache")
    notes = train(weeks.out, weeks.folder / "week1.csv", **options).results.data.notes
    assert hashes(weeks.folder / "cache") == cached
    assert any(each.endswith("too few to compare it on, so that it looks better than it is.") for each in notes)


def test_list_shows_the_runs_and_rollback_goes_back(copied, capsys, monkeypatch):
    monkeypatch.setattr(tables.console, "width", 200)
    out, (first, second, third) = copied.out, [each.name for each in copied.runs]
    assert cli.main(["list", str(out)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "Z-" in line]
    assert [[cell.strip() for cell in row[1:3]] for row in rows] == [["", first], ["", second], ["*", third]]
    assert [row[5].strip() for row in rows] == ["adopted", "deployed kept", "adopted"]
    everything = hashes(out / "versions")
    del everything["in_use"]

    assert cli.main(["rollback", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{first} is in use now in place of {third}, which is kept: adopted." in said
    assert current_run(out).name == first and hashes(out / "model") | {"current": first} == copied.in_use[0]
    assert (out / "results.json").read_bytes() == (out / "versions" / first / "results.json").read_bytes()
    assert {name: one for name, one in hashes(out / "versions").items() if name != "in_use"} == everything

    for words, message in (
        ([], "has no run with a model or an adapter that was in use before the present one"),
        ([second], f"The run {second} left neither a model nor an adapter"),
        (["../.."], "has no version '../..'"),
    ):
        assert cli.main(["rollback", str(out), *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert rollback(out, third).is_current and hashes(out / "model") | {"current": third} == copied.in_use[2]
    with pytest.raises(ValueError, match=r"holds no run of `st-adapter train`"):
        versions_of(copied.folder)


def test_what_takes_the_place_of_the_run_in_use_says_so_and_what_was_not_tested_does_not(
    copied, tiny_flat_model_path, options, capsys
):
    model, out, third = str(tiny_flat_model_path), copied.out, copied.runs[2]
    anew = train(model, copied.folder / "week1.csv", output_dir=out, **options)
    assert anew.results.adopted and current_run(out) == anew.run_dir
    assert f"it takes the place of {third.name}, which it was not compared with." in anew.instead
    tables.print_result(anew)
    assert f"note: In {out} it takes the place of" in " ".join(capsys.readouterr().out.split())
    documents = documents_alone(pd.DataFrame({"text": [f"Thing {n} has a name. It is number {n}." for n in range(80)]}))
    how = {**options, "method": "auto", "options": RunOptions(without_labels=True), "output_dir": out}
    untested = train(model, documents, **how)
    assert untested.results.adopted and current_run(out) == anew.run_dir
    assert untested.instead.startswith(
        f"{anew.run_dir.name} stays in use in {out}: it was tested, and this run was not"
    )
    assert rollback(out, untested.run_dir.name).is_current
    rollback(out, anew.run_dir.name)
    # Labelled queries apart from that are no gate, whatever they are too few to tell.
    few = pd.DataFrame({"query": [f"where is {n}" for n in range(80)], "document": documents.document_texts})
    beside_labels = train(model, few, **how)
    assert beside_labels.verdict.decision != "deploy" and current_run(out) == anew.run_dir
    # Where nothing can be read of the one in use, it may have been tested.
    (anew.run_dir / "results.json").write_text("{")
    assert train(model, documents, **how).instead.startswith(f"{anew.run_dir.name} stays in use")
    # Of two that were not tested the newer one is in use.
    rollback(out, untested.run_dir.name)
    once_more = train(model, documents, **how)
    assert current_run(out) == once_more.run_dir and "takes the place of" in once_more.instead


def run_like(out, run, later):
    """One more run that left the same, so many seconds after the newest."""
    name = f"{(date_of(run_names(out)[-1]) + timedelta(seconds=later)):%Y%m%dT%H%M%SZ}-0000000{later}"
    shutil.copytree(run, out / "versions" / name)
    return name


def test_rollback_goes_to_what_was_in_use_before_and_not_to_what_was_gone_back_from(copied):
    out, (first, _, third) = copied.out, [each.name for each in copied.runs]
    assert rollback(out).name == first
    fourth = run_like(out, copied.runs[2], 1)
    never = run_like(out, copied.runs[2], 2)  # adopted, and then not deployed
    output_folder.make_current(out, fourth)
    assert rollback(out).name == first, f"not {third}, from which it was gone back"
    output_folder.make_current(out, fourth)
    output_folder.make_current(out, third)
    assert [rollback(out).name, rollback(out).name] == [fourth, first]
    assert never in run_names(out)
    with pytest.raises(ValueError, match="was in use before the present one"):
        rollback(out)
    # A run that is named may be any; from there it goes back to where it came from.
    assert (rollback(out, never).name, rollback(out).name) == (never, first)
    # Of folders of an earlier version nothing else is known than which run is the newer one.
    (out / "versions" / "in_use").unlink()
    output_folder.make_current(out, fourth)
    (out / "versions" / "in_use").unlink()
    assert rollback(out).name == third


def test_a_folder_whose_run_in_use_was_deleted_is_put_right(copied):
    out, (first, second, third) = copied.out, [each.name for each in copied.runs]
    shutil.rmtree(out / "versions" / third)
    with pytest.raises(ValueError, match=f"names the run '{third}', which is not in"):
        current_run(out)
    fourth = run_like(out, out / "versions" / first, 3)
    assert rollback(out, fourth).is_current and rollback(out).name == first
    # Killed between the two writes: the one file names what the other one does not yet.
    (out / "versions" / "in_use").write_text(f"{first}\n{fourth}\n{second}\n")
    (out / "current").write_text(f"{fourth}\n")
    assert rollback(out).name == first
    (out / "versions" / "in_use").write_bytes(b"\xff\xfe")
    (out / "current").write_text(f"{fourth}\n")
    with pytest.raises(ValueError, match="was in use before the present one"):
        rollback(out)
    (out / "versions" / "in_use").write_text("")
    assert rollback(out).name == first, "as if there were no such file"


def test_what_is_adopted_and_not_to_be_deployed_is_called_so(copied):
    version = versions_of(copied.out)[0]
    assert version.outcome == "adopted"
    found = SimpleNamespace(
        adopted=True, selection=version.results.selection, verdict=SimpleNamespace(decision="do not deploy")
    )
    assert replace(version, results=found).outcome == "not deployed"


def test_the_model_in_an_output_folder_is_no_output_folder(copied):
    with pytest.raises(ValueError, match="model holds no run of `st-adapter train`"):
        versions_of(copied.out / "model")


def test_what_took_an_output_folder_takes_the_run_in_use(copied):
    out, (first, _, third) = copied.out, copied.runs
    assert model_path(str(out)) == str(third / "model") and model_path(str(first)) == str(first / "model")
    words = ["evaluate", "--model", out, "--data", copied.folder / "week1.csv", "--cache-dir", copied.folder / "cache"]
    assert cli.main([str(word) for word in [*words, "--output", out.parent / "evaluated.json"]]) == 0
    assert json.loads((out.parent / "evaluated.json").read_text())["model"] == str(third / "model")
    rollback(out)
    assert cli.main(["report", "--output-dir", str(out)]) == 0
    page = (first / "report.html").read_bytes()
    assert (out / "report.html").read_bytes() == page
    assert cli.main(["report", "--output-dir", str(third)]) == 0
    assert (out / "report.html").read_bytes() == page, "of the run in use"


def test_what_version_0_1_left_is_the_first_version(copied, options):
    flat = shutil.copytree(copied.runs[0], copied.folder / "flat")
    assert current_run(flat) == flat and versions_of(flat)[0].is_current
    before = hashes(flat)
    train(flat, copied.folder / "week2.csv", output_dir=flat, **options)
    old, new = versions_of(flat)
    assert hashes(old.folder) == before and not old.is_current
    assert new.is_current and new.outcome == "adopted"
    rollback(flat)
    assert {name: digest for name, digest in hashes(flat).items() if name in before} == before


def test_in_python_the_folder_or_a_model_in_memory(weeks, options, tiny_flat_model_path):
    deployed = QueryAdapter.from_pretrained(weeks.out / "model")
    kept = train(weeks.out, weeks.folder / "noise.csv", **options)
    assert kept.adapter is not None and not kept.verdict.adopted and kept.results.kept_deployed
    assert torch.equal(kept.adapter.delta, deployed.delta)
    again = train(kept.model, weeks.folder / "noise.csv", **options)
    torch.testing.assert_close(again.adapter.delta, deployed.delta)
    assert again.results.selection.against_deployed == kept.results.selection.against_deployed
    assert again.run_dir is None and again.model_dir is None
    base = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    assert (again.model.encode_document(TEXTS) == base.encode_document(TEXTS)).all()


def test_a_gradient_run_has_to_beat_it_too(weeks, options):
    result = train(weeks.out, weeks.folder / "noise.csv", **{**options, "method": "gradient"})
    assert result.results.kept_deployed and "the deployed adapter is kept" in " ".join(str(result).split())
    assert result.results.selection.against_deployed is not None


def test_what_cannot_be_is_said_before_anything_is_embedded(weeks, tiny_flat_model_path, tmp_path, capsys):
    common = ["train", "--model", str(weeks.out), "--cache-dir", str(tmp_path / "cache")]
    data = str(weeks.folder / "week2.csv")
    for words, message in (
        (["--data", data, "--query-model", str(tiny_flat_model_path)], "and with a query model it is the documents'"),
        (["--without-labels", "--corpus", data], "and without labels nothing tells whether another one is better"),
    ):
        assert cli.main([*common, *words]) == 2
        assert f"The model has an adapter already, {message}" in " ".join(capsys.readouterr().err.split())
    save_adapter(QueryAdapter(32), tmp_path / "out" / "adapter")
    with pytest.raises(ValueError, match=r"holds an adapter alone, and nothing that embeds"):
        train(tmp_path / "out", data, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("clock", [[0, 0, 0], [5, 5, 6], [0, -7200, -7199]], ids=["one second", "two", "set back"])
def test_runs_are_listed_in_the_order_in_which_they_were(clock, tmp_path):
    began = datetime(2026, 11, 27, 23, 59, 58, tzinfo=timezone.utc)
    names = []
    for seconds, content_hash in zip(clock, ("f" * 64, "0" * 64, "8" * 64), strict=True):
        names.append(new_run_name(tmp_path, content_hash, began + timedelta(seconds=seconds)))
        (tmp_path / "versions" / names[-1]).mkdir(parents=True)
    assert run_names(tmp_path) == names
    assert date_of(names[0]) == began + timedelta(seconds=clock[0])
    assert max(map(date_of, names)) <= began + timedelta(seconds=max(clock) + 2)


def test_results_say_when_by_what_and_of_which_data(weeks):
    content = json.loads((weeks.out / "results.json").read_text())
    assert content["date"].endswith("+00:00") and len(content["data"]["fingerprint"]) == 64
    assert content["versions"]["st-adapter"] and re.fullmatch("[0-9a-f]{40}(-dirty)?", content["commit"])
    runs = versions_of(weeks.out)
    assert runs[0].date.isoformat() == runs[0].results.date and runs[-1].date.isoformat() >= content["date"]


def test_a_process_that_is_stopped_while_the_pointer_moves_leaves_one_run_or_the_other(copied, monkeypatch):
    out, (first, _, third) = copied.out, copied.runs

    def stopped(*_):
        raise KeyboardInterrupt

    for name in ("write_text", "folder_written_whole", "file_written_whole"):
        rollback(out, third.name)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(output_folder, name, stopped)
            rollback(out, first.name)
        in_use = current_run(out)
        assert in_use == (third if name == "write_text" else first)
        assert hashes(out / "model") == hashes((first if name == "file_written_whole" else third) / "model")
        rollback(out, in_use.name)
        assert hashes(out / "model") == hashes(in_use / "model"), "moving to the run in use puts everything right"


def test_where_there_are_no_hard_links_files_are_copied(copied, monkeypatch):
    def refused(*_):
        raise OSError("this file system has none")

    monkeypatch.setattr(os, "link", refused)
    run_in_use = current_run(copied.out)
    rollback(copied.out, run_in_use.name)
    assert hashes(copied.out / "model") == hashes(run_in_use / "model")
    (copied.out / "current").write_text("../../etc\n")
    with pytest.raises(ValueError, match=r"names the run '../../etc', which is not in"):
        current_run(copied.out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--query-prompt", "query: "), "the query prompts differ"),
        (("--truncate-dim", "8"), "the adapter takes 32 dimensions, and the base gives 8"),
    ],
)
def test_a_deployed_model_that_is_opened_otherwise_is_refused_before_anything_is_embedded(
    flags, message, copied, tmp_path, capsys
):
    words = ["train", "--model", copied.out, "--data", copied.folder / "week2.csv", "--output-dir", tmp_path / "new"]
    assert cli.main([str(word) for word in (*words, "--cache-dir", tmp_path / "cache", *flags)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Open it as then, by leaving out or adding flags such as --query-prompt" in said
    assert not (tmp_path / "new").exists() and not (tmp_path / "cache").exists()
