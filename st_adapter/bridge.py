"""Bridge: from the query vectors of one model into the space of another one, whose documents they are to find."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sentence_transformers.base.modules import Module, Normalize
from torch import Tensor, nn

from st_adapter.adapter import QueryAdapter, dense
from st_adapter.storage.tensors import check_finite


@dataclass(frozen=True, eq=False)
class Bridge:
    """An affine map ``y = W x + b`` from a query model's vectors x to those of the model that embedded the documents.

    The length of x plays no part: it changes no ranking, and a map is easier to find between directions.

    Attributes:
        matrix: W, (D, E), from E dimensions of the query model to D of the documents.
        bias: b, (D,).
        normalize: whether y is brought to unit length, as the documents' model brings its vectors.

    Example:
        >>> swap = Bridge(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.zeros(2), normalize=True)
        >>> swap(torch.tensor([[5.0, 0.0]])).tolist()
        [[0.0, 1.0]]
    """

    matrix: Tensor
    bias: Tensor
    normalize: bool

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.bias.shape != self.matrix.shape[:1]:
            raise ValueError(
                f"The bridge has a matrix of shape {tuple(self.matrix.shape)} and a bias of {tuple(self.bias.shape)}, "
                "but (D, E) and (D,) are expected. Pass the map from E dimensions of the query model to D."
            )
        for name, weights in (("matrix", self.matrix), ("bias", self.bias)):
            check_finite(f"The bridge's {name}", weights)

    def __repr__(self) -> str:
        return f"Bridge({self.input_dimension} -> {self.output_dimension} dimensions)"

    @property
    def input_dimension(self) -> int:
        """E, of the query model."""
        return int(self.matrix.shape[1])

    @property
    def output_dimension(self) -> int:
        """D, of the documents."""
        return int(self.matrix.shape[0])

    def __call__(self, query_embeddings: Tensor) -> Tensor:
        """Map (B, E) queries to (B, D).

        Raises:
            ValueError: they have another dimension.
        """
        if query_embeddings.shape[1:] != self.matrix.shape[1:]:
            raise ValueError(
                f"query_embeddings have shape {tuple(query_embeddings.shape)}, but this bridge expects (B, "
                f"{self.input_dimension}). Embed the queries with the query model that it was made for."
            )
        mapped = torch.addmm(self.bias, nn.functional.normalize(query_embeddings.float()), self.matrix.T)
        return nn.functional.normalize(mapped) if self.normalize else mapped

    def fold(self, adapter: QueryAdapter) -> list[Module]:
        """Bridge and adapter behind it as stock modules for the place behind the query model's last one.

        A linear adapter and the bridge are one ``Dense``, because what length the vectors have between the two does not
        change their direction in the end. Corrections near known queries depend on that length, so with these the
        ``Normalize`` between the two stays.

        Args:
            adapter: of D dimensions.

        Returns:
            New float32 modules in eval mode, equal to ``adapter.transform(bridge(x))`` up to rounding.
        """
        first, *rest = adapter.fold()
        if adapter.kind != "mlp" and not adapter.bias:
            weight = first.linear.weight.detach().double().cpu()
            rest = [dense(weight @ self.matrix.double().cpu(), weight @ self.bias.double().cpu(), nn.Identity()), *rest]
        else:
            between = [Normalize()] if self.normalize else []
            rest = [dense(self.matrix, self.bias, nn.Identity()), *between, first, *rest]
        return [module.to(self.matrix.device).eval() for module in (Normalize(), *rest)]

    def padded(self, dimension: int) -> Bridge:
        """The same with zeros behind its D dimensions up to ``dimension``, for documents that are truncated later."""
        missing = dimension - self.output_dimension
        return Bridge(
            nn.functional.pad(self.matrix, (0, 0, 0, missing)),
            nn.functional.pad(self.bias, (0, missing)),
            self.normalize,
        )
