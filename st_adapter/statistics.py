"""Paired comparison of two systems on the same queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NUM_RESAMPLES = 10_000
_NUM_FLIPS = 5_000
# Random numbers held at once: 2**24 float64 are 128 MiB.
_BLOCK = 2**24


class Interval(NamedTuple):
    """Two ends of a confidence interval."""

    low: float
    high: float


def bootstrap_interval(differences: NDArray[np.float64], level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of the mean difference over 10,000 resamples of the queries.

    Efron 1979, "Bootstrap methods: another look at the jackknife"; for retrieval: Sakai 2006, "Evaluating evaluation
    metrics based on the bootstrap".

    Args:
        differences: (Q,) difference of the two systems on each query, Q >= 1.
        level: coverage, 0 < level < 1.
        seed: of the resampling.

    Returns:
        The interval, in the unit of the differences.

    Raises:
        ValueError: there are no differences.

    Example:
        >>> bootstrap_interval(np.full(5, 0.25))
        Interval(low=0.25, high=0.25)
    """
    if len(differences) == 0:
        raise ValueError("There are no differences to resample. Pass one per query.")
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(differences))
    means = [
        differences[
            generator.integers(0, len(differences), (min(rows, _NUM_RESAMPLES - start), len(differences)))
        ].mean(1)
        for start in range(0, _NUM_RESAMPLES, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def sign_flip_p_values(differences: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """One-sided paired randomisation test of several candidates against one base, valid after choosing the best.

    Under the null hypothesis each query's difference is as likely with either sign. The observed statistic of each
    candidate (mean over root of the sum of squares) is compared with the *largest* of all candidates under the same
    random signs, so the probability that any of them is called better by chance stays below the level (Westfall &
    Young 1993, "Resampling-based multiple testing", single-step maxT; for retrieval: Smucker, Allan & Carterette 2007,
    "A comparison of statistical significance tests for information retrieval evaluation").

    Args:
        differences: (C, Q) candidate minus base on each query.
        seed: of the signs.

    Returns:
        (C,) p-values, adjusted for the number of candidates, in steps of 1 / 5,001.

    Example:
        >>> sign_flip_p_values(np.array([[0.0, 0.0, 0.0]])).tolist()
        [1.0]
    """
    scale = np.sqrt(np.square(differences).sum(axis=1)).clip(min=1e-12)  # (C,)
    observed = differences.sum(axis=1) / scale
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // differences.shape[1])
    reached = np.zeros(len(differences))
    for start in range(0, _NUM_FLIPS, rows):
        signs = generator.choice([-1.0, 1.0], (min(rows, _NUM_FLIPS - start), differences.shape[1]))
        largest = (signs @ (differences / scale[:, None]).T).max(axis=1)  # (flips,)
        # Sums in another order differ in the last bits; a tie counts against the candidate.
        reached += (largest[:, None] >= observed - 1e-9).sum(axis=0)
    return np.asarray((reached + 1) / (_NUM_FLIPS + 1))


class Gate(NamedTuple):
    """Whether a candidate may take the base model's place.

    Attributes:
        adopted: whether it may.
        reason: why, in one sentence with the numbers.
        gain: mean difference in nDCG@10.
        interval: 95 % bootstrap interval of the gain.
        p_value: one-sided, that the candidate is no better than the base.
    """

    adopted: bool
    reason: str
    gain: float
    interval: Interval
    p_value: float


def gate(
    differences: NDArray[np.float64],
    p_value: float | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
    rejected: bool = False,
) -> Gate:
    """Let a candidate pass only if held-out queries say that it is better than the base model.

    Args:
        differences: (Q,) candidate minus base in nDCG@10, on queries its fit did not see.
        p_value: of the candidate, if it was the best of several and the test has to account for them; else it is
            computed by sign flips.
        alpha: level of the test, 0 < alpha < 1.
        seed: of the test and of the interval.
        rejected: the candidate is known to lose on a part of the queries, whatever the mean.

    Raises:
        ValueError: alpha is out of range.

    Example:
        >>> gate(np.full(20, 0.1)).reason
        'Better than the base model: +0.100 nDCG@10 on 20 held-out queries, 95 % interval +0.100 to +0.100, p = 0.0002.'
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, but the level of a test lies between 0 and 1.")
    if p_value is None:
        p_value = float(sign_flip_p_values(differences[None], seed)[0])
    gain, interval = float(differences.mean()), bootstrap_interval(differences, seed=seed)
    adopted = not rejected and gain > 0 and p_value <= alpha
    if adopted:
        verdict = "Better than the base model"
    elif rejected:
        verdict = "Clearly worse than the base model on a part of the queries"
    elif gain <= 0:
        verdict = "Not better than the base model"
    else:
        verdict = f"Not surely better than the base model (p above {alpha:g})"
    figures = f"{gain:+.3f} nDCG@10 on {len(differences)} held-out queries"
    interval_text = f"95 % interval {interval.low:+.3f} to {interval.high:+.3f}"
    return Gate(adopted, f"{verdict}: {figures}, {interval_text}, p = {p_value:.4f}.", gain, interval, p_value)
