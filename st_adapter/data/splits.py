"""The split of every query: as given where that is enough, cut where not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from st_adapter.data.cutting import Share, cut, cut_in_groups, normalised
from st_adapter.data.tables import NO_SPLIT, usual_split
from st_adapter.words import counted, listed

SplitBy = Literal["query", "document"]
WHOLE = (Share("train", 0.7), Share("dev", 0.1), Share("test", 0.2))  # when no split is given
CARVED = (Share("dev", 0.15), Share("train", 0.85))  # of train's queries, when dev is all that is missing
UNCUT = "all"  # the one split of data that came without splits and was not cut

CUTS: dict[tuple[str, ...], tuple[Share, ...]] = {
    ("train", "dev", "test"): WHOLE,
    ("train", "dev"): CARVED,
    (): (),
}
_KEPT = {"query": "", "document": ", with all queries of one document on one side"}


class Cut(NamedTuple):
    """How the splits that did not come with the data were cut.

    Attributes:
        splits: Names of the splits that were cut; the others were given.
        by: `query`: duplicates of a query stay together; `document`: all queries of one document do so too.
        seed: Seed of the hash.
        notes: What the notes of the data set say about it.
    """

    splits: tuple[str, ...]
    by: SplitBy
    seed: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Cutter:
    """What decides where a query goes when splits are cut.

    Attributes:
        texts: Query id -> text.
        documents: Corpus id -> text.
        by: See `Cut`.
        seed: Seed of the hash.
    """

    texts: Mapping[str, str]
    documents: Mapping[str, str]
    by: SplitBy
    seed: int

    def done(self, splits: tuple[str, ...], notes: tuple[str, ...]) -> Cut:
        """What is said of the splits that were cut."""
        return Cut(splits, self.by, self.seed, notes)

    def cut(
        self, qrels: pd.DataFrame, shares: Sequence[Share], together: Sequence[Sequence[str]] = ()
    ) -> tuple[pd.Series[str], list[str]]:
        """The new split of each row of some queries, and a note on groups that were too large for one side."""
        query_of, query_ids = pd.factorize(qrels["query_id"])
        names = np.array([share.name for share in shares], dtype=object)
        texts = [normalised(self.texts[query_id]) for query_id in query_ids]
        if self.by == "query" and not together:
            return pd.Series(names[cut(texts, shares, self.seed)[query_of]], index=qrels.index), []
        relevant = (qrels["score"] > 0).to_numpy() & (self.by == "document")
        # Sorted by text, so that neither ids nor the order of rows decide anything.
        document = pd.factorize(qrels["corpus_id"][relevant].map(self.documents), sort=True)[0]
        number = {query_id: index for index, query_id in enumerate(query_ids)}
        links = [(number[group[0]], number[query_id]) for group in together for query_id in group[1:]]
        linked = np.array(links, dtype=np.int64).reshape(-1, 2)
        found = cut_in_groups(texts, query_of[relevant], document, (linked[:, 0], linked[:, 1]), shares, self.seed)
        notes = []
        if found.num_torn_groups:
            shared = [*(["documents"] if self.by == "document" else []), *(["paraphrases"] if together else [])]
            groups = counted(found.num_torn_groups, "group of queries that hangs", "groups of queries that hang")
            notes.append(
                f"{groups} together by {' and '.join(shared)} ({found.num_torn_queries} of {len(query_ids)} queries) "
                "too large for one side; cut further, no more than needed. What then stands on two sides is a leak, "
                "and counted as one."
            )
        return pd.Series(names[found.parts[query_of]], index=qrels.index), notes


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


def split_rows(
    qrels: pd.DataFrame, cutter: Cutter, cut_into: tuple[str, ...]
) -> tuple[pd.DataFrame, list[str], Cut | None]:
    """Name every row's split: as given where that is enough, cut where not."""
    names = _usual_names(qrels["split"].unique().tolist())
    qrels = qrels.assign(split=qrels["split"].map(names))
    given = list(dict.fromkeys(names.values()))
    if NO_SPLIT in given and len(given) > 1:
        raise ValueError("Some rows name a split and some do not. Expected a name in every row, or in none.")
    if not cut_into:
        if given == [NO_SPLIT]:
            number = counted(qrels["query_id"].nunique(), "query", "queries")
            return qrels.assign(split=UNCUT), [f"No splits were given; nothing was cut: {number} in all."], None
        return qrels, [], None
    if given in ([NO_SPLIT], ["train"]):
        return _cut_whole(qrels, cutter, cut_into)
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
    if "dev" in given:
        if cutter.by == "document":
            notes.append("All splits were given and stay as they are, whatever documents their queries share.")
        return qrels, notes, None
    in_train = qrels["split"] == "train"
    train = qrels[in_train]
    carved, torn = cutter.cut(train, CARVED)
    num_dev = train.loc[carved == "dev", "query_id"].nunique()
    num_train = train.loc[carved == "train", "query_id"].nunique()
    if not num_dev or not num_train:
        raise ValueError(
            f"No dev split was given, and cutting it from the {num_dev + num_train} queries of train "
            f"left {'dev' if num_train else 'train'} empty. Give a dev split, more data, or another seed."
        )
    qrels.loc[in_train, "split"] = carved
    return qrels, notes, cutter.done(("train", "dev"), (carved_note(num_dev, cutter.by), *torn))


def _cut_whole(
    qrels: pd.DataFrame, cutter: Cutter, cut_into: tuple[str, ...]
) -> tuple[pd.DataFrame, list[str], Cut | None]:
    """Cut data of which no split is given, or only train."""
    parts = CUTS[cut_into]
    found = "Only a train split was given" if "train" in set(qrels["split"]) else "No splits were given"
    qrels["split"], torn = cutter.cut(qrels, parts)
    check_filled(qrels, parts, cutter.seed)
    if "test" not in cut_into:
        num_dev = qrels.loc[qrels["split"] == "dev", "query_id"].nunique()
        return qrels, ["No test split was set aside."], cutter.done(cut_into, (carved_note(num_dev, cutter.by), *torn))
    note = (
        f"{found}; queries were cut 70/10/20 into train, dev and test by a hash (seed {cutter.seed}){_KEPT[cutter.by]}."
    )
    return qrels, [], cutter.done(cut_into, (note, *torn))


def carved_note(num_dev: int, by: SplitBy) -> str:
    """What is said where dev is cut off train."""
    became = f"{counted(num_dev, 'query', 'queries')} of train became it, by a hash"
    return f"No dev split was given; {became}{_KEPT[by]}."


def check_filled(qrels: pd.DataFrame, shares: Sequence[Share], seed: int) -> None:
    """Refuse a cut that leaves a split without queries."""
    missing = sorted({share.name for share in shares} - set(qrels["split"]))
    if missing:
        number = counted(qrels["query_id"].nunique(), "query", "queries")
        parts = "/".join(f"{share.share:.0%}"[:-1] for share in shares)
        raise ValueError(
            f"{number} cut {parts} with seed {seed} left {listed(missing)} without any. Expected queries in "
            f"each of {' and '.join([', '.join(share.name for share in shares[:-1]), shares[-1].name])}. "
            "Give more data, another seed, or splits of your own."
        )


def in_order(splits: Iterable[str]) -> list[str]:
    """Put train, dev and test first, others as they came."""
    found = dict.fromkeys(splits)
    return [name for name in dict.fromkeys(("train", "dev", "test", *found)) if name in found]
