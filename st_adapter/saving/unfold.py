"""The way back from ``QueryAdapter.fold``: the adapter that the modules of a query route are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Module, Normalize
from torch import Tensor, nn

from st_adapter.adapter import Activation, QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity

_ACTIVATIONS: Mapping[type[nn.Module], Activation] = {nn.GELU: "gelu", nn.ReLU: "relu", nn.SiLU: "silu"}


def stock_modules(modules: Sequence[Module]) -> list[Module]:
    """The modules that ``detach`` gives as they were folded, also of a model that truncates what comes out of them."""
    return [inner for module in modules for inner in getattr(module, "query_modules", [module])]


def unfold(modules: Sequence[Module], base_model: EncoderIdentity) -> QueryAdapter:
    """The adapter that stock modules are; a ``low_rank`` one comes back as ``linear``.

    Args:
        modules: what ``detach`` gives besides the base model.
        base_model: what they are for, which may truncate its embeddings.

    Raises:
        ValueError: they are of another making.

    Examples:
        >>> swap = QueryAdapter.from_matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> unfold(swap.fold(), EncoderIdentity.unknown(2, normalized=True)).delta.tolist()
        [[-1.0, 1.0], [1.0, -1.0]]
    """
    stock = stock_modules(modules)
    normalize = isinstance(stock[-1], Normalize)
    layers = [module for module in stock if isinstance(module, Dense)]
    weights = [layer.linear.weight.detach().float().cpu() for layer in layers]
    biases = [None if layer.linear.bias is None else layer.linear.bias.detach().float().cpu() for layer in layers]
    bias = biases[-1] if layers else None
    kept = base_model.dimension
    given: dict[str, Any] = {"bias": bias is not None, "normalize": normalize, "base_model": base_model}
    if len(stock) - normalize != len(layers) or any(layer.use_residual for layer in layers):
        raise _of_another_making(stock)
    if len(layers) == 1 and isinstance(layers[0].activation_function, nn.Identity):
        parameters = {"delta": (weights[0] - torch.eye(len(weights[0])))[:kept, :kept]}
        adapter = QueryAdapter(kept, **given)
    elif len(layers) == 2 and _carries_queries(*weights) and type(layers[0].activation_function) in _ACTIVATIONS:
        hidden = len(weights[0]) - 2 * len(weights[1])
        parameters = {"down": weights[0][:hidden, :kept], "up": weights[1][:kept, :hidden]}
        if biases[0] is not None:
            parameters["hidden_bias"] = biases[0][:hidden]
        activation = _ACTIVATIONS[type(layers[0].activation_function)]
        adapter = QueryAdapter(kept, "mlp", hidden_dim=hidden, activation=activation, **given)
    else:
        raise _of_another_making(stock)
    if bias is not None:
        parameters["output_bias"] = bias[:kept]
    adapter.load_state_dict(parameters)
    return adapter


def _carries_queries(first: Tensor, second: Tensor) -> bool:
    """Whether two layers carry a query through in their last hidden units, as ``fold`` has them do."""
    dimension = len(second)
    carried = torch.cat([torch.eye(dimension), -torch.eye(dimension)])
    inside = first.shape[1] == dimension and len(first) > 2 * dimension and second.shape[1] == len(first)
    return (
        inside and torch.equal(first[-2 * dimension :], carried) and torch.equal(second[:, -2 * dimension :], carried.T)
    )


def _of_another_making(modules: Sequence[Module]) -> ValueError:
    return ValueError(
        f"The modules for queries are {[type(module).__name__ for module in modules]}, but those of an adapter are "
        "expected: Dense, once or twice, and Normalize. Pass a model that st-adapter attached an adapter to."
    )
