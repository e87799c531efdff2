"""Find queries that stand in two splits: word for word, in other case or spacing, or in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import cosine_of, nearest, normalized_queries
from st_adapter.errors import InputError
from st_adapter.words import counted

LeakKind = Literal["exact", "normalised", "paraphrase"]

_WORDS: dict[LeakKind, str] = {
    "exact": "word for word",
    "normalised": "apart from case and spacing",
    "paraphrase": "as a paraphrase",
}


class Leak(NamedTuple):
    """A query of one split and the query of a later split that it gives away.

    Attributes:
        kind: `exact`: the same text; `normalised`: the same apart from case, width and spacing; `paraphrase`: a cosine
            of at least the threshold between the base model's embeddings.
        earlier_id: Query id in the earlier split.
        later_id: Query id in the later split; the same if one query is judged in both.
        earlier_text: Its text.
        later_text: Its text.
        cosine: Between the two, -1 to 1.
    """

    kind: LeakKind
    earlier_id: str
    later_id: str
    earlier_text: str
    later_text: str
    cosine: float


@dataclass(frozen=True)
class SplitLeaks:
    """The leaks between two splits.

    Attributes:
        earlier: The split that is learned from, train or dev.
        later: The split that is measured on.
        num_earlier: Queries in the earlier split.
        num_later: Queries in the later split.
        leaks: Every leaking query of either split with its closest counterpart, under its strongest kind (exact,
            normalised, paraphrase): at most `num_earlier` + `num_later` pairs, the strongest kind first.
        shared_documents: (query id of the later split, corpus id), where the document is relevant for that query and
            for one of the earlier split. No error: most indices are searched for the same document again and again.
        mean_cosine: Mean cosine between the queries of the two splits: what the threshold has to stand out from.
    """

    earlier: str
    later: str
    num_earlier: int
    num_later: int
    leaks: tuple[Leak, ...]
    shared_documents: tuple[tuple[str, str], ...]
    mean_cosine: float

    @property
    def earlier_ids(self) -> list[str]:
        """The leaking queries of the earlier split, each once."""
        return list(dict.fromkeys(leak.earlier_id for leak in self.leaks))

    def counts(self, side: Literal["earlier", "later"] = "later") -> dict[LeakKind, int]:
        """How many queries of a side leak, each counted once, under its strongest kind."""
        kinds: dict[str, LeakKind] = {}
        for leak in self.leaks:  # strongest first
            kinds.setdefault(leak.earlier_id if side == "earlier" else leak.later_id, leak.kind)
        found = list(kinds.values())
        return {kind: found.count(kind) for kind in _WORDS}

    @property
    def num_sharing(self) -> int:
        """How many queries of the later split share a relevant document with the earlier one."""
        return len({query_id for query_id, _ in self.shared_documents})

    def __repr__(self) -> str:
        """The sentence."""
        return self.sentence

    @property
    def sentence(self) -> str:
        """What was found, in plain words."""
        counts = self.counts()
        of = f"of {counted(self.num_later, f'{self.later} query', f'{self.later} queries')}"
        found = [f"{counts[kind]} {words}" for kind, words in _WORDS.items() if counts[kind]]
        texts = f"{sum(counts.values())} {of} stand in {self.earlier}" + (f" ({', '.join(found)})" if found else "")
        sharing = f"{self.num_sharing} share a relevant document with it"
        return f"{texts}; {sharing}; mean cosine {self.mean_cosine:.2f}."


@dataclass(frozen=True)
class LeakReport:
    """What `find_leaks` found.

    Attributes:
        threshold: How near two queries are that count as paraphrases; see ``cosine_of``.
        cosine: The cosine that this is with these queries.
        between: One entry for each two splits of which the earlier one is train or dev.
    """

    threshold: float
    cosine: float
    between: tuple[SplitLeaks, ...]

    def __repr__(self) -> str:
        """The sentences."""
        return "\n".join(self.sentences) or "There are no two splits to compare."

    @property
    def sentences(self) -> list[str]:
        """What was found, in plain words, one sentence for each two splits."""
        return [leaks.sentence for leaks in self.between]

    def to_dict(self, max_pairs: int | None = None) -> dict[str, Any]:
        """A JSON-ready form; of each list only the first `max_pairs`, the counts of all."""
        return {
            "paraphrase_threshold": self.threshold,
            "paraphrase_cosine": self.cosine,
            "between": [
                {
                    "earlier": found.earlier,
                    "later": found.later,
                    "num_earlier_queries": found.num_earlier,
                    "num_later_queries": found.num_later,
                    "leaking_earlier_queries": found.counts("earlier"),
                    "leaking_later_queries": found.counts("later"),
                    "later_queries_sharing_a_document": found.num_sharing,
                    "mean_cosine": found.mean_cosine,
                    "sentence": found.sentence,
                    "pairs": [leak._asdict() for leak in found.leaks[:max_pairs]],
                    "shared_documents": [list(pair) for pair in found.shared_documents[:max_pairs]],
                }
                for found in self.between
            ],
        }


def find_leaks(
    dataset: RetrievalDataset, query_embeddings: Tensor, *, threshold: float = PARAPHRASE_THRESHOLD
) -> LeakReport:
    """Count the queries that train or dev give away to a later split, and those that share a document.

    Exact: every query is compared with every other one, block by block, in memory that does not grow with the square of
    their number. An embedding model hardly sees a negation, so a claim and its opposite count as paraphrases; since
    they ask for the same documents, one does give the other away.

    Args:
        dataset: Queries, corpus and judgements.
        query_embeddings: (Q, D), the base model's, rows in the order of `dataset.queries`; of any length.
        threshold: How near two queries are that count as paraphrases, above 0, at most 1: 0 is as near as two queries
            at random, whatever cosine the model gives to these. See ``cosine_of``.

    Raises:
        ValueError: the embeddings do not fit the queries or are not finite, the threshold is out of range, or splits
            are still to be cut.

    Examples:
        >>> report = find_leaks(dataset, embedded.query_embeddings, threshold=1.0)
        >>> [(found.earlier, found.later) for found in report.between]
        [('train', 'dev'), ('train', 'test'), ('dev', 'test')]
    """
    if dataset.uncut is not None:
        raise ValueError("The splits are still to be cut. Pass what cut_splits(dataset, query_embeddings) gives.")
    vectors = normalized_queries(dataset, query_embeddings, threshold)
    from_cosine = cosine_of(threshold, vectors)
    row_of = {query_id: row for row, query_id in enumerate(dataset.queries["id"])}
    # Queries without texts are told apart by their vectors alone; their ids are shown.
    keys, texts = dataset.query_texts, dataset.query_texts or list(dataset.queries["id"])
    splits = {split: np.array(sorted({row_of[q] for q in rows["query_id"]})) for split, rows in dataset.qrels.items()}
    between = []
    for earlier, later in combinations(splits, 2):
        if earlier in ("train", "dev"):
            pairs = _leaking_rows(splits[earlier], splits[later], keys, vectors, from_cosine)
            ids = list(row_of)
            leaks = tuple(Leak(kind, ids[a], ids[b], texts[a], texts[b], cosine) for kind, a, b, cosine in pairs)
            rows = torch.from_numpy(splits[earlier]), torch.from_numpy(splits[later])
            mean = float(vectors[rows[0]].mean(dim=0) @ vectors[rows[1]].mean(dim=0))
            shared = _shared_documents(dataset, earlier, later)
            between.append(SplitLeaks(earlier, later, len(rows[0]), len(rows[1]), leaks, shared, mean))
    return LeakReport(threshold, from_cosine, tuple(between))


def drop_leaks(dataset: RetrievalDataset, report: LeakReport) -> RetrievalDataset:
    """Take the leaking queries out of the earlier split of each two; the later one, test above all, stays as it is.

    Queries that only share a document with a later split are no leak and stay. What is taken out keeps its text in
    `queries`, without judgements in that split.

    Args:
        dataset: The data set that was checked.
        report: What `find_leaks` found in it.

    Returns:
        The data set without these leaks and with a note that says how many queries went; the same if there are none.

    Raises:
        ValueError: a split would lose all of its queries.

    Examples:
        >>> report = find_leaks(dataset, embedded.query_embeddings, threshold=1.0)
        >>> drop_leaks(dataset, report).splits
        ['train', 'dev', 'test']
    """
    leaking: dict[str, set[str]] = {}
    for found in report.between:
        leaking.setdefault(found.earlier, set()).update(found.earlier_ids)
    qrels, dropped = dict(dataset.qrels), []
    for split, ids in leaking.items():
        if not ids:
            continue
        query_ids = list(qrels[split]["query_id"])
        kept = [row for row, query_id in enumerate(query_ids) if query_id not in ids]
        if not kept:
            raise InputError(
                f"Every query of the split {split!r} stands in a later split as well (paraphrases have a cosine of "
                f"{report.cosine:.2f} or more), so dropping them leaves nothing.",
                python="Give other data or a higher paraphrase_threshold.",
                flags="Give other data or a higher --paraphrase-threshold.",
            )
        qrels[split] = qrels[split].select(kept)
        dropped.append(f"{len(ids)} of {len(set(query_ids))} queries of {split}")
    if not dropped:
        return dataset
    note = f"Dropped because a later split has their text or a paraphrase: {' and '.join(dropped)}."
    return replace(dataset, qrels=qrels, notes=(*dataset.notes, note))


class _Row(NamedTuple):
    kind: LeakKind
    earlier: int
    later: int
    cosine: float


def _leaking_rows(
    earlier: NDArray[np.int64], later: NDArray[np.int64], texts: Sequence[str] | None, vectors: Tensor, threshold: float
) -> list[_Row]:
    """Each leaking row of either side with its closest counterpart, the strongest kind first; texts as far as known."""
    found: dict[tuple[int, int], LeakKind] = {}
    twins: tuple[set[int], set[int]] = (set(), set())
    keys: dict[LeakKind, list[str]] = {}
    if texts is not None:
        keys = {"exact": list(texts), "normalised": [text_key(text) for text in texts]}
    for kind, key in keys.items():
        first_of = tuple({key[row]: row for row in rows[::-1].tolist()} for rows in (earlier, later))
        for side, rows in enumerate((earlier, later)):
            for row in rows.tolist():
                twin = first_of[1 - side].get(key[row])
                if twin is not None and row not in twins[side]:
                    twins[side].add(row)
                    found.setdefault((row, twin) if side == 0 else (twin, row), kind)
    # A row without a twin of the same text has none among its closest ones either.
    closest = nearest(vectors[torch.from_numpy(earlier)], vectors[torch.from_numpy(later)])
    for side, (rows, others) in enumerate(((earlier, later), (later, earlier))):
        cosine, index = closest[side]
        for place in (cosine >= threshold).nonzero()[:, 0].tolist():
            row, other = int(rows[place]), int(others[int(index[place])])
            if row not in twins[side]:
                found.setdefault((row, other) if side == 0 else (other, row), "paraphrase")
    order = list(_WORDS)
    pairs_of_rows = torch.tensor(list(found), dtype=torch.int64, device=vectors.device).reshape(-1, 2)
    cosines = (vectors[pairs_of_rows[:, 0]] * vectors[pairs_of_rows[:, 1]]).sum(dim=1).clamp(-1, 1).tolist()
    pairs = [_Row(kind, *rows, cosine) for (rows, kind), cosine in zip(found.items(), cosines, strict=True)]
    return sorted(pairs, key=lambda pair: (order.index(pair.kind), -pair.cosine, pair.later, pair.earlier))


def _shared_documents(dataset: RetrievalDataset, earlier: str, later: str) -> tuple[tuple[str, str], ...]:
    asked, pairs = (
        frame.loc[frame["relevance"] > 0, ["query_id", "corpus_id"]]
        for frame in (dataset.qrels[split].to_pandas() for split in (earlier, later))
    )
    return tuple(pairs[pairs["corpus_id"].isin(asked["corpus_id"])].itertuples(index=False, name=None))
