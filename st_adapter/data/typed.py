"""Tables as ``datasets`` has them, with the types that queries, documents and judgements have."""

from __future__ import annotations

import datasets
import pandas as pd

_STRING = datasets.Value("string")
_QRELS = datasets.Features({"query_id": _STRING, "corpus_id": _STRING, "relevance": datasets.Value("float64")})


def as_texts(table: pd.DataFrame) -> datasets.Dataset:
    """Queries or documents, with columns of strings."""
    return _dataset(table, datasets.Features({column: _STRING for column in table}))


def as_qrels(table: pd.DataFrame) -> datasets.Dataset:
    """Judgements, with `query_id`, `corpus_id` and `relevance`."""
    return _dataset(table, _QRELS)


def by_id(table: datasets.Dataset) -> pd.Series:
    """Id -> text of queries or documents; of those without texts, the id itself."""
    frame = table.to_pandas()
    found: pd.Series = frame.set_index("id", drop=False)["text" if "text" in frame else "id"]
    return found


def _dataset(table: pd.DataFrame, features: datasets.Features) -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: table[column].tolist() for column in features}, features=features)
