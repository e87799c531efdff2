"""The cells of a table as texts, ids and scores, or the words that say which of them are none."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from st_adapter.errors import InputError
from st_adapter.words import counted, first_three, listed

# Lists, tuples and objects as Python, numpy and JSON write them.
_WRITTEN_LIST = re.compile(r"""\s*(array\()?[\[({]\s*(['"\[{].*)?[\])}]\s*(,\s*dtype=\w+\))?""", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRUE, _FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")


def as_number(value: Any) -> float:
    """A cell as a number; true and yes are 1, false and no are 0; NaN if it is none of these."""
    if isinstance(value, str) and (word := value.strip().casefold()) in (*_TRUE, *_FALSE):
        return float(word in _TRUE)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def laid_out(value: Any) -> list[Any]:
    """The texts of a cell: one, or those of a list."""
    return [document_text(v) for v in (value if isinstance(value, (list, tuple, np.ndarray)) else [value])]


def document_text(cell: Any) -> Any:
    """The text of a document given as title and text, as DPR, Tevatron and LangChain do; other cells as they are."""
    if isinstance(cell, Mapping):
        for name in ("text", "page_content"):
            if isinstance(cell.get(name), str):
                return with_title(cell.get("title"), cell[name])
    return cell


def written_lists_read(cells: Sequence[Any]) -> list[Any] | None:
    """The cells of a column with the lists of texts that were written as text, as csv files hold lists.

    Returns:
        The lists; None unless every cell that holds something is a list of texts exactly as Python or JSON writes it.
        What NumPy writes is none: it leaves the middle of long arrays out.
    """
    read = [_written_list(cell) if isinstance(cell, str) and cell.strip() else cell for cell in cells]
    filled = [each for cell, each in zip(cells, read, strict=True) if not is_missing(cell)]
    return read if filled and all(isinstance(each, list) for each in filled) else None


def _written_list(cell: str) -> list[str] | None:
    if cell.lstrip()[0] != "[":
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if repr(found) != cell.strip():  # texts without a comma between them would be joined
            return None
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else None


def check_written_lists(cells: Sequence[Any], column: str, where: str) -> list[str]:
    """Refuse a column of lists or objects that were written as text; a few may be code, which a note counts."""
    texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    written = [text for text in texts if _WRITTEN_LIST.fullmatch(text)]
    if 2 * len(written) > len(texts):
        raise ValueError(
            f"Column {column!r}{where} holds lists or objects written as text in {len(written)} of {len(texts)} cells, "
            f"such as {written[0][:60]!r}. Expected texts, or real lists. Give it as jsonl or parquet with lists, or "
            "one row per text."
        )
    written = [text for text in written if _is_literal(text)]
    if not written:
        return []
    return [
        f"{counted(len(written), 'cell')} of column {column!r}{where} read as text though written like a list, such as "
        f"{written[0][:60]!r}."
    ]


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN or the empty string."""
    if isinstance(value, np.ndarray):
        return False
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))


def with_title(title: Any, text: Any) -> Any:
    """Join as BEIR does; what is no string is passed on for the check of texts to name."""
    if is_missing(title):
        return text
    if is_missing(text) or not isinstance(title, str):
        return title
    return f"{title} {text}".strip() if isinstance(text, str) else text


def as_ids(column: pd.Series, part: str) -> list[str]:
    """Read ids as strings; whole numbers are written without a point, whatever pandas made of them."""
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in column.tolist()]
    missing = [f"row {number}" for number, value in enumerate(values) if is_missing(value)]
    if missing:
        raise ValueError(
            f"{counted(len(missing), 'id')} missing in {part}: {first_three(missing)}. Every row needs one; fill it in."
        )
    ids = [str(value) for value in values]
    _check_characters(ids, ids, f"ids in {part}")
    return ids


def as_relevance(values: list[Any], labels: list[str]) -> list[float]:
    """Read relevance as finite numbers.

    Raises:
        InputError: One is missing or no finite number; `labels` name them.
    """
    relevance = np.array([as_number(value) for value in values], dtype=np.float64)
    bad = [f"{labels[row]} = {values[row]}" for row in np.flatnonzero(~np.isfinite(relevance))]
    if bad:
        raise InputError(
            f"{counted(len(bad), 'judgement')} NaN, infinite, missing or no number: {first_three(bad)}. "
            "Expected a number in each row (above 0 is relevant).",
            python="Fill them in, or leave the column out with ignore_columns: all count 1 then.",
            flags="Fill them in, or leave the column out with --ignore-columns: all count 1 then.",
        )
    return list(relevance.tolist())


def check_texts(texts: Sequence[object], labels: Sequence[str], what: str, columns: Iterable[str]) -> None:
    """Refuse what is no text.

    Raises:
        ValueError: One is empty, no string, or holds half a character; `labels` name them, and `columns` where they
            stand.
    """
    bad = [number for number, text in enumerate(texts) if not (isinstance(text, str) and text.strip())]
    if bad:
        first = texts[bad[0]]
        shown = "" if is_missing(first) or isinstance(first, str) else f" The first is a {type(first).__name__}."
        raise ValueError(
            f"{len(bad)} {what} have an empty text or none that is a string: "
            f"{first_three([labels[number] for number in bad])}. Expected some text in each cell of "
            f"{listed(dict.fromkeys(columns))}.{shown} Fill them in, or take them and their judgements out."
        )
    _check_characters(texts, labels, what)


def _check_characters(texts: Sequence[Any], labels: Sequence[str], what: str) -> None:
    """Refuse halves of characters, which no file and no tokenizer keeps."""
    bad = [label for text, label in zip(texts, labels, strict=True) if not text.isascii() and _SURROGATE.search(text)]
    if bad:
        raise ValueError(
            f"{len(bad)} {what} hold half a character (a lone surrogate, such as \\ud83d, of a text that was cut): "
            f"{first_three(bad)}. Expected whole characters. Remove the half, or write the text anew from its source."
        )
