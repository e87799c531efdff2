"""Names that are imported when they are first used, so that a package opens at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

Homes = Mapping[str, Sequence[str]]


def names_on_demand(
    package: str, homes: Homes, former: Homes | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package whose public names lie in its modules.

    Args:
        package: the package, ``__name__`` in its ``__init__.py``.
        homes: module of the package, or package within it -> public names that it has. No name may be that of a module
            of the package: once that is imported, it would hide the name.
        former: the same for names that are understood and no longer shown; "Name as Former" if it has another now.

    Examples:
        >>> get, names = names_on_demand("concurrent", {"futures": ["Future"]})
        >>> get("Future").__module__, "Future" in names()
        ('concurrent.futures._base', True)
    """
    home_of = {
        name.rpartition(" as ")[2]: (home, name.partition(" as ")[0])
        for of in (former or {}, homes)
        for home, names in of.items()
        for name in names
    }

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, named = home_of[name]
        value = getattr(import_module(f"{package}.{home}"), named)
        setattr(sys.modules[package], name, value)
        return value

    def shown() -> list[str]:
        return sorted({name for names in homes.values() for name in names} | set(vars(sys.modules[package])))

    return get, shown
