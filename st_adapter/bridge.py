"""Bridge: from the query vectors of one model into the space of another one, whose documents they are to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from sentence_transformers.base.modules import Module, Normalize
from torch import Tensor, nn

from st_adapter.adapter import QueryAdapter, dense
from st_adapter.storage.tensors import check_finite

# Queries that are mapped at once: each is a row of all units.
_BLOCK_ROWS = 2**14
# Times what goes through softplus unchanged: small numbers would be lost beside log 2 in half precision.
_CARRIED = 20.0


class RadialUnits(NamedTuple):
    """How near a direction is to each of H known ones: ``log(1 + exp(-s |x - c|²))``, a bump around each centre c.

    Between directions that is ``softplus(2 s c'x - 2 s)``, a layer that Sentence Transformers has. ``exp`` itself, the
    usual radial basis function, is none, and is nearly the same further out.

    Attributes:
        centres: (H, E) directions of the query model.
        scale: s > 0: how narrow the bumps are.

    References:
        Broomhead & Lowe 1988, "Multivariable functional interpolation and adaptive networks".
    """

    centres: Tensor
    scale: float

    def __call__(self, directions: Tensor) -> Tensor:
        """(B, E) directions to (B, H)."""
        return nn.functional.softplus(torch.addmm(self.bias, directions, self.weight.T))

    @property
    def weight(self) -> Tensor:
        """Of the layer, (H, E)."""
        return 2 * self.scale * self.centres

    @property
    def bias(self) -> Tensor:
        """Of the layer, (H,)."""
        return self.centres.new_full((len(self.centres),), -2 * self.scale)


@dataclass(frozen=True, eq=False)
class Bridge:
    """A map ``y = W h(x) + L x + b`` from a query model's vectors x to those of the model that embedded the documents.

    The length of x plays no part, usually: it changes no ranking, and a map is easier to find between directions.

    Attributes:
        matrix: W, (D, E) from E dimensions of the query model to D of the documents, or (D, H) from H units.
        bias: b, (D,).
        normalize: whether y is brought to unit length, as the documents' model brings its vectors.
        units: h; None where it is the direction of x, so that the map is affine.
        of_length: whether h is x itself, of any length: what a mean of token vectors takes for the map to be one of
            these vectors. There are no units then, and as the mean of no token is 0, y is 0 where x is.
        beside: L, (D, E), beside units; None without any, as W is such a matrix itself, or for nothing.

    Examples:
        >>> swap = Bridge(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.zeros(2), normalize=True)
        >>> swap(torch.tensor([[5.0, 0.0]])).tolist()
        [[0.0, 1.0]]
    """

    matrix: Tensor
    bias: Tensor
    normalize: bool
    units: RadialUnits | None = None
    of_length: bool = False
    beside: Tensor | None = None

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.bias.shape != self.matrix.shape[:1]:
            raise ValueError(
                f"The bridge has a matrix of shape {tuple(self.matrix.shape)} and a bias of {tuple(self.bias.shape)}, "
                "but (D, E) and (D,) are expected. Pass the map from E dimensions of the query model, or from as many "
                "units, to D."
            )
        parts = {"matrix": self.matrix, "bias": self.bias}
        if self.units is not None:
            if self.of_length:
                raise ValueError(
                    "The bridge has units and is one of vectors of any length, but how near a vector is to a known one "
                    "is told of directions. Leave out of_length, or the units."
                )
            parts["centres"] = self.units.centres
            if self.matrix.shape[1] != len(self.units.centres):
                raise ValueError(
                    f"The bridge has a matrix of shape {tuple(self.matrix.shape)} and {len(self.units.centres)} units, "
                    "but a column for each of them is expected. Pass a matrix of shape (D, H)."
                )
        if self.beside is not None:
            expected = (self.output_dimension, self.input_dimension)
            if self.units is None or self.beside.shape != expected:
                raise ValueError(
                    f"The bridge has a matrix of shape {tuple(self.beside.shape)} beside its units, but one of "
                    f"{expected} is expected, and none without units. Pass it as matrix where there are no units."
                )
            parts["matrix beside units"] = self.beside
        for name, weights in parts.items():
            check_finite(f"The bridge's {name}", weights)

    def __repr__(self) -> str:
        return f"Bridge({self.input_dimension} -> {self.output_dimension} dimensions)"

    @property
    def input_dimension(self) -> int:
        """E, of the query model."""
        return int((self.matrix if self.units is None else self.units.centres).shape[1])

    @property
    def output_dimension(self) -> int:
        """D, of the documents."""
        return int(self.matrix.shape[0])

    def __call__(self, query_embeddings: Tensor) -> Tensor:
        """Map (B, E) queries to (B, D).

        Raises:
            ValueError: they have another dimension.
        """
        if query_embeddings.shape[1:] != (self.input_dimension,):
            raise ValueError(
                f"query_embeddings have shape {tuple(query_embeddings.shape)}, but this bridge expects (B, "
                f"{self.input_dimension}). Embed the queries with the query model that it was made for."
            )
        mapped = self.before_length(query_embeddings)
        return nn.functional.normalize(mapped) if self.normalize else mapped

    def seen(self, query_embeddings: Tensor) -> Tensor:
        """What of (B, E) queries is mapped: their directions, or themselves."""
        return query_embeddings.float() if self.of_length else nn.functional.normalize(query_embeddings.float())

    def before_length(self, query_embeddings: Tensor) -> Tensor:
        """Map (B, E) queries to (B, D), before these are brought to unit length."""
        seen = self.seen(query_embeddings)
        mapped = torch.cat([self._mapped(block) for block in seen.split(_BLOCK_ROWS)])
        return mapped * seen.any(dim=1, keepdim=True) if self.of_length else mapped

    def _mapped(self, seen: Tensor) -> Tensor:
        mapped = torch.addmm(self.bias, seen if self.units is None else self.units(seen), self.matrix.T)
        return mapped if self.beside is None else torch.addmm(mapped, seen, self.beside.T)

    def fold(self, adapter: QueryAdapter) -> list[Module]:
        """Bridge and adapter behind it as stock modules for the place behind the query model's last one.

        A linear adapter and the matrix are one ``Dense``, because what length the vectors have between the two does not
        change their direction in the end. Corrections near known queries depend on that length, so with these the
        ``Normalize`` between the two stays.

        Args:
            adapter: of D dimensions.

        Returns:
            New float32 modules in eval mode, equal to ``adapter.transform(bridge(x))`` up to rounding.
        """
        first, *rest = adapter.fold()
        units, matrix = self._units_and_matrix()
        if adapter.kind != "mlp" and not adapter.bias:
            weight = first.linear.weight.detach().double().cpu()
            rest = [dense(weight @ matrix.double().cpu(), weight @ self.bias.double().cpu(), nn.Identity()), *rest]
        else:
            between = [Normalize()] if self.normalize else []
            rest = [dense(matrix, self.bias, nn.Identity()), *between, first, *rest]
        before = [] if self.of_length else [Normalize()]
        return [module.to(self.matrix.device).eval() for module in (*before, *units, *rest)]

    def _units_and_matrix(self) -> tuple[list[Module], Tensor]:
        """The layer of units, if there are any, and the matrix behind it.

        What is linear beside them goes through it as ``softplus(z) - softplus(-z)``, which is z.
        """
        if self.units is None:
            return [], self.matrix
        weight, bias, matrix = self.units.weight, self.units.bias, self.matrix
        if self.beside is not None:
            identity = torch.eye(self.output_dimension, device=matrix.device) / _CARRIED
            weight = torch.cat([weight, _CARRIED * self.beside, -_CARRIED * self.beside])
            bias = nn.functional.pad(bias, (0, 2 * self.output_dimension))
            matrix = torch.cat([matrix, identity, -identity], dim=1)
        return [dense(weight, bias, nn.Softplus())], matrix

    def padded(self, dimension: int) -> Bridge:
        """The same with zeros behind its D dimensions up to ``dimension``, for documents that are truncated later."""
        missing = dimension - self.output_dimension
        return Bridge(
            nn.functional.pad(self.matrix, (0, 0, 0, missing)),
            nn.functional.pad(self.bias, (0, missing)),
            self.normalize,
            self.units,
            self.of_length,
            None if self.beside is None else nn.functional.pad(self.beside, (0, 0, 0, missing)),
        )
