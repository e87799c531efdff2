"""Labels, queries and corpus that were given apart: joined by the ids that they have in common."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from st_adapter.data.cards import is_saved_to_disk
from st_adapter.data.cells import as_ids, is_missing, laid_out
from st_adapter.data.columns import CORPUS_COLUMNS, PAIR_COLUMNS, QRELS_COLUMNS, find_columns
from st_adapter.data.files import data_files, read_files
from st_adapter.data.sources import DataSource, read_source
from st_adapter.data.tables import JUDGEMENTS, Tables
from st_adapter.data.vectors import table_of_arrays
from st_adapter.errors import InputError, without_secrets
from st_adapter.storage.manifest import Manifest, is_vector_folder
from st_adapter.stores.folder import VectorFolder
from st_adapter.stores.store import Store
from st_adapter.words import counted, listed

_PARTS = ("labels", "queries", "corpus")
_DOCUMENT = {"corpus_id": QRELS_COLUMNS["corpus_id"]}
_QUERY = {"query_id": QRELS_COLUMNS["query_id"], "query": PAIR_COLUMNS["query"]}
# Labels by which the column of documents is found, and ids that a store is asked for.
_LOOKED_AT, _ASKED_FOR = 100, 5


@dataclass(frozen=True)
class Documents:
    """What labels name by id.

    Attributes:
        frame: a table of documents; empty if they lie in a store.
        store: where they lie, if that is no table.
        id_column: of the table, as named by the user.
    """

    frame: pd.DataFrame
    store: Store | VectorFolder | None = None
    id_column: str | None = None

    def share_known(self, ids: Sequence[str]) -> float:
        """How many of some ids are there, 0-1; of a store a few are asked for."""
        if self.store is None:
            return len(set(ids) & self._ids) / len(ids)
        asked = ids[:_ASKED_FOR]
        return sum(_is_in(self.store, one) for one in asked) / len(asked)

    @cached_property
    def _ids(self) -> set[str]:
        named = {} if self.id_column is None else {"id": self.id_column}
        columns = find_columns(self.frame, {"id": CORPUS_COLUMNS["id"]}, named, " in corpus")
        return set(as_ids(self.frame[columns["id"][0]], "corpus"))


def read_parts(
    labels: DataSource,
    queries: DataSource | None,
    corpus: DataSource | Store | VectorFolder | None,
    columns: Mapping[str, str],
) -> tuple[Tables, dict[str, str], Store | VectorFolder | None]:
    """Read what was given apart into one set of tables, in the BEIR form; one source alone is read as it is.

    Labels are rows of a document's id and of a query, as its text or as the id that it has in ``queries``. The column
    of document ids is found by its usual names, or else because its values are ids of the corpus.

    Args:
        labels: the judgements; a whole data set in the BEIR form, of which ``queries`` and ``corpus`` take the place.
        queries: a table of queries; None if the labels hold their texts.
        corpus: a table of documents, or an opened store; None if the labels are a whole data set.
        columns: role -> column, also ``labels.role``, ``queries.role`` and ``corpus.role`` for one of the tables.

    Returns:
        The tables, the mapping of columns that still applies, and the store.

    Raises:
        ValueError: a part is missing, or labels and corpus have no ids in common.
    """
    tables = read_source(labels)
    if queries is None and corpus is None:
        return tables, dict(columns), None
    of_part = {part: {role: c for name, c in columns.items() for role in _role(name, part)} for part in _PARTS}
    rest = {name: column for name, column in columns.items() if "." not in name}
    rows = {split: _renamed(frame, of_part["labels"], "labels") for split, frame in tables.rows.items()}
    texts, manifest = dict(tables.texts), None
    if queries is not None:
        table, manifest = _query_table(queries)
        texts["queries"] = _renamed(table, of_part["queries"], "queries")
    documents = _documents(corpus, texts, of_part["corpus"])
    if rest.get("id") in documents.frame.columns:
        documents = replace(documents, id_column=rest["id"])
    if not tables.texts:
        rows = {split: _with_corpus_ids(frame, documents, rest) for split, frame in rows.items()}
    if "queries" not in texts:
        rows, texts["queries"], rest = _queries_of(rows, rest)
    notes = list(tables.notes)
    if documents.store is not None:
        texts["corpus"] = _labelled_documents(rows, documents.store, rest)
        number = counted(documents.store.count, "document")
        how = (
            "search is exact"
            if isinstance(documents.store, VectorFolder)
            else "figures come from the store's own search"
        )
        notes.append(f"{number} lie in {documents.store.address}: their vectors are read and none is embedded; {how}.")
        # Where a row may lack one; a store of another making need not know.
        if left_out := getattr(documents.store, "without_vector", 0):
            notes.append(f"{counted(left_out, 'row')} of {documents.store.address} left out: without a vector.")
    else:
        texts["corpus"] = documents.frame
    given = (("queries", queries), ("corpus", corpus))
    apart = {part: _name(where) for part, where in given if isinstance(where, (str, os.PathLike))}
    read = replace(tables, rows=rows, texts=texts, notes=tuple(notes), apart=apart, queries_manifest=manifest)
    return read, rest, documents.store


def _name(where: str | os.PathLike[str]) -> str:
    """What a part is called in results: a file without where it lies, an address or the name of a data set whole."""
    path = Path(where).expanduser()
    return path.name if path.exists() else without_secrets(os.fspath(where))


def read_table(source: DataSource, part: Literal["queries", "corpus"]) -> pd.DataFrame:
    """One table of a file, a frame, or a folder of files that are parts of it; of a whole data set the part meant.

    Raises:
        ValueError: there is none, or there are several.
    """
    tables = [read_files(paths) for paths in _files_of(source, part)] or [read_source(source)]
    if any(each.texts for each in tables):
        if len(tables) == 1:
            return tables[0].texts[part]
        raise ValueError("Queries with a corpus and judgements were given where one table is expected. Give the table.")
    return pd.concat([frame for each in tables for frame in each.rows.values()], ignore_index=True)


def _files_of(source: DataSource, part: Literal["queries", "corpus"]) -> list[list[Path]]:
    """The files of a folder that make up one table, each with its shards; none of any other source."""
    if not isinstance(source, (str, os.PathLike)):
        return []
    folder = Path(source).expanduser()
    if not folder.is_dir() or is_saved_to_disk(folder):
        return []
    files = data_files(folder)
    # Of a folder in BEIR form the other files are other tables.
    others = {"queries", "corpus", *JUDGEMENTS} - {part}
    return [files[part]] if part in files else [paths for stem, paths in files.items() if stem not in others]


def _query_table(queries: DataSource) -> tuple[pd.DataFrame, Manifest | None]:
    """The table of the queries; of a folder of vectors it is made of these, and comes with what that says of itself."""
    if not isinstance(queries, (str, os.PathLike)) or not is_vector_folder(queries):
        return read_table(queries, "queries"), None
    folder = VectorFolder(Path(queries))
    if folder.manifest.role != "query":
        raise ValueError(f"{folder.address} holds documents, but queries are expected. Embed them with --role query.")
    return table_of_arrays(folder.ids, folder.rows(np.arange(folder.count))), folder.manifest


def _role(name: str, part: str) -> list[str]:
    before, dot, role = name.partition(".")
    if dot and before not in _PARTS:
        raise InputError(
            f"The mapping of columns names the table {before!r}, but there are {listed(_PARTS)}.",
            python="Write columns={'corpus.id': 'your_column'}.",
            flags="Write --columns corpus.id=YOUR_COLUMN.",
        )
    return [role] if dot and before == part else []


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str], part: str) -> pd.DataFrame:
    """A table whose mapped columns have the names of their roles."""
    for role, column in columns.items():
        if column not in frame.columns:
            raise InputError(
                f"The {part} have no column {column!r}, which was named as {role!r}. "
                f"Found the columns {listed(frame.columns)}.",
                python=f"Map {f'{part}.{role}'!r} to one of these.",
                flags=f"Write --columns {part}.{role}=ONE_OF_THESE.",
            )
        if role in frame.columns and role != column:
            frame = frame.drop(columns=[role])
    renamed: pd.DataFrame = frame.rename(columns={column: role for role, column in columns.items()})
    return renamed


def _documents(
    corpus: DataSource | Store | VectorFolder | None, texts: Mapping[str, pd.DataFrame], columns: Mapping[str, str]
) -> Documents:
    if corpus is None:
        if "corpus" not in texts:
            raise InputError(
                "Queries were given apart, but no corpus.",
                python="Give corpus=... as well: a table, a file, or an opened store.",
                flags="Give --corpus as well: a file, or the address of a vector database.",
            )
        return Documents(texts["corpus"])
    if isinstance(corpus, (str, os.PathLike)) and is_vector_folder(corpus):
        return Documents(pd.DataFrame(), VectorFolder(Path(corpus)))
    if hasattr(corpus, "fetch"):
        return Documents(pd.DataFrame(), corpus)  # type: ignore[arg-type]
    return Documents(_renamed(read_table(corpus, "corpus"), columns, "corpus"))


def _with_corpus_ids(frame: pd.DataFrame, documents: Documents, columns: Mapping[str, str]) -> pd.DataFrame:
    """Labels with a row per document, whose id stands under its usual name."""
    named = {"corpus_id": columns["corpus_id"]} if "corpus_id" in columns else {}
    found = find_columns(frame, _DOCUMENT, named, " in labels", optional=("corpus_id",))
    column = found["corpus_id"][0] if found else _by_content(frame, documents)
    frame = frame.copy()
    frame[column] = pd.Series([laid_out(cell) for cell in frame[column]], index=frame.index, dtype=object)
    frame = frame.explode(column, ignore_index=True)
    return frame if named else frame.rename(columns={column: "corpus_id"})


def _by_content(frame: pd.DataFrame, documents: Documents) -> str:
    """The column whose values are ids of the corpus."""
    found: dict[str, float] = {}
    for column in frame.columns:
        cells = [each for cell in frame[column].head(_LOOKED_AT) for each in laid_out(cell) if not is_missing(each)]
        ids = _distinct(cells)
        if ids:
            found[str(column)] = documents.share_known(ids)
    best = max(found, key=lambda column: found[column], default=None)
    if best is None or found[best] == 0 or [share for share in found.values() if share == found[best]][1:]:
        raise InputError(
            f"None of the columns {listed(frame.columns)} of the labels is known to hold the ids of documents"
            f"{': several do' if best is not None and found[best] > 0 else ', nor are its values ids of the corpus'}.",
            python="Name it with columns={'labels.corpus_id': 'your_column'}.",
            flags="Name it with --columns labels.corpus_id=YOUR_COLUMN.",
        )
    return best


def _is_in(store: Store | VectorFolder, one: str) -> bool:
    try:
        store.fetch([one])
    except ValueError:
        return False
    return True


def _distinct(cells: Collection[Any]) -> list[str]:
    """Cells as ids, each once; whole numbers without a point, as everywhere."""
    values = (int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells)
    return list(dict.fromkeys(str(value) for value in values if isinstance(value, (str, int))))


def _queries_of(
    rows: Mapping[str, pd.DataFrame], columns: Mapping[str, str]
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame, dict[str, str]]:
    """The queries whose texts stand in the labels, and the labels with their ids."""
    numbers: dict[str, str] = {}
    labelled, queries = {}, []
    for split, frame in rows.items():
        named = {role: columns[role] for role in ("query", "query_id") if role in columns}
        found = find_columns(frame, _QUERY, named, " in labels", optional=("query_id",))
        texts = frame[found["query"][0]]
        if "query_id" in found:
            ids = frame[found["query_id"][0]]
        else:
            ids = texts.map(lambda text: numbers.setdefault(repr(text), f"q{len(numbers)}"))
        queries.append(pd.DataFrame({"id": ids, "text": texts}))
        labelled[split] = frame.drop(columns=[column for played in found.values() for column in played]).assign(
            query_id=ids
        )
    rest = {role: column for role, column in columns.items() if role not in ("query", "query_id")}
    return labelled, pd.concat(queries, ignore_index=True), rest


def _labelled_documents(
    rows: Mapping[str, pd.DataFrame], store: Store | VectorFolder, columns: Mapping[str, str]
) -> pd.DataFrame:
    """The documents of a store that the labels name, with their texts if it keeps any."""
    named = [frame[columns.get("corpus_id", "corpus_id")] for frame in rows.values()]
    ids = list(dict.fromkeys(one for column in named for one in as_ids(column, "labels")))
    fetched = store.fetch(ids)
    table: pd.DataFrame = pd.DataFrame({"id": ids, **({} if fetched.texts is None else {"text": fetched.texts})})
    return table
