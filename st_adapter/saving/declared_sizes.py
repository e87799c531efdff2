"""What the configurations of a model declare, held against the weights that are there, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer import modules as embedding_modules
from torch import nn
from transformers import AutoConfig, AutoModel

from st_adapter.saving.declared_settings import (
    MAX_CONFIG_BYTES,
    check_names,
    check_settings,
    check_tokenizer,
    check_tokenizer_config,
)
from st_adapter.saving.model_files import DAMAGED, inside, read_modules
from st_adapter.storage.reading import read_object
from st_adapter.storage.tensors import TensorInfo, tensor_infos
from st_adapter.words import whole

# A model that shares its layers declares more of them than its weights have; so does one without its decoder.
_SPARE_LAYERS, _UNKNOWN_LAYERS, _SPARE_FACTOR = 24, 200, 10
_SPARE_VALUES = 10**7
_MAX_LABELS, _MAX_POSITIONS = 10**6, 2**24
_LAYER_COUNT = re.compile(r"(n|num)_.*(layers?|experts?|blocks?|stages?|groups?)|(num_)?layers|n_layers?|depths?")
TRANSFORMERS = ("Transformer", "CLIPModel")
# Of the other classes of modules those whose constructor makes weights from sizes that a configuration declares.
_BUILT = ("CNN", "LSTM", "LayerNorm", "WeightedLayerPooling")


def check_sizes(folder: Path) -> None:
    """Check the sizes that a base model's folder declares, before Sentence Transformers builds it.

    Raises:
        ValueError: they are far beyond its weights.
    """
    if not (folder / "modules.json").is_file():
        if (folder / "config.json").is_file():
            _check_size(folder, read_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES), {})
        return
    for entry in read_modules(folder):
        place, kind = inside(folder, entry["path"], folder / "modules.json"), entry["type"].rpartition(".")[2]
        if not entry["type"].startswith("sentence_transformers."):
            continue  # its code may make of a configuration what it likes
        if kind not in TRANSFORMERS:
            check_module(place, kind)
        elif (place / "config.json").is_file():
            _check_size(place, read_object(place / "config.json", max_bytes=MAX_CONFIG_BYTES), {})


def check_transformer(folder: Path) -> None:
    """Check the folder of a ``Transformer``: what reaches Transformers, and whether its sizes are those of the weights.

    Raises:
        ValueError: the first setting that is not known to be harmless, or a size far beyond the weights.
    """
    overrides: dict[str, Any] = {}
    for path in sorted(folder.glob("sentence_*_config.json")):
        overrides = check_settings(path)
    if (folder / "tokenizer_config.json").is_file():
        check_tokenizer_config(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        check_tokenizer(folder / "tokenizer.json")
    path = folder / "config.json"
    if not path.is_file():
        return  # adapters of PEFT lie alone, and their base has a folder of its own
    config = read_object(path, max_bytes=MAX_CONFIG_BYTES)
    check_names(config, path)
    _check_size(folder, {**config, **overrides}, overrides)


def check_module(folder: Path, kind: str) -> None:
    """Check the sizes that the configuration of another module declares.

    Raises:
        ValueError: its weights are of other sizes.
    """
    if (folder / "tokenizer.json").is_file():
        check_tokenizer(folder / "tokenizer.json")
    if kind not in _BUILT:
        return
    module_class: Any = getattr(embedding_modules, kind)
    path = folder / module_class.config_file_name
    config = read_object(path, max_bytes=MAX_CONFIG_BYTES)
    if not (folder / "model.safetensors").is_file():
        return  # a pickle, whose header cannot be read alone
    infos = tensor_infos(folder / "model.safetensors")
    for key, value in _numbers(config):
        if _LAYER_COUNT.fullmatch(key) and value > max(_UNKNOWN_LAYERS, len(infos)):
            raise ValueError(
                f"{path} declares {key}={whole(value)}, but its weights have {len(infos)} tensors. {DAMAGED}"
            )
    if any(isinstance(value, list) and len(value) > len(infos) for value in config.values()):
        raise ValueError(f"{path} declares more parts than its weights have tensors, {len(infos)}. {DAMAGED}")
    declared = _shapes(lambda: module_class(**config), path)
    if declared != {name: info.shape for name, info in infos.items()}:
        raise ValueError(f"{path} declares other sizes than those of the weights beside it. {DAMAGED}")


def _check_size(folder: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Compare numbers of layers, then numbers of weights, with those in the files."""
    infos: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("*.safetensors")):
        infos |= tensor_infos(file)
    if infos:
        numbers = [int(part) for name in infos for part in name.split(".") if part.isascii() and part.isdecimal()]
        layers = max(numbers, default=0) + 1
        most, held = max(2 * layers, layers + _SPARE_LAYERS), sum(prod(info.shape) for info in infos.values())
    else:
        num_bytes = sum(file.stat().st_size for file in folder.glob("*.bin") if file.is_file())
        if not num_bytes:
            return  # without weights nothing is built either
        layers, most, held = 0, _UNKNOWN_LAYERS, num_bytes // 2
    # Experts that lie in one tensor, and positions that have a vector each.
    sizes = {size for info in infos.values() for size in info.shape}
    for key, value in _numbers(config):
        if value in sizes:
            continue
        positions = max(sizes, default=0) if config.get("sinusoidal_pos_embds") else _MAX_POSITIONS
        if value > (_MAX_LABELS if key == "num_labels" else positions if "position" in key else value):
            raise ValueError(
                f"{folder / 'config.json'} declares {key}={whole(value)}, which no model has. It is damaged, or "
                "made to exhaust the machine: do not open it."
            )
        if _LAYER_COUNT.fullmatch(key) and value > most:
            raise ValueError(
                f"{folder / 'config.json'} declares {key}={whole(value)}, but its weights are those of "
                f"{layers or 'at most ' + str(most)} layers. It is damaged, or made to exhaust the machine: do not "
                "open it."
            )
    try:
        declared = _declared_values(folder, overrides)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{folder / 'config.json'} declares sizes that no model can have ({str(error).splitlines()[0][:200]}). "
            f"{DAMAGED}"
        ) from error
    if declared is not None and declared > _SPARE_FACTOR * held + _SPARE_VALUES:
        raise ValueError(
            f"{folder / 'config.json'} declares {whole(declared)} weights, but its files hold {held:,}. It is "
            "damaged, or made to exhaust the machine: do not open it."
        )


def _declared_values(folder: Path, overrides: Mapping[str, Any]) -> int | None:
    """How many values the model has that a configuration declares, built without memory; None if it cannot be built."""
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **overrides)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (RuntimeError, OverflowError, MemoryError) as error:
        if "overflow" in str(error).lower() or isinstance(error, MemoryError):
            raise
        return None
    except Exception:  # what is wrong is said when the model is opened: it is beyond any list
        return None
    return _num_values(model)


def _num_values(model: nn.Module) -> int:
    tensors = (*model.parameters(), *model.buffers())
    return sum(tensor.numel() for tensor in tensors)


def _shapes(build: Callable[[], nn.Module], path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build()
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError, AssertionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not the configuration of such a module ({reason}). {DAMAGED}") from error
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _numbers(config: object) -> Iterator[tuple[str, int]]:
    """All whole numbers in a configuration, also in lists, with the nearest key above them."""
    if isinstance(config, dict):
        for key, value in config.items():
            if isinstance(value, int) and not isinstance(value, bool):
                yield str(key), value
            elif isinstance(value, list):
                yield from ((str(key), each) for each in value if isinstance(each, int) and not isinstance(each, bool))
                for each in value:
                    yield from _numbers(each)
            else:
                yield from _numbers(value)
