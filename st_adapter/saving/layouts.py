"""The layouts of a saved model: the Router, and what stands in its place for older software."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sentence_transformers.base.modules import Dense, Module, Normalize

from st_adapter.embeddings.roles import prompt_for
from st_adapter.saving.model_files import read_modules
from st_adapter.storage.reading import read_object
from st_adapter.storage.writing import write_json

Layout = Literal["document", "query", "twin"]
"""What plain ``encode`` gives: documents; queries; or queries from a model without a Router, for older software."""
# Class paths that every release since 5.0 resolves; the ones that release 6 writes are unknown before 5.4.
LEGACY_MODULE = "sentence_transformers.models"
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


def add_router(folder: Path, routes: Mapping[str, Sequence[Module]]) -> None:
    """Add a Router to a base model's folder, with the default for documents.

    Args:
        folder: the base model's.
        routes: route -> modules, as ``route_modules`` gives them; a module of several routes is written once.
    """
    entries = read_modules(folder)
    index, place = _next_place(folder, entries, "Router")
    router = folder / place
    router.mkdir()
    types: dict[str, str] = {}
    written: dict[int, str] = {}
    for route, modules in routes.items():
        for position, module in enumerate(modules):
            if id(module) not in written:
                name = written[id(module)] = f"{route}_{position}_{type(module).__name__}"
                types[name] = f"{LEGACY_MODULE}.{type(module).__name__}"
                write_module(module, router / name)
    structure = {route: [written[id(module)] for module in modules] for route, modules in routes.items()}
    # No other parameters: releases before 5.4 hand them all to the constructor.
    parameters = {"default_route": "document", "allow_empty_key": True}
    write_json(router / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    entries.append({"idx": index, "name": str(index), "path": place, "type": f"{LEGACY_MODULE}.Router"})
    write_json(folder / "modules.json", entries)


def to_layout(folder: Path, layout: Layout) -> None:
    """Turn a folder of the layout ``document`` into another one, in place; its hashes have to be written after it.

    Raises:
        ValueError: the base model's own modules read ``task``, which plain ``encode`` does not pass.
    """
    router = router_of(folder, read_modules(folder))
    if layout == "document" or router is None:
        return
    if reads_task(folder):
        raise task_error(layout)
    router_config = read_object(router / "router_config.json")
    if layout == "query":
        parameters = {**router_config["parameters"], "default_route": "query"}
        write_json(router / "router_config.json", {**router_config, "parameters": parameters})
    else:
        _unwrap_router(folder, router)
    file = folder / "config_sentence_transformers.json"
    config = read_object(file)
    default = config.get("default_prompt_name")
    # As Sentence Transformers completes them.
    prompts = {"query": "", "document": "", **(config.get("prompts") or {})}
    query_prompt = prompt_for("query", prompts, default)
    query_model_alone = layout == "twin" and not leaves_documents(router_config)
    if query_model_alone:
        prompts = {"document": query_prompt}  # whose other prompts are those of the model that is not in it any more
    if query_model_alone or query_prompt or prompts.get(default or ""):
        # Plain encode() has to put the query prompt first, and encode_document() its own one as before.
        write_json(file, {**config, "prompts": {**prompts, "query": query_prompt}, "default_prompt_name": "query"})


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


def leaves_documents(router_config: Mapping[str, Any]) -> bool:
    """Whether a Router lies behind a base model and does nothing to its documents, rather than hold two models."""
    kinds = {router_config["types"][name].rpartition(".")[2] for name in router_config["structure"].get("document", [])}
    return kinds == {"Dropout"}


def write_max_seq_length(folder: Path, max_seq_length: int) -> None:
    """Let a model's Transformer, its first module, cut texts after another number of tokens."""
    file = folder / read_modules(folder)[0]["path"] / _TRANSFORMER_CONFIG
    config = read_object(file) if file.is_file() else {}
    write_json(file, {**config, "max_seq_length": max_seq_length})


def router_of(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Path | None:
    """The folder of the Router that a model's modules end in; None if they end in something else."""
    last = entries[-1]
    return folder / last["path"] if last["type"].rpartition(".")[2] == "Router" else None


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
        entries.append({"idx": index, "name": str(index), "path": place, "type": config["types"][name]})
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


def write_module(module: Module, folder: Path) -> None:
    """Write one of the stock modules that only queries pass through, as every release since 5.0 reads it."""
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


def _to_legacy_form(folder: Path) -> None:
    """Write names and configurations of release 6 as releases since 4 read them; a warning where that is impossible."""
    entries = read_modules(folder)
    unknown = []
    for entry in entries:
        kind = entry["type"].rpartition(".")[2]
        place = folder / entry["path"]
        if entry["type"] == f"{LEGACY_MODULE}.{kind}":
            continue
        if not entry["type"].startswith("sentence_transformers.") or not _legacy_config(kind, place):
            unknown.append(kind)
            continue
        entry["type"] = f"{LEGACY_MODULE}.{kind}"
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
