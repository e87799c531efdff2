"""Two systems on the same queries, compared metric by metric and said in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from st_adapter.evaluation.statistics import (
    MIN_INTERVAL_QUERIES,
    Interval,
    bootstrap_intervals,
    two_sided_p_values,
)
from st_adapter.words import counted, fraction, metric_name, signed_in_ascii

# Said wherever p-values of comparisons are shown.
P_VALUE_IN_WORDS = "p: the chance of a difference at least as large by luck alone, if both were equally good."

# Values nearer than this are a tie: the same ranking may be summed in another order.
_TIE = 1e-9


@dataclass(frozen=True)
class Comparison:
    """One metric of the adapted model against the base model, paired by query.

    Attributes:
        metric: such as ``ndcg@10``.
        num_queries: Q.
        base: mean of the base model, a fraction 0-1.
        adapted: mean of the adapted model.
        difference: mean of adapted minus base.
        interval: 95 % bootstrap interval of the difference; see ``bootstrap_intervals``.
        p_value: two-sided, of the paired randomisation test; see ``two_sided_p_values``. For this metric alone: not
            adjusted for looking at several.
        effect_size: Cohen's d_z, the mean of the differences over their standard deviation (Cohen 1988, "Statistical
            power analysis for the behavioral sciences", 2.3.5; Lakens 2013, "Calculating and reporting effect sizes"):
            0.2 is small, 0.5 medium, 0.8 large. None where the differences do not vary.
        wins: queries on which the adapted model is better.
        ties: queries on which both are equal.
        losses: queries on which the base model is better.
    """

    metric: str
    num_queries: int
    base: float
    adapted: float
    difference: float
    interval: Interval
    p_value: float
    effect_size: float | None
    wins: int
    ties: int
    losses: int

    def __repr__(self) -> str:
        values = f"{metric_name(self.metric)} {fraction(self.base)} -> {fraction(self.adapted)}"
        p_value = "" if self.shown_interval is None else f", p = {self.p_value:.4f}"
        return f"Comparison({values}{p_value}; {self.sentence})"

    @property
    def shown_interval(self) -> Interval | None:
        """The interval where it is shown to people: None of fewer than 20 queries, which do not tell how they vary."""
        return self.interval if self.num_queries >= MIN_INTERVAL_QUERIES else None

    @property
    def sentence(self) -> str:
        """What happened, in plain words.

        Examples:
            >>> print(compare({"ndcg@10": np.zeros(30)}, {"ndcg@10": np.full(30, 0.5)})["ndcg@10"].sentence)
            better on 30 of 30 queries, worse on 0; +.500 nDCG@10, 95 % interval .500 to .500
        """
        shown = self.shown_interval
        interval = "" if shown is None else f", 95 % interval {fraction(shown.low)} to {fraction(shown.high)}"
        return (
            f"better on {self.wins:,} of {counted(self.num_queries, 'query', 'queries')}, "
            f"worse on {self.losses:,}; {signed_in_ascii(self.difference)} {metric_name(self.metric)}{interval}"
        )


def compare(
    base: Mapping[str, NDArray[np.float64]], adapted: Mapping[str, NDArray[np.float64]], seed: int = 0
) -> dict[str, Comparison]:
    """Compare all metrics of two systems on the same queries; one resampling of the queries serves all metrics.

    Args:
        base: metric -> (Q,) of the base model.
        adapted: the same metrics of the adapted model, queries in the same order.
        seed: of intervals and tests.

    Returns:
        metric -> comparison.

    Raises:
        ValueError: the two have other metrics or other numbers of queries, or there are no queries.
    """
    if not base or set(base) != set(adapted):
        raise ValueError(
            f"The base model has the metrics {sorted(base)}, the adapted model {sorted(adapted)}. "
            "Evaluate both with the same cut-offs."
        )
    shapes = {values.shape for side in (base, adapted) for values in side.values()}
    if len(shapes) > 1 or shapes == {(0,)} or len(min(shapes)) != 1:
        raise ValueError(
            f"The values per query have the shapes {sorted(shapes)}. Pass one value per query, at least one, and the "
            "same queries on both sides."
        )
    ours = np.stack([adapted[metric] for metric in base])  # (M, Q)
    theirs = np.stack(list(base.values()))
    return dict(zip(base, _compare_rows(list(base), theirs, ours, seed), strict=True))


def _compare_rows(
    metrics: Sequence[str], base: NDArray[np.float64], adapted: NDArray[np.float64], seed: int
) -> list[Comparison]:
    """A comparison for each of (M, Q) rows."""
    differences = adapted - base
    # Rounding must not pass for a win, nor for evidence.
    differences[np.abs(differences) <= _TIE] = 0.0
    num_queries = differences.shape[1]
    intervals = bootstrap_intervals(differences, seed=seed)
    p_values = two_sided_p_values(differences, seed=seed)
    varies = np.ptp(differences, axis=1) > _TIE
    means = differences.mean(axis=1)
    deviations = differences.std(axis=1, ddof=1) if num_queries > 1 else np.zeros(len(means))
    wins, losses = (differences > 0).sum(axis=1), (differences < 0).sum(axis=1)
    return [
        Comparison(
            metric=metric,
            num_queries=num_queries,
            base=float(base[row].mean()),
            adapted=float(adapted[row].mean()),
            difference=float(means[row]),
            interval=Interval(*intervals[row].tolist()),
            p_value=float(p_values[row]),
            effect_size=float(means[row] / deviations[row]) if varies[row] else None,
            wins=int(wins[row]),
            ties=int(num_queries - wins[row] - losses[row]),
            losses=int(losses[row]),
        )
        for row, metric in enumerate(metrics)
    ]
