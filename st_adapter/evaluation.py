"""Evaluate an adapter on a split: base and adapted side by side, per query and as means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Module
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings import EmbeddedSplit, place_in_group
from st_adapter.metrics import DEFAULT_KS, ranking_metrics
from st_adapter.retrieval import Index, TopK, search

PerQuery = dict[str, NDArray[np.float64]]
Adapter = QueryAdapter | Sequence[Module]


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of the base model and of the adapted model on the same queries.

    Attributes:
        split: name of the split.
        query_ids: the Q evaluated queries.
        base: metric -> (Q,) fractions 0-1 of the base model.
        adapted: the same of the adapted model; equal to ``base`` where no adapter was given.
        unjudged_query_ids: queries without a relevant document; they have no metric and count in no mean.
        num_documents: N, size of the corpus searched.
        num_pairs: relevant (query, document) pairs.
        seconds: wall time of both searches and their metrics.
    """

    split: str
    query_ids: list[str]
    base: PerQuery
    adapted: PerQuery
    unjudged_query_ids: list[str]
    num_documents: int
    num_pairs: int
    seconds: float

    @property
    def base_means(self) -> dict[str, float]:
        """Means of the base model over the queries."""
        return {name: float(values.mean()) for name, values in self.base.items()}

    @property
    def adapted_means(self) -> dict[str, float]:
        """Means of the adapted model over the queries."""
        return {name: float(values.mean()) for name, values in self.adapted.items()}

    def to_dict(self, per_query: Sequence[str] = ()) -> dict[str, Any]:
        """A JSON-ready summary; ``per_query`` names the metrics to write out query by query."""
        summary: dict[str, Any] = {
            "num_queries": len(self.query_ids),
            "num_documents": self.num_documents,
            "num_pairs": self.num_pairs,
            "num_unjudged_queries": len(self.unjudged_query_ids),
            "base": self.base_means,
            "adapted": self.adapted_means,
        }
        if per_query:
            summary["per_query"] = {
                "query_ids": self.query_ids,
                "base": {name: self.base[name].tolist() for name in per_query},
                "adapted": {name: self.adapted[name].tolist() for name in per_query},
            }
        return summary


def evaluate(
    split: EmbeddedSplit,
    adapter: Adapter | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    index: Index | None = None,
) -> EvaluationResult:
    """Search the whole corpus with the base and with the adapted queries of a split, and compare.

    Args:
        split: queries, corpus and judgements.
        adapter: an adapter, or the modules that a saved model applies to queries; None evaluates the base model alone.
        ks: cut-offs, each >= 1.
        index: what searches the split's corpus, as ``build_index`` makes it; exact search if None.

    Returns:
        Both sides, per query.

    Raises:
        ValueError: no query of the split has a relevant document, or the adapter has another dimension.
    """
    start = time.perf_counter()
    judged = torch.zeros(len(split.query_ids), dtype=torch.bool, device=split.query_embeddings.device)
    judged[split.qrels.query_index[split.qrels.relevance > 0]] = True
    if not judged.any():
        raise ValueError(
            f"No query of the split {split.name!r} has a relevant document, so there is nothing to measure. "
            "Check the relevance scores: > 0 is relevant."
        )
    kept = judged.cpu().numpy()
    base = {name: values[kept] for name, values in query_metrics(split, split.query_embeddings, ks, index).items()}
    adapted = base
    if adapter is not None:
        queries = adapt(adapter, split.query_embeddings)
        adapted = {name: values[kept] for name, values in query_metrics(split, queries, ks, index).items()}
    return EvaluationResult(
        split=split.name,
        query_ids=[query_id for query_id, keep in zip(split.query_ids, kept, strict=True) if keep],
        base=base,
        adapted=adapted,
        unjudged_query_ids=[query_id for query_id, keep in zip(split.query_ids, kept, strict=True) if not keep],
        num_documents=len(split.corpus_ids),
        num_pairs=split.num_pairs,
        seconds=time.perf_counter() - start,
    )


def adapt(adapter: Adapter, query_embeddings: Tensor) -> Tensor:
    """The adapted (Q, D) query embeddings, without gradients.

    Raises:
        ValueError: the adapter has another dimension.
    """
    features: dict[str, Any] = {"sentence_embedding": query_embeddings}
    with torch.no_grad():
        if isinstance(adapter, QueryAdapter):
            features = adapter(features, task="query")
        else:
            for module in adapter:
                features = module(features)
    adapted: Tensor = features["sentence_embedding"]
    return adapted


def query_metrics(
    split: EmbeddedSplit, query_embeddings: Tensor, ks: Sequence[int] = DEFAULT_KS, index: Index | None = None
) -> PerQuery:
    """Metrics of every query of a split, searched with the given (Q, D) vectors in place of its own."""
    found = search_split(split, query_embeddings, max(ks), index)
    return ranking_metrics(_gains(split, found.indices), _judged_gains(split), ks)


def search_split(split: EmbeddedSplit, query_embeddings: Tensor, k: int, index: Index | None = None) -> TopK:
    """Search the corpus of a split with (Q, D) query vectors by the similarity of its model."""
    if split.similarity == "cosine":
        query_embeddings = torch.nn.functional.normalize(query_embeddings)
    return search(query_embeddings, split.corpus_embeddings, k) if index is None else index(query_embeddings, k)


def _gains(split: EmbeddedSplit, indices: Tensor) -> NDArray[np.float64]:
    """Relevance (Q, K) of retrieved documents, 0 where there is no judgement."""
    num_documents = len(split.corpus_ids)
    keys, order = (split.qrels.query_index * num_documents + split.qrels.corpus_index).sort()
    relevance = split.qrels.relevance[order]
    rows = torch.arange(len(indices), device=indices.device).unsqueeze(1)
    wanted = rows * num_documents + indices  # (Q, K)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    # An empty place, -1, would otherwise be the last document of the query before.
    judged = (keys[place] == wanted) & (indices >= 0)
    gains = torch.where(judged, relevance[place], torch.zeros_like(relevance[place]))
    return np.asarray(gains.cpu().numpy(), dtype=np.float64)


def _judged_gains(split: EmbeddedSplit) -> NDArray[np.float64]:
    """Relevance (Q, J) of all judged documents of each query, padded with 0."""
    rows, order = split.qrels.query_index.cpu().sort(stable=True)
    columns = place_in_group(rows, len(split.query_ids))
    gains = np.zeros((len(split.query_ids), int(columns.max()) + 1))
    gains[rows.numpy(), columns.numpy()] = split.qrels.relevance.cpu()[order].numpy()
    return gains
