"""Many gradient runs at once, as one program on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.closed_form import within_class_whitening
from st_adapter.fitting.gradient import START_RIDGE, fast_products
from st_adapter.fitting.losses import softmax_ranking_loss
from st_adapter.fitting.pairs import NOBODY
from st_adapter.fitting.sampling import BatchSampler

# Batches that are drawn before any of them is used.
_DRAWN = 160
# Queries with more positives than this take memory that was not laid out for them.
_MAX_BARRED = 256


class Run(NamedTuple):
    """A gradient run of a linear adapter that starts at the closed form; see ``GradientFit``."""

    split: EmbeddedSplit
    args: AdapterTrainingArguments
    soft_targets: SoftTargets | None = None


def can_be_stacked(runs: Sequence[Run]) -> bool:
    """Whether there is a GPU to stack runs on, no teacher, and no query with very many relevant documents."""
    if any(run.soft_targets is not None for run in runs):
        return False
    splits = {id(run.split): run.split for run in runs}.values()
    return all(
        split.query_embeddings.device.type == "cuda" and int(split.qrels.query_index.bincount().max()) <= _MAX_BARRED
        for split in splits
    )


def stacked_iterates(runs: Sequence[Run], checkpoints: Sequence[int]) -> list[list[Tensor]]:
    """The averaged iterates (D, D) of every run after each of some numbers of steps, in ascending order."""
    stacked = StackedRuns(runs)
    identity = torch.eye(runs[0].split.dimension, device=stacked.averaged.device)
    iterates = []
    for step in range(1, max(checkpoints) + 1):
        stacked.step()
        if step in checkpoints:
            iterates.append(stacked.averaged + identity)
    return [list(of_run) for of_run in zip(*iterates, strict=True)]


class StackedRuns:
    """R gradient runs on the same corpus, stacked: what ``GradientFit`` does, with a leading dimension for the runs.

    A step of one run is about fifty small kernels, which a GPU finishes faster than they can be started. Stacked, they
    are as many for all runs together, and recorded as one CUDA graph they are started at once (Gray 2019, "Getting
    started with CUDA graphs"). Batches are the very same as those of ``GradientFit``, drawn ahead.

    Args:
        runs: on one device and one corpus, alike in all settings but ``scale``, ``penalty``, ``unlabelled_weight`` and
            ``seed``.

    Attributes:
        averaged: (R, D, D), what each run is meant to find less the identity.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._args = runs[0].args
        self._corpus_size = len(runs[0].split.corpus)
        self._device = runs[0].split.query_embeddings.device
        drawn_alike = [(id(run.split), run.args.seed, run.args.unlabelled_weight > 0) for run in runs]
        distinct = {key: run for key, run in zip(drawn_alike, runs, strict=True)}
        self._samplers = [BatchSampler(run.split, run.args) for run in distinct.values()]
        self._sampler_of = self._whole([list(distinct).index(key) for key in drawn_alike])
        self._corpus = self._samplers[0].corpus
        self._tables = _Tables.of(self._samplers)
        batch_sizes = self._whole([sampler.batch_size for sampler in self._samplers])
        widths = [
            len(sampler.log_priors(run.args.unlabelled_weight))
            for sampler, run in zip(self._samplers, distinct.values(), strict=True)
        ]
        largest = int(batch_sizes.max())
        # Smaller batches are filled up with a pair of weight 0, and their mean is over the others.
        counted = torch.arange(largest, device=self._device) < batch_sizes.unsqueeze(1)
        self._counted = counted * (largest / batch_sizes).unsqueeze(1)  # (S, B)
        # The pairs and documents of the steps to come; which of them is next.
        self._pairs = self._whole(0).expand(_DRAWN, len(widths), largest).clone()
        self._candidates = self._whole(0).expand(_DRAWN, len(widths), max(widths)).clone()
        self._at = self._whole([0])
        self._left = 0
        self._scales = self._number([run.args.scale for run in runs])
        self._penalties = self._number([run.args.penalty for run in runs])
        self._log_priors = self._priors(runs)
        starts = {
            id(run.split): within_class_whitening(sampler.pairs, sampler.corpus, START_RIDGE)
            for run, sampler in zip(distinct.values(), self._samplers, strict=True)
        }
        identity = torch.eye(runs[0].split.dimension, device=self._device)
        self._delta = torch.stack([starts[id(run.split)] - identity for run in runs]).requires_grad_()
        self.averaged = self._delta.detach().clone()
        self._optimizer = torch.optim.AdamW(
            [self._delta], lr=self._args.learning_rate, weight_decay=0.0, fused=True, capturable=self._on_gpu
        )
        self._update: Callable[[], None] = self._one_update

    def step(self) -> None:
        """One update of every run."""
        with fast_products(self._device):
            if not self._left:
                self._draw()
                if self._on_gpu and self._update == self._one_update:
                    self._update = self._recorded()
            self._update()
        self._left -= 1

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _one_update(self) -> None:
        anchors, positives, candidates, excluded, weights, log_priors = self._batch()
        anchors = (anchors + anchors @ self._delta.mT) * self._scales[:, None, None]
        scores = anchors @ candidates.mT  # (R, B, M)
        losses = softmax_ranking_loss(scores, (anchors * positives).sum(dim=-1), excluded, weights, log_priors)
        losses = losses + self._penalties * self._delta.square().sum(dim=(1, 2))
        self._optimizer.zero_grad(set_to_none=not self._on_gpu)
        losses.sum().backward()
        self._optimizer.step()
        with torch.no_grad():
            self.averaged.lerp_(self._delta, 1 - self._args.ema_decay)
            self._at.add_(1)

    @torch.no_grad()
    def _batch(self) -> tuple[Tensor, ...]:
        """Anchors, positives (R, B, D), candidates (R, M, D), excluded, weights and log-priors, without waiting."""
        tables, of = self._tables, self._sampler_of
        pairs, candidates = self._pairs.index_select(0, self._at)[0], self._candidates.index_select(0, self._at)[0]
        rows = tables.rows[pairs]
        excluded = self._excluded(rows, candidates)[of]
        anchors = (tables.queries[rows] * tables.scale[rows])[of]
        positives = self._corpus.embeddings[tables.documents[pairs]][of]
        weights = (tables.weights[pairs] * self._counted)[of]
        documents = candidates.clamp_min(0)[of]
        log_priors = self._log_priors
        if self._corpus.stands_for is not None:
            log_priors = log_priors + self._corpus.stands_for[documents].log().unsqueeze(1)
        return anchors, positives, self._corpus.embeddings[documents], excluded, weights, log_priors

    def _excluded(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """(S, B, M) bool: the candidate is barred for the query, or nobody."""
        num_samplers, num_candidates = candidates.shape
        nobody = self._corpus_size
        named = candidates.where(candidates != NOBODY, nobody)
        column = torch.full((num_samplers, nobody + 1), num_candidates, device=self._device)
        column.scatter_(1, named, torch.arange(num_candidates, device=self._device).expand_as(named))
        column[:, nobody] = num_candidates
        barred = self._tables.barred[rows]  # (S, B, K)
        columns = column.gather(1, barred.flatten(1)).view_as(barred)
        mask = torch.zeros(*rows.shape, num_candidates + 1, dtype=torch.bool, device=self._device)
        mask.scatter_(2, columns, True)
        return mask[..., :-1] | (candidates == NOBODY).unsqueeze(1)

    def _draw(self) -> None:
        """The next batches of every sampler, written where the recorded update reads them."""
        pairs = torch.zeros(self._pairs.shape, dtype=torch.int64)
        candidates = torch.full(self._candidates.shape, NOBODY)
        for number, (sampler, first) in enumerate(zip(self._samplers, self._tables.first_pairs, strict=True)):
            for step in range(_DRAWN):
                drawn = sampler.draw()
                documents = torch.cat([drawn.labelled, drawn.unlabelled])
                pairs[step, number, : len(drawn.pairs)] = drawn.pairs + first
                candidates[step, number, : len(documents)] = documents
        self._pairs.copy_(pairs)
        self._candidates.copy_(candidates)
        self._at.zero_()
        self._left = _DRAWN

    def _recorded(self) -> Callable[[], None]:
        """The update as one CUDA graph, with everything as it was before the updates that warm it up."""
        before = self._delta.detach().clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._one_update()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one_update()
        with torch.no_grad():
            self._delta.copy_(before)
            self.averaged.copy_(before)
            for value in self._optimizer.state[self._delta].values():
                value.zero_()
            self._at.zero_()
        return graph.replay

    def _priors(self, runs: Sequence[Run]) -> Tensor:
        """(R, 1, M) the part of the log-priors that is the same in every batch."""
        priors = torch.zeros(len(runs), 1, self._candidates.shape[2])
        for number, (run, sampler) in enumerate(zip(runs, self._sampler_of.tolist(), strict=True)):
            own = self._samplers[sampler].log_priors(run.args.unlabelled_weight)
            priors[number, 0, : len(own)] = own
        return priors.to(self._device)

    def _whole(self, values: int | Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _number(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


class _Tables(NamedTuple):
    """What the samplers know, one after the other: Q queries and P pairs in all.

    Attributes:
        queries: (Q, D).
        scale: (Q, 1).
        barred: (Q, K) documents that are no negatives, filled up with N.
        rows: (P,) the query of each pair.
        documents: (P,) its document.
        weights: (P,).
        first_pairs: where the pairs of each sampler begin.
    """

    queries: Tensor
    scale: Tensor
    barred: Tensor
    rows: Tensor
    documents: Tensor
    weights: Tensor
    first_pairs: list[int]

    @classmethod
    def of(cls, samplers: Sequence[BatchSampler]) -> _Tables:
        most = max(sampler.barred.most for sampler in samplers)
        num_queries = [len(sampler.pairs.queries) for sampler in samplers]
        num_pairs = [len(sampler.pairs.rows) for sampler in samplers]
        first_queries = [sum(num_queries[:number]) for number in range(len(samplers))]
        return cls(
            torch.cat([sampler.pairs.queries for sampler in samplers]),
            torch.cat([sampler.scale for sampler in samplers]),
            torch.cat([sampler.barred.padded(most, len(sampler.corpus)) for sampler in samplers]),
            torch.cat([sampler.pairs.rows + first for sampler, first in zip(samplers, first_queries, strict=True)]),
            torch.cat([sampler.pairs.documents for sampler in samplers]),
            torch.cat([sampler.pairs.weights for sampler in samplers]),
            [sum(num_pairs[:number]) for number in range(len(samplers))],
        )
