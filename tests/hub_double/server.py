"""A Hub in memory, for tests: models, data sets, Spaces, branches, LFS, tokens, private repositories, planted failures.

It speaks as much of the Hub's HTTP interface as ``huggingface_hub`` needs to push and load; any other route is
answered with 501, which the client does not retry. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hub_double.card import validate_card
from hub_double.store import (
    LFS_PATTERNS,
    REGULAR_MAX_SIZE,
    Blob,
    Commit,
    HubError,
    Repo,
    committed_blob,
    file_entry,
    folder_ids,
    has_lfs_name,
)
from served import Served

ALICE = "hf_alicewritesalicewritesalicewrites"
ALICE_READS = "hf_alicereadsalicereadsalicereads"
BOB = "hf_bobwritesbobwritesbobwrites"
TOKENS = {ALICE: ("alice", "write"), ALICE_READS: ("alice", "read"), BOB: ("bob", "write")}


class Observed(NamedTuple):
    """One request: the name of the method that answers it, its raw path without the query, and the status it got."""

    step: str
    method: str
    path: str
    status: int | Literal["drop"]


class Pushed(NamedTuple):
    """One commit that a client made."""

    repo_id: str
    branch: str
    oid: str
    added: tuple[str, ...]
    deleted: tuple[str, ...]


class Route(NamedTuple):
    step: str
    methods: str
    pattern: re.Pattern[str]
    answer: Callable[..., Any]


ROUTES: list[Route] = []


def _route(methods: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method of the server for the raw paths that match: a quoted slash does not separate."""
    pattern = pattern.replace("{api}", "/api/(?P<type>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)")
    pattern = pattern.replace("{web}", "/(?:(?P<type>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)")
    pattern = pattern.replace("{rev}", "(?P<rev>[^/]+)")

    def register(answer: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append(Route(answer.__name__, methods, re.compile(pattern), answer))
        return answer

    return register


class HubServer(Served):
    """The server, in a thread, on a free port of the loopback device.

    Attributes:
        url: What ``HF_ENDPOINT`` is set to.
        repos: The repositories by type ("models", "datasets", "spaces") and id.
        requests: Every request since ``clear_log``, in the order of the answers.
        lfs_uploads: SHA-256 of every object uploaded to LFS since ``clear_log``.
        pushes: Every commit made by a client since ``clear_log``.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all repositories, the log and planted failures."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self._grants: dict[str, tuple[Repo, str, int]] = {}
        self._failures: list[_Failure] = []
        self.clear_log()

    def clear_log(self) -> None:
        self.requests: list[Observed] = []
        self.lfs_uploads: list[str] = []
        self.pushes: list[Pushed] = []

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "models") -> dict[str, bytes]:
        """What the repository holds at a revision: path -> content."""
        return {path: blob.data for path, blob in self.repos[repo_type, repo_id].commit(revision).files.items()}

    @contextmanager
    def failing(
        self, step: str, *, nth: int = 1, how: int | Literal["drop"] = 501, times: int | None = None
    ) -> Iterator[None]:
        """Let requests fail while the context is open.

        Args:
            step: name of the method that answers: "commit", "lfs_put", "preupload", ...
            nth: the first request of this kind that fails, counted from 1.
            how: a status (501 is not retried by the client; 408, 429, 500, 502, 503, 504 mostly are), or "drop" to
                cut the connection, for an upload after its first bytes.
            times: number of requests that fail, all from the nth if None.
        """
        if step not in {route.step for route in ROUTES}:
            raise ValueError(f"{step!r} is not one of {sorted({route.step for route in ROUTES})}")
        failure = _Failure(step, how, range(nth, nth + times) if times else None, nth)
        self._failures.append(failure)
        try:
            yield
        finally:
            self._failures.remove(failure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, path = Request(scope, receive), scope["raw_path"].decode("ascii")
        route, values = _match(request.method, path)
        step = route.step if route else "unknown"
        planted = [failure.how for failure in self._failures if failure.strikes(step)]
        if "drop" in planted:
            self.requests.append(Observed(step, request.method, path, "drop"))
            await _drop(receive, send)
            return
        try:
            if planted:
                await request.body()
                raise HubError(int(planted[0]), f"Planted failure of {step}")
            if route is None:
                raise HubError(501, f"The test server has no {request.method} {path}")
            response = await route.answer(self, request, **{key: unquote(value) for key, value in values.items()})
        except HubError as error:
            response = JSONResponse({"error": error.message}, error.status, error.headers)
        except Exception:
            # A mistake in this file. uvicorn would answer 500, and the client would try again for 23 seconds.
            response = JSONResponse({"error": traceback.format_exc()}, 501)
        # Logged before the answer leaves: whoever has the answer finds the request in the log.
        self.requests.append(Observed(step, request.method, path, response.status_code))
        await response(scope, receive, send)

    # Who asks, and for what.

    def _user(self, request: Request) -> tuple[str, str] | None:
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        if authorization.removeprefix("Bearer ") not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return TOKENS[authorization.removeprefix("Bearer ")]

    def _repo(self, request: Request, repo_type: str, repo_id: str, *, write: bool = False) -> Repo:
        user = self._user(request)
        repo = self.repos.get((repo_type, repo_id))
        name = user[0] if user else None
        if repo is None or (repo.private and repo.owner != name) or (write and user is None):
            if user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write and repo.owner != name:
            raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        if write and user and user[1] != "write":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def _namespace(self, request: Request, body: dict[str, Any]) -> tuple[str, str]:
        """Type and id of a repository to create or delete."""
        user = self._user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        namespace = body.get("organization") or user[0]
        if user != (namespace, "write"):
            raise HubError(403, f'You don\'t have the rights to manage a repository under the namespace "{namespace}"')
        return f"{body.get('type') or 'model'}s", f"{namespace}/{body['name']}"

    def _web_url(self, repo: Repo) -> str:
        return f"{self.url}/{'' if repo.type == 'models' else f'{repo.type}/'}{repo.id}"

    # One method per route; its name is the step that the log and ``failing`` speak of.

    @_route("GET", "/api/whoami-v2")
    async def whoami(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": f"{user[0]}, {user[1]}", "role": user[1]}
        auth = {"type": "access_token", "accessToken": token}
        return JSONResponse({"type": "user", "id": user[0], "name": user[0], "orgs": [], "auth": auth})

    @_route("POST", "/api/validate-yaml")
    async def validate_yaml(self, request: Request) -> Response:
        errors, warnings = validate_card((await request.json())["content"])
        body = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return JSONResponse(body, 400 if errors else 200)

    @_route("POST", "/api/repos/create")
    async def create(self, request: Request) -> Response:
        body = await request.json()
        repo_type, repo_id = self._namespace(request, body)
        if (repo_type, repo_id) in self.repos:
            url = self._web_url(self.repos[repo_type, repo_id])
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        repo = Repo(repo_type, repo_id, private=body.get("visibility") == "private" or body.get("private") is True)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
        repo.add("main", {".gitattributes": Blob(attributes.encode())}, "initial commit", "", repo.owner)
        self.repos[repo_type, repo_id] = repo
        return JSONResponse({"url": self._web_url(repo)})

    @_route("DELETE", "/api/repos/delete")
    async def delete(self, request: Request) -> Response:
        repo_type, repo_id = self._namespace(request, await request.json())
        if self.repos.pop((repo_type, repo_id), None) is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return Response()

    @_route("POST", "{api}/(?P<kind>branch|tag)/{rev}")
    async def create_ref(self, request: Request, type: str, id: str, kind: str, rev: str) -> Response:
        repo, body = self._repo(request, type, id, write=True), await request.json()
        refs, name, start = (
            (repo.branches, rev, body.get("startingPoint") or "main")
            if kind == "branch"
            else (repo.tags, body["tag"], rev)
        )
        if name in refs:
            raise HubError(409, f"Reference {name} already exists")
        refs[name] = repo.commit(start)
        return Response()

    @_route("DELETE", "{api}/(?P<kind>branch|tag)/{rev}")
    async def delete_ref(self, request: Request, type: str, id: str, kind: str, rev: str) -> Response:
        repo = self._repo(request, type, id, write=True)
        refs = repo.branches if kind == "branch" else repo.tags
        if rev == "main" or refs.pop(rev, None) is None:
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        return Response()

    @_route("POST", "{api}/preupload/{rev}")
    async def preupload(self, request: Request, type: str, id: str, rev: str) -> Response:
        present = self._repo(request, type, id, write=True).commit(rev).files
        files = []
        for file in (await request.json())["files"]:
            path, is_binary = file["path"], b"\0" in base64.b64decode(file["sample"])
            mode = "lfs" if has_lfs_name(path) or file["size"] > REGULAR_MAX_SIZE or is_binary else "regular"
            oid = present[path].content_oid if path in present else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": files})

    @_route("POST", r"{web}\.git/info/lfs/objects/batch")
    async def lfs_batch(self, request: Request, type: str, id: str) -> Response:
        repo, objects = self._repo(request, type, id, write=True), []
        for item in (await request.json())["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in repo.lfs:
                # As on the Hub: the address is the permission to upload this one object; the client sends no token.
                grant = hashlib.sha256(f"{len(self._grants)} {item['oid']}".encode()).hexdigest()
                self._grants[grant] = (repo, item["oid"], item["size"])
                actions = {name: {"href": f"{self.url}/lfs/{name}/{grant}"} for name in ("upload", "verify")}
                answer["actions"] = actions
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects})

    @_route("PUT", "/lfs/upload/(?P<grant>[0-9a-f]+)")
    async def lfs_put(self, request: Request, grant: str) -> Response:
        data = await request.body()
        if grant not in self._grants:
            raise HubError(403, "Signature does not match")
        repo, oid, size = self._grants[grant]
        if hashlib.sha256(data).hexdigest() != oid or len(data) != size:
            raise HubError(400, f"The object is not {oid} of {size} bytes")
        repo.lfs[oid] = data
        self.lfs_uploads.append(oid)
        return Response()

    @_route("POST", "/lfs/verify/(?P<grant>[0-9a-f]+)")
    async def lfs_verify(self, request: Request, grant: str) -> Response:
        repo, oid, size = self._grants[grant]
        body = await request.json()
        if (body["oid"], body["size"]) != (oid, size) or oid not in repo.lfs:
            raise HubError(404, f"Object {oid} is not stored")
        return Response()

    @_route("POST", "{api}/commit/{rev}")
    async def commit(self, request: Request, type: str, id: str, rev: str) -> Response:
        repo = self._repo(request, type, id, write=True)
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
        if rev not in repo.branches:
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        if request.query_params.get("create_pr"):
            raise HubError(501, "The test server has no pull requests")
        files, added, deleted, header = dict(repo.branches[rev].files), [], [], lines[0]["value"]
        if header.get("parentCommit", repo.branches[rev].oid) != repo.branches[rev].oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            path = value["path"]
            if not all(part not in ("", ".", "..") for part in path.removesuffix("/").split("/")):
                raise HubError(400, f"Invalid path: {path}")
            if key in ("file", "lfsFile"):
                files[path] = committed_blob(repo, key, value)
                added.append(path)
                continue
            gone = [p for p in files if p == path or (key == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            deleted += gone
            files = {p: blob for p, blob in files.items() if p not in gone}
        errors, _ = validate_card(files["README.md"].data.decode()) if "README.md" in added else ([], [])
        if errors:
            raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        commit = repo.add(rev, files, header["summary"], header.get("description", ""), repo.owner)
        self.pushes.append(Pushed(id, rev, commit.oid, tuple(sorted(added)), tuple(sorted(deleted))))
        return JSONResponse({"commitUrl": f"{self._web_url(repo)}/commit/{commit.oid}", "commitOid": commit.oid})

    @_route("GET", "{api}(?:/revision/{rev})?")
    async def info(self, request: Request, type: str, id: str, rev: str | None = None) -> Response:
        repo = self._repo(request, type, id)
        commit = repo.commit(rev or "main")
        siblings = []
        for path, blob in sorted(commit.files.items()):
            lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
            detail = {"blobId": blob.oid, "size": len(blob.data), **({"lfs": lfs} if blob.lfs else {})}
            siblings.append({"rfilename": path, **(detail if request.query_params.get("blobs") == "true" else {})})
        block = (
            REGEX_YAML_BLOCK.search(commit.files["README.md"].data.decode()) if "README.md" in commit.files else None
        )
        card = json.loads(json.dumps(yaml.safe_load(block.group(2)) if block else {}, default=str))
        answer = {"id": id, "author": repo.owner, "sha": commit.oid, "private": repo.private, "gated": False}
        answer |= {"disabled": False, "lastModified": commit.date, "tags": card.get("tags", []), "cardData": card}
        answer |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
        return JSONResponse({**answer, "siblings": siblings})

    @_route("GET HEAD", "{web}/resolve/{rev}/(?P<path>.+)")
    async def resolve(self, request: Request, type: str, id: str, rev: str, path: str) -> Response:
        commit = self._repo(request, type, id).commit(rev)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", **headers)
        blob = commit.files[path]
        headers |= {"ETag": f'"{blob.content_oid}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if wanted is None or wanted.groups() == ("", ""):
            return Response(blob.data, headers=headers, media_type="application/octet-stream")
        size = len(blob.data)
        start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
        if start >= stop:
            raise HubError(416, "Range not satisfiable", **headers, **{"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Response(blob.data[start:stop], 206, headers, "application/octet-stream")

    @_route("GET", "{api}/tree/{rev}(?:/(?P<path>.+))?")
    async def tree(self, request: Request, type: str, id: str, rev: str, path: str | None = None) -> Response:
        commit = self._repo(request, type, id).commit(rev)
        prefix = f"{path.strip('/')}/" if path else ""
        files = {name: blob for name, blob in commit.files.items() if name.startswith(prefix)}
        if prefix and not files:
            headers = {"X-Repo-Commit": commit.oid}
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound", **headers)
        folders = {name: oid for name, oid in folder_ids(commit.files).items() if name.startswith(prefix)}
        entries = [{"type": "directory", "path": name, "oid": oid, "size": 0} for name, oid in folders.items()]
        entries += [file_entry(name, blob) for name, blob in files.items()]
        if request.query_params.get("recursive", "").lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        return JSONResponse(sorted(entries, key=lambda entry: entry["path"]))

    @_route("POST", "{api}/paths-info/{rev}")
    async def paths_info(self, request: Request, type: str, id: str, rev: str) -> Response:
        files = self._repo(request, type, id).commit(rev).files
        paths = parse_qs((await request.body()).decode()).get("paths", [])
        entries = [file_entry(path, files[path]) for path in paths if path in files]
        folders = {name: oid for name, oid in folder_ids(files).items() if name in paths}
        entries += [{"type": "directory", "path": name, "oid": oid, "size": 0} for name, oid in folders.items()]
        return JSONResponse(entries)

    @_route("GET", "{api}/refs")
    async def refs(self, request: Request, type: str, id: str) -> Response:
        repo = self._repo(request, type, id)
        listed = {
            key: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": c.oid} for name, c in commits.items()]
            for key, kind, commits in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        return JSONResponse({**listed, "converts": [], "pullRequests": []})

    @_route("GET", "{api}/commits/{rev}")
    async def commits(self, request: Request, type: str, id: str, rev: str) -> Response:
        commit: Commit | None = self._repo(request, type, id).commit(rev)
        history = []
        while commit is not None:
            entry = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date}
            history.append({**entry, "authors": [{"user": commit.author}]})
            commit = commit.parent
        return JSONResponse(history)


@dataclass(eq=False)
class _Failure:
    step: str
    how: int | Literal["drop"]
    numbers: range | None
    nth: int
    seen: int = 0

    def strikes(self, step: str) -> bool:
        if step != self.step:
            return False
        self.seen += 1
        return self.seen >= self.nth if self.numbers is None else self.seen in self.numbers


async def _drop(receive: Receive, send: Send) -> None:
    """Cut the connection after the first bytes of the request's body, without an answer."""
    await receive()
    send.__self__.transport.abort()  # type: ignore[attr-defined]
    # uvicorn answers for an application that returns early, unless it has noticed by then that nobody listens.
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


def _match(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    for route in ROUTES:
        match = route.pattern.fullmatch(path)
        if match and method in route.methods.split():
            groups = match.groupdict()
            # The web address of a model has no type in it.
            values = {key: value for key, value in groups.items() if value is not None}
            return route, ({"type": "models", **values} if "type" in groups else values)
    return None, {}
