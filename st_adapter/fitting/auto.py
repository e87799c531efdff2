"""Find the best query adapter by cross-fitting a small portfolio, or keep the base model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import FitMethod, Method, as_whole, check_choice, is_whole
from st_adapter.data.pseudo_queries import MIN_PSEUDO_QUERIES
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.errors import InputError, setting_error
from st_adapter.fitting.candidates import Candidate
from st_adapter.fitting.fitted_fold import FittedFold, measured_on
from st_adapter.fitting.folds import (
    NUM_FOLDS,
    NUM_FOLDS_OF_FEW,
    Fold,
    ShownByDev,
    expected_unseen,
    folds_of,
    labelled_split,
    shown_by_dev,
)
from st_adapter.fitting.maps import as_adapter
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.pairs import labelled_pairs
from st_adapter.fitting.pool import MAX_DOCUMENTS, seen_by_fit
from st_adapter.fitting.portfolio import UNCHANGED, Effort, Maps, Portfolio, combined, effort_for
from st_adapter.fitting.prior import Start
from st_adapter.fitting.reference import DeployedAdapter, Hurdle, Reference, learned_from
from st_adapter.fitting.selection import Scoreboard, clearly_worse
from st_adapter.fitting.verdict import Against, Verdict

# After a first fold of at least so many queries, or else a first round of folds, only the best runs go on.
_PRUNE_FROM = 100
# With fewer labelled queries, what pseudo-queries give is the start.
_FEW = 400
# A candidate may lose so much on pseudo-queries of documents that no label asks for; so many of them are measured.
_TOLERATED, _MAX_PSEUDO_QUERIES = 0.01, 1000
# From this weight of unseen documents on, the models of the folds are averaged in; each of them missed some documents,
# which costs where documents are known and helps where they are new.
_BAG_FROM = 0.9


@dataclass(frozen=True)
class FitResult:
    """The outcome of a fit.

    Attributes:
        adapter: None if the base model is kept.
        verdict: the gate with its reason, and what every candidate did.
        seconds: wall time by step.
        num_documents: documents that the fit saw, if these were not all; see ``pooled``.
        refused: what did not pass against a reference, to be reported of and not to be used.
    """

    adapter: QueryAdapter | None
    verdict: Verdict
    seconds: dict[str, float]
    num_documents: int | None = None
    refused: QueryAdapter | None = None

    def __repr__(self) -> str:
        return f"FitResult({self.chosen}: {self.verdict.gate.reason})"

    @property
    def adopted(self) -> bool:
        """Whether there is an adapter."""
        return self.adapter is not None

    @property
    def chosen(self) -> str:
        """Name of the best candidate, adopted or not."""
        return self.verdict.candidates[0].name


def fit(
    embedded: EmbeddedDataset,
    *,
    pseudo_queries: EmbeddedSplit | None = None,
    soft_targets: SoftTargets | None = None,
    method: FitMethod = "auto",
    seed: int = 0,
    alpha: float = 0.05,
    show_progress_bar: bool = False,
    reference: Reference | None = None,
    deployed: DeployedAdapter | None = None,
) -> FitResult:
    """Choose, test and fit an adapter on the splits ``train`` and ``dev``; no other split is looked at.

    All labelled queries are cut into folds, some documents held out whole, so that every candidate is measured on
    queries its fit did not see, with documents asked for before and with new ones: these count for at least .3, or for
    the share of the corpus that nobody asked for, and decide between candidates that gain alike.

    Candidates are closed forms and gradient runs, also corrected near known queries, shrunk, and averaged. The best one
    has to pass a paired test against the base model; then all labels fit it again. Of a large corpus a part is seen.

    Args:
        embedded: with the splits ``train`` and ``dev``.
        pseudo_queries: where ``auto`` starts with fewer than 400 labelled queries; see ``embed_pseudo_queries``.
        soft_targets: what a teacher says, see ``ask_teacher``: with few labels a second start, else for one more run.
        method: ``linear`` leaves the corrections out, ``closed-form`` the gradient runs as well.
        seed: the same seed gives the same adapter.
        alpha: level of the test, 0 < alpha < 1.
        show_progress_bar: one step per fold, and one for the last fit.
        reference: what to compare with, if not these queries as they are, which are then a candidate too.
        deployed: the adapter in use, to be beaten too.

    Raises:
        ValueError: a split or its pairs are missing, or settings are out of range or do not go with a teacher.

    Examples:
        >>> fit(embedded, method="closed-form").adopted
        False
    """
    _check_arguments(method, seed, alpha, soft_targets)
    clock, given, start, seed = Clock(), labelled_split(embedded), None, as_whole(seed)
    with clock("choosing documents"):
        labelled = seen_by_fit(given, seed)
    if starts_from_pseudo_queries(given, method):
        with clock("learning from pseudo-queries"):
            start = Start.of(pseudo_queries, soft_targets, seed)
    found = fit_labelled(
        labelled,
        shown_by_dev(embedded),
        start=start,
        soft_targets=soft_targets if start is None else None,
        method=method,
        seed=seed,
        hurdle=Hurdle(alpha, reference, deployed),
        show_progress_bar=show_progress_bar,
    )
    part = len(labelled.corpus) if len(labelled.corpus) < len(embedded.corpus) else None
    return replace(found, seconds={**clock.seconds, **found.seconds}, num_documents=part)


def fit_labelled(
    labelled: EmbeddedSplit,
    dev: ShownByDev,
    *,
    start: Start | None = None,
    soft_targets: SoftTargets | None = None,
    method: FitMethod,
    seed: int,
    hurdle: Hurdle,
    show_progress_bar: bool,
) -> FitResult:
    """What ``fit`` does once it knows which queries to learn from: the rest of the data is out of reach here.

    Args:
        labelled: the queries to learn from and to test on, with their relevant documents only.
        dev: what is to be expected of the queries to come.
        start: what few labels start from.
        soft_targets: for one of the gradient runs.
        method: see ``fit``.
        seed: likewise.
        hurdle: what the best candidate has to pass.
        show_progress_bar: see ``fit``.
    """
    clock, unseen_weight, learned = Clock(), expected_unseen(labelled, dev), learned_from(labelled, hurdle.reference)
    folds = folds_of(labelled, unseen_weight, NUM_FOLDS if start is None else NUM_FOLDS_OF_FEW, seed)
    effort, starts = effort_for(labelled.num_pairs), {} if start is None else start.maps
    portfolio = Portfolio(_possible(method, labelled), effort, starts, soft_targets)
    board, compared_with = _scoreboard(portfolio, labelled, dev, unseen_weight, hurdle)
    if effort.early and portfolio.runs:
        with clock("choosing runs"):
            runs = _best_early(portfolio, effort, labelled, learned, folds[0], unseen_weight, seed)
            _go_on_with(runs, portfolio, board)
    with tqdm(total=len(folds) + 1, desc="Fitting", unit="fold", disable=not show_progress_bar) as progress:
        num_first = 1 if int(folds[0].measured.sum()) >= _PRUNE_FROM else NUM_FOLDS
        fitted: list[FittedFold] = []
        for group in (folds[:num_first], folds[num_first:]):
            first = seed * 1000 + len(fitted)
            with clock("training"):
                maps = portfolio.fit([(fold.training(learned), first + number) for number, fold in enumerate(group)])
            with clock("measuring"):
                for fold, maps_of_fold in zip(group, maps, strict=True):
                    fitted.append(measured_on(labelled, fold, maps_of_fold, compared_with, hurdle.deployed))
                    progress.update(fitted[-1].enter_in(board))
                _go_on_with(board.best_families(effort.kept_runs, among=portfolio.runs), portfolio, board)
        with clock("measuring"):
            if start is not None:
                board.reject(_harmful(portfolio, learned, start, seed))
            averages = board.averages_of_the_best()
            gains = [fold.gains(averages) for fold in fitted]
            board.extend(averages, [(fold.rows, fold.unseen) for fold in fitted], gains)
        with clock("testing"):
            verdict = board.verdict(hurdle.alpha, seed)
        adapter, passed = None, verdict.passed
        if passed or hurdle.reference is not None:
            with clock("refitting"):
                bag = [fold.maps for fold in fitted] if unseen_weight >= _BAG_FROM else []
                adapter = _refitted(portfolio, verdict.chosen, learned, bag, seed)
        progress.update()
    return FitResult(adapter if passed else None, verdict, clock.seconds, refused=None if passed else adapter)


def _best_early(
    portfolio: Portfolio,
    effort: Effort,
    labelled: EmbeddedSplit,
    learned: EmbeddedSplit,
    fold: Fold,
    unseen_weight: float,
    seed: int,
) -> list[str]:
    """The gradient runs that are best on one fold after their first steps.

    Successive halving: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
    optimization".
    """
    early = portfolio.early()
    board = Scoreboard(early.candidates, np.zeros(len(labelled.query_ids), dtype=np.bool_), unseen_weight)
    maps = early.fit([(fold.training(learned), seed * 1000)])[0]
    measured_on(labelled, fold, maps, None).enter_in(board)
    return board.best_families(effort.kept_runs, among=early.runs)


def _go_on_with(runs: list[str], portfolio: Portfolio, board: Scoreboard) -> None:
    """Let the other gradient runs go."""
    board.drop_families([run for run in portfolio.runs if run not in runs])
    portfolio.runs = runs


def _scoreboard(
    portfolio: Portfolio, labelled: EmbeddedSplit, dev: ShownByDev, unseen_weight: float, hurdle: Hurdle
) -> tuple[Scoreboard, Tensor | None]:
    """An empty scoreboard, and how well the reference does on the labelled queries, if it is not the base."""
    in_dev = np.array([query_id in dev.query_ids for query_id in labelled.query_ids])
    reference = hurdle.reference
    if reference is None:
        with_deployed = hurdle.deployed is not None
        return Scoreboard(portfolio.candidates, in_dev, unseen_weight, with_deployed=with_deployed), None
    portfolio.candidates.append(UNCHANGED)
    against = Against(reference.name, reference.margin, UNCHANGED)
    return Scoreboard(portfolio.candidates, in_dev, unseen_weight, against), reference.of(labelled)


def _possible(method: FitMethod, split: EmbeddedSplit) -> FitMethod:
    return "linear" if method == "auto" and not _can_be_corrected(split) else method


def _can_be_corrected(split: EmbeddedSplit) -> bool:
    """Corrections are made by directions; where lengths count as well, they would be of no certain size."""
    return split.normalized or split.similarity == "cosine"


def _harmful(portfolio: Portfolio, labelled: EmbeddedSplit, start: Start, seed: int) -> list[Candidate]:
    """Candidates that lead astray from documents that nobody asked for, as queries without labels tell.

    Few labels can hold out few documents, and those are of the topics that were asked for. What was learned without
    labels is compared with the base model, and what labels add to it with that itself.
    """
    queries = start.queries
    unasked = ~torch.isin(queries.qrels.corpus_index, labelled_pairs(labelled).documents)
    unasked &= unasked.cumsum(0) <= _MAX_PSEUDO_QUERIES  # they are in no order
    if int(unasked.sum()) < MIN_PSEUDO_QUERIES:
        return []
    maps = portfolio.fit([(labelled, seed)])[0]
    candidates = [candidate for candidate in portfolio.candidates if candidate != UNCHANGED]
    measured = Measure(queries.subset(unasked).in_memory()).gains(candidates, maps)
    gains = {candidate[0].name: each.cpu().numpy() for candidate, each in measured.items()}
    starts = {name.family: gains[name] for name in start.maps}
    compared = np.stack([g if name in start.maps else g - starts[name.family] for name, g in gains.items()])
    means = compared.mean(axis=1)
    harmful = clearly_worse(compared, means) & (means < -_TOLERATED)
    return [candidate for candidate, harms in zip(measured, harmful, strict=True) if harms]


def _refitted(
    portfolio: Portfolio, chosen: Candidate, labelled: EmbeddedSplit, bag: Sequence[Maps], seed: int
) -> QueryAdapter:
    """The chosen candidate, fitted on all labels, its matrix averaged with those that it has in the folds of the bag.

    Without the corrections of the folds, which would make it many times as large.
    """
    refitted = portfolio.refit(chosen, labelled, seed)
    if bag:
        of_folds = torch.stack([combined(chosen, maps).matrix for maps in bag]).mean(dim=0)
        refitted = refitted._replace(matrix=(refitted.matrix + of_folds) / 2)
    return as_adapter(refitted, labelled.normalized, labelled.base_model)


def starts_from_pseudo_queries(labelled: EmbeddedSplit, method: FitMethod) -> bool:
    """Whether a fit on the labels of a corpus, as it was given, takes what pseudo-queries say for its start."""
    few = has_few_labels(labelled) and len(labelled.corpus) <= MAX_DOCUMENTS
    return few and method == "auto" and _can_be_corrected(labelled)


def has_few_labels(labelled: EmbeddedSplit) -> bool:
    """Whether there are so few labelled queries that what is learned without labels counts."""
    return len(labelled.query_ids) < _FEW


def _check_arguments(method: FitMethod, seed: int, alpha: float, soft_targets: SoftTargets | None) -> None:
    check_choice("method", method, get_args(FitMethod))
    check_seed_and_level(seed, alpha)
    check_learns_from_teacher(method, soft_targets)


def check_learns_from_teacher(method: Method, teacher: object) -> None:
    """Refuse a teacher, if there is one, where nothing would listen."""
    if teacher is not None and method not in ("auto", "linear"):
        raise InputError(
            f"Method {method!r} learns from labels alone, but there is a teacher.",
            python="Choose method 'auto' or 'linear', or leave the teacher out.",
            flags="Choose --method auto or linear, or leave out --teacher.",
        )


def check_seed_and_level(seed: int, alpha: float) -> None:
    """Refuse before any work what would fail after it."""
    if not is_whole(seed) or not 0 <= seed < 2**32:
        raise setting_error("seed", seed, "a whole number from 0 to 4294967295")
    if not 0 < alpha < 1:
        raise setting_error("alpha", alpha, "a level of a test, between 0 and 1")


class Clock:
    """Wall time by step: ``with clock("step"): ...`` adds to ``seconds``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def __call__(self, name: str) -> Clock:
        """Name what is timed next."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        elapsed = time.perf_counter() - self._start
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + elapsed
