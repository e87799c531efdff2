"""Find the columns of a source's tables by their usual names, and lay their rows out as queries, corpus and qrels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from st_adapter.data_files import BeirTables, PairTables, listed

# What columns are usually called, the likeliest first. Compared without case; "-" and " " count as "_".
_QUERY = ("query", "question", "anchor", "claim", "queries", "questions", "title")
_DOCUMENT = (
    *("positive", "document", "chunk", "passage", "context", "answer"),
    *("positives", "documents", "docs", "chunks", "passages", "contexts", "answers"),
    *("response", "abstract", "content", "body", "text"),
)
_PAIR_COLUMNS = {
    "query": _QUERY,
    "document": _DOCUMENT,
    "title": ("title",),
    "negative": ("negative", "negatives", "hard_negative", "hard_negatives"),
    "score": ("score", "relevance", "label", "scores", "labels"),
    "split": ("split",),
}
_QUERIES_COLUMNS = {"id": ("_id", "id", "query_id", "qid"), "text": ("text", "query", "question", "claim")}
_CORPUS_COLUMNS = {
    "id": ("_id", "id", "corpus_id", "document_id", "doc_id", "docid", "pid"),
    "text": ("text", "document", "passage", "chunk", "content", "body", "abstract"),
    "title": ("title",),
}
_QRELS_COLUMNS = {
    "query_id": ("query_id", "qid"),
    "corpus_id": ("corpus_id", "document_id", "doc_id", "docid", "pid"),
    "score": ("score", "relevance", "label"),
    "split": ("split",),
}
_REQUIRED = ("query", "document", "id", "text", "query_id", "corpus_id")


@dataclass(frozen=True)
class DatasetParts:
    """What was found in a source, under the package's own column names; each text, id and score is sound."""

    queries: pd.DataFrame  # id, text
    corpus: pd.DataFrame  # id, text
    qrels: pd.DataFrame  # query_id, corpus_id, score, split
    notes: list[str] = field(default_factory=list)


# --- columns ---


def _find_columns(
    frame: pd.DataFrame, usual: Mapping[str, Sequence[str]], columns: Mapping[str, str], where: str
) -> dict[str, list[str]]:
    """Find which columns play which role; "document" and "negative" may be played by several, numbered ones."""
    by_name: dict[str, list[str]] = {}
    for column in frame.columns:
        name = re.sub(r"[ -]", "_", str(column).strip().casefold())
        by_name.setdefault(name, []).append(column)
        if numbered := re.fullmatch(r"(.+)_\d+", name):
            by_name.setdefault(numbered[1], []).append(column)
    found: dict[str, list[str]] = {role: [columns[role]] for role in usual if columns.get(role) in frame.columns}
    for role, names in usual.items():
        taken = {column for played in found.values() for column in played}
        free = ([c for c in by_name.get(name, []) if c not in taken] for name in names)
        played = next((candidates for candidates in free if candidates), [])
        if role not in columns and played:
            found[role] = played if role in ("document", "negative") else played[:1]
    for role in usual:
        if role not in found and (role in _REQUIRED or role in columns):
            mapped = f"{columns[role]!r}" if role in columns else ", ".join(usual[role])
            raise ValueError(
                f"No {role} column was found{where}. Found the columns {listed(frame.columns)}; looked for {mapped}. "
                f"Name yours with columns={{{role!r}: 'your_column'}}."
            )
    return found


def _check_mapping(columns: Mapping[str, str], roles: Iterable[str], frames: Iterable[pd.DataFrame]) -> None:
    """Refuse a mapping of which a part would go unused."""
    present = {str(column): None for frame in frames for column in frame.columns}
    for role, column in columns.items():
        if role not in roles:
            raise ValueError(f"columns maps the role {role!r}, but this data has the roles {listed(roles)}. Use those.")
        if column not in present:
            raise ValueError(
                f"columns maps {role!r} to {column!r}, which is not there. Found the columns {listed(present)}. "
                "Map it to one of these."
            )


def _unused_note(frame: pd.DataFrame, found: Mapping[str, list[str]], where: str) -> list[str]:
    used = {column for played in found.values() for column in played}
    unused = [column for column in frame.columns if column not in used]
    return [f"Columns left unused{where}: {listed(unused)}."] if unused else []


# --- from the form of the source to parts ---


class _Row(NamedTuple):
    label: str  # for messages
    query: Any
    documents: list[Any]
    negatives: list[Any]
    scores: list[Any]
    split: Any


def from_pairs(tables: PairTables, columns: Mapping[str, str]) -> DatasetParts:
    """Lay out pairs: every row a query, every document and negative a document of the corpus, merged later.

    Args:
        tables: As `read_source` gives them.
        columns: Role -> column; see `RetrievalDataset.load`.

    Raises:
        ValueError: A table is empty, a column missing, a text empty or no string, a score no finite number.
    """
    _check_rows(tables.tables)
    _check_mapping(columns, _PAIR_COLUMNS, tables.tables.values())
    notes = list(tables.notes)
    rows: list[_Row] = []
    for split, frame in tables.tables.items():
        where = f" in split {split!r}" if split else ""
        found = _find_columns(frame, _PAIR_COLUMNS, columns, where)
        if split and len(tables.tables) > 1:
            found.pop("split", None)  # the names of the tables say it
        notes += _unused_note(frame, found, where)
        if "title" in found:
            notes.append(f"Column {found['title'][0]!r}{where} was put before the text of its document.")
        rows += _pair_rows(frame, found, split)

    _check_texts([row.query for row in rows], [row.label for row in rows], "queries")
    cells = [(row, text, score) for row in rows for text, score in zip(row.documents, row.scores, strict=True)]
    cells += [(row, text, 0.0) for row in rows for text in row.negatives]
    _check_texts([text for _, text, _ in cells], [row.label for row, _, _ in cells], "documents")
    query_ids = {row.label: f"q{number}" for number, row in enumerate(rows)}
    corpus_ids = [f"d{number}" for number in range(len(cells))]
    qrels = pd.DataFrame(
        {
            "query_id": [query_ids[row.label] for row, _, _ in cells],
            "corpus_id": corpus_ids,
            "score": _as_scores([score for _, _, score in cells], [row.label for row, _, _ in cells]),
            "split": [row.split for row, _, _ in cells],
        }
    )
    queries = pd.DataFrame({"id": list(query_ids.values()), "text": [row.query for row in rows]})
    return DatasetParts(queries, pd.DataFrame({"id": corpus_ids, "text": [text for _, text, _ in cells]}), qrels, notes)


def _pair_rows(frame: pd.DataFrame, found: Mapping[str, list[str]], split: str) -> Iterator[_Row]:
    """Yield the rows of one table with lists and numbered columns laid out."""

    def values(role: str, default: Any) -> list[Any]:
        return list(frame[found[role][0]].tolist()) if role in found else [default] * len(frame)

    document_columns = [frame[column].tolist() for column in found["document"]]
    negative_columns = [frame[column].tolist() for column in found.get("negative", [])]
    singles = zip(
        values("query", None), values("title", None), values("score", 1.0), values("split", split), strict=True
    )
    for number, (query, title, score, given_split) in enumerate(singles):
        label = f"{split} row {number}".strip()
        documents = [cell for column in document_columns for cell in _cells(column[number])]
        if len(documents) > 1:  # a lone empty cell is an error, one in `positive_3` only means that there are two
            documents = [cell for cell in documents if not _is_missing(cell)]
        negatives = [cell for column in negative_columns for cell in _cells(column[number])]
        scores = _cells(score) if isinstance(score, (list, tuple, np.ndarray)) else [score] * len(documents)
        if len(scores) != len(documents):
            raise ValueError(
                f"{label} has {len(documents)} documents but {len(scores)} scores. Give one score, or one per document."
            )
        yield _Row(
            label,
            query,
            [_with_title(title, text) for text in documents],
            [text for text in negatives if not _is_missing(text)],
            scores,
            given_split,
        )


def from_beir(tables: BeirTables, columns: Mapping[str, str]) -> DatasetParts:
    """Lay out the BEIR form, whose tables need little more than their columns renamed.

    Args:
        tables: As `read_source` gives them.
        columns: Role -> column; see `RetrievalDataset.load`.

    Raises:
        ValueError: A table is empty, a column or an id missing, a text empty or no string, a score no finite number.
    """
    _check_rows({"queries": tables.queries, "corpus": tables.corpus})
    _check_rows(tables.qrels)
    roles = dict.fromkeys((*_CORPUS_COLUMNS, *_QRELS_COLUMNS))
    _check_mapping(columns, roles, (tables.queries, tables.corpus, *tables.qrels.values()))
    notes = list(tables.notes)
    texts: dict[str, pd.DataFrame] = {}
    for part, frame, usual in (
        ("queries", tables.queries, _QUERIES_COLUMNS),
        ("corpus", tables.corpus, _CORPUS_COLUMNS),
    ):
        # One mapping serves both tables, so a name that only the other one has is no reason to stop.
        here = {role: column for role, column in columns.items() if column in frame.columns}
        found = _find_columns(frame, usual, here, f" in {part}")
        notes += _unused_note(frame, found, f" in {part}")
        text = frame[found["text"][0]].tolist()
        if "title" in found:
            text = [_with_title(*both) for both in zip(frame[found["title"][0]].tolist(), text, strict=True)]
        ids = _as_ids(frame[found["id"][0]], part)
        _check_texts(text, ids, "queries" if part == "queries" else "documents")
        texts[part] = pd.DataFrame({"id": ids, "text": text})

    judged = []
    for split, frame in tables.qrels.items():
        where = f" in qrels {split!r}" if split else " in qrels"
        found = _find_columns(frame, _QRELS_COLUMNS, columns, where)
        if split and len(tables.qrels) > 1:
            found.pop("split", None)
        notes += _unused_note(frame, found, where)
        labels = [f"{split} row {number}".strip() for number in range(len(frame))]
        score = frame[found["score"][0]].tolist() if "score" in found else [1.0] * len(frame)
        judged.append(
            pd.DataFrame(
                {
                    "query_id": _as_ids(frame[found["query_id"][0]], "qrels"),
                    "corpus_id": _as_ids(frame[found["corpus_id"][0]], "qrels"),
                    "score": _as_scores(score, labels),
                    "split": frame[found["split"][0]].tolist() if "split" in found else [split] * len(frame),
                }
            )
        )
    return DatasetParts(texts["queries"], texts["corpus"], pd.concat(judged, ignore_index=True), notes)


# --- cells ---


def _cells(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))


def _with_title(title: Any, text: Any) -> Any:
    """Join as BEIR does; what is no string is passed on for the check of texts to name."""
    if _is_missing(title):
        return text
    if _is_missing(text) or not isinstance(title, str):
        return title
    return f"{title} {text}".strip() if isinstance(text, str) else text


def _as_ids(column: pd.Series, part: str) -> list[str]:
    """Read ids as strings; whole numbers are written without a point, whatever pandas made of them."""
    values = [int(v) if isinstance(v, float) and v.is_integer() else v for v in column.tolist()]
    missing = [f"row {number}" for number, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise ValueError(
            f"{counted(len(missing), 'id')} missing in {part}: {first_three(missing)}. Every row needs one; fill it in."
        )
    return [str(value) for value in values]


def _as_scores(values: list[Any], labels: list[str]) -> list[float]:
    scores = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype("float64")
    bad = [f"{label} = {value}" for label, value, ok in zip(labels, values, np.isfinite(scores), strict=True) if not ok]
    if bad:
        raise ValueError(
            f"{counted(len(bad), 'score')} NaN, infinite, missing or no number: {first_three(bad)}. "
            "Expected a number in each row (above 0 is relevant). Fill them in or drop the column: all count 1 then."
        )
    return list(scores)


def _check_texts(texts: Sequence[object], labels: Sequence[str], what: str) -> None:
    bad = [label for text, label in zip(texts, labels, strict=True) if not (isinstance(text, str) and text.strip())]
    if bad:
        raise ValueError(
            f"{len(bad)} {what} have an empty text or none that is a string: {first_three(bad)}. "
            "Expected some text in each. Fill them in or take them out."
        )


def _check_rows(tables: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in tables.items():
        if frame.empty:
            raise ValueError(
                f"{f'{name!r} is empty' if name else 'The data set is empty'}: a table with no rows. "
                "Expected at least one. Give it rows or take it out."
            )


# --- words for messages ---


def first_three(labels: Sequence[str]) -> str:
    """Name the first three of a list and show that there are more: 'a', 'b', 'c', ..."""
    return listed(labels[:3]) + (", ..." if len(labels) > 3 else "")


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Say "1 query" or "2 queries"."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
