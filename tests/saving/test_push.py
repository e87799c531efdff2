"""To the Hub and back, through the real client and a server that speaks the Hub's protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from hub_double.client import HubClient, HubClientError
from hub_double.server import ALICE, ALICE_READS, BOB, HubServer
from problems import TEXTS, hashes, make_adapter
from st_adapter.bridge import Bridge
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.folder import CONFIG_FILE_NAME
from st_adapter.saving.joined_files import JoinedModel, save_joined
from st_adapter.saving.record import SplitScores, TrainingRecord
from st_adapter.saving.save import save_pretrained

pytestmark = pytest.mark.hub

SCORES = SplitScores("test", 10, 20, "cosine", {"ndcg@10": 0.5}, {"ndcg@10": 0.625}, {"ndcg@10": [0.1, 0.15]})
RECORD = TrainingRecord(data="pairs", seed=0, scores=SCORES)


@pytest.fixture(scope="module")
def saved(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    return save_pretrained(base, make_adapter(), tmp_path_factory.mktemp("out") / "model", training=RECORD)


@pytest.fixture(scope="module")
def another(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    return save_pretrained(base, make_adapter("low_rank"), tmp_path_factory.mktemp("another") / "model")


@pytest.fixture(scope="module")
def vectors(saved: Path) -> dict[str, np.ndarray]:
    model = SentenceTransformer(str(saved), device="cpu")
    return {name: getattr(model, name)(TEXTS) for name in ("encode_query", "encode_document", "encode")}


# These run in the client's process.


def push(folder, repo_id, private=None, twin=False):
    from st_adapter.saving import push_folder

    return push_folder(folder, repo_id, private=private, twin=twin)


def embed(repo_id, texts, revision=None, checked=False):
    from sentence_transformers import SentenceTransformer

    from st_adapter import from_pretrained

    load = from_pretrained if checked else SentenceTransformer
    model = load(repo_id, revision=revision, device="cpu")
    return {name: getattr(model, name)(texts) for name in ("encode_query", "encode_document", "encode")}


def push_alone(folder, repo_id):
    from st_adapter import QueryAdapter, push_adapter

    return push_adapter(QueryAdapter.from_pretrained(folder), repo_id)


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


def model_of_two(documents: Path, queries: Path, folder: Path) -> Path:
    models = [SentenceTransformer(str(path), device="cpu") for path in (documents, queries)]
    bridge = Bridge(torch.eye(32), torch.full((32,), 0.1), normalize=True)
    modules = bridge.fold(make_adapter())
    two = JoinedModel(*models, modules, identity_of(models[0]), "cosine", (documents, queries))
    return save_joined(two, folder)


def test_of_two_models_the_branch_for_queries_holds_the_query_model_alone(
    hub_server: HubServer, hub_client: HubClient, tiny_model_path: Path, tiny_prompt_model_path: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(tiny_model_path, earlier)
    (earlier / "added_tokens.json").write_text("{}")  # which the next query model has not
    hub_client.run(push, model_of_two(tiny_model_path, earlier, tmp_path / "first"), "alice/two", token=ALICE)
    assert "added_tokens.json" in hub_server.files("alice/two", "query")
    two = model_of_two(tiny_model_path, tiny_prompt_model_path, tmp_path / "second")
    hub_client.run(push, two, "alice/two", token=ALICE)
    right = SentenceTransformer(str(two), device="cpu").encode_query(TEXTS)
    expected = dict.fromkeys(("encode_query", "encode_document", "encode"), right)
    assert_same(hub_client.run(embed, "alice/two", TEXTS, "query", True), expected)
    assert not any("document" in name for name in hub_server.files("alice/two", "query"))


def test_only_a_changed_file_is_sent_again(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    hub_client.run(push, saved, "alice/again", token=ALICE)
    hub_server.clear_log()
    hub_client.run(push, saved, "alice/again", token=ALICE)
    assert (hub_server.lfs_uploads, hub_server.pushes) == ([], [])
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    # Another training record changes our own file and the card, and nothing else.
    other = save_pretrained(base, make_adapter(), tmp_path / "model", training=TrainingRecord(data="pairs", seed=1))
    hub_client.run(push, other, "alice/again", token=ALICE)
    assert hub_server.lfs_uploads == []
    assert [(each.branch, sorted(each.added), list(each.deleted)) for each in hub_server.pushes] == [
        (branch, ["README.md", CONFIG_FILE_NAME], []) for branch in ("query", "main")
    ]


def test_files_of_an_earlier_router_do_not_stay(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    mlp = save_pretrained(base, make_adapter("mlp"), tmp_path / "model")
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
    another: Path,
) -> None:
    repo_id = f"alice/dies-at-{step}-{how}".replace("_", "-")
    hub_client.run(push, saved, repo_id, token=ALICE)
    before = hub_server.files(repo_id)
    # Of two commits the second is that of main.
    with hub_server.failing(step, nth=2 if step == "commit" else 1, how=how):
        with pytest.raises(HubClientError) as error:
            hub_client.run(push, another, repo_id, token=ALICE)
    assert error.value.name == "ConnectionError"
    assert "Try again" in error.value.message
    assert hub_server.files(repo_id) == before
    hub_client.run(push, another, repo_id, token=ALICE)
    assert hub_server.files(repo_id)["adapter/config.json"] == (another / "adapter" / "config.json").read_bytes()


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
    assert "Trying again will not help" in error.value.message
    for secret in (ALICE_READS, BOB, "hf_wrong"):
        assert secret not in error.value.message
        assert secret not in hub_client.output
    assert hub_server.pushes == []


def test_an_adapter_alone_comes_back_and_is_attached(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tiny_model_path: Path, vectors: dict
) -> None:
    hub_client.run(push_alone, saved, "alice/adapter", token=ALICE)
    files = hub_server.files("alice/adapter")
    assert set(files) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert sum(map(len, files.values())) < 20_000
    assert_same(hub_client.run(attach_adapter, tiny_model_path, "alice/adapter", TEXTS), vectors)
    card = ModelCard(files["README.md"].decode())
    assert 'QueryAdapter.from_pretrained("alice/adapter")' in card.text


def test_an_adapter_is_refused_by_another_base(
    hub_client: HubClient, saved: Path, tiny_prompt_model_path: Path
) -> None:
    hub_client.run(push_alone, saved, "alice/bound", token=ALICE)
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
        return push_to_hub(base, adapter, "alice/adapted"), base.encode_document(texts)

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


# What a repository holds already


def push_over(folder, repo_id, overwrite, adapter_only=False):
    from st_adapter import QueryAdapter, push_adapter
    from st_adapter.saving import push_folder

    if adapter_only:
        return push_adapter(QueryAdapter.from_pretrained(folder), repo_id, overwrite=overwrite)
    return push_folder(folder, repo_id, overwrite=overwrite)


def upload_file(repo_id, name):
    from huggingface_hub import HfApi

    HfApi().create_repo(repo_id, exist_ok=True)
    HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo=name, repo_id=repo_id)


@pytest.mark.parametrize("adapter_only", [False, True])
def test_a_repository_of_something_else_is_replaced_only_if_told(
    adapter_only: bool, hub_server: HubServer, hub_client: HubClient, saved: Path
) -> None:
    repo_id = f"alice/theirs-{adapter_only}"
    for name in ("9_Dense/config.json", "config.json"):
        hub_client.run(upload_file, repo_id, name, token=ALICE)
    before = hub_server.files(repo_id)
    with pytest.raises(HubClientError, match="holds something else on its branch main: 2 files.*overwrite=True"):
        hub_client.run(push_over, saved, repo_id, False, adapter_only, token=ALICE)
    assert hub_server.files(repo_id) == before
    hub_client.run(push_over, saved, repo_id, True, adapter_only, token=ALICE)
    assert "9_Dense/config.json" not in hub_server.files(repo_id)


def test_an_adapter_and_a_model_do_not_replace_each_other_unasked(
    hub_server: HubServer, hub_client: HubClient, saved: Path
) -> None:
    for first, second in ((False, True), (True, False)):
        repo_id = f"alice/first-{first}"
        hub_client.run(push_over, saved, repo_id, False, first, token=ALICE)
        hub_client.run(push_over, saved, repo_id, False, first, token=ALICE)
        with pytest.raises(HubClientError, match="holds something else"):
            hub_client.run(push_over, saved, repo_id, False, second, token=ALICE)
        hub_client.run(push_over, saved, repo_id, True, second, token=ALICE)
        assert (CONFIG_FILE_NAME in hub_server.files(repo_id)) == (not second)
        branches = set(hub_server.repos["models", repo_id].branches)
        assert branches == ({"main"} if second else {"main", "query"})


def test_a_card_written_beforehand_is_nothing_else(hub_client: HubClient, saved: Path) -> None:
    hub_client.run(upload_file, "alice/only-a-card", "README.md", token=ALICE)
    hub_client.run(push, saved, "alice/only-a-card", token=ALICE)


def test_files_put_into_the_folder_are_not_uploaded(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    for name in ("customers.csv", "1_Pooling/id_rsa", ".env", "wandb.log"):
        (folder / name).write_text("secret")
    hub_client.run(push, folder, "alice/no-extras", token=ALICE)
    assert "4 files in" in hub_client.output and ".env, 1_Pooling/id_rsa, customers.csv" in hub_client.output
    for branch in ("main", "query"):
        names = set(hub_server.files("alice/no-extras", branch))
        assert names == set(hub_server.files("alice/no-extras")) and "config.json" in names
        assert not [name for name in names if name.endswith(("customers.csv", "id_rsa", ".env", "wandb.log"))]


def test_the_base_alone_leaves_no_adapter_on_other_branches(
    hub_server: HubServer, hub_client: HubClient, saved: Path, tmp_path: Path, tiny_model_path: Path
) -> None:
    hub_client.run(push, saved, "alice/taken-back", None, True, token=ALICE)
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    alone = save_pretrained(base, None, tmp_path / "alone")
    hub_client.run(push, alone, "alice/taken-back", token=ALICE)
    held = [hub_server.files("alice/taken-back", branch) for branch in ("main", "query", "twin")]
    for files in held:
        assert json.loads(files[CONFIG_FILE_NAME])["routes"]["query"]["adapter"] is None
        assert not [name for name in files if name.startswith(("3_", "4_", "adapter/"))]


# Others at the same time


def push_with_another_between(folder, other, repo_id, method, twin, nth, revision=None):
    """Push a folder; before the n-th call of the Hub's method, of those for a revision, another push is complete."""
    import warnings

    from huggingface_hub import HfApi

    from st_adapter.saving import push_folder

    real, asked = getattr(HfApi, method), 0

    def overtaken(self, *args, **kwargs):
        nonlocal asked
        asked += revision in (None, kwargs.get("revision"))
        if asked == nth:
            setattr(HfApi, method, real)
            push_folder(other, repo_id, twin=twin)
        return real(self, *args, **kwargs)

    setattr(HfApi, method, overtaken)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            push_folder(folder, repo_id)
        return [str(each.message) for each in caught]
    finally:
        setattr(HfApi, method, real)


def adapters(hub_server: HubServer, repo_id: str, *branches: str) -> list[bytes]:
    return [hub_server.files(repo_id, branch)["adapter/model.safetensors"] for branch in branches]


@pytest.mark.parametrize("before", ["main", "query"])
def test_pushes_at_the_same_time_leave_branches_of_one_adapter(
    before: str, hub_server: HubServer, hub_client: HubClient, saved: Path, another: Path
) -> None:
    repo_id = f"alice/at-once-{before}"
    race = (saved, another, repo_id, "upload_folder", True, 1, before)
    said = hub_client.run(push_with_another_between, *race, token=ALICE)
    held = adapters(hub_server, repo_id, "main", "query", "twin")
    assert held == [(saved / "adapter" / "model.safetensors").read_bytes()] * 3
    assert any("did not belong to main" in message for message in said) == (before == "main")


def test_a_push_that_was_overtaken_says_so(
    hub_server: HubServer, hub_client: HubClient, saved: Path, another: Path
) -> None:
    hub_client.run(push, saved, "alice/overtaken", token=ALICE)
    # What is looked at after the commits.
    race = (saved, another, "alice/overtaken", "list_repo_refs", False, 3)
    said = hub_client.run(push_with_another_between, *race, token=ALICE)
    assert any("finished later" in message for message in said)
    held = adapters(hub_server, "alice/overtaken", "main", "query")
    assert held == [(another / "adapter" / "model.safetensors").read_bytes()] * 2


@pytest.mark.parametrize("step", ["create", "refs", "create_ref", "validate_yaml", "preupload", "commit"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(
    step: str, status: int, hub_server: HubServer, hub_client: HubClient, saved: Path
) -> None:
    repo_id = f"alice/busy-{step}-{status}".replace("_", "-")
    with hub_server.failing(step, how=status, times=1):
        hub_client.run(push, saved, repo_id, token=ALICE)
    assert CONFIG_FILE_NAME in hub_server.files(repo_id, "query")


# The command line


def run_cli(arguments):
    """Exit status, and what was printed."""
    import contextlib
    import io

    from st_adapter import cli

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = cli.main(arguments)
    return status, " ".join(printed.getvalue().split())


def test_push_from_the_command_line(hub_server: HubServer, hub_client: HubClient, saved: Path) -> None:
    done, said = hub_client.run(run_cli, ["push", str(saved.parent), "alice/cli", "--private", "--token", ALICE])
    assert done == 0 and "Uploaded:" in said and "SentenceTransformer('alice/cli')" in said
    assert hub_server.repos["models", "alice/cli"].private
    again, also_said = hub_client.run(run_cli, ["push", str(saved), "alice/cli-adapter", "--adapter-only"], token=ALICE)
    assert again == 0 and "config.json" in hub_server.files("alice/cli-adapter")
    _, named = hub_client.run(run_cli, ["push", str(saved), "a-name"], token=ALICE)
    assert "SentenceTransformer('alice/a-name')" in named, "as it opens"
    both, twice = hub_client.run(run_cli, ["push", str(saved), "alice/twice", "--adapter-only", "--twin"], token=ALICE)
    assert both == 2 and "--twin is for whole models" in twice
    refused, why = hub_client.run(run_cli, ["push", str(saved), "bob/cli", "--token", ALICE])
    assert refused == 2 and "Trying again will not help" in why
    assert ALICE not in said + also_said + why


def train(repo_id: str, *options: str) -> list[str]:
    return ["train", "--model", "no-such-model", "--data", "no-such-data", "--push-to-hub", repo_id, *options]


def test_training_asks_before_it_works_whether_it_may_upload(hub_server: HubServer, hub_client: HubClient) -> None:
    refused, why = hub_client.run(run_cli, train("alice/trained", "--token", ALICE_READS))
    assert refused == 2 and "may only read" in why
    _, elsewhere = hub_client.run(run_cli, train("carol/trained", "--token", ALICE))
    assert "who can write to alice" in elsewhere
    assert ALICE not in elsewhere + why


def test_training_asks_before_it_works_what_the_repository_holds(hub_server: HubServer, hub_client: HubClient) -> None:
    hub_client.run(upload_file, "alice/theirs-already", "model.bin", token=ALICE)
    refused, why = hub_client.run(run_cli, train("alice/theirs-already"), token=ALICE)
    assert refused == 2 and "holds something else" in why and "pass --overwrite" in why
    _, told = hub_client.run(run_cli, train("alice/theirs-already", "--overwrite"), token=ALICE)
    assert "no-such-model" in told and "holds something else" not in told
