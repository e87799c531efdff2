"""Lay out the rows of a source as queries, corpus and qrels, under the names of columns that are used from there on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from st_adapter.data.cells import (
    as_ids,
    as_number,
    as_relevance,
    check_texts,
    check_written_lists,
    document_text,
    is_missing,
    laid_out,
    with_title,
)
from st_adapter.data.columns import (
    CORPUS_COLUMNS,
    PAIR_COLUMNS,
    QRELS_COLUMNS,
    QUERIES_COLUMNS,
    check_mapping,
    find_columns,
    unused_note,
)
from st_adapter.data.labels import all_relevant_note, refuse_unused_labels
from st_adapter.data.tables import BeirTables, PairTables
from st_adapter.words import counted


@dataclass(frozen=True)
class LaidOut:
    """What was found in a source, under the package's own column names; each text, id and relevance is sound."""

    queries: pd.DataFrame  # id, text
    corpus: pd.DataFrame  # id, text
    qrels: pd.DataFrame  # query_id, corpus_id, relevance, split
    notes: list[str] = field(default_factory=list)
    corpus_is_labelled_only: bool = False
    has_relevance: bool = False  # a column says it
    relevance_notes: list[str] = field(default_factory=list)  # true unless a least relevance is given
    may_lack_relevant: bool = False  # queries without a relevant document are left out, and no error


class _Row(NamedTuple):
    label: str  # for messages
    query: Any
    documents: list[Any]
    negatives: list[Any]
    relevance: list[Any]
    split: Any


def from_pairs(tables: PairTables, columns: Mapping[str, str]) -> LaidOut:
    """Lay out pairs: every row a query, every document and negative a document of the corpus, merged later.

    Args:
        tables: As `read_source` gives them.
        columns: Role -> column; see `RetrievalDataset.load`.

    Raises:
        ValueError: A table is empty, a column missing, a text empty or no string, a relevance no finite number; a
            column that is not used looks like labels.
    """
    _check_rows(tables.tables)
    check_mapping(columns, PAIR_COLUMNS, tables.tables.values())
    notes = [*tables.notes, "The corpus is the labelled documents only: pairs name no others to search among."]
    rows: list[_Row] = []
    has_relevance, relevance_notes = False, list[str]()
    used: dict[str, list[str]] = {"query": [], "document": []}
    for split, frame in tables.tables.items():
        where = f" in split {split!r}" if split else ""
        found = find_columns(frame, PAIR_COLUMNS, columns, where)
        if split and len(tables.tables) > 1:
            found.pop("split", None)  # the names of the tables say it
        refuse_unused_labels(frame, found, columns, where)
        notes += unused_note(frame, found, where)
        if "title" in found:
            notes.append(f"Column {found['title'][0]!r}{where} was put before the text of its document.")
        for role in ("query", "document", "negative"):
            for column in found.get(role, []):
                notes += check_written_lists(frame[column].tolist(), column, where)
        used["query"] += found["query"]
        used["document"] += [*found["document"], *found.get("negative", [])]
        table_rows = list(_pair_rows(frame, found, split))
        if "score" in found:
            relevance = [as_number(cell) for row in table_rows for cell in row.relevance]
            relevance_notes += all_relevant_note(found["score"][0], relevance, where)
            has_relevance = True
        rows += table_rows

    labels = [row.label for row in rows]
    check_texts([row.query for row in rows], labels, "queries", used["query"])
    cells = [(row, *both) for row in rows for both in zip(row.documents, row.relevance, strict=True)]
    cells += [(row, text, 0.0) for row in rows for text in row.negatives]
    check_texts([text for _, text, _ in cells], [row.label for row, _, _ in cells], "documents", used["document"])
    query_ids = {label: f"q{number}" for number, label in enumerate(labels)}
    corpus_ids = [f"d{number}" for number in range(len(cells))]
    qrels = pd.DataFrame(
        {
            "query_id": [query_ids[row.label] for row, _, _ in cells],
            "corpus_id": corpus_ids,
            "relevance": as_relevance([relevance for _, _, relevance in cells], [row.label for row, _, _ in cells]),
            "split": [row.split for row, _, _ in cells],
        }
    )
    queries = pd.DataFrame({"id": list(query_ids.values()), "text": [row.query for row in rows]})
    corpus = pd.DataFrame({"id": corpus_ids, "text": [text for _, text, _ in cells]})
    return LaidOut(
        queries,
        corpus,
        qrels,
        notes,
        corpus_is_labelled_only=True,
        has_relevance=has_relevance,
        relevance_notes=relevance_notes,
    )


def _pair_rows(frame: pd.DataFrame, found: Mapping[str, list[str]], split: str) -> Iterator[_Row]:
    """Yield the rows of one table with lists and numbered columns laid out."""

    def values(role: str, default: Any) -> list[Any]:
        return list(frame[found[role][0]].tolist()) if role in found else [default] * len(frame)

    document_columns = [frame[column].tolist() for column in found["document"]]
    negative_columns = [frame[column].tolist() for column in found.get("negative", [])]
    singles = zip(
        values("query", None), values("title", None), values("score", 1.0), values("split", split), strict=True
    )
    for number, (query, title, given, given_split) in enumerate(singles):
        label = f"{split} row {number}".strip()
        documents = [cell for column in document_columns for cell in laid_out(column[number])]
        if len(documents) > 1:  # a lone empty cell is an error, one in `positive_3` only means that there are two
            documents = [cell for cell in documents if not is_missing(cell)]
        negatives = [cell for column in negative_columns for cell in laid_out(column[number])]
        relevance = laid_out(given) if isinstance(given, (list, tuple, np.ndarray)) else [given] * len(documents)
        if len(relevance) != len(documents):
            raise ValueError(
                f"{label} has {len(documents)} documents but {len(relevance)} scores. Give one score, or one per "
                "document."
            )
        yield _Row(
            label,
            query,
            [with_title(title, text) for text in documents],
            [text for text in negatives if not is_missing(text)],
            relevance,
            given_split,
        )


def from_beir(tables: BeirTables, columns: Mapping[str, str]) -> LaidOut:
    """Lay out the BEIR form, whose tables need little more than their columns renamed.

    Queries and documents without text that nothing judges are left out, and counted in a note.

    Args:
        tables: As `read_source` gives them.
        columns: Role -> column; see `RetrievalDataset.load`.

    Raises:
        ValueError: A table is empty, a column or an id missing, a judged text empty or a text no string, a relevance no
            finite number; a column of the qrels that is not used looks like labels.
    """
    _check_rows({"queries": tables.queries, "corpus": tables.corpus})
    _check_rows(tables.qrels)
    roles = dict.fromkeys((*CORPUS_COLUMNS, *QRELS_COLUMNS))
    check_mapping(columns, roles, (tables.queries, tables.corpus, *tables.qrels.values()))
    notes = list(tables.notes)
    judgements = _judgements(tables, columns)
    qrels = judgements.table
    texts: dict[str, pd.DataFrame] = {}
    for part, frame, usual, judged in (
        ("queries", tables.queries, QUERIES_COLUMNS, qrels["query_id"]),
        ("corpus", tables.corpus, CORPUS_COLUMNS, qrels["corpus_id"]),
    ):
        # One mapping serves both tables, so a name that only the other one has is no reason to stop.
        here = {role: column for role, column in columns.items() if column in frame.columns}
        found = find_columns(frame, usual, here, f" in {part}")
        notes += unused_note(frame, found, f" in {part}")
        column = found["text"][0]
        text = frame[column].tolist()
        notes += check_written_lists(text, column, f" in {part}")
        text = [document_text(cell) for cell in text]
        if "title" in found:
            text = [with_title(*both) for both in zip(frame[found["title"][0]].tolist(), text, strict=True)]
        table = pd.DataFrame({"id": as_ids(frame[found["id"][0]], part), "text": pd.Series(text, dtype=object)})
        nouns = ("query", "queries") if part == "queries" else ("document", "documents")
        blank = np.array([is_missing(cell) or (isinstance(cell, str) and not cell.strip()) for cell in text])
        needless = blank & ~table["id"].isin(set(judged)).to_numpy()
        if needless.any():
            notes.append(f"{counted(int(needless.sum()), *nouns)} without text that nothing judges left out.")
            table = table[~needless].reset_index(drop=True)
        check_texts(table["text"].tolist(), table["id"].tolist(), nouns[1], [column])
        texts[part] = table
    return LaidOut(
        texts["queries"],
        texts["corpus"],
        qrels,
        [*notes, *judgements.notes],
        has_relevance=judgements.has_relevance,
        relevance_notes=judgements.relevance_notes,
    )


class _Judgements(NamedTuple):
    table: pd.DataFrame
    notes: list[str]
    has_relevance: bool
    relevance_notes: list[str]


def _judgements(tables: BeirTables, columns: Mapping[str, str]) -> _Judgements:
    """All judgements in one table, and notes on their columns."""
    judged, notes, relevance_notes, has_relevance = [], list[str](), list[str](), False
    for split, frame in tables.qrels.items():
        where = f" in qrels {split!r}" if split else " in qrels"
        found = find_columns(frame, QRELS_COLUMNS, columns, where)
        if split and len(tables.qrels) > 1:
            found.pop("split", None)
        refuse_unused_labels(frame, found, columns, where)
        notes += unused_note(frame, found, where)
        labels = [f"{split} row {number}".strip() for number in range(len(frame))]
        relevance = as_relevance(frame[found["score"][0]].tolist() if "score" in found else [1.0] * len(frame), labels)
        if "score" in found:
            relevance_notes += all_relevant_note(found["score"][0], relevance, where)
            has_relevance = True
        judged.append(
            pd.DataFrame(
                {
                    "query_id": as_ids(frame[found["query_id"][0]], "qrels"),
                    "corpus_id": as_ids(frame[found["corpus_id"][0]], "qrels"),
                    "relevance": relevance,
                    "split": frame[found["split"][0]].tolist() if "split" in found else [split] * len(frame),
                }
            )
        )
    return _Judgements(pd.concat(judged, ignore_index=True), notes, has_relevance, relevance_notes)


def _check_rows(tables: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in tables.items():
        if frame.empty:
            raise ValueError(
                f"{f'{name!r} is empty' if name else 'The data set is empty'}: a table with no rows. "
                "Expected at least one. Give it rows or take it out."
            )
