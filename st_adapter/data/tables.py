"""Tables as they were found: pairs, or queries with a corpus and judgements, one table per split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa

from st_adapter.storage.manifest import Manifest
from st_adapter.words import first_three, listed

NO_SPLIT = ""  # the key of a table that came without the name of a split
JUDGEMENTS = ("qrels", "relevant_docs")  # BEIR's word, and that of Sentence Transformers and LlamaIndex
_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "devel", "development", "validation", "validate", "valid", "val", "eval", "evaluation"),
    "test": ("test", "tests", "testing", "tst"),
}
SPLIT_OF_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# What stands beside it in the names of files: train_dataset.json, test-pairs.csv.
_PLAIN_WORDS = ("data", "dataset", "set", "split", "pairs", "df", "queries", "qrels")


@dataclass(frozen=True)
class Tables:
    """What was found in a source: pairs, or judgements beside queries and a corpus.

    Attributes:
        rows: Split as the source calls it, `NO_SPLIT` where it names none -> pairs, or judgements if there are texts.
        texts: `queries` and `corpus`; empty for pairs.
        name: Where they come from.
        notes: What was done to read them.
        queries_manifest: What queries that are a folder of vectors say of themselves.
        apart: `queries` and `corpus`, if these were given apart from the judgements and by a name -> the name.
    """

    rows: Mapping[str, pd.DataFrame]
    texts: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    name: str = ""
    notes: tuple[str, ...] = ()
    apart: Mapping[str, str] = field(default_factory=dict)
    queries_manifest: Manifest | None = None


def usual_split(name: str) -> str | None:
    """The usual name of a split, train, dev or test, that a name says in other words; None if it says none.

    Examples:
        >>> usual_split("Validation"), usual_split("train_dataset"), usual_split("test_hard")
        ('dev', 'train', None)
    """
    first, *others = re.split(r"[-_. ]+", name.strip().casefold())
    return SPLIT_OF_WORD.get(first) if all(word in _PLAIN_WORDS for word in others) else None


def as_frame(table: Any) -> pd.DataFrame:
    """One table as a pandas frame."""
    frame: pd.DataFrame
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, datasets.Dataset):
        frame = table.with_format(None).to_pandas()
        return frame
    if hasattr(table, "__arrow_c_stream__"):  # polars, pyarrow, DuckDB and others: the Arrow PyCapsule interface
        arrow = pa.table(table)
        for place, column in enumerate(arrow.columns):
            if pa.types.is_nested(column.type) and "_view" in str(column.type):
                # Lists of polars' texts, which pyarrow does not give to pandas.
                arrow = arrow.set_column(place, arrow.column_names[place], pa.array(column.to_pylist()))
        frame = arrow.to_pandas()
        return frame
    if isinstance(table, Sequence) and not isinstance(table, (str, bytes)):
        return _frame_of_rows(table)
    raise ValueError(
        f"The data is of type {type(table).__name__}, but expected a datasets.Dataset, a datasets.DatasetDict, a "
        "pandas or polars DataFrame, a list of dicts or of InputExamples, a mapping of these, a path, or the id of a "
        "Hub data set. Turn it into one of these first, for example with `datasets.Dataset.from_list(rows)`."
    )


def _frame_of_rows(rows: Sequence[Any]) -> pd.DataFrame:
    """A list of dicts, or of the InputExamples of Sentence Transformers, as a frame.

    Of InputExamples the first text is the query, the second its document, further ones are negatives. The label counts
    unless all are 0, which is what they are if nobody gave one.
    """
    examples = [hasattr(row, "texts") and hasattr(row, "label") for row in rows]
    if rows and all(examples):
        numbers = {len(row.texts or ()) for row in rows}
        if len(numbers) > 1 or min(numbers) < 2:
            raise ValueError(
                f"The InputExamples have {', '.join(map(str, sorted(numbers)))} texts. Expected as many in each: a "
                "query, a document, and negatives if any."
            )
        names = ["query", "document", *(f"negative_{number}" for number in range(1, max(numbers) - 1))]
        rows = [dict(zip((*names, "label"), (*row.texts, row.label), strict=True)) for row in rows]
        if not any(row["label"] for row in rows):
            rows = [{name: row[name] for name in names} for row in rows]
    strange = [f"row {number}" for number, row in enumerate(rows) if not isinstance(row, Mapping)]
    if strange:
        kind = type(rows[int(strange[0].split()[1])]).__name__
        raise ValueError(
            f"The data is a list in which {first_three(strange)} are of type {kind}. Expected a dict with named "
            "values in each row, or an InputExample."
        )
    # As objects, so that numbers stay whole where some rows have none.
    frame: pd.DataFrame = pd.DataFrame(list(rows), dtype=object)
    return frame


def read_mapping(parts: Mapping[str, Any], name: str) -> Tables:
    """Read a mapping of split -> pairs, or one of corpus, queries and qrels (judgements, or split -> judgements)."""
    if not parts:
        raise ValueError(
            "The data set holds no table at all. Give one table per split, such as {'train': ..., 'test': ...}."
        )
    if not {"corpus", "queries"} <= set(parts):
        return Tables({str(split): as_frame(table) for split, table in parts.items()}, name=name)
    judgements = next((part for part in JUDGEMENTS if part in parts), None)
    if judgements is None:
        raise ValueError(
            f"The data set has the parts {listed(parts)}, but no 'qrels'. Add the judgements: a table with "
            "query_id, corpus_id and score, or one such table per split."
        )
    qrels = parts[judgements]
    parts_of_qrels = qrels.values() if isinstance(qrels, Mapping) else ()
    # An empty split is one all the same, and is named later.
    filled = [judged for judged in parts_of_qrels if not (isinstance(judged, Mapping) and not judged)]
    by_split = bool(filled) and all(map(_are_judgements, filled))
    tables = qrels if by_split else {NO_SPLIT: qrels}
    unused = sorted(set(parts) - {"corpus", "queries", judgements})
    return Tables(
        {str(split): as_frame(_judged(table)) for split, table in tables.items()},
        {part: _texts(parts[part]) for part in ("queries", "corpus")},
        name,
        notes=(f"Parts left unused: {listed(unused)}.",) if unused else (),
    )


def _texts(table: Any) -> pd.DataFrame:
    """A table of texts; of id -> text, or id -> title and text, the rows are made."""
    if not isinstance(table, Mapping):
        return as_frame(table)
    rows = [{"id": given, **(text if isinstance(text, Mapping) else {"text": text})} for given, text in table.items()]
    frame: pd.DataFrame = pd.DataFrame(rows, dtype=object)
    return frame


def _are_judgements(value: Any) -> bool:
    """Whether these are judgements of a split, not of one query."""
    if isinstance(value, Mapping):
        return len(value) > 0 and all(isinstance(judged, Mapping | list | tuple | set) for judged in value.values())
    return isinstance(value, pd.DataFrame | datasets.Dataset)


def _judged(table: Any) -> Any:
    """A table of judgements; of query id -> relevant ids, or query id -> id -> relevance, the rows are made."""
    if not isinstance(table, Mapping):
        return table
    rows = []
    for query_id, judged in table.items():
        if isinstance(judged, (str, int)) or not isinstance(judged, Iterable):
            raise ValueError(
                f"The judgements of query {str(query_id)!r} are {str(judged)[:60]!r}, a {type(judged).__name__}. "
                "Expected the ids of its relevant documents, or id -> relevance."
            )
        graded = judged if isinstance(judged, Mapping) else dict.fromkeys(judged, 1)
        rows += [
            {"query_id": query_id, "corpus_id": given, "relevance": relevance} for given, relevance in graded.items()
        ]
    return pd.DataFrame(rows, columns=["query_id", "corpus_id", "relevance"], dtype=object)
