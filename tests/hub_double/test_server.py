"""The test server behaves as the Hub does towards the real client. What it can do is what other tests may rely on."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request

import pytest

from hub_double.client import HubClient, HubClientError, hub_environment
from hub_double.server import ALICE, ALICE_READS, BOB
from hub_double.store import Blob, has_lfs_name

pytestmark = pytest.mark.hub
WEIGHTS = b"\0weights" * 100


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- sentence-transformers\n---\n# Title\n")
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "empty.bin").write_bytes(b"")
    return folder


def push(folder, repo_id, revision=None, private=None):
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision).oid


def download(repo_id, revision=None):
    from pathlib import Path

    from huggingface_hub import snapshot_download

    snapshot = Path(snapshot_download(repo_id, revision=revision))
    return snapshot.name, {
        path.relative_to(snapshot).as_posix(): list(path.read_bytes())
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }


def request(server, path, *, token=None, method="GET", data=None, **headers):
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    return urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers, method=method))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_git_ids():
    # `printf 'hello\n' | git hash-object --stdin`, and that of a pointer file that git-lfs wrote.
    assert Blob(b"hello\n").oid == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert Blob(b"").oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    pointer = Blob(b"hello\n", lfs=True).pointer
    assert pointer.splitlines()[1:] == [b"oid sha256:" + hashlib.sha256(b"hello\n").hexdigest().encode(), b"size 6"]
    assert Blob(b"hello\n", lfs=True).oid == Blob(pointer).oid


def test_push_and_download(hub_server, hub_client, folder):
    hub_server.clear_log()
    commit = hub_client.run(push, folder, "alice/round-trip", token=ALICE)
    files = hub_server.files("alice/round-trip")
    assert files.pop(".gitattributes").startswith(b"*.7z filter=lfs")
    assert files == contents(folder)
    assert hub_server.lfs_uploads == [hashlib.sha256(WEIGHTS).hexdigest()]
    assert [(p.repo_id, p.branch, p.oid, p.added, p.deleted) for p in hub_server.pushes] == [
        ("alice/round-trip", "main", commit, tuple(sorted(files)), ())
    ]

    for revision in (None, commit):
        name, downloaded = hub_client.run(download, "alice/round-trip", revision)
        assert name == commit
        assert {path: bytes(data) for path, data in downloaded.items() if path != ".gitattributes"} == files
    assert not [seen for seen in hub_server.requests if seen.status == 501]


def test_only_what_changed_is_pushed_again(hub_server, hub_client, folder):
    first = hub_client.run(push, folder, "alice/again", token=ALICE)
    hub_server.clear_log()
    assert hub_client.run(push, folder, "alice/again", token=ALICE) == first
    assert (hub_server.pushes, hub_server.lfs_uploads) == ([], [])
    assert "No files have been modified" in hub_client.output

    (folder / "model.safetensors").write_bytes(b"new")
    second = hub_client.run(push, folder, "alice/again", token=ALICE)
    assert [pushed.added for pushed in hub_server.pushes] == [("model.safetensors",)]
    assert len(hub_server.lfs_uploads) == 1
    assert hub_server.files("alice/again")["model.safetensors"] == b"new"
    assert hub_server.files("alice/again", first)["model.safetensors"] == WEIGHTS
    assert second != first


def test_a_branch_starts_where_main_is_and_then_goes_its_way(hub_server, hub_client, folder):
    main = hub_client.run(push, folder, "alice/branch", token=ALICE)
    (folder / "config.json").write_text('{"default": "query"}')
    hub_server.clear_log()
    query = hub_client.run(push, folder, "alice/branch", "feature/query", token=ALICE)
    assert hub_server.lfs_uploads == []
    assert [(pushed.branch, pushed.added) for pushed in hub_server.pushes] == [("feature/query", ("config.json",))]
    assert hub_client.run(download, "alice/branch")[0] == main
    name, files = hub_client.run(download, "alice/branch", "feature/query")
    assert (name, bytes(files["config.json"])) == (query, b'{"default": "query"}')


def sentence_transformer(path, repo_id):
    import numpy as np
    from huggingface_hub import HfApi
    from sentence_transformers import SentenceTransformer

    texts = ["how do I read a file", "line number of a list"]
    model = SentenceTransformer(path, device="cpu")
    expected = model.encode(texts)
    model.push_to_hub(repo_id, private=True)
    HfApi().create_branch(repo_id, branch="query")
    commit = HfApi().model_info(repo_id).sha
    return [
        float(np.abs(SentenceTransformer(repo_id, revision=revision, device="cpu").encode(texts) - expected).max())
        for revision in (None, "query", commit)
    ]


def test_sentence_transformers_pushes_and_loads(hub_server, hub_client, tiny_model_path):
    assert hub_client.run(sentence_transformer, tiny_model_path, "alice/tiny", token=ALICE) == [0.0, 0.0, 0.0]
    assert not [seen for seen in hub_server.requests if seen.status == 501]


def load(repo_id):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(repo_id, device="cpu").get_embedding_dimension()


def test_who_sees_a_private_repository(hub_server, hub_client, tiny_model_path):
    hub_client.run(push, tiny_model_path, "alice/private", None, True, token=ALICE)
    assert hub_server.repos["models", "alice/private"].private
    assert hub_client.run(load, "alice/private", token=ALICE_READS) == 32
    for token, status in ((None, 401), (BOB, 404)):
        with pytest.raises(HubClientError) as info:
            hub_client.run(download, "alice/private", token=token)
        assert (info.value.name, info.value.status) == ("RepositoryNotFoundError", status)
        # Whoever may not see it learns no more than for one that does not exist.
        with pytest.raises(HubClientError) as missing:
            hub_client.run(download, "alice/missing", token=token)
        assert (missing.value.name, missing.value.status) == ("RepositoryNotFoundError", status)
    with pytest.raises(HubClientError, match="alice/private"):
        hub_client.run(load, "alice/private", token=BOB)
    with pytest.raises(HubClientError, match="Invalid credentials") as info:
        hub_client.run(download, "alice/private", token="hf_nobody")
    assert info.value.status == 401


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("hf_nobody", 401), (ALICE_READS, 403), (BOB, 403)], ids=str
)
def test_who_may_write(hub_server, hub_client, folder, token, status):
    before = hub_client.run(push, folder, "alice/public", token=ALICE)
    (folder / "config.json").write_text(json.dumps({"token": token}))

    def commit(folder):
        from huggingface_hub import HfApi

        HfApi().upload_folder(repo_id="alice/public", folder_path=folder)

    for action in (commit, push):
        hub_server.clear_log()
        with pytest.raises(HubClientError) as info:
            hub_client.run(action, folder, *(["alice/public"] if action is push else []), token=token)
        assert info.value.status == status
        assert not hub_server.pushes
        assert not hub_server.lfs_uploads
    assert hub_server.repos["models", "alice/public"].branches["main"].oid == before


def history(repo_id):
    from huggingface_hub import CommitOperationDelete, HfApi

    api = HfApi()
    api.create_tag(repo_id, tag="v1", tag_message="First")
    api.create_tag(repo_id, tag="v1", exist_ok=True)
    first = api.model_info(repo_id).sha
    gone = [CommitOperationDelete("1_Pooling/"), CommitOperationDelete("empty.bin")]
    second = api.create_commit(repo_id, gone, commit_message="Remove", commit_description="Why", parent_commit=first)
    refs = api.list_repo_refs(repo_id)
    tree = list(api.list_repo_tree(repo_id, revision="v1"))
    commits = api.list_repo_commits(repo_id)
    info = api.model_info(repo_id, revision="v1", files_metadata=True)
    weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    paths = api.get_paths_info(repo_id, ["model.safetensors", "1_Pooling", "none"], revision="v1")
    exists = [api.repo_exists(repo_id), api.revision_exists(repo_id, "v2"), api.file_exists(repo_id, "empty.bin")]
    user = api.whoami()["name"]
    api.delete_tag(repo_id, tag="v1")
    api.delete_repo(repo_id)
    return {
        "first": first,
        "second": second.oid,
        "refs": [[ref.ref, ref.target_commit] for ref in refs.branches + refs.tags],
        "tree": [entry.path for entry in tree],
        "commits": [[commit.commit_id, commit.title, commit.message, commit.authors] for commit in commits],
        "tags": info.tags,
        "weights": [weights.size, weights.lfs.sha256, weights.blob_id],
        "paths": [[type(entry).__name__, entry.path] for entry in paths],
        "exists": [*exists, api.repo_exists(repo_id)],
        "user": user,
    }


def test_history_and_listings(hub_server, hub_client, folder):
    hub_client.run(push, folder, "alice/history", token=ALICE)
    seen = hub_client.run(history, "alice/history", token=ALICE)
    assert seen["refs"] == [["refs/heads/main", seen["second"]], ["refs/tags/v1", seen["first"]]]
    assert seen["tree"] == [".gitattributes", "1_Pooling", "README.md", "config.json", "empty.bin", "model.safetensors"]
    assert seen["commits"][0] == [seen["second"], "Remove", "Why", ["alice"]]
    assert [title for _, title, _, _ in seen["commits"][1:]] == [
        "Upload folder using huggingface_hub",
        "initial commit",
    ]
    assert seen["tags"] == ["sentence-transformers"]
    blob = Blob(WEIGHTS, lfs=True)
    assert seen["weights"] == [len(WEIGHTS), blob.sha256, blob.oid]
    assert seen["paths"] == [["RepoFile", "model.safetensors"], ["RepoFolder", "1_Pooling"]]
    assert seen["exists"] == [True, False, False, False]
    assert seen["user"] == "alice"
    assert hub_server.pushes[-1].deleted == ("1_Pooling/config.json", "empty.bin")
    assert ("models", "alice/history") not in hub_server.repos


def late_commit(repo_id):
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    seen = api.model_info(repo_id).sha
    for number in range(2):
        addition = CommitOperationAdd("late.json", str(number).encode())
        api.create_commit(repo_id, [addition], commit_message="Late", parent_commit=seen)


def test_a_commit_on_top_of_an_old_one_is_refused(hub_server, hub_client, folder):
    hub_client.run(push, folder, "alice/late", token=ALICE)
    with pytest.raises(HubClientError, match="A commit has happened since") as info:
        hub_client.run(late_commit, "alice/late", token=ALICE)
    assert info.value.status == 412
    assert hub_server.files("alice/late")["late.json"] == b"0"


@pytest.mark.parametrize(
    "step", ["validate_yaml", "create", "preupload", "lfs_batch", "lfs_put", "lfs_verify", "commit"]
)
@pytest.mark.parametrize("how", [501, "drop"])
def test_a_push_that_fails_leaves_main_as_it_was(hub_server, hub_client, folder, step, how):
    repo_id = f"alice/fails-{step}-{how}"
    before = hub_client.run(push, folder, repo_id, token=ALICE)
    (folder / "model.safetensors").write_bytes(f"{step} {how}".encode() * 100_000)
    hub_server.clear_log()
    with hub_server.failing(step, how=how), pytest.raises(HubClientError):
        hub_client.run(push, folder, repo_id, token=ALICE)
    assert {seen.status for seen in hub_server.requests if seen.step == step} == {how}
    assert hub_server.pushes == []
    assert hub_server.repos["models", repo_id].branches["main"].oid == before

    after = hub_client.run(push, folder, repo_id, token=ALICE)
    assert hub_client.run(download, repo_id)[0] == after


@pytest.mark.parametrize("how", [503, "drop"])
def test_the_client_tries_an_upload_again(hub_server, hub_client, folder, how):
    hub_server.clear_log()
    (folder / "second.safetensors").write_bytes(b"second")
    with hub_server.failing("lfs_put", nth=2, times=1, how=how):
        hub_client.run(push, folder, f"alice/retry-{how}", token=ALICE)
    statuses = [seen.status for seen in hub_server.requests if seen.step == "lfs_put"]
    assert sorted(map(str, statuses)) == ["200", "200", str(how)]
    assert len(hub_server.lfs_uploads) == 2


def test_failing_needs_a_known_step(hub_server):
    with pytest.raises(ValueError, match="'put' is not one of"), hub_server.failing("put"):
        pass


def test_ranges_and_headers(hub_server, hub_client, folder):
    commit = hub_client.run(push, folder, "alice/range", token=ALICE)
    path = "/alice/range/resolve/main/model.safetensors"
    with request(hub_server, path, method="HEAD") as head:
        assert head.headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert (head.headers["X-Repo-Commit"], head.headers["Content-Length"]) == (commit, str(len(WEIGHTS)))
    for wanted, expected in (("3-9", WEIGHTS[3:10]), ("790-", WEIGHTS[790:]), ("-5", WEIGHTS[-5:])):
        with request(hub_server, path, Range=f"bytes={wanted}") as part:
            assert (part.status, part.read()) == (206, expected)
            assert part.headers["Content-Range"].endswith(f"/{len(WEIGHTS)}")
    with pytest.raises(urllib.error.HTTPError) as info, request(hub_server, path, Range="bytes=900-"):
        pass
    info.value.close()
    assert info.value.code == 416


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/alice/errors/resolve/main/none.json", 404, "EntryNotFound"),
        ("/alice/errors/resolve/none/config.json", 404, "RevisionNotFound"),
        ("/api/models/alice/errors/revision/none", 404, "RevisionNotFound"),
        ("/api/models/alice/errors/tree/main/none", 404, "EntryNotFound"),
        ("/api/models/alice/none", 404, "RepoNotFound"),
        ("/api/spaces/alice/none", 404, "RepoNotFound"),
        ("/api/datasets/alice/none", 404, "RepoNotFound"),
        ("/api/papers/alice/none", 501, None),
    ],
)
def test_error_codes(hub_server, hub_client, folder, path, status, code):
    hub_client.run(push, folder, "alice/errors", token=ALICE)
    with pytest.raises(urllib.error.HTTPError) as info, request(hub_server, path, token=ALICE):
        pass
    info.value.close()
    assert (info.value.code, info.value.headers["X-Error-Code"]) == (status, code)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"key": "lfsFile", "value": {"path": "a.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1}},
            "not upl",
        ),
        (
            {"key": "file", "value": {"path": "a.onnx", "content": "AAAA", "encoding": "base64"}},
            "must be uploaded to LFS",
        ),
        ({"key": "file", "value": {"path": "../a", "content": "AAAA", "encoding": "base64"}}, "Invalid path"),
        ({"key": "deletedFile", "value": {"path": "größe"}}, "doesn't exist"),
        (
            {"key": "file", "value": {"path": "README.md", "content": "LS0tCmE6IFsKLS0tCg==", "encoding": "base64"}},
            "YAML",
        ),
    ],
)
def test_what_a_commit_may_not_hold(hub_server, hub_client, folder, line, message):
    before = hub_client.run(push, folder, "alice/lines", token=ALICE)
    lines = [{"key": "header", "value": {"summary": "Bad"}}, line]
    data = "\n".join(json.dumps(entry) for entry in lines).encode()
    with pytest.raises(urllib.error.HTTPError) as info:
        request(hub_server, "/api/models/alice/lines/commit/main", token=ALICE, method="POST", data=data)
    info.value.close()
    assert message in info.value.headers["X-Error-Message"]
    assert hub_server.repos["models", "alice/lines"].branches["main"].oid == before


def test_an_upload_must_be_what_was_announced(hub_server, hub_client, folder):
    hub_client.run(push, folder, "alice/upload", token=ALICE)
    objects = [{"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}]
    data = json.dumps({"operation": "upload", "objects": objects}).encode()
    path = "/alice/upload.git/info/lfs/objects/batch"
    with request(hub_server, path, token=ALICE, method="POST", data=data) as response:
        actions = json.load(response)["objects"][0]["actions"]
    for href, method, data in (("upload", "PUT", b"wrong"), ("verify", "POST", json.dumps(objects[0]).encode())):
        with pytest.raises(urllib.error.HTTPError) as info:
            path = actions[href]["href"].removeprefix(hub_server.url)
            request(hub_server, path, method=method, data=data)
        info.value.close()
        assert info.value.code in (400, 404)


def test_an_invalid_card_is_refused_before_anything_is_uploaded(hub_server, hub_client, folder):
    (folder / "README.md").write_text("---\nbase_model: /a/base\n---\n")
    hub_server.clear_log()
    with pytest.raises(HubClientError, match="Invalid metadata in README.md") as info:
        hub_client.run(push, folder, "alice/card", token=ALICE)
    assert info.value.name == "ValueError"
    assert {seen.step for seen in hub_server.requests} == {"create", "validate_yaml"}


def test_no_metadata_is_a_warning(hub_client, folder):
    (folder / "README.md").write_text("# Title\n")
    hub_client.run(push, folder, "alice/no-metadata", token=ALICE)
    assert "empty or missing yaml metadata" in hub_client.output


@pytest.mark.parametrize(("path", "lfs"), [("onnx/model.onnx", True), ("a.bin", True), ("a.json", False)])
def test_what_goes_to_lfs(path, lfs):
    assert has_lfs_name(path) == lfs


def push_data(folder):
    from datasets import load_dataset
    from huggingface_hub import HfApi

    HfApi().create_repo("alice/data", repo_type="dataset")
    HfApi().upload_folder(repo_id="alice/data", folder_path=folder, repo_type="dataset")
    return load_dataset("alice/data", split="train")["query"][:]


def test_data_sets(hub_client, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"query": "a"}\n{"query": "b"}\n')
    assert hub_client.run(push_data, tmp_path, token=ALICE) == ["a", "b"]


# The client's process.


def files_in_home():
    import os
    from pathlib import Path

    home = Path(os.environ["HF_HOME"])
    found = sorted(path.name for path in home.rglob("*") if path.is_file())
    home.mkdir(exist_ok=True)
    (home / "file").touch()
    return found


def test_a_run_has_an_empty_home(hub_client):
    assert hub_client.run(files_in_home) == []
    assert hub_client.run(files_in_home) == []
    assert hub_client.run(files_in_home, keep_home=True) == ["file"]


def returns_arrays():
    import sys

    import numpy as np
    import torch

    sys.stdout.write("printed\n")
    return [np.float32(0.1), torch.tensor([0.1])]


def test_values_and_output(hub_client):
    number, (same,) = hub_client.run(returns_arrays)
    assert number == same == float.fromhex("0x1.99999a0000000p-4")
    assert hub_client.output == "printed\n"


def sleeps():
    import threading

    threading.Event().wait(60)


def kills_itself():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_hangs_or_dies_is_replaced(hub_server):
    with HubClient(hub_server.url) as client:
        with pytest.raises(TimeoutError, match="sleeps ended its process or took over"):
            client.run(sleeps, timeout=0.5)
        with pytest.raises(TimeoutError, match="kills_itself ended its process or took over"):
            client.run(kills_itself)
        assert client.run(files_in_home) == []


def exits(status: Unknown) -> None:  # noqa: F821
    raise SystemExit(status)


def test_a_program_that_exits(hub_client):
    with pytest.raises(HubClientError, match="SystemExit: 3"):
        hub_client.run(exits, 3)


def test_names_from_around_a_function_are_refused(hub_client):
    around = 1

    def function():
        return around

    with pytest.raises(ValueError, match="function uses names from around it"):
        hub_client.run(function)


def test_the_environment_has_no_settings_of_its_surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    environment = hub_environment("http://127.0.0.1:1", tmp_path, token=ALICE)
    assert not {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"} & set(environment)
    assert (environment["HF_ENDPOINT"], environment["HF_TOKEN"]) == ("http://127.0.0.1:1", ALICE)
