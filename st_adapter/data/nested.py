"""Lay out data whose texts lie inside objects: SQuAD's articles, and the examples of LangSmith and Langfuse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from st_adapter.data.cells import is_missing
from st_adapter.data.tables import NO_SPLIT, Tables
from st_adapter.words import counted, first_three, listed

# What holds the rows where a file is one object: SQuAD, LlamaIndex's LabelledRagDataset, answers of APIs.
_ROWS = ("data", "examples", "items")
# What is put in, and what is expected of it: LangSmith, and Langfuse, whose api and csv spell it in two ways.
_EXAMPLES = (("inputs", "outputs"), ("input", "expectedOutput"), ("input", "expected_output"))


def rows_of(content: Any) -> Any:
    """The rows of JSON content that says other things beside them: ``{"version": "1", "examples": [{...}]}``."""
    if not isinstance(content, Mapping):
        return content
    lists = [key for key, value in content.items() if isinstance(value, list)]
    if len(lists) == 1 and lists[0] in _ROWS and all(isinstance(row, Mapping) for row in content[lists[0]]):
        return content[lists[0]]
    return content


# --- SQuAD ---


def read_squad(content: Mapping[str, Any]) -> Tables | None:
    """Read SQuAD's file: articles with paragraphs, each a document, with the questions that it answers.

    Rajpurkar et al. 2016 and 2018. Questions that are marked as impossible, of version 2, have no document.

    Returns:
        Queries, corpus and judgements; None if the content is of another kind.

    Raises:
        ValueError: a paragraph or a question lacks something.
    """
    articles = content.get("data")
    if not isinstance(articles, list) or not any(
        isinstance(each, Mapping) and "paragraphs" in each for each in articles
    ):
        return None
    queries, judged, impossible = [], [], 0
    corpus: list[tuple[str, Any, Any]] = []
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                document = f"p{len(corpus)}"
                corpus.append((document, article.get("title"), paragraph["context"]))
                for asked in paragraph["qas"]:
                    if asked.get("is_impossible"):
                        impossible += 1
                        continue
                    queries.append((asked["id"], asked["question"]))
                    judged.append((asked["id"], document))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"an article, paragraph or question of SQuAD's form is not whole ({type(error).__name__}: {error}). "
            "Expected data > paragraphs > context and qas > id and question"
        ) from error
    qrels = pd.DataFrame(judged, columns=["query_id", "corpus_id"], dtype=object)
    texts = {
        "queries": pd.DataFrame(queries, columns=["id", "text"], dtype=object),
        "corpus": pd.DataFrame(corpus, columns=["id", "title", "text"], dtype=object),
    }
    return Tables({NO_SPLIT: qrels}, texts, notes=_impossible(impossible))


def _impossible(number: int) -> tuple[str, ...]:
    return (f"{counted(number, 'question')} without an answer in its paragraph left out.",) if number else ()


def _answerable(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of SQuAD as a table whose question the context answers: `answers` holds the places in it."""
    cells = frame["answers"].tolist() if {"question", "context", "answers"} <= set(frame.columns) else []
    if not cells or not all(isinstance(cell, Mapping) and {"text", "answer_start"} <= set(cell) for cell in cells):
        return frame, ()
    answered = [len(cell["text"]) > 0 for cell in cells]
    return frame[answered].reset_index(drop=True), _impossible(answered.count(False))


# --- LangSmith and Langfuse ---


def unnested(tables: Tables) -> Tables:
    """Tables of rows with the values of nested examples as columns of their own; others as they are.

    Raises:
        ValueError: some rows of an example's column hold objects, and some do not.
    """
    rows, notes = {}, list(tables.notes)
    for split, frame in tables.rows.items():
        rows[split], how = _unnested(frame, f" in split {split!r}" if split else "")
        rows[split], left_out = _answerable(rows[split])
        notes += [*how, *left_out]
    return replace(tables, rows=rows, notes=tuple(notes))


def _unnested(frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    pair = next((pair for pair in _EXAMPLES if set(pair) <= set(frame.columns)), ())
    found = {column: cells for column in pair if (cells := _objects(frame[column].tolist(), column, where)) is not None}
    for column, cells in found.items():
        values = pd.DataFrame([cell or {} for cell in cells], dtype=object, index=frame.index)
        others = set(frame.columns) - {column}
        values.columns = pd.Index([f"{column}.{name}" if name in others else str(name) for name in values.columns])
        frame = pd.concat([frame.drop(columns=[column]), values], axis=1)
    return frame, (f"Columns {listed(found)}{where} hold objects; their values were read as columns.",) if found else ()


def _objects(cells: Sequence[Any], column: str, where: str) -> list[Mapping[str, Any] | None] | None:
    """The cells of a column as objects, None for those that hold nothing; None if they are no objects."""
    read = [_object(cell) for cell in cells]
    strange = [
        f"row {number}"
        for number, (cell, found) in enumerate(zip(cells, read, strict=True))
        if found is None and not is_missing(cell)
    ]
    if 2 * sum(each is not None for each in read) <= sum(not is_missing(cell) for cell in cells):
        return None  # texts, of which a few may look like objects
    if strange:
        raise ValueError(
            f"Column {column!r}{where} holds objects, but not in {counted(len(strange), 'row')}: "
            f"{first_three(strange)}. Expected an object with named values in each. Mend these rows, or take them out."
        )
    return read


def _object(cell: Any) -> Mapping[str, Any] | None:
    """An object, as it is or written as JSON, which is how csv files hold it."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "{":
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    return cell if isinstance(cell, Mapping) else None
