"""Evaluate against the index that the adapted queries will meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.search import Index, rescore
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.hits import Adapter, adapt, search_split
from st_adapter.evaluation.metrics import DEFAULT_KS
from st_adapter.evidence.indexes import EXACT, build_index, check_index, describe_index
from st_adapter.words import fraction

_RECALL_AT = 10


@dataclass(frozen=True)
class IndexEvaluation:
    """Base and adapted model on the same queries, searched through one index.

    Attributes:
        index: name with its number, such as ``hnsw:100``; ``build_index`` makes the index from it.
        description: the same in words.
        result: metrics of both sides.
        base_recall: share of the exact search's 10 best documents that the index finds among its 10 best, mean over all
            queries of the split, 0-1. A document that scores as high as the exact search's 10th counts as found.
        adapted_recall: the same for the adapted queries.
    """

    index: str
    description: str
    result: EvaluationResult
    base_recall: float
    adapted_recall: float

    def __repr__(self) -> str:
        recall = f"recall {fraction(self.base_recall)} -> {fraction(self.adapted_recall)}"
        return f"IndexEvaluation({self.index}, {recall}: {self.result})"


def evaluate_indexes(
    split: EmbeddedSplit,
    adapter: Adapter | None,
    indexes: Sequence[str],
    ks: Sequence[int] = DEFAULT_KS,
    *,
    seen_documents: Tensor | None = None,
) -> list[IndexEvaluation]:
    """Evaluate base and adapted queries through each of several indexes over the same documents.

    Queries are adapted in full first; what the index does to a vector comes after that, for base and adapted alike.

    Args:
        split: queries, corpus and judgements.
        adapter: as for ``evaluate``; None evaluates the base model alone.
        indexes: names as ``build_index`` takes them.
        ks: cut-offs, each >= 1.
        seen_documents: as for ``evaluate``.

    Returns:
        One entry per index, the exact search first whether or not it was named.

    Raises:
        ValueError: a name is unknown or does not fit the embeddings; or as ``evaluate``.
        ImportError: an approximate index was named and ``st-adapter[index]`` is not installed.

    Examples:
        >>> found = evaluate_indexes(embedded["test"], adapter, ["exact", "truncate:16"])
        >>> [result.index for result in found]
        ['exact', 'truncate:16']
    """
    names = list(dict.fromkeys([EXACT, *(check_index(name) for name in indexes)]))
    sides = [split.query_embeddings, split.query_embeddings]
    if adapter is not None:
        sides[1] = adapt(adapter, split.query_embeddings)
    corpus = MemoryCorpus.of(split.corpus, split.query_embeddings.device)
    evaluations = []
    for name in names:
        index = build_index(corpus, name)
        result = evaluate(split, adapter, ks, index=index, seen_documents=seen_documents)
        base_recall, adapted_recall = (1.0 if name == EXACT else _recall(split, queries, index) for queries in sides)
        evaluations.append(IndexEvaluation(name, describe_index(name), result, base_recall, adapted_recall))
    return evaluations


def _recall(split: EmbeddedSplit, query_embeddings: Tensor, index: Index) -> float:
    """Mean share of the exact search's 10 best documents that an index finds; see ``IndexEvaluation``."""
    exact = search_split(split, query_embeddings, _RECALL_AT)  # (Q, K)
    there = exact.indices >= 0
    lowest = exact.scores.masked_fill(~there, torch.inf).min(dim=1, keepdim=True).values
    found = search_split(split, query_embeddings, _RECALL_AT, index).indices
    # By score and not by id, so that one of two equal documents may stand for the other.
    corpus = MemoryCorpus.of(split.corpus, query_embeddings.device)
    scores = rescore(split.comparable(query_embeddings), corpus.embeddings, found).scores
    shares = (scores >= lowest).sum(dim=1) / there.sum(dim=1)
    return float(shares.nan_to_num(1.0).mean())  # where nothing is to be found, nothing is missed
