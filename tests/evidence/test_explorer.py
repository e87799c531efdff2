"""`st-adapter explore`: what is shown for a query, by hand and against what was measured; the Space; the page."""

import importlib
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

import chromium
from hub_double.server import ALICE
from problems import ROOT, attacking_pairs, names
from st_adapter import cli
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.errors import InputError
from st_adapter.evidence.explorer import Explorer, KnownQuery, Material
from st_adapter.evidence.exploring import _sides, explored
from st_adapter.evidence.results import Results
from st_adapter.evidence.space import write_space
from st_adapter.running.run import train
from st_adapter.running.settings import RunOptions

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)></div>{{ 7 * 7 }}${7*7}\u202e\x1b[31m"


# --- by hand ---


def known(query_id, text, base=None, adapted=None, seen=None, **fields):
    fields = {"split": "train" if base is None else "test", "relevance": {}, **fields}
    return KnownQuery(query_id=query_id, text=text, base=base, adapted=adapted, seen=seen, **fields)


QUERIES = [
    known("a", "One  query", split="train", relevance={1: 1.0}),
    known("b", "One query", 0.5, 0.75, True, relevance={3: 2.0, 0: 0.0}, own_copies=[2]),
    known("c", "other", 0.5, 0.25, False),
    known("d", "a third", 0.5, 0.5, False),
]


def explorer(num_documents=12):
    """Base ranks documents 0, 1, 2, ...; the adapter 3, 2, 1, 0 and then 4, 5, ... as before."""
    base = -torch.arange(float(num_documents))
    adapted = base.clone()
    adapted[:4] = base[:4].flip(0)

    def search(queries, k):
        found = (queries @ torch.eye(num_documents)).topk(min(k, num_documents), dim=1)
        return found.values, found.indices

    return Explorer(
        Material(
            title="",
            facts=(),
            ids=[f"d{row}" for row in range(num_documents)],
            queries=QUERIES,
            seen=frozenset({1}),
            encode=lambda text: (base, adapted),
            search=search,
            texts=lambda rows: [None if row == 5 else f"text {row}" for row in rows],
        )
    )


def test_ranks_of_both_sides_and_what_is_known():
    answer = explorer().answer(" One query ")
    # Document 2 is the query's own text, so the others move up: 0, 1, 3, 4, ... and 3, 1, 0, 4, ...
    assert [d.corpus_id for d in answer.base] == ["d0", "d1", *(f"d{row}" for row in range(3, 11))]
    assert [d.corpus_id for d in answer.adapted[:4]] == ["d3", "d1", "d0", "d4"]
    assert [d.other_rank for d in answer.adapted[:4]] == [3, 2, 1, 4]
    assert [d.other_rank for d in answer.base[:4]] == [3, 2, 1, 4]
    assert [d.relevance for d in answer.adapted[:4]] == [2.0, None, 0.0, None]
    assert [d.seen for d in answer.base[:3]] == [False, True, False]
    assert [d.score for d in answer.base[:3]] == [0, -1, -3] and answer.base[4].text is None
    assert answer.known.query_id == "b", "the measured one of two with this text"


def test_a_query_that_is_not_known():
    answer = explorer().answer("new")
    assert answer.known is None and {d.relevance for d in answer.base} == {None}
    assert [d.corpus_id for d in answer.adapted[:4]] == ["d3", "d2", "d1", "d0"], "nothing is left out"
    with pytest.raises(ValueError, match="empty"):
        explorer().answer(" \n")


def test_few_documents_and_empty_places():
    few = explorer(4)
    assert len(few.answer("new").base) == 4
    holes = replace(
        few.material, search=lambda q, k: (torch.tensor([[0.5, -math.inf]] * 2), torch.tensor([[2, -1]] * 2))
    )
    assert [d.corpus_id for d in Explorer(holes).answer("new").adapted] == ["d2"]


def test_how_deep_a_document_was():
    deep = explorer(200)
    rows = torch.arange(199, -1, -1)
    both = (torch.zeros(2, 100), torch.stack([torch.arange(100), rows[100:]]))  # 0 to 99; 99 to 0
    assert [d.other_rank for d in Explorer(replace(deep.material, search=lambda q, k: both)).answer("new").base][
        :2
    ] == [
        100,
        99,
    ]
    both = (torch.zeros(2, 100), torch.stack([torch.arange(100), rows[:100]]))
    answer = Explorer(replace(deep.material, search=lambda q, k: both)).answer("new")
    assert {d.other_rank for d in answer.base} == {None}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "bdc"),
        ({"order": "loss"}, "cdb"),
        ({"documents": "new"}, "dc"),
        ({"documents": "seen"}, "b"),
        ({"containing": "ONE  q"}, "b"),
        ({"containing": "nothing"}, ""),
    ],
)
def test_measured_queries(arguments, expected):
    assert "".join(query.query_id for query in explorer().measured(**arguments)) == expected


# --- a run ---


@pytest.fixture(scope="module")
def finished(tiny_model_path, tmp_path_factory):
    """A folder with the data of a run, its cache and its output, on texts that try to be markup."""
    rows = attacking_pairs(ATTACK)
    # Its own text stands in the corpus.
    rows.append({"question": rows[0]["question"], "passage": rows[1]["question"]})
    folder = tmp_path_factory.mktemp("explored")
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    train(
        SentenceTransformer(str(tiny_model_path), device="cpu"),
        RetrievalDataset.load(str(folder / "pairs.csv")),
        output_dir=folder / "out",
        method="closed-form",
        alpha=0.99,
        cache_dir=folder / "cache",
        show_progress_bar=False,
        options=RunOptions(base_model=tiny_model_path),
    )
    return folder


def found_of(folder, **options):
    results = Results.read(folder / "out" / "results.json")
    dataset = RetrievalDataset.load(str(folder / "pairs.csv"), seed=0, **options)
    model = SentenceTransformer(str(folder / "out" / "model"), device="cpu")
    return explored(model, dataset, results, cache_dir=folder / "cache", show_progress_bar=False), model, dataset


@pytest.fixture(scope="module")
def run(finished):
    return found_of(finished)


def ndcg(documents, known):
    """Of the ten that are shown, by the definition."""
    best = sorted((r for r in known.relevance.values() if r > 0), reverse=True)[:10]
    gained = sum((d.relevance or 0) / math.log2(d.rank + 1) for d in documents)
    return gained / sum(relevance / math.log2(rank + 1) for rank, relevance in enumerate(best, 1))


def test_what_is_shown_is_what_was_measured(finished, run):
    found = Explorer(run[0].material)
    measured = found.measured()
    results = json.loads((finished / "out" / "results.json").read_text())
    assert results["adopted"] and len(measured) == results["test"]["num_queries"]
    assert measured[0].gain > 0
    for query in measured:
        answer = found.answer(query.text)
        assert ndcg(answer.base, query) == pytest.approx(query.base, abs=1e-6)
        assert ndcg(answer.adapted, query) == pytest.approx(query.adapted, abs=1e-6)
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    assert np.mean([query.gain for query in measured]) == pytest.approx(compared["difference"])
    assert {query.split for query in run[0].material.queries} == {"train", "dev", "test"}
    fitted = [query for query in run[0].material.queries if query.split in results["fitted_on"]]
    assert run[0].material.seen == {row for query in fitted for row, judged in query.relevance.items() if judged > 0}


def test_both_sides_are_those_of_stock_sentence_transformers(finished, run, tiny_model_path):
    _, model, dataset = run
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    texts = list(dataset.corpus["text"])
    documents = torch.from_numpy(base.encode_document(texts))
    answer = Explorer(run[0].material).answer("the blue bird")
    for side, queries in ((answer.base, base), (answer.adapted, model)):
        scores = documents @ torch.from_numpy(queries.encode_query("the blue bird"))
        assert [d.score for d in side] == pytest.approx(scores.sort(descending=True).values[:10].tolist(), abs=1e-5)
        assert side[0].text.startswith(texts[int(scores.argmax())][:20])
    assert answer.base[0].text.endswith(" …") and len(answer.base[0].text) <= 281


def test_a_model_that_truncates_does_so_behind_its_adapter(finished, tiny_model_path):
    folder = str(finished / "out" / "model")
    model, base = (SentenceTransformer(path, truncate_dim=6, device="cpu") for path in (folder, str(tiny_model_path)))
    sides = _sides(model).encode("the blue bird")
    for side, queries in zip(sides, (base, model), strict=True):
        np.testing.assert_allclose(side, queries.encode_query("the blue bird"), atol=1e-6)


def test_other_data_are_refused(finished, run):
    results = Results.read(finished / "out" / "results.json")
    _, model, dataset = run
    frame = pd.read_csv(finished / "pairs.csv")
    options = {"cache_dir": finished / "cache", "show_progress_bar": False}
    with pytest.raises(InputError, match="on other data than these: .* are not in that split of these data") as caught:
        explored(
            model, RetrievalDataset.load(frame.assign(question=frame["question"] + "?"), seed=3), results, **options
        )
    assert "same flags" in caught.value.for_command_line
    more = pd.concat([frame, frame[:1].assign(passage="more")])
    with pytest.raises(InputError, match="it had 81 documents, and these data have 82"):
        explored(model, RetrievalDataset.load(more), results, **options)
    # The same queries in the same splits, with other documents under their ids.
    turned = dataset.corpus.map(lambda row: {"text": row["text"][::-1]})
    with pytest.raises(InputError, match="on other data than these: texts, vectors or judgements differ"):
        explored(model, replace(dataset, corpus=turned), results, **options)


def test_a_base_model_that_was_kept_is_on_both_sides(finished, tiny_model_path, run):
    results = replace(Results.read(finished / "out" / "results.json"), adopted=False, adapter=None)
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    found = explored(base, run[2], results, cache_dir=finished / "cache", show_progress_bar=False)
    answer = Explorer(found.material).answer("the blue bird")
    assert answer.base == answer.adapted
    assert any("both sides are the same model" in fact for fact in found.material.facts)


def test_documents_in_a_folder_of_vectors(finished, tiny_model_path, tmp_path, run, monkeypatch, capsys):
    dataset = run[2]
    frame = pd.DataFrame({"id": dataset.corpus["id"], "text": dataset.corpus["text"]})
    frame.to_csv(tmp_path / "corpus.csv", index=False)
    words = ["embed", "--data", str(tmp_path / "corpus.csv"), "--output", str(tmp_path / "vectors")]
    assert cli.main([*words, "--model", str(tiny_model_path)]) == 0
    text_of = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    labels = pd.DataFrame([{**row, "split": split} for split, rows in dataset.qrels.items() for row in rows])
    labels = labels.assign(query=[text_of[query] for query in labels["query_id"]])
    labels.drop(columns="query_id").rename(columns={"relevance": "score"}).to_csv(tmp_path / "labels.csv", index=False)
    words = ["--labels", str(tmp_path / "labels.csv"), "--corpus", str(tmp_path / "vectors")]
    common = [*words, "--cache-dir", str(tmp_path / "cache")]
    out = str(tmp_path / "out")
    assert (
        cli.main(["train", "--model", str(tiny_model_path), *common, "--output-dir", out, "--method", "closed-form"])
        == 0
    )
    assert cli.main(["explore", out, *common, "--space-dir", str(tmp_path / "space")]) == 0
    content = json.loads((tmp_path / "space" / "explore.json").read_text())
    assert content["texts"] == [None] * 81 and content["ids"] == list(dataset.corpus["id"])
    assert "; they hold vectors of 81 documents, and" in " ".join(capsys.readouterr().out.split())
    # The same folder somewhere else is found by its flags, and where the run was made without any.
    monkeypatch.chdir(tmp_path)
    again = ["--cache-dir", "cache", "--space-dir"]
    shutil.copytree("vectors", "copied")
    assert cli.main(["explore", out, "--labels", "labels.csv", "--corpus", "copied", *again, "space2"]) == 0
    assert cli.main(["explore", out, *again, "space3"]) == 0
    # Other vectors under the same ids are other documents.
    frame.loc[40:, "text"] = "something else"
    frame.to_csv("corpus.csv", index=False)
    assert cli.main(["embed", "--data", "corpus.csv", "--output", "others", "--model", str(tiny_model_path)]) == 0
    capsys.readouterr()
    words = told(capsys, out, "--labels", "labels.csv", "--corpus", "others", *again, "space4")
    assert "The run was on other data than these" in words
    command = re.search(r"st-adapter train [^<]*", (Path(out) / "report.html").read_text())
    assert command is not None and f"--labels labels.csv --seed 0 --corpus {tmp_path / 'vectors'} " in command[0]


# --- the command ---


def told(capsys, *words):
    """What the command line says to words that it refuses."""
    assert cli.main(["explore", *map(str, words)]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_port_is_one(finished, capsys):
    assert "--port is 99999, but a number from 1 to 65535" in told(capsys, finished / "out", "--port", "99999")


def test_what_is_missing_is_said(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no results.json of a training run" in told(capsys, tmp_path, "--space-dir", tmp_path / "space")
    out = finished / "out"
    assert "--data is needed: " in (words := told(capsys, out, "--space-dir", tmp_path / "space"))
    assert "were 'pairs.csv', which is not in this folder" in words
    assert "--data, or --labels with --corpus" in words
    (tmp_path / "results.json").write_text((out / "results.json").read_text())
    assert "holds no model in model/" in told(capsys, tmp_path, "--data", "x.csv", "--space-dir", tmp_path / "space")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert 'pip install "st-adapter[explore]"' in told(capsys, out, "--data", finished / "pairs.csv")


def test_nothing_is_published_without_consent(finished, capsys):
    words = told(capsys, finished / "out", "--space", "alice/space")
    assert "uploads texts and vectors of all documents" in words and "add --publish-data" in words
    assert "--private is for --space USER/NAME" in told(capsys, finished / "out", "--private")


# --- the Space ---


@pytest.fixture(scope="module")
def space(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "space"
    options = ["--data", str(finished / "pairs.csv"), "--cache-dir", str(finished / "cache")]
    assert cli.main(["explore", str(finished / "out"), *options, "--space-dir", str(folder)]) == 0
    return folder


def test_the_files_of_a_space(finished, space, run):
    assert names(space) == sorted(
        "README.md app.py documents.safetensors explore.json explorer.py explorer_page.py model published.py "
        "requirements.txt".split()
    )
    card = (space / "README.md").read_text()
    assert card.startswith("---\ntitle: ") and "sdk: gradio" in card and "app_file: app.py" in card
    assert "texts (cut after a few lines) of 81 documents, and 80 queries with their judgements" in card
    for path in space.glob("*.py"):
        assert not re.search(r"^\s*(from|import) st_adapter", path.read_text(), re.MULTILINE)
    write_space(run[0], finished / "out" / "model", space)  # again, over the one that was written before
    (space.parent / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a Space written here"):
        write_space(run[0], finished / "out" / "model", space.parent)
    assert (space.parent / "notes.txt").read_text() == "mine"


def test_a_space_finds_the_same_without_this_package(run, space, monkeypatch):
    monkeypatch.setitem(sys.modules, "st_adapter", None)  # not installed there
    monkeypatch.syspath_prepend(space)
    try:
        there = importlib.import_module("explorer").Explorer(importlib.import_module("published").published(space))
    finally:
        for name in ("explorer", "published"):
            sys.modules.pop(name, None)
    here = Explorer(run[0].material)
    assert list(map(_as_json, there.measured("loss", "new"))) == list(map(_as_json, here.measured("loss", "new")))
    for text in (here.measured()[0].text, "the blue bird"):
        found, expected = _as_json(there.answer(text)), _as_json(here.answer(text))
        for side in ("base", "adapted"):
            scores = [[document.pop("score") for document in answer[side]] for answer in (found, expected)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert found == expected


def _as_json(answer):
    return json.loads(json.dumps(asdict(answer)))


# These run in the client's process.
def explore_to_the_hub(*words):
    from st_adapter.cli import main

    return main(["explore", *words])


def push_again(folder, repo_id):
    from pathlib import Path

    from st_adapter.evidence.space import push_space

    return push_space(Path(folder), repo_id, private=None, token=None, overwrite=False)


@pytest.mark.hub
def test_a_space_goes_to_the_hub(hub_client, hub_server, finished, space):
    words = [finished / "out", "--data", finished / "pairs.csv", "--cache-dir", finished / "cache"]
    words += ["--space", "alice/looks", "--publish-data", "--private"]
    assert hub_client.run(explore_to_the_hub, *words, token=ALICE) == 0, hub_client.output
    hub_client.run(push_again, space, "alice/looks", token=ALICE)
    files = hub_server.files("alice/looks", repo_type="spaces")
    assert {"app.py", "explore.json", "documents.safetensors", "model/modules.json", "README.md"} <= set(files)
    assert hub_server.repos["spaces", "alice/looks"].private
    assert list(hub_server.repos) == [("spaces", "alice/looks")], "nothing but the Space was made"


@pytest.mark.hub
def test_a_space_of_others_is_kept(hub_client, hub_server, finished):
    def create(repo_id):
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio")
        api.upload_file(path_or_fileobj=b"mine", path_in_repo="app.py", repo_id=repo_id, repo_type="space")

    hub_client.run(create, "alice/mine", token=ALICE)
    words = [finished / "out", "--data", finished / "pairs.csv", "--space", "alice/mine", "--publish-data"]
    assert hub_client.run(explore_to_the_hub, *words, token=ALICE) == 2
    assert "holds something else" in hub_client.output
    assert hub_server.files("alice/mine", repo_type="spaces")["app.py"] == b"mine"


# --- the page ---


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason='pip install "st-adapter[explore]"')
def test_in_a_browser(finished, tmp_path):
    """Screenshots lie in the test's folder."""
    words = ["explore", finished / "out", "--data", finished / "pairs.csv", "--cache-dir", finished / "cache"]
    command = [sys.executable, "-m", "st_adapter", *map(str, words), "--no-open-browser"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = next(line for line in process.stdout if "Open http" in line)
            url = re.search(r"http://127\.0\.0\.1:\d+/?", line)[0]
            browser = chromium.Chromium(tmp_path / "profile")
            try:
                look_at(browser, url, tmp_path / "1280-light.png", 1280, 900, dark=False)
                look_at(browser, url, tmp_path / "390-dark.png", 390, 844, dark=True)
            finally:
                browser.close()
        finally:
            process.terminate()


def look_at(browser, url, picture, width, height, dark):
    """Choose the first query, look at its answer, then narrow the list."""
    browser.open(url, width=width, height=height, dark=dark)
    browser.wait_for("document.querySelector('.queries button')")
    assert browser.evaluate("document.querySelectorAll('.queries button').length") > 5
    browser.evaluate("document.querySelector('.queries button').click()")
    browser.wait_for("document.querySelectorAll('#answer li').length == 20")
    browser.screenshot(picture)
    shown = str(browser.evaluate("document.querySelector('#answer').innerText"))
    assert "<script>alert(1)</script><img src=x onerror=alert(2)></div>{{ 7 * 7 }}${7*7}" in shown
    assert "relevant (1)" in shown and "\u202e" not in shown and "\x1b" not in shown
    assert not browser.evaluate("document.querySelectorAll('.explore script, .explore img').length")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert not [request for request in browser.requests if not request.startswith((url, "data:", "blob:"))]
    assert not [complaint for complaint in browser.complaints if "Autofocus" not in complaint]
    red, *_ = re.findall(r"\d+", str(browser.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (int(red) < 100) == dark
