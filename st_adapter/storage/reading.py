"""JSON files, read with suspicion: their size, their form, and the types of what they hold."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from st_adapter.words import whole

MAX_JSON_BYTES = 1 << 28


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        max_bytes: the size up to which it is read at all.

    Raises:
        ValueError: it is missing, larger than that, no regular file, or not JSON in UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} cannot be read: it is no regular file. Copy or download the folder again.")
        if status.st_size > max_bytes:
            raise ValueError(
                f"{path} has {status.st_size:,} bytes, but at most {max_bytes:,} are read of such a file. "
                "Do not open this folder, or make it shorter."
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, but expected. The folder is incomplete: copy or download it again."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Copy or download the folder again.") from error
    except UnicodeDecodeError as error:
        raise _not_json(path, error) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error) from error


def _not_json(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not JSON in UTF-8 ({type(error).__name__}: {error}). It is damaged: copy or download it again."
    )


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: as ``read_json``, or it holds something else.
    """
    content = read_json(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but a JSON object is expected. "
            "It is damaged: copy or download it again."
        )
    return content


def checked(value: Any, hint: Any, where: str) -> Any:
    """A value from a file, once it and everything in it are of a type; an int will do for a float.

    Args:
        value: as ``json.loads`` gives it.
        hint: a type such as ``dict[str, list[float]]``, ``int | None`` or a ``Literal``.
        where: what the value is, for the error.

    Returns:
        The value.

    Raises:
        ValueError: the first thing in it of another type, or that is missing, or no finite number.

    Examples:
        >>> checked({"dev": 3}, dict[str, int], "num_queries")
        {'dev': 3}
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        if not any(_is_of(value, each, where) for each in arguments):
            raise _other_type(value, hint, where)
    elif origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{where} is {_short(value)}, but one of {arguments} is expected.")
    elif origin is list:
        if not isinstance(value, list):
            raise _other_type(value, hint, where)
        for number, each in enumerate(value):
            checked(each, arguments[0], f"{where}[{number}]")
    elif origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise _other_type(value, hint, where)
        for number, (each, expected) in enumerate(zip(value, arguments, strict=True)):
            checked(each, expected, f"{where}[{number}]")
    elif origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise _other_type(value, hint, where)
        for key, each in value.items() if arguments else ():
            checked(key, arguments[0], f"{where}, a key")
            checked(each, arguments[1], f"{where}[{_short(key)}]")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_as_float(value)):
            raise _other_type(value, hint, where)
    elif not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _other_type(value, hint, where)
    elif hint is int and abs(value) >= 1 << 63:
        raise _other_type(value, hint, where)
    return value


def _is_of(value: Any, hint: Any, where: str) -> bool:
    try:
        checked(value, NoneType if hint is None else hint, where)
    except ValueError:
        return False
    return True


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _other_type(value: Any, hint: Any, where: str) -> ValueError:
    expected = hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
    return ValueError(f"{where} is {_short(value)}, but {expected.replace('typing.', '')} is expected.")


def _short(value: Any) -> str:
    # No `repr` of a whole: it may be as large as the file.
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool):
        return whole(value)
    return repr(value)[:80]
