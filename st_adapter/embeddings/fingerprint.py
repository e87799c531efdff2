"""Everything of a model in memory that shapes its vectors, as one hash."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# Where a model lay, who wrote it and in which dtype (the tensors say that) tells nothing about its vectors; what the
# last call left behind changes as the model is used.
_PASSING_CONFIG = {"_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
_PASSING = {"training", "name_or_path", "module_kwargs", "max_seq_len_cached", "vocab_size", "backend"}
_LAST_CALL = ("truncation", "padding")
_PRIVATE = {"_query_expansion"}  # of a stock module, and shaping vectors all the same
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_STOCK = ("torch", "transformers", "sentence_transformers", "accelerate")
_INSTALLED = tuple(filter(None, {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}))
_TOKENIZER_ATTRIBUTES = (
    *("padding_side", "truncation_side", "model_max_length", "split_special_tokens", "model_input_names"),
    *("add_prefix_space", "do_lower_case", "clean_up_tokenization_spaces", "chat_template"),
)
# Deeper than any configuration; what lies below is not looked at.
_MAX_DEPTH = 8
# A file that a foreign module names is read up to this size.
_MAX_FILE_BYTES = 1 << 26


class _NotPlain:
    """Stands for a value of which only the class can be told."""


_Plain = Any
_Seen = dict[int, Any]  # id -> what was met already; held, so that no other object gets its id


def model_fingerprint(model: SentenceTransformer, tensors: Mapping[int, str] | None = None) -> str:
    """SHA-256 over everything in memory that shapes a model's vectors, but for prompts and truncation.

    Weights and buffers; every module's class, settings and hooks; tokenizers with their sides and limits; the code of
    classes and functions that are no part of an installed library, with the values, functions and files that it names.
    Where the model was loaded from does not count. No list of such things is ever complete: who relies on it compares
    vectors as well.

    Args:
        model: on the torch backend.
        tensors: ``tensor_digests`` of the model, if they are known already.

    Raises:
        ValueError: its weights are quantised, and cannot be read.

    Examples:
        >>> len(model_fingerprint(model))
        64
    """
    _check_readable(model)
    return json_digest(_traits(model, tensor_digests(model) if tensors is None else tensors))


def _traits(model: SentenceTransformer, digests: Mapping[int, str]) -> list[_Plain]:
    seen: _Seen = {}
    traits: list[Any] = [_class_of(type(model), seen), _overridden(model, seen)]
    for name, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        traits.append(
            {
                "name": name,
                "class": _class_of(type(module), seen),
                "tensors": {key: digests[id(tensor)] for key, tensor in own.items() if tensor is not None},
                "hooks": [_plain(hook, seen) for kind in _HOOKS for hook in vars(module)[kind].values()],
                "settings": {} if module is model else _settings(module, seen),
                "overridden": _overridden(module, seen),
            }
        )
    return traits


def tensor_digests(model: nn.Module) -> dict[int, str]:
    """SHA-256 of every parameter and buffer, by the ``id`` of the tensor: dtype, shape and values."""
    tensors = [*model.parameters(), *model.buffers()]
    return {id(tensor): _tensor_digest(tensor) for tensor in tensors}


def json_digest(content: object) -> str:
    """SHA-256 over plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_readable(model: SentenceTransformer) -> None:
    quantised = [type(module).__name__ for module in model.modules() if "quantized" in type(module).__module__]
    if quantised:
        raise ValueError(
            f"The model has {len(quantised)} quantised modules (torch.ao), the first a {quantised[0]}, whose weights "
            "can neither be told apart nor saved in a repository. Train the adapter on the model as it was before "
            "quantize_dynamic, and quantise the adapted model afterwards."
        )


# --- modules ---


def _settings(module: nn.Module, seen: _Seen) -> dict[str, _Plain]:
    """What a module is told by its attributes."""
    stock = _is_stock(type(module))
    registered = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
    names = {
        name
        for name in vars(module)
        if name not in _PASSING | registered and not name.endswith(("_hooks", "_hooks_with_kwargs", "_always_called"))
    }
    # Libraries keep caches and marks in private attributes; what others keep there may be anything.
    kept = {name for name in names if not name.startswith("_") or not stock or name in _PRIVATE}
    settings = {name: _plain(vars(module)[name], seen, foreign=not stock) for name in sorted(kept)}
    settings["repr"] = module.extra_repr() if stock else ""
    length = getattr(module, "max_seq_length", None)
    return {**settings, "max_seq_length": length if isinstance(length, int | float) else None}


def _overridden(module: nn.Module, seen: _Seen) -> dict[str, _Plain]:
    """Methods that an instance has in place of its class's."""
    return {
        name: _plain(value, seen)
        for name, value in sorted(vars(module).items())
        if callable(value) and hasattr(type(module), name) and not isinstance(value, nn.Module)
    }


def _class_of(kind: type, seen: _Seen) -> _Plain:
    """A class by its name; one that is no part of an installed library by its code too."""
    if _is_installed(kind):
        return kind.__qualname__
    if id(kind) in seen:
        return kind.__qualname__
    seen[id(kind)] = kind
    members = {
        name: _plain(value, seen, foreign=True)
        for name, value in sorted(vars(kind).items())
        # Of what Python itself puts into a class, only methods do something.
        if not name.startswith("__") or isinstance(value, types.FunctionType)
    }
    return [kind.__qualname__, members, [_class_of(base, seen) for base in kind.__bases__]]


def _is_stock(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _STOCK


def _is_installed(thing: Any) -> bool:
    """Whether a class or function is a library's own: its name is enough then."""
    name = getattr(thing, "__module__", None) or ""
    file = getattr(sys.modules.get(name), "__file__", None)
    if name.partition(".")[0] in ("builtins", *_STOCK):
        return True
    return file is not None and str(Path(file)).startswith(_INSTALLED)


# --- values ---


def _plain(value: Any, seen: _Seen, depth: int = 0, foreign: bool = False) -> _Plain:
    """A value as JSON: by content where there is any, by its class where there is none that counts."""
    simple = _simple(value, foreign)
    if not isinstance(simple, _NotPlain):
        return simple
    # What is met twice is told by where it was met first, which also ends loops.
    if depth > _MAX_DEPTH or id(value) in seen:
        return f"a {type(value).__qualname__}"
    inner = functools.partial(_plain, seen=seen, depth=depth + 1, foreign=foreign)
    if isinstance(value, Mapping):
        return {"mapping": sorted(([inner(k), inner(v)] for k, v in value.items()), key=json.dumps)}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(inner, value), key=json.dumps)}
    if isinstance(value, functools.partial):
        return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
    if isinstance(value, staticmethod | classmethod | types.MethodType):
        return inner(value.__func__)
    if isinstance(value, property):
        return [inner(part) for part in (value.fget, value.fset)]
    if isinstance(value, types.FunctionType):
        return _function(value, seen, depth)
    if isinstance(value, type):
        return _class_of(value, seen)
    return _object(value, seen, depth, foreign)


def _simple(value: Any, foreign: bool) -> _Plain:
    """Values that hold no others."""
    if value is None or isinstance(value, bool | int | str) and not isinstance(value, enum.Enum):
        return _with_file(value) if foreign and isinstance(value, str) else value
    if isinstance(value, float | complex | torch.dtype | re.Pattern | enum.Enum | np.dtype | range | slice):
        return repr(value)
    if isinstance(value, bytes | bytearray):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, os.PathLike):
        return _with_file(os.fspath(value)) if foreign else "a path"
    if isinstance(value, Tensor):
        return _tensor_digest(value)
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, PreTrainedConfig):
        passing = {name for name in value.to_dict() if name in _PASSING_CONFIG or name.startswith("_attn")}
        return json_digest({k: str(v) for k, v in value.to_dict().items() if k not in passing})
    if isinstance(value, Tokenizer):
        return value.to_str()
    return _NotPlain()


def _with_file(text: str) -> _Plain:
    """A string; if it is the path of a file, what is in the file in place of where it lies."""
    if not 0 < len(text) < 4096 or "\0" in text or "\n" in text:
        return text
    try:
        path = Path(text)
        if path.is_file() and path.stat().st_size <= _MAX_FILE_BYTES:
            return ["file", hashlib.sha256(path.read_bytes()).hexdigest()]
        return ["folder", path.name] if path.is_absolute() else text
    except OSError:
        return text


def _function(function: types.FunctionType, seen: _Seen, depth: int) -> _Plain:
    """A function by its code and what the code refers to; one of an installed library by its name."""
    if _is_installed(function):
        return function.__qualname__
    seen[id(function)] = function
    inner = functools.partial(_plain, seen=seen, depth=depth + 1, foreign=True)
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    referred = {
        name: inner(function.__globals__[name])
        for name in sorted(_names(function.__code__))
        if name in function.__globals__ and not isinstance(function.__globals__[name], types.ModuleType)
    }
    defaults = [inner(function.__defaults__), inner(function.__kwdefaults__)]
    return [function.__qualname__, _code(function.__code__), defaults, [inner(cell) for cell in cells], referred]


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that was never assigned
        return False


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _code(code: types.CodeType) -> _Plain:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [hashlib.sha256(code.co_code).hexdigest(), constants, list(code.co_names), list(code.co_varnames)]


def _object(value: Any, seen: _Seen, depth: int, foreign: bool) -> _Plain:
    """A tokenizer, an object of Sentence Transformers or of somebody else by what it holds; others by their class."""
    if isinstance(value, nn.Module):
        return f"a {type(value).__qualname__}"  # a module of its own in the list, or its parent's
    seen[id(value)] = value
    inner = functools.partial(_plain, seen=seen, depth=depth + 1, foreign=foreign)
    if isinstance(value, PreTrainedTokenizerBase):
        return [type(value).__qualname__, dict(_tokenizer(value, inner))]
    kind = _class_of(type(value), seen)
    root = type(value).__module__.partition(".")[0]
    held = vars(value) if hasattr(value, "__dict__") else {}
    if root == "sentence_transformers":
        return [kind, {name: inner(each) for name, each in sorted(held.items()) if not name.startswith("_")}]
    if not _is_installed(type(value)):
        return [kind, {name: inner(each) for name, each in sorted(held.items())}]
    # Of a library's object no more than settings, and the tokenizer of a processor: the rest may lead anywhere.
    shown = {
        name: inner(each)
        for name, each in sorted(held.items())
        if isinstance(each, PreTrainedTokenizerBase | bool | int | float | str) and not name.startswith("_")
    }
    return [kind, shown]


def _tokenizer(tokenizer: PreTrainedTokenizerBase, inner: Any) -> Iterator[tuple[str, _Plain]]:
    for name in _TOKENIZER_ATTRIBUTES:
        yield name, inner(getattr(tokenizer, name, None))
    yield "special tokens", {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        yield "backend", {k: v for k, v in json.loads(backend.to_str()).items() if k not in _LAST_CALL}
    else:
        yield "vocabulary", inner(tokenizer.get_vocab())


def _tensor_digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.device.type != "meta":
        values = tensor.detach().cpu()
        values = (values.to_dense() if values.layout != torch.strided else values).contiguous()
        bits: Any = values.reshape(-1).view(torch.uint8).numpy()
        digest.update(bits)
    return digest.hexdigest()
