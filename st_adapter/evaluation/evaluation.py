"""Evaluate an adapter on a split: base and adapted side by side, per query and as means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Module
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit, OwnCopies, place_in_group
from st_adapter.embeddings.search import Index, TopK
from st_adapter.evaluation.comparison import Comparison, compare
from st_adapter.evaluation.metrics import DEFAULT_KS, ranking_metrics

PerQuery = dict[str, NDArray[np.float64]]
Adapter: TypeAlias = QueryAdapter | Sequence[Module]
Part = Literal["all", "seen", "unseen"]


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
        seen: (Q,) bool, whether a relevant document of the query was a positive in training; None if that was not
            asked for.
        num_own_copies: queries that stand in the corpus themselves and whose own copy was left out of their hits.
    """

    split: str
    query_ids: list[str]
    base: PerQuery
    adapted: PerQuery
    unjudged_query_ids: list[str]
    num_documents: int
    num_pairs: int
    seconds: float
    seen: NDArray[np.bool_] | None = None
    num_own_copies: int = 0

    @property
    def base_means(self) -> dict[str, float]:
        """Means of the base model over the queries."""
        return {name: float(values.mean()) for name, values in self.base.items()}

    @property
    def adapted_means(self) -> dict[str, float]:
        """Means of the adapted model over the queries."""
        return {name: float(values.mean()) for name, values in self.adapted.items()}

    @cached_property
    def comparisons(self) -> dict[Part, dict[str, Comparison]]:
        """Part of the queries -> metric -> adapted against base; of ``seen`` and ``unseen`` those that have a query."""
        parts: dict[Part, NDArray[np.bool_]] = {"all": np.ones(len(self.query_ids), dtype=np.bool_)}
        if self.seen is not None:
            parts |= {"seen": self.seen, "unseen": ~self.seen}
        # A part that is the whole is not resampled a second time.
        compared: dict[Part, dict[str, Comparison]] = {}
        for part, kept in parts.items():
            if part != "all" and kept.all():
                compared[part] = compared["all"]
            elif kept.any():
                base, adapted = (
                    {name: values[kept] for name, values in side.items()} for side in (self.base, self.adapted)
                )
                compared[part] = compare(base, adapted)
        return compared

    def compare(self, metric: str = "ndcg@10", part: Part = "all") -> Comparison:
        """Compare the adapted model with the base model in one metric.

        Args:
            metric: one of those evaluated.
            part: all queries, or those with or without a relevant document that was a positive in training.

        Raises:
            ValueError: the metric was not evaluated, or the part is unknown or has no query.
        """
        if part not in self.comparisons:
            raise ValueError(
                f"There are no {part!r} queries to compare, only {list(self.comparisons)}. "
                + ("Choose one of these." if self.seen is not None else "Give evaluate() the seen documents.")
            )
        if metric not in self.base:
            raise ValueError(f"{metric!r} was not evaluated, only {list(self.base)}. Choose one of these.")
        return self.comparisons[part][metric]

    def to_dict(self, per_query: Sequence[str] = ()) -> dict[str, Any]:
        """A JSON-ready summary; ``per_query`` names the metrics to write out query by query.

        ``comparisons`` holds what ``Comparison`` holds, by part of the queries and metric.
        """
        summary: dict[str, Any] = {
            "num_queries": len(self.query_ids),
            "num_documents": self.num_documents,
            "num_pairs": self.num_pairs,
            "num_unjudged_queries": len(self.unjudged_query_ids),
            "num_own_copies": self.num_own_copies,
            "base": self.base_means,
            "adapted": self.adapted_means,
            "comparisons": {
                part: {name: comparison.to_dict() for name, comparison in compared.items()}
                for part, compared in self.comparisons.items()
            },
        }
        if per_query:
            summary["per_query"] = {
                "query_ids": self.query_ids,
                "base": {name: self.base[name].tolist() for name in per_query},
                "adapted": {name: self.adapted[name].tolist() for name in per_query},
            }
            if self.seen is not None:
                summary["per_query"]["seen"] = self.seen.tolist()
        return summary


def seen_documents(embedded: EmbeddedDataset, fitted_on: Sequence[str]) -> Tensor:
    """Which documents are a positive of a query that the adapter was fitted on: (N,) bool.

    Args:
        embedded: the data set.
        fitted_on: the splits of the fit.

    Raises:
        ValueError: there is no such split.
    """
    seen = torch.zeros(len(embedded.corpus), dtype=torch.bool, device=embedded.query_embeddings.device)
    for split in fitted_on:
        if split not in embedded.qrels:
            raise ValueError(
                f"There is no split {split!r}; this data set has {list(embedded.qrels)}. Name the splits of the fit."
            )
        qrels = embedded.qrels[split]
        seen[qrels.corpus_index[qrels.relevance > 0]] = True
    return seen


def seen_queries(split: EmbeddedSplit, seen_documents: Tensor) -> NDArray[np.bool_]:
    """Which queries of a split have a relevant document among the seen ones: (Q,) bool.

    Args:
        split: queries and judgements.
        seen_documents: (N,) bool, from the function of this name.

    Raises:
        ValueError: ``seen_documents`` has another number of documents.
    """
    if seen_documents.shape != (len(split.corpus),):
        raise ValueError(
            f"seen_documents has shape {tuple(seen_documents.shape)}, but the corpus has {len(split.corpus)} "
            "documents. Pass one bool per document of the same data set."
        )
    relevant = split.qrels.relevance > 0
    hit = seen_documents.to(relevant.device)[split.qrels.corpus_index] & relevant
    seen = np.zeros(len(split.query_ids), dtype=np.bool_)
    seen[split.qrels.query_index[hit].cpu().numpy()] = True
    return seen


def evaluate(
    split: EmbeddedSplit,
    adapter: Adapter | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    *,
    index: Index | None = None,
    seen_documents: Tensor | None = None,
) -> EvaluationResult:
    """Search the whole corpus with the base and with the adapted queries of a split, and compare.

    A document that is the query's own text is left out of its hits, unless it is judged relevant.

    Args:
        split: queries, corpus and judgements.
        adapter: an adapter, or the modules that a saved model applies to queries; None evaluates the base model alone.
        ks: cut-offs, each >= 1.
        index: what searches the split's corpus, as ``build_index`` makes it; exact search if None.
        seen_documents: (N,) bool, documents that were positives in training, from the function of this name; if given,
            the result tells queries with such a relevant document from those without.

    Returns:
        Both sides, per query.

    Raises:
        ValueError: no query of the split has a relevant document, the adapter has another dimension, or
            ``seen_documents`` has another number of documents.
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
    seen = None if seen_documents is None else seen_queries(split, seen_documents)[kept]
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
        num_documents=len(split.corpus),
        num_pairs=split.num_pairs,
        seconds=time.perf_counter() - start,
        seen=seen,
        num_own_copies=int(judged[split.left_out.query_index.unique()].sum()),
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
    best, num_relevant = _best_gains(split, max(ks))
    return ranking_metrics(_gains(split, found.indices), best, ks, num_relevant=num_relevant)


def search_split(split: EmbeddedSplit, query_embeddings: Tensor, k: int, index: Index | None = None) -> TopK:
    """Search the corpus of a split with (Q, D) vectors, one for each of its queries, by the similarity of its model.

    A query that stands in the corpus itself is searched deeper, and its own copy taken out: see
    ``EmbeddedSplit.left_out``. Where fewer than k documents are left, the last places are -1.

    Raises:
        ValueError: there is not one vector for each query.
    """
    if len(query_embeddings) != len(split.query_ids):
        raise ValueError(
            f"There are {len(query_embeddings)} query vectors, but the split {split.name!r} has {len(split.query_ids)} "
            "queries. Pass one vector for each, in their order, or a subset of the split."
        )
    query_embeddings = split.comparable(query_embeddings)
    find = split.corpus.search if index is None else index
    copies = split.left_out
    if len(copies.query_index) == 0:
        return find(query_embeddings, k)
    rows, query_index = copies.query_index.unique(return_inverse=True)
    most = int(torch.bincount(query_index).max())
    found = _without(find(query_embeddings[rows], k + most), copies._replace(query_index=query_index), k)
    others = torch.ones(len(query_embeddings), dtype=torch.bool, device=rows.device)
    others[rows] = False
    if not others.any():
        return found
    plain = find(query_embeddings[others], k)
    width = max(found.indices.shape[1], plain.indices.shape[1])
    scores = plain.scores.new_full((len(query_embeddings), width), -torch.inf)
    indices = plain.indices.new_full((len(query_embeddings), width), -1)
    for chosen, part in ((rows, found), (others, plain)):
        scores[chosen, : part.scores.shape[1]] = part.scores
        indices[chosen, : part.indices.shape[1]] = part.indices
    return TopK(scores, indices)


def _without(found: TopK, copies: OwnCopies, k: int) -> TopK:
    """The first k hits of each query when its copies are taken out; the others keep their order."""
    rows = torch.arange(len(found.indices), device=found.indices.device).unsqueeze(1)
    num_documents = int(torch.maximum(found.indices.max(), copies.corpus_index.max())) + 1
    wanted = copies.query_index * num_documents + copies.corpus_index
    empty = torch.isin(rows * num_documents + found.indices, wanted) | (found.indices < 0)
    order = empty.long().sort(dim=1, stable=True).indices[:, :k]
    empty = empty.gather(1, order)
    return TopK(
        found.scores.gather(1, order).masked_fill(empty, -torch.inf),
        found.indices.gather(1, order).masked_fill(empty, -1),
    )


def _gains(split: EmbeddedSplit, indices: Tensor) -> NDArray[np.float64]:
    """Relevance (Q, K) of retrieved documents, 0 where there is no judgement."""
    num_documents = len(split.corpus)
    keys, order = (split.qrels.query_index * num_documents + split.qrels.corpus_index).sort()
    relevance = split.qrels.relevance[order]
    rows = torch.arange(len(indices), device=indices.device).unsqueeze(1)
    wanted = rows * num_documents + indices  # (Q, K)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    # An empty place, -1, would otherwise be the last document of the query before.
    judged = (keys[place] == wanted) & (indices >= 0)
    gains = torch.where(judged, relevance[place], torch.zeros_like(relevance[place]))
    return np.asarray(gains.cpu().numpy(), dtype=np.float64)


def _best_gains(split: EmbeddedSplit, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k highest relevances (Q, <= k) of each query's documents, padded with 0, and how many are relevant (Q,)."""
    num_queries = len(split.query_ids)
    relevant = split.qrels.relevance > 0
    relevance, order = split.qrels.relevance[relevant].cpu().sort(descending=True)
    rows, by_query = split.qrels.query_index[relevant].cpu()[order].sort(stable=True)
    columns = place_in_group(rows, num_queries)
    first = columns < k
    best = np.zeros((num_queries, int(columns[first].max()) + 1 if first.any() else 0))
    best[rows[first].numpy(), columns[first].numpy()] = relevance[by_query][first].numpy()
    return best, torch.bincount(rows, minlength=num_queries).numpy()
