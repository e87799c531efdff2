"""The repositories of the test server: immutable commits, the references that name them, and the objects in LFS."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

LFS_PATTERNS = (
    "*.7z *.bin *.ckpt *.gz *.h5 *.model *.msgpack *.npy *.npz *.onnx *.parquet *.pickle *.pkl *.pt *.pth "
    "*.safetensors *.tar *.tflite *.xz *.zip *.zst *tfevents*"
).split()
REGULAR_MAX_SIZE = 10 * 2**20


class HubError(Exception):
    """An answer other than success, in the form in which the Hub gives it."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        line = " ".join(message.encode("ascii", "replace").decode().split())
        self.status, self.message, self.headers = status, message, {"X-Error-Message": line, **headers}
        if code:
            self.headers["X-Error-Code"] = code


@dataclass(frozen=True)
class Blob:
    """The content of one file; ``oid`` is what git would call it, so that of the pointer for a file in LFS."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            self.sha256.encode(),
            len(self.data),
        )

    @cached_property
    def oid(self) -> str:
        data = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()

    @property
    def content_oid(self) -> str:
        """What a client compares its own file with, and what names the file in its cache."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: Commit | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    type: str
    id: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a full hash names."""
        for commits in (self.branches, self.tags, self.commits):
            if revision in commits:
                return commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add(self, branch: str, files: Mapping[str, Blob], title: str, message: str, author: str) -> Commit:
        """Put a commit on a branch. Commits never change; the branch moves in one step."""
        tree = "".join(f"{path}\0{blob.oid}\n" for path, blob in sorted(files.items()))
        oid = hashlib.sha1(f"{self.id}\n{len(self.commits)}\n{title}\n{tree}".encode()).hexdigest()
        date = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        commit = Commit(oid, self.branches.get(branch), title, message, author, date, dict(files))
        self.commits[oid] = self.branches[branch] = commit
        return commit


def has_lfs_name(path: str) -> bool:
    return any(fnmatch(path.split("/")[-1], pattern) for pattern in LFS_PATTERNS)


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}} if blob.lfs else {}
    return {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.data), **lfs}


def folder_ids(files: Mapping[str, Blob]) -> dict[str, str]:
    """Every folder with an id that depends on what it holds."""
    names = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    held = {name: sorted((p, b.oid) for p, b in files.items() if p.startswith(f"{name}/")) for name in sorted(names)}
    return {name: hashlib.sha1(repr(entries).encode()).hexdigest() for name, entries in held.items()}


def committed_blob(repo: Repo, key: str, value: dict[str, Any]) -> Blob:
    """The content that a line of a commit gives, refused as the Hub refuses it."""
    if key == "lfsFile":
        stored = repo.lfs.get(value["oid"])
        if stored is None or value.get("size", len(stored)) != len(stored):
            raise HubError(400, f"LFS pointer of {value['path']} points to an object that was not uploaded")
        return Blob(stored, lfs=True)
    data = base64.b64decode(value["content"], validate=True)
    # The client commits an empty file as a regular one, whatever its name.
    if len(data) > REGULAR_MAX_SIZE or (data and has_lfs_name(value["path"])):
        raise HubError(400, f"{value['path']} must be uploaded to LFS")
    return Blob(data)
