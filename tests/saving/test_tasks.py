"""Several adapters behind one model: in memory, saved, opened by stock Sentence Transformers, and apart again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import nn

from elsewhere import encoded_by_stock, run_elsewhere
from hub_double.client import HubClient, HubClientError
from hub_double.server import ALICE, HubServer
from problems import TEXTS, apply, hashes, make_adapter, names
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.attach import attach, detach
from st_adapter.saving.combined import combine
from st_adapter.saving.folder import CONFIG_FILE_NAME, read_saved
from st_adapter.saving.onnx_export import export_onnx
from st_adapter.saving.opening import from_pretrained, saved_training
from st_adapter.saving.record import SplitScores, TrainingRecord
from st_adapter.saving.save import save_pretrained
from st_adapter.storage.paths import file_sha256

SCORES = SplitScores("test", 1300, 20, "cosine", {"ndcg@10": 0.5}, {"ndcg@10": 0.625}, {"ndcg@10": [0.1, 0.15]})
RECORDS = {"legal": TrainingRecord(data="contracts", seed=3, scores=SCORES), "support": TrainingRecord(data="tickets")}


def adapters() -> dict[str, QueryAdapter]:
    return {"legal": make_adapter("linear"), "support": make_adapter("mlp", bias=True)}


def adapted(base: SentenceTransformer, adapter: QueryAdapter) -> np.ndarray:
    return adapter.transform(base.encode_query(TEXTS))


def opened(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def base(tiny_prompt_model_path: Path) -> SentenceTransformer:
    """With a prompt for queries, which a task alone does not bring."""
    return opened(tiny_prompt_model_path)


@pytest.fixture(scope="module")
def saved(base: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(base, adapters(), tmp_path_factory.mktemp("saved") / "both", training=RECORDS)


@pytest.fixture(scope="module")
def with_default(base: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("default") / "both"
    return save_pretrained(base, adapters(), folder, training=RECORDS, default_task="support")


def assert_right(model: SentenceTransformer, base: SentenceTransformer, default_task: str | None) -> None:
    for task, adapter in adapters().items():
        found = model.encode(TEXTS, task=task, prompt_name="query")
        np.testing.assert_allclose(found, adapted(base, adapter), rtol=0, atol=1e-6)
        assert np.abs(found - base.encode_query(TEXTS)).max() > 0.05
    for task in (None, "document"):
        np.testing.assert_array_equal(model.encode(TEXTS, task=task), base.encode(TEXTS))
    np.testing.assert_array_equal(model.encode_document(TEXTS), base.encode_document(TEXTS))
    if default_task is None:
        np.testing.assert_array_equal(model.encode_query(TEXTS), base.encode_query(TEXTS))
    else:
        expected = adapted(base, adapters()[default_task])
        np.testing.assert_allclose(model.encode_query(TEXTS), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="No route found for task type 'sales'"):
        model.encode(TEXTS, task="sales")


# In memory


@pytest.mark.parametrize("default_task", [None, "support"])
def test_each_task_has_its_adapter_and_documents_none(base: SentenceTransformer, default_task: str | None) -> None:
    model = attach(base, adapters(), default_task=default_task)
    assert_right(model, base, default_task)
    for ours, theirs in zip(list(model)[:-1], base, strict=True):
        assert ours is theirs


def test_the_default_task_is_no_second_copy(base: SentenceTransformer) -> None:
    routes = attach(base, adapters(), default_task="legal")[-1].sub_modules
    assert [id(module) for module in routes["query"]] == [id(module) for module in routes["legal"]]


@pytest.mark.parametrize("task", ["legal", "support"])
def test_detach_takes_one_out(base: SentenceTransformer, task: str) -> None:
    model = attach(base, adapters(), default_task="support")
    taken, query_modules = detach(model, task)
    assert [type(module) for module in taken] == [type(module) for module in base]
    queries = torch.from_numpy(base.encode_query(TEXTS))
    expected = adapted(base, adapters()[task])
    np.testing.assert_allclose(apply(query_modules, queries).detach().numpy(), expected, rtol=0, atol=1e-6)
    assert detach(model)[1] == detach(model, "support")[1]
    assert detach(attach(base, adapters()))[1] == []


def test_detach_refuses_a_task_that_is_not_there(base: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="adapters for the tasks 'legal', 'support', but 'sales' was named"):
        detach(attach(base, adapters()), "sales")
    for model in (attach(base, make_adapter()), base):
        with pytest.raises(ValueError, match="'legal' was named, but the model does not have adapters for several"):
            detach(model, "legal")


@pytest.mark.parametrize(
    "name",
    ["query", "document", "passage", "text", "Legal", "a b", "a/b", "..", "", "7", "é", "x" * 65, "con", 3]
    # of the class that holds the routes
    + ["items", "train", "type", "training"],
)
def test_what_a_task_cannot_be_called(base: SentenceTransformer, name: str) -> None:
    with pytest.raises(ValueError, match="but a name of lower-case letters, digits, '-' and '_' is expected"):
        attach(base, {name: make_adapter()})


@pytest.mark.parametrize("name", ["legal", "zh-hant", "tenant_17", "x" * 64])
def test_what_a_task_can_be_called(base: SentenceTransformer, name: str) -> None:
    assert isinstance(attach(base, {name: make_adapter()})[-1], Router)


def test_what_cannot_be_attached(base: SentenceTransformer) -> None:
    for call, message in (
        (lambda: attach(base, {}), "No adapter came, but at least one is expected"),
        (
            lambda: attach(base, adapters(), default_task="sales"),
            "default task is 'sales', but the tasks are 'leg",
        ),
        (lambda: attach(base, make_adapter(), default_task="legal"), "but a single adapter has no task"),
        (lambda: attach(base, {"legal": None}), "For the task 'legal' came a NoneType, .* base model is kept"),
        (lambda: attach({"legal": make_adapter()}, base), "Pass the model first"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_each_adapter_has_to_be_of_this_base_model(base: SentenceTransformer) -> None:
    other = make_adapter()
    other.base_model = replace(identity_of(base), weights_sha256="0" * 64)
    with pytest.raises(ValueError, match="The adapter for 'support' belongs to the base model .*: the weights differ"):
        attach(base, {"legal": make_adapter(), "support": other})
    attach(base, {"legal": make_adapter(), "support": other}, allow_other_base=True)
    with pytest.raises(ValueError, match="32 dimensions, but the adapter for 'support' expects 16"):
        attach(base, {"legal": make_adapter(), "support": QueryAdapter(16)})


def test_a_base_model_that_reads_task_itself_has_one_adapter_only(tiny_model: SentenceTransformer) -> None:
    class ReadsTask(nn.Module):
        def forward(self, features: dict, task: str | None = None) -> dict:
            if task == "query":
                features["sentence_embedding"] = -features["sentence_embedding"]
            return features

    tiny_model.append(ReadsTask())
    tiny_model.module_kwargs["3"] = ["task"]
    with pytest.raises(ValueError, match="read `task` themselves"):
        attach(tiny_model, adapters())
    assert isinstance(attach(tiny_model, make_adapter())[-1], Router)


# Saved


def test_what_is_saved_says_what_it_holds(saved: Path, with_default: Path, base: SentenceTransformer) -> None:
    here = read_saved(saved)
    assert (here.tasks, here.default_task, here.has_adapter) == (["legal", "support"], None, True)
    assert {name: route.adapter for name, route in here.routes.items()} == {
        "legal": "adapter/legal",
        "support": "adapter/support",
        "query": None,
    }
    assert (here.route("legal").training, here.route("support").training) == (RECORDS["legal"], RECORDS["support"])
    assert "adapters for legal, support" in str(here)
    assert read_saved(with_default).default_task == "support"
    assert read_saved(with_default).training == RECORDS["support"]
    assert_right(from_pretrained(saved, device="cpu"), base, None)
    # One copy of the base, and of the default adapter.
    weights = sorted(path.relative_to(with_default).as_posix() for path in with_default.rglob("model.safetensors"))
    assert weights == [
        *("3_Router/legal_0_Dense/model.safetensors", "3_Router/support_0_Dense/model.safetensors"),
        *("3_Router/support_1_Dense/model.safetensors", "adapter/legal/model.safetensors"),
        *("adapter/support/model.safetensors", "model.safetensors"),
    ]


def test_stock_sentence_transformers_opens_it_and_saves_it_again(
    saved: Path, with_default: Path, base: SentenceTransformer, tmp_path: Path
) -> None:
    by_default = adapted(base, adapters()["support"])
    for folder, queries, tolerance in ((saved, base.encode_query(TEXTS), 0), (with_default, by_default, 1e-6)):
        for again in (None, tmp_path / f"again-{folder.name}"):
            vectors = run_elsewhere(encoded_by_stock, folder, TEXTS, ("legal", "support"), again)
            for task, adapter in adapters().items():
                np.testing.assert_allclose(vectors[task], adapted(base, adapter), rtol=0, atol=1e-6)
            np.testing.assert_allclose(vectors["encode_query"], queries, rtol=0, atol=tolerance)
            np.testing.assert_array_equal(vectors["encode_document"], base.encode_document(TEXTS))
            np.testing.assert_array_equal(vectors["encode"], base.encode(TEXTS))


def test_one_adapter_is_taken_out_of_it(saved: Path, with_default: Path, base: SentenceTransformer) -> None:
    for task, adapter in adapters().items():
        taken = QueryAdapter.from_pretrained(saved, task=task)
        assert taken.kind == adapter.kind
        np.testing.assert_array_equal(adapted(base, taken), adapted(base, adapter))
        attach(base, taken)  # bound to this very base model
    for folder in (saved, with_default):
        with pytest.raises(ValueError, match=r"tasks 'legal', 'support', but none was named. Pass .*task='legal'"):
            QueryAdapter.from_pretrained(folder)
    with pytest.raises(ValueError, match="but 'sales' was named"):
        QueryAdapter.from_pretrained(saved, task="sales")


def test_an_adapter_alone_has_no_task(base: SentenceTransformer, tmp_path: Path) -> None:
    folder = save_pretrained(base, make_adapter(), tmp_path / "one")
    with pytest.raises(ValueError, match="'legal' was named, but the model does not have adapters for several tasks"):
        QueryAdapter.from_pretrained(folder, task="legal")


def test_the_record_of_a_task(saved: Path, with_default: Path) -> None:
    assert saved_training(str(saved), task="legal") == RECORDS["legal"]
    assert saved_training(str(with_default)) == RECORDS["support"]
    with pytest.raises(ValueError, match="but none was named"):
        saved_training(str(saved))


def test_records_have_to_be_of_the_adapters(base: SentenceTransformer, tmp_path: Path) -> None:
    for adapter, training, message in (
        (adapters(), RECORDS["legal"], "training is one record, but there are adapters for 'legal', 'support'"),
        (adapters(), {"sales": RECORDS["legal"]}, "training is records for 'sales', but there are adapters for"),
        (make_adapter(), RECORDS, "records for 'legal', 'support', but there is one adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            save_pretrained(base, adapter, tmp_path / "saved", training=training)
    assert names(tmp_path) == []


def test_the_base_can_be_taken_out_and_given_other_adapters(
    saved: Path, base: SentenceTransformer, tmp_path: Path
) -> None:
    taken, _ = detach(opened(saved))
    again = save_pretrained(taken, {"support": make_adapter("low_rank")}, tmp_path / "again")
    before, after = hashes(saved), hashes(again)
    own = [name for name in before if not name.startswith(("adapter/", "3_Router/", "README", CONFIG_FILE_NAME))]
    assert {name: after[name] for name in own} == {name: before[name] for name in own}
    assert read_saved(again).base_model == read_saved(saved).base_model
    np.testing.assert_allclose(
        opened(again).encode(TEXTS, task="support", prompt_name="query"),
        adapted(base, make_adapter("low_rank")),
        rtol=0,
        atol=1e-6,
    )


def test_plain_encode_can_be_that_of_the_default_task(base: SentenceTransformer, tmp_path: Path) -> None:
    folder = save_pretrained(base, adapters(), tmp_path / "query", layout="query", default_task="support")
    model = opened(folder)
    np.testing.assert_allclose(model.encode(TEXTS), adapted(base, adapters()["support"]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.encode_document(TEXTS), base.encode_document(TEXTS))
    found = model.encode(TEXTS, task="legal", prompt_name="query")
    np.testing.assert_allclose(found, adapted(base, adapters()["legal"]), rtol=0, atol=1e-6)


def test_forms_in_which_no_task_can_be_said_are_refused(base: SentenceTransformer, tmp_path: Path) -> None:
    for options, message in (
        ({"layout": "twin"}, "The layout 'twin' came with adapters for several tasks"),
        ({"layout": "query"}, "The layout 'query' was asked for, .* no default_task"),
        ({"onnx": True}, "ONNX files came with adapters for several tasks"),
    ):
        with pytest.raises(ValueError, match=message):
            save_pretrained(base, adapters(), tmp_path / "saved", **options)
    with pytest.raises(ValueError, match="to an ONNX file no task can be told"):
        export_onnx(attach(base, adapters()), tmp_path / "saved")
    assert names(tmp_path) == []


def forge(folder: Path, change: dict) -> None:
    """Change the Router's configuration, and write its hash anew."""
    path = folder / "3_Router" / "router_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    config = json.loads((folder / CONFIG_FILE_NAME).read_text(encoding="utf-8"))
    config["files"]["3_Router/router_config.json"] = file_sha256(path)
    (folder / CONFIG_FILE_NAME).write_text(json.dumps(config), encoding="utf-8")


def test_routes_that_are_not_those_it_speaks_of_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "forged"
    structure = json.loads((saved / "3_Router" / "router_config.json").read_text(encoding="utf-8"))["structure"]
    for routes, message in (
        ({**structure, "sales": structure["legal"]}, "has routes for 'document', 'legal', 'query', 'sales', 'support'"),
        ({**structure, "items": structure["legal"]}, "does not describe a route for queries"),
        ({**structure, "legal": ["query_0_Dense"]}, "does not describe a route for queries"),
    ):
        shutil.copytree(saved, folder)
        forge(folder, {"structure": routes})
        with pytest.raises(ValueError, match=message):
            from_pretrained(folder, device="cpu")
        shutil.rmtree(folder)


def test_a_damaged_adapter_is_found(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    (folder / "adapter" / "support" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="adapter/support/model.safetensors is not the file that was saved"):
        from_pretrained(folder, device="cpu")


def test_the_card_lists_each_adapter(saved: Path, with_default: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    assert 'model.encode(["a question"], task="legal", prompt_name="query")' in card.text
    assert "| `legal` | contracts | test | 1,300 | 0.5000 | 0.6250 | +0.1250 | +0.1000 to +0.1500 |" in card.text
    assert "`support`:\n\n- Data: tickets" in card.text
    assert "`encode_query` uses no adapter" in card.text and "On no held-out split: `support`." in card.text
    assert [result.metric_value for result in card.data.eval_results] == [0.625]
    assert "`encode_query` uses the adapter of `support`" in ModelCard.load(with_default / "README.md").text


# Combined


@pytest.fixture(scope="module")
def runs(base: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        task: save_pretrained(base, adapter, folder / task, training=RECORDS[task])
        for task, adapter in adapters().items()
    }


def test_combined_runs_are_what_saving_both_gives(runs: dict[str, Path], saved: Path, tmp_path: Path) -> None:
    both = combine(runs, tmp_path / "both")
    assert hashes(both) == hashes(saved)


def test_runs_that_cannot_be_combined(
    runs: dict[str, Path], saved: Path, tiny_model: SentenceTransformer, base: SentenceTransformer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    kept = save_pretrained(base, None, made / "kept")
    of_another = save_pretrained(tiny_model, make_adapter(), made / "another")
    query = save_pretrained(base, make_adapter(), made / "query", layout="query")
    legal = runs["legal"]
    for models, message in (
        ({"legal": legal, "support": kept}, "'support' came .*kept, which holds the base model alone: no adapter"),
        ({"legal": legal, "support": saved}, "holds adapters for several tasks already"),
        ({"legal": legal, "support": query}, "a model of the layout 'query'"),
        ({"legal": legal, "support": of_another}, "the one for 'support' to .*: the query prompts differ"),
        ({"legal": legal, "support": made}, "'support' came .*made, which is no model that st-adapter saved"),
        ({}, "No adapter came"),
        ({"query": legal}, "A task is called 'query'"),
    ):
        with pytest.raises(ValueError, match=message):
            combine(models, tmp_path / "both")
    with pytest.raises(ValueError, match="is the model of the task 'support' itself"):
        combine(runs, runs["support"])
    assert names(tmp_path) == ["made"]


def test_bases_that_one_model_cannot_stand_for_are_not_combined(
    tiny_unnormalized_model_path: Path, tmp_path: Path
) -> None:
    by_dot = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu", similarity_fn_name="dot")
    by_cosine = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu", similarity_fn_name="cosine")
    with_prompt = SentenceTransformer(
        str(tiny_unnormalized_model_path), device="cpu", prompts={"plain": "text: "}, default_prompt_name="plain"
    )
    folders = {
        name: save_pretrained(model, QueryAdapter(32, normalize=False), tmp_path / name)
        for name, model in (("dot", by_dot), ("cosine", by_cosine), ("prompt", with_prompt))
    }
    for other, message in (
        ("dot", "one base, but their similarities are 'cosine' and 'dot'"),
        ("prompt", "one base, but encode\\(\\) puts '' and 'text: ' before a text"),
    ):
        with pytest.raises(ValueError, match=message):
            combine({"legal": folders["cosine"], "support": folders[other]}, tmp_path / "both")
    assert not (tmp_path / "both").exists()


# To the Hub and back; these run in the client's process.


def push(folder, repo_id, twin=False):
    from st_adapter.saving import push_folder

    return push_folder(folder, repo_id, twin=twin)


def embed(repo_id, texts, revision=None):
    from st_adapter import from_pretrained

    model = from_pretrained(repo_id, revision=revision, device="cpu")
    legal = model.encode(texts, task="legal", prompt_name="query")
    return {"legal": legal, "query": model.encode_query(texts), "encode": model.encode(texts)}


def take_out(repo_id, task=None):
    from pathlib import Path

    from huggingface_hub.constants import HF_HUB_CACHE

    from st_adapter import QueryAdapter

    adapter = QueryAdapter.from_pretrained(repo_id, task=task)
    return adapter.kind, sorted(path.as_posix().partition("snapshots/")[2] for path in Path(HF_HUB_CACHE).rglob("*.*"))


@pytest.mark.hub
def test_it_comes_back_from_the_hub(
    saved: Path, with_default: Path, base: SentenceTransformer, hub_server: HubServer, hub_client: HubClient
) -> None:
    legal, support = (adapted(base, adapters()[task]) for task in ("legal", "support"))
    plain, queries = base.encode(TEXTS), base.encode_query(TEXTS)
    for folder, expected in (
        # The branch `query` is that of the default task; without one it says what main does.
        (with_default, {None: (support, plain), "query": (support, support)}),
        (saved, {None: (queries, plain), "query": (queries, plain)}),
    ):
        hub_client.run(push, folder, "alice/both", token=ALICE)
        for revision, (query, encode) in expected.items():
            found = hub_client.run(embed, "alice/both", TEXTS, revision)
            for name, vectors in (("legal", legal), ("query", query), ("encode", encode)):
                np.testing.assert_allclose(np.asarray(found[name]), vectors, rtol=0, atol=1e-6)
    assert set(hub_server.files("alice/both")) - {".gitattributes"} == set(hashes(saved))
    kind, downloaded = hub_client.run(take_out, "alice/both", "support")
    assert kind == "mlp"
    assert [name.partition("/")[2] for name in downloaded if name.endswith(".safetensors")] == [
        "adapter/support/model.safetensors"
    ]
    with pytest.raises(HubClientError, match="tasks 'legal', 'support', but none was named"):
        hub_client.run(take_out, "alice/both")
    with pytest.raises(HubClientError, match="in the branch 'twin' a query has no way to say its task"):
        hub_client.run(push, saved, "alice/both", True, token=ALICE)
