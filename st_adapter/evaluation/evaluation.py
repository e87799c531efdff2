"""Evaluate an adapter on a split: base and adapted side by side, per query and as means."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.choices import is_whole
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit, place_in_group
from st_adapter.embeddings.search import Index
from st_adapter.evaluation.comparison import Comparison, compare
from st_adapter.evaluation.hits import Adapter, adapt, search_split
from st_adapter.evaluation.metrics import DEFAULT_KS, ranking_metrics
from st_adapter.evaluation.seen import seen_queries
from st_adapter.words import fraction, metric_name

PerQuery = dict[str, NDArray[np.float64]]
PartOfQueries = Literal["all", "seen", "unseen"]


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

    def __repr__(self) -> str:
        metric = "ndcg@10" if "ndcg@10" in self.base else next(iter(self.base))
        compared = self.comparisons["all"][metric]
        figures = f"{metric_name(metric)} {fraction(compared.base)}"
        if self.adapted is not self.base:
            figures += f" -> {fraction(compared.adapted)}; {compared.sentence}"
        return (
            f"EvaluationResult({self.split!r}, {len(self.query_ids):,} queries, {self.num_documents:,} documents: "
            f"{figures})"
        )

    @property
    def base_means(self) -> dict[str, float]:
        """Means of the base model over the queries."""
        return {name: float(values.mean()) for name, values in self.base.items()}

    @property
    def adapted_means(self) -> dict[str, float]:
        """Means of the adapted model over the queries."""
        return {name: float(values.mean()) for name, values in self.adapted.items()}

    @cached_property
    def comparisons(self) -> dict[PartOfQueries, dict[str, Comparison]]:
        """Part of the queries -> metric -> adapted against base; of ``seen`` and ``unseen`` those that have a query."""
        parts: dict[PartOfQueries, NDArray[np.bool_]] = {"all": np.ones(len(self.query_ids), dtype=np.bool_)}
        if self.seen is not None:
            parts |= {"seen": self.seen, "unseen": ~self.seen}
        # A part that is the whole is not resampled a second time.
        compared: dict[PartOfQueries, dict[str, Comparison]] = {}
        for part, kept in parts.items():
            if part != "all" and kept.all():
                compared[part] = compared["all"]
            elif kept.any():
                base, adapted = (
                    {name: values[kept] for name, values in side.items()} for side in (self.base, self.adapted)
                )
                compared[part] = compare(base, adapted)
        return compared

    def compare(self, metric: str = "ndcg@10", part: PartOfQueries = "all") -> Comparison:
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


def evaluate(
    embedded: EmbeddedSplit | EmbeddedDataset,
    adapter: Adapter | None = None,
    ks: Sequence[int] = DEFAULT_KS,
    *,
    split: str | None = None,
    index: Index | None = None,
    seen_documents: Tensor | None = None,
    base: EvaluationResult | None = None,
) -> EvaluationResult:
    """Search the whole corpus with the base and with the adapted queries of a split, and compare.

    A document that is the query's own text is left out of its hits, unless it is judged relevant.

    Args:
        embedded: queries, corpus and judgements of one split, or a whole data set.
        adapter: an adapter, a saved model's modules for queries, or a function of vectors; None: the base model alone.
        ks: cut-offs, each >= 1.
        split: of a data set the split to evaluate; test, or else the only one, if None.
        index: what searches the corpus, as ``build_index`` makes it; the corpus's own search if None.
        seen_documents: (N,) bool, documents that were positives in training, from the function of this name; if given,
            the result tells queries with such a relevant document from those without.
        base: an earlier result with the same split, cut-offs and index, whose base model is not searched with again.

    Returns:
        Both sides, per query.

    Raises:
        ValueError: there are no cut-offs, no query of the split has a relevant document, the adapter has another
            dimension, ``seen_documents`` has another number of documents, or ``base`` is of something else.

    Examples:
        >>> evaluate(embedded["test"], adapter).compare("ndcg@10").difference  # an untrained adapter
        0.0
    """
    start = time.perf_counter()
    if not isinstance(ks, Collection) or len(ks) == 0 or not all(map(is_whole, ks)):
        raise ValueError(f"ks is {ks!r}, but whole numbers, the cut-offs, are expected. Pass some, such as (1, 10).")
    chosen = _split_of(embedded, split)
    judged = _judged(chosen)
    kept = judged.cpu().numpy()
    query_ids = [query_id for query_id, keep in zip(chosen.query_ids, kept, strict=True) if keep]
    if base is None:
        of_base = _metrics(chosen, chosen.query_embeddings, kept, ks, index)
    else:
        of_base = _taken_over(base, chosen, query_ids, ks)
    adapted = of_base if adapter is None else _metrics(chosen, adapt(adapter, chosen.query_embeddings), kept, ks, index)
    return EvaluationResult(
        split=chosen.name,
        query_ids=query_ids,
        base=of_base,
        adapted=adapted,
        unjudged_query_ids=[query_id for query_id, keep in zip(chosen.query_ids, kept, strict=True) if not keep],
        num_documents=len(chosen.corpus),
        num_pairs=chosen.num_pairs,
        seconds=time.perf_counter() - start,
        seen=None if seen_documents is None else seen_queries(chosen, seen_documents)[kept],
        num_own_copies=int(judged[chosen.left_out.query_index.unique()].sum()),
    )


def _split_of(embedded: EmbeddedSplit | EmbeddedDataset, split: str | None) -> EmbeddedSplit:
    if isinstance(embedded, EmbeddedSplit):
        if split not in (None, embedded.name):
            raise ValueError(f"The split {embedded.name!r} was given, and {split!r} asked for. Pass the data set.")
        return embedded
    if split is None:
        split = "test" if len(embedded.qrels) > 1 else next(iter(embedded.qrels), "test")
    return embedded[split]


def _judged(split: EmbeddedSplit) -> Tensor:
    """Which queries have a relevant document: (Q,) bool."""
    judged = split.judged
    if not judged.any():
        raise ValueError(
            f"No query of the split {split.name!r} has a relevant document, so there is nothing to measure. "
            "Check the relevance scores: > 0 is relevant."
        )
    return judged


def _metrics(
    split: EmbeddedSplit, query_embeddings: Tensor, kept: NDArray[np.bool_], ks: Sequence[int], index: Index | None
) -> PerQuery:
    """Metrics of the kept queries of a split, searched with the given (Q, D) vectors in place of its own."""
    found = search_split(split, query_embeddings, max(ks), index)
    best, num_relevant = _highest_relevances(split, max(ks))
    values = ranking_metrics(_relevance_of(split, found.indices), best, ks, num_relevant=num_relevant)
    return {name: of_queries[kept] for name, of_queries in values.items()}


def _taken_over(base: EvaluationResult, split: EmbeddedSplit, query_ids: list[str], ks: Sequence[int]) -> PerQuery:
    missing = [k for k in ks if f"ndcg@{k}" not in base.base]
    if (base.split, base.query_ids, base.num_documents) != (split.name, query_ids, len(split.corpus)) or missing:
        raise ValueError(
            f"base is an evaluation of {base.split!r} with {len(base.query_ids)} queries and {list(base.base)}, which "
            f"is not {split.name!r} with {len(query_ids)} queries and the cut-offs {list(ks)}. Pass one of the same."
        )
    return {name: values for name, values in base.base.items() if int(name.partition("@")[2]) in ks}


def _relevance_of(split: EmbeddedSplit, indices: Tensor) -> NDArray[np.float64]:
    """Relevance (Q, K) of retrieved documents, 0 where there is no judgement."""
    num_documents = len(split.corpus)
    keys, order = (split.qrels.query_index * num_documents + split.qrels.corpus_index).sort()
    relevance = split.qrels.relevance[order]
    rows = torch.arange(len(indices), device=indices.device).unsqueeze(1)
    wanted = rows * num_documents + indices  # (Q, K)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    # An empty place, -1, would otherwise be the last document of the query before.
    judged = (keys[place] == wanted) & (indices >= 0)
    found = torch.where(judged, relevance[place], torch.zeros_like(relevance[place]))
    return np.asarray(found.cpu().numpy(), dtype=np.float64)


def _highest_relevances(split: EmbeddedSplit, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
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
