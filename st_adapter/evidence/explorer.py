"""What base and adapted model find for a query, side by side, and the measured queries by what they gained or lost.

Without a page, and without the rest of the package: a Space holds a copy of this file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

SHOWN = 10
# How deep it is looked for where a document was on the other side.
DEPTH = 100

Order = Literal["gain", "loss"]
DocumentsKind = Literal["all", "seen", "new"]


@dataclass(frozen=True, kw_only=True)
class KnownQuery:
    """A query of the data.

    Attributes:
        query_id: its id.
        text: its text; its id where it came as a vector alone.
        split: that judges it.
        relevance: row of a document -> judged relevance; above 0 is relevant.
        own_copies: rows of documents that are its own text and do not count as found.
        base: nDCG@10 with the base model, 0 to 1; None of a query that was not measured.
        adapted: the same with the adapter.
        seen: whether a relevant document was a positive in training; None if that was not asked for.
    """

    query_id: str
    text: str
    split: str
    relevance: Mapping[int, float]
    own_copies: Sequence[int] = ()
    base: float | None = None
    adapted: float | None = None
    seen: bool | None = None

    @property
    def gain(self) -> float:
        """Adapted minus base; 0 of a query that was not measured."""
        return 0.0 if self.base is None or self.adapted is None else self.adapted - self.base


@dataclass(frozen=True, kw_only=True)
class FoundDocument:
    """A document on one side of an answer.

    Attributes:
        rank: from 1.
        corpus_id: its id.
        text: its text, cut; None where there is none.
        score: its similarity to the query.
        other_rank: its rank on the other side; None below the first 100.
        relevance: as judged for this query; None if it was not, or the query is not a known one.
        seen: whether it was a positive of a training query.
    """

    rank: int
    corpus_id: str
    text: str | None
    score: float
    other_rank: int | None
    relevance: float | None
    seen: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first ten documents of either side for one query.

    Attributes:
        query: as it was asked.
        known: the query of the data with this text, one that was measured before others; None if there is none.
        base: what the base model finds, best first.
        adapted: what the adapted model finds, best first.
    """

    query: str
    known: KnownQuery | None
    base: tuple[FoundDocument, ...]
    adapted: tuple[FoundDocument, ...]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is explored.

    Attributes:
        title: what is compared on what.
        facts: sentences about it.
        ids: N ids of documents.
        queries: of all splits.
        seen: rows of the documents that were positives of training queries.
        encode: a text -> (D,) vectors of base and adapted model, which the search takes.
        search: (2, D) vectors and k -> scores and rows, both (2, at most k), best first; -1 is an empty place.
        texts: rows of documents -> their texts, cut; None where there is none.
    """

    title: str
    facts: Sequence[str]
    ids: Sequence[str]
    queries: Sequence[KnownQuery]
    seen: frozenset[int]
    encode: Callable[[str], tuple[Tensor, Tensor]]
    search: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    texts: Callable[[Sequence[int]], Sequence[str | None]]


@dataclass(frozen=True)
class Explorer:
    """Answers what is asked of base and adapted model, one question at a time.

    Args:
        material: models, documents and judgements.
    """

    material: Material
    _by_text: dict[str, KnownQuery] = field(init=False, repr=False, default_factory=dict)
    # Tokenizers and databases do not all serve two threads.
    _one_at_a_time: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for query in sorted(self.material.queries, key=lambda query: query.base is None):
            self._by_text.setdefault(_key(query.text), query)

    def measured(
        self, order: Order = "gain", documents: DocumentsKind = "all", containing: str = ""
    ) -> list[KnownQuery]:
        """The measured queries; those that changed by the same keep the order of the data.

        Args:
            order: the largest gains or the largest losses first.
            documents: only queries with a relevant document that was a positive in training, or only those without.
            containing: only queries with this in their text, in whatever case.
        """
        wanted = _key(containing).casefold()
        found = [
            query
            for query in self.material.queries
            if query.base is not None
            and (documents == "all" or query.seen is (documents == "seen"))
            and wanted in _key(query.text).casefold()
        ]
        return sorted(found, key=lambda query: query.gain, reverse=order == "gain")

    def answer(self, text: str) -> Answer:
        """Search with both models.

        Args:
            text: a query, which has a letter at least.

        Raises:
            ValueError: it is empty.
        """
        if not text.strip():
            raise ValueError("The query is empty. Type one.")
        known = self._by_text.get(_key(text))
        left_out = set(known.own_copies) if known is not None else set()
        with self._one_at_a_time:
            queries = torch.stack(self.material.encode(text))
            scores, rows = self.material.search(queries, DEPTH + len(left_out))
            sides = [
                [(row, score) for row, score in zip(*side, strict=True) if row >= 0 and row not in left_out][:DEPTH]
                for side in zip(rows.tolist(), scores.tolist(), strict=True)
            ]
            shown = list(dict.fromkeys(row for side in sides for row, _ in side[:SHOWN]))
            texts = dict(zip(shown, self.material.texts(shown), strict=True))
        ranks = [{row: rank for rank, (row, _) in enumerate(side, 1)} for side in sides]
        relevance = known.relevance if known is not None else {}

        def documents(side: int) -> tuple[FoundDocument, ...]:
            return tuple(
                FoundDocument(
                    rank=rank,
                    corpus_id=self.material.ids[row],
                    text=texts[row],
                    score=score,
                    other_rank=ranks[1 - side].get(row),
                    relevance=relevance.get(row),
                    seen=row in self.material.seen,
                )
                for rank, (row, score) in enumerate(sides[side][:SHOWN], 1)
            )

        return Answer(query=text, known=known, base=documents(0), adapted=documents(1))


def _key(text: str) -> str:
    """A text, apart from its spacing."""
    return " ".join(text.split())
