"""Opening a saved model once everything in it has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.origin import remember_origin
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import Role, encode_as
from st_adapter.errors import without_secrets
from st_adapter.saving.folder import CONFIG_FILE_NAME, read_saved
from st_adapter.saving.onnx_files import BASE_FILE, DOCUMENT_FILE, QUERY_FILE
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.tasks import encode_for, tasks_of
from st_adapter.saving.verify import OTHER_BACKENDS, check_saved
from st_adapter.storage.hub import download
from st_adapter.storage.reading import read_object
from st_adapter.storage.tensors import check_finite


def locate(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    only_config: bool = False,
    other_backends: bool = False,
) -> Path:
    """The local folder of a saved model, downloaded first if it is a Hub id.

    Raises:
        ConnectionError: the Hub cannot be reached; it may work if tried again.
        ValueError: there is no such folder or repository.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    return download(
        str(name_or_path),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        allow_patterns=[CONFIG_FILE_NAME] if only_config else None,
        ignore_patterns=None if other_backends else OTHER_BACKENDS,
    )


def from_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> SentenceTransformer:
    """Open a model that ``save_pretrained`` or ``push_to_hub`` wrote, after checking every file in it.

    ``SentenceTransformer(name_or_path)`` opens it as well; this refuses what is damaged or was tampered with.

    Args:
        name_or_path: folder or Hub id.
        revision: branch (``query``: plain ``encode`` is for queries), tag or commit on the Hub.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        cache_dir: the Hub cache; the usual one if None.
        local_files_only: never ask the Hub.
        device: where the model shall be; the best there is if None.
        kwargs: for ``SentenceTransformer``, such as ``model_kwargs={"dtype": torch.bfloat16}``.

    Raises:
        ConnectionError: the Hub cannot be reached; it may work if tried again.
        ValueError: there is no such model, or it is not as it was saved; see ``check_saved``.

    Examples:
        >>> folder = st_adapter.save_pretrained(model, adapter, "model-with-adapter")
        >>> from_pretrained(folder, device="cpu").encode_query("where is the red car").shape
        (32,)
    """
    folder = locate(
        name_or_path,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        other_backends=kwargs.get("backend", "torch") != "torch",
    )
    found = _stamp(folder)
    _check_model(folder, name_or_path, any_class=kwargs.get("trust_remote_code") is True)
    _check_backend(kwargs)
    try:
        model = SentenceTransformer(str(folder), device=device and str(device), local_files_only=True, **kwargs)
        embeddings = {role: encode_as(model, role, CHECK_TEXTS) for role in get_args(Role)}
        embeddings |= {task: encode_for(model, task, CHECK_TEXTS) for task in tasks_of(model)}
    except Exception as error:  # what the files of a model make the libraries raise is beyond any list
        reason = without_secrets(" ".join(str(error).split()), (token if isinstance(token, str) else None,))[:500]
        raise ValueError(
            f"Sentence Transformers cannot open {name_or_path} ({type(error).__name__}: {reason}). Its files are as "
            "they were saved, so they were damaged before, or this release cannot read them."
        ) from error
    if _stamp(folder) != found:
        raise ValueError(f"{name_or_path} was replaced while it was opened, so it may be a mixture. Open it again.")
    remember_origin(model, folder)
    for side, vectors in embeddings.items():
        check_finite(f"The {side} embeddings of {name_or_path}", vectors, "Its weights are damaged: save it again.")
    return model


def _check_model(folder: Path, where: object, any_class: bool) -> None:
    config = folder / QueryAdapter.config_file_name
    if not (folder / CONFIG_FILE_NAME).exists() and config.is_file() and QueryAdapter.is_config(read_object(config)):
        raise ValueError(
            f"{where} holds an adapter alone, without a base model. Open it with QueryAdapter.from_pretrained, and put "
            "it on its model with st_adapter.attach."
        )
    check_saved(folder, any_class=any_class)


def _stamp(folder: Path) -> tuple[int, ...]:
    """What every saving changes, because it writes a folder anew."""
    try:
        stat = (folder / CONFIG_FILE_NAME).stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _check_backend(arguments: Mapping[str, Any]) -> None:
    name = PurePosixPath(str((arguments.get("model_kwargs") or {}).get("file_name", ""))).name
    if name in (QUERY_FILE, DOCUMENT_FILE):
        raise ValueError(
            f"model_kwargs name the file {name}, whose vectors are finished: Sentence Transformers would put pooling "
            f"and adapter on them once more. Leave file_name out, so that {BASE_FILE} is opened; {name} is for "
            "transformers.js, fastembed and Vespa."
        )


def saved_training(name_or_path: str, revision: str | None = None, task: str | None = None) -> TrainingRecord | None:
    """How the adapter of a saved model came about, of a folder or Hub id; None if that is not recorded.

    Args:
        name_or_path: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        task: whose adapter, if the model has several.

    Raises:
        ValueError: the model has adapters for several tasks, and none of them is meant; see ``SavedModel.route``.
    """
    try:
        folder = locate(name_or_path, revision=revision, only_config=True)
    except (ValueError, OSError):
        return None
    if not (folder / CONFIG_FILE_NAME).is_file():
        return None
    saved = read_saved(folder)
    return saved.route(task if saved.tasks else None).training
