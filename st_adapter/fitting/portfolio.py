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

Maps = dict[MapName, QueryMap]
"""Fitted maps by name."""

_SOLVERS = {"closed form": within_class_whitening, "ridge to positives": ridge_to_positives}
_SOLVED_ALONE = [(solver, ridge) for solver in _SOLVERS for ridge in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]
# The gradient runs go further than ridge regression ever does, so beside them it is left out.
_SOLVED_BESIDE_RUNS = [("closed form", ridge) for ridge in (0.3, 1.0, 3.0)]
_SHARES_ALONE, _SHARES_BESIDE_RUNS = (0.25, 0.5, 0.75, 1.0), (0.5, 1.0)

_RUN = AdapterTrainingArguments(scale=20.0, unlabelled_weight=0.1, penalty=0.003)
# From cautious to bold.
_RUNS = {
    f"softmax, scale {run.scale:g}, unlabelled weight {run.unlabelled_weight:g}, penalty {run.penalty:g}": run
    for run in (
        replace(_RUN, unlabelled_weight=0.0, penalty=0.01),
        replace(_RUN, unlabelled_weight=0.0),
        replace(_RUN, scale=50.0, penalty=0.01),
        _RUN,
        replace(_RUN, penalty=0.001),
        replace(_RUN, unlabelled_weight=1.0, penalty=0.001),
    )
}
# What a teacher says enters one run, in the middle of the others.
_TAUGHT_RUN = f"{next(name for name, run in _RUNS.items() if run == _RUN)}, with teacher"
_RUNS[_TAUGHT_RUN] = _RUN
_CHECKPOINTS = (80, 160)
_RUN_SHARES = (0.75, 0.9, 1.0)


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


_Corrections = Mapping[MapName, tuple[MapName, _Local]]
"""The names of corrected maps: what each corrects, and how."""

# From bold to cautious.
_LOCAL = (_Local(0.2, 0.3, 1.0), _Local(0.3, 0.3, 1.0), _Local(0.2, 0.3, 0.5), _Local(0.4, 1.0, 0.5))
# The base model itself, corrected without being fitted.
_NO_MAP = MapName("no map", "as it is")
# Few labels can tell few candidates apart, so these are all that there are.
_LOCAL_OF_FEW = (_Local(0.3, 0.3, 1.0), _Local(0.2, 0.3, 0.5))
# From this many pairs on, twice as many pairs and negatives per step.
_LARGE = 1500


class Portfolio:
    """What a method fits in every fold, until runs are dropped.

    Args:
        method: ``closed-form`` has no gradient runs; ``linear`` and it have no corrections.
        starts: maps (D, D) that few labels are to improve on; if there are any, everything is built on these.
        soft_targets: what a teacher says, which one more run learns from besides.

    Attributes:
        runs: the gradient runs that are still fitted.
        candidates: everything that the maps of the method make, one map each.
    """

    def __init__(
        self, method: FitMethod, starts: Mapping[MapName, Tensor] = _NOTHING, soft_targets: SoftTargets | None = None
    ) -> None:
        self._starts, self._soft_targets = starts, soft_targets
        alone = method == "closed-form"
        solved, shares = (_SOLVED_ALONE, _SHARES_ALONE) if alone else (_SOLVED_BESIDE_RUNS, _SHARES_BESIDE_RUNS)
        self._solved = [] if starts else solved
        runs = [run for run in _RUNS if run != _TAUGHT_RUN or soft_targets is not None]
        self.runs = [] if alone or starts else runs
        self._local = () if method != "auto" else _LOCAL_OF_FEW if starts else _LOCAL
        self.candidates: list[Candidate] = [
            (ShrunkMap(_solution(*each), share),) for each in self._solved for share in shares
        ]
        self.candidates += [
            (ShrunkMap(_checkpoint(run, step), share),)
            for run in self.runs
            for step in _CHECKPOINTS
            for share in _RUN_SHARES
        ]
        self.candidates += [(ShrunkMap(name, 1.0),) for name in (*starts, *self._corrections())]

    def fit(self, fits: Sequence[tuple[EmbeddedSplit, int]]) -> list[Maps]:
        """Fit all maps on each of several (training split, seed)."""
        alone = [(train, [seed]) for train, seed in fits]
        given = _Given(self._starts, self._soft_targets)
        return _fit_maps(alone, self._solved, self.runs, _CHECKPOINTS, self._corrections(), given)

    def _corrections(self) -> _Corrections:
        return _corrections([*self._starts] or [_NO_MAP], self.runs, _CHECKPOINTS, self._local)


def fit_candidate(
    candidate: Candidate,
    fits: Sequence[tuple[EmbeddedSplit, Sequence[int]]],
    starts: Mapping[MapName, Tensor] = _NOTHING,
    soft_targets: SoftTargets | None = None,
) -> list[QueryMap]:
    """Fit one candidate on each of several (labelled queries, seeds), its gradient runs averaged over the seeds."""
    names = {shrunk.name for shrunk in candidate}
    runs = runs_of(candidate)
    possible = _corrections([_NO_MAP], runs, _CHECKPOINTS, _LOCAL) | _corrections([*starts], [], [], _LOCAL_OF_FEW)
    corrections = {name: made for name, made in possible.items() if name in names}
    names |= {corrected for corrected, _ in corrections.values()}
    solved = [each for each in dict.fromkeys([*_SOLVED_BESIDE_RUNS, *_SOLVED_ALONE]) if _solution(*each) in names]
    checkpoints = [step for step in _CHECKPOINTS if any(_checkpoint(run, step) in names for run in runs)]
    given = _Given(starts, soft_targets)
    return [combined(candidate, maps) for maps in _fit_maps(fits, solved, runs, checkpoints, corrections, given)]


def combined(candidate: Candidate, maps: Maps) -> QueryMap:
    """The map of a candidate: the mean of its maps, each shrunk."""
    return averaged([maps[shrunk.name] for shrunk in candidate], [shrunk.share for shrunk in candidate])


def runs_of(candidate: Candidate) -> list[str]:
    """The gradient runs that a candidate is made of."""
    return [run for run in _RUNS if any(shrunk.name.family == run for shrunk in candidate)]


def _solution(solver: str, ridge: float) -> MapName:
    return MapName(solver, f"ridge {ridge:g}")


def _checkpoint(run: str, step: int) -> MapName:
    return MapName(run, f"{step} steps")


def _corrections(
    unfitted: Sequence[MapName], runs: Sequence[str], checkpoints: Sequence[int], local: Sequence[_Local]
) -> dict[MapName, tuple[MapName, _Local]]:
    linear = [*unfitted, *(_checkpoint(run, step) for run in runs for step in checkpoints)]
    return {MapName(name.family, f"{name.detail}, {how}"): (name, how) for name in linear for how in local}


def _fit_maps(
    fits: Sequence[tuple[EmbeddedSplit, Sequence[int]]],
    solved: Sequence[tuple[str, float]],
    runs: Sequence[str],
    checkpoints: Sequence[int],
    corrections: _Corrections,
    given: _Given,
) -> list[Maps]:
    """Fit every map on each of several (training split, seeds), gradient runs once a seed and averaged."""
    tasks = [
        partial(_run, train, run, seed, checkpoints, given.soft_targets if run == _TAUGHT_RUN else None)
        for train, seeds in fits
        for run in runs
        for seed in seeds
    ]
    done = iter(_side_by_side(tasks))
    fitted: list[Maps] = []
    for train, seeds in fits:
        pairs = labelled_pairs(train)
        maps = {_solution(s, r): QueryMap(_SOLVERS[s](pairs, train.corpus, r)) for s, r in solved}
        maps |= {name: QueryMap(matrix) for name, matrix in given.starts.items()}
        for _ in runs:
            of_seeds = [next(done) for _ in seeds]
            maps |= {name: averaged([each[name] for each in of_seeds], [1.0] * len(seeds)) for name in of_seeds[0]}
        fitted.append(maps | _corrected(train, pairs, maps, corrections))
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


def _run(
    train: EmbeddedSplit, run: str, seed: int, checkpoints: Sequence[int], soft_targets: SoftTargets | None
) -> Maps:
    """The averaged iterates of one gradient run at some steps."""
    args = replace(_RUNS[run], seed=seed)
    if train.num_pairs >= _LARGE:
        args = replace(
            args,
            per_device_train_batch_size=2 * args.per_device_train_batch_size,
            num_negatives=2 * args.num_negatives,
        )
    gradient_fit = GradientFit(train, args, soft_targets=soft_targets)
    identity = torch.eye(train.dimension, device=train.query_embeddings.device)
    maps: Maps = {}
    for step in range(1, max(checkpoints) + 1):
        gradient_fit.step()
        if step in checkpoints:
            with torch.no_grad():
                maps[_checkpoint(run, step)] = QueryMap(gradient_fit.averaged.project(identity).T.clone())
    return maps


def _side_by_side(tasks: Sequence[partial[Maps]]) -> list[Maps]:
    """Do independent runs at once: on a CPU one core each, because the products of a step are too small to share.

    Cores that share a product wait for each other at every step, which on a busy machine costs many times the product.
    """
    if not tasks or tasks[0].args[0].query_embeddings.device.type != "cpu":
        return [task() for task in tasks]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=min(num_threads, len(tasks))) as pool:
            return [future.result() for future in [pool.submit(task) for task in tasks]]
    finally:
        torch.set_num_threads(num_threads)
