"""A saved model's folder: what lies in it, its layouts, and opening it once everything in it has been checked."""

from __future__ import annotations

import itertools
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize
from sentence_transformers.sentence_transformer.modules import Dropout

from st_adapter import __version__
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import prompt_for
from st_adapter.errors import InputError, without_secrets
from st_adapter.saving.card import Layout, TrainingRecord, base_metadata, model_card
from st_adapter.saving.declared_sizes import TRANSFORMERS, check_module, check_transformer
from st_adapter.saving.model_files import BOOKKEEPING, DAMAGED, TOKENIZER_FILES, inside, model_files, read_modules
from st_adapter.saving.onnx_export import BASE_FILE, DOCUMENT_FILE, QUERY_FILE
from st_adapter.storage.adapters import ADAPTER_FOLDER, WEIGHTS_FILE
from st_adapter.storage.hub import download
from st_adapter.storage.paths import MAX_FILES, file_sha256, file_within, is_pickle, names_in
from st_adapter.storage.reading import checked, read_json, read_object
from st_adapter.storage.tensors import check_finite, read_weights, tensor_infos
from st_adapter.storage.writing import write_json, write_text

CONFIG_FILE_NAME = "st_adapter_config.json"

# Class paths that every release since 5.0 resolves; the ones that release 6 writes are unknown before 5.4.
_LEGACY_MODULE = "sentence_transformers.models"
_ROUTE_MODULES = ("Dense", "Normalize", "Dropout")
# Where release 6 names the length at which a Transformer cuts texts, and releases before it look for it.
_TRANSFORMER_CONFIG = "sentence_bert_config.json"
_POOLING_FLAGS = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
# What releases before 5.4 know of each module's configuration; a new key that only says the usual may go.
_LEGACY_KEYS = {
    "Transformer": ("max_seq_length", "do_lower_case"),
    "Pooling": ("word_embedding_dimension", "include_prompt", *(f"pooling_mode_{f}" for f in _POOLING_FLAGS.values())),
    "Dense": ("in_features", "out_features", "bias", "activation_function"),
    "LayerNorm": ("dimension",),
    "Dropout": ("dropout",),
    "Normalize": (),
}
_USUAL = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_input_name": "sentence_embedding",
    "use_residual": False,
}
_ACTIVATIONS = "torch.nn."
# Texts that people edit on the Hub, and what no reader of the model opens.
_UNVERIFIED = ("README.md", ".gitattributes", CONFIG_FILE_NAME)
# What the libraries look for by themselves, such as the adapters of PEFT.
_LOADED = (".json", ".safetensors", ".bin", ".py", ".jinja")
# Formats that the torch backend does not read.
_OTHER_BACKENDS = ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class SavedModel:
    """What ``st_adapter_config.json`` says of a folder.

    Attributes:
        layout: see ``Layout``.
        base_model: the base model.
        has_adapter: False if no adapter helped and the base was saved alone.
        training: how the adapter came about, if recorded.
        files: path -> SHA-256 of every file whose change would change the model.
    """

    layout: Layout
    base_model: EncoderIdentity
    has_adapter: bool
    training: TrainingRecord | None
    files: dict[str, str]


# --- writing ---


def write_config(
    folder: Path,
    layout: Layout,
    base_model: EncoderIdentity,
    adapter: QueryAdapter | None,
    training: TrainingRecord | None,
) -> None:
    """Write ``st_adapter_config.json``, last of all files, because it holds the hashes of the others."""
    write_json(
        folder / CONFIG_FILE_NAME,
        {
            "st_adapter_version": __version__,
            "layout": layout,
            "base_model": base_model.to_dict(),
            "has_adapter": adapter is not None,
            "training": None if training is None else training.to_dict(),
            "files": _hashes(folder),
        },
    )


def add_router(folder: Path, query_modules: Sequence[Module]) -> None:
    """Add a Router to a base model's folder: the modules for queries, nothing for documents, which are the default."""
    entries = read_modules(folder)
    index, place = _next_place(folder, entries, "Router")
    router = folder / place
    router.mkdir()
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {"query": [], "document": []}
    # Dropout(0.0) and not an empty route: with [], Router.tokenizer and .max_seq_length raise IndexError.
    for route, modules in (("query", query_modules), ("document", [Dropout(0.0)])):
        for position, module in enumerate(modules):
            name = f"{route}_{position}_{type(module).__name__}"
            types[name] = f"{_LEGACY_MODULE}.{type(module).__name__}"
            structure[route].append(name)
            _write_module(module, router / name)
    # No other parameters: releases before 5.4 hand them all to the constructor.
    parameters = {"default_route": "document", "allow_empty_key": True}
    write_json(router / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    entries.append({"idx": index, "name": str(index), "path": place, "type": f"{_LEGACY_MODULE}.Router"})
    write_json(folder / "modules.json", entries)


def to_layout(folder: Path, layout: Layout) -> None:
    """Turn a folder of the layout ``document`` into another one, in place; its hashes have to be written after it.

    Raises:
        ValueError: the base model's own modules read ``task``, which plain ``encode`` does not pass.
    """
    router = _router_of(folder, read_modules(folder))
    if layout == "document" or router is None:
        return
    if reads_task(folder):
        raise task_error(layout)
    if layout == "query":
        config = read_object(router / "router_config.json")
        config["parameters"]["default_route"] = "query"
        write_json(router / "router_config.json", config)
    else:
        _unwrap_router(folder, router)
    file = folder / "config_sentence_transformers.json"
    config = read_object(file)
    default = config.get("default_prompt_name")
    # As Sentence Transformers completes them.
    prompts = {"query": "", "document": "", **(config.get("prompts") or {})}
    query_prompt = prompt_for("query", prompts, default)
    if query_prompt or prompts.get(default or ""):
        # Plain encode() has to put the query prompt first, and encode_document() its own one as before.
        write_json(file, {**config, "prompts": {**prompts, "query": query_prompt}, "default_prompt_name": "query"})


def copy_as(source: Path, target: Path, layout: Layout, title: str) -> Path:
    """Copy a saved model of the layout ``document``, and give the copy another layout and a card with that title.

    Copied are the files that the model was saved with and is made of; see ``left_out``.
    """
    saved = read_saved(source)
    for name in _published(source, saved):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        # Contents only: read-only files of a cache must not make a read-only repository.
        shutil.copyfile(file_within(source, source / name), target / name)
    to_layout(target, layout)
    config = read_object(source / CONFIG_FILE_NAME)
    write_json(target / CONFIG_FILE_NAME, {**config, "layout": layout, "files": _hashes(target)})
    if config["has_adapter"]:
        write_text(target / "README.md", card_of(target, title))
    return target


def left_out(folder: Path, saved: SavedModel) -> list[str]:
    """What lies in a saved model's folder and is not published with it: it was added later, or is no part of a model.

    Releases before 0.2 saved everything that lay beside the base model's files.
    """
    published = {*_published(folder, saved), CONFIG_FILE_NAME, ".gitattributes"}
    return [name for name in names_in(folder, ignored=BOOKKEEPING) if name not in published]


def _published(folder: Path, saved: SavedModel) -> list[str]:
    parts = set(model_files(folder, custom_code=True))
    parts |= {f"{ADAPTER_FOLDER}/{name}" for name in (QueryAdapter.config_file_name, WEIGHTS_FILE)}
    names = [name for name in saved.files if name in parts and (folder / name).is_file()]
    return [*names, *(["README.md"] if (folder / "README.md").is_file() else [])]


def card_of(folder: Path, title: str) -> str:
    """The model card of a saved model, under the name that it goes by elsewhere."""
    saved = read_saved(folder)
    return model_card(
        title,
        saved.base_model,
        layout=saved.layout,
        on_hub="/" in saved.base_model.name,
        inherited=base_metadata(folder),
        training=saved.training,
        **needs(folder),
    )


def needs(folder: Path) -> dict[str, Any]:
    """What a card says of a saved model's files: whether code comes with them, and which ONNX files there are."""
    onnx_files = [name for name in (BASE_FILE, DOCUMENT_FILE, QUERY_FILE) if (folder / "onnx" / name).is_file()]
    return {"remote_code": needs_remote_code(folder), "onnx_files": onnx_files}


def task_error(layout: Layout) -> ValueError:
    """Why a base model whose own modules tell queries from documents has no layout in which plain encode is adapted."""
    return ValueError(
        f"The layout {layout!r} was asked for, in which plain encode() embeds queries, but modules of the base model "
        "itself read `task`, which plain encode() does not pass to them: queries would be embedded as the base model "
        "embeds texts of no task. Save with layout='document', and call encode_query()."
    )


def reads_task(folder: Path) -> bool:
    """Whether modules of a base model are passed ``task``, so that queries and documents differ before any adapter."""
    return any("task" in (entry.get("kwargs") or []) for entry in read_modules(folder))


def needs_remote_code(folder: Path) -> bool:
    """Whether a model opens with ``trust_remote_code=True`` only."""
    entries = read_modules(folder)
    if any(not entry["type"].startswith("sentence_transformers.") for entry in entries):
        return True
    configs = [folder / entry["path"] / "config.json" for entry in entries]
    return any(config.is_file() and "auto_map" in read_object(config) for config in configs)


def write_max_seq_length(folder: Path, max_seq_length: int) -> None:
    """Let a model's Transformer, its first module, cut texts after another number of tokens."""
    file = folder / read_modules(folder)[0]["path"] / _TRANSFORMER_CONFIG
    config = read_object(file) if file.is_file() else {}
    write_json(file, {**config, "max_seq_length": max_seq_length})


def _to_legacy_form(folder: Path) -> None:
    """Write names and configurations of release 6 as releases since 4 read them; a warning where that is impossible."""
    entries = read_modules(folder)
    unknown = []
    for entry in entries:
        kind = entry["type"].rpartition(".")[2]
        place = folder / entry["path"]
        if entry["type"] == f"{_LEGACY_MODULE}.{kind}":
            continue
        if not entry["type"].startswith("sentence_transformers.") or not _legacy_config(kind, place):
            unknown.append(kind)
            continue
        entry["type"] = f"{_LEGACY_MODULE}.{kind}"
    write_json(folder / "modules.json", entries)
    if unknown:
        warnings.warn(
            f"The layout 'twin' is for releases of Sentence Transformers before 5 and servers without a Router, but "
            f"{', '.join(unknown)} of the base model, as release 6 saved it, has no form that they read. It opens in "
            "releases since 5.4.",
            stacklevel=4,
        )


def _legacy_config(kind: str, place: Path) -> bool:
    """Write a module's configuration in the old form; False if there is none, and then nothing is changed."""
    if kind == "StaticEmbedding":
        return True  # it has none in either form
    if kind not in _LEGACY_KEYS:
        return False
    file = place / (_TRANSFORMER_CONFIG if kind == "Transformer" else "config.json")
    config = read_object(file) if file.is_file() else {}
    if kind == "Pooling" and "pooling_mode" in config:
        modes = config.pop("pooling_mode")
        modes = [modes] if isinstance(modes, str) else list(modes)
        if modes != [mode for mode in _POOLING_FLAGS if mode in modes]:
            return False  # the old form has one order of several poolings
        config["word_embedding_dimension"] = config.pop("embedding_dimension", None)
        config |= {f"pooling_mode_{flag}": mode in modes for mode, flag in _POOLING_FLAGS.items()}
    if kind == "Transformer":
        tokenizer = place / "tokenizer_config.json"
        length = read_object(tokenizer).get("model_max_length") if tokenizer.is_file() else None
        config = {"max_seq_length": length, "do_lower_case": False, **config}
    usual = {**_USUAL, "module_output_name": "token_embeddings" if kind == "Transformer" else "sentence_embedding"}
    added = {key: value for key, value in config.items() if key not in _LEGACY_KEYS[kind]}
    if any(key not in usual or usual[key] != value for key, value in added.items()):
        return False
    if kind == "Normalize":
        file.unlink(missing_ok=True)  # releases before 5.4 hand what is in it to a constructor without arguments
    else:
        write_json(file, {key: value for key, value in config.items() if key in _LEGACY_KEYS[kind]})
    return True


def _unwrap_router(folder: Path, router: Path) -> None:
    """Put the modules of the query route where the Router was."""
    config = read_object(router / "router_config.json")
    entries = read_modules(folder)[:-1]
    write_json(folder / "modules.json", entries)
    for name in config["structure"]["query"]:
        kind = config["types"][name].rpartition(".")[2]
        index, place = _next_place(folder, entries, kind)
        if (router / name).is_dir():
            (router / name).rename(folder / place)
        entries.append({"idx": index, "name": str(index), "path": place, "type": f"{_LEGACY_MODULE}.{kind}"})
    shutil.rmtree(router)
    write_json(folder / "modules.json", entries)
    _to_legacy_form(folder)


def _next_place(folder: Path, entries: Sequence[Mapping[str, Any]], kind: str) -> tuple[int, str]:
    names = {entry["name"] for entry in entries}
    index = next(
        index
        for index in itertools.count(len(entries))
        if str(index) not in names and not (folder / f"{index}_{kind}").exists()
    )
    return index, f"{index}_{kind}"


def _write_module(module: Module, folder: Path) -> None:
    if isinstance(module, Normalize):
        return  # it has neither weights nor, before 5.4, a configuration
    folder.mkdir()
    if isinstance(module, Dense):
        activation = type(module.activation_function)
        config = {
            "in_features": module.in_features,
            "out_features": module.out_features,
            "bias": module.bias,
            "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        }
    else:
        config = {"dropout": module.dropout}
    write_json(folder / "config.json", config)
    if isinstance(module, Dense):
        module.save_torch_weights(str(folder))
        # safetensors makes files for the owner's eyes only; a repository is read by whoever may read its configuration.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


# --- checking ---


def is_saved_model(folder: Path) -> bool:
    """Whether a folder was written here."""
    try:
        return "st_adapter_version" in read_object(folder / CONFIG_FILE_NAME)
    except ValueError:
        return False


def read_saved(folder: Path) -> SavedModel:
    """Read ``st_adapter_config.json``.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = file_within(folder, folder / CONFIG_FILE_NAME) if folder.is_dir() else folder / CONFIG_FILE_NAME
    content = read_object(path)
    path = folder / CONFIG_FILE_NAME
    files = content.get("files")
    if content.get("layout") not in ("document", "query", "twin") or not isinstance(content.get("has_adapter"), bool):
        raise ValueError(f"{path} does not say which layout the folder has, or whether it has an adapter. {DAMAGED}")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError(f"{path} has no list of files with their hashes. {DAMAGED}")
    if len(files) > MAX_FILES:
        raise ValueError(f"{path} lists {len(files):,} files, but a model has a few dozen. Do not open it.")
    try:
        base_model = EncoderIdentity.from_dict(content.get("base_model"))
        record = checked(content.get("training"), dict[str, Any] | None, "training")
        if record is not None and _is_newer(content.get("st_adapter_version")):
            record = _known_fields(record, path)
        training = None if record is None else TrainingRecord.from_dict(record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return SavedModel(content["layout"], base_model, content["has_adapter"], training, files)


def _is_newer(version: object) -> bool:
    """Whether a folder was written by a later release than this one."""
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,6}(\.\d{1,6}){1,3}", version):
        return False
    return _release(version) > _release(__version__)


def _release(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _known_fields(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A later release may record more, which changes nothing of the model."""
    known = {each.name for each in fields(TrainingRecord)}
    unknown = sorted(set(record) - known)
    if unknown:
        warnings.warn(
            f"{path} was written by a newer st-adapter, and what it records as {', '.join(map(repr, unknown[:3]))} is "
            "not shown.",
            stacklevel=4,
        )
    return {name: value for name, value in record.items() if name in known}


def check_repository(folder: Path, *, any_class: bool = False) -> SavedModel:
    """Check everything in a saved model's folder that opening it relies on, without running or allocating any of it.

    Every file is the one that was saved, by its hash; no path leads out of the folder; every module is one of Sentence
    Transformers'; weights are safetensors of the announced shapes, in floating point, and those of the adapter finite.

    Args:
        folder: the folder.
        any_class: accept classes of others, of a base model whose code the caller trusts; see ``check_modules``.

    Raises:
        ValueError: the first thing that is not so.
    """
    saved = read_saved(folder)
    check_files(folder, saved)
    check_modules(folder, any_class=any_class)
    if saved.has_adapter:
        QueryAdapter.from_pretrained(folder)
    return saved


def check_files(folder: Path, saved: SavedModel) -> None:
    """Check that the files of a saved model are those that were saved, and that nothing was added that is loaded.

    Raises:
        ValueError: the first file that is missing, another one, or too much.
    """
    for name, digest in saved.files.items():
        path = inside(folder, name, folder / CONFIG_FILE_NAME)
        if not path.exists() and not path.is_symlink():
            if _is_other(name):
                continue
            raise ValueError(f"{folder} has no {name}, but it was saved with one. Copy or download the folder again.")
        if file_sha256(file_within(folder, path)) != digest:
            raise ValueError(f"{path} is not the file that was saved: its hash is another one. {DAMAGED}")
        if path.suffix == ".json":
            read_json(path)  # larger or deeper than anything that was saved here, it would burden the libraries
    names = set(names_in(folder, ignored=BOOKKEEPING)) - set(saved.files) - set(_UNVERIFIED)
    added = [name for name in names if _is_loaded(folder, name) and not _is_other(name)]
    if added:
        raise ValueError(
            f"{folder} has {sorted(added)[:3]}, which it was not saved with and which the libraries may load. "
            "Take it away, or copy or download the folder again."
        )


def _is_loaded(folder: Path, name: str) -> bool:
    """Whether the libraries may open a file; a link to a folder may hold anything."""
    path = PurePosixPath(name)
    return path.suffix in _LOADED or path.name in TOKENIZER_FILES or (folder / name).is_dir()


def check_modules(folder: Path, *, any_class: bool = False, in_memory: bool = False) -> None:
    """Check the modules that a Sentence Transformers folder is made of; see ``check_repository``.

    Args:
        folder: the folder.
        any_class: accept classes of others, for a base model that was opened with ``trust_remote_code``.
        in_memory: the model has been built already, so what it declares does no more harm.
    """
    for entry in read_modules(folder):
        place = inside(folder, entry["path"], folder / "modules.json")
        foreign = any_class and not entry["type"].startswith("sentence_transformers.")
        kind = "" if foreign else _module_class(entry["type"], folder / "modules.json")
        if kind in ("Router", "Asym"):  # two names of the same class
            _check_router(place)
        elif kind == "Dense":
            _check_dense(place)
        else:
            _check_weight_files(place)
        if kind and not in_memory:
            check_transformer(place) if kind in TRANSFORMERS else check_module(place, kind)


def _check_router(router: Path) -> None:
    path = router / "router_config.json"
    config = read_object(path)
    types: Any = config.get("types")
    structure: Any = config.get("structure")
    parameters: Any = config.get("parameters")
    good = (
        isinstance(types, dict)
        and isinstance(structure, dict)
        and isinstance(parameters, dict)
        and set(structure) == {"query", "document"}
        and set(parameters) == {"default_route", "allow_empty_key"}
        and parameters["default_route"] in list(structure)
        and all(
            isinstance(names, list) and names and set(map(str, names)) <= set(types) for names in structure.values()
        )
    )
    if not good:
        raise ValueError(
            f"{path} does not describe a route for queries and one for documents, with their modules. {DAMAGED}"
        )
    documents = {name: _module_class(types[name], path) for name in structure["document"]}
    if set(documents.values()) != {"Dropout"}:
        raise ValueError(f"{path} has the document route {documents}, but documents are to be left as they are.")
    for name, type_ in types.items():
        place = inside(router, name, path)
        kind = _module_class(type_, path)
        if kind not in _ROUTE_MODULES:
            raise ValueError(f"{path} names the class {kind!r}, but only {', '.join(_ROUTE_MODULES)} are expected.")
        if kind == "Dense":
            _check_dense(place)
        elif kind == "Dropout" and read_object(place / "config.json") != {"dropout": 0.0}:
            raise ValueError(
                f"{place / 'config.json'} is not that of a Dropout of 0, which leaves documents as they are."
            )


def _check_dense(folder: Path) -> None:
    path = folder / "config.json"
    config = read_object(path)
    sizes: tuple[Any, Any] = config.get("out_features"), config.get("in_features")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")  # the library's default
    if not all(isinstance(size, int) and size > 0 for size in sizes) or not isinstance(config.get("bias", True), bool):
        raise ValueError(f"{path} does not give the sizes of a Dense module as whole numbers above 0. {DAMAGED}")
    if not isinstance(activation, str) or not activation.startswith(_ACTIVATIONS):
        raise ValueError(
            f"{path} names the activation {str(activation)[:200]!r}, but one of {_ACTIVATIONS}* is expected: no other "
            "code is run."
        )
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": sizes}
    if config.get("bias", True):
        shapes["linear.bias"] = sizes[:1]
    if config.get("use_residual") and sizes[0] != sizes[1]:
        shapes["residual.weight"] = sizes
    read_weights(folder / "model.safetensors", shapes)


def _check_weight_files(folder: Path) -> None:
    """Headers of whatever safetensors files a module has, and the index of those that are cut into several."""
    index = folder / "model.safetensors.index.json"
    files = set(folder.glob("*.safetensors"))
    if index.is_file():
        weight_map = read_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError(f"{index} does not say which weights lie in which file. {DAMAGED}")
        files |= {inside(folder, name, index) for name in weight_map.values()}
    elif not (folder / "model.safetensors").is_file() and any(map(is_pickle, folder.glob("*.bin"))):
        raise ValueError(
            f"{folder} has weights as a pickle (.bin) only, and weights are read from safetensors files and nothing "
            "else. Save the model anew with safe_serialization=True."
        )
    for path in sorted(files):
        tensor_infos(path)


def _module_class(type_: object, source: Path) -> str:
    if not isinstance(type_, str) or not type_.startswith("sentence_transformers."):
        raise InputError(
            f"{source} names the class {str(type_)[:200]!r}, but only classes of sentence_transformers are expected: "
            "no other code runs.",
            python="If you trust it, open it with SentenceTransformer(..., trust_remote_code=True).",
            flags="If you trust it, add --trust-remote-code.",
        )
    return type_.rpartition(".")[2]


def _router_of(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Path | None:
    last = entries[-1]
    return folder / last["path"] if last["type"].rpartition(".")[2] == "Router" else None


def _is_other(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in _OTHER_BACKENDS)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that shape a saved model."""
    names = [name for name in names_in(folder, ignored=BOOKKEEPING) if name not in _UNVERIFIED]
    return {name: file_sha256(file_within(folder, folder / name)) for name in names}


# --- opening ---


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
        ignore_patterns=None if other_backends else _OTHER_BACKENDS,
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
        ValueError: there is no such model, or it is not as it was saved; see ``check_repository``.
    """
    folder = locate(
        name_or_path,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        other_backends=kwargs.get("backend", "torch") != "torch",
    )
    check_repository(folder, any_class=kwargs.get("trust_remote_code") is True)
    _check_backend(kwargs)
    try:
        model = SentenceTransformer(
            str(folder), device=None if device is None else str(device), local_files_only=True, **kwargs
        )
        embeddings = [
            encode(CHECK_TEXTS, convert_to_tensor=True, show_progress_bar=False)
            for encode in (model.encode_query, model.encode_document)
        ]
    except Exception as error:  # what the files of a model make the libraries raise is beyond any list
        reason = without_secrets(" ".join(str(error).split()), (token if isinstance(token, str) else None,))[:500]
        raise ValueError(
            f"Sentence Transformers cannot open {name_or_path} ({type(error).__name__}: {reason}). Its files are as "
            "they were saved, so they were damaged before, or this release cannot read them."
        ) from error
    for name, vectors in zip(("query", "document"), embeddings, strict=True):
        check_finite(f"The {name} embeddings of {name_or_path}", vectors, "Its weights are damaged: save it again.")
    return model


def _check_backend(arguments: Mapping[str, Any]) -> None:
    name = PurePosixPath(str((arguments.get("model_kwargs") or {}).get("file_name", ""))).name
    if name in (QUERY_FILE, DOCUMENT_FILE):
        raise ValueError(
            f"model_kwargs name the file {name}, whose vectors are finished: Sentence Transformers would put pooling "
            f"and adapter on them once more. Leave file_name out, so that {BASE_FILE} is opened; {name} is for "
            "transformers.js, fastembed and Vespa."
        )


def saved_training(name_or_path: str, revision: str | None = None) -> TrainingRecord | None:
    """How the adapter of a saved model came about, of a folder or Hub id; None if that is not recorded."""
    try:
        folder = locate(name_or_path, revision=revision, only_config=True)
    except (ValueError, OSError):
        return None
    return read_saved(folder).training if (folder / CONFIG_FILE_NAME).is_file() else None
