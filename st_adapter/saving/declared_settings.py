"""What a model's configurations and tokenizer ask the libraries to do, before they are asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from st_adapter.saving.model_files import DAMAGED
from st_adapter.storage.reading import read_object

MAX_CONFIG_BYTES = 1 << 24
_INT32 = 2**31 - 1
_ATTENTION = re.compile(r"[a-z][a-z0-9_]{0,39}")  # a name with a slash would be code to fetch from the Hub
_ATTENTION_KEYS = {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
_ATTENTION_KEYS |= {"experts_implementation", "_experts_implementation"}
_DTYPE_KEYS, _HALF = {"dtype", "torch_dtype"}, {"float16", "bfloat16"}
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


def in_float32(config: Any) -> Any:
    """A model's configuration in which whatever names half precision names float32.

    Examples:
        >>> in_float32({"torch_dtype": "bfloat16", "text_config": {"dtype": "torch.float16"}, "layers": 2})
        {'torch_dtype': 'float32', 'text_config': {'dtype': 'float32'}, 'layers': 2}
    """
    if not isinstance(config, dict):
        return config
    halves = {key for key in _DTYPE_KEYS & set(config) if str(config[key]).removeprefix("torch.") in _HALF}
    return {key: "float32" if key in halves else in_float32(value) for key, value in config.items()}


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


def check_settings(path: Path) -> dict[str, Any]:
    """Check ``sentence_bert_config.json``; gives what it sets in the configuration of Transformers.

    Raises:
        ValueError: the first setting that is not known to be harmless.
    """
    settings = read_object(path, max_bytes=MAX_CONFIG_BYTES)
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
        check_names(arguments, path)
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


def check_names(config: Mapping[str, Any], path: Path) -> None:
    """Check, at any depth, what a configuration names that Transformers might fetch or look up.

    Raises:
        ValueError: the first name that is none of its own.
    """
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
            check_names(value, path)


def check_tokenizer_config(path: Path) -> None:
    """Check that a tokenizer's configuration names no files elsewhere on this machine.

    Raises:
        ValueError: the first that is elsewhere.
    """
    for key, value in read_object(path, max_bytes=MAX_CONFIG_BYTES).items():
        if key == "special_tokens_map_file":
            continue  # where it lay on its author's machine; nothing reads it
        if key.endswith("_file") and isinstance(value, str) and Path(value).name != value and Path(value).exists():
            raise ValueError(
                f"{path} has {key}={value!r:.200}, a file elsewhere on this machine, but a tokenizer's files are "
                "expected beside it. Do not open this model."
            )
