"""How nDCG@10 on the dev split grows with the number of labelled queries, and what twice as many would bring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from st_adapter.choices import FitMethod, check_choice, is_whole
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels
from st_adapter.errors import check_at_least_one, setting_error
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.statistics import Interval
from st_adapter.fitting.auto import Clock, check_seed_and_level, fit_labelled
from st_adapter.fitting.candidates import Candidate
from st_adapter.fitting.folds import draw_labels, labelled_split, shown_by_dev
from st_adapter.fitting.maps import as_adapter
from st_adapter.fitting.portfolio import fit_candidate
from st_adapter.fitting.reference import Hurdle
from st_adapter.storage.records import plain
from st_adapter.words import fraction, signed, signed_in_ascii

_METRIC = "ndcg@10"
_ALPHA = 0.05
# By default the labels are halved this often, but not to fewer queries than this.
_NUM_HALVINGS, _MIN_SIZE = 4, 20
_NUM_RESAMPLES = 2_000
# Random numbers held at once: 2**24 float64 are 128 MiB.
_BLOCK = 2**24
# The law is fitted to sizes down to this share of the largest, at least three: far to the left a curve may still be
# flat and tells nothing of its right end.
_FITTED_FROM, _MIN_FITTED = 1 / 8, 3
# From 0, a straight line over the logarithm of the size, to a curve that has almost reached its limit.
_EXPONENTS = np.linspace(0.0, 2.0, 41)


@dataclass(frozen=True)
class CurvePoint:
    """What so many labelled queries gave.

    Attributes:
        num_queries: labelled training queries in each draw.
        gain: nDCG@10 above the base model's, mean over dev queries and draws.
        interval: 95 % interval of the gain, from resampling dev queries and draws.
        lowest: gain of the worst draw.
        highest: gain of the best draw.
    """

    num_queries: int
    gain: float
    interval: Interval
    lowest: float
    highest: float


@dataclass(frozen=True)
class DoublingEstimate:
    """What twice as many labelled queries as the largest size would bring on top of it.

    The estimate comes from the power law ``a - b n^-c`` (Cortes et al. 1994, "Learning curves: asymptotic values and
    rate of convergence"; Viering & Loog 2023, "The shape of learning curves: a review"), with 0 <= c <= 2 and a
    straight line over ``log n`` as its limit at c = 0, by least squares on the sizes from an eighth of the largest on.
    Its interval comes from fitting the law again to resampled dev queries and draws (both at once, the pigeonhole
    bootstrap of Owen 2007).

    Attributes:
        gain: more nDCG@10.
        interval: 95 % interval; it says how sure the fit is, and reaches as far as the same estimate missed last time.
        exponent: c of the fitted law; 0 is growth by the same amount with each doubling.
        expected_before: what the same estimate, made without the largest size, would have said of the step to it; None
            if it leaves too few sizes.
        came: what that step really brought; None likewise.
    """

    gain: float
    interval: Interval
    exponent: float
    expected_before: float | None
    came: float | None


@dataclass(frozen=True)
class LearningCurve:
    """nDCG@10 on dev against the number of labelled training queries.

    Attributes:
        base: nDCG@10 of the base model on the dev queries, which is the curve at 0 labelled queries.
        points: one per size, ascending.
        doubling: what the next doubling would bring; None with fewer than three sizes to fit a law to.
        num_dev_queries: queries measured on; none of them chose or trained anything.
        num_documents: size of the corpus searched.
        num_draws: random subsets of each size.
        recipe: the candidate that was fitted at every size; chosen by cross-fitting on all labelled training queries.
        adopted: whether that recipe passes the test against the base model on the training queries.
        seed: of subsets, fits and resampling.
        method: what the recipe was chosen from.
        seconds: wall time by step.
    """

    base: float
    points: tuple[CurvePoint, ...]
    doubling: DoublingEstimate | None
    num_dev_queries: int
    num_documents: int
    num_draws: int
    recipe: str
    adopted: bool
    seed: int
    method: FitMethod
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        gains = ", ".join(f"{point.num_queries:,}: {signed(point.gain)}" for point in self.points)
        return f"LearningCurve(nDCG@10 above {fraction(self.base)} by labelled queries: {gains}. {self.sentence})"

    @property
    def sentence(self) -> str:
        """The outcome in plain words."""
        last = self.points[-1]
        words = [
            f"With {last.num_queries:,} labelled queries: {signed_in_ascii(last.gain)} nDCG@10 on "
            f"{self.num_dev_queries:,} dev queries, 95 % interval {_ends(last.interval)}."
        ]
        if self.doubling is None:
            words.append(f"What more labels would bring cannot be estimated from fewer than {_MIN_FITTED} sizes.")
        else:
            more = self.doubling
            words.append(f"Twice as many would bring about {signed_in_ascii(more.gain)} more ({_ends(more.interval)}).")
        if not self.adopted:
            words.append("The test against the base model on the training queries does not call this recipe better.")
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**plain(self), "sentence": self.sentence}

    def plot(self, path: str | Path) -> Path:
        """Draw the curve into a PNG file.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from st_adapter.evidence.plots import learning_curve_figure, write_png

        return write_png(learning_curve_figure(self), path)


def learning_curve(
    embedded: EmbeddedDataset,
    *,
    sizes: Sequence[int] | None = None,
    num_draws: int = 3,
    seed: int = 0,
    method: FitMethod = "auto",
    show_progress_bar: bool = False,
) -> LearningCurve:
    """Measure on dev what the same recipe makes of random subsets of the training queries.

    The recipe is the best candidate of ``fit`` on all labelled training queries, chosen by cross-fitting among them;
    the dev queries, unlike in ``fit``, take no part in it (only the share of them that ask for new documents counts as
    what is to be expected), and no other split is looked at. It is then fitted on nested random subsets, once per draw,
    and measured on all dev queries. With few labels ``fit`` may do better than the curve says, because it would choose
    a more cautious candidate or keep the base model.

    Args:
        embedded: with the splits ``train`` and ``dev``.
        sizes: numbers of labelled training queries, each at least 2 and at most all; all of them, a half, a quarter, an
            eighth and a sixteenth if None.
        num_draws: random subsets per size, >= 1; with all queries only the seed of the fit differs.
        seed: of subsets, fits and resampling.
        method: what the recipe is chosen from; see ``fit``.
        show_progress_bar: one step per fold while choosing, then one per size.

    Raises:
        ValueError: a split is missing or has no relevant pair, or an argument is out of its range.

    Examples:
        >>> curve = learning_curve(embedded, sizes=[6, 11], num_draws=1, method="closed-form")
        >>> [point.num_queries for point in curve.points]
        [6, 11]
    """
    sizes = checked_curve(sizes, num_draws, seed, method)
    clock, embedded = Clock(), embedded.in_memory()
    labelled, expected = labelled_split(embedded, ["train"]), shown_by_dev(embedded)
    of_base = evaluate(labelled_split(embedded, ["dev"]), ks=[10])
    all_sizes = _checked_sizes(sizes, len(labelled.query_ids))
    with clock("choosing"):
        chosen = fit_labelled(
            labelled, expected, method=method, seed=seed, hurdle=Hurdle(_ALPHA), show_progress_bar=show_progress_bar
        )
    with clock("measuring"):
        seeds = [seed * 1000 + draw for draw in range(num_draws)]
        progress = tqdm(all_sizes, desc="Measuring", unit="size", disable=not show_progress_bar)
        gains = np.stack([_gains(embedded, chosen.verdict.chosen, size, seeds, of_base) for size in progress])
    return LearningCurve(
        of_base.base_means[_METRIC],
        *_summarised(all_sizes, gains, of_base.base_means[_METRIC], seed),
        num_dev_queries=len(of_base.query_ids),
        num_documents=len(embedded.corpus),
        num_draws=num_draws,
        recipe=chosen.chosen,
        adopted=chosen.adopted,
        seed=seed,
        method=method,
        seconds=clock.seconds,
    )


def _gains(
    embedded: EmbeddedDataset, recipe: Candidate, size: int, seeds: Sequence[int], of_base: EvaluationResult
) -> NDArray[np.float64]:
    """Gains (draws, Q) over the base on the dev queries of one fit of the recipe for each seed, on ``size`` queries."""
    judged, dev = embedded.qrels["train"], labelled_split(embedded, ["dev"])
    # Only relevant pairs, so that each draw has as many labelled queries as asked for; and no other split to slip in.
    train = replace(embedded, qrels={"train": EmbeddedQrels(*(part[judged.relevance > 0] for part in judged))})
    fits = [(labelled_split(draw_labels(train, {"train": size}, each), ["train"]), [each]) for each in seeds]
    gains = []
    for fitted in fit_candidate(recipe, fits):
        adapter = as_adapter(fitted, dev.normalized)
        gains.append(evaluate(dev, adapter, ks=[10], base=of_base).adapted[_METRIC] - of_base.base[_METRIC])
    return np.stack(gains)


def _summarised(
    sizes: Sequence[int], gains: NDArray[np.float64], base: float, seed: int
) -> tuple[tuple[CurvePoint, ...], DoublingEstimate | None]:
    """The curve through (S, draws, Q) gains, and where it goes on to."""
    resampled = _resampled_means(gains, seed)
    means = gains.mean(axis=2)  # (S, draws)
    points = tuple(
        CurvePoint(size, float(of_draws.mean()), _interval(again), float(of_draws.min()), float(of_draws.max()))
        for size, of_draws, again in zip(sizes, means, resampled.T, strict=True)
    )
    room = max(0.0, 1.0 - base - points[-1].gain)
    return points, _estimate(np.array(sizes, dtype=np.float64), means.mean(axis=1), resampled, room)


def checked_curve(sizes: Iterable[int] | None, num_draws: int, seed: int, method: FitMethod) -> list[int] | None:
    """The sizes, once all is checked that can be known of ``learning_curve``'s arguments before there are data.

    Raises:
        ValueError: see there.
    """
    check_choice("method", method, get_args(FitMethod))
    check_seed_and_level(seed, _ALPHA)
    check_at_least_one("num_draws", num_draws)
    if sizes is None:
        return None
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise setting_error("sizes", sizes, "several whole numbers of at least 2")
    each = list(sizes)
    if not each or not all(is_whole(size) and size >= 2 for size in each):
        raise setting_error("sizes", each, "whole numbers of at least 2, or left out")
    return [int(size) for size in each]


def _checked_sizes(sizes: Sequence[int] | None, num_queries: int) -> list[int]:
    if sizes is None:
        halved = {num_queries >> halvings for halvings in range(_NUM_HALVINGS + 1)}
        return sorted(size for size in halved if size >= _MIN_SIZE or size == num_queries)
    if max(sizes) > num_queries:
        expected = f"numbers from 2 to {num_queries}, the number of labelled training queries, or left out"
        raise setting_error("sizes", list(sizes), expected)
    return sorted(set(sizes))


def _resampled_means(gains: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Mean gains (B, S) of (S, draws, Q) gains when queries and draws are drawn again, the same for all sizes."""
    num_sizes, num_draws, num_queries = gains.shape
    generator = np.random.default_rng(seed)
    by_query = gains.reshape(-1, num_queries).T
    rows = max(1, _BLOCK // num_queries)
    blocks = []
    for start in range(0, _NUM_RESAMPLES, rows):
        number = min(rows, _NUM_RESAMPLES - start)
        counts = generator.multinomial(num_queries, np.full(num_queries, 1 / num_queries), number)
        blocks.append(counts @ by_query / num_queries)
    means = np.concatenate(blocks).reshape(-1, num_sizes, num_draws)
    draw_counts = generator.multinomial(num_draws, np.full(num_draws, 1 / num_draws), _NUM_RESAMPLES)
    return np.asarray((means * draw_counts[:, None] / num_draws).sum(axis=2))


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def _estimate(
    sizes: NDArray[np.float64], gains: NDArray[np.float64], resampled: NDArray[np.float64], room: float
) -> DoublingEstimate | None:
    """What doubling the last of (S,) sizes adds to its gain, with the same made for (B, S) resampled gains."""
    if _num_fitted(sizes) < _MIN_FITTED:
        return None
    (gain,), (exponent,) = _next_step(sizes, gains[None], 2.0)
    gain = min(float(gain), room)
    low, high = _interval(_next_step(sizes, resampled, 2.0)[0])
    expected = came = None
    if _num_fitted(sizes[:-1]) >= _MIN_FITTED:
        expected = float(_next_step(sizes[:-1], gains[None, :-1], sizes[-1] / sizes[-2])[0][0])
        came = float(gains[-1] - gains[-2])
        low, high = min(low, gain + came - expected), max(high, gain + came - expected)
    return DoublingEstimate(gain, Interval(low, min(high, room)), float(exponent), expected, came)


def _num_fitted(sizes: NDArray[np.float64]) -> int:
    return int((sizes >= sizes[-1] * _FITTED_FROM * 0.99).sum()) if len(sizes) else 0


def _next_step(
    sizes: NDArray[np.float64], gains: NDArray[np.float64], factor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much the fitted law rises from the last size to ``factor`` times that, and its exponent: (B,) each.

    The law is written as ``a + b (1 - (n / n_last)^-c) / c``, which goes over into ``a + b log(n / n_last)`` at c = 0;
    it never falls, b >= 0.
    """
    fitted = slice(len(sizes) - _num_fitted(sizes), None)
    y = gains[:, fitted]  # (B, F)
    x = np.stack([_rise(sizes[fitted] / sizes[-1], exponent) for exponent in _EXPONENTS])  # (C, F)
    centred = x - x.mean(axis=1, keepdims=True)
    slopes = (y @ centred.T / np.square(centred).sum(axis=1)).clip(min=0.0)  # (B, C)
    residuals = (y - y.mean(axis=1, keepdims=True))[:, None] - slopes[:, :, None] * centred  # (B, C, F)
    best = np.square(residuals).sum(axis=2).argmin(axis=1)
    steps = np.array([float(_rise(np.array(factor), exponent)) for exponent in _EXPONENTS])
    return slopes[np.arange(len(y)), best] * steps[best], _EXPONENTS[best]


def _rise(ratio: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return np.log(ratio) if exponent == 0 else np.asarray((1 - ratio**-exponent) / exponent)


def _ends(interval: Interval) -> str:
    return f"{signed_in_ascii(interval.low)} to {signed_in_ascii(interval.high)}"
