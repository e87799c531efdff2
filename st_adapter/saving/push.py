"""Upload a saved model to the Hub, a branch for each of its layouts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.roles import Role
from st_adapter.errors import InputError
from st_adapter.saving.folder import CONFIG_FILE_NAME, SavedModel, copy_as, left_out, read_saved
from st_adapter.saving.layouts import Layout, reads_task
from st_adapter.saving.model_files import READ_BY_LIBRARIES
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.save import SaveOptions, write_model
from st_adapter.saving.verify import check_files
from st_adapter.storage.adapters import ADAPTER_FOLDER
from st_adapter.storage.hub import MAIN, branches_of
from st_adapter.storage.uploading import Upload, check_repository_free, upload

QUERY_BRANCH, TWIN_BRANCH = "query", "twin"

# Files of earlier versions of a repository that a new one may not have any more.
_OWNED = (
    "*_Router/*",
    "*_Dense/*",
    "0_Transformer/*",
    "0_StaticEmbedding/*",
    f"{ADAPTER_FOLDER}/*",
    "onnx/model_document.onnx",
    "onnx/model_query.onnx",
    # Of another query model, whose files lie at the top of its branch.
    *READ_BY_LIBRARIES,
    "model*.safetensors*",
)


def push_to_hub(
    model: SentenceTransformer,
    adapter: QueryAdapter | Mapping[str, QueryAdapter] | None,
    repo_id: str,
    *,
    default_task: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add model with query adapter",
    twin: bool = False,
    onnx: bool = False,
    base_model: str | Path | None = None,
    training: TrainingRecord | Mapping[str, TrainingRecord] | None = None,
    overwrite: bool = False,
    check_texts: Mapping[Role, Sequence[str]] | None = None,
) -> str:
    """Save base model and adapter as ``save_pretrained`` does, and upload the folder; see ``push_folder``.

    Args:
        model: base model.
        adapter: the trained adapter, several by their tasks, or None for the base model alone.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
        default_task: as in ``save_pretrained``.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commits.
        twin: as in ``push_folder``.
        onnx: as in ``save_pretrained``.
        base_model: as in ``save_pretrained``.
        training: as in ``save_pretrained``.
        overwrite: as in ``push_folder``.
        check_texts: as in ``save_pretrained``.

    Returns:
        The URL of the commit on ``main``.

    Raises:
        ConnectionError: it may work if tried again; ``main`` is as it was.
        ValueError: as ``save_pretrained``, or it will not work as it is, for instance because the token may not write.

    Examples:
        >>> push_to_hub(model, adapter, "user/model-with-adapter")  # doctest: +SKIP
    """
    texts = check_texts or {}
    options = SaveOptions(
        onnx=onnx, base_model=base_model, training=training, title=repo_id, check_texts=texts, default_task=default_task
    )
    with TemporaryDirectory() as folder:
        saved = write_model(model, adapter, Path(folder) / "model", options)
        return push_folder(
            saved, repo_id, private=private, token=token, commit_message=commit_message, twin=twin, overwrite=overwrite
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add model with query adapter",
    twin: bool = False,
    overwrite: bool = False,
) -> str:
    """Upload a folder that ``save_pretrained`` wrote, of the layout ``document``.

    The branch ``main`` gets the folder, the branch ``query`` the same model in the layout ``query``; with adapters for
    several tasks that is the one of the default task, and without one there is no such branch. ``main`` comes
    last: an upload that dies half-way leaves it as it was. Files that the repository has already are not sent again.
    Uploaded is what the model was saved with and is made of, and its card; whatever else lies in the folder is left
    out, with a warning.

    Args:
        folder: the saved model.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commits.
        twin: also make the branch ``twin`` in that layout; one that is there already is brought up to date anyway.
        overwrite: replace everything in a repository that holds something else than a model saved here.

    Returns:
        The URL of the commit on ``main``.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: the folder is not such a model, the repository holds something else, or it will not work as it is.

    Examples:
        >>> push_folder("model-with-adapter", "user/model-with-adapter")  # doctest: +SKIP
    """
    folder = Path(folder)
    saved = _publishable(folder)
    layouts = _layouts(folder, saved, branches_of(repo_id, token), twin=twin)
    settings: dict[str, Any] = {"private": private, "token": token, "commit_message": commit_message}
    with TemporaryDirectory() as temporary:
        branches = {
            branch: copy_as(folder, Path(temporary) / branch, layout, repo_id) for branch, layout in layouts.items()
        }
        url = upload(_upload_of(branches), repo_id, overwrite=overwrite, **settings)
        if saved.has_adapter and not saved.tasks and TWIN_BRANCH in branches_of(repo_id, token) - set(layouts):
            # Somebody else has made one meanwhile, of another adapter.
            late = {**branches, TWIN_BRANCH: copy_as(folder, Path(temporary) / TWIN_BRANCH, "twin", repo_id)}
            url = upload(_upload_of(late), repo_id, **settings)
        return url


def _publishable(folder: Path) -> SavedModel:
    saved = read_saved(folder)
    check_files(folder, saved)  # what is damaged here must not get a hash of its own on the Hub
    if saved.layout != "document" and not (saved.layout == "twin" and saved.query_model is not None):
        raise ValueError(
            f"{folder} has the layout {saved.layout!r}, but 'document' is expected. Push the model itself."
        )
    unpublished = left_out(folder, saved)
    if unpublished:
        warnings.warn(
            f"{len(unpublished)} files in {folder} are not part of the model and are not uploaded, the first: "
            f"{', '.join(unpublished[:3])}.",
            stacklevel=3,
        )
    return saved


def _layouts(folder: Path, saved: SavedModel, present: set[str], *, twin: bool) -> dict[str, Layout]:
    """Which layout each branch shall have, given the branches that are there."""
    if saved.layout == "twin":
        return {MAIN: "twin"}
    if saved.has_adapter and reads_task(folder):
        warnings.warn(
            f"No branch {QUERY_BRANCH!r} is made: the base model itself reads `task`, which plain encode() does "
            "not pass. Call encode_query().",
            stacklevel=3,
        )
        return {MAIN: "document"}
    if saved.tasks and twin:
        raise InputError(
            f"{folder} has adapters for several tasks, but in the branch {TWIN_BRANCH!r} a query has no way to say its "
            "task.",
            python="Leave twin out, or push each adapter by itself.",
            flags="Leave --twin out, or push each run by itself.",
        )
    if saved.default_task is not None:
        return {MAIN: "document", QUERY_BRANCH: "query", **dict.fromkeys(present & {TWIN_BRANCH}, "query")}
    if saved.tasks or not saved.has_adapter:
        # All are what main is, once an earlier adapter has made them.
        return {MAIN: "document", **dict.fromkeys(present & {QUERY_BRANCH, TWIN_BRANCH}, "document")}
    if saved.query_model is not None:
        # The query model alone is what has a use of its own; a branch of an earlier adapter says the same.
        return {MAIN: "document", **dict.fromkeys({QUERY_BRANCH} | (present & {TWIN_BRANCH}), "twin")}
    with_twin = twin or TWIN_BRANCH in present
    return {MAIN: "document", QUERY_BRANCH: "query", **({TWIN_BRANCH: "twin"} if with_twin else {})}


def check_may_push(repo_id: str, token: str | None = None) -> None:
    """Check, before work whose result is to be pushed, that a repository is new, blank or holds a model of ours.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it holds something else.
    """
    check_repository_free(_upload_of({}), repo_id, token)


def _upload_of(branches: Mapping[str, Path]) -> Upload:
    def is_ours(names: set[str], read: Callable[[str], dict[str, Any]]) -> bool:
        return CONFIG_FILE_NAME in names

    return Upload(branches, is_ours, owned=_OWNED, stale=(QUERY_BRANCH, TWIN_BRANCH))
