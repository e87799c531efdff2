"""The maps of query vectors that a fit makes, before they become an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.fitting.closed_form import mix


class LocalUnits(NamedTuple):
    """Corrections near some queries: ``values relu(keys x - thresholds)``, nothing elsewhere.

    Attributes:
        keys: (H, D) directions.
        thresholds: (H,) from where on each is near.
        values: (D, H) what each adds.
    """

    keys: Tensor
    thresholds: Tensor
    values: Tensor

    def features(self, queries: Tensor) -> Tensor:
        """How near (B, D) queries are to each key: (B, H), 0 beyond its threshold."""
        return torch.addmm(-self.thresholds, queries, self.keys.T).relu_()


class QueryMap(NamedTuple):
    """A map of query vectors as the base model gives them: ``y = W x``, or ``y = W x + V relu(K x - t)``.

    Attributes:
        matrix: W, (D, D).
        units: what is added near queries that were asked before; None for a linear map.
    """

    matrix: Tensor
    units: LocalUnits | None = None

    def __call__(self, queries: Tensor) -> Tensor:
        """Map (B, D) queries."""
        mapped = queries @ self.matrix.T
        if self.units is not None:
            mapped = torch.addmm(mapped, self.units.features(queries), self.units.values.T)
        return mapped


def averaged(maps: Sequence[QueryMap], shares: Sequence[float]) -> QueryMap:
    """The mean of maps, each shrunk towards the identity by its share: again one map, with the units of all."""
    matrix = torch.stack([mix(each.matrix, share) for each, share in zip(maps, shares, strict=True)]).mean(dim=0)
    units = [
        each.units._replace(values=each.units.values * (share / len(maps)))
        for each, share in zip(maps, shares, strict=True)
        if each.units is not None
    ]
    if not units:
        return QueryMap(matrix)
    keys, thresholds, values = zip(*units, strict=True)
    return QueryMap(matrix, LocalUnits(torch.cat(keys), torch.cat(thresholds), torch.cat(values, dim=1)))


def as_adapter(fitted: QueryMap, normalized: bool, base_model: EncoderIdentity | None = None) -> QueryAdapter:
    """A map as an adapter: ``linear``, or with units an ``mlp`` of ReLU, in which ``relu(x) - relu(-x)`` carries x."""
    matrix, units = fitted
    adapter = (
        QueryAdapter.from_matrix(matrix, normalized, base_model)
        if units is None
        else _with_units(matrix, units, normalized, base_model)
    )
    adapter.to(matrix.device)
    return adapter


def _with_units(
    matrix: Tensor, units: LocalUnits, normalized: bool, base_model: EncoderIdentity | None
) -> QueryAdapter:
    identity = torch.eye(len(matrix), device=matrix.device)
    change = matrix - identity
    adapter = QueryAdapter(
        len(matrix),
        kind="mlp",
        hidden_dim=2 * len(matrix) + len(units.keys),
        activation="relu",
        bias=True,
        normalize=normalized,
        base_model=base_model,
    )
    with torch.no_grad():
        adapter.down.copy_(torch.cat([identity, -identity, units.keys]))
        adapter.up.copy_(torch.cat([change, -change, units.values], dim=1))
        adapter.hidden_bias[2 * len(matrix) :] = -units.thresholds
    return adapter
