"""Folders to and from the Hugging Face Hub; what fails says whether to try again."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import HfApi, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from st_adapter.errors import InputError, without_secrets
from st_adapter.storage.files import read_object

MAIN = "main"
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[
    0
]  # of whichever HTTP library this release of the client is built on
_TRY_AGAIN = (408, 409, 412, 423, 425, 429)

# The statuses and the waits of the client's own `http_backoff`, for those of its calls that do not use it.
_WAIT_FOR = (429, 500, 502, 503, 504)
_WAITS = (1.0, 2.0, 4.0, 8.0)
_LONGEST_WAIT = 60.0
# What every repository may hold before anything was uploaded to it.
_BLANK = (".gitattributes", "README.md")
_MENDINGS = 3

_Answer = TypeVar("_Answer")


class Upload(NamedTuple):
    """What is to be uploaded, and what it may replace.

    Attributes:
        branches: branch -> folder whose files it shall have.
        is_ours: whether the names of the files of a branch, and what ``read`` gives of one that is JSON, are those of
            something that this may replace.
        owned: patterns such as ``*_Router/*``: files of the repository that match and that the folder does not have are
            deleted. All others stay.
        stale: branches that say something else afterwards, and that are deleted when ``overwrite`` is given.
    """

    branches: Mapping[str, Path]
    is_ours: Callable[[set[str], Callable[[str], dict[str, Any]]], bool]
    owned: Sequence[str] = ()
    stale: Sequence[str] = ()


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
    commits: dict[str, _Commit] = {}
    with explained_errors(f"{repo_id} could not be uploaded to the Hub", token):
        repo_id = _patiently(partial(api.create_repo, repo_id, private=private, exist_ok=True)).repo_id
        if private and not _patiently(partial(api.model_info, repo_id)).private:
            raise ValueError(
                f"{repo_id} exists and is public, but a private repository was asked for. Nothing was uploaded. "
                "Make it private in its settings, or choose another name."
            )
        if not overwrite:
            _check_replaceable(api, repo_id, sorted(files.branches), files)
        for branch in sorted(files.branches, key=lambda name: name == MAIN):
            if branch != MAIN:
                _create_branch(api, repo_id, branch)
            commits[branch] = _commit(api, repo_id, branch, files, commit_message, overwrite=overwrite)
        if overwrite:
            for branch in set(files.stale) & set(_heads(api, repo_id)) - set(files.branches):
                _patiently(partial(api.delete_branch, repo_id, branch=branch))
        _make_agree(api, repo_id, files, {name: commit.oid for name, commit in commits.items()}, commit_message)
    return commits[MAIN].url


def check_repository_free(files: Upload, repo_id: str, token: str | None = None) -> None:
    """Check before work whose result is to be uploaded that a repository is new, blank, or holds what may be replaced.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it holds something else.
    """
    api = HfApi(token=token)
    with explained_errors(f"{repo_id} was looked for on the Hub", token):
        if "/" not in repo_id:
            repo_id = f"{_patiently(api.whoami)['name']}/{repo_id}"
        try:
            _check_replaceable(api, repo_id, sorted({MAIN, *files.branches}), files)
        except RepositoryNotFoundError:
            return


class _Commit(NamedTuple):
    oid: str
    url: str


def _check_replaceable(api: HfApi, repo_id: str, branches: Sequence[str], files: Upload) -> None:
    heads = _heads(api, repo_id)
    for branch in branches:
        if branch not in heads:
            continue
        commit = heads[branch]
        names = set(_patiently(partial(api.list_repo_files, repo_id, revision=commit)))

        def read(name: str, commit: str = commit) -> dict[str, Any]:
            return read_object(Path(hf_hub_download(repo_id, name, revision=commit, token=api.token)))

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
) -> _Commit:
    info = _patiently(
        partial(
            api.upload_folder,
            repo_id=repo_id,
            folder_path=files.branches[branch],
            revision=branch,
            commit_message=message,
            delete_patterns=["*"] if overwrite else list(files.owned) or None,
            parent_commit=parent or None,
        ),
        waits=_WAITS[:1],  # the client has waited itself for nearly every request of these
    )
    return _Commit(info.oid, info.commit_url)


def _create_branch(api: HfApi, repo_id: str, branch: str) -> None:
    _patiently(partial(api.create_branch, repo_id, branch=branch, exist_ok=True))


def _heads(api: HfApi, repo_id: str) -> dict[str, str]:
    """Branch -> its newest commit."""
    refs = _patiently(partial(api.list_repo_refs, repo_id))
    return {branch.name: branch.target_commit for branch in refs.branches}


def _make_agree(api: HfApi, repo_id: str, files: Upload, ours: dict[str, str], message: str) -> None:
    """Upload again what another upload replaced meanwhile; who wrote ``main`` last decides what all branches hold."""
    for _ in range(_MENDINGS):
        heads = _heads(api, repo_id)
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
                _create_branch(api, repo_id, branch)
            try:
                # Only onto the commit that was looked at: what came after it belongs to a newer main.
                ours[branch] = _commit(api, repo_id, branch, files, message, parent=heads.get(branch, "")).oid
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
    raise ConnectionError("its branches do not belong together, because others keep uploading to it")


def _patiently(call: Callable[[], _Answer], waits: Sequence[float] = _WAITS) -> _Answer:
    """Call the Hub, and again after a while if it is busy; as long as it asks for, but never more than a minute."""
    for wait in waits:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in _WAIT_FOR:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = min(float(asked) if asked.isdecimal() else wait, _LONGEST_WAIT)
        time.sleep(wait)
    return call()


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
) -> Path:
    """The folder in the Hub cache that holds a repository at a revision; only what is missing there is downloaded.

    Args:
        repo_id: ``user/name``.
        revision: branch, tag or commit; ``main`` if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        cache_dir: the cache; that of Sentence Transformers or of the Hub client if None.
        local_files_only: never ask the Hub.
        allow_patterns: take these files only.
        ignore_patterns: leave these files out.

    Raises:
        IncompleteSnapshotError: the Hub cannot be asked, but the cache holds a part, at ``error.snapshot_path``.
        ConnectionError: it may work if tried again.
        ValueError: there is no such repository or revision, or it may not be read.
    """
    what = f"{repo_id} (revision {revision or MAIN}) could not be read from the Hub"
    if Path(repo_id).is_absolute() or repo_id.count("/") > 1:
        raise ValueError(f"{repo_id} is neither a folder nor a Hub id such as user/name.")
    # The environment variable that SentenceTransformer reads too; what it fetched is not fetched again.
    cache_dir = cache_dir or os.getenv("SENTENCE_TRANSFORMERS_HOME")
    with explained_errors(what, token if isinstance(token, str) else None):
        folder: str = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=list(allow_patterns) if allow_patterns is not None else None,
            ignore_patterns=list(ignore_patterns) if ignore_patterns is not None else None,
        )
    return Path(folder)


def branches_of(repo_id: str, token: str | None = None) -> set[str]:
    """The branches of a repository; empty if there is no such repository, or none that may be read.

    Raises:
        ConnectionError: it may work if tried again.
    """
    try:
        with explained_errors(f"{repo_id} was looked for on the Hub", token):
            return set(_heads(HfApi(token=token), repo_id))
    except ValueError:
        return set()


def check_can_write(repo_id: str, token: str | None = None) -> None:
    """Ask the Hub who we are before work whose result is to be uploaded.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: there is no token, it may only read, or the user is not the one of ``repo_id`` nor in that
            organization.
    """
    with explained_errors("The Hub was asked whether the result can be uploaded", token):
        user: Mapping[str, Any] = _patiently(HfApi(token=token).whoami)
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"The token of {user['name']!r} may only read. Make one with the role 'write' and pass it.")
    owner, _, name = repo_id.rpartition("/")
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
    if not name or (owner and owner not in owners):
        raise ValueError(
            f"The upload was to go to {repo_id!r}, but this token belongs to {user['name']!r}, who can write to "
            f"{', '.join(owners)}. Pass user/name with one of these."
        )


@contextmanager
def explained_errors(what: str, token: str | None) -> Iterator[None]:
    """Turn the Hub client's errors into ConnectionError (try again) or ValueError (change something first).

    What is raised is not chained to the client's error, which holds the request with its token and may repeat it.
    """
    try:
        yield
    except IncompleteSnapshotError as error:
        # The caller may go on with the part that is there.
        error.args = tuple(_without_token(str(argument), token) for argument in error.args)
        error.__cause__ = error.__context__ = None
        raise
    except (_HTTP_ERROR, OSError, RuntimeError, HFValidationError) as error:
        explained = _explained(error, what, token)
        if explained is None:
            raise
        try:
            raise explained from None
        finally:
            explained.__context__ = None


def _explained(error: BaseException, what: str, token: str | None) -> Exception | None:
    """What the client's error means to its user; None if it is none of the client's."""
    if isinstance(error, OfflineModeIsEnabled):
        return ValueError(f"{what}: HF_HUB_OFFLINE is set. Unset it to use the Hub.")
    if isinstance(error, LocalTokenNotFoundError):
        return ValueError(f"{what}: there is no access token. Run `hf auth login`, or pass a token.")
    if isinstance(error, GatedRepoError):
        return ValueError(f"{what}: access has to be asked for on its page on the Hub first.")
    if isinstance(error, HFValidationError):
        return ValueError(f"{what}: {_without_token(str(error), token)}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = _without_token(error.server_message or str(error).strip().splitlines()[0], token)
        if status >= 500 or status in _TRY_AGAIN:
            return ConnectionError(f"{what}: the Hub answered {status} ({reason}). {_AGAIN}")
        return ValueError(f"{what}: the Hub answered {status} ({reason}). {_remedy(status)}")
    if isinstance(error, LocalEntryNotFoundError):
        return ConnectionError(f"{what}: it cannot be reached, and the cache does not have it. {_AGAIN}")
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, _HTTP_ERROR):
        # What the client makes of a large file that could not be sent.
        reason = _without_token(str(error.__cause__), token)
        return ConnectionError(f"{what}: {_without_token(str(error), token)} ({reason}). {_AGAIN}")
    if isinstance(error, (_HTTP_ERROR, ConnectionError, TimeoutError)):
        reason = _without_token(str(error), token) or type(error).__name__
        return ConnectionError(f"{what}: {reason}. {_AGAIN}")
    return None


_AGAIN = "Try again: what was sent or received is kept, and nothing else has changed."


def _remedy(status: int) -> str:
    if status == 401:
        return "Trying again will not help: run `hf auth login`, or pass a valid token with access to it."
    if status == 403:
        return "Trying again will not help: the token may not do this. Pass one with the role 'write'."
    if status == 404:
        return (
            "Trying again will not help: check the name and the revision; a private repository needs a token of "
            "somebody who may read it."
        )
    return "Trying again will not help as it is."


def _without_token(text: str, token: str | None) -> str:
    return without_secrets(text, (token, get_token()))
