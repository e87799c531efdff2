"""Equal texts under several ids: one query, or one document, in whatever is counted."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from st_adapter.data.cells import as_ids, document_text, with_title
from st_adapter.data.columns import CORPUS_COLUMNS, QUERIES_COLUMNS, find_columns


def ids_of_equal_texts(
    texts: Mapping[str, pd.DataFrame], columns: Mapping[str, str], documents_are_stored: bool
) -> dict[str, dict[str, str]]:
    """The role of an id -> each id -> the first one that has its text; see `merged`.

    Args:
        texts: the tables of the ``queries`` and of the ``corpus``.
        columns: role -> column, as named by the user.
        documents_are_stored: whether the documents' vectors lie elsewhere, where each is one of its own.
    """
    same: dict[str, dict[str, str]] = {"query_id": {}, "corpus_id": {}}
    for part, usual, role in (("queries", QUERIES_COLUMNS, "query_id"), ("corpus", CORPUS_COLUMNS, "corpus_id")):
        table = texts[part]
        here = {name: column for name, column in columns.items() if column in table.columns}
        its = find_columns(table, usual, here, f" in {part}", optional=("text",))
        # Documents that came with vectors stay apart.
        if "text" not in its or (part == "corpus" and (documents_are_stored or "embedding" in its)):
            continue
        titles = table[its["title"][0]].tolist() if "title" in its else [None] * len(table)
        first: dict[str, str] = {}
        for one, title, cell in zip(
            as_ids(table[its["id"][0]], part), titles, table[its["text"][0]].tolist(), strict=True
        ):
            text = with_title(title, document_text(cell))
            if isinstance(text, str) and text.strip():
                same[role][one] = first.setdefault(text, one)
    return same


def with_one_id_each(
    frame: pd.DataFrame, found: Mapping[str, list[str]], same: Mapping[str, Mapping[str, str]]
) -> pd.DataFrame:
    """A log in which equal texts have one id, so that their clicks are counted together.

    Args:
        frame: pairs of ids.
        found: role -> columns that play it.
        same: as ``ids_of_equal_texts`` gives it.
    """
    for role, first in same.items():
        [column] = found[role]
        ids = [first.get(one, one) for one in as_ids(frame[column], "qrels")]
        frame = frame.assign(**{str(column): pd.Series(ids, index=frame.index, dtype=object)})
    return frame
