"""The portfolio of a fit: closed forms and gradient runs, and how to fit those that a candidate is made of."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from st_adapter.choices import FitMethod
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.candidates import Candidate, MapName, ShrunkMap
from st_adapter.fitting.closed_form import mix, ridge_to_positives, within_class_whitening
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.pairs import labelled_pairs

Maps = dict[MapName, Tensor]
"""Fitted maps by name, (D, D) each, to be applied as ``q @ W.T``."""

_SOLVERS = {"closed form": within_class_whitening, "ridge to positives": ridge_to_positives}
# The gradient runs go further than ridge regression ever does, so auto leaves it out.
_SOLVED: dict[FitMethod, list[tuple[str, float]]] = {
    "auto": [("closed form", ridge) for ridge in (0.3, 1.0, 3.0)],
    "closed-form": [(solver, ridge) for solver in _SOLVERS for ridge in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)],
}
_CLOSED_FORM_SHARES = {"auto": (0.5, 1.0), "closed-form": (0.25, 0.5, 0.75, 1.0)}

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
_CHECKPOINTS = (80, 160)
_RUN_SHARES = (0.75, 0.9, 1.0)
# From this many pairs on, twice as many pairs and negatives per step.
_LARGE = 1500


class Portfolio:
    """What a method fits in every fold, until runs are dropped.

    Args:
        method: ``closed-form`` has no gradient runs.

    Attributes:
        runs: the gradient runs that are still fitted.
        candidates: everything that the maps of the method make, one map each.
    """

    def __init__(self, method: FitMethod) -> None:
        self._solved = _SOLVED[method]
        self.runs = list(_RUNS) if method == "auto" else []
        self.candidates: list[Candidate] = [
            (ShrunkMap(_solution(*each), share),) for each in self._solved for share in _CLOSED_FORM_SHARES[method]
        ]
        self.candidates += [
            (ShrunkMap(_checkpoint(run, step), share),)
            for run in self.runs
            for step in _CHECKPOINTS
            for share in _RUN_SHARES
        ]

    def fit(self, fits: Sequence[tuple[EmbeddedSplit, int]]) -> list[Maps]:
        """Fit all maps on each of several (training split, seed)."""
        return _fit_maps(fits, self._solved, self.runs, _CHECKPOINTS)


def fit_candidate(candidate: Candidate, fits: Sequence[tuple[EmbeddedSplit, int]]) -> list[Tensor]:
    """Fit one candidate on each of several (labelled queries, seed): (D, D) maps, to be applied as ``q @ W.T``."""
    names = {shrunk.name for shrunk in candidate}
    solved = [each for each in dict.fromkeys(chain(*_SOLVED.values())) if _solution(*each) in names]
    checkpoints = [
        step for step in _CHECKPOINTS if any(shrunk.name.detail == _checkpoint("", step).detail for shrunk in candidate)
    ]
    return [combined(candidate, maps) for maps in _fit_maps(fits, solved, runs_of(candidate), checkpoints)]


def combined(candidate: Candidate, maps: Maps) -> Tensor:
    """The map (D, D) of a candidate: the mean of its maps, each shrunk."""
    return torch.stack([mix(maps[shrunk.name], shrunk.share) for shrunk in candidate]).mean(dim=0)


def runs_of(candidate: Candidate) -> list[str]:
    """The gradient runs that a candidate is made of."""
    return [run for run in _RUNS if any(shrunk.name.family == run for shrunk in candidate)]


def _solution(solver: str, ridge: float) -> MapName:
    return MapName(solver, f"ridge {ridge:g}")


def _checkpoint(run: str, step: int) -> MapName:
    return MapName(run, f"{step} steps")


def _fit_maps(
    fits: Sequence[tuple[EmbeddedSplit, int]],
    solved: Sequence[tuple[str, float]],
    runs: Sequence[str],
    checkpoints: Sequence[int],
) -> list[Maps]:
    """Fit every map on each of several (training split, seed)."""
    fitted: list[Maps] = []
    for train, _ in fits:
        pairs = labelled_pairs(train)
        fitted.append({_solution(s, r): _SOLVERS[s](pairs, train.corpus, r) for s, r in solved})
    numbers = [number for number in range(len(fits)) for _ in runs]
    tasks = [partial(_run, train, run, seed, checkpoints) for train, seed in fits for run in runs]
    for number, of_run in zip(numbers, _side_by_side(tasks), strict=True):
        fitted[number] |= of_run
    return fitted


def _run(train: EmbeddedSplit, run: str, seed: int, checkpoints: Sequence[int]) -> Maps:
    """The averaged iterates of one gradient run at some steps."""
    args = replace(_RUNS[run], seed=seed)
    if train.num_pairs >= _LARGE:
        args = replace(
            args,
            per_device_train_batch_size=2 * args.per_device_train_batch_size,
            num_negatives=2 * args.num_negatives,
        )
    gradient_fit = GradientFit(train, args)
    identity = torch.eye(train.dimension, device=train.query_embeddings.device)
    matrices: Maps = {}
    for step in range(1, max(checkpoints) + 1):
        gradient_fit.step()
        if step in checkpoints:
            with torch.no_grad():
                matrices[_checkpoint(run, step)] = gradient_fit.averaged.project(identity).T.clone()
    return matrices


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
