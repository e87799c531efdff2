"""To the Hub and back, through the real client and a server that speaks the Hub's protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_client import HubClient, HubClientError, hub_environment
from hub_server import ALICE, ALICE_READS, BOB, HubServer
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from test_model import TEXTS, hashes, make_adapter

from st_adapter.model_card import SplitScores, TrainingRecord
from st_adapter.repository import CONFIG_FILE_NAME
from st_adapter.saving import save_pretrained

pytestmark = pytest.mark.hub

SCORES = SplitScores("test", 10, 20, "cosine", {"ndcg@10": 0.5}, {"ndcg@10": 0.625}, {"ndcg@10": [0.1, 0.15]})
RECORD = TrainingRecord(data="pairs", seed=0, scores=SCORES)


@pytest.fixture(scope="module")
def saved(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    return save_pretrained(make_adapter(), base, tmp_path_factory.mktemp("out") / "model", training=RECORD)


@pytest.fixture(scope="module")
def vectors(saved: Path) -> dict[str, np.ndarray]:
    model = SentenceTransformer(str(saved), device="cpu")
    return {name: getattr(model, name)(TEXTS) for name in ("encode_query", "encode_document", "encode")}


# These run in the client's process.


def push(folder, repo_id, private=None, twin=False):
    from st_adapter import push_folder

    return push_folder(folder, repo_id, private=private, twin=twin)


def embed(repo_id, texts, revision=None, checked=False):
    from sentence_transformers import SentenceTransformer

    from st_adapter import from_pretrained

    load = from_pretrained if checked else SentenceTransformer
    model = load(repo_id, revision=revision, device="cpu")
    return {name: getattr(model, name)(texts) for name in ("encode_query", "encode_document", "encode")}


def push_adapter(folder, repo_id):
    from st_adapter import QueryAdapter

    return QueryAdapter.from_pretrained(folder).push_to_hub(repo_id)


def attach_adapter(base, repo_id, texts):
    from sentence_transformers import SentenceTransformer

    from st_adapter import QueryAdapter, attach

    model = attach(SentenceTransformer(base, device="cpu"), QueryAdapter.from_pretrained(repo_id))
    return {name: getattr(model, name)(texts) for name in ("encode_query", "encode_document", "encode")}


def assert_same(result: dict, expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(result[name], dtype=np.float32), values)


def test_a_model_comes_back_exactly(hub_server: HubServer, hub_client: HubClient, saved: Path, vectors: dict) -> None:
    url = hub_client.run(push, saved, "alice/round-trip", token=ALICE)
    commit = hub_server.repos["models", "alice/round-trip"].branches["main"].oid
    assert url.endswith(commit)
    for revision in (None, "main", commit):
        for checked in (False, True):
            assert_same(hub_client.run(embed, "alice/round-trip", TEXTS, revision, checked), vectors)
    queries = {name: vectors["encode_query"] for name in ("encode_query", "encode")}
    expected = {**queries, "encode_document": vectors["encode_document"]}
    for checked in (False, True):
        assert_same(hub_client.run(embed, "alice/round-trip", TEXTS, "query", checked), expected)
    # One weights file of the base, one of the router, one of the adapter: the second branch sends none again.
    assert len(hub_server.lfs_uploads) == len(set(hub_server.lfs_uploads)) == 3
    branches = [hub_server.files("alice/round-trip", branch) for branch in ("main", "query")]
    assert {name for name in branches[0] if branches[0][name] != branches[1][name]} == {
        CONFIG_FILE_NAME,
        "3_Router/router_config.json",
        "README.md",
    }
    card = ModelCard(branches[0]["README.md"].decode())
    assert 'SentenceTransformer("alice/round-trip")' in card.text
    assert card.data.eval_results[0].metric_value == 0.625


def test_the_twin_has_a_branch_of_its_own(
    hub_server: HubServer, hub_client: HubClient, saved: Path, vectors: dict
) -> None:
    hub_client.run(push, saved, "alice/with-twin", None, True, token=ALICE)
    assert not any("Router" in name for name in hub_server.files("alice/with-twin", "twin"))
    assert_same(hub_client.run(embed, "alice/with-twin", TEXTS, "twin"), {"encode": vectors["encode_query"]})


def test_only_a_changed_file_is_sent_again(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    hub_client.run(push, saved, "alice/again", token=ALICE)
    hub_server.clear_log()
    hub_client.run(push, saved, "alice/again", token=ALICE)
    assert (hub_server.lfs_uploads, hub_server.pushes) == ([], [])
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    # Another training record changes our own file and the card, and nothing else.
    other = save_pretrained(make_adapter(), base, tmp_path / "model", training=TrainingRecord(data="pairs", seed=1))
    hub_client.run(push, other, "alice/again", token=ALICE)
    assert hub_server.lfs_uploads == []
    assert [(each.branch, sorted(each.added), list(each.deleted)) for each in hub_server.pushes] == [
        (branch, ["README.md", CONFIG_FILE_NAME], []) for branch in ("query", "main")
    ]


def test_files_of_an_earlier_router_do_not_stay(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    mlp = save_pretrained(make_adapter("mlp"), base, tmp_path / "model")
    hub_client.run(push, mlp, "alice/replaced", token=ALICE)
    hub_client.run(push, saved, "alice/replaced", token=ALICE)
    assert set(hub_server.files("alice/replaced")) - {".gitattributes"} == set(hashes(saved))


@pytest.mark.parametrize("how", [501, "drop"])
@pytest.mark.parametrize("step", ["create", "create_ref", "preupload", "lfs_batch", "lfs_put", "commit"])
def test_a_push_that_dies_leaves_main_as_it_was(
    step: str,
    how: int | str,
    hub_server: HubServer,
    hub_client: HubClient,
    saved: Path,
    tmp_path: Path,
    tiny_model_path: Path,
) -> None:
    repo_id = f"alice/dies-at-{step}-{how}".replace("_", "-")
    hub_client.run(push, saved, repo_id, token=ALICE)
    before = hub_server.files(repo_id)
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    other = save_pretrained(make_adapter("low_rank"), base, tmp_path / "model")
    # Of two commits the second is that of main.
    with hub_server.failing(step, nth=2 if step == "commit" else 1, how=how):
        with pytest.raises(HubClientError) as error:
            hub_client.run(push, other, repo_id, token=ALICE)
    assert error.value.name == "ConnectionError"
    assert "Try again" in error.value.message
    assert hub_server.files(repo_id) == before
    hub_client.run(push, other, repo_id, token=ALICE)
    assert hub_server.files(repo_id)["adapter/config.json"] == (other / "adapter" / "config.json").read_bytes()


def test_private_repositories(hub_server: HubServer, hub_client: HubClient, saved: Path, vectors: dict) -> None:
    hub_client.run(push, saved, "alice/private", True, token=ALICE)
    assert hub_server.repos["models", "alice/private"].private
    assert_same(hub_client.run(embed, "alice/private", TEXTS, None, True, token=ALICE), vectors)
    for token in (None, BOB):
        with pytest.raises(HubClientError, match="could not be read from the Hub.*Trying again will not help") as error:
            hub_client.run(embed, "alice/private", TEXTS, None, True, token=token)
        assert error.value.name == "ValueError"


def test_a_public_repository_does_not_pass_for_a_private_one(
    hub_server: HubServer, hub_client: HubClient, saved: Path
) -> None:
    hub_client.run(push, saved, "alice/public", False, token=ALICE)
    hub_server.clear_log()
    with pytest.raises(HubClientError, match="exists and is public, but a private repository was asked for"):
        hub_client.run(push, saved, "alice/public", True, token=ALICE)
    assert hub_server.pushes == []


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "hf auth login"), ("hf_wrong", "the Hub answered 401"), (ALICE_READS, "403"), (BOB, "403")],
)
def test_who_may_not_write_is_told(
    token: str | None, message: str, hub_server: HubServer, hub_client: HubClient, saved: Path
) -> None:
    with pytest.raises(HubClientError, match=message) as error:
        hub_client.run(push, saved, "alice/not-yours", token=token)
    assert error.value.name == "ValueError"
    assert "Trying again will not help" in error.value.message or token is None
    for secret in (ALICE_READS, BOB, "hf_wrong"):
        assert secret not in error.value.message
        assert secret not in hub_client.output
    assert hub_server.pushes == []


def test_an_adapter_alone_comes_back_and_is_attached(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tiny_model_path: Path, vectors: dict
) -> None:
    hub_client.run(push_adapter, saved, "alice/adapter", token=ALICE)
    files = hub_server.files("alice/adapter")
    assert set(files) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert sum(map(len, files.values())) < 20_000
    assert_same(hub_client.run(attach_adapter, tiny_model_path, "alice/adapter", TEXTS), vectors)
    card = ModelCard(files["README.md"].decode())
    assert 'QueryAdapter.from_pretrained("alice/adapter")' in card.text


def test_an_adapter_is_refused_by_another_base(
    hub_client: HubClient, saved: Path, tiny_prompt_model_path: Path
) -> None:
    hub_client.run(push_adapter, saved, "alice/bound", token=ALICE)
    with pytest.raises(HubClientError) as error:
        hub_client.run(attach_adapter, tiny_prompt_model_path, "alice/bound", TEXTS)
    assert "belongs to the base model 'tiny'" in error.value.message
    assert "but the model is 'tiny-prompt'" in error.value.message


def test_the_base_may_be_on_the_hub(
    hub_server: HubServer, hub_client: HubClient, tiny_model_path: Path, vectors: dict
) -> None:
    def push_base(folder):
        from sentence_transformers import SentenceTransformer

        SentenceTransformer(folder, device="cpu").push_to_hub("alice/base")

    def adapt_and_push(texts):
        import torch
        from sentence_transformers import SentenceTransformer

        from st_adapter import QueryAdapter, push_to_hub

        base = SentenceTransformer("alice/base", device="cpu")
        adapter = QueryAdapter.from_matrix(torch.eye(32).roll(1, 0))
        return push_to_hub(adapter, base, "alice/adapted"), base.encode_document(texts)

    hub_client.run(push_base, tiny_model_path, token=ALICE)
    commit = hub_server.repos["models", "alice/base"].branches["main"].oid
    _, documents = hub_client.run(adapt_and_push, TEXTS, token=ALICE)
    files = hub_server.files("alice/adapted")
    config = json.loads(files[CONFIG_FILE_NAME])
    assert (config["base_model"]["name"], config["base_model"]["revision"]) == ("alice/base", commit)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data["base_model_relation"]) == ("alice/base", "adapter")
    base_files = hub_server.files("alice/base")
    rewritten = {"README.md", "modules.json", "config_sentence_transformers.json", ".gitattributes"}
    assert {name for name in base_files if files[name] != base_files[name]} <= rewritten
    assert_same(
        hub_client.run(embed, "alice/adapted", TEXTS),
        {name: np.asarray(documents, dtype=np.float32) for name in ("encode", "encode_document")},
    )


# The command line


def run_cli(
    server: HubServer, home: Path, *arguments: str, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "st_adapter.cli", *arguments],
        env=hub_environment(server.url, home, token),
        capture_output=True,
        text=True,
        cwd=home,
    )


def test_push_from_the_command_line(hub_server: HubServer, saved: Path, tmp_path: Path) -> None:
    done = run_cli(hub_server, tmp_path, "push", str(saved.parent), "alice/cli", "--private", "--token", ALICE)
    assert done.returncode == 0, done.stderr
    assert "Uploaded:" in done.stdout and "SentenceTransformer('alice/cli')" in done.stdout
    assert hub_server.repos["models", "alice/cli"].private
    again = run_cli(hub_server, tmp_path, "push", str(saved), "alice/cli-adapter", "--adapter-only", token=ALICE)
    assert again.returncode == 0, again.stderr
    assert "config.json" in hub_server.files("alice/cli-adapter")
    refused = run_cli(hub_server, tmp_path, "push", str(saved), "bob/cli", "--token", ALICE)
    assert refused.returncode == 2
    assert "Trying again will not help" in refused.stderr
    for each in (done, again, refused):
        assert ALICE not in each.stdout + each.stderr


def test_training_asks_before_it_works_whether_it_may_upload(hub_server: HubServer, tmp_path: Path) -> None:
    train = ("train", "--model", "no-such-model", "--data", "no-such-data", "--push-to-hub", "alice/trained")
    refused = run_cli(hub_server, tmp_path, *train, "--token", ALICE_READS)
    assert refused.returncode == 2
    assert "may only read" in refused.stderr
    elsewhere = run_cli(hub_server, tmp_path, *train[:-1], "carol/trained", "--token", ALICE)
    assert "who can write to alice" in elsewhere.stderr.replace("\n", " ")
    assert ALICE not in elsewhere.stderr + refused.stderr
