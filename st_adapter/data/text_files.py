"""Read the rows of csv, tsv and json files exactly as they are written, or say in which line they cannot be read."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd

# UTF-32's first: the mark of UTF-16 is the beginning of it.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}


class Table(NamedTuple):
    """The rows of one file.

    Attributes:
        frame: cells as they are written; of csv and tsv all of them strings, None where a row is too short.
        notes: what was done to read them, in plain words.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


class _Record(NamedTuple):
    line: int  # of the file, from 1
    fields: list[str]


def decoded(content: bytes) -> tuple[str, tuple[str, ...]]:
    """The text of a file, and a note if it is not UTF-8.

    Raises:
        ValueError: it is neither UTF-8 nor says by its first bytes what it is, or it holds NUL characters.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    plain = encoding in ("utf-8", "utf-8-sig")
    if plain and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise ValueError(
            f"line {line} holds NUL characters, so this is no text, or UTF-16 without a byte order mark. "
            "Save it as UTF-8"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is not {encoding.removesuffix('-sig')} (byte 0x{content[error.start]:02x}); expected utf-8. "
            "Files of older programs are often Windows-1252 or Latin-1: save it as UTF-8 there, or run "
            "`iconv -f WINDOWS-1252 -t UTF-8`"
        ) from error
    return text, () if plain else (f"Read as {encoding.upper()}, as its first bytes say.",)


# --- csv and tsv ---


def read_delimited(text: str, separator: str) -> Table:
    r"""Read a table whose first line names its columns.

    Fields in quotation marks are read as RFC 4180 says, quotation marks within them being doubled. In a table with
    tabs, quotation marks are mostly part of the text, as in MS MARCO: there they count as quoting only if they are
    quoting throughout, the way that spreadsheets and pandas write it. That is, every field with a quotation mark starts
    and ends with one and doubles those between, and either the names of the columns are quoted too, or no field is
    quoted without a need: it holds a tab, a line break or a quotation mark, or is empty.

    Args:
        text: the whole file.
        separator: ``,`` or a tab, whichever is expected; if the first line has none, but another usual separator, that
            one is taken, and a note says so.

    Raises:
        ValueError: quotation marks do not match, or a row has more fields than there are columns.

    Examples:
        >>> read_delimited('query\tdocument\n"to be" meaning\tHamlet\n', "\t").frame.iloc[0].tolist()
        ['"to be" meaning', 'Hamlet']
    """
    first = found[0] if (found := re.search(r"[^\r\n]*\S[^\r\n]*", text)) else ""
    notes: tuple[str, ...] = ()
    if separator not in first:
        other = max(_SEPARATORS, key=first.count)
        if other in first:
            separator, notes = other, (f"Fields are separated by {_SEPARATORS[other]}, as the first line shows.",)
    records = _tab_records(text) if separator == "\t" else _quoted_records(text, separator)
    records = [record for record in records if not _is_blank(record)]
    if not records:
        return Table(pd.DataFrame(), notes)
    frame, short = _frame(records[0], records[1:], separator)
    if short:
        rows = "1 row has" if len(short) == 1 else f"{len(short)} rows have"
        notes = (*notes, f"{rows} fewer fields than the first line, as line {short[0]}; the others count as empty.")
    return Table(frame, notes)


def _tab_records(text: str) -> list[_Record]:
    lines = text.split("\n") if "\n" in text else text.split("\r")
    raw = [_Record(number, line.removesuffix("\r").split("\t")) for number, line in enumerate(lines, 1)]
    if '"' not in text:
        return raw
    rows = [record for record in raw if not _is_blank(record)]
    width = len(rows[0].fields)
    if all(len(row.fields) == width for row in rows):
        # One row a line, so no line break or tab stands in quotation marks.
        return [_Record(row.line, [_unquoted(f) for f in row.fields]) for row in rows] if _all_quoted(rows) else raw
    try:
        quoted = [record for record in _quoted_records(text, "\t") if not _is_blank(record)]
    except ValueError:
        return raw
    return quoted if all(len(record.fields) == width for record in quoted) else raw


def _all_quoted(rows: Sequence[_Record]) -> bool:
    """Whether the quotation marks of a table are quoting, and none of them text; see ``read_delimited``."""
    marked = [field for row in rows for field in row.fields if '"' in field]
    inner = [field[1:-1] for field in marked]
    well_formed = all(
        len(field) > 1 and field[0] == field[-1] == '"' and '"' not in between.replace('""', "")
        for field, between in zip(marked, inner, strict=True)
    )
    names_too = all(name[:1] == '"' for name in rows[0].fields)
    return well_formed and (names_too or all(not between or '""' in between for between in inner))


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if field[:1] == '"' else field


def _quoted_records(text: str, separator: str) -> list[_Record]:
    with _fields_of_any_length():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        records: list[_Record] = []
        line = 1
        try:
            for fields in reader:
                records.append(_Record(line, fields))
                line = reader.line_num + 1
        except csv.Error as error:
            escaped = '\\"' in text
            hint = (
                'Quotation marks seem to be escaped by backslashes (\\"): double them instead (""), or read the file '
                'with pandas.read_csv(..., escapechar="\\\\") and give the frame'
                if escaped
                else "A field that starts with a quotation mark must end with one, and those within it are doubled"
            )
            raise ValueError(
                f"the quotation marks of the row that starts in line {line} do not match. {hint}"
            ) from error
    return records


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _is_blank(record: _Record) -> bool:
    return len(record.fields) < 2 and not "".join(record.fields).strip()


def _frame(header: _Record, records: Sequence[_Record], separator: str) -> tuple[pd.DataFrame, list[int]]:
    """The table, and the lines that are too short."""
    width = len(header.fields)
    rows, short = [], []
    for line, fields in records:
        # A separator at the end of each line makes no column.
        if len(fields) > width and any(field.strip() for field in fields[width:]):
            shown = _SEPARATORS[separator]
            raise ValueError(
                f"line {line} has {len(fields)} fields, but the first line names {width} columns, separated by "
                f"{shown}. Name the columns that have no name, and put texts that hold {shown} in quotation marks"
            )
        if len(fields) < width:
            short.append(line)
        rows.append([*fields[:width], *[None] * (width - len(fields))])
    columns = [name if name.strip() else f"Unnamed: {number}" for number, name in enumerate(header.fields)]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    filled = [bool(name.strip()) or any(row[number] for row in rows) for number, name in enumerate(header.fields)]
    return frame.loc[:, filled], short


# --- json ---


def read_json(text: str) -> Any:
    """The content of a JSON file; of one with an object per line, their list.

    Raises:
        ValueError: it is no JSON, or an object has a key twice.
    """
    try:
        return _loads(text)
    except json.JSONDecodeError as whole:
        try:
            return read_json_lines(text)
        except ValueError as by_line:
            # Where the first line is no JSON by itself, the file was not meant to be read by line.
            raise (whole if str(by_line).startswith("line 1:") else by_line) from None


def read_json_lines(text: str) -> list[Any]:
    """The content of a file with one JSON object per line; empty lines count for nothing.

    Raises:
        ValueError: a line is no JSON, or an object has a key twice.
    """
    found = []
    # Line breaks other than these may stand in a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(_loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return found


def json_table(content: Any) -> pd.DataFrame:
    """JSON content as a table: a list of objects, one object, or column -> cells.

    Raises:
        ValueError: it is none of these, or its columns differ in length.
    """
    rows: Any
    if isinstance(content, list):
        strange = next((number for number, row in enumerate(content) if not isinstance(row, dict)), None)
        if strange is not None:
            raise ValueError(
                f"row {strange} is a {type(content[strange]).__name__}. Expected one object with named values per row"
            )
        rows = content
    elif isinstance(content, dict) and all(isinstance(cells, (list, dict)) for cells in content.values()):
        rows = content
    elif isinstance(content, dict):
        rows = [content]
    else:
        raise ValueError(f"it holds a {type(content).__name__}. Expected a list of objects, one per row")
    # As objects, so that numbers stay whole where some rows have none.
    frame: pd.DataFrame = pd.DataFrame(rows, dtype=object)
    return frame


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object has {', '.join(map(repr, twice))} twice. Keep one of them")
    return content
