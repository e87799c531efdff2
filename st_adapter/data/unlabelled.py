"""Documents alone, without a query that asks for any of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from st_adapter.data.columns import CORPUS_COLUMNS, find_columns
from st_adapter.data.dataset import RetrievalDataset, as_texts
from st_adapter.data.judgements import merged
from st_adapter.data.layout import laid_out_part
from st_adapter.data.parts import read_table
from st_adapter.data.sources import DataSource
from st_adapter.storage.manifest import is_vector_folder

_TEXTS = {role: CORPUS_COLUMNS[role] for role in ("id", "text", "title")}
# The column of ids that a table without any gets.
_NUMBER = "number of the row"


def documents_alone(source: DataSource, columns: Mapping[str, str] | None = None, name: str = "") -> RetrievalDataset:
    """A data set of a table of documents, with no queries and no judgements.

    Args:
        source: as ``RetrievalDataset.load`` takes a corpus: a file, a folder of them, or a frame.
        columns: role (``id``, ``text``, ``title``) -> its column, where it has an unusual name.
        name: of the data, for results and card.

    Raises:
        ValueError: there is no column of texts, or no document; a text or an id is none, or one id has two texts.

    Example:
        >>> documents_alone(pd.DataFrame({"text": ["How to fit. It takes seconds.", "How to save."]})).num_documents
        2
    """
    if isinstance(source, (str, os.PathLike)) and is_vector_folder(Path(source)):
        raise ValueError(f"{source} holds vectors without texts, but texts are expected. Name the file they came from.")
    frame = read_table(source)
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
