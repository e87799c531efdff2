"""What has no labels: documents that no query asks for, and queries of which nobody said what answers them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from st_adapter.data.cells import check_texts
from st_adapter.data.columns import CORPUS_COLUMNS, PAIR_COLUMNS, QUERIES_COLUMNS, check_mapping, find_columns
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.files import format_of
from st_adapter.data.judgements import merged
from st_adapter.data.layout import laid_out_part
from st_adapter.data.parts import read_table
from st_adapter.data.sources import DataSource
from st_adapter.data.text_files import decoded
from st_adapter.data.typed import as_texts
from st_adapter.storage.manifest import is_vector_folder
from st_adapter.words import listed

_TEXTS = {role: CORPUS_COLUMNS[role] for role in ("id", "text", "title")}
# A text may be that of a document where there is a query beside it, and a title where there is a text.
_QUERIES = (*(name for name in PAIR_COLUMNS["query"] if name != "title"), *QUERIES_COLUMNS["text"], "title")
# The column of ids that a table without any gets.
_NUMBER = "number of the row"


def documents_alone(source: DataSource, columns: Mapping[str, str] | None = None, name: str = "") -> RetrievalDataset:
    """A data set of a table of documents, with no queries and no judgements.

    Args:
        source: as ``RetrievalDataset.load`` takes a corpus: a file, a folder of them, or a frame.
        columns: role (``id``, ``text``, ``title``) -> its column, where it has an unusual name.
        name: of the data, for results and card.

    Raises:
        ValueError: there is no column of texts, or no document; a text or an id is none, or one id has two texts; a
            role or its column is not there.

    Examples:
        >>> documents_alone(pd.DataFrame({"text": ["How to fit. It takes seconds.", "How to save."]})).num_documents
        2
    """
    if isinstance(source, (str, os.PathLike)) and is_vector_folder(source):
        raise ValueError(f"{source} holds vectors without texts, but texts are expected. Name the file they came from.")
    frame = read_table(source, "corpus")
    check_mapping(columns or {}, _TEXTS, [frame])
    found = find_columns(frame, _TEXTS, columns or {}, " in corpus", optional=("id", "title"))
    column = found["text"][0]
    frame = frame.assign(**{column: [cell.strip() if isinstance(cell, str) else cell for cell in frame[column]]})
    if "id" not in found:
        frame, found = frame.assign(**{_NUMBER: [f"d{row}" for row in range(len(frame))]}), {**found, "id": [_NUMBER]}
    part = laid_out_part("corpus", frame, found, judged=set())
    if part.table.empty:
        raise ValueError("The corpus holds no document with a text, so there is nothing to learn from.")
    corpus = merged(part.table, "document", "documents")
    return RetrievalDataset(
        queries=as_texts(pd.DataFrame({"id": [], "text": []})),
        corpus=as_texts(corpus.table),
        qrels={},
        name=name,
        notes=(*part.notes, *corpus.notes),
    )


def queries_alone(source: DataSource | Sequence[str]) -> list[str]:
    """Queries without labels, such as those of a log, each once.

    Args:
        source: texts, in a list, series or array; a text file, with one in each line; or a table as
            ``RetrievalDataset.load`` takes it, with a column of queries under a usual name, or with one column.

    Raises:
        ValueError: there is no such file, no column of queries, or no query; or one is no text.

    Examples:
        >>> queries_alone(["how to fit", "how to save", "how to fit "])
        ['how to fit', 'how to save']
    """
    cells = _cells(source)
    texts = [cell.strip() for cell in cells if isinstance(cell, str)]
    if strange := [cell for cell in cells if not isinstance(cell, str)]:
        raise ValueError(
            f"{len(strange)} of the queries without labels are no texts, the first: {strange[0]!r}. Give texts."
        )
    queries = list(dict.fromkeys(filter(None, texts)))
    if not queries:
        raise ValueError("The queries without labels are none: there is no text. Give some, or leave them out.")
    check_texts(queries, [repr(query[:60]) for query in queries], "queries without labels", ())
    return queries


def _cells(source: DataSource | Sequence[str]) -> list[object]:
    if isinstance(source, Sequence | pd.Series | np.ndarray) and not isinstance(source, str):
        return list(source)
    if isinstance(source, str | os.PathLike) and (path := Path(source)).is_file() and format_of(path) is None:
        # str.splitlines() would also cut at characters that stand within a line.
        return list(re.split(r"\r\n|\r|\n", decoded(path.read_bytes())[0]))
    frame = read_table(source, "queries")
    if len(frame.columns) == 1:
        return list(frame.iloc[:, 0].dropna())
    found = find_columns(frame, {"query": _QUERIES}, {}, "", optional=("query",))
    if "query" not in found:
        raise ValueError(
            f"No query column was found in the queries without labels: their columns are {listed(frame.columns)}. Give "
            f"a table with one column, or call the one of the queries 'query'."
        )
    return list(frame[found["query"][0]].dropna())
