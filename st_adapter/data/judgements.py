"""What is judged: texts that are the same, judgements of them, and what has no relevant document."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from st_adapter.data.cutting import normalised
from st_adapter.data.layout import LaidOut
from st_adapter.errors import InputError
from st_adapter.words import counted, first_three


def own_copies(queries: Iterable[str], corpus: Iterable[str]) -> tuple[list[int], list[int]]:
    """Find the queries that stand in the corpus themselves, apart from case, width and spacing.

    A search finds them first, though nobody who asks wants the question back. Ids do not count: equal ids with
    different texts are common, and the same text under another id is the same text.

    Returns:
        Two lists of the same length: places of queries, and of the documents with their text.

    Example:
        >>> own_copies(["How to sort?", "How to search?"], ["Call sorted().", "how  to sort?", "HOW TO SORT?"])
        ([0, 0], [1, 2])
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(queries):
        rows_of.setdefault(normalised(text), []).append(row)
    pairs = [(row, place) for place, text in enumerate(corpus) for row in rows_of.get(normalised(text), ())]
    pairs.sort()
    return [row for row, _ in pairs], [place for _, place in pairs]


class _Merged(NamedTuple):
    table: pd.DataFrame  # id, text; both unique
    ids: dict[str, str]  # every id that was given -> the id that stands for its text
    notes: list[str]


def merge(frame: pd.DataFrame, singular: str, plural: str) -> _Merged:
    """Keep one row per id and per text, the first; ids that stand for two texts are an error."""
    once = frame.drop_duplicates()
    torn = once["id"][once["id"].duplicated()].unique().tolist()
    if torn:
        raise ValueError(
            f"{counted(len(torn), f'{singular} id')} given to several different texts: {first_three(torn)}. "
            "Expected one text per id. Rename or remove the others."
        )
    notes = []
    if len(once) < len(frame):
        notes.append(f"{counted(len(frame) - len(once), 'repeated row')} of the {plural} read once.")
    table = once.drop_duplicates("text")
    if len(table) < len(once):
        number = len(once) - len(table)
        notes.append(f"{counted(number, singular, plural)} with exactly the text of an earlier one merged into it.")
    id_of_text = dict(zip(table["text"], table["id"], strict=True))
    ids = {given: id_of_text[text] for given, text in zip(once["id"], once["text"], strict=True)}
    return _Merged(table, ids, notes)


def resolve(qrels: pd.DataFrame, query_ids: Mapping[str, str], corpus_ids: Mapping[str, str]) -> pd.DataFrame:
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
    resolved: pd.DataFrame = qrels.assign(
        query_id=qrels["query_id"].map(query_ids), corpus_id=qrels["corpus_id"].map(corpus_ids)
    )
    return resolved


def with_least_relevant(parts: LaidOut, relevant_from: float) -> LaidOut:
    """The judgements with lower scores as not relevant, without the queries that this leaves with none."""
    scores = parts.qrels["score"]
    if not (math.isfinite(relevant_from) and relevant_from > 0):
        raise InputError(
            f"The least score that is relevant is {relevant_from}, but a score is relevant only above 0.",
            python="Give relevant_from a number above 0.",
            flags="Give --relevant-from a number above 0.",
        )
    if not parts.has_scores:
        raise InputError(
            "The least score that is relevant was given, but no score column was found.",
            python="Name it with columns={'score': 'your_column'}.",
            flags="Name it with --score-column YOUR_COLUMN.",
        )
    qrels = parts.qrels.assign(score=scores.where(scores >= relevant_from, scores.clip(upper=0)))
    lowered = int(((scores > 0) & (scores < relevant_from)).sum())
    lower = f"{counted(lowered, 'score')} above 0, but below {relevant_from:g}, read as not relevant."
    return replace(parts, qrels=qrels, score_notes=[lower] if lowered else [], may_lack_relevant=True)


def without_lacking(qrels: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The judgements of queries that have a relevant document in their split, and a note on the others."""
    best = qrels.groupby(["split", "query_id"], sort=False, dropna=False)["score"].transform("max")
    number = qrels.loc[best <= 0, "query_id"].nunique()
    if not number:
        return qrels, []
    kept = qrels[best > 0]
    if kept.empty:
        raise InputError(
            f"None of {counted(number, 'query', 'queries')} has a document that counts as relevant.",
            python="Give a lower relevant_from.",
            flags="Give a lower --relevant-from.",
        )
    return kept, [f"{counted(number, 'query', 'queries')} without a relevant document left out of all splits."]


def check_positives(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> None:
    """Refuse splits with queries that have no relevant document in them."""
    for split, rows in by_split.items():
        best = rows.groupby("query_id", sort=False)["score"].max()
        without = [f"{query_id}: {texts[query_id][:60]}" for query_id in best.index[best <= 0]]
        if without:
            raise InputError(
                f"{counted(len(without), 'query', 'queries')} of split {split!r} without any relevant document "
                f"(score above 0): {first_three(without)}. Expected at least one each. "
                "Add their relevant documents, or take them out of this split:",
                python="with relevant_from, the least score that is relevant, they are left out.",
                flags="with --relevant-from, the least score that is relevant, they are left out.",
            )


def overlap_notes(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> list[str]:
    """Notes on the query texts that stand in two splits."""
    present = {
        split: {normalised(texts[query_id]) for query_id in rows["query_id"]} for split, rows in by_split.items()
    }
    notes = []
    for earlier, later in itertools.combinations(present, 2):
        number = len(present[earlier] & present[later])
        if number:
            stand = "query text stands" if number == 1 else "query texts stand"
            notes.append(
                f"{number} {stand} in both {earlier!r} and {later!r} (apart from case and spacing); kept in both."
            )
    return notes


def own_copy_notes(
    by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str], documents: Mapping[str, str]
) -> list[str]:
    """A note on the queries that stand in the corpus without being judged relevant there."""
    rows, places = own_copies(texts.values(), documents.values())
    copies = pd.DataFrame({"query_id": np.array(list(texts))[rows], "corpus_id": np.array(list(documents))[places]})
    qrels = pd.concat(by_split.values())
    searched = qrels[["split", "query_id"]].drop_duplicates().merge(copies)
    relevant = qrels.loc[qrels["score"] > 0, ["split", "query_id", "corpus_id"]]
    found = searched.merge(relevant, how="left", indicator=True)
    number = found.loc[found["_merge"] == "left_only", "query_id"].nunique()
    if not number:
        return []
    return [
        f"{counted(number, 'query stands', 'queries stand')} in the corpus as documents too (apart from case and "
        "spacing); such a copy is left out of the query's hits and negatives, unless it is judged relevant."
    ]
