"""What is judged: texts that are the same, judgements of them, and what has no relevant document."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from st_adapter.data.cutting import text_key
from st_adapter.data.labels import check_least
from st_adapter.data.layout import LaidOut
from st_adapter.data.tables import NO_SPLIT
from st_adapter.errors import InputError
from st_adapter.stores.store import Vectors
from st_adapter.words import counted, first_three


def own_copies(queries: Iterable[str], corpus: Iterable[str]) -> tuple[list[int], list[int]]:
    """Find the queries that stand in the corpus themselves, apart from case, width and spacing.

    A search finds them first, though nobody who asks wants the question back. Ids do not count: equal ids with
    different texts are common, and the same text under another id is the same text.

    Returns:
        Two lists of the same length: places of queries, and of the documents with their text.

    Examples:
        >>> own_copies(["How to sort?", "How to search?"], ["Call sorted().", "how  to sort?", "HOW TO SORT?"])
        ([0, 0], [1, 2])
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(queries):
        rows_of.setdefault(text_key(text), []).append(row)
    pairs = [(row, place) for place, text in enumerate(corpus) for row in rows_of.get(text_key(text), ())]
    pairs.sort()
    return [row for row, _ in pairs], [place for _, place in pairs]


class Merged(NamedTuple):
    """Queries or documents, each once.

    Attributes:
        table: `id`, and `text` if it is known; both unique, but for documents whose vectors are given.
        ids: Every id that was given -> the id that stands for its text.
        rows: Which of the rows that were given are left.
        notes: What was merged.
    """

    table: pd.DataFrame
    ids: dict[str, str]
    rows: NDArray[np.int64]
    notes: list[str]

    @property
    def texts(self) -> pd.Series | None:
        """Text by id, if it is known."""
        return self.table.set_index("id")["text"] if "text" in self.table else None


def merged(
    frame: pd.DataFrame, singular: str, plural: str, by_text: bool = True, vectors: Vectors | None = None
) -> Merged:
    """Keep one row per id and, where asked for, per text, the first; ids that stand for two are an error.

    Vectors that came with their ids are what an index holds: no document of it is dropped for having the text of
    another one, and an id that stands for two vectors is an error as well.
    """
    frame = frame.reset_index(drop=True)
    once = frame.drop_duplicates()
    _check_one_each(once["id"][once["id"].duplicated()], singular, "texts")
    again = frame["id"][frame["id"].duplicated()]
    if vectors is not None and len(again):
        first = pd.Series(once.index, index=once["id"]).loc[again].to_numpy()
        differ = (vectors[first] != vectors[again.index.to_numpy()]).any(axis=1)
        _check_one_each(again[differ], singular, "vectors")
    notes = []
    if len(once) < len(frame):
        notes.append(f"{counted(len(frame) - len(once), 'repeated row')} of the {plural} read once.")
    if not by_text or "text" not in once:
        return Merged(once, dict(zip(once["id"], once["id"], strict=True)), once.index.to_numpy(), notes)
    table = once.drop_duplicates("text")
    if len(table) < len(once):
        number = len(once) - len(table)
        notes.append(f"{counted(number, singular, plural)} with exactly the text of an earlier one merged into it.")
    id_of_text = table.set_index("text")["id"]
    ids = dict(zip(once["id"], once["text"].map(id_of_text), strict=True))
    return Merged(table, ids, table.index.to_numpy(), notes)


def _check_one_each(torn: pd.Series, singular: str, several: str) -> None:
    ids = torn.unique().tolist()
    if ids:
        raise ValueError(
            f"{counted(len(ids), f'{singular} id')} given to several different {several}: {first_three(ids)}. "
            f"Expected one {several[:-1]} per id. Rename or remove the others."
        )


def resolved(qrels: pd.DataFrame, query_ids: Mapping[str, str], corpus_ids: Mapping[str, str]) -> pd.DataFrame:
    """Point qrels at the ids that were kept, after checking that all of them are known."""
    for column, known, where in (("query_id", query_ids, "queries"), ("corpus_id", corpus_ids, "corpus")):
        unknown = [str(given) for given in qrels[column].unique() if given not in known]
        if unknown:
            number = counted(len(unknown), f"{column} of the qrels", f"{column}s of the qrels")
            raise ValueError(
                f"{number} not in the {where}: {first_three(unknown)}. "
                f"Expected only ids that are there, such as {first_three(list(known))}. "
                f"Add the missing rows to the {where}, or take these out of the qrels."
            )
    known_ids: pd.DataFrame = qrels.assign(
        query_id=qrels["query_id"].map(query_ids), corpus_id=qrels["corpus_id"].map(corpus_ids)
    )
    return known_ids


def with_least_relevant(rows: LaidOut, relevant_from: float | None) -> LaidOut:
    """The judgements with lower relevance as not relevant, without the queries that this leaves with none."""
    if relevant_from is None:
        return rows
    relevance = rows.qrels["relevance"]
    check_least(relevant_from, "relevance")
    if rows.relevance_notes is None:
        raise InputError(
            "The least relevance that counts was given, but no score column was found.",
            python="Name it with columns={'score': 'your_column'}.",
            flags="Name it with --score-column YOUR_COLUMN.",
        )
    qrels = rows.qrels.assign(relevance=relevance.where(relevance >= relevant_from, relevance.clip(upper=0)))
    lowered = int(((relevance > 0) & (relevance < relevant_from)).sum())
    note = f"{counted(lowered, 'judgement')} above 0, but below {relevant_from:g}, read as not relevant."
    return replace(rows, qrels=qrels, relevance_notes=[note] if lowered else [], may_lack_relevant=True)


def without_lacking(qrels: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The judgements of queries that have a relevant document in their split, and a note on the others."""
    best = qrels.groupby(["split", "query_id"], sort=False, dropna=False)["relevance"].transform("max")
    number = qrels.loc[best <= 0, "query_id"].nunique()
    if not number:
        return qrels, []
    kept = qrels[best > 0]
    emptied = [split for split in dict.fromkeys(qrels["split"]) if split not in set(kept["split"])]
    if emptied or kept.empty:
        of = f" of split {emptied[0]!r}" if emptied and emptied[0] != NO_SPLIT else ""
        number = int(qrels["query_id"][qrels["split"] == emptied[0]].nunique()) if of else number
        raise InputError(
            f"None of {counted(number, 'query', 'queries')}{of} has a document that counts as relevant.",
            python="Give a lower relevant_from, or leave these queries out.",
            flags="Give a lower --relevant-from, or leave these queries out.",
        )
    return kept, [f"{counted(number, 'query', 'queries')} without a relevant document left out of all splits."]


def once_each(qrels: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One judgement of each query and document in a split, the highest, and a note on the others."""
    once: pd.DataFrame = qrels.groupby(["split", "query_id", "corpus_id"], sort=False, as_index=False).agg(
        {"relevance": "max"}
    )
    if len(once) == len(qrels):
        return once, []
    number = counted(len(qrels) - len(once), "repeated judgement")
    return once, [f"{number} of the same query and document merged; the highest was kept."]


def check_relevant(qrels: pd.DataFrame, texts: pd.Series | None) -> None:
    """Refuse splits with queries that have no relevant document in them."""
    best = qrels.groupby(["split", "query_id"], sort=False)["relevance"].max()
    for split, without in best[best <= 0].groupby(level="split", sort=False):
        shown = [query_id if texts is None else f"{query_id}: {texts[query_id][:60]}" for _, query_id in without.index]
        raise InputError(
            f"{counted(len(shown), 'query', 'queries')}{f' of split {split!r}' if split else ''} without any relevant "
            f"document (relevance above 0): {first_three(shown)}. Expected at least one each. "
            "Add their relevant documents, or take them out:",
            python="with relevant_from, the least relevance that counts, they are left out.",
            flags="with --relevant-from, the least relevance that counts, they are left out.",
        )


def overlap_notes(by_split: Mapping[str, pd.DataFrame], texts: pd.Series | None) -> list[str]:
    """Notes on the query texts that stand in two splits."""
    if texts is None:
        return []
    present = {split: set(map(text_key, texts[rows["query_id"].unique()])) for split, rows in by_split.items()}
    notes = []
    for earlier, later in itertools.combinations(present, 2):
        number = len(present[earlier] & present[later])
        if number:
            stand = "query text stands" if number == 1 else "query texts stand"
            notes.append(
                f"{number} {stand} in both {earlier!r} and {later!r} (apart from case and spacing); kept in both."
            )
    return notes


def own_copy_notes(qrels: pd.DataFrame, texts: pd.Series | None, documents: pd.Series | None) -> list[str]:
    """A note on the queries that stand in the corpus without being judged relevant there."""
    if texts is None or documents is None:
        return []
    rows, places = own_copies(texts, documents)
    copies = pd.DataFrame({"query_id": texts.index[rows], "corpus_id": documents.index[places]})
    searched = qrels[["split", "query_id"]].drop_duplicates().merge(copies)
    relevant = qrels.loc[qrels["relevance"] > 0, ["split", "query_id", "corpus_id"]]
    found = searched.merge(relevant, how="left", indicator=True)
    number = found.loc[found["_merge"] == "left_only", "query_id"].nunique()
    if not number:
        return []
    return [
        f"{counted(number, 'query stands', 'queries stand')} in the corpus as documents too (apart from case and "
        "spacing); such a copy is left out of the query's hits and negatives, unless it is judged relevant."
    ]
