"""Checks of a saved model's folder, before anything in it is run or allocated."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from st_adapter.adapter import QueryAdapter
from st_adapter.errors import InputError
from st_adapter.saving.declared_sizes import TRANSFORMERS, check_module, check_transformer
from st_adapter.saving.folder import CONFIG_FILE_NAME, UNVERIFIED, SavedModel, read_saved
from st_adapter.saving.model_files import BOOKKEEPING, DAMAGED, TOKENIZER_FILES, inside, read_modules
from st_adapter.saving.tasks import DOCUMENT_ROUTE, QUERY_ROUTE, is_task
from st_adapter.storage.paths import file_sha256, file_within, is_pickle, names_in
from st_adapter.storage.reading import read_json, read_object
from st_adapter.storage.tensors import read_weights, tensor_infos
from st_adapter.words import listed

_ROUTERS = ("Router", "Asym")  # two names of the same class
_ROUTE_MODULES = ("Dense", "Normalize", "Dropout")
_ACTIVATIONS = "torch.nn."
# What the libraries look for by themselves, such as the adapters of PEFT.
_LOADED = (".json", ".safetensors", ".bin", ".py", ".jinja")
# Formats that the torch backend does not read.
OTHER_BACKENDS = ("onnx/*", "openvino/*", "*/onnx/*")


def check_saved(folder: Path, *, any_class: bool = False) -> SavedModel:
    """Check everything in a saved model's folder that opening it relies on, without running or allocating any of it.

    Every file is the one that was saved, by its hash; no path leads out of the folder; every module is one of Sentence
    Transformers'; weights are safetensors of the announced shapes, in floating point, and those of the adapter finite.

    Args:
        folder: the folder.
        any_class: accept classes of others, of a base model whose code the caller trusts; see ``check_modules``.

    Raises:
        ValueError: the first thing that is not so.
    """
    try:
        saved = read_saved(folder)
        check_files(folder, saved)
        check_modules(folder, any_class=any_class)
        _check_routes(folder, saved)
        for place in {route.adapter for route in saved.routes.values() if route.adapter is not None}:
            QueryAdapter.from_pretrained(folder / place)
    except FileNotFoundError as error:  # what is missing is said above: this was there a moment ago
        raise ValueError(
            f"{folder} was replaced while it was read: {error.filename} is gone. Open it again."
        ) from error
    return saved


def _check_routes(folder: Path, saved: SavedModel) -> None:
    """Check that the Router has the routes that the model says it has."""
    routers = [entry["path"] for entry in read_modules(folder) if entry["type"].rpartition(".")[2] in _ROUTERS]
    path = folder / (routers[-1] if routers else "") / "router_config.json"
    routes = set(read_object(path)["structure"]) if routers else {QUERY_ROUTE, DOCUMENT_ROUTE}
    if routes != {*saved.routes, DOCUMENT_ROUTE}:
        raise ValueError(
            f"{path.parent} has routes for {listed(sorted(routes))}, but {CONFIG_FILE_NAME} names "
            f"{listed(saved.routes)}. {DAMAGED}"
        )


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
    names = set(names_in(folder, ignored=BOOKKEEPING)) - set(saved.files) - set(UNVERIFIED)
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


def _is_other(name: str) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in OTHER_BACKENDS)


def check_modules(folder: Path, *, any_class: bool = False, in_memory: bool = False) -> None:
    """Check the modules that a Sentence Transformers folder is made of; see ``check_saved``.

    Args:
        folder: the folder.
        any_class: accept classes of others, for a base model that was opened with ``trust_remote_code``.
        in_memory: the model has been built already, so what it declares does no more harm.
    """
    entries = read_modules(folder)
    for entry in entries:
        place = inside(folder, entry["path"], folder / "modules.json")
        foreign = any_class and not entry["type"].startswith("sentence_transformers.")
        kind = "" if foreign else _module_class(entry["type"], folder / "modules.json")
        if kind in _ROUTERS:
            _check_router(place, alone=len(entries) == 1)
        else:
            _check_module(place, kind, in_memory)


def _check_module(place: Path, kind: str, in_memory: bool) -> None:
    if kind == "Dense":
        _check_dense(place)
    else:
        _check_weight_files(place)
    if kind and not in_memory:
        check_transformer(place) if kind in TRANSFORMERS else check_module(place, kind)


def _check_router(router: Path, *, alone: bool) -> None:
    """Check a Router behind a base model, or one that is ``alone`` and holds two models."""
    path = router / "router_config.json"
    config = read_object(path)
    types: Any = config.get("types")
    structure: Any = config.get("structure")
    parameters: Any = config.get("parameters")
    good = (
        isinstance(types, dict)
        and isinstance(structure, dict)
        and isinstance(parameters, dict)
        and {QUERY_ROUTE, DOCUMENT_ROUTE} <= set(structure)
        and all(is_task(name) and not alone for name in set(structure) - {QUERY_ROUTE, DOCUMENT_ROUTE})
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
    if alone:
        for name, type_ in types.items():
            place, kind = inside(router, name, path), _module_class(type_, path)
            if kind in _ROUTERS:
                raise ValueError(f"{path} has a Router within a Router, but the modules of two models are expected.")
            _check_module(place, kind, in_memory=False)
        return
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
