"""Several adapters behind one model, from the command line: combined, evaluated, checked, pushed one by one."""

import json

import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from hub_double.server import ALICE
from problems import TEXTS, make_adapter
from st_adapter import QueryAdapter, attach, check_stack, cli, save_pretrained
from st_adapter.saving.combined import combine
from st_adapter.saving.folder import read_saved
from st_adapter.saving.record import TrainingRecord


@pytest.fixture(scope="module")
def base(tiny_prompt_model_path):
    return SentenceTransformer(str(tiny_prompt_model_path), device="cpu")


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Two output folders, as of `st-adapter train`."""
    folder = tmp_path_factory.mktemp("runs")
    for task, kind in (("legal", "linear"), ("support", "mlp")):
        save_pretrained(base, make_adapter(kind), folder / task / "model", training=TrainingRecord(data=f"{task}.csv"))
    return folder


@pytest.fixture(scope="module")
def both(runs):
    words = [f"legal={runs / 'legal'}", f"support={runs / 'support' / 'model'}"]
    assert cli.main(["combine", *words, "--output-dir", str(runs / "both")]) == 0
    return runs / "both"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {"query": f"where is {a} {b}", "document": f"here is {b} and {a} in a file"} for a in "abcd" for b in "xyzu"
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def refused(capsys, *words):
    assert cli.main([str(word) for word in words]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_combined(both, runs, capsys):
    assert read_saved(both).tasks == ["legal", "support"]
    assert read_saved(both).route("support").training.data == "support.csv"
    words = ["combine", f"legal={runs / 'legal'}", "--default-task", "legal", "--output-dir", str(runs / "one")]
    assert cli.main(words) == 0
    assert read_saved(runs / "one").default_task == "legal"
    assert 'model.encode(queries, task="legal", prompt_name="query")' in capsys.readouterr().out


def test_what_cannot_be_combined(runs, both, base, capsys, tmp_path):
    legal = f"legal={runs / 'legal'}"
    kept = save_pretrained(base, None, tmp_path / "kept")
    for words, message in (
        ([str(runs / "legal")], "came, but TASK=RUN is expected, such as legal=out-legal"),
        ([legal, legal], "The task 'legal' came twice"),
        ([f"Legal={runs / 'legal'}"], "A task is called 'Legal'"),
        ([legal, f"support={kept}"], "holds the base model alone: no adapter helped there"),
        ([legal, f"support={runs / 'nowhere'}"], "neither a folder nor a Hub id"),
        ([legal, "--default-task", "support"], "Pass one of these with --default-task"),
        ([legal, f"support={both}"], "adapters for several tasks already"),
    ):
        assert message in refused(capsys, "combine", *words, "--output-dir", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_each_is_evaluated_as_if_it_were_alone(both, runs, pairs, tmp_path, capsys):
    found = {}
    for name, model, task in (("alone", runs / "legal", []), ("of both", both, ["--task", "legal"])):
        output = tmp_path / f"{name}.json"
        words = ["evaluate", "--model", model, "--data", pairs, "--output", output, "--cache-dir", tmp_path, *task]
        assert cli.main([str(word) for word in words]) == 0
        found[name] = json.loads(output.read_text(encoding="utf-8"))
    assert (found["alone"]["task"], found["of both"]["task"]) == (None, "legal")
    other = {"model", "task"}
    assert {name: value for name, value in found["alone"].items() if name not in other} == {
        name: value for name, value in found["of both"].items() if name not in other
    }
    capsys.readouterr()
    evaluate = ("evaluate", "--model", both, "--data", pairs, "--cache-dir", tmp_path)
    assert "but none was named. Name one of them, such as --task legal." in refused(capsys, *evaluate)
    assert "but 'sales' was named" in refused(capsys, *evaluate, "--task", "sales")
    chosen = combine(
        {task: runs / task / "model" for task in ("legal", "support")}, tmp_path / "one", default_task="legal"
    )
    words = ["evaluate", "--model", chosen, "--data", pairs, "--cache-dir", tmp_path]
    assert cli.main([str(word) for word in words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The adapter of encode_query is measured, of those for 'legal', 'support'; --task names another." in said
    alone = refused(capsys, "evaluate", "--model", runs / "legal", "--data", pairs, "--task", "legal")
    assert "does not have adapters for several tasks. Leave --task out." in alone


def test_one_of_both_is_compared_with_what_is_deployed(both, runs, pairs, tmp_path, capsys):
    """By hand, the other way round: the adapter of one side as the other side's own model has it."""
    found = []
    for number, (new, old) in enumerate([(both, runs / "support"), (runs / "support", both), (both, both)]):
        output = tmp_path / f"{number}.json"
        words = ["evaluate", "--model", new, "--against", old, "--data", pairs, "--output", output, "--task", "support"]
        assert cli.main([str(word) for word in [*words, "--cache-dir", tmp_path]]) == 0
        content = json.loads(output.read_text(encoding="utf-8"))
        assert content["base"] == content["adapted"]
        found.append(content["adapted"])
    assert found[0] == found[1] == found[2]
    capsys.readouterr()
    words = ("evaluate", "--model", runs / "legal", "--against", runs / "support", "--data", pairs)
    assert "Leave --task out" in refused(capsys, *words, "--task", "legal")
    assert "but none was named" in refused(capsys, *words[:4], both, *words[5:])


def test_a_deployed_one_to_beat_has_to_be_one(both, pairs, capsys, tmp_path):
    error = refused(capsys, "train", "--model", both, "--data", pairs, "--output-dir", tmp_path / "out")
    assert "adapters for the tasks 'legal', 'support', but only one can be compared with" in error
    assert not (tmp_path / "out").exists()


# A stack's two functions


def test_what_a_stack_does_with_tasks(base):
    model = attach(base, {"legal": make_adapter(), "support": make_adapter("mlp")})

    def queries(**arguments):
        return lambda texts: model.encode(texts, **{"prompt_name": "query", **arguments})

    def problems(embed_query, embed_documents=model.encode_document, task="legal"):
        return [str(each) for each in check_stack(model, embed_query, embed_documents, task=task).problems]

    assert problems(queries(task="legal")) == []
    assert problems(queries(task="support"), task="support") == []
    (other,) = problems(queries(task="support"))
    assert "queries pass through the adapter of the task 'support': pass task='legal'" in other
    (none,) = problems(model.encode_query)
    assert "queries do not pass through the adapter" in none and "pass task='legal' with prompt_name='query'" in none
    (prompt,) = problems(queries(task="legal", prompt_name=None))
    assert "queries are embedded without a prompt" in prompt
    (document,) = problems(queries(task="legal"), queries(task="support", prompt_name="document"))
    assert "documents pass through the adapter of the task 'support'" in document
    with pytest.raises(ValueError, match="but none was named"):
        check_stack(model, model.encode_query, model.encode_document)


def test_without_a_task_a_stack_has_that_of_the_default(base):
    adapters = {"legal": make_adapter(), "support": make_adapter("mlp")}
    model = attach(base, adapters, default_task="support")
    assert check_stack(model, model.encode_query, model.encode_document).ok
    assert check_stack(model, model.encode_query, model.encode_document, task="support").ok
    assert not check_stack(model, model.encode_query, model.encode_document, task="legal").ok


def test_a_stack_is_checked_by_task(both, tmp_path, monkeypatch, capsys):
    (tmp_path / "their_app.py").write_text(
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({str(both)!r}, device='cpu')\n"
        "embed_query = lambda texts: model.encode(texts, task='support', prompt_name='query')\n"
        "embed_documents = model.encode_document\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["check", "their_app:embed_query", "their_app:embed_documents", "--model", str(both), "--task"]
    assert cli.main([*words, "support"]) == 0
    assert cli.main([*words, "legal"]) == 4
    assert "the adapter of the task 'support'" in " ".join(capsys.readouterr().out.split())


# To the Hub


def push(*words):
    from st_adapter import cli

    return cli.main(["push", *map(str, words)])


def kind_of(repo_id):
    from st_adapter import QueryAdapter

    return QueryAdapter.from_pretrained(repo_id).kind


@pytest.mark.hub
def test_one_adapter_is_pushed_alone(both, runs, hub_server, hub_client):
    alone = ["--adapter-only", "--task", "support"]
    assert hub_client.run(push, both, "alice/support", *alone, token=ALICE) == 0
    assert hub_client.run(kind_of, "alice/support") == "mlp"
    assert "support.csv" in hub_server.files("alice/support")["README.md"].decode()
    for words, message in (
        ((both, "alice/x", "--adapter-only"), "Name one of them, such as --task legal"),
        ((both, "alice/x", "--task", "legal"), "--task legal came without an adapter of several to choose"),
        ((runs / "legal", "alice/x", *alone), "Leave --task out"),
        ((both, "alice/x", "--twin"), "Leave --twin out, or push each run by itself"),
    ):
        assert hub_client.run(push, *words, token=ALICE) == 2
        assert message in " ".join(hub_client.output.split())


def test_one_adapter_goes_on_another_copy_of_the_base(both, base):
    model = attach(base, QueryAdapter.from_pretrained(both, task="support"))
    expected = SentenceTransformer(str(both), device="cpu").encode(TEXTS, task="support", prompt_name="query")
    assert abs(model.encode_query(TEXTS) - expected).max() < 1e-6
