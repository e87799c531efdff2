"""Lay out the rows of a source as queries, corpus and qrels, under the names of columns that are used from there on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

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
    written_lists_read,
)
from st_adapter.data.clicks import LOG_ROLES, read_clicks
from st_adapter.data.columns import (
    CORPUS_COLUMNS,
    PAIR_COLUMNS,
    QRELS_COLUMNS,
    QUERIES_COLUMNS,
    ColumnsRead,
    check_mapping,
    find_columns,
    unused_note,
)
from st_adapter.data.labels import all_relevant_note, refuse_unused_labels
from st_adapter.data.same_texts import ids_of_equal_texts, with_one_id_each
from st_adapter.data.tables import Tables
from st_adapter.data.vectors import as_vectors
from st_adapter.errors import InputError
from st_adapter.stores.store import Vectors
from st_adapter.words import counted


@dataclass(frozen=True)
class LaidOut:
    """What was found in a source, under the package's own column names; each text, id and relevance is sound."""

    queries: pd.DataFrame  # id, and text if it is known
    corpus: pd.DataFrame  # id, and text if it is known
    qrels: pd.DataFrame  # query_id, corpus_id, relevance, split
    notes: list[str]
    corpus_is_labelled_only: bool = False
    relevance_notes: list[str] | None = None  # true unless a least relevance is given; None if no column says it
    may_lack_relevant: bool = False  # queries without a relevant document are left out, and no error
    query_embeddings: Vectors | None = None  # (Q, D), rows as in queries, if they came with the data
    corpus_embeddings: Vectors | None = None  # (N, D), rows as in corpus
    columns_read: tuple[ColumnsRead, ...] = ()


# The table of each split, with its columns by role and where it is; adds to the notes it is given.
_SplitTables: TypeAlias = "Callable[[list[str]], Iterator[tuple[str, pd.DataFrame, dict[str, list[str]], str]]]"


class _Row(NamedTuple):
    label: str  # for messages
    query: Any
    documents: list[Any]
    negatives: list[Any]
    relevance: list[Any]
    split: Any


def lay_out(
    tables: Tables,
    columns: Mapping[str, str],
    documents_are_stored: bool = False,
    relevant_from: float | None = None,
) -> LaidOut:
    """Lay out the tables of a source.

    Of pairs, every row is a query, every document and negative a document of the corpus; equal ones are merged later.
    Of the BEIR form, queries and documents without text that nothing judges are left out, and counted in a note.

    Args:
        tables: As `read_source` gives them.
        columns: Role -> column; see `RetrievalDataset.load`.
        documents_are_stored: Whether the documents' vectors lie elsewhere, so that texts are not needed.
        relevant_from: The least relevance that counts, of logs; labels are laid out as they are.

    Raises:
        ValueError: A table is empty, a column or an id missing, a judged text empty or a text no string, a relevance no
            finite number; a column that is not used looks like labels.
    """
    for name, frame in (*tables.texts.items(), *tables.rows.items()):
        if frame.empty:
            raise ValueError(
                f"{f'{name!r} is empty' if name else 'The data set is empty'}: a table with no rows. "
                "Expected at least one. Give it rows or take it out."
            )
    roles = dict.fromkeys((*CORPUS_COLUMNS, *QRELS_COLUMNS) if tables.texts else PAIR_COLUMNS)
    check_mapping(columns, roles, (*tables.texts.values(), *tables.rows.values()))
    read: list[ColumnsRead] = []
    split_tables = partial(_split_tables, tables, columns, documents_are_stored, relevant_from, read)
    if tables.texts:
        laid = _from_beir(tables, columns, documents_are_stored, split_tables, read)
    else:
        laid = _from_pairs(tables, split_tables)
    return replace(laid, columns_read=tuple(read))


def _split_tables(
    tables: Tables,
    columns: Mapping[str, str],
    documents_are_stored: bool,
    relevant_from: float | None,
    read: list[ColumnsRead],
    notes: list[str],
) -> Iterator[tuple[str, pd.DataFrame, dict[str, list[str]], str]]:
    """The table of each split, its columns by role and the words that say where it is; adds to `read` and the notes."""
    usual, kind = (QRELS_COLUMNS, "qrels") if tables.texts else (PAIR_COLUMNS, "split")
    meanings: set[str] = set()
    same = cache(lambda: ids_of_equal_texts(tables.texts, columns, documents_are_stored))  # which logs alone ask for
    for split, frame in tables.rows.items():
        where = f" in {kind} {split!r}" if split else " in qrels" if tables.texts else ""
        found = find_columns(frame, usual, columns, where)
        if split and len(tables.rows) > 1:
            found.pop("split", None)  # the names of the tables say it
        if "clicks" in found and tables.texts:
            frame = with_one_id_each(frame, found, same())
        log = read_clicks(frame, found, columns, relevant_from, where)
        meanings |= {"percent"} if log is not None else {"score"} & found.keys()
        if relevant_from is not None and len(meanings) > 1:
            raise InputError(
                f"The least relevance that counts is {relevant_from:g}, which is a click rate in percent in one of the "
                "tables, a log, and a score in another one.",
                python="Leave relevant_from out, or make judgements of one of the two by yourself.",
                flags="Leave --relevant-from out, or make judgements of one of the two by yourself.",
            )
        labelled = {role: played for role, played in found.items() if role not in LOG_ROLES}
        read.append(ColumnsRead.of(labelled if log is None else found, where))
        if log is not None:
            frame, labelled = log.frame, log.found
            notes += log.notes
        found = labelled
        refuse_unused_labels(frame, found, columns, where)
        notes += unused_note(frame, found, where)
        yield split, frame, found, where


def _from_pairs(tables: Tables, split_tables: _SplitTables) -> LaidOut:
    notes = [*tables.notes, "The corpus is the labelled documents only: pairs name no others to search among."]
    rows: list[_Row] = []
    relevance_notes: list[str] | None = None
    used: dict[str, list[str]] = {"query": [], "document": []}
    for split, frame, found, where in split_tables(notes):
        if "title" in found:
            notes.append(f"Column {found['title'][0]!r}{where} was put before the text of its document.")
        for column in (*found["document"], *found.get("negative", [])):
            if lists := written_lists_read(frame[column].tolist()):
                frame = frame.assign(**{str(column): pd.Series(lists, index=frame.index, dtype=object)})
                notes.append(f"Column {column!r}{where} holds lists written as text; they were read as lists.")
        for role in ("query", "document", "negative"):
            for column in found.get(role, []):
                notes += check_written_lists(frame[column].tolist(), column, where)
        used["query"] += found["query"]
        used["document"] += [*found["document"], *found.get("negative", [])]
        table_rows = list(_pair_rows(frame, found, split))
        if "score" in found:
            relevance = [as_number(cell) for row in table_rows for cell in row.relevance]
            relevance_notes = [*(relevance_notes or []), *all_relevant_note(found["score"][0], relevance, where)]
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
        relevance_notes=relevance_notes,
        may_lack_relevant=any(not row.documents for row in rows),
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


def _from_beir(
    tables: Tables,
    columns: Mapping[str, str],
    documents_are_stored: bool,
    split_tables: _SplitTables,
    read: list[ColumnsRead],
) -> LaidOut:
    notes = list(tables.notes)
    qrels, relevance_notes, qrels_notes = _judgements(split_tables)
    parts: dict[str, Part] = {}
    for part, usual, judged, stored in (
        ("queries", QUERIES_COLUMNS, qrels["query_id"], False),
        ("corpus", CORPUS_COLUMNS, qrels["corpus_id"], documents_are_stored),
    ):
        frame = tables.texts[part]
        # One mapping serves both tables, so a name that only the other one has is no reason to stop.
        here = {role: column for role, column in columns.items() if column in frame.columns}
        found = find_columns(frame, usual, here, f" in {part}", optional=("text",) if stored else ())
        read.append(ColumnsRead.of(found, f" in {part}"))
        notes += unused_note(frame, found, f" in {part}")
        parts[part] = laid_out_part(part, frame, found, set(judged))
        notes += parts[part].notes
    queries, corpus = parts["queries"], parts["corpus"]
    return LaidOut(
        queries.table,
        corpus.table,
        qrels,
        [*notes, *qrels_notes],
        relevance_notes=relevance_notes,
        query_embeddings=queries.embeddings,
        corpus_embeddings=corpus.embeddings,
    )


class Part(NamedTuple):
    """Queries or corpus, as they were laid out."""

    table: pd.DataFrame  # id, and text if it is known
    embeddings: Vectors | None
    notes: list[str]


def laid_out_part(part: str, frame: pd.DataFrame, found: Mapping[str, list[str]], judged: set[str]) -> Part:
    """Queries or corpus, without rows that nothing judges and that hold neither text nor vector."""
    nouns = ("query", "queries") if part == "queries" else ("document", "documents")
    ids = as_ids(frame[found["id"][0]], part)
    table, notes = pd.DataFrame({"id": ids}), list[str]()
    if "text" in found:
        column = found["text"][0]
        text = frame[column].tolist()
        notes += check_written_lists(text, column, f" in {part}")
        text = [document_text(cell) for cell in text]
        if "title" in found:
            text = [with_title(*both) for both in zip(frame[found["title"][0]].tolist(), text, strict=True)]
        table["text"] = pd.Series(text, dtype=object)
    if "embedding" in found:
        column = found["embedding"][0]
        embeddings = as_vectors(frame[column].tolist(), ids, nouns[1], column)
        if "text" not in found:
            notes.append(f"The {nouns[1]} came as vectors without texts{_UNCHECKED[part]}.")
        else:
            check_texts(table["text"].tolist(), ids, nouns[1], found["text"])
            notes.append(f"The {nouns[1]} came with vectors (column {column!r}), which were taken as they are.")
        return Part(table, embeddings, notes)
    if "text" in found:
        text = table["text"].tolist()
        blank = np.array([is_missing(cell) or (isinstance(cell, str) and not cell.strip()) for cell in text])
        needless = blank & ~table["id"].isin(judged).to_numpy()
        if needless.any():
            notes.append(f"{counted(int(needless.sum()), *nouns)} without text that nothing judges left out.")
            table = table[~needless].reset_index(drop=True)
        check_texts(table["text"].tolist(), table["id"].tolist(), nouns[1], found["text"])
    return Part(table, None, notes)


# What cannot be looked for without texts.
_UNCHECKED = {
    "queries": ": those that stand in two splits are found by the cosine of their vectors alone, not by their words",
    "corpus": "",
}


def _judgements(split_tables: _SplitTables) -> tuple[pd.DataFrame, list[str] | None, list[str]]:
    """All judgements in one table, notes on their relevance (None if no column says it), and notes on their columns."""
    judged, notes = [], list[str]()
    relevance_notes: list[str] | None = None
    for split, frame, found, where in split_tables(notes):
        labels = [f"{split} row {number}".strip() for number in range(len(frame))]
        relevance = as_relevance(frame[found["score"][0]].tolist() if "score" in found else [1.0] * len(frame), labels)
        if "score" in found:
            relevance_notes = [*(relevance_notes or []), *all_relevant_note(found["score"][0], relevance, where)]
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
    return pd.concat(judged, ignore_index=True), relevance_notes, notes
