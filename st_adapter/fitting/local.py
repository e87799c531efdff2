"""Corrections near queries that were asked before, solved for."""

from __future__ import annotations

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Corpus
from st_adapter.fitting.maps import LocalUnits, QueryMap
from st_adapter.fitting.pairs import LabelledPairs

# Keys at most: more make the adapter larger than they make it better.
_MAX_KEYS = 2048


class LocalFit:
    """Solve for what a linear map still misses near the training queries, and leave all other queries alone.

    A query is near another one if, seen from the mean of all, the cosine of the two exceeds a threshold; how near is
    one feature for each training query (of more than 2,048 a random part, the landmarks of Williams & Seeger 2001,
    "Using the Nyström method to speed up kernel machines"). Ridge regression on these features predicts the difference
    between the relevant documents of a query and where the linear map takes it. It is a network of radial units (Moody
    & Darken 1989, "Fast learning in networks of locally-tuned processing units") with one hidden layer of ReLU, so
    that stock modules can hold it. Seen from the mean, thresholds mean the same for every base model, however narrow
    the cone that its vectors lie in.

    Args:
        pairs: P relevant pairs.
        corpus: the documents; only those of the pairs are looked at.
    """

    def __init__(self, pairs: LabelledPairs, corpus: Corpus) -> None:
        self._queries = pairs.queries
        self._lengths = self._queries.norm(dim=1, keepdim=True)  # (Q, 1)
        documents = torch.nn.functional.normalize(corpus.rows(pairs.documents)) * pairs.weights.unsqueeze(1)
        targets = torch.zeros_like(self._queries).index_add_(0, pairs.rows, documents)
        self._targets = torch.nn.functional.normalize(targets) * self._lengths
        self._predictions: dict[tuple[float, float], tuple[LocalUnits, Tensor]] = {}

    def on(self, matrix: Tensor, threshold: float, ridge: float, share: float) -> QueryMap:
        """The linear map with corrections.

        Args:
            matrix: (D, D), applied as ``q @ W.T``; its scale does not matter.
            threshold: cosine from the mean from which on a query is near, 0 <= threshold < 1.
            ridge: > 0; the larger, the smaller the corrections. A query with no other one near it is taken
                ``1 / (1 + ridge)`` of the way to its documents.
            share: of the corrections that is made, 0-1.
        """
        units, predicted = self._predicted(threshold, ridge)
        mapped_length = (self._queries @ matrix.T).norm(dim=1).mean().clamp_min(1e-12)
        matrix = matrix * (self._lengths.mean() / mapped_length)
        targets, queries = predicted.chunk(2, dim=1)  # (H, D) each
        # What predicts the difference of two things is the difference of what predicts each.
        values = targets - queries @ matrix.T
        return QueryMap(matrix, units._replace(values=values.T * share))

    def _predicted(self, threshold: float, ridge: float) -> tuple[LocalUnits, Tensor]:
        """The units but for their values, and those (H, 2 D) that predict documents and queries, side by side."""
        if (threshold, ridge) not in self._predictions:
            units = self._units(threshold)
            features = units.features(self._queries)  # (Q, H)
            penalty = ridge * torch.eye(features.shape[1], device=features.device)
            wanted = torch.cat([self._targets, self._queries], dim=1)
            factor = torch.linalg.cholesky(features.T @ features + penalty)
            self._predictions[threshold, ridge] = units, torch.cholesky_solve(features.T @ wanted, factor)
        return self._predictions[threshold, ridge]

    def _units(self, threshold: float) -> LocalUnits:
        mean = self._queries.mean(dim=0)
        centred = self._queries - mean
        radius = centred.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
        if len(centred) > _MAX_KEYS:
            drawn = torch.randperm(len(centred), generator=torch.Generator().manual_seed(0))[:_MAX_KEYS]
            centred = centred[drawn.to(centred.device)]
        keys = torch.nn.functional.normalize(centred) / (radius * (1 - threshold))
        return LocalUnits(keys, keys @ mean + threshold / (1 - threshold), keys.new_zeros(keys.T.shape))
