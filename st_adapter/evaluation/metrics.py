"""Ranking metrics per query, from graded judgements; numpy only.

The definitions are those of trec_eval (and so of ``ir_measures``, ``pytrec_eval`` and BEIR): a document is relevant if
its relevance is above 0, nDCG has linear gains, and average precision divides by the number of all relevant documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DEFAULT_KS = (1, 3, 5, 10, 100)


def ranking_metrics(
    relevance: NDArray[np.float64],
    judged_relevance: NDArray[np.float64],
    ks: Sequence[int] = DEFAULT_KS,
    *,
    num_relevant: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute nDCG@k, MRR@k, accuracy@k, recall@k, precision@k and MAP@k for every query.

    Args:
        relevance: (Q, K) relevance of the retrieved documents in the order of retrieval; 0 for a document without a
            judgement. A rank beyond K counts as not relevant.
        judged_relevance: (Q, J) relevance of all judged documents of each query in any order, padded with 0.
        ks: cut-offs, each >= 1.
        num_relevant: (Q,) how many documents are relevant; with it, the ``max(ks)`` highest relevances of each query
            are enough for ``judged_relevance``, so that one query of many judgements does not make all rows as long.

    Returns:
        ``{"ndcg@10": (Q,), ...}``, fractions 0-1. All metrics of a query without a relevant document are 0.

    Raises:
        ValueError: the numbers of queries differ, or a cut-off is below 1.

    References:
        Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques" (nDCG, with linear gains);
        https://github.com/usnistgov/trec_eval for the others. Accuracy@k is the name that Sentence Transformers uses
        for the hit rate: 1 if any of the first k documents is relevant.

    Examples:
        >>> metrics = ranking_metrics(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), ks=[2])
        >>> round(float(metrics["ndcg@2"][0]), 4), float(metrics["mrr@2"][0])
        (0.6309, 0.5)
    """
    if len(relevance) != len(judged_relevance):
        raise ValueError(
            f"relevance has {len(relevance)} queries, but judged_relevance has {len(judged_relevance)}. "
            "Pass one row per query in both."
        )
    if not all(k >= 1 for k in ks):
        raise ValueError(f"Cut-offs must be at least 1, got {list(ks)}.")
    if num_relevant is None:
        num_relevant = (np.asarray(judged_relevance) > 0).sum(axis=1)
    depth = max(ks, default=1)
    retrieved = _gains(np.asarray(relevance, dtype=np.float64), depth)
    ideal = _gains(-np.sort(-np.asarray(judged_relevance, dtype=np.float64), axis=1), depth)
    return _at_cutoffs(retrieved, ideal, np.maximum(num_relevant, 1), ks)


def _gains(relevance: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """(Q, depth) gains of documents in an order: their relevance, if above 0."""
    gains = np.maximum(relevance[:, :depth], 0.0)
    return np.pad(gains, ((0, 0), (0, depth - gains.shape[1])))


def _at_cutoffs(
    gains: NDArray[np.float64], ideal: NDArray[np.float64], num_relevant: NDArray[np.int64], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """The metrics from (Q, depth) gains, those of the ideal order, and (Q,) numbers of relevant documents, >= 1."""
    ranks = np.arange(1, gains.shape[1] + 1)
    discounts = 1.0 / np.log2(ranks + 1)
    dcg = np.cumsum(gains * discounts, axis=1)
    ideal_dcg = np.cumsum(ideal * discounts, axis=1)
    relevant = gains > 0
    found = np.cumsum(relevant, axis=1)
    reciprocal_rank = np.where(found == 0, 0.0, 1.0 / (1 + relevant.argmax(axis=1))[:, None])
    precision_sum = np.cumsum(np.where(relevant, found / ranks, 0.0), axis=1)

    metrics: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        best = ideal_dcg[:, k - 1]
        metrics[f"ndcg@{k}"] = np.divide(dcg[:, k - 1], best, out=np.zeros_like(best), where=best > 0)
        metrics[f"mrr@{k}"] = reciprocal_rank[:, k - 1]
        metrics[f"accuracy@{k}"] = (found[:, k - 1] > 0).astype(np.float64)
        metrics[f"recall@{k}"] = found[:, k - 1] / num_relevant
        metrics[f"precision@{k}"] = found[:, k - 1] / k
        metrics[f"map@{k}"] = precision_sum[:, k - 1] / num_relevant
    return metrics


def run_metrics(
    qrels: Mapping[str, Mapping[str, float]], run: Mapping[str, Mapping[str, float]], ks: Sequence[int] = DEFAULT_KS
) -> dict[str, dict[str, float]]:
    """Compute the metrics of a run in dictionary form, for every query of the judgements.

    Equal scores keep the order in which the run lists them.

    Args:
        qrels: ``qrels[query_id][corpus_id] = relevance``.
        run: ``run[query_id][corpus_id] = score``; a judged query missing here retrieved nothing and scores 0.
        ks: cut-offs, each >= 1.

    Returns:
        ``{"ndcg@10": {query_id: fraction}, ...}``.

    Raises:
        ValueError: the run has queries without judgements (count and first three), or there are no judgements.

    Examples:
        >>> run_metrics({"q": {"a": 1.0}}, {"q": {"b": 0.9, "a": 0.8}}, ks=[2])["mrr@2"]
        {'q': 0.5}
    """
    if not qrels:
        raise ValueError("There are no judgements: qrels is empty. Pass qrels[query_id][corpus_id] = relevance.")
    unjudged = [query_id for query_id in run if query_id not in qrels]
    if unjudged:
        raise ValueError(
            f"{len(unjudged)} queries of the run have no judgements, the first: {unjudged[:3]}. "
            "Add them to the qrels or take them out of the run."
        )
    depth = max(ks, default=1)
    gains, best = np.zeros((len(qrels), depth)), np.zeros((len(qrels), depth))
    num_relevant = np.zeros(len(qrels), dtype=np.int64)
    for row, (query_id, judgements) in enumerate(qrels.items()):
        ranking = sorted(run.get(query_id, {}).items(), key=lambda item: -item[1])[:depth]
        gains[row, : len(ranking)] = [judgements.get(corpus_id, 0.0) for corpus_id, _ in ranking]
        ideal = sorted((relevance for relevance in judgements.values() if relevance > 0), reverse=True)
        best[row, : len(ideal[:depth])] = ideal[:depth]
        num_relevant[row] = len(ideal)
    metrics = ranking_metrics(gains, best, ks, num_relevant=num_relevant)
    return {name: dict(zip(qrels, values.tolist(), strict=True)) for name, values in metrics.items()}
