"""Save and push an adapter alone, without its base model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from st_adapter.adapter import QueryAdapter
from st_adapter.saving.card import adapter_card
from st_adapter.saving.push import QUERY_BRANCH, TWIN_BRANCH
from st_adapter.saving.record import TrainingRecord
from st_adapter.storage.adapters import WEIGHTS_FILE
from st_adapter.storage.hub import MAIN
from st_adapter.storage.reading import read_object
from st_adapter.storage.records import built, plain
from st_adapter.storage.uploading import Upload, check_repository_free, upload
from st_adapter.storage.writing import folder_written_whole, write_json, write_text

# How it came about, for a card of another name.
_TRAINING_FILE = "training.json"


def save_adapter(
    adapter: QueryAdapter, output_dir: str | Path, *, training: TrainingRecord | None = None, title: str | None = None
) -> Path:
    """Write the adapter alone, with a model card: a folder that ``QueryAdapter.from_pretrained`` opens.

    Args:
        adapter: what to save.
        output_dir: a new or empty folder, or one with an adapter in it, which is replaced as a whole.
        training: what the card says about how it came about and what it does.
        title: what the card calls it; the folder's name if None.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: the folder holds something else, or a weight is NaN or infinite.
        OSError: the folder cannot be written; what was there before is untouched.

    Examples:
        >>> folder = save_adapter(adapter, "adapter")
        >>> QueryAdapter.from_pretrained(folder).kind
        'linear'
    """
    target = Path(output_dir).resolve()
    check_adapter_target(target)
    adapter.check_weights()
    with folder_written_whole(target) as folder:
        adapter.save(str(folder))
        if training is not None:
            write_json(folder / _TRAINING_FILE, plain(training))
        card = adapter_card(title or target.name, adapter.get_config_dict(), adapter.base_model, training)
        write_text(folder / "README.md", card)
    return target


def check_adapter_target(target: Path) -> None:
    """Check, before work whose result is to be saved, that an adapter can be saved to a folder.

    Raises:
        ValueError: the folder holds something else.
    """
    if target.exists() and not _may_replace(target):
        raise ValueError(
            f"{target} exists and holds something else than an adapter, but a new folder or one with an adapter is "
            "expected. Choose another output_dir."
        )


def is_adapter_alone(folder: Path) -> bool:
    """Whether a folder is one that ``save_adapter`` wrote."""
    return folder.is_dir() and any(folder.iterdir()) and _may_replace(folder)


def push_adapter_folder(folder: Path, repo_id: str, **options: Any) -> str:
    """Upload what ``save_adapter`` wrote, with a model card of its new name.

    Args:
        folder: that holds it.
        repo_id: ``user/name``.
        **options: as ``push_adapter`` takes them.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: the folder is damaged; else as ``push_adapter``.
    """
    path = folder / _TRAINING_FILE
    training = built(TrainingRecord, read_object(path), path.name) if path.is_file() else None
    return push_adapter(QueryAdapter.from_pretrained(folder), repo_id, training=training, **options)


def check_may_push_adapter(repo_id: str, token: str | None = None) -> None:
    """Check, before work whose result is to be pushed, that a repository is new, blank or holds an adapter alone.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it holds something else.
    """
    check_repository_free(Upload({}, _is_adapter_alone), repo_id, token)


def push_adapter(
    adapter: QueryAdapter,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add query adapter",
    training: TrainingRecord | None = None,
    overwrite: bool = False,
) -> str:
    """Upload the adapter alone, with a model card; ``attach`` puts it on its base model again.

    Args:
        adapter: what to push.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
        private: whether a new repository is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        commit_message: first line of the commit.
        training: as in ``save_adapter``.
        overwrite: replace everything in a repository that holds something else than an adapter alone.

    Returns:
        The URL of the commit.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it will not work as it is, for instance because the token may not write, or because the repository
            holds something else.

    Examples:
        >>> push_adapter(adapter, "user/adapter")  # doctest: +SKIP
    """
    with TemporaryDirectory() as folder:
        saved = save_adapter(adapter, Path(folder) / "adapter", training=training, title=repo_id)
        return upload(
            Upload({MAIN: saved}, _is_adapter_alone, stale=(QUERY_BRANCH, TWIN_BRANCH)),
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            overwrite=overwrite,
        )


def _may_replace(target: Path) -> bool:
    """Whether a folder is empty or holds an adapter alone; a model of Transformers has files of the same names."""
    config_file = QueryAdapter.config_file_name
    names = {path.name for path in target.iterdir()} if target.is_dir() else None
    if names is None or not names <= {config_file, WEIGHTS_FILE, _TRAINING_FILE, "README.md"}:
        return False
    if not names:
        return True
    return config_file in names and QueryAdapter.is_config(read_object(target / config_file))


def _is_adapter_alone(names: set[str], read: Callable[[str], dict[str, Any]]) -> bool:
    """Whether the files of a repository are those of an adapter without its base model."""
    if "modules.json" in names or not {QueryAdapter.config_file_name, WEIGHTS_FILE} <= names:
        return False
    try:
        return QueryAdapter.is_config(read(QueryAdapter.config_file_name))
    except ValueError:
        return False
