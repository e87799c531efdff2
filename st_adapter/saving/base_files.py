"""A base model's own files: where they are, and copying them, or writing the model where there are none."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from huggingface_hub.errors import IncompleteSnapshotError
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from st_adapter.embeddings.origin import Origin, origin_of
from st_adapter.errors import InputError
from st_adapter.saving.folder import is_saved_model, read_saved
from st_adapter.saving.layouts import router_of
from st_adapter.saving.model_files import model_files, names_read_by, read_modules
from st_adapter.saving.onnx_files import QUERY_FILE
from st_adapter.saving.verify import check_modules
from st_adapter.storage.hub import download
from st_adapter.storage.paths import file_within, is_pickle
from st_adapter.storage.reading import read_object
from st_adapter.storage.writing import write_json


class BaseFiles(NamedTuple):
    """Where the files of a base model are.

    Attributes:
        folder: None if the model exists only in memory.
        name: a Hub id, or the name of a local folder: never a path, which would tell about the machine.
        revision: commit on the Hub, if known.
        missing: why the files cannot be taken, if so.
    """

    folder: Path | None
    name: str = ""
    revision: str | None = None
    missing: str = ""


def find_base_files(model: SentenceTransformer, base_model: str | Path | None) -> BaseFiles:
    """Where the files of a model in memory are: given, or what the transformer inside says it was loaded from.

    Raises:
        ValueError: there is nothing at the place given, or the weights there are pickles.
    """
    origin = origin_of(model, base_model)
    if not origin.path:
        return BaseFiles(None, missing="The base model does not say where it was loaded from")
    if Path(origin.path).is_dir():
        folder = Path(origin.path).resolve()
        name, revision = origin.hub_id or folder.name, origin.revision
    elif origin.hub_id is None:
        if base_model is not None:
            raise ValueError(
                f"There is no folder {origin.path}. Pass base_model=<the folder or Hub id of the base model>."
            )
        return BaseFiles(None, missing="The folder that the base model was loaded from is not there any more")
    else:
        try:
            folder = _download(origin)
        except (ValueError, ConnectionError) as error:
            if base_model is None:
                missing = f"The files that the base model was loaded from cannot be read any more ({error})"
                return BaseFiles(None, missing=missing)
            raise ValueError(
                f"The base model's files were looked for at {origin.path!r}, which is neither a folder nor a Hub "
                f"repository that can be read now ({error}). "
                "Pass base_model=<the folder or Hub id the model was loaded from>."
            ) from error
        # The cache names a snapshot after its commit; a branch or tag may mean another one tomorrow.
        name, revision = origin.hub_id, folder.name
    if not (folder / "modules.json").is_file():
        return BaseFiles(None, missing=f"{name} is no Sentence Transformers repository: it has no modules.json")
    if is_saved_model(folder):  # which the base model was taken out of
        base = read_saved(folder).base_model
        name, revision = base.name, base.revision
    _check_no_pickled_weights(folder, name)
    return BaseFiles(folder, name, revision)


def _check_no_pickled_weights(folder: Path, name: str) -> None:
    for each in map(Path, model_files(folder)):
        weights = each.name.startswith("pytorch_model") and is_pickle(folder / each)
        if weights and not any((folder / each).parent.glob("*.safetensors")):
            raise InputError(
                f"The base model {name} has its weights as a pickle, {each}, but safetensors are expected: a pickle "
                "can hold code, so it is neither saved nor opened here. Convert the model once, with "
                f"SentenceTransformer({name!r}).save_pretrained('converted').",
                python="Then load SentenceTransformer('converted').",
                flags="Then pass --model converted.",
            )


def _download(origin: Origin) -> Path:
    try:
        return download(str(origin.hub_id), revision=origin.revision).resolve()
    except IncompleteSnapshotError as error:
        # What the cache holds of a repository that cannot be downloaded in full. The model in memory was loaded from
        # these files: better a saved model without the rest than none after a training run.
        if error.snapshot_path is None:
            raise ConnectionError(str(error)) from error
        warnings.warn(
            f"{origin.hub_id} could not be downloaded in full: the saved model has only the files in the local cache.",
            stacklevel=4,
        )
        return Path(error.snapshot_path).resolve()


def copy_base(folder: Path, model: SentenceTransformer, source: Path) -> None:
    """Copy the base model's files byte for byte into an empty folder, but for pickles, which lie beside safetensors.

    Of a model that was saved here with an adapter, what came to its base model is left where it is.

    Raises:
        ValueError: one of them leads out of its folder, or the modules are not those of a base model.
    """
    added = added_router(source)
    for name in model_files(source, custom_code=bool(model.trust_remote_code), named=names_read_by(model)):
        file = file_within(source, source / name)
        if is_pickle(source / name) or name.endswith(".bin.index.json"):
            continue
        if added is not None and (name.startswith(f"{added}/") or name == f"onnx/{QUERY_FILE}"):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # Contents only: read-only files of a cache must not make a read-only repository. Links are followed.
        shutil.copyfile(file, folder / name)
    if added is not None:
        write_json(folder / "modules.json", read_modules(folder)[:-1])
    _add_prompts(folder / "config_sentence_transformers.json")
    check_modules(folder, any_class=model.trust_remote_code, in_memory=True)


def added_router(folder: Path) -> str | None:
    """What was added to a base model's modules where a model with an adapter lies; None of a base model alone."""
    if not is_saved_model(folder):
        return None
    entries = read_modules(folder)
    return entries[-1]["path"] if router_of(folder, entries) is not None and len(entries) > 1 else None


def write_stock(folder: Path, model: SentenceTransformer, reason: str) -> None:
    """Let Sentence Transformers write the model as it is in memory, in place of what is in the folder.

    Of a base model's files its card stays, which says under which license the model may be used.
    """
    warnings.warn(
        f"{reason}. So the base model is not copied from its files, but written by Sentence Transformers as it is in "
        "memory; releases before 5.4 may not open it.",
        stacklevel=4,
    )
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "README.md":
            path.unlink()
    with without_progress_bars():
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    _add_prompts(folder / "config_sentence_transformers.json")


def _add_prompts(config_file: Path) -> None:
    """Name the prompts "query" and "document", empty, where the base has none: some servers only accept named ones."""
    config = read_object(config_file) if config_file.is_file() else {}
    prompts = config.get("prompts") or {}
    named = {**prompts, "query": "", "document": ""}
    # A base with a "passage" prompt alone is left as it is: an empty "document" would be preferred to it.
    if not any(prompts.values()) and named != prompts:
        write_json(config_file, {**config, "prompts": named})


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without the bars of Transformers, one for each of several loads and saves."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
