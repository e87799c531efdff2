"""Paired comparison of two systems on the same queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from st_adapter.words import counted, fraction, signed_in_ascii

# The interval of a mean over fewer queries is not shown to people: so few do not tell how they vary.
MIN_INTERVAL_QUERIES = 20
_NUM_RESAMPLES = 10_000
_NUM_FLIPS = 5_000
_NUM_TWO_SIDED_FLIPS = 10_000
# Random numbers held at once: 2**22 of 8 bytes are 32 MiB.
_BLOCK = 2**22
# Sums in another order differ in the last bits; statistics this near to each other, in units of the root of the sum of
# squares, are equal.
_TOLERANCE = 1e-9


class Interval(NamedTuple):
    """Two ends of a confidence interval."""

    low: float
    high: float


def bootstrap_interval(differences: NDArray[np.float64], level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of one mean difference; see ``bootstrap_intervals``.

    Args:
        differences: (Q,) difference of the two systems on each query, Q >= 1.
        level: coverage, 0 < level < 1.
        seed: of the resampling.

    Returns:
        The interval, in the unit of the differences.

    Raises:
        ValueError: there are no differences.

    Examples:
        >>> bootstrap_interval(np.full(5, 0.25))
        Interval(low=0.25, high=0.25)
    """
    low, high = bootstrap_intervals(differences[None], level, seed)[0].tolist()
    return Interval(low, high)


def bootstrap_intervals(differences: NDArray[np.float64], level: float = 0.95, seed: int = 0) -> NDArray[np.float64]:
    """Percentile intervals of several mean differences over 10,000 resamples of the queries, the same ones for all.

    Plain percentiles are too narrow by the factor ``sqrt((Q - 1) / Q)`` and take the normal for Student's distribution,
    so that on few queries they cover less often than they say. So the percentiles are moved out by as much (Hesterberg
    2015, "What teachers should know about the bootstrap", the expanded percentile interval), which hardly changes
    anything from some hundred queries on. ``scripts/check_statistics.py`` measures the coverage.

    Args:
        differences: (M, Q) difference of two systems on each query, a row for each of M comparisons, Q >= 1.
        level: coverage, 0 < level < 1.
        seed: of the resampling.

    Returns:
        (M, 2) lower and upper ends, in the unit of the differences.

    Raises:
        ValueError: there are no differences.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife"; for retrieval: Sakai 2006, "Evaluating
        evaluation metrics based on the bootstrap".

    Examples:
        >>> bootstrap_intervals(np.array([[0.25, 0.25], [0.0, 0.0]])).tolist()
        [[0.25, 0.25], [0.0, 0.0]]
    """
    num_queries = differences.shape[1]
    if num_queries == 0:
        raise ValueError("There are no differences to resample. Pass one per query.")
    if not differences.any():
        return np.zeros((len(differences), 2))
    generator = np.random.default_rng(seed)
    means = np.empty((_NUM_RESAMPLES, len(differences)))
    rows = max(1, _BLOCK // num_queries)
    for start in range(0, _NUM_RESAMPLES, rows):
        size = min(rows, _NUM_RESAMPLES - start)
        drawn = generator.integers(0, num_queries, (size, num_queries))
        drawn += np.arange(size)[:, None] * num_queries
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # how often each was drawn
        means[start : start + size] = counts.astype(np.float64) @ differences.T / num_queries
    tail = (1 - level) / 2
    if num_queries > 1:
        tail = float(ndtr(np.sqrt(num_queries / (num_queries - 1)) * stdtrit(num_queries - 1, tail)))
    return np.asarray(np.quantile(means, [tail, 1 - tail], axis=0).T)


def two_sided_p_values(differences: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Two-sided paired randomisation test of several comparisons, each for itself, under the same 10,000 sign flips.

    If the two systems are equally good, each query's difference is as likely with either sign. Counted is how often
    random signs give a mean at least as far from 0 as the observed one (Smucker, Allan & Carterette 2007, "A comparison
    of statistical significance tests for information retrieval evaluation").

    Args:
        differences: (M, Q) difference of two systems on each query, a row for each of M comparisons.
        seed: of the signs.

    Returns:
        (M,) p-values in steps of 1 / 10,001, not adjusted for M; 1 where no query differs.

    Examples:
        >>> two_sided_p_values(np.array([[0.1, -0.1], [0.0, 0.0]])).tolist()
        [1.0, 1.0]
    """
    # Signs of zeros change nothing, and on most queries two systems often agree.
    differences = differences[:, (differences != 0).any(axis=0)]
    if differences.shape[1] == 0:
        return np.ones(len(differences))
    standardised = _standardised(differences)
    observed = np.abs(standardised.sum(axis=1))
    reached = np.zeros(len(differences))
    for sums in _signed_sums(standardised, _NUM_TWO_SIDED_FLIPS, seed):
        reached += (np.abs(sums) >= observed - _TOLERANCE).sum(axis=0)
    return np.asarray((reached + 1) / (_NUM_TWO_SIDED_FLIPS + 1))


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

    Examples:
        >>> sign_flip_p_values(np.array([[0.0, 0.0, 0.0]])).tolist()
        [1.0]
    """
    standardised = _standardised(differences)
    observed = standardised.sum(axis=1)
    reached = np.zeros(len(differences))
    for sums in _signed_sums(standardised, _NUM_FLIPS, seed):
        # A tie counts against the candidate.
        reached += (sums.max(axis=1)[:, None] >= observed - _TOLERANCE).sum(axis=0)
    return np.asarray((reached + 1) / (_NUM_FLIPS + 1))


def _standardised(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by the root of their sum of squares, which no flip of signs changes."""
    return np.asarray(differences / np.sqrt(np.square(differences).sum(axis=1, keepdims=True)).clip(min=1e-12))


def _signed_sums(values: NDArray[np.float64], num_flips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Sums of the (M, Q) rows under random signs, in blocks of (flips, M); one draw of signs serves all rows."""
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // values.shape[1])
    total = values.sum(axis=1)
    for start in range(0, num_flips, rows):
        shape = (min(rows, num_flips - start), values.shape[1])
        size = shape[0] * shape[1]
        bits = np.unpackbits(np.frombuffer(generator.bytes(-(-size // 8)), np.uint8), count=size).reshape(shape)
        yield 2 * (bits.astype(np.float64) @ values.T) - total  # a bit of 1 is a plus, of 0 a minus


class Tolerated(NamedTuple):
    """A loss in nDCG@10 that is taken for something else, such as quicker queries.

    Attributes:
        margin: the largest one, > 0.
        p_value: one-sided, that the candidate loses more than that: a test of non-inferiority (Walker & Nowacki 2011,
            "Understanding equivalence and noninferiority testing").
    """

    margin: float
    p_value: float


@dataclass(frozen=True)
class Gate:
    """Whether a candidate may take the base model's place.

    Attributes:
        adopted: whether it may.
        reason: why, in one sentence with the numbers.
        gain: mean difference in nDCG@10.
        interval: 95 % bootstrap interval of the gain.
        p_value: one-sided, that the candidate is no better than the base.
        tolerated: the loss that is tolerated and its test, if there is one.
        rejected: whether it is known to lose on a part of the queries.
        num_queries: Q, held-out queries; None in a file of version 0.1.
        deviation: standard deviation of the differences; likewise.
        better: whether it passed as better, so that no loss had to be conceded.
    """

    adopted: bool
    reason: str
    gain: float
    interval: Interval
    p_value: float
    tolerated: Tolerated | None = None
    rejected: bool = False
    num_queries: int | None = None
    deviation: float | None = None
    better: bool = False

    @property
    def conceded(self) -> Tolerated | None:
        """The loss that is tolerated, where that is what the gate tells of; None of what is better."""
        return None if self.better else self.tolerated


def gate(
    differences: NDArray[np.float64],
    p_value: float | None = None,
    *,
    alpha: float = 0.05,
    seed: int = 0,
    rejected: bool = False,
    against: str = "the base model",
    tolerated: Tolerated | None = None,
) -> Gate:
    """Let a candidate pass only if held-out queries say that it is better than the base model, or no worse than may be.

    The two tests need no adjustment for being two: whoever is better is not worse by any margin either, so the second
    hypothesis lies within the first (Morikawa & Yoshida 1995, "A useful testing strategy in phase III trials").

    Args:
        differences: (Q,) candidate minus base in nDCG@10, on queries its fit did not see.
        p_value: of the candidate, if it was the best of several and the test has to account for them; else it is
            computed by sign flips.
        alpha: level of the test, 0 < alpha < 1.
        seed: of the test and of the interval.
        rejected: the candidate is known to lose on a part of the queries, whatever the mean.
        against: what it is compared with, if not the base model.
        tolerated: a loss that is tolerated, with its own test.

    Raises:
        ValueError: alpha is out of range.

    Examples:
        >>> gate(np.full(20, 0.1)).reason
        'Better than the base model: +.100 nDCG@10 on 20 held-out queries, 95 % interval +.100 to +.100, p = 0.0002.'
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, but the level of a test lies between 0 and 1.")
    p_value = float(sign_flip_p_values(differences[None], seed)[0]) if p_value is None else p_value
    gain, interval = float(differences.mean()), bootstrap_interval(differences, seed=seed)
    better = not rejected and gain > 0 and p_value <= alpha
    no_worse = not rejected and tolerated is not None and gain > -tolerated.margin and tolerated.p_value <= alpha
    shown_interval = interval if len(differences) >= MIN_INTERVAL_QUERIES else None
    if better:
        outcome = f"Better than {against}"
    elif tolerated is not None and no_worse:
        outcome = f"Not worse than {against} by more than {fraction(tolerated.margin)}"
    else:
        outcome = _not_passed(gain, shown_interval, against, alpha, tolerated, rejected)
    deciding = p_value if better or tolerated is None else tolerated.p_value
    return Gate(
        adopted=better or no_worse,
        reason=f"{outcome}: {_figures(gain, len(differences), shown_interval)}, p = {deciding:.4f}.",
        gain=gain,
        interval=interval,
        p_value=p_value,
        tolerated=tolerated,
        rejected=rejected,
        num_queries=len(differences),
        deviation=float(differences.std(ddof=1)) if len(differences) > 1 else None,
        better=better,
    )


def _not_passed(
    gain: float,
    interval: Interval | None,
    against: str,
    alpha: float,
    tolerated: Tolerated | None,
    rejected: bool,
) -> str:
    if rejected:
        return f"Clearly worse than {against} on a part of the queries"
    if tolerated is not None:
        return f"Not surely within {fraction(tolerated.margin)} of {against}"
    if gain <= 0:
        return f"{'Worse' if interval is not None and interval.high < 0 else 'Not better'} than {against}"
    return f"Not surely better than {against} (p above {alpha:g})"


def _figures(gain: float, number: int, interval: Interval | None) -> str:
    queries = counted(number, "held-out query", "held-out queries")
    ends = "" if interval is None else f", 95 % interval {' to '.join(map(signed_in_ascii, interval))}"
    return f"{signed_in_ascii(gain)} nDCG@10 on {queries}{ends}"
