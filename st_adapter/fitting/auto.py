"""Find the best query adapter by cross-fitting a small portfolio, or keep the base model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import FitMethod
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.errors import setting_error
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.closed_form import mix, ridge_to_positives, within_class_whitening
from st_adapter.fitting.folds import NUM_FOLDS, cross_fit_folds, labelled_split, unseen_share
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.sampling import labelled_pairs
from st_adapter.fitting.selection import Candidate, Measure, Part, Scoreboard, Source, Verdict

# Queries about documents without a training query never weigh less: a user's dev split understates what is to come.
_MIN_UNSEEN_WEIGHT = 0.3
# After a first fold of at least _PRUNE_FROM queries, or else a first round of folds, only the best runs go on.
_KEPT_RUNS, _PRUNE_FROM = 3, 100
# Refits of the chosen runs with different seeds, averaged: an average of linear maps is one linear map.
_REFIT_SEEDS = 4
# From this weight of unseen documents on, the models of the folds are averaged in; each of them missed some documents,
# which costs where documents are known and helps where they are new.
_BAG_FROM = 0.9

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


@dataclass(frozen=True)
class FitResult:
    """The outcome of a fit.

    Attributes:
        adapter: None if the base model is kept.
        verdict: the gate with its reason, and what every candidate did.
        seconds: wall time by step.
    """

    adapter: QueryAdapter | None
    verdict: Verdict
    seconds: dict[str, float]

    @property
    def adopted(self) -> bool:
        """Whether there is an adapter."""
        return self.adapter is not None

    @property
    def chosen(self) -> str:
        """Name of the best candidate, adopted or not."""
        return self.verdict.candidates[0].name

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary, without the adapter."""
        verdict = self.verdict._asdict()
        gate = verdict.pop("gate")._asdict()
        candidates = [
            # JSON has no NaN: a part without queries has no gain.
            {key: None if value != value else value for key, value in vars(candidate).items()}
            for candidate in verdict.pop("candidates")
        ]
        return {**verdict, "chosen": self.chosen, "gate": gate, "candidates": candidates, "seconds": self.seconds}


def fit(
    embedded: EmbeddedDataset,
    *,
    method: FitMethod = "auto",
    seed: int = 0,
    alpha: float = 0.05,
    show_progress_bar: bool = False,
) -> FitResult:
    """Choose, test and fit an adapter on the splits ``train`` and ``dev``; no other split is looked at.

    All labelled queries are cut into folds, some documents held out whole, so that every candidate is measured on
    queries its fit did not see, both with documents that other training queries asked for and with documents that
    nobody asked for. The two are weighted as the given dev split shows them (unseen ones by at least .3). Candidates
    are closed forms, gradient runs that start there, each also shrunk towards the identity, and averages of the best.
    The best one has to pass a paired test against the base model; then it is fitted again on all labels.

    Args:
        embedded: with the splits ``train`` and ``dev``.
        method: ``closed-form`` leaves the gradient runs out.
        seed: of folds, batches and tests; the same seed gives the same adapter.
        alpha: level of the test, 0 < alpha < 1.
        show_progress_bar: one step per fold, and one for the last fit.

    Raises:
        ValueError: a split is missing or has no relevant pair, or seed or alpha is out of range.
    """
    check_seed_and_level(seed, alpha)
    return fit_labelled(
        labelled_split(embedded).in_memory(),
        unseen_share(embedded),
        method=method,
        seed=seed,
        alpha=alpha,
        show_progress_bar=show_progress_bar,
    )


def fit_labelled(
    labelled: EmbeddedSplit,
    expected_unseen: float,
    *,
    method: FitMethod,
    seed: int,
    alpha: float,
    show_progress_bar: bool,
) -> FitResult:
    """What ``fit`` does once it knows which queries to learn from: the rest of the data is out of reach here.

    Args:
        labelled: the queries to learn from and to test on, with their relevant documents only.
        expected_unseen: share of the queries to come whose documents no labelled query asks for, 0-1.
        method: see ``fit``, as all others.
        seed: of folds, batches and tests.
        alpha: level of the test.
        show_progress_bar: one step per fold, and one for the last fit.
    """
    clock = _Clock()
    generator = torch.Generator().manual_seed(seed)
    unseen_weight = max(_MIN_UNSEEN_WEIGHT, expected_unseen)
    solved = _SOLVED[method]
    runs = list(_RUNS) if method == "auto" else []
    candidates: list[Candidate] = [
        (Part(_solution(*each), share),) for each in solved for share in _CLOSED_FORM_SHARES[method]
    ]
    candidates += [(Part(_checkpoint(r, s), a),) for r in runs for s in _CHECKPOINTS for a in _RUN_SHARES]
    board = Scoreboard(candidates, len(labelled.query_ids), unseen_weight)

    folds = list(cross_fit_folds(labelled, unseen_weight, generator))
    if not folds:
        raise ValueError(
            f"The {len(labelled.query_ids)} labelled queries cannot be cut into a part to fit on and a part to "
            "measure: they are one query to the model, or too few. Add labelled queries."
        )
    num_first = 1 if int(folds[0].measured.sum()) >= _PRUNE_FROM else NUM_FOLDS
    fitted: list[tuple[Measure, Tensor, Tensor, dict[Source, Tensor]]] = []
    with tqdm(total=len(folds) + 1, desc="Fitting", unit="fold", disable=not show_progress_bar) as progress:
        for group in (folds[:num_first], folds[num_first:]):
            with clock("training"):
                fits = [(labelled.subset(f.train), seed * 1000 + len(fitted) + n) for n, f in enumerate(group)]
                group_matrices = _matrices(fits, solved, runs, _CHECKPOINTS)
            with clock("measuring"):
                for fold, matrices in zip(group, group_matrices, strict=True):
                    measure = Measure(labelled.subset(fold.measured))
                    rows = fold.measured.nonzero().squeeze(1)
                    unseen = fold.unseen[rows].long()
                    gains_of_fold = measure.gains(board.candidates, matrices)
                    board.add(rows, unseen, measure.base, gains_of_fold)
                    fitted.append((measure, rows, unseen, matrices))
                    progress.update()
                kept = board.best_families(_KEPT_RUNS, among=runs)
                board.drop_families([run for run in runs if run not in kept])
                runs = kept

        with clock("measuring"):
            averages = board.averages_of_the_best()
            gains = [measure.gains(averages, matrices) for measure, _, _, matrices in fitted]
            board.extend(averages, [(rows, unseen) for _, rows, unseen, _ in fitted], gains)
        with clock("testing"):
            verdict = board.verdict(alpha, seed)
        adapter = None
        if verdict.gate.adopted:
            with clock("refitting"):
                seeds = [seed * 1000 + 900 + n for n in range(_REFIT_SEEDS if _runs_of(verdict.chosen) else 1)]
                matrix = torch.stack(fit_candidate(verdict.chosen, [(labelled, each) for each in seeds])).mean(dim=0)
                if unseen_weight >= _BAG_FROM:
                    bags = [_combine(verdict.chosen, matrices) for *_, matrices in fitted]
                    matrix = (matrix + torch.stack(bags).mean(dim=0)) / 2
                adapter = QueryAdapter.from_matrix(matrix, labelled.normalized, labelled.base_model).to(matrix.device)
        progress.update()
    return FitResult(adapter, verdict, clock.seconds)


def fit_candidate(candidate: Candidate, fits: Sequence[tuple[EmbeddedSplit, int]]) -> list[Tensor]:
    """Fit one candidate on each of several (labelled queries, seed): (D, D) maps, to be applied as ``q @ W.T``."""
    sources = {part.source for part in candidate}
    solved = [each for each in dict.fromkeys(chain(*_SOLVED.values())) if _solution(*each) in sources]
    checkpoints = [
        step for step in _CHECKPOINTS if any(part.source.detail == _checkpoint("", step).detail for part in candidate)
    ]
    return [_combine(candidate, matrices) for matrices in _matrices(fits, solved, _runs_of(candidate), checkpoints)]


def check_seed_and_level(seed: int, alpha: float) -> None:
    """Refuse before any work what would fail after it."""
    if seed < 0:
        raise setting_error("seed", seed, "at least 0")
    if not 0 < alpha < 1:
        raise setting_error("alpha", alpha, "a level of a test, between 0 and 1")


class _Clock:
    """Wall time by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._start = "", 0.0

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        elapsed = time.perf_counter() - self._start
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + elapsed


def _solution(solver: str, ridge: float) -> Source:
    return Source(solver, f"ridge {ridge:g}")


def _checkpoint(run: str, step: int) -> Source:
    return Source(run, f"{step} steps")


def _runs_of(candidate: Candidate) -> list[str]:
    """The gradient runs that a candidate is made of."""
    return [run for run in _RUNS if any(part.source.family == run for part in candidate)]


def _matrices(
    fits: Sequence[tuple[EmbeddedSplit, int]],
    solved: Sequence[tuple[str, float]],
    runs: Sequence[str],
    checkpoints: Sequence[int],
) -> list[dict[Source, Tensor]]:
    """Fit every source on each of several (training split, seed): (D, D) matrices."""
    matrices: list[dict[Source, Tensor]] = []
    for train, _ in fits:
        pairs = labelled_pairs(train)
        matrices.append({_solution(s, r): _SOLVERS[s](pairs, train.corpus, r) for s, r in solved})
    numbers = [number for number in range(len(fits)) for _ in runs]
    tasks = [partial(_run, train, run, seed, checkpoints) for train, seed in fits for run in runs]
    for number, fitted in zip(numbers, _side_by_side(tasks), strict=True):
        matrices[number] |= fitted
    return matrices


def _run(train: EmbeddedSplit, run: str, seed: int, checkpoints: Sequence[int]) -> dict[Source, Tensor]:
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
    matrices: dict[Source, Tensor] = {}
    for step in range(1, max(checkpoints) + 1):
        gradient_fit.step()
        if step in checkpoints:
            with torch.no_grad():
                matrices[_checkpoint(run, step)] = gradient_fit.averaged.project(identity).T.clone()
    return matrices


def _combine(candidate: Candidate, matrices: dict[Source, Tensor]) -> Tensor:
    return torch.stack([mix(matrices[part.source], part.share) for part in candidate]).mean(dim=0)


def _side_by_side(tasks: Sequence[partial[dict[Source, Tensor]]]) -> list[dict[Source, Tensor]]:
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
