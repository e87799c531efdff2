"""The split of every query: as given where that is enough, cut where not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from st_adapter.choices import SplitBy, is_whole
from st_adapter.data.cutting import Share, cut_by_text, cut_in_groups, text_key
from st_adapter.data.tables import NO_SPLIT, usual_split
from st_adapter.errors import setting_error
from st_adapter.words import counted, listed

UNCUT = "all"  # the one split of data that came without splits and are not cut

_NO_DEV = "No dev split was given"
_SHARES: dict[tuple[str, ...], tuple[Share, ...]] = {
    ("train", "dev", "test"): (Share("train", 0.7), Share("dev", 0.1), Share("test", 0.2)),
    ("train", "dev"): (Share("dev", 0.15), Share("train", 0.85)),
    (): (),
}


@dataclass(frozen=True)
class Cut:
    """How the splits that do not come with the data are cut.

    Attributes:
        splits: Names of the splits to cut; the others are given.
        by: `query`: duplicates of a query stay together; `document`: all queries of one document do so too.
        seed: Seed of the hash.
        reason: Why they are cut, for the notes.

    Raises:
        ValueError: There is no such way to cut.
    """

    splits: tuple[str, ...] = ("train", "dev", "test")
    by: SplitBy = "query"
    seed: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        if self.by not in get_args(SplitBy):
            raise ValueError(f"split_by is {self.by!r}. Expected one of {listed(get_args(SplitBy))}.")
        if self.splits not in _SHARES:
            raise ValueError(f"cut_into is {self.splits!r}. Expected one of {', '.join(map(str, _SHARES))}.")
        if not is_whole(self.seed):
            raise setting_error("seed", self.seed, "a whole number")

    def note(self, num_dev: int) -> str:
        """What is said of it, once it is done."""
        kept = ", with all queries of one document on one side" if self.by == "document" else ""
        if self.reason == _NO_DEV:
            return f"{_NO_DEV}; {counted(num_dev, 'query', 'queries')} of train became it, by a hash{kept}."
        return f"{self.reason}; queries were cut 70/10/20 into train, dev and test by a hash (seed {self.seed}){kept}."


def named_splits(qrels: pd.DataFrame, cut: Cut) -> tuple[pd.DataFrame, list[str], Cut | None]:
    """Name the split of every row by its usual name, `NO_SPLIT` where the row is still to be cut.

    Args:
        qrels: Rows with a `split`, as the source calls it.
        cut: What to do where splits are missing.

    Returns:
        The rows, notes on the splits, and how to cut those that are left; None if there are none.

    Raises:
        ValueError: A split has no name or two, some rows name one and some do not, or train is missing.
    """
    names = _usual_names(qrels["split"].unique().tolist())
    qrels = qrels.assign(split=qrels["split"].map(names))
    given = list(dict.fromkeys(names.values()))
    if NO_SPLIT in given and len(given) > 1:
        raise ValueError("Some rows name a split and some do not. Expected a name in every row, or in none.")
    if not cut.splits:
        if given != [NO_SPLIT]:
            return qrels, [], None
        number = counted(qrels["query_id"].nunique(), "query", "queries")
        return qrels.assign(split=UNCUT), [f"No splits were given; nothing was cut: {number} in all."], None
    if given in ([NO_SPLIT], ["train"]):
        qrels = qrels.assign(split=NO_SPLIT)
        if "test" not in cut.splits:
            return qrels, ["No test split was set aside."], replace(cut, reason=_NO_DEV)
        found = "Only a train split was given" if given == ["train"] else "No splits were given"
        return qrels, [], replace(cut, reason=found)
    if "train" not in given:
        raise ValueError(
            f"There is no train split; found {listed(sorted(given))}. Expected train, with dev and test if any. "
            "Name the split to learn from 'train', or give all rows without splits to have them cut."
        )
    notes = [] if "test" in given else ["No test split was given, so there is none."]
    others = [split for split in given if split not in ("train", "dev", "test")]
    if others:
        is_used = "Split {} is" if len(others) == 1 else "Splits {} are"
        notes.append(f"{is_used.format(listed(others))} used for nothing but to be evaluated on when asked.")
    if "dev" not in given:
        qrels = qrels.assign(split=qrels["split"].replace("train", NO_SPLIT))
        return qrels, notes, replace(cut, splits=("train", "dev"), reason=_NO_DEV)
    if cut.by == "document":
        notes.append("All splits were given and stay as they are, whatever documents their queries share.")
    return qrels, notes, None


def _usual_names(given: Iterable[Any]) -> dict[Any, str]:
    """The name of each given split -> the usual name for it.

    Raises:
        ValueError: A name is no name, or two different words mean the same split.
    """
    names: dict[Any, str] = {}
    for name in given:
        if not isinstance(name, str) or (name and not name.strip()):
            raise ValueError(
                f"A row is in the split {name!r}. Expected a name such as train, dev or test in every row."
            )
        names[name] = usual_split(name) or name.strip()
    for split in dict.fromkeys(names.values()):
        words = [name for name in names if names[name] == split]
        if len({word.strip().casefold() for word in words}) > 1:
            raise ValueError(
                f"The splits {listed(words)} all read as {split!r}. Expected one split for each purpose. Rename the "
                "others, for example to 'test', or leave them out."
            )
    return names


def cut_rows(
    qrels: pd.DataFrame, cut: Cut, texts: pd.Series, documents: pd.Series, together: Sequence[Sequence[str]] = ()
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Cut the judgements of some queries.

    Args:
        qrels: Their rows.
        cut: Into what and how.
        texts: Text of each query, by its id.
        documents: Text of each document, by its id.
        together: Groups of query ids. Each group stays on one side, as far as no group is too large for that.

    Returns:
        Split -> its rows, and notes on what was done.

    Raises:
        ValueError: There are too few queries for all splits.
    """
    shares = _SHARES[cut.splits]
    query_of, query_ids = pd.factorize(qrels["query_id"])
    keys = [text_key(text) for text in texts[query_ids]]
    torn: list[str] = []
    if cut.by == "query" and not together:
        sides = cut_by_text(keys, shares, cut.seed)
    else:
        relevant = (qrels["relevance"] > 0).to_numpy() & (cut.by == "document")
        # Sorted by text, so that neither ids nor the order of rows decide anything.
        document = pd.factorize(qrels["corpus_id"][relevant].map(documents), sort=True)[0]
        row_of = pd.Series(range(len(query_ids)), index=query_ids)
        links = [(row_of[group[0]], row_of[query_id]) for group in together for query_id in group[1:]]
        linked = np.array(links, dtype=np.int64).reshape(-1, 2)
        found = cut_in_groups(keys, query_of[relevant], document, (linked[:, 0], linked[:, 1]), shares, cut.seed)
        sides = found.sides
        if found.num_torn_groups:
            shared = [*(["documents"] if cut.by == "document" else []), *(["paraphrases"] if together else [])]
            groups = counted(found.num_torn_groups, "group of queries that hangs", "groups of queries that hang")
            torn.append(
                f"{groups} together by {' and '.join(shared)} ({found.num_torn_queries} of {len(query_ids)} queries) "
                "too large for one side; cut further, no more than needed. What then stands on two sides is a leak, "
                "and counted as one."
            )
    counts = np.bincount(sides, minlength=len(shares))
    if not counts.all():
        sizes = {share.name: f"{share.size:.0%}"[:-1] for share in shares}
        missing = sorted(share.name for share, count in zip(shares, counts, strict=True) if not count)
        raise ValueError(
            f"{counted(len(query_ids), 'query', 'queries')} cut {'/'.join(sizes[name] for name in cut.splits)} "
            f"with seed {cut.seed} left {listed(missing)} "
            f"without any. Expected queries in each of {' and '.join(', '.join(cut.splits).rsplit(', ', 1))}. "
            "Give more data, another seed, or splits of your own."
        )
    by_split = {share.name: qrels[sides[query_of] == side] for side, share in enumerate(shares)}
    return by_split, [cut.note(by_split["dev"]["query_id"].nunique()), *torn]


def in_order(splits: Iterable[str]) -> list[str]:
    """Put train, dev and test first, others as they came."""
    found = dict.fromkeys(splits)
    return [name for name in dict.fromkeys(("train", "dev", "test", *found)) if name in found]
