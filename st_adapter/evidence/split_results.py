"""What is kept of the evaluation of one split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from st_adapter.evaluation.comparison import Comparison
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evidence.changes import LargestChanges

METRICS = ("ndcg", "mrr", "accuracy", "recall", "precision", "map")
HEADLINE_METRIC = "ndcg@10"
_METRIC_AT_K = re.compile(rf"({'|'.join(METRICS)})@[0-9]{{1,18}}")
# Reciprocal ranks of the first relevant document.
RANKS_METRIC = "mrr@100"
# Kept query by query, so that two runs can be compared query by query.
_PER_QUERY = (HEADLINE_METRIC, RANKS_METRIC)


@dataclass(frozen=True)
class PerQueryValues:
    """Metrics query by query.

    Attributes:
        query_ids: Q ids.
        base: metric -> Q values of the base model.
        adapted: the same of the adapted model.
        seen: whether a relevant document of the query was a positive in training; None if that was not asked for.
    """

    query_ids: list[str]
    base: dict[str, list[float]]
    adapted: dict[str, list[float]]
    seen: list[bool] | None = None


@dataclass(frozen=True, kw_only=True)
class SplitResults:
    """Base and adapted model on one split.

    Attributes:
        num_queries: Q, queries measured.
        num_documents: N, size of the corpus searched.
        num_pairs: relevant (query, document) pairs.
        num_unjudged_queries: queries without a relevant document, which count in no mean.
        num_own_copies: queries that stand in the corpus themselves and whose own copy was left out of their hits.
        base: metric -> mean of the base model.
        adapted: the same of the adapted model.
        comparisons: part of the queries (``all``, ``seen``, ``unseen``) -> metric -> adapted against base.
        per_query: some metrics query by query.
        examples: the queries that changed most; None where the texts were not at hand.
    """

    num_queries: int
    num_documents: int
    num_pairs: int
    num_unjudged_queries: int
    num_own_copies: int = 0
    base: dict[str, float]
    adapted: dict[str, float]
    comparisons: dict[str, dict[str, Comparison]] = field(repr=False)
    per_query: PerQueryValues = field(repr=False)
    examples: LargestChanges | None = field(default=None, repr=False)

    @classmethod
    def of(cls, evaluation: EvaluationResult, examples: LargestChanges | None = None) -> SplitResults:
        """What is kept of an evaluation."""
        base, adapted = (
            {metric: side[metric].tolist() for metric in _PER_QUERY if metric in side}
            for side in (evaluation.base, evaluation.adapted)
        )
        seen = None if evaluation.seen is None else evaluation.seen.tolist()
        return cls(
            num_queries=len(evaluation.query_ids),
            num_documents=evaluation.num_documents,
            num_pairs=evaluation.num_pairs,
            num_unjudged_queries=len(evaluation.unjudged_query_ids),
            num_own_copies=evaluation.num_own_copies,
            base=evaluation.base_means,
            adapted=evaluation.adapted_means,
            comparisons={part: dict(compared) for part, compared in evaluation.comparisons.items()},
            per_query=PerQueryValues(evaluation.query_ids, base, adapted, seen),
            examples=examples,
        )

    def check(self, name: str) -> None:
        """Check what its types do not say.

        Raises:
            ValueError: a metric is unknown or missing, or a number is out of its range.
        """
        for part, compared in self.comparisons.items():
            unknown = [name for name in compared if _METRIC_AT_K.fullmatch(name) is None]
            if unknown:
                raise ValueError(f"{name} compares {unknown[0]!r:.80}, which is no metric.")
            if HEADLINE_METRIC not in compared:
                raise ValueError(f"{name} has no {HEADLINE_METRIC} of {part!r:.80}.")
            for metric, row in compared.items():
                figures = (row.base, row.adapted, row.difference, *row.interval, row.p_value)
                check_within(1, figures, f"{name}, {metric}")
        if "all" not in self.comparisons:
            raise ValueError(f"{name} compares nothing on all queries.")
        base, adapted = (side.get(RANKS_METRIC, []) for side in (self.per_query.base, self.per_query.adapted))
        if not len(base) == len(adapted) == self.num_queries:
            raise ValueError(f"{name} has {RANKS_METRIC} of {len(base)} and {len(adapted)} queries, not of all.")
        if not all(0 <= value <= 1 for value in (*base, *adapted)):
            raise ValueError(f"{name} has {RANKS_METRIC} outside of 0 to 1.")


def check_within(limit: float, numbers: Iterable[float], where: str) -> None:
    """Refuse numbers of a file that are larger than they can be.

    Raises:
        ValueError: one lies beyond the limit.
    """
    if not all(abs(number) <= limit for number in numbers):
        raise ValueError(f"{where} has figures beyond {limit}, but differences and means of fractions are expected.")
