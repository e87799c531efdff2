"""Reading from the Hugging Face Hub; what fails says whether to try again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from st_adapter.errors import without_secrets

MAIN = "main"
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[
    0
]  # of whichever HTTP library this release of the client is built on
_TRY_AGAIN = (408, 409, 412, 423, 425, 429)

# The statuses and the waits of the client's own `http_backoff`, for those of its calls that do not use it.
_WAIT_FOR = (429, 500, 502, 503, 504)
WAITS = (1.0, 2.0, 4.0, 8.0)
_LONGEST_WAIT = 60.0

_Answer = TypeVar("_Answer")


def patiently(call: Callable[..., _Answer], *arguments: Any, waits: Sequence[float] = WAITS, **options: Any) -> _Answer:
    """Call the Hub, and again after a while if it is busy; as long as it asks for, but never more than a minute."""
    for wait in waits:
        try:
            return call(*arguments, **options)
        except HfHubHTTPError as error:
            if error.response.status_code not in _WAIT_FOR:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = min(float(asked) if asked.isdecimal() else wait, _LONGEST_WAIT)
        time.sleep(wait)
    return call(*arguments, **options)


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
    what = f"There is no folder {repo_id} here, and it could not be read from the Hub (revision {revision or MAIN})"
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
            return set(branch_heads(HfApi(token=token), repo_id))
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
        user: Mapping[str, Any] = patiently(HfApi(token=token).whoami)
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


def branch_heads(api: HfApi, repo_id: str, repo_type: str = "model") -> dict[str, str]:
    """Branch -> its newest commit."""
    refs = patiently(api.list_repo_refs, repo_id, repo_type=repo_type)
    return {branch.name: branch.target_commit for branch in refs.branches}


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
