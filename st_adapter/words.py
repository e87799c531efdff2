"""Words for numbers, counts and names in messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Say "1 query" or "2 queries"."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def listed(names: Iterable[object]) -> str:
    """Quote and join names: 'a', 'b'."""
    return ", ".join(repr(str(name)) for name in names)


def first_three(labels: Sequence[str]) -> str:
    """Name the first three of a list and show that there are more: 'a', 'b', 'c', ..."""
    return listed(labels[:3]) + (", ..." if len(labels) > 3 else "")


def documents_searched(number: int, labelled_only: bool) -> str:
    """How large the corpus is, for wherever figures stand.

    Example:
        >>> documents_searched(3847, True)
        '3,847 documents, the labelled ones only'
    """
    return f"{number:,} document{'' if number == 1 else 's'}{', the labelled ones only' if labelled_only else ''}"
