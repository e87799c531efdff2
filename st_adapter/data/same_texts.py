"""Equal texts under several ids: one query, or one document, in whatever is counted."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from st_adapter.data.cells import as_ids, document_text, with_title
from st_adapter.data.columns import CORPUS_COLUMNS, QUERIES_COLUMNS, find_columns


def with_one_id_each(
    frame: pd.DataFrame,
    found: Mapping[str, list[str]],
    texts: Mapping[str, pd.DataFrame],
    columns: Mapping[str, str],
    documents_are_stored: bool,
) -> pd.DataFrame:
    """A log in which equal texts have one id, so that their clicks are counted together.

    Args:
        frame: pairs of ids.
        found: role -> columns that play it.
        texts: the tables of the ``queries`` and of the ``corpus``.
        columns: role -> column, as named by the user.
        documents_are_stored: whether the documents' vectors lie elsewhere, where each is one of its own.
    """
    for part, usual, role in (("queries", QUERIES_COLUMNS, "query_id"), ("corpus", CORPUS_COLUMNS, "corpus_id")):
        table = texts[part]
        here = {name: column for name, column in columns.items() if column in table.columns}
        its = find_columns(table, usual, here, f" in {part}", optional=("text",))
        same: dict[str, str] = {}
        # Documents that came with vectors stay apart.
        if "text" in its and not (part == "corpus" and (documents_are_stored or "embedding" in its)):
            titles = table[its["title"][0]].tolist() if "title" in its else [None] * len(table)
            cells = zip(as_ids(table[its["id"][0]], part), titles, table[its["text"][0]].tolist(), strict=True)
            first: dict[str, str] = {}
            for one, title, cell in cells:
                text = with_title(title, document_text(cell))
                if isinstance(text, str) and text.strip():
                    same[one] = first.setdefault(text, one)
        [column] = found[role]
        ids = [same.get(one, one) for one in as_ids(frame[column], "qrels")]
        frame = frame.assign(**{str(column): pd.Series(ids, index=frame.index, dtype=object)})
    return frame
