"""QueryAdapter: the only trainable weights, a residual map over the embeddings of queries."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sentence_transformers.base.modules import Dense, Module, Normalize
from torch import Tensor, nn

from st_adapter.choices import check_choice, check_whole
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.storage.adapters import StoredAdapter
from st_adapter.storage.tensors import check_finite

Kind = Literal["linear", "low_rank", "mlp"]
Activation = Literal["gelu", "relu", "silu"]

# Each g satisfies g(x) - g(-x) = x, which is what lets fold() carry the residual through two stock Dense modules.
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class QueryAdapter(StoredAdapter):
    """Residual adapter on the query side of a frozen base model; documents pass through untouched.

    With ``x`` the base model's query embedding (D,):

    - ``linear``: ``y = x + delta x``, ``delta`` (D, D).
    - ``low_rank``: ``y = x + up (down x)``, ``down`` (R, D) and ``up`` (D, R).
    - ``mlp``: ``y = x + up act(down x)``, ``down`` (H, D) and ``up`` (D, H); the only kind that is not affine.

    ``delta`` and ``up`` start at zero, so a fresh adapter returns its input bit for bit. It acts on
    ``features["sentence_embedding"]``, and only for ``task="query"``: what ``encode_query`` passes. As a module it
    works with ``model.append(adapter)`` and ``model.save(...)``; such a repository names this class, so opening it
    takes ``trust_remote_code=True`` and this package. ``st_adapter.save_pretrained`` writes one of stock modules;
    ``save_adapter`` and ``push_adapter`` write the adapter alone (about 1 MB), which ``from_pretrained`` opens.

    Args:
        embedding_dimension: D, the dimension of the base model's embeddings; at least 1.
        kind: ``"linear"``, ``"low_rank"`` or ``"mlp"``.
        rank: R of ``low_rank``, 1 <= R <= D; the other kinds ignore it.
        hidden_dim: H of ``mlp``, at least 1; the other kinds ignore it.
        activation: Of ``mlp``: ``"gelu"`` (exact), ``"relu"`` or ``"silu"``; the other kinds ignore it.
        bias: Add a bias to the output, and in ``mlp`` to the hidden layer; both start at zero. Off by default: some
            serving stacks skip the ``Normalize`` before a ``Dense``, which is exact only without a bias.
        normalize: Rescale ``y`` to the length of ``x``, so that unit vectors stay unit. Switch it off for a base model
            whose vectors are not of unit length.
        base_model: The model that it is for (``identity_of(model)``), or the same as a dict; ``attach`` then refuses
            any other. ``fit`` and ``AdapterTrainer`` set it. None binds the adapter to nothing.

    Raises:
        ValueError: an argument is outside what is described above.

    Examples:
        >>> adapter = QueryAdapter(2, kind="linear")
        >>> adapter.transform(torch.tensor([[0.6, 0.8]])).tolist() == torch.tensor([[0.6, 0.8]]).tolist()
        True
        >>> swap = QueryAdapter.from_matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> swap.transform(np.array([[1.0, 0.0]]))
        array([[0., 1.]], dtype=float32)
    """

    # As version 0.1 wrote it, so the two dimensions, equal today, are one number in a file.
    config_keys: list[str] = [
        *("embedding_dimension", "kind", "rank", "hidden_dim", "activation", "bias", "normalize", "base_model")
    ]
    forward_kwargs: set[str] = {"task"}

    def __init__(
        self,
        embedding_dimension: int,
        kind: Kind = "linear",
        rank: int = 32,
        hidden_dim: int = 128,
        activation: Activation = "gelu",
        bias: bool = False,
        normalize: bool = True,
        base_model: EncoderIdentity | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_whole("embedding_dimension", embedding_dimension)
        check_choice("kind", kind, get_args(Kind))
        check_choice("activation", activation, get_args(Activation))
        check_whole("rank", rank)
        check_whole("hidden_dim", hidden_dim)
        check_choice("bias", bias, (True, False))
        check_choice("normalize", normalize, (True, False))
        if kind == "low_rank" and rank > embedding_dimension:
            raise ValueError(
                f"rank is {rank}, but a low_rank adapter of {embedding_dimension} dimensions expects a rank of at most "
                f"{embedding_dimension}. Lower the rank, or use kind='linear'."
            )
        self.input_dimension = self.output_dimension = embedding_dimension
        self.kind = kind
        self.rank = rank
        self.hidden_dim = hidden_dim
        self.activation = activation
        self.bias = bias
        self.normalize = normalize
        described = base_model if isinstance(base_model, EncoderIdentity) or base_model is None else None
        self.base_model = described if base_model is described else EncoderIdentity.from_dict(base_model)

        if kind == "linear":
            self.delta = nn.Parameter(torch.zeros(self.output_dimension, self.input_dimension))
        else:
            inner = rank if kind == "low_rank" else hidden_dim
            self.down = nn.Parameter(torch.empty(inner, self.input_dimension))
            self.up = nn.Parameter(torch.zeros(self.output_dimension, inner))
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as nn.Linear starts its weight
        if bias:
            self.output_bias = nn.Parameter(torch.zeros(self.output_dimension))
            if kind == "mlp":
                self.hidden_bias = nn.Parameter(torch.zeros(hidden_dim))
        self._activation_function = _ACTIVATIONS[activation]() if kind == "mlp" else nn.Identity()

    def __repr__(self) -> str:
        sizes = {"linear": "", "low_rank": f"rank {self.rank}, ", "mlp": f"{self.hidden_dim} hidden units, "}
        dimensions = f"{self.input_dimension} -> {self.output_dimension} dimensions"
        count = sum(parameter.numel() for parameter in self.parameters())
        bound = "no model" if self.base_model is None else repr(self.base_model.name)
        return f"QueryAdapter({self.kind}, {sizes[self.kind]}{dimensions}, {count:,} parameters, bound to {bound})"

    @classmethod
    def from_matrix(
        cls, matrix: Tensor, normalize: bool = True, base_model: EncoderIdentity | None = None
    ) -> QueryAdapter:
        """Linear adapter ``y = matrix x``, rescaled to the length of ``x`` when ``normalize``.

        Args:
            matrix: (D, D), floating point, finite; for instance the solution of a least-squares problem.
            normalize: As in the constructor.
            base_model: As in the constructor.

        Returns:
            An adapter of kind ``linear`` without bias, in float32, equal to the matrix product up to rounding.

        Raises:
            ValueError: ``matrix`` is not square, not floating point or not finite.
        """
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
            raise ValueError(
                f"matrix has shape {tuple(matrix.shape)}, but a linear adapter expects a square one (D, D). "
                "Pass the matrix that maps a query embedding of the base model to the adapted one."
            )
        if not matrix.is_floating_point():
            raise ValueError(
                f"matrix is {matrix.dtype}, but a linear adapter expects floating point. Pass matrix.float()."
            )
        check_finite("matrix", matrix)
        adapter = cls(matrix.shape[0], kind="linear", normalize=normalize, base_model=base_model)
        adapter.set_matrix(matrix)
        return adapter

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Adapt ``features["sentence_embedding"]`` (B, D) for ``task="query"``; any other task changes nothing."""
        if task == "query":
            if "sentence_embedding" not in features:
                raise ValueError(
                    f"features have the keys {sorted(features)}, but an adapter expects 'sentence_embedding'. "
                    "Append it after the module that pools the tokens."
                )
            features["sentence_embedding"] = self.transform(features["sentence_embedding"])
        return features

    @overload
    def transform(self, query_embeddings: Tensor) -> Tensor: ...

    @overload
    def transform(self, query_embeddings: ArrayLike) -> NDArray[np.float32]: ...

    def transform(self, query_embeddings: Tensor | ArrayLike) -> Tensor | NDArray[np.float32]:
        """What ``forward`` does for a query, on plain tensors or arrays.

        Args:
            query_embeddings: (B, D) floating point, as the base model gives them; a tensor on the adapter's device, or
                an array or lists. Half precision is computed in the adapter's own dtype.

        Returns:
            (B, D): a tensor of the input's dtype, differentiable in the weights, or, of an array, a float32 array. With
            ``normalize``, row i has the length of input row i.

        Raises:
            ValueError: not a floating-point matrix with D columns.
        """
        if isinstance(query_embeddings, Tensor):
            return self._transform(query_embeddings)
        given = np.asarray(query_embeddings)
        given = given.astype(np.float32) if given.dtype.kind == "f" else given
        with torch.no_grad():
            return self._transform(torch.as_tensor(given, device=next(self.parameters()).device)).cpu().numpy()

    def _transform(self, query_embeddings: Tensor) -> Tensor:
        fits = query_embeddings.ndim == 2 and query_embeddings.shape[1] == self.input_dimension
        if not fits or not query_embeddings.is_floating_point():
            raise ValueError(
                f"query_embeddings have shape {tuple(query_embeddings.shape)} and dtype {query_embeddings.dtype}, but "
                f"this adapter expects floating point of shape (B, {self.input_dimension}). Embed the queries with "
                "the base model that the adapter was made for."
            )
        # A copy of what inference mode made is as any other tensor, and can be differentiated through.
        x = query_embeddings.to(next(self.parameters()).dtype, copy=query_embeddings.is_inference())
        y = self.project(x)
        if self.normalize:
            input_length = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # (B, 1)
            length = torch.linalg.vector_norm(y, dim=1, keepdim=True)
            # A ratio of exactly 1 for an untrained adapter, where dividing by the length would shift the last bit.
            y = y * (input_length / length.masked_fill(length == 0, 1.0))
        return y.to(query_embeddings.dtype)

    def project(self, x: Tensor) -> Tensor:
        """The residual map itself, without rescaling: (B, D) in the adapter's dtype -> (B, D)."""
        if self.kind == "linear":
            change = x @ self.delta.T
        else:
            hidden = x @ self.down.T  # (B, R) or (B, H)
            if self.kind == "mlp" and self.bias:
                hidden = hidden + self.hidden_bias
            change = self._activation_function(hidden) @ self.up.T
        if self.bias:
            change = change + self.output_bias
        return x + change

    def set_matrix(self, matrix: Tensor) -> None:
        """Make ``project`` the linear map ``matrix x``, or as close to it as this kind and its size can come.

        A ``low_rank`` adapter takes the leading singular directions of ``matrix - I``. So does an ``mlp``, each in two
        hidden units of opposite sign, since ``g(x) - g(-x) = x`` for its activations.

        Args:
            matrix: (D, D), floating point.
        """
        change = matrix.detach().to("cpu", torch.float64) - torch.eye(self.input_dimension, dtype=torch.float64)
        with torch.no_grad():
            if self.bias:
                self.output_bias.zero_()
            if self.kind == "linear":
                self.delta.copy_(change)
                return
            left, singular, right = torch.linalg.svd(change)
            root = singular.sqrt()
            up, down = left * root, root.unsqueeze(1) * right
            if self.kind == "mlp":
                up, down = torch.cat([up, -up], dim=1), torch.cat([down, -down])
                half = min(self.hidden_dim // 2, self.input_dimension)
                kept = torch.cat([torch.arange(half), self.input_dimension + torch.arange(half)])
                self.up[:, 2 * half :] = 0.0
                self.up[:, : 2 * half].copy_(up[:, kept])
                self.down[: 2 * half].copy_(down[kept])
                if self.bias:
                    self.hidden_bias.zero_()
            else:
                self.up.copy_(up[:, : self.rank])
                self.down.copy_(down[: self.rank])

    def distance(self) -> Tensor:
        """Squared Frobenius norm of the change the adapter makes: 0 for the identity; a penalty for training.

        Of ``delta`` for ``linear``, of ``up @ down`` for the other two (for ``mlp`` a stand-in that ignores the
        activation).
        """
        if self.kind == "linear":
            return self.delta.square().sum()
        return ((self.up.T @ self.up) * (self.down @ self.down.T)).sum()

    def fold(self) -> list[Module]:
        """The same map as stock Sentence Transformers modules: ``Dense`` [, ``Dense``] [, ``Normalize``].

        ``linear`` and ``low_rank`` become one ``Dense`` with weight ``I + change``. ``mlp`` becomes two: the hidden
        layer also carries ``x`` and ``-x`` through the activation, and since ``g(x) - g(-x) = x`` for ReLU, GELU and
        SiLU, the second one restores the residual exactly.

        Returns:
            New float32 modules on the adapter's device, in eval mode; a copy, which later training does not reach.
            With ``normalize`` a ``Normalize`` ends the list, which equals ``transform`` for unit vectors; without it
            the list equals ``transform`` for any vectors.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        self.check_weights()
        weights = {name: parameter.detach().to("cpu", torch.float64) for name, parameter in self.named_parameters()}
        identity = torch.eye(self.input_dimension, dtype=torch.float64)
        bias = weights.get("output_bias")
        if self.kind == "mlp":
            carried = torch.cat([weights["down"], identity, -identity])  # (H + 2D, D)
            hidden_bias = weights.get("hidden_bias")
            if hidden_bias is not None:
                hidden_bias = torch.cat([hidden_bias, torch.zeros(2 * self.input_dimension, dtype=torch.float64)])
            restored = torch.cat([weights["up"], identity, -identity], dim=1)  # (D, H + 2D)
            modules = [
                dense(carried, hidden_bias, _ACTIVATIONS[self.activation]()),
                dense(restored, bias, nn.Identity()),
            ]
        else:
            change = weights["delta"] if self.kind == "linear" else weights["up"] @ weights["down"]
            modules = [dense(identity + change, bias, nn.Identity())]
        if self.normalize:
            modules.append(Normalize())
        device = next(self.parameters()).device
        return [module.to(device).eval() for module in modules]

    def get_embedding_dimension(self) -> int:
        """The dimension of what goes out: the hook by which Sentence Transformers asks a module."""
        return self.output_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments as plain values."""
        plain = {key: getattr(self, key) for key in self.config_keys if hasattr(self, key)}
        base_model = None if self.base_model is None else self.base_model.to_dict()
        return {"embedding_dimension": self.input_dimension, **plain, "base_model": base_model}

    def padded(self, dimension: int) -> QueryAdapter:
        """The same map on the first D of ``dimension`` dimensions; the others pass through.

        For base models that truncate their embeddings after their last module: what it changes is what is kept.
        """
        if dimension == self.input_dimension:
            return self
        padded = QueryAdapter(**{**self.get_config_dict(), "embedding_dimension": dimension})
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                wide = padded.get_parameter(name)
                wide.zero_()
                wide[tuple(slice(0, size) for size in parameter.shape)] = parameter
        padded.to(next(self.parameters()).device)
        return padded

    def check_weights(self) -> None:
        """Raise ValueError if a weight is NaN or infinite."""
        for name, parameter in self.named_parameters():
            check_finite(f"the adapter's {name}", parameter, "Training diverged: lower the learning rate.")


def dense(weight: Tensor, bias: Tensor | None, activation_function: nn.Module) -> Dense:
    """A stock ``Dense`` of given weights, (out, in) and (out,); the random state of a training run stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return Dense(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            activation_function=activation_function,
            init_weight=weight.float(),
            init_bias=None if bias is None else bias.float(),
        )
