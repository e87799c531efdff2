"""The portfolio of a fit: closed forms and gradient runs, and how to fit those that a candidate is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.choices import FitMethod
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.candidates import Candidate, MapName, ShrunkMap
from st_adapter.fitting.closed_form import ridge_to_positives, within_class_whitening
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.local import LocalFit
from st_adapter.fitting.maps import QueryMap, averaged
from st_adapter.fitting.pairs import LabelledPairs, labelled_pairs
from st_adapter.fitting.stacked import Run, can_be_stacked, stacked_iterates

Maps = dict[MapName, QueryMap]
"""Fitted maps by name."""

_SOLVERS = {"closed form": within_class_whitening, "ridge to positives": ridge_to_positives}
_SOLVED_ALONE = [(solver, ridge) for solver in _SOLVERS for ridge in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]
# The gradient runs go further than ridge regression ever does, so beside them it is left out.
_SOLVED_BESIDE_RUNS = [("closed form", ridge) for ridge in (0.3, 1.0, 3.0)]
_SHARES_ALONE, _SHARES_BESIDE_RUNS = (0.25, 0.5, 0.75, 1.0), (0.5, 1.0)

_RUN = AdapterTrainingArguments(scale=20.0, unlabelled_weight=0.1, penalty=0.003)
_Runs = dict[str, AdapterTrainingArguments]
"""Gradient runs by name, from cautious to bold."""


def _named(*runs: AdapterTrainingArguments) -> _Runs:
    return {
        f"softmax, scale {run.scale:g}, unlabelled weight {run.unlabelled_weight:g}, penalty {run.penalty:g}": run
        for run in runs
    }


class Effort(NamedTuple):
    """What labels of a number are worth.

    Attributes:
        runs: the gradient runs.
        checkpoints: steps after which each of them is a candidate, in ascending order.
        kept_runs: how many of them go on after the first fold.
        refit_seeds: refits of the chosen runs with different seeds, averaged: an average of linear maps is one map.
        early: whether a first fold to the first checkpoint tells which of them go on, so that none of the others takes
            its many steps.
    """

    runs: _Runs
    checkpoints: tuple[int, ...]
    kept_runs: int
    refit_seeds: int
    early: bool = False


_EFFORT = Effort(
    _named(
        replace(_RUN, unlabelled_weight=0.0, penalty=0.01),
        replace(_RUN, unlabelled_weight=0.0),
        replace(_RUN, scale=50.0, penalty=0.01),
        _RUN,
        replace(_RUN, penalty=0.001),
        replace(_RUN, unlabelled_weight=1.0, penalty=0.001),
    ),
    checkpoints=(80, 160),
    kept_runs=3,
    refit_seeds=4,
)
# Many pairs go on teaching for longer, and need less holding back.
_EFFORT_OF_MANY = Effort(
    _named(
        replace(_RUN, scale=50.0, penalty=0.01),
        _RUN,
        replace(_RUN, penalty=0.0003),
        replace(_RUN, penalty=0.0001),
        replace(_RUN, unlabelled_weight=1.0, penalty=0.0003),
    ),
    checkpoints=(160, 640),
    kept_runs=2,
    refit_seeds=2,
    early=True,
)
# From this many pairs on.
_MANY = 5000
# What a teacher says enters one run, beside the others.
_TAUGHT_RUN = f"{next(iter(_named(_RUN)))}, with teacher"
_RUN_SHARES = (0.75, 0.9, 1.0)


def effort_for(num_pairs: int) -> Effort:
    """Gradient runs for so many relevant pairs."""
    return _EFFORT_OF_MANY if num_pairs >= _MANY else _EFFORT


class _Local(NamedTuple):
    """How far and how much a linear map is corrected near the training queries; see ``LocalFit``."""

    threshold: float
    ridge: float
    share: float

    def __str__(self) -> str:
        return f"corrected by {self.share:g} from cosine {self.threshold:g}, ridge {self.ridge:g}"


_NOTHING: Mapping[MapName, Tensor] = {}


class _Given(NamedTuple):
    """What was learned without labels: maps, and what a teacher says."""

    starts: Mapping[MapName, Tensor]
    soft_targets: SoftTargets | None


_NOTHING_GIVEN = _Given(_NOTHING, None)

_Corrections = Mapping[MapName, tuple[MapName, _Local]]
"""The names of corrected maps: what each corrects, and how."""

# From bold to cautious.
_LOCAL = (_Local(0.2, 0.3, 1.0), _Local(0.3, 0.3, 1.0), _Local(0.2, 0.3, 0.5), _Local(0.4, 1.0, 0.5))
# The base model itself, corrected without being fitted.
_NO_MAP = MapName("no map", "as it is")
# Queries that come through a bridge are no base model's, so that leaving them as they are is a candidate of its own.
_AS_BRIDGED = MapName("bridge", "as it is")
UNCHANGED: Candidate = (ShrunkMap(_AS_BRIDGED, 1.0),)
# Few labels can tell few candidates apart, so these are all that there are.
_LOCAL_OF_FEW = (_Local(0.3, 0.3, 1.0), _Local(0.2, 0.3, 0.5))
# From this many pairs on, twice as many pairs and negatives per step.
_LARGE = 1500


class Portfolio:
    """What a method fits in every fold, until runs are dropped.

    Args:
        method: ``closed-form`` has no gradient runs; ``linear`` and it have no corrections.
        effort: the gradient runs.
        starts: maps (D, D) that few labels are to improve on; if there are any, everything is built on these.
        soft_targets: what a teacher says, which one more run learns from besides.

    Attributes:
        runs: the gradient runs that are still fitted.
        candidates: everything that the maps of the method make, one map each.
    """

    def __init__(
        self,
        method: FitMethod,
        effort: Effort,
        starts: Mapping[MapName, Tensor] = _NOTHING,
        soft_targets: SoftTargets | None = None,
    ) -> None:
        self._effort = effort
        self._given = _Given(starts, soft_targets)
        alone = method == "closed-form"
        solved, shares = (_SOLVED_ALONE, _SHARES_ALONE) if alone else (_SOLVED_BESIDE_RUNS, _SHARES_BESIDE_RUNS)
        self._solved = [] if starts else solved
        self.runs = [] if alone or starts else [*effort.runs, *([] if soft_targets is None else [_TAUGHT_RUN])]
        self._local = () if method != "auto" else _LOCAL_OF_FEW if starts else _LOCAL
        self.candidates: list[Candidate] = [
            (ShrunkMap(_solution(*each), share),) for each in self._solved for share in shares
        ]
        self.candidates += [
            (ShrunkMap(_checkpoint(run, step), share),)
            for run in self.runs
            for step in effort.checkpoints
            for share in _RUN_SHARES
        ]
        self.candidates += [(ShrunkMap(name, 1.0),) for name in (*starts, *self._corrections())]

    def fit(self, fits: Sequence[tuple[EmbeddedSplit, int]]) -> list[Maps]:
        """Fit all maps on each of several (training split, seed)."""
        alone = [(train, [seed]) for train, seed in fits]
        plan = _Plan(self._solved, self._runs(), self._effort.checkpoints, self._corrections(), self._given)
        return _fit_maps(alone, plan)

    def early(self) -> Portfolio:
        """The same without corrections, and with gradient runs as far as their first checkpoint."""
        effort = self._effort._replace(checkpoints=self._effort.checkpoints[:1])
        return Portfolio("linear", effort, soft_targets=self._given.soft_targets)

    def _corrections(self) -> _Corrections:
        return _corrections([*self._given.starts] or [_NO_MAP], self.runs, self._effort.checkpoints, self._local)

    def _runs(self) -> _Runs:
        return {name: _RUN if name == _TAUGHT_RUN else self._effort.runs[name] for name in self.runs}

    def refit(self, candidate: Candidate, labelled: EmbeddedSplit, seed: int) -> QueryMap:
        """Fit one candidate on all labels, its gradient runs averaged over some seeds."""
        num_seeds = self._effort.refit_seeds if runs_of(candidate) else 1
        seeds = [seed * 1000 + 900 + number for number in range(num_seeds)]
        return fit_candidate(candidate, [(labelled, seeds)], self._given)[0]


def fit_candidate(
    candidate: Candidate,
    fits: Sequence[tuple[EmbeddedSplit, Sequence[int]]],
    given: _Given = _NOTHING_GIVEN,
) -> list[QueryMap]:
    """Fit one candidate on each of several (labelled queries, seeds), its gradient runs averaged over the seeds."""
    names = {shrunk.name for shrunk in candidate}
    runs = runs_of(candidate)
    checkpoints = sorted({*_EFFORT.checkpoints, *_EFFORT_OF_MANY.checkpoints})
    possible = _corrections([_NO_MAP], list(runs), checkpoints, _LOCAL)
    possible |= _corrections([*given.starts], [], [], _LOCAL_OF_FEW)
    corrections = {name: made for name, made in possible.items() if name in names}
    names |= {corrected for corrected, _ in corrections.values()}
    solved = [each for each in dict.fromkeys([*_SOLVED_BESIDE_RUNS, *_SOLVED_ALONE]) if _solution(*each) in names]
    checkpoints = [step for step in checkpoints if any(_checkpoint(run, step) in names for run in runs)]
    plan = _Plan(solved, runs, checkpoints, corrections, given)
    return [combined(candidate, maps) for maps in _fit_maps(fits, plan)]


def combined(candidate: Candidate, maps: Maps) -> QueryMap:
    """The map of a candidate: the mean of its maps, each shrunk."""
    return averaged([maps[shrunk.name] for shrunk in candidate], [shrunk.share for shrunk in candidate])


def runs_of(candidate: Candidate) -> _Runs:
    """The gradient runs that a candidate is made of."""
    families = {shrunk.name.family for shrunk in candidate}
    return {
        name: run
        for name, run in (_EFFORT.runs | _EFFORT_OF_MANY.runs | {_TAUGHT_RUN: _RUN}).items()
        if name in families
    }


class _Plan(NamedTuple):
    """Which maps are fitted."""

    solved: Sequence[tuple[str, float]]
    runs: _Runs
    checkpoints: Sequence[int]
    corrections: _Corrections
    given: _Given


def _solution(solver: str, ridge: float) -> MapName:
    return MapName(solver, f"ridge {ridge:g}")


def _checkpoint(run: str, step: int) -> MapName:
    return MapName(run, f"{step} steps")


def _corrections(
    unfitted: Sequence[MapName], runs: Sequence[str], checkpoints: Sequence[int], local: Sequence[_Local]
) -> dict[MapName, tuple[MapName, _Local]]:
    linear = [*unfitted, *(_checkpoint(run, step) for run in runs for step in checkpoints)]
    return {MapName(name.family, f"{name.detail}, {how}"): (name, how) for name in linear for how in local}


def _fit_maps(fits: Sequence[tuple[EmbeddedSplit, Sequence[int]]], plan: _Plan) -> list[Maps]:
    """Fit every map on each of several (training split, seeds), gradient runs once a seed and averaged."""
    tasks = [
        Run(train, _arguments(train, run, seed), plan.given.soft_targets if name == _TAUGHT_RUN else None)
        for train, seeds in fits
        for name, run in plan.runs.items()
        for seed in seeds
    ]
    done = iter(_iterates(tasks, plan.checkpoints))
    fitted: list[Maps] = []
    for train, seeds in fits:
        pairs = labelled_pairs(train)
        maps = {_solution(s, r): QueryMap(_SOLVERS[s](pairs, train.corpus, r)) for s, r in plan.solved}
        maps |= {name: QueryMap(matrix) for name, matrix in plan.given.starts.items()}
        maps[_AS_BRIDGED] = QueryMap(torch.eye(train.dimension, device=train.query_embeddings.device))
        for run in plan.runs:
            of_seeds = [next(done) for _ in seeds]
            for step, iterates in zip(plan.checkpoints, zip(*of_seeds, strict=True), strict=True):
                maps[_checkpoint(run, step)] = QueryMap(torch.stack(iterates).mean(dim=0))
        fitted.append(maps | _corrected(train, pairs, maps, plan.corrections))
    return fitted


def _corrected(train: EmbeddedSplit, pairs: LabelledPairs, maps: Maps, corrections: _Corrections) -> Maps:
    """The corrected maps on top of linear ones."""
    if not corrections:
        return {}
    local = LocalFit(pairs, train.corpus)
    linear = {name: each.matrix for name, each in maps.items()}
    linear[_NO_MAP] = torch.eye(train.dimension, device=train.query_embeddings.device)
    return {
        name: local.on(linear[corrected], how.threshold, how.ridge, how.share)
        for name, (corrected, how) in corrections.items()
    }


def _arguments(train: EmbeddedSplit, run: AdapterTrainingArguments, seed: int) -> AdapterTrainingArguments:
    args = replace(run, seed=seed)
    if train.num_pairs < _LARGE:
        return args
    return replace(
        args,
        per_device_train_batch_size=2 * args.per_device_train_batch_size,
        num_negatives=2 * args.num_negatives,
    )


def _iterates(runs: Sequence[Run], checkpoints: Sequence[int]) -> list[list[Tensor]]:
    """The averaged iterates (D, D) of every run at some steps."""
    if not runs:
        return []
    if can_be_stacked(runs):
        return stacked_iterates(runs, checkpoints)
    tasks = [partial(_iterates_alone, run, checkpoints) for run in runs]
    if runs[0].split.query_embeddings.device.type != "cpu":
        return [task() for task in tasks]
    return _side_by_side(tasks)


def _iterates_alone(run: Run, checkpoints: Sequence[int]) -> list[Tensor]:
    gradient_fit = GradientFit(run.split, run.args, soft_targets=run.soft_targets)
    iterates = []
    for step in range(1, max(checkpoints) + 1):
        gradient_fit.step()
        if step in checkpoints:
            iterates.append(gradient_fit.matrix)
    return iterates


def _side_by_side(tasks: Sequence[partial[list[Tensor]]]) -> list[list[Tensor]]:
    """Do independent runs at once on a CPU, one core each, because the products of a step are too small to share.

    Cores that share a product wait for each other at every step, which on a busy machine costs many times the product.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=min(num_threads, len(tasks))) as pool:
            return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(num_threads)
