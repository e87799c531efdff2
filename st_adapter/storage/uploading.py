"""Folders to the Hugging Face Hub: one commit per branch, `main` last, and never over what is somebody else's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import CommitInfo, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from st_adapter.errors import InputError
from st_adapter.storage.hub import MAIN, WAITS, branch_heads, explained_errors, patiently
from st_adapter.storage.reading import read_object

# What every repository may hold before anything was uploaded to it.
_BLANK = (".gitattributes", "README.md")
_MENDINGS = 3

RepoType = Literal["model", "space"]


class Upload(NamedTuple):
    """What is to be uploaded, and what it may replace.

    Attributes:
        branches: branch -> folder whose files it shall have.
        is_ours: whether the names of the files of a branch, and what ``read`` gives of one that is JSON, are those of
            something that this may replace.
        owned: patterns such as ``*_Router/*``: files of the repository that match and that the folder does not have are
            deleted. All others stay.
        stale: branches that say something else afterwards, and that are deleted when ``overwrite`` is given.
        repo_type: what the repository is; a Space is one of Gradio.
    """

    branches: Mapping[str, Path]
    is_ours: Callable[[set[str], Callable[[str], dict[str, Any]]], bool]
    owned: Sequence[str] = ()
    stale: Sequence[str] = ()
    repo_type: RepoType = "model"


def upload(
    files: Upload,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str,
    overwrite: bool = False,
) -> str:
    """Make one commit per branch out of folders; the repository is created if it does not exist.

    ``main`` comes last, so an upload that dies half-way leaves it as it was, and one that is started again sends only
    what is not there yet: files that the repository has already are not sent. Afterwards all branches are looked at
    again: where somebody else's upload came between, the branches beside ``main`` are made to agree with it.

    Args:
        files: what to upload.
        repo_id: ``user/name``.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commits.
        overwrite: replace everything in a repository that holds something else.

    Returns:
        The URL of the commit on ``main``.

    Raises:
        ConnectionError: it may work if tried again; ``main`` is as it was.
        ValueError: it will not work as it is: no token, no permission, no such user, a public repository where a
            private one was asked for, a repository that holds something else.
    """
    api = HfApi(token=token)
    commits: dict[str, CommitInfo] = {}
    with explained_errors(f"{repo_id} could not be uploaded to the Hub", token):
        kind: dict[str, Any] = {"repo_type": files.repo_type}
        sdk: dict[str, Any] = {"space_sdk": "gradio"} if files.repo_type == "space" else {}
        repo_id = patiently(api.create_repo, repo_id, private=private, exist_ok=True, **kind, **sdk).repo_id
        if private and not patiently(api.repo_info, repo_id, **kind).private:
            raise ValueError(
                f"{repo_id} exists and is public, but a private repository was asked for. Nothing was uploaded. "
                "Make it private in its settings, or choose another name."
            )
        if not overwrite:
            _check_replaceable(api, repo_id, sorted(files.branches), files)
        for branch in sorted(files.branches, key=lambda name: name == MAIN):
            if branch != MAIN:
                patiently(api.create_branch, repo_id, branch=branch, exist_ok=True, repo_type=files.repo_type)
            commits[branch] = _commit(api, repo_id, branch, files, commit_message, overwrite=overwrite)
        if overwrite:
            for branch in set(files.stale) & set(branch_heads(api, repo_id, files.repo_type)) - set(files.branches):
                patiently(api.delete_branch, repo_id, branch=branch, **kind)
        _make_agree(api, repo_id, files, {name: commit.oid for name, commit in commits.items()}, commit_message)
    return commits[MAIN].commit_url


def check_repository_free(files: Upload, repo_id: str, token: str | None = None) -> None:
    """Check before work whose result is to be uploaded that a repository is new, blank, or holds what may be replaced.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it holds something else.
    """
    api = HfApi(token=token)
    with explained_errors(f"{repo_id} was looked for on the Hub", token):
        if "/" not in repo_id:
            repo_id = f"{patiently(api.whoami)['name']}/{repo_id}"
        try:
            _check_replaceable(api, repo_id, sorted({MAIN, *files.branches}), files)
        except RepositoryNotFoundError:
            return


def _check_replaceable(api: HfApi, repo_id: str, branches: Sequence[str], files: Upload) -> None:
    heads = branch_heads(api, repo_id, files.repo_type)
    for branch in branches:
        if branch not in heads:
            continue
        commit = heads[branch]
        names = set(patiently(api.list_repo_files, repo_id, revision=commit, repo_type=files.repo_type))

        def read(name: str, commit: str = commit) -> dict[str, Any]:
            return read_object(
                Path(hf_hub_download(repo_id, name, revision=commit, token=api.token, repo_type=files.repo_type))
            )

        if names <= set(_BLANK) or files.is_ours(names, read):
            continue
        others = sorted(names - set(_BLANK))
        raise InputError(
            f"{repo_id} holds something else on its branch {branch}: {len(others)} files, the first: "
            f"{', '.join(others[:3])}. Nothing was uploaded.",
            python="Choose another name, or pass overwrite=True to replace it.",
            flags="Choose another name, or pass --overwrite to replace it.",
        )


def _commit(
    api: HfApi, repo_id: str, branch: str, files: Upload, message: str, *, overwrite: bool = False, parent: str = ""
) -> CommitInfo:
    return patiently(
        api.upload_folder,
        waits=WAITS[:1],  # the client has waited itself for nearly every request of these
        repo_id=repo_id,
        repo_type=files.repo_type,
        folder_path=files.branches[branch],
        revision=branch,
        commit_message=message,
        delete_patterns=["*"] if overwrite else list(files.owned) or None,
        parent_commit=parent or None,
    )


def _make_agree(api: HfApi, repo_id: str, files: Upload, ours: dict[str, str], message: str) -> None:
    """Upload again what another upload replaced meanwhile; who wrote ``main`` last decides what all branches hold."""
    for _ in range(_MENDINGS):
        heads = branch_heads(api, repo_id, files.repo_type)
        moved = [branch for branch in ours if heads.get(branch) != ours[branch]]
        if MAIN in moved:
            warnings.warn(
                f"Somebody else uploaded to {repo_id} at the same time and finished later: its branches hold what they "
                "uploaded.",
                stacklevel=5,
            )
            return
        if not moved:
            return
        warnings.warn(
            f"Somebody else uploaded to {repo_id} at the same time, and the branches {', '.join(moved)} did not belong "
            "to main any more. They are uploaded again.",
            stacklevel=5,
        )
        for branch in moved:
            if branch not in heads:
                patiently(api.create_branch, repo_id, branch=branch, exist_ok=True, repo_type=files.repo_type)
            try:
                # Only onto the commit that was looked at: what came after it belongs to a newer main.
                ours[branch] = _commit(api, repo_id, branch, files, message, parent=heads.get(branch, "")).oid
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
    raise ConnectionError("its branches do not belong together, because others keep uploading to it")
