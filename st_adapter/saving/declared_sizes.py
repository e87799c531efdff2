"""What the configurations of a model declare, held against the weights that are there, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer import modules as embedding_modules
from torch import nn
from transformers import AutoConfig, AutoModel

from st_adapter.saving.model_files import DAMAGED, inside, read_modules
from st_adapter.storage.reading import read_object
from st_adapter.storage.tensors import TensorInfo, tensor_infos

_MAX_CONFIG_BYTES = 1 << 24
_INT32 = 2**31 - 1
# A model that shares its layers declares more of them than its weights have; so does one without its decoder.
_SPARE_LAYERS, _UNKNOWN_LAYERS, _SPARE_FACTOR = 24, 200, 10
_SPARE_VALUES = 10**7
_MAX_LABELS, _MAX_POSITIONS = 10**6, 2**24
_LAYER_COUNT = re.compile(r"(n|num)_.*(layers?|experts?|blocks?|stages?|groups?)|(num_)?layers|n_layers?|depths?")
TRANSFORMERS = ("Transformer", "CLIPModel")
# Of the other classes of modules those whose constructor makes weights from sizes that a configuration declares.
_BUILT = ("CNN", "LSTM", "LayerNorm", "WeightedLayerPooling")

_ATTENTION = re.compile(r"[a-z][a-z0-9_]{0,39}")  # a name with a slash would be code to fetch from the Hub
_ATTENTION_KEYS = {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
_ATTENTION_KEYS |= {"experts_implementation", "_experts_implementation"}
_DTYPE_KEYS = {"dtype", "torch_dtype"}
_PLAIN = re.compile(r"[\w.+-]{0,64}")
_MODEL_ARGUMENTS = {
    *("add_pooling_layer", "low_cpu_mem_usage", "output_attentions", "output_hidden_states", "default_task"),
    *("trust_remote_code", *_ATTENTION_KEYS, *_DTYPE_KEYS),
}
_PROCESSOR_ARGUMENTS = {
    *("model_max_length", "max_length", "padding_side", "truncation_side", "use_fast", "do_lower_case", "legacy"),
    *("add_prefix_space", "clean_up_tokenization_spaces", "add_bos_token", "add_eos_token", "strip_accents"),
    *("tokenize_chinese_chars", "min_pixels", "max_pixels", "padding", "truncation", "trust_remote_code"),
}
_CONFIG_ARGUMENTS = {
    *("use_cache", "output_attentions", "output_hidden_states", "is_causal", "num_labels", "unpad_inputs"),
    *("use_memory_efficient_attention", "use_bidirectional_attention", "reference_compile", "trust_remote_code"),
}
_ARGUMENTS = {
    **dict.fromkeys(("model_args", "model_kwargs"), _MODEL_ARGUMENTS),
    **dict.fromkeys(("tokenizer_args", "processor_kwargs"), _PROCESSOR_ARGUMENTS),
    **dict.fromkeys(("config_args", "config_kwargs"), _CONFIG_ARGUMENTS),
}

# A text may become this many times as long before it is cut to the length that the model reads.
_MAX_GROWTH = 64
_MAX_ADDED, _MAX_PADDED = 256, 1 << 17


def check_sizes(folder: Path) -> None:
    """Check the sizes that a base model's folder declares, before Sentence Transformers builds it.

    Raises:
        ValueError: they are far beyond its weights.
    """
    if not (folder / "modules.json").is_file():
        if (folder / "config.json").is_file():
            _check_size(folder, read_object(folder / "config.json", max_bytes=_MAX_CONFIG_BYTES), {})
        return
    for entry in read_modules(folder):
        place, kind = inside(folder, entry["path"], folder / "modules.json"), entry["type"].rpartition(".")[2]
        if not entry["type"].startswith("sentence_transformers."):
            continue  # its code may make of a configuration what it likes
        if kind not in TRANSFORMERS:
            check_module(place, kind)
        elif (place / "config.json").is_file():
            _check_size(place, read_object(place / "config.json", max_bytes=_MAX_CONFIG_BYTES), {})


def check_transformer(folder: Path) -> None:
    """Check the folder of a ``Transformer``: what reaches Transformers, and whether its sizes are those of the weights.

    Raises:
        ValueError: the first setting that is not known to be harmless, or a size far beyond the weights.
    """
    overrides: dict[str, Any] = {}
    for path in sorted(folder.glob("sentence_*_config.json")):
        overrides = _check_settings(path)
    if (folder / "tokenizer_config.json").is_file():
        _check_tokenizer_config(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        check_tokenizer(folder / "tokenizer.json")
    path = folder / "config.json"
    if not path.is_file():
        return  # adapters of PEFT lie alone, and their base has a folder of its own
    config = read_object(path, max_bytes=_MAX_CONFIG_BYTES)
    _check_names(config, path)
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
    config = read_object(path, max_bytes=_MAX_CONFIG_BYTES)
    if not (folder / "model.safetensors").is_file():
        return  # a pickle, whose header cannot be read alone
    infos = tensor_infos(folder / "model.safetensors")
    for key, value in _numbers(config):
        if _LAYER_COUNT.fullmatch(key) and value > max(_UNKNOWN_LAYERS, len(infos)):
            raise ValueError(
                f"{path} declares {key}={_written(value)}, but its weights have {len(infos)} tensors. {DAMAGED}"
            )
    if any(isinstance(value, list) and len(value) > len(infos) for value in config.values()):
        raise ValueError(f"{path} declares more parts than its weights have tensors, {len(infos)}. {DAMAGED}")
    declared = _shapes(lambda: module_class(**config), path)
    if declared != {name: info.shape for name, info in infos.items()}:
        raise ValueError(f"{path} declares other sizes than those of the weights beside it. {DAMAGED}")


def check_tokenizer(path: Path) -> None:
    """Check that a ``tokenizer.json`` cannot make much more of a text than what it says.

    Raises:
        ValueError: its normaliser, template or padding can.
    """
    content = read_object(path)
    growth = 1.0
    for step in _steps(content.get("normalizer"), "normalizers"):
        growth *= _growth(step)
    if growth > _MAX_GROWTH:
        raise ValueError(
            f"{path} has a normalizer that can make a text {growth:.3g} times as long, but at most {_MAX_GROWTH} times "
            "is expected. Do not open this model."
        )
    padding = content.get("padding")
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    lengths = [strategy.get("Fixed")] if isinstance(strategy, dict) else []
    lengths += [padding.get("pad_to_multiple_of")] if isinstance(padding, dict) else []
    if any(isinstance(length, int) and length > _MAX_PADDED for length in lengths):
        raise ValueError(
            f"{path} pads every text to {max(filter(None, lengths)):,} tokens, but at most {_MAX_PADDED:,} are "
            "expected. Do not open this model."
        )
    for step in _steps(content.get("post_processor"), "processors"):
        parts = [step.get("single"), step.get("pair")]
        tokens = step.get("special_tokens")
        for token in tokens.values() if isinstance(tokens, dict) else ():
            parts.append(token.get("ids") if isinstance(token, dict) else None)
        if any(isinstance(part, list) and len(part) > _MAX_ADDED for part in parts):
            raise ValueError(
                f"{path} adds more than {_MAX_ADDED} tokens to every text, but a few are expected. Do not open this "
                "model."
            )


def _steps(step: object, key: str) -> Iterator[dict[str, Any]]:
    """A step of a tokenizer, or the steps of a sequence of them."""
    if isinstance(step, dict):
        yield step
        for inner in step[key] if isinstance(step.get(key), list) else ():
            yield from _steps(inner, key)


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer a step of a normaliser makes a text at most; what Unicode's own do to one is left out."""
    if step.get("type") == "Prepend":
        return 1.0 if len(str(step.get("prepend", ""))) <= _MAX_ADDED else float("inf")
    if step.get("type") != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), step.get("content")
    length = len(content) if isinstance(content, str) else 0
    text = pattern.get("String") if isinstance(pattern, dict) else None
    # An expression may match one character, or nothing between any two.
    return max(1.0, length / len(text)) if isinstance(text, str) and text else 1.0 + length


# --- settings ---


def _check_settings(path: Path) -> dict[str, Any]:
    """Check ``sentence_bert_config.json``; gives what it sets in the configuration of Transformers."""
    settings = read_object(path, max_bytes=_MAX_CONFIG_BYTES)
    length = settings.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or not 0 < length <= _INT32):
        raise ValueError(f"{path} has max_seq_length={length!r:.80}, but a number of tokens is expected. {DAMAGED}")
    if settings.get("tokenizer_name_or_path") is not None:
        raise ValueError(f"{path} takes its tokenizer from elsewhere, but it is expected beside it. Do not open this.")
    overrides: dict[str, Any] = {}
    for name, known in _ARGUMENTS.items():
        arguments = settings.get(name, {})
        if not isinstance(arguments, dict):
            raise ValueError(f"{path} has {name} that are no object. {DAMAGED}")
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ValueError(
                f"{path} passes {', '.join(map(repr, unknown[:3]))} to Transformers in {name}, and only settings that "
                "neither fetch nor run anything are expected there. If you trust it, open it with SentenceTransformer."
            )
        _check_names(arguments, path)
        for key, value in arguments.items():
            if not (value is None or isinstance(value, bool | int | float) or _is_plain(value)):
                raise ValueError(
                    f"{path} has {name} with {key}={value!r:.80}, but a plain value is expected. {DAMAGED}"
                )
            if isinstance(value, int) and abs(value) > _INT32:
                raise ValueError(f"{path} has {name} with {key}={value!r:.80}, which no model reads. {DAMAGED}")
        if name.startswith("config"):
            overrides |= {key: value for key, value in arguments.items() if key != "trust_remote_code"}
    return overrides


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and _PLAIN.fullmatch(value) is not None


def _check_names(config: Mapping[str, Any], path: Path) -> None:
    """Check, at any depth, what a configuration names that Transformers might fetch or look up."""
    for key, value in config.items():
        if key in _ATTENTION_KEYS:
            names = list(value.values()) if isinstance(value, dict) else [value]
            if not all(name is None or (isinstance(name, str) and _ATTENTION.fullmatch(name)) for name in names):
                raise ValueError(
                    f"{path} has {key}={value!r:.200}, but the name of an implementation in Transformers is expected, "
                    "not code to fetch. Do not open this model."
                )
        elif key in _DTYPE_KEYS:
            name = value.removeprefix("torch.") if isinstance(value, str) else value
            if not (value is None or name == "auto" or isinstance(getattr(torch, str(name), None), torch.dtype)):
                raise ValueError(f"{path} has {key}={value!r:.80}, but a dtype is expected. {DAMAGED}")
        elif isinstance(value, dict):
            _check_names(value, path)


def _check_tokenizer_config(path: Path) -> None:
    for key, value in read_object(path, max_bytes=_MAX_CONFIG_BYTES).items():
        if key == "special_tokens_map_file":
            continue  # where it lay on its author's machine; nothing reads it
        if key.endswith("_file") and isinstance(value, str) and Path(value).name != value and Path(value).exists():
            raise ValueError(
                f"{path} has {key}={value!r:.200}, a file elsewhere on this machine, but a tokenizer's files are "
                "expected beside it. Do not open this model."
            )


# --- sizes ---


def _check_size(folder: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Compare numbers of layers, then numbers of weights, with those in the files."""
    infos: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("*.safetensors")):
        infos |= tensor_infos(file)
    if infos:
        numbers = [int(part) for name in infos for part in name.split(".") if part.isascii() and part.isdecimal()]
        layers = max(numbers, default=0) + 1
        most, held = max(2 * layers, layers + _SPARE_LAYERS), sum(_product(info.shape) for info in infos.values())
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
                f"{folder / 'config.json'} declares {key}={_written(value)}, which no model has. It is damaged, or "
                "made to exhaust the machine: do not open it."
            )
        if _LAYER_COUNT.fullmatch(key) and value > most:
            raise ValueError(
                f"{folder / 'config.json'} declares {key}={_written(value)}, but its weights are those of "
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
            f"{folder / 'config.json'} declares {_written(declared)} weights, but its files hold {held:,}. It is "
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
    return sum(_product(tuple(tensor.shape)) for tensor in tensors)


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


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _written(number: int) -> str:
    return f"{number:,}" if abs(number) < 10**18 else "a number of more than 18 digits"
