"""Base model + adapter -> a SentenceTransformer, in memory or as a repository, whose query route alone is adapted."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Dropout
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from st_adapter.adapter import QueryAdapter

CONFIG_FILE_NAME = "st_adapter_config.json"

# Class paths that every release since 5.0 resolves; the ones that release 6 writes are unknown before 5.4.
_LEGACY_MODULE = "sentence_transformers.models"
# Bookkeeping of version control and of `hf download --local-dir`, not part of a model.
_SKIPPED = (".git", ".hg", ".svn", ".cache")
_UNIT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_QUERY_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_CHECK_TEXTS = [
    "How do I read a file line by line?",
    "Return the absolute value of a number.",
    "def area(radius): return math.pi * radius**2",
    "Größe, naïve, 東京, emoji 🙂",
    "A longer document of several sentences. Texts of different lengths share a batch, so the padding of the shorter "
    "ones is part of what is compared. The vectors must not depend on which copy of the model made them.",
]


def attach(model: SentenceTransformer, adapter: QueryAdapter) -> SentenceTransformer:
    """Put the adapter on the query route of a model in memory.

    The result ends in a ``Router`` of stock modules: ``encode_query`` is adapted, ``encode_document`` and ``encode``
    return what the base model returns, bit for bit.

    Args:
        model: The base model; left as it is. The result shares its modules, so its memory is not needed twice.
        adapter: Folded into the router as it is now; training it further does not change the result.

    Returns:
        A new model, on the device and in the dtype of ``model``.

    Raises:
        ValueError: the two do not fit: another dimension, an existing ``Router``, truncated or non-2-D embeddings,
            vectors that are not unit for a normalizing adapter, or an adapter with NaN weights.
    """
    _check_base_model(model, adapter)
    router = Router.for_query_document(
        query_modules=adapter.fold(), document_modules=[Dropout(0.0)], default_route="document"
    )
    name = next(str(index) for index in itertools.count(len(model)) if str(index) not in model._modules)
    return _with_modules(
        model, [*model.named_children(), (name, router.to(model.device, model.dtype or torch.float32).eval())]
    )


def detach(model: SentenceTransformer) -> tuple[SentenceTransformer, list[Module]]:
    """Take a model apart again: the base model, and the modules that only its queries pass through.

    Args:
        model: What ``attach`` returned, or a repository of ``save_pretrained`` opened with ``SentenceTransformer``.
            It is left as it is.

    Returns:
        The base model, sharing its modules with ``model``, and the modules of the query route in order, each mapping
        ``{"sentence_embedding": (B, D)}`` to the same. The list is empty for a model without a ``Router``, such as one
        saved with ``adapter=None``.

    Raises:
        ValueError: the model has a ``Router`` of another making.
    """
    children = list(model.named_children())
    routers = [module for _, module in children if isinstance(module, Router)]
    if not routers:
        return _with_modules(model, children), []
    router = routers[-1]
    routes = {name: list(modules) for name, modules in router.sub_modules.items()}
    made_here = (
        len(routers) == 1
        and children[-1][1] is router
        and set(routes) == {"query", "document"}
        and router.default_route == "document"
        and all(isinstance(module, Dropout) and module.dropout == 0.0 for module in routes["document"])
    )
    if not made_here:
        raise ValueError(
            f"The model has a Router with the routes {sorted(routes)} and the default {router.default_route!r}, but "
            "detach expects one Router at the end that leaves documents untouched. "
            "Pass a model from attach() or from a folder written by save_pretrained()."
        )
    return _with_modules(model, children[:-1]), routes["query"]


def save_pretrained(
    adapter: QueryAdapter | None,
    model: SentenceTransformer,
    output_dir: str | Path,
    *,
    base_model: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a Sentence Transformers repository that plain ``SentenceTransformer(output_dir)`` opens.

    It holds the base model's own files byte for byte plus one ``Router`` folder of stock modules, so neither this
    package nor ``trust_remote_code`` is needed to open it. Changed are only ``modules.json`` (one entry more),
    ``config_sentence_transformers.json`` (empty prompts, when the base has none) and ``README.md`` (a new model card).
    Added is ``st_adapter_config.json``, by which a folder is recognised as written here.

    Everything is written to a temporary folder beside ``output_dir``, opened once and compared with ``model`` and
    ``adapter``, and only then renamed. An earlier result in ``output_dir`` survives any failure.

    Args:
        adapter: The trained adapter, or None to save the base model alone, for when no adapter helps.
        model: The base model in memory, without the adapter.
        output_dir: A new or empty folder, or one written here before, which is replaced as a whole.
        base_model: Where the files of ``model`` are: a local folder or a Hub id. By default where Sentence
            Transformers loaded it from; needed for models that do not remember (those without a transformer).
        metadata: JSON-serialisable facts to keep in ``st_adapter_config.json``: data set, seed, scores.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: the adapter does not fit the model (see ``attach``); the base model's files cannot be found or
            differ from the model in memory; ``output_dir`` holds something else; ``metadata`` is not JSON.
        OSError: the folder cannot be written, for instance because the disk is full.
    """
    target = Path(output_dir).resolve()
    _check_target(target)
    metadata_text = _as_json(metadata)
    _check_base_model(model, adapter)
    query_modules = [] if adapter is None else adapter.fold()
    source = _find_base_files(model, base_model)
    if target == source.folder or target in source.folder.parents or source.folder in target.parents:
        raise ValueError(
            f"output_dir {target} and the base model's folder {source.folder} lie within each other, "
            "but saving expects two separate folders. Choose another output_dir."
        )

    temporary = target.parent / f".{target.name}.saving-{uuid.uuid4().hex[:8]}"
    try:
        with _explained_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            _copy_files(source.folder, temporary)
            if query_modules:
                _add_router(temporary, query_modules)
                _add_prompts(temporary / "config_sentence_transformers.json")
                _write_model_card(temporary, target.name, source)
            _write_json(
                temporary / CONFIG_FILE_NAME,
                {
                    "st_adapter_version": _package_version(),
                    "base_model": {"name": source.name, "revision": source.revision},
                    "adapter": None if adapter is None else adapter.get_config_dict(),
                    "metadata": json.loads(metadata_text),
                },
            )
        _check_saved(temporary, model, adapter)
        with _explained_write_errors(target):
            _move_into_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def saved_metadata(model_name_or_path: str) -> dict[str, Any]:
    """The ``metadata`` that ``save_pretrained`` was given, of a folder or Hub id; empty if it was not saved here."""
    path = Module.load_file_path(model_name_or_path, CONFIG_FILE_NAME)
    if path is None:
        return {}
    return dict(json.loads(Path(path).read_text(encoding="utf-8")).get("metadata") or {})


@contextmanager
def _explained_write_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(
            f"{target} could not be written ({reason}); what was there before is untouched. "
            "Make room or choose another output_dir, and save again."
        ) from error


class _BaseFiles(NamedTuple):
    folder: Path
    name: str  # a Hub id, or the name of a local folder: never a path, which would tell about the machine
    revision: str | None
    on_hub: bool


def _with_modules(model: SentenceTransformer, modules: Sequence[tuple[str, nn.Module]]) -> SentenceTransformer:
    # A shallow copy keeps prompts, similarity, placement and subclass, which the constructor would have to be told.
    changed = copy.copy(model)
    changed._modules = OrderedDict(modules)
    changed.prompts = dict(model.prompts)
    changed.model_card_data = copy.copy(model.model_card_data)
    changed.model_card_data.register_model(changed)
    return changed


def _check_base_model(model: SentenceTransformer, adapter: QueryAdapter | None) -> None:
    if not isinstance(model, SentenceTransformer):
        raise ValueError(
            f"The base model is a {type(model).__name__}, but a SentenceTransformer is expected. "
            "Load it with SentenceTransformer(...)."
        )
    taken = [type(module).__name__ for module in model.modules() if isinstance(module, Router | QueryAdapter)]
    if taken:
        raise ValueError(
            f"The base model already has a {taken[0]}, but one without is expected. "
            "Pass the model that the adapter was trained on, or take it apart with detach(model)."
        )
    # Untruncated and as one dict per text: the only view that shows what the last module really gives.
    with model.truncate_embeddings(None):
        features = model.encode(_CHECK_TEXTS[:2], output_value=None, show_progress_bar=False)
    vectors = [row.get("sentence_embedding") for row in features]
    if not all(isinstance(vector, Tensor) and vector.ndim == 1 and vector.is_floating_point() for vector in vectors):
        shape = getattr(vectors[0], "shape", None)
        found = f"gives one of shape {tuple(shape)} per text" if shape is not None else "gives none"
        raise ValueError(
            f"The base model's last module is {type(model[-1]).__name__} and {found}, but a floating-point "
            "'sentence_embedding' of shape (D,) per text is expected. Pass a model that gives one vector per text."
        )
    embeddings = torch.stack(vectors)  # (2, D)
    dimension = embeddings.shape[1]
    if model.truncate_dim is not None and model.truncate_dim < dimension:
        raise ValueError(
            f"truncate_dim is {model.truncate_dim}, but the base model has {dimension} dimensions and adapters expect "
            "all of them for now. Load the model without truncate_dim."
        )
    if adapter is None:
        return
    if adapter.embedding_dimension != dimension:
        raise ValueError(
            f"The base model has {dimension} dimensions, but this adapter expects {adapter.embedding_dimension}. "
            "Pass the model that the adapter was trained on, or train a new adapter."
        )
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1)
    tolerance = _UNIT_TOLERANCE.get(embeddings.dtype, _UNIT_TOLERANCE[torch.float32])
    if adapter.normalize and bool(((lengths - 1).abs() > tolerance).any()):
        raise ValueError(
            f"The base model gives vectors of length {lengths[0].item():.4g}, but an adapter with normalize=True "
            "expects unit length. Train one with QueryAdapter(..., normalize=False)."
        )


def _check_target(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()) and not _is_ours(target):
            raise ValueError(
                f"output_dir {target} exists, is not empty and has no {CONFIG_FILE_NAME}, but a new folder or one "
                "written by st-adapter is expected. Choose another output_dir, or delete this one yourself."
            )
    elif target.exists():
        raise ValueError(f"output_dir {target} is a file, but a folder is expected. Choose another output_dir.")


def _is_ours(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG_FILE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(config, dict) and "st_adapter_version" in config


def _as_json(metadata: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metadata cannot be written as JSON ({error}), but a mapping of strings, finite numbers, lists and "
            "mappings is expected. Convert its values first."
        ) from error


def _find_base_files(model: SentenceTransformer, base_model: str | Path | None) -> _BaseFiles:
    """Where the files of a model in memory are: given, or what the transformer inside says it was loaded from."""
    card = model.model_card_data
    loaded_from = getattr(getattr(model.transformers_model, "config", None), "_name_or_path", "") or card.base_model
    name = str(base_model or loaded_from or "")
    if not name:
        raise ValueError(
            "The base model does not say where it was loaded from, but its files are expected beside the adapter. "
            "Pass base_model=<its folder or Hub id>; if it only exists in memory, save it first."
        )
    if Path(name).is_dir():
        folder = Path(name).resolve()
        source = _BaseFiles(folder, folder.name, None, on_hub=False)
    else:
        # Sentence Transformers' own short names.
        organization = SentenceTransformer.default_huggingface_organization
        hub_id = name if "/" in name else f"{organization}/{name}"
        revision = card.base_model_revision if card.base_model == hub_id else None
        folder = _download(hub_id, revision)
        # The cache names a snapshot after its commit; a branch or tag may mean another one tomorrow.
        source = _BaseFiles(folder, hub_id, folder.name, on_hub=True)
    if not (source.folder / "modules.json").is_file():
        raise ValueError(
            f"The base model's folder {source.folder} has no modules.json, but a Sentence Transformers repository is "
            "expected. Save the model with model.save_pretrained(folder), and load it from there."
        )
    return source


def _download(hub_id: str, revision: str | None) -> Path:
    try:
        # The same environment variable as SentenceTransformer reads; files it fetched are not fetched again.
        cache_dir = os.getenv("SENTENCE_TRANSFORMERS_HOME")
        return Path(snapshot_download(hub_id, revision=revision, cache_dir=cache_dir)).resolve()
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        # What the cache holds of a repository that cannot be downloaded in full. The model in memory was loaded from
        # these files: better a saved model without the rest than none after a training run.
        cached = getattr(error, "snapshot_path", None)
        if cached is None:
            raise ValueError(
                f"The base model's files were looked for at {hub_id!r} (revision {revision or 'main'}), which is "
                f"neither a folder nor a Hub repository that can be read now ({type(error).__name__}). "
                "Pass base_model=<the folder or Hub id the model was loaded from>."
            ) from error
        warnings.warn(
            f"{hub_id} could not be downloaded in full: the saved model has only the files in the local cache.",
            stacklevel=4,
        )
        return Path(cached).resolve()


def _copy_files(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.name in _SKIPPED:
            continue
        if path.is_dir():
            (target / path.name).mkdir()
            _copy_files(path, target / path.name)
        else:
            # Contents only: read-only files of a cache must not make a read-only repository. Links are followed.
            shutil.copyfile(path, target / path.name)


def _add_router(folder: Path, query_modules: Sequence[Module]) -> None:
    modules_file = folder / "modules.json"
    entries = json.loads(modules_file.read_text(encoding="utf-8"))
    names = {entry["name"] for entry in entries}
    index = next(
        index
        for index in itertools.count(len(entries))
        if str(index) not in names and not (folder / f"{index}_Router").exists()
    )
    router = folder / f"{index}_Router"
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
    _write_json(
        router / "router_config.json",
        {
            "types": types,
            "structure": structure,
            # No others: releases before 5.4 hand them all to the constructor.
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    entries.append({"idx": index, "name": str(index), "path": router.name, "type": f"{_LEGACY_MODULE}.Router"})
    _write_json(modules_file, entries)


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
    _write_json(folder / "config.json", config)
    if isinstance(module, Dense):
        module.save_torch_weights(str(folder))
        # safetensors makes files for the owner's eyes only; a repository is read by whoever may read its configuration.
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def _add_prompts(config_file: Path) -> None:
    """Name the prompts "query" and "document", empty, where the base has none: some servers only accept named ones."""
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    prompts = config.get("prompts") or {}
    named = {**prompts, "query": "", "document": ""}
    # A base with a "passage" prompt alone is left as it is: an empty "document" would be preferred to it.
    if not any(prompts.values()) and named != prompts:
        _write_json(config_file, {**config, "prompts": named})


def _write_model_card(folder: Path, title: str, source: _BaseFiles) -> None:
    front_matter = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        base_model=source.name if source.on_hub else None,
        tags=["sentence-transformers", "st-adapter", "sentence-similarity", "feature-extraction"],
    ).to_yaml()
    base = f"[{source.name}](https://huggingface.co/{source.name})" if source.on_hub else "its base model"
    card = f"""---
{front_matter}
---

# {title}

A Sentence Transformers model that embeds documents exactly as {base} does, and queries with a small adapter on top.
An index built with the base model stays valid.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({json.dumps(title)})
query_embeddings = model.encode_query(["a question"])
document_embeddings = model.encode_document(["a document"])
scores = model.similarity(query_embeddings, document_embeddings)
```

Embed queries with `encode_query` or `encode(..., task="query")`: plain `encode` gives document embeddings, and
`prompt_name="query"` does not reach the adapter.
"""
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_saved(folder: Path, model: SentenceTransformer, adapter: QueryAdapter | None) -> None:
    """Open what was written and compare it with what is in memory."""
    config = getattr(model.transformers_model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    # Neither is recorded in the files, so the model in memory may have been loaded with another choice.
    choices = {"dtype": model.dtype, "attn_implementation": attention}
    # Modules draw random weights before they take the saved ones; a training run that saves goes on as if it had not.
    with _no_progress_bars(), torch.random.fork_rng(devices=[]):
        saved = SentenceTransformer(
            str(folder),
            device=str(model.device),
            backend=model.get_backend(),
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            model_kwargs={name: choice for name, choice in choices.items() if choice is not None}
            if config is not None and model.get_backend() == "torch"
            else None,
        )
    remedy = "Load the model from its files as they are, or save the changed one with model.save_pretrained() first."
    for setting in ("prompts", "default_prompt_name", "max_seq_length", "truncate_dim", "similarity_fn_name"):
        before, after = getattr(model, setting), getattr(saved, setting)
        if before != after:
            raise ValueError(
                f"The base model in memory has {setting}={before!r}, but its files have {after!r}, and a saved "
                f"model is expected to work as the one in memory. {remedy}"
            )
    for name in ("encode_document", "encode"):
        before, after = _encode(model, name), _encode(saved, name)
        if not torch.equal(before, after):
            raise ValueError(
                f"{name} of the saved model differs from the base model in memory by up to "
                f"{_difference(before, after):.1e}, but the same vectors are expected: the base model's files are not "
                f"those of the model in memory. {remedy}"
            )
    queries = _encode(model, "encode_query")
    if adapter is not None:
        with torch.no_grad():
            queries = adapter.transform(queries.to(next(adapter.parameters()).device))
    queries, saved_queries = queries.cpu().float(), _encode(saved, "encode_query").cpu().float()
    tolerance = 0.0 if adapter is None else _QUERY_TOLERANCE.get(model.dtype, _QUERY_TOLERANCE[torch.float32])
    difference = _difference(queries, saved_queries)
    if not difference <= tolerance * max(1.0, queries.abs().max().item()):
        raise ValueError(
            f"encode_query of the saved model differs from the adapter on the base model in memory by up to "
            f"{difference:.1e}, but at most {tolerance:.0e} is expected: the base model's files are not those of the "
            f"model in memory, or the adapter's weights are too large to be exact. {remedy}"
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _encode(model: SentenceTransformer, name: str) -> Tensor:
    embeddings: Tensor = getattr(model, name)(_CHECK_TEXTS, convert_to_tensor=True, show_progress_bar=False)
    return embeddings.clone()  # encode returns inference tensors, which adapters on other devices cannot use


def _difference(first: Tensor, second: Tensor) -> float:
    return (first.float() - second.float()).abs().max().item() if first.shape == second.shape else float("inf")


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # A folder cannot be renamed over another: step the old one aside, and back again if anything interrupts.
    aside = target.parent / f".{target.name}.replaced-{uuid.uuid4().hex[:8]}"
    try:
        target.rename(aside)
        temporary.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _package_version() -> str:
    try:
        return version("st-adapter")
    except PackageNotFoundError:
        return "0+source"  # run from a source tree that is not installed
