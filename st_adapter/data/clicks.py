"""Read what was shown and clicked as judgements of what is relevant, as far as clicks can say that.

A document's click rate is its clicks over its *examinations*: the times that it was shown, each counted by the
probability that somebody looks as far down as its rank. That is the inverse propensity weighting of Joachims,
Swaminathan and Schnabel 2017 ("Unbiased learning-to-rank with biased feedback", WSDM) as a ratio: the same where a
document is always shown at one rank, and without need of clipping where it is not. The propensity of rank ``r`` is
``1 / r ** eta``, as in that paper. ``eta`` is estimated where the same documents were shown at several ranks for the
same query: given the clicks of such a document, their ranks are a draw whose probabilities depend on ``eta`` alone
(Agarwal et al. 2019, "Estimating position bias without intrusive interventions", WSDM, with one parameter). Where that
says too little, ``eta`` is 1.

Few clicks say little, so the rate that counts is the lower end of its 95 % interval (Wilson 1927, "Probable inference,
the law of succession, and statistical inference"), in whole percent. A document is relevant if that is at least the
rate of the whole log; judged and not relevant if it was never clicked though it was looked at once or more, by
expectation. What lies between is not judged.

What is assumed: whether somebody looks at a document depends on its rank alone; who looks and finds it relevant clicks;
and the rank of a document that was shown at several changed for reasons that have nothing to do with its clicks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from st_adapter.data.cells import as_number, is_missing
from st_adapter.data.labels import check_least
from st_adapter.errors import InputError
from st_adapter.words import counted, first_three

LOG_ROLES = ("clicks", "impressions", "rank")
_SCORE = "click rate in percent"
_Z = 1.959964  # the normal quantile of a 95 % interval
_USUAL_ETA, _MAX_ETA, _MAX_ERROR = 1.0, 3.0, 0.2  # of eta: without an estimate, at most, and the error of a good one

_STRAY = 10  # ranks below 1 are strays where so many times as much is shown at rank 1

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClickJudgements:
    """A log as judgements.

    Attributes:
        frame: a row per query and document, the log's own columns replaced by one score.
        found: role -> columns of that table.
        notes: what was counted and assumed.
    """

    frame: pd.DataFrame
    found: dict[str, list[str]]
    notes: list[str]


def read_clicks(
    frame: pd.DataFrame,
    found: Mapping[str, list[str]],
    columns: Mapping[str, str],
    relevant_from: float | None,
    where: str,
) -> ClickJudgements | None:
    """Read a table as a log, if it clearly is one.

    It has clicks, no score, one document a row, impressions or else a rank beside clicks of 0 and 1, and misses.

    Args:
        frame: pairs, or ids of queries and documents.
        found: role -> columns that play it.
        columns: role -> column, as named by the user.
        relevant_from: the least click rate, in percent, of a relevant document; None for that of the whole log.
        where: of which table this is, for messages.

    Raises:
        InputError: a role was named and the table is no log, or no document is clicked often enough.
        ValueError: a count or a rank is none, or there are more clicks than impressions.
    """
    keys = [c for role in ("query", "query_id", "title", "document", "corpus_id", "split") for c in found.get(role, [])]
    if not _is_log(frame, found, keys):
        _refuse_named(columns, where)
        return None
    if relevant_from is not None:
        check_least(relevant_from, "click rate", " %")
    for column in found.get("title", []):  # as they are put before the text
        frame = frame.assign(**{str(column): ["" if is_missing(title) else title for title in frame[column]]})
    log = _Log.read(frame, found, keys, where)
    eta, how = _propensity(log)
    rates = _Rates.of(log, eta, relevant_from)
    if not rates.relevant.any():
        raise InputError(
            f"No document of the log{where} is clicked clearly more often than in "
            f"{rates.overall if relevant_from is None else relevant_from / 100:.2%} of the times that it is looked at.",
            python="Give a lower relevant_from, in percent, or a longer log.",
            flags="Give a lower --relevant-from, in percent, or a longer log.",
        )
    pairs = frame.iloc[log.first].drop(columns=[c for role in LOG_ROLES for c in found.get(role, [])])
    pairs = pairs.assign(**{_SCORE: np.where(rates.relevant, rates.percent, 0.0)})
    asked = pairs.groupby([c for role in ("query", "query_id", "split") for c in found.get(role, [])], dropna=False)
    answered = (asked[_SCORE].transform("max") > 0).to_numpy()
    lost = asked.ngroups - len(set(asked.ngroup()[answered]))
    notes = [
        f"Read as a click log{where} (column {found['clicks'][0]!r}): {counted(int(log.clicks.sum()), 'click')} and "
        f"{counted(int(log.impressions.sum()), 'impression')} of {counted(len(pairs), 'pair')} of query and document.",
        rates.note(relevant_from),
        how,
        *(["Ranks were read as counted from 0."] if log.from_zero else []),
    ]
    if lost:
        notes.append(f"{counted(lost, 'query', 'queries')} of the log without a relevant document left out.")
    roles = {role: list(played) for role, played in found.items() if role not in LOG_ROLES}
    pairs = pairs[answered & (rates.relevant | rates.skipped)].reset_index(drop=True)
    return ClickJudgements(pairs, {**roles, "score": [_SCORE]}, notes)


def _refuse_named(columns: Mapping[str, str], where: str) -> None:
    named = [role for role in LOG_ROLES if role in columns]
    if named:
        raise InputError(
            f"The role {named[0]!r} was named, but the table{where} is no log. Expected clicks with impressions, "
            "or clicks of 0 and 1 with a rank; no score; one document a row; some of them shown without a click.",
            python="Name these columns, or leave out 'clicks', 'impressions' and 'rank'.",
            flags="Name these columns, or leave out --clicks-column, --impressions-column and --rank-column.",
        )


def wilson_lower(successes: Floats, trials: Floats) -> Floats:
    """The lower end of Wilson's 95 % interval of a rate; 0 without trials, which may be fractions.

    Examples:
        >>> wilson_lower(np.array([1.0, 10.0]), np.array([1.0, 10.0])).round(4).tolist()
        [0.2065, 0.7225]
    """
    trials = np.maximum(trials, 1e-12)
    rate = successes / trials
    spread = _Z * np.sqrt(rate * (1 - rate) / trials + (_Z / (2 * trials)) ** 2)
    lower: Floats = np.maximum((rate + _Z**2 / (2 * trials) - spread) / (1 + _Z**2 / trials), 0.0)
    return lower


def estimated_eta(pairs: NDArray[np.int64], ranks: Floats, impressions: Floats, clicks: Floats) -> tuple[float, float]:
    """How fast attention falls with the rank, from documents that were shown at several.

    Args:
        pairs: (E,) of query and document, numbers from 0.
        ranks: (E,) from 1.
        impressions: (E,).
        clicks: (E,), at most the impressions.

    Returns:
        ``eta`` of ``1 / rank ** eta``, 0 to 3, and its standard error; infinite if nothing tells it.

    Examples:
        Of one document, twice as many clicks at rank 1 as at rank 2, shown equally often.

        >>> eta, error = estimated_eta(np.array([0, 0]), np.array([1.0, 2]), np.array([90.0, 90]), np.array([40.0, 20]))
        >>> round(eta, 2)
        1.0
    """
    depth, total = np.log(ranks), np.bincount(pairs, clicks)

    def weights(eta: float) -> tuple[Floats, Floats]:
        each = impressions * np.exp(-eta * depth)
        return each, np.bincount(pairs, each).astype(np.float64)

    def loss(eta: float) -> float:
        sums = weights(eta)[1]
        clicked = total > 0
        return float((total[clicked] * np.log(sums[clicked])).sum() + eta * (clicks * depth).sum())

    eta = float(minimize_scalar(loss, bounds=(0, _MAX_ETA), method="bounded").x)
    each, sums = weights(eta)
    share = each / np.maximum(sums, 1e-300)[pairs]
    mean = np.bincount(pairs, share * depth)
    information = float((total * (np.bincount(pairs, share * depth**2) - mean**2)).sum())
    return eta, information**-0.5 if information > 1e-9 else np.inf


@dataclass(frozen=True)
class _Log:
    pairs: NDArray[np.int64]  # (E,) of each row
    first: NDArray[np.int64]  # (P,) the first row of each pair
    clicks: Floats  # (E,)
    impressions: Floats  # (E,)
    ranks: Floats | None  # (E,) from 1
    from_zero: bool  # whether they were given from 0

    def sums(self, values: Floats) -> Floats:
        """(P,) of each pair."""
        return np.bincount(self.pairs, values).astype(np.float64)

    @classmethod
    def read(cls, frame: pd.DataFrame, found: Mapping[str, list[str]], keys: Sequence[str], where: str) -> _Log:
        clicks = _numbers(frame, found["clicks"][0], where, at_least=0)
        shown = found.get("impressions")
        impressions = np.ones(len(frame)) if shown is None else _numbers(frame, shown[0], where, at_least=0)
        over = [f"row {row}: {clicks[row]:g} of {impressions[row]:g}" for row in np.flatnonzero(clicks > impressions)]
        if over:
            raise ValueError(
                f"{counted(len(over), 'row')} of the log{where} with more clicks than impressions: "
                f"{first_three(over)}. Expected as many at most. Count them again, or take these rows out."
            )
        ranks, from_zero = None, False
        if "rank" in found:
            ranks = _numbers(frame, found["rank"][0], where, at_least=0)
            from_zero = _counts_from_zero(ranks, impressions, where)
            ranks = ranks + from_zero
        pairs = frame.groupby(list(keys), dropna=False, sort=False).ngroup().to_numpy(dtype=np.int64)
        return cls(pairs, np.unique(pairs, return_index=True)[1], clicks, impressions, ranks, from_zero)


@dataclass(frozen=True)
class _Rates:
    """The click rates of P pairs of query and document, and what they say."""

    percent: Floats  # (P,) lower ends, whole, at least 1
    overall: float  # of the log, a fraction
    relevant: NDArray[np.bool_]  # (P,)
    skipped: NDArray[np.bool_]  # (P,)

    @classmethod
    def of(cls, log: _Log, eta: float, relevant_from: float | None) -> _Rates:
        clicks = log.sums(log.clicks)
        examined = log.sums(log.impressions if log.ranks is None else log.impressions * log.ranks**-eta)
        lower = wilson_lower(np.minimum(clicks, examined), examined)
        percent = np.maximum(np.rint(100 * lower), 1.0)
        overall = float(clicks.sum() / examined.sum())
        enough = lower >= overall if relevant_from is None else percent >= relevant_from
        return cls(percent, overall, (clicks > 0) & enough, (clicks == 0) & (examined >= 1))

    def note(self, relevant_from: float | None) -> str:
        """How relevance was decided, with counts."""
        least = f"{self.overall:.1%}, that of the whole log" if relevant_from is None else f"{relevant_from:g}%"
        unsure = len(self.percent) - int(self.relevant.sum() + self.skipped.sum())
        return (
            f"Relevant is a document with a click rate of at least {least}, by the lower end of its 95 % interval "
            f"(relevant_from, --relevant-from in percent): {counted(int(self.relevant.sum()), 'pair')}. Shown and "
            f"never clicked, so not relevant: {counted(int(self.skipped.sum()), 'pair')}. Too few clicks or looks to "
            f"tell, so not judged: {counted(unsure, 'pair')}."
        )


def _is_log(frame: pd.DataFrame, found: Mapping[str, list[str]], keys: Sequence[str]) -> bool:
    if "clicks" not in found or "score" in found or len(found.get("document", [""])) > 1 or "negative" in found:
        return False
    if any(not pd.api.types.is_hashable(cell) for column in keys for cell in frame[column]):
        return False
    clicks = _read_numbers(frame, found["clicks"][0])
    numbers = clicks[np.isfinite(clicks)]
    # A cell that is no number makes no other table of it, but an error; words alone are no clicks.
    if not len(numbers) and not any(re.search(r"\d", str(cell)) for cell in frame[found["clicks"][0]]):
        return False
    if "impressions" in found:
        return not np.array_equal(clicks, _read_numbers(frame, found["impressions"][0]))
    return "rank" in found and set(numbers.tolist()) == {0.0, 1.0}


def _counts_from_zero(given: Floats, impressions: Floats, where: str) -> bool:
    """Whether ranks are counted from 0, as by a log that shows as much at 0 as at 1, or nearly so."""
    below = given < 1
    if not below.any():
        return False
    if impressions[below].sum() * _STRAY < impressions[(given >= 1) & (given < 2)].sum():
        shown = [f"row {row}: {given[row]:g}" for row in np.flatnonzero(below)]
        raise ValueError(
            f"{counted(len(shown), 'row')} of the log{where} with a rank below 1, though most that it shows on top has "
            f"rank 1: {first_three(shown)}. Expected ranks from 1, or all from 0. Mend these rows or take them out, or "
            "add 1 to all ranks of a log that counts from 0."
        )
    return True


def _read_numbers(frame: pd.DataFrame, column: str) -> Floats:
    """A column as numbers, NaN where a cell is none."""
    return np.array([as_number(cell) for cell in frame[column].tolist()], dtype=np.float64)


def _numbers(frame: pd.DataFrame, column: str, where: str, at_least: float) -> Floats:
    cells: list[Any] = frame[column].tolist()
    numbers = _read_numbers(frame, column)
    bad = [f"row {row}: {cells[row]}" for row in np.flatnonzero(~(np.isfinite(numbers) & (numbers >= at_least)))]
    if bad:
        raise ValueError(
            f"{counted(len(bad), 'row')} of the log{where} with no number from {at_least:g} on in column {column!r}: "
            f"{first_three(bad)}. Fill them in, or take these rows out."
        )
    return numbers


def _propensity(log: _Log) -> tuple[float, str]:
    """The eta of a log, and a note that says where it comes from."""
    if log.ranks is None:
        return 0.0, (
            "No ranks were given: what was shown further up is clicked more often for that alone, and counts as more "
            "relevant than it is. Add a column 'rank' if there is one."
        )
    eta, error = estimated_eta(log.pairs, log.ranks, log.impressions, log.clicks)
    known = error <= _MAX_ERROR
    source = (
        f"estimated from documents that were shown at several ranks, with a standard error of {error:.2f}"
        if known
        else "assumed, as too few documents were shown at several ranks to estimate it"
    )
    eta = eta if known else _USUAL_ETA
    return eta, (
        f"Rank r is taken to be looked at with probability 1/r^{eta:.2f} ({source}), depending on nothing else, and a "
        "click there counts for more by as much."
    )
