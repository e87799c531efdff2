"""Write an adapted model as an ordinary Sentence Transformers repository, to a folder or to the Hub."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from huggingface_hub.errors import IncompleteSnapshotError
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers.utils import logging as transformers_logging

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.long_texts import token_limit
from st_adapter.embeddings.origin import Origin, origin_of
from st_adapter.embeddings.probe_texts import CHECK_TEXTS, fixed_texts
from st_adapter.embeddings.roles import Role, embed_texts, prompt_of
from st_adapter.saving.attach import check_base_model, detach, query_modules
from st_adapter.saving.card import Layout, TrainingRecord, base_metadata, model_card
from st_adapter.saving.model_files import model_files, names_read_by
from st_adapter.saving.onnx_export import export_onnx
from st_adapter.saving.repository import (
    CONFIG_FILE_NAME,
    add_router,
    check_files,
    check_modules,
    copy_as,
    is_saved_model,
    left_out,
    needs,
    read_saved,
    reads_task,
    task_error,
    to_layout,
    write_config,
    write_max_seq_length,
)
from st_adapter.storage.adapters import ADAPTER_FOLDER
from st_adapter.storage.hub import MAIN, branches_of, download
from st_adapter.storage.paths import file_within, is_pickle
from st_adapter.storage.reading import read_object
from st_adapter.storage.uploading import Upload, check_repository_free, upload
from st_adapter.storage.writing import folder_written_whole, write_json, write_text

QUERY_BRANCH, TWIN_BRANCH = "query", "twin"

# Files of earlier versions of a repository that a new one may not have any more.
_OWNED = ("*_Router/*", "*_Dense/*", f"{ADAPTER_FOLDER}/*", "onnx/model_document.onnx", "onnx/model_query.onnx")
_PICKLED_WEIGHTS = "pytorch_model"
_QUERY_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Settings of a model in memory that its configuration file can carry without touching anything else.
_SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_METHODS = ("encode_query", "encode_document", "encode")


def save_pretrained(
    adapter: QueryAdapter | None,
    model: SentenceTransformer,
    output_dir: str | Path,
    *,
    layout: Layout = "document",
    onnx: bool = False,
    base_model: str | Path | None = None,
    training: TrainingRecord | None = None,
    allow_other_base: bool = False,
    title: str | None = None,
    check_texts: Mapping[Role, Sequence[str]] | None = None,
) -> Path:
    """Write a Sentence Transformers repository that plain ``SentenceTransformer(output_dir)`` opens.

    It holds the base model's own files byte for byte plus one ``Router`` folder of stock modules, so neither this
    package nor ``trust_remote_code`` is needed to open it. Changed are only ``modules.json`` (one entry more),
    ``config_sentence_transformers.json`` (empty prompts, when the base has none, and settings changed in memory) and
    ``README.md`` (a new model card). Pickles are never written: weights that the base has only as ``.bin`` become
    safetensors, all other pickles are left out. Added are ``adapter/`` (the adapter by itself) and
    ``st_adapter_config.json``, by which a folder is recognised as written here and every file is known by its hash.

    A base model that exists only in memory, or was changed there, is written by Sentence Transformers itself, with a
    warning: releases before 5.4 may not open that.

    Everything is written to a temporary folder beside ``output_dir``, opened once and compared with ``model`` and
    ``adapter``, and only then put in place: weights, settings, tokenizer and code by their hash, and the vectors of
    some texts, documents bit by bit. An earlier result in ``output_dir`` survives any failure.

    Args:
        adapter: The trained adapter, or None to save the base model alone, for when no adapter helps.
        model: The base model in memory, without the adapter.
        output_dir: A new or empty folder, or one written here before, which is replaced as a whole.
        layout: What plain ``encode`` gives. ``document``: what the base model gives, for everyday use. ``query``:
            adapted queries, for software with a separate query embedder that only calls plain ``encode``. ``twin``:
            the same without a Router, for releases before 5 and for servers that do not know one.
        onnx: Add ``onnx/model.onnx`` for documents and ``onnx/model_query.onnx`` for queries; see ``export_onnx``.
        base_model: Where the files of ``model`` are: a local folder or a Hub id. By default where Sentence
            Transformers loaded it from.
        training: How the adapter came about and what it does, for the model card.
        allow_other_base: As in ``attach``.
        title: What the model card calls the model; the folder's name if None.
        check_texts: ``query`` and ``document`` -> texts of the data, such as ``sample_of_texts`` picks, to compare
            the saved model with ``model`` on, besides a few fixed ones.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: the adapter does not fit the model (see ``attach``); a ``layout`` for plain ``encode`` was asked for
            and the base model reads ``task``; the files named by ``base_model`` are not those
            of the model in memory; ``output_dir`` holds something else.
        OSError: the folder cannot be written, for instance because the disk is full.
    """
    target = Path(output_dir).resolve()
    check_target(target, model, base_model)
    described = check_base_model(model, adapter, allow_other_base=allow_other_base)
    if layout != "document" and _tells_queries_from_texts(model):
        raise task_error(layout)
    source = _find_base_files(model, base_model)
    compared = _Compared.of(model, described, check_texts or {})
    if source.folder is not None:
        described = replace(described, name=source.name, revision=source.revision)

    with folder_written_whole(target) as folder:
        inherited: dict[str, Any] = {}
        if source.folder is not None:
            inherited = _copy_base(folder, model, source.folder)
            problem = _add_adapter(folder, compared, adapter)
            if problem is not None:
                if base_model is not None:
                    raise ValueError(
                        f"{problem}: the base model's files are not those of the model in memory. Load the model from "
                        "its files as they are, or leave base_model out."
                    )
                gc.collect()  # models opened to compare map their weights, and Windows deletes no mapped file
                _empty(folder)
                source = source._replace(folder=None, missing=problem)
        if source.folder is None:
            _write_stock(folder, model, source.missing)
            problem = _add_adapter(folder, compared, adapter)
            if problem is not None:
                raise ValueError(
                    f"{problem}, also after Sentence Transformers has written it: what was changed in memory is not "
                    "among what a repository can hold, such as a hook or code of another class. Undo that change, or "
                    "save the base model so that opening it gives these vectors, and train the adapter on that."
                )
        if adapter is not None:
            if layout != "document":
                to_layout(folder, layout)
                _check_layout(_open(folder, model), compared, adapter, layout)
            if onnx:
                export_onnx(_open(folder, model), folder)
            (folder / ADAPTER_FOLDER).mkdir()
            bound = copy.deepcopy(adapter)
            bound.base_model = described
            bound.save(str(folder / ADAPTER_FOLDER))
            card = model_card(
                title or target.name,
                described,
                layout=layout,
                on_hub=source.on_hub,
                inherited=inherited,
                training=training,
                **needs(folder),
            )
            write_text(folder / "README.md", card)
        write_config(folder, layout, described, adapter, training)
        gc.collect()  # the same for renaming a folder with mapped files in it
    return target


def push_to_hub(
    adapter: QueryAdapter | None,
    model: SentenceTransformer,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Add model with query adapter",
    twin: bool = False,
    onnx: bool = False,
    base_model: str | Path | None = None,
    training: TrainingRecord | None = None,
    overwrite: bool = False,
    check_texts: Mapping[Role, Sequence[str]] | None = None,
) -> str:
    """Save base model and adapter as ``save_pretrained`` does, and upload the folder; see ``push_folder``.

    Args:
        adapter: the trained adapter, or None for the base model alone.
        model: base model.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
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
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(
            adapter,
            model,
            Path(folder) / "model",
            onnx=onnx,
            base_model=base_model,
            training=training,
            title=repo_id,
            check_texts=check_texts,
        )
        return push_folder(
            saved,
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            twin=twin,
            overwrite=overwrite,
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

    The branch ``main`` gets the folder, the branch ``query`` the same model in the layout ``query``. ``main`` comes
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
    """
    folder = Path(folder)
    saved = read_saved(folder)
    check_files(folder, saved)  # what is damaged here must not get a hash of its own on the Hub
    if saved.layout != "document":
        raise ValueError(
            f"{folder} has the layout {saved.layout!r}, but 'document' is expected. Push the model itself."
        )
    unpublished = left_out(folder, saved)
    if unpublished:
        warnings.warn(
            f"{len(unpublished)} files in {folder} are not part of the model and are not uploaded, the first: "
            f"{', '.join(unpublished[:3])}.",
            stacklevel=2,
        )
    with tempfile.TemporaryDirectory() as temporary:
        layouts: dict[str, Layout] = {MAIN: "document"}
        if saved.has_adapter and reads_task(folder):
            warnings.warn(
                f"No branch {QUERY_BRANCH!r} is made: the base model itself reads `task`, which plain encode() does "
                "not pass. Call encode_query().",
                stacklevel=2,
            )
        else:
            # Of the base alone both are what main is, once an earlier adapter has made them.
            aside: dict[str, Layout] = {QUERY_BRANCH: "query", TWIN_BRANCH: "twin"}
            if not saved.has_adapter:
                aside = dict.fromkeys(aside, "document")
            present = branches_of(repo_id, token)
            wanted = {QUERY_BRANCH} if saved.has_adapter else set()
            wanted |= {TWIN_BRANCH} if twin and saved.has_adapter else set()
            layouts |= {branch: layout for branch, layout in aside.items() if branch in wanted | present}
        branches = {
            branch: copy_as(folder, Path(temporary) / branch, layout, repo_id) for branch, layout in layouts.items()
        }
        settings: dict[str, Any] = {"private": private, "token": token, "commit_message": commit_message}
        url = upload(_upload_of(branches), repo_id, overwrite=overwrite, **settings)
        if saved.has_adapter and TWIN_BRANCH in branches_of(repo_id, token) - set(layouts):
            # Somebody else has made one meanwhile, of another adapter.
            late = {**branches, TWIN_BRANCH: copy_as(folder, Path(temporary) / TWIN_BRANCH, "twin", repo_id)}
            url = upload(_upload_of(late), repo_id, **settings)
        return url


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


# --- the target ---


def check_target(target: Path, model: SentenceTransformer, base_model: str | Path | None = None) -> None:
    """Check that a model may be saved to a folder: new, empty, or written here, and apart from the base model's.

    Raises:
        ValueError: it may not.
    """
    source = origin_of(model, base_model).path
    if source and Path(source).is_dir():
        _check_apart(target.resolve(), Path(source).resolve())
    if target.is_dir():
        if any(target.iterdir()) and not is_saved_model(target):
            raise ValueError(
                f"output_dir {target} exists, is not empty and has no {CONFIG_FILE_NAME}, but a new folder or one "
                "written by st-adapter is expected. Choose another output_dir, or delete this one yourself."
            )
    elif target.exists():
        raise ValueError(f"output_dir {target} is a file, but a folder is expected. Choose another output_dir.")


def _check_apart(target: Path, source: Path) -> None:
    if target == source or target in source.parents or source in target.parents:
        raise ValueError(
            f"output_dir {target} and the base model's folder {source} lie within each other, "
            "but saving expects two separate folders. Choose another output_dir."
        )


# --- the base model's files ---


class _BaseFiles(NamedTuple):
    folder: Path | None  # None if the model exists only in memory
    name: str  # a Hub id, or the name of a local folder: never a path, which would tell about the machine
    revision: str | None
    on_hub: bool
    missing: str = ""  # why the files cannot be taken


def _find_base_files(model: SentenceTransformer, base_model: str | Path | None) -> _BaseFiles:
    """Where the files of a model in memory are: given, or what the transformer inside says it was loaded from."""
    origin = origin_of(model, base_model)
    if not origin.path:
        return _BaseFiles(None, "", None, on_hub=False, missing="The base model does not say where it was loaded from")
    if origin.hub_id is None and not Path(origin.path).is_dir():
        if base_model is not None:
            raise ValueError(
                f"There is no folder {origin.path}. Pass base_model=<the folder or Hub id of the base model>."
            )
        missing = "The folder that the base model was loaded from is not there any more"
        return _BaseFiles(None, Path(origin.path).name, None, on_hub=False, missing=missing)
    if Path(origin.path).is_dir():
        folder, on_hub = Path(origin.path).resolve(), origin.hub_id is not None
        name, revision = origin.hub_id or folder.name, origin.revision
    else:
        try:
            folder, on_hub = _download(origin), True
        except (ValueError, ConnectionError) as error:
            if base_model is None:
                missing = f"The files that the base model was loaded from cannot be read any more ({error})"
                return _BaseFiles(None, Path(origin.path).name, None, on_hub=False, missing=missing)
            raise ValueError(
                f"The base model's files were looked for at {origin.path!r}, which is neither a folder nor a Hub "
                f"repository that can be read now ({error}). "
                "Pass base_model=<the folder or Hub id the model was loaded from>."
            ) from error
        # The cache names a snapshot after its commit; a branch or tag may mean another one tomorrow.
        name, revision = str(origin.hub_id), folder.name
    if not (folder / "modules.json").is_file():
        reason = f"{name} is no Sentence Transformers repository: it has no modules.json"
        return _BaseFiles(None, name, revision, on_hub, reason)
    return _BaseFiles(folder, name, revision, on_hub)


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


def _copy_base(folder: Path, model: SentenceTransformer, source: Path) -> dict[str, Any]:
    """Copy the base model's files into an empty folder; gives what the new model card takes over from the base's."""
    names = model_files(source, custom_code=bool(model.trust_remote_code), named=names_read_by(model))
    _copy_files(source, folder, names)
    _add_prompts(folder / "config_sentence_transformers.json")
    check_modules(folder, any_class=model.trust_remote_code, in_memory=True)
    return base_metadata(folder)


def _write_stock(folder: Path, model: SentenceTransformer, reason: str) -> None:
    """Let Sentence Transformers write the model as it is in memory."""
    warnings.warn(
        f"{reason}. So the base model is not copied from its files, but written by Sentence Transformers as it is in "
        "memory; releases before 5.4 may not open it.",
        stacklevel=3,
    )
    with _quiet():
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    _add_prompts(folder / "config_sentence_transformers.json")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copy_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy files of a folder byte for byte, but for pickles: weights that are nothing else become safetensors."""
    for name in names:
        path, copy_ = source / name, target / name
        file = file_within(source, path)
        copy_.parent.mkdir(parents=True, exist_ok=True)
        if path.name == f"{_PICKLED_WEIGHTS}.bin.index.json":
            if not any(path.parent.glob("*.safetensors")):
                index = read_object(file)
                renamed = {weight: _as_safetensors(str(part)) for weight, part in index["weight_map"].items()}
                write_json(copy_.with_name("model.safetensors.index.json"), {**index, "weight_map": renamed})
        elif is_pickle(path):
            if path.name.startswith(_PICKLED_WEIGHTS) and not any(path.parent.glob("*.safetensors")):
                _convert_weights(file, copy_.with_name(_as_safetensors(path.name)))
        else:
            # Contents only: read-only files of a cache must not make a read-only repository. Links are followed.
            shutil.copyfile(file, copy_)


def _as_safetensors(name: str) -> str:
    """``pytorch_model-00001-of-00002.bin`` -> ``model-00001-of-00002.safetensors``."""
    return f"model{name.removeprefix(_PICKLED_WEIGHTS).removesuffix('.bin')}.safetensors"


def _convert_weights(source: Path, target: Path) -> None:
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
        # Cloned, because tensors that share memory cannot be written; which of them do is the model's own business.
        tensors = {name: weight.detach().clone().contiguous() for name, weight in weights.items()}
    except (pickle.UnpicklingError, AttributeError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{source} is a pickle that holds more than weights, or is damaged ({str(error).splitlines()[0]}). It "
            "is not opened. Save the base model with safe_serialization=True, and load it from there."
        ) from error
    save_file(tensors, target, metadata={"format": "pt"})
    target.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _add_prompts(config_file: Path) -> None:
    """Name the prompts "query" and "document", empty, where the base has none: some servers only accept named ones."""
    config = read_object(config_file) if config_file.is_file() else {}
    prompts = config.get("prompts") or {}
    named = {**prompts, "query": "", "document": ""}
    # A base with a "passage" prompt alone is left as it is: an empty "document" would be preferred to it.
    if not any(prompts.values()) and named != prompts:
        write_json(config_file, {**config, "prompts": named})


# --- comparing what was written with what is in memory ---


class _Compared(NamedTuple):
    """The base model in memory and what it makes of the texts that a saved one is compared on."""

    model: SentenceTransformer
    described: EncoderIdentity
    texts: dict[Role, list[str]]
    vectors: dict[str, Tensor]  # encode_query, encode_document, encode -> (T, D)

    @classmethod
    def of(
        cls, model: SentenceTransformer, described: EncoderIdentity, check_texts: Mapping[Role, Sequence[str]]
    ) -> _Compared:
        texts: dict[Role, list[str]] = {
            role: list(dict.fromkeys([*fixed_texts(token_limit(model)), *check_texts.get(role, ())]))
            for role in get_args(Role)
        }
        return cls(model, described, texts, {name: _encode(model, name, texts) for name in _METHODS})


def _add_adapter(folder: Path, compared: _Compared, adapter: QueryAdapter | None) -> str | None:
    """Add the adapter to a base model's folder, open the result, and compare it with what is in memory.

    Settings that the model has in memory only are carried over.

    Returns:
        What the base model in the folder does otherwise than the one in memory; None if nothing.

    Raises:
        ValueError: it is the adapter whose results differ.
    """
    model = compared.model
    if adapter is not None:
        add_router(folder, query_modules(model, adapter))
    saved = _open(folder, model)
    if _carry_over_settings(folder, model, saved):
        saved = _open(folder, model)
    problem = _base_difference(compared, saved, with_queries=adapter is None)
    if problem is None and adapter is not None:
        _check_layout(saved, compared, adapter, "document")
    return problem


def _carry_over_settings(folder: Path, model: SentenceTransformer, saved: SentenceTransformer) -> bool:
    """Write down what was set in memory and a configuration file can carry; whether there was any of it."""
    changed = {name: getattr(model, name) for name in _SETTINGS if getattr(model, name) != getattr(saved, name)}
    if changed:
        file = folder / "config_sentence_transformers.json"
        write_json(file, {**(read_object(file) if file.is_file() else {}), **changed})
    other_length = model.max_seq_length != saved.max_seq_length and isinstance(model[0], Transformer)
    if other_length:
        write_max_seq_length(folder, model.max_seq_length)
    return bool(changed) or other_length


def _base_difference(compared: _Compared, saved: SentenceTransformer, *, with_queries: bool) -> str | None:
    """What the base model in a saved one does otherwise than the one in memory; None if nothing."""
    model = compared.model
    for name in (*_SETTINGS, "max_seq_length"):
        before, after = getattr(model, name), getattr(saved, name)
        if before != after:
            return f"The base model in memory has {name}={before!r}, but its files have {after!r}"
    base, _ = detach(saved)
    for name in ("encode_document", "encode", *(["encode_query"] if with_queries else [])):
        before, after = compared.vectors[name], _encode(saved, name, compared.texts)
        if not torch.equal(before, after):
            return (
                f"{name} of the base model in memory differs from its files by up to {_difference(before, after):.1e}"
            )
    if compared.described.fingerprint is not None and compared.described.fingerprint != model_fingerprint(base):
        return "The base model in memory has other weights, settings, tokenizer or code than its files"
    return None


def _check_layout(saved: SentenceTransformer, compared: _Compared, adapter: QueryAdapter, layout: Layout) -> None:
    """Check that whatever of a saved model embeds queries gives what the adapter makes of the base model's."""
    base = compared.vectors["encode_query"]
    with torch.no_grad():
        queries = adapter.transform(base.to(next(adapter.parameters()).device)).cpu().float()
    tolerance = _QUERY_TOLERANCE.get(compared.model.dtype, _QUERY_TOLERANCE[torch.float32])
    for name in ("encode_query", *(["encode"] if layout != "document" else [])):
        found = _encode(saved, name, {**compared.texts, "document": compared.texts["query"]})
        difference = _difference(queries, found.cpu())
        if not difference <= tolerance * max(1.0, queries.abs().max().item()):
            raise ValueError(
                f"{name} of the saved model differs from the adapter on the base model in memory by up to "
                f"{difference:.1e}, but at most {tolerance:.0e} is expected. The adapter's weights may be too large "
                "to be exact: train it with a lower learning rate or a higher penalty."
            )
    if layout == "query":
        before, after = compared.vectors["encode_document"], _encode(saved, "encode_document", compared.texts)
        if not torch.equal(before, after):
            raise ValueError(
                f"encode_document of the saved model differs from the base model in memory by up to "
                f"{_difference(before, after):.1e}, but the same vectors are expected. Report this."
            )


def _open(folder: Path, model: SentenceTransformer) -> SentenceTransformer:
    config = getattr(model.transformers_model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    # Neither is recorded in the files, so the model in memory may have been loaded with another choice.
    choices = {"dtype": model.dtype, "attn_implementation": attention}
    # Modules draw random weights before they take the saved ones; a training run that saves goes on as if it had not.
    with _quiet(), torch.random.fork_rng(devices=[]):
        return SentenceTransformer(
            str(folder),
            device=str(model.device),
            backend=model.get_backend(),
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            model_kwargs={name: choice for name, choice in choices.items() if choice is not None}
            if config is not None and model.get_backend() == "torch"
            else None,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _tells_queries_from_texts(model: SentenceTransformer) -> bool:
    """Whether a base model embeds a query otherwise than the same text, with the same prompt, by plain ``encode``."""
    plain = model.encode(CHECK_TEXTS, prompt=prompt_of(model, "query"), convert_to_tensor=True, show_progress_bar=False)
    return not torch.equal(embed_texts(model, "query", CHECK_TEXTS), plain)


def _encode(model: SentenceTransformer, name: str, texts: Mapping[Role, Sequence[str]]) -> Tensor:
    """What a method makes of the texts of its role; plain ``encode`` of those of documents."""
    role: Role = "query" if name == "encode_query" else "document"
    if name != "encode":
        return embed_texts(model, role, texts[role])
    embeddings: Tensor = model.encode(list(texts["document"]), convert_to_tensor=True, show_progress_bar=False)
    return embeddings.clone()  # an inference tensor otherwise


def _difference(first: Tensor, second: Tensor) -> float:
    return (first.float() - second.float()).abs().max().item() if first.shape == second.shape else float("inf")
