"""Teach a bridge what both models find together: a stronger query model knows more than the other's vectors say."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from tqdm.auto import tqdm

from st_adapter.bridge import Bridge
from st_adapter.fitting.agreement import Agreement, average_overlap, first_found
from st_adapter.fitting.bridges import MIN_TEXTS, FittedBridge, Twins, folds_of_texts
from st_adapter.fitting.closed_form import ridge_between

_RIDGE = 0.003
# What the query model's own ranking counts at the start, beside the bridge.
_SHARE = 0.5
_STEPS, _BATCH_SIZE, _LEARNING_RATE, _PENALTY, _EMA_DECAY = 80, 128, 2e-3, 0.03, 0.95
# Scores of the maps are about cosines; those of the teacher are in units of their spread within a query.
_SCALE, _SHARPNESS = 20.0, 2.5
# Queries that a fold has not seen, by which it is told whether it found anything.
_MAX_MEASURED = 1000


class _Lesson(NamedTuple):
    """What is learned from.

    Attributes:
        seen: (Q, 2D) queries as the bridge and as the query model's own ranking map them.
        queries: by both models.
        documents: likewise; those of the index less their mean, which ranks nothing, and about as long as cosines need.
    """

    seen: Tensor
    queries: Twins
    documents: Twins

    @classmethod
    def of(cls, mapped: Tensor, by_own: Tensor, queries: Twins, documents: Twins) -> tuple[_Lesson, list[Tensor]]:
        """Queries (Q, D) as either maps them, brought to the same size, and these sizes."""
        sizes = [_size(mapped), _size(by_own)]
        seen = torch.cat([mapped / sizes[0], by_own / sizes[1]], dim=1)
        centred = documents.theirs - documents.theirs.mean(dim=0)
        return cls(seen, queries, documents._replace(theirs=centred / _size(documents.theirs))), sizes

    def loss(self, matrix: Tensor, rows: Tensor) -> Tensor:
        """Divergence of what a map (D, 2D) finds from what both models together do, the mean over some queries."""
        targets = (_SHARPNESS * self._taught(rows)).softmax(dim=1)
        return kl_div((_SCALE * self._scores(matrix, rows)).log_softmax(dim=1), targets, reduction="batchmean")

    def gained(self, matrix: Tensor, rows: Tensor) -> float:
        """How much more than the bridge a map ranks as both models together do, the sum over some queries."""
        right = first_found(self._taught(rows))
        learned, bridge = (
            average_overlap(first_found(self._scores(each, rows)), right).sum() for each in (matrix, self.mixed(0.0))
        )
        return float(learned - bridge)

    def mixed(self, share: float) -> Tensor:
        """The map (D, 2D) that adds a share of the query model's own ranking to the bridge."""
        identity = torch.eye(self.seen.shape[1] // 2, device=self.seen.device)
        return torch.cat([identity, share * identity], dim=1)

    def learned(self, rows: Tensor, seed: int) -> Tensor:
        """The averaged iterate (D, 2D) of a short run on some of the queries."""
        start = self.mixed(_SHARE)
        matrix, averaged = start.clone().requires_grad_(), start.clone()
        optimizer = torch.optim.AdamW([matrix], lr=_LEARNING_RATE, weight_decay=0.0)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(_STEPS):
            batch = rows[torch.randint(len(rows), (_BATCH_SIZE,), generator=generator).to(rows.device)]
            loss = self.loss(matrix, batch) + _PENALTY * (matrix - start).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.lerp_(matrix.detach(), 1 - _EMA_DECAY)
        return averaged

    def _scores(self, matrix: Tensor, rows: Tensor) -> Tensor:
        return self.seen[rows] @ matrix.T @ self.documents.theirs.T

    def _taught(self, rows: Tensor) -> Tensor:
        """The scores of both models, which count the same: (B, N), in units of their spread within a query."""
        queries = Twins(*(vectors[rows] for vectors in self.queries))
        ours, theirs = (_in_spreads(asked @ found.T) for asked, found in zip(queries, self.documents, strict=True))
        return _in_spreads(ours + theirs)


def taught_by_both(
    found: FittedBridge, queries: Twins, documents: Twins, *, seed: int = 0, show_progress_bar: bool = False
) -> FittedBridge | None:
    """A bridge that ranks documents as both models together do, without labels; None if it is no better at it.

    The query model's own similarities are those of a linear map of its queries, as far as a linear map of the
    documents' vectors gives its vectors of them: with ``d_ours = M d_theirs`` they are ``(M' q) d_theirs``. The bridge
    and ``M' q`` are mixed by a matrix that a short run finds (listwise distillation with a divergence from the softmax
    of the teachers' mean scores: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network"; Cao et
    al. 2007, "Learning to rank: from pairwise approach to listwise approach").

    Args:
        found: the bridge.
        queries: as ``fit_bridge`` had them.
        documents: at least 50, as the query model embeds documents, and as the index compares them.
        seed: of folds, as ``fit_bridge`` had it, and of batches.
        show_progress_bar: one step per fold, and one for the last run.

    Examples:
        >>> from st_adapter.fitting.bridges import fit_bridge
        >>> vectors = torch.nn.functional.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))
        >>> twins = Twins(vectors, vectors)
        >>> taught_by_both(fit_bridge(twins, None, normalize=True), twins, twins) is None
        True
    """
    plain = found.mapped_by_others
    if plain is None or not can_be_taught(found, documents):
        return None
    queries, documents = (Twins(*(vectors.float() for vectors in twins)) for twins in (queries, documents))
    queries = queries._replace(ours=found.bridge.seen(queries.ours))
    own = _own_ranking(documents)
    lesson, sizes = _Lesson.of(plain, queries.ours @ own.T, queries, documents)
    mapped, better = plain.clone(), 0.0
    folds = list(folds_of_texts(queries.ours, seed))
    with tqdm(total=len(folds) + 1, desc="Teaching the bridge", unit="fold", disable=not show_progress_bar) as progress:
        for train in folds:
            held = (~train).nonzero().squeeze(1)
            matrix = lesson.learned(train.nonzero().squeeze(1), seed)
            # As long as what the bridge gives: what is fitted behind it knows lengths.
            mapped[held] = lesson.seen[held] @ matrix.T * sizes[0]
            better += lesson.gained(matrix, held[:_MAX_MEASURED])
            progress.update()
        matrix = lesson.learned(torch.arange(len(mapped), device=mapped.device), seed)
        progress.update()
    if better <= 0:
        return None
    of_bridge, of_own = matrix.chunk(2, dim=1)
    return replace(
        found,
        bridge=_mixed(found.bridge, of_bridge, of_own @ own * (sizes[0] / sizes[1])),
        name=f"{found.name}, taught by both models' rankings",
        num_queries=len(queries.ours),
        num_documents=len(documents.ours),
        agreement=Agreement(queries.theirs[:_MAX_MEASURED], documents.theirs).of(mapped[:_MAX_MEASURED]),
        mapped_by_others=mapped,
    )


def can_be_taught(found: FittedBridge, documents: Twins | None) -> bool:
    """Whether there are queries that the bridge was fitted on, and documents that both models embedded."""
    return found.mapped_by_others is not None and documents is not None and len(documents.ours) >= MIN_TEXTS


def _size(vectors: Tensor) -> Tensor:
    """The root of the mean square length of (n, D) vectors."""
    return vectors.square().sum(dim=1).mean().sqrt().clamp_min(1e-6)


def _own_ranking(documents: Twins) -> Tensor:
    """The map (D, E) of the query model's queries to what ranks the index's vectors nearest to as it ranks its own."""
    ours, theirs = (vectors - vectors.mean(dim=0) for vectors in documents)
    return ridge_between(theirs.T @ theirs, ours.T @ theirs, _RIDGE).T


def _in_spreads(scores: Tensor) -> Tensor:
    """Scores (Q, N) less their mean, in units of their spread within the query."""
    centred = scores - scores.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)


def _mixed(bridge: Bridge, of_bridge: Tensor, of_vectors: Tensor) -> Bridge:
    """What a matrix (D, D) makes of what a bridge gives, and another (D, E) of the vectors that it takes."""
    matrix, bias = of_bridge @ bridge.matrix, of_bridge @ bridge.bias
    if bridge.units is None:
        return replace(bridge, matrix=matrix + of_vectors, bias=bias)
    return replace(bridge, matrix=matrix, bias=bias, beside=of_vectors)
