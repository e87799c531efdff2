"""The queries that an adapter helped and hurt most, with the texts that a person needs to judge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus, blocks
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evaluation.hits import Adapter, adapt, search_split
from st_adapter.stores.folder import VectorFolder

_METRIC, _TIE_BREAKER = "ndcg@10", "mrr@100"
_TIE = 1e-9  # as in comparisons: the same ranking may be summed in another order
_QUERY_CHARACTERS, _DOCUMENT_CHARACTERS = 400, 280


@dataclass(frozen=True)
class ShownTexts:
    """The texts of a data set, for people: one line each, those of documents cut.

    Attributes:
        dataset: queries and documents.
        corpus: the documents as vectors, in whose rows they are counted; where they lie in no store, in the order of
            the data set.
    """

    dataset: RetrievalDataset
    corpus: Corpus

    @cached_property
    def _query_rows(self) -> dict[str, int]:
        return {query_id: row for row, query_id in enumerate(self.dataset.queries["id"])}

    def query(self, query_id: str) -> str:
        """The whole text of a query; its id where it came as a vector alone."""
        text: str = self.dataset.queries[self._query_rows[query_id]].get("text", query_id)
        return text

    def documents(self, rows: Sequence[int]) -> list[str | None]:
        """The texts of documents; None where there is none."""
        ids, store = [self.corpus.ids[row] for row in rows], self.dataset.store
        texts: Sequence[str | None]
        if isinstance(store, VectorFolder):
            texts = [None] * len(ids)  # a folder keeps no texts, and looks through all its ids for one
        elif store is not None:
            texts = (store.fetch(ids).texts if ids else None) or [None] * len(ids)
        else:
            texts = [self.dataset.corpus[int(row)].get("text") for row in rows]
        return [text and shortened(text, _DOCUMENT_CHARACTERS) for text in texts]


@dataclass(frozen=True)
class Example:
    """One query with what base and adapted model found for it; long texts are cut.

    Attributes:
        query_id: its id.
        query: its text.
        difference: adapted minus base in nDCG@10.
        base_rank: rank of the first relevant document with the base model, from 1; None below the first 100 of a corpus
            that does not lie in memory.
        adapted_rank: the same with the adapted model.
        relevant: text of the relevant document of highest relevance.
        base_top: text of the document that the base model ranks first.
        adapted_top: text of the document that the adapted model ranks first.
        base_top_is_relevant: whether ``base_top`` is relevant.
        adapted_top_is_relevant: whether ``adapted_top`` is relevant.
    """

    query_id: str
    query: str
    difference: float
    base_rank: int | None
    adapted_rank: int | None
    relevant: str
    base_top: str
    adapted_top: str
    base_top_is_relevant: bool
    adapted_top_is_relevant: bool


@dataclass(frozen=True)
class LargestChanges:
    """The largest gains, best first, and the largest losses, worst first; a query that did not change is in neither."""

    gains: tuple[Example, ...]
    losses: tuple[Example, ...]


def largest_changes(
    dataset: RetrievalDataset,
    split: EmbeddedSplit,
    evaluation: EvaluationResult,
    adapter: Adapter | None,
    number: int = 10,
    base_queries: Tensor | None = None,
) -> LargestChanges:
    """Pick the queries whose nDCG@10 changed most; among equals, those whose right document moved most.

    Args:
        dataset: the texts.
        split: queries, corpus and judgements.
        evaluation: of that split and adapter.
        adapter: what was evaluated; None changes no query.
        number: of gains and of losses at most.
        base_queries: (Q, D) that the base searches with, if not with the queries of the split.
    """
    if adapter is None:
        return LargestChanges((), ())
    difference = evaluation.adapted[_METRIC] - evaluation.base[_METRIC]
    tie_breaker = evaluation.adapted[_TIE_BREAKER] - evaluation.base[_TIE_BREAKER]
    order = np.lexsort((-tie_breaker, -difference))
    gains = [row for row in order[:number] if difference[row] > _TIE]
    losses = [row for row in order[::-1][:number] if difference[row] < -_TIE]
    sides = (split.query_embeddings if base_queries is None else base_queries, adapt(adapter, split.query_embeddings))
    examples = _examples(dataset, split, evaluation, sides, [*gains, *losses], difference)
    return LargestChanges(tuple(examples[: len(gains)]), tuple(examples[len(gains) :]))


def _examples(
    dataset: RetrievalDataset,
    split: EmbeddedSplit,
    evaluation: EvaluationResult,
    both: tuple[Tensor, Tensor],
    rows: Sequence[int],
    difference: NDArray[np.float64],
) -> list[Example]:
    """Examples of some of the evaluated queries, in the order given."""
    if not rows:
        return []
    row_of = {query_id: row for row, query_id in enumerate(split.query_ids)}
    chosen = [row_of[evaluation.query_ids[row]] for row in rows]
    sides = [queries[chosen] for queries in both]
    tops = [_first_hits(split, chosen, side) for side in sides]
    left_out = split.left_out
    copies = {row: left_out.corpus_index[left_out.query_index == row] for row in chosen}
    texts = ShownTexts(dataset, split.corpus)

    # What came without a text is shown by its id.
    def document_text(index: int) -> str:
        return texts.documents([index])[0] or split.corpus.ids[index]

    examples = []
    for place, (row, split_row) in enumerate(zip(rows, chosen, strict=True)):
        judged = (split.qrels.query_index == split_row) & (split.qrels.relevance > 0)
        documents, relevance = split.qrels.corpus_index[judged], split.qrels.relevance[judged]
        reciprocal = (evaluation.base[_TIE_BREAKER][row], evaluation.adapted[_TIE_BREAKER][row])
        ranks = [
            round(1 / value) if value > 0 else _first_rank(split, side[place], documents, copies[split_row])
            for value, side in zip(reciprocal, sides, strict=True)
        ]
        relevant = set(documents.tolist())
        examples.append(
            Example(
                query_id=evaluation.query_ids[row],
                query=shortened(texts.query(evaluation.query_ids[row]), _QUERY_CHARACTERS),
                difference=float(difference[row]),
                base_rank=ranks[0],
                adapted_rank=ranks[1],
                relevant=document_text(int(documents[relevance.argmax()])),
                base_top=document_text(tops[0][place]),
                adapted_top=document_text(tops[1][place]),
                base_top_is_relevant=tops[0][place] in relevant,
                adapted_top_is_relevant=tops[1][place] in relevant,
            )
        )
    return examples


def _first_hits(split: EmbeddedSplit, rows: Sequence[int], queries: Tensor) -> list[int]:
    """The document that is ranked first for each of some queries of a split, searched with the given vectors."""
    kept = torch.zeros(len(split.query_ids), dtype=torch.bool, device=queries.device)
    kept[list(rows)] = True
    place = torch.tensor(rows, device=queries.device).argsort()  # a subset keeps the order of the split
    found = search_split(split.subset(kept), queries[place], 1).indices[:, 0]
    first: list[int] = found[place.argsort()].tolist()
    return first


def _first_rank(split: EmbeddedSplit, query: Tensor, documents: Tensor, copies: Tensor) -> int | None:
    """Rank of the best of some documents for a (D,) query, from 1, of which it is known that it is not in the top.

    The query's own copies do not count. None where the whole corpus would have to be read for it.
    """
    if not isinstance(split.corpus, MemoryCorpus):
        return None
    (query,) = split.comparable(query.unsqueeze(0))

    def scores(vectors: Tensor) -> Tensor:
        # Not a blocked product, which may round a document that is there twice in two ways.
        return (vectors * query).sum(dim=1)

    best = scores(split.corpus.rows(documents)).max()
    higher = sum(int((scores(block) > best).sum()) for block in blocks(split.corpus, query.device))
    return higher - int((scores(split.corpus.rows(copies)) > best).sum()) + 1


def shortened(text: str, num_characters: int) -> str:
    r"""One line of text without control characters, cut at a word with an ellipsis if it is longer.

    Examples:
        >>> shortened("How  do I\nsort a list?", 12)
        'How do I …'
    """
    # Characters that no file in UTF-8 can hold, and those that move a cursor or hide.
    text = "".join(letter if letter.isprintable() else " " for letter in text[: 8 * num_characters])
    text = " ".join(text.split())
    if len(text) <= num_characters:
        return text
    cut = text[: num_characters - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) > num_characters // 2 else cut).rstrip() + " …"
