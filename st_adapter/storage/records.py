"""Dataclasses as JSON: written in one way, and built again once everything in a file is of its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from st_adapter.storage.reading import checked

T = TypeVar("T")


def plain(value: Any) -> Any:
    """A value as JSON carries it.

    A dataclass is an object of its fields; those that are None where None is their default are left out.

    Examples:
        >>> from st_adapter.evaluation.statistics import Interval
        >>> plain({"interval": Interval(0.1, 0.2)})
        {'interval': [0.1, 0.2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        content = {each.name: getattr(value, each.name) for each in fields(value)}
        for each in fields(value):
            if each.default is None and content[each.name] is None:
                del content[each.name]
        return plain(content)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def built(kind: type[T], value: Any, where: str = "") -> T:
    """Build an object from what ``plain`` made of it; what is not among its fields is not looked at.

    Args:
        kind: a dataclass, whose fields are of types that ``checked`` knows, or in which such dataclasses stand.
        value: as ``json.loads`` gives it.
        where: what the value is, for the error.

    Raises:
        ValueError: the first thing in it of another type, or that is missing, or no finite number.

    Examples:
        >>> from st_adapter.evaluation.statistics import Gate
        >>> built(Gate, {"adopted": True, "reason": "", "gain": 0.1, "interval": [0, 1], "p_value": "low"}, "gate")
        Traceback (most recent call last):
        ...
        ValueError: gate['p_value'] is 'low', but float is expected.
    """
    built_value: T = _built(kind, value, where)
    return built_value


def _built(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _of_fields(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return hint(*checked(value, tuple[tuple(get_type_hints(hint).values())], where))  # type: ignore[misc]
    if NoneType in arguments:
        # One type or nothing.
        return None if value is None else _built(next(each for each in arguments if each is not NoneType), value, where)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        items = [_built(arguments[0], each, f"{where}[{n}]") for n, each in enumerate(checked(value, list[Any], where))]
        return items if origin is list else tuple(items)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        content = checked(value, dict[arguments[0], Any], where)  # type: ignore[valid-type]
        return {key: _built(arguments[1], each, f"{where}[{key!r:.80}]") for key, each in content.items()}
    return checked(value, hint, where)


def _of_fields(kind: Any, value: Any, where: str) -> Any:
    content = checked(value, dict[str, Any], where)
    hints = get_type_hints(kind)
    missing = [
        each.name
        for each in fields(kind)
        if each.default is MISSING and each.default_factory is MISSING and each.name not in content
    ]
    if missing:
        raise ValueError(f"{where or 'It'} has no {', '.join(missing[:3])}, but is expected to.")
    return kind(
        **{
            name: _built(hint, content[name], f"{where}[{name!r}]" if where else name)
            for name, hint in hints.items()
            if name in content
        }
    )
