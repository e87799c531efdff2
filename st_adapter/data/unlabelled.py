"""Documents alone, without a query that asks for any of them."""

from __future__ import annotations

from collections.abc import Mapping

import datasets
import pandas as pd

from st_adapter.data.cells import as_ids
from st_adapter.data.columns import CORPUS_COLUMNS, find_columns
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.parts import read_table
from st_adapter.data.sources import DataSource

_TEXTS = {role: CORPUS_COLUMNS[role] for role in ("id", "text", "title")}
_FEATURES = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("string")})


def documents_alone(source: DataSource, columns: Mapping[str, str] | None = None, name: str = "") -> RetrievalDataset:
    """A data set of a table of documents, with no queries and no judgements.

    Args:
        source: as ``RetrievalDataset.load`` takes a corpus: a file, a folder of them, or a frame.
        columns: role (``id``, ``text``, ``title``) -> its column, where it has an unusual name.
        name: of the data, for results and card.

    Raises:
        ValueError: there is no column of texts, or no document.

    Example:
        >>> documents_alone(pd.DataFrame({"text": ["How to fit. It takes seconds.", "How to save."]})).num_documents
        2
    """
    frame = read_table(source)
    found = find_columns(frame, _TEXTS, columns or {}, " in corpus", optional=("id", "title"))
    texts = frame[found["text"][0]].fillna("").astype(str).str.strip()
    if "title" in found:
        titles = frame[found["title"][0]].fillna("").astype(str).str.strip()
        texts = (titles + " " + texts).str.strip()
    ids = as_ids(frame[found["id"][0]], "corpus") if "id" in found else [f"d{row}" for row in range(len(frame))]
    table = pd.DataFrame({"id": list(ids), "text": texts.to_numpy()})
    table = table[table["text"] != ""].drop_duplicates("text")
    if table.empty:
        raise ValueError("The corpus holds no document with a text, so there is nothing to learn from.")
    corpus = datasets.Dataset.from_dict({each: table[each].tolist() for each in _FEATURES}, features=_FEATURES)
    none = datasets.Dataset.from_dict({each: [] for each in _FEATURES}, features=_FEATURES)
    return RetrievalDataset(queries=none, corpus=corpus, qrels={}, name=name)
