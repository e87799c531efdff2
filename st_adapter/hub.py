"""Folders to and from the Hugging Face Hub; what fails says whether to try again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

MAIN = "main"
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[
    0
]  # of whichever HTTP library this release of the client is built on
_TRY_AGAIN = (408, 409, 412, 423, 425, 429)


def upload(
    branches: Mapping[str, Path],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str,
    owned: Sequence[str] = (),
) -> str:
    """Make one commit per branch out of folders; the repository is created if it does not exist.

    ``main`` comes last, so an upload that dies half-way leaves it as it was, and one that is started again sends only
    what is not there yet: files that the repository has already are not sent.

    Args:
        branches: branch -> folder whose files it shall have.
        repo_id: ``user/name``.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commits.
        owned: patterns such as ``*_Router/*``: files of the repository that match and that the folder does not have are
            deleted. All others stay.

    Returns:
        The URL of the last commit.

    Raises:
        ConnectionError: it may work if tried again; ``main`` is as it was.
        ValueError: it will not work as it is: no token, no permission, no such user, a public repository where a
            private one was asked for.
    """
    api = HfApi(token=token)
    url = ""
    with explained_errors(f"{repo_id} could not be uploaded to the Hub", token):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"{repo_id} exists and is public, but a private repository was asked for. Nothing was uploaded. "
                "Make it private in its settings, or choose another name."
            )
        for branch in sorted(branches, key=lambda name: name == MAIN):
            if branch != MAIN:
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            url = api.upload_folder(
                repo_id=repo_id,
                folder_path=branches[branch],
                revision=branch,
                commit_message=commit_message,
                delete_patterns=list(owned) or None,
            ).commit_url
    return url


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
            return {branch.name for branch in HfApi(token=token).list_repo_refs(repo_id).branches}
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
        user: Mapping[str, Any] = HfApi(token=token).whoami()
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
    """Turn the Hub client's errors into ConnectionError (try again) or ValueError (change something first)."""
    try:
        yield
    except IncompleteSnapshotError:
        raise  # the caller may go on with the part that is there
    except OfflineModeIsEnabled as error:
        raise ValueError(f"{what}: HF_HUB_OFFLINE is set. Unset it to use the Hub.") from error
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{what}: there is no access token. Run `hf auth login`, or pass a token.") from error
    except GatedRepoError as error:
        raise ValueError(f"{what}: access has to be asked for on its page on the Hub first.") from error
    except HFValidationError as error:
        raise ValueError(f"{what}: {_without_token(str(error), token)}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = _without_token(error.server_message or str(error).strip().splitlines()[0], token)
        if status >= 500 or status in _TRY_AGAIN:
            raise ConnectionError(f"{what}: the Hub answered {status} ({reason}). {_AGAIN}") from error
        raise ValueError(f"{what}: the Hub answered {status} ({reason}). {_remedy(status)}") from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(f"{what}: it cannot be reached, and the cache does not have it. {_AGAIN}") from error
    except RuntimeError as error:
        # What the client makes of a large file that could not be sent.
        if not isinstance(error.__cause__, _HTTP_ERROR):
            raise
        reason = _without_token(str(error.__cause__), token)
        raise ConnectionError(f"{what}: {_without_token(str(error), token)} ({reason}). {_AGAIN}") from error
    except (_HTTP_ERROR, ConnectionError, TimeoutError) as error:
        reason = _without_token(str(error), token) or type(error).__name__
        raise ConnectionError(f"{what}: {reason}. {_AGAIN}") from error


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
    for secret in (token, get_token()):
        if secret:
            text = text.replace(secret, "***")
    return text
