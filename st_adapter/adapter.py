"""QueryAdapter: the only trainable weights, a residual map over the embeddings of queries."""

from __future__ import annotations

import json
import math
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from sentence_transformers.base.modules import Dense, Module, Normalize
from torch import Tensor, nn

Kind = Literal["linear", "low_rank", "mlp"]
Activation = Literal["gelu", "relu", "silu"]

# Each g satisfies g(x) - g(-x) = x, which is what lets fold() carry the residual through two stock Dense modules.
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class QueryAdapter(Module):  # type: ignore[misc]  # sentence_transformers is untyped, so its Module is Any
    """Residual adapter on the query side of a frozen base model; documents pass through untouched.

    With ``x`` the base model's query embedding (D,):

    - ``linear``: ``y = x + delta x``, ``delta`` (D, D).
    - ``low_rank``: ``y = x + up (down x)``, ``down`` (R, D) and ``up`` (D, R).
    - ``mlp``: ``y = x + up act(down x)``, ``down`` (H, D) and ``up`` (D, H); the only kind that is not affine.

    ``delta`` and ``up`` start at zero, so a fresh adapter returns its input bit for bit. It acts on
    ``features["sentence_embedding"]``, and only for ``task="query"``: what ``encode_query`` passes. As a module it
    works with ``model.append(adapter)`` and ``model.save(...)``; such a repository names this class, so opening it
    takes ``trust_remote_code=True`` and this package. ``save_pretrained`` in model.py writes one of stock modules.

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

    Raises:
        ValueError: an argument is outside what is described above.

    Example:
        >>> adapter = QueryAdapter(2, kind="linear")
        >>> adapter.transform(torch.tensor([[0.6, 0.8]])).tolist() == torch.tensor([[0.6, 0.8]]).tolist()
        True
        >>> swap = QueryAdapter.from_matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> swap.transform(torch.tensor([[1.0, 0.0]])).tolist()
        [[0.0, 1.0]]
    """

    config_keys: list[str] = ["embedding_dimension", "kind", "rank", "hidden_dim", "activation", "bias", "normalize"]
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
    ) -> None:
        super().__init__()
        _check_whole("embedding_dimension", embedding_dimension)
        _check_choice("kind", kind, get_args(Kind))
        _check_choice("activation", activation, get_args(Activation))
        _check_whole("rank", rank)
        _check_whole("hidden_dim", hidden_dim)
        _check_choice("bias", bias, (True, False))
        _check_choice("normalize", normalize, (True, False))
        if kind == "low_rank" and rank > embedding_dimension:
            raise ValueError(
                f"rank is {rank}, but a low_rank adapter of {embedding_dimension} dimensions expects a rank of at most "
                f"{embedding_dimension}. Lower the rank, or use kind='linear'."
            )
        self.embedding_dimension = embedding_dimension
        self.kind = kind
        self.rank = rank
        self.hidden_dim = hidden_dim
        self.activation = activation
        self.bias = bias
        self.normalize = normalize

        if kind == "linear":
            self.delta = nn.Parameter(torch.zeros(embedding_dimension, embedding_dimension))
        else:
            inner = rank if kind == "low_rank" else hidden_dim
            self.down = nn.Parameter(torch.empty(inner, embedding_dimension))
            self.up = nn.Parameter(torch.zeros(embedding_dimension, inner))
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as nn.Linear starts its weight
        if bias:
            self.output_bias = nn.Parameter(torch.zeros(embedding_dimension))
            if kind == "mlp":
                self.hidden_bias = nn.Parameter(torch.zeros(hidden_dim))
        self._activation_function = _ACTIVATIONS[activation]() if kind == "mlp" else nn.Identity()

    @classmethod
    def from_matrix(cls, matrix: Tensor, normalize: bool = True) -> QueryAdapter:
        """Linear adapter ``y = matrix x``, rescaled to the length of ``x`` when ``normalize``.

        Args:
            matrix: (D, D), floating point, finite; for instance the solution of a least-squares problem.
            normalize: As in the constructor.

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
        _check_finite("matrix", matrix)
        adapter = cls(matrix.shape[0], kind="linear", normalize=normalize)
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

    def transform(self, query_embeddings: Tensor) -> Tensor:
        """What ``forward`` does for a query, on plain tensors; differentiable with respect to the weights.

        Args:
            query_embeddings: (B, D) floating point, as the base model gives them, on the adapter's device. Half
                precision is computed in the adapter's own dtype.

        Returns:
            (B, D), same dtype as the input. With ``normalize``, row i has the length of input row i.

        Raises:
            ValueError: not a floating-point matrix with D columns.
        """
        if (
            query_embeddings.ndim != 2
            or query_embeddings.shape[1] != self.embedding_dimension
            or not query_embeddings.is_floating_point()
        ):
            raise ValueError(
                f"query_embeddings have shape {tuple(query_embeddings.shape)} and dtype {query_embeddings.dtype}, but "
                f"this adapter expects floating point of shape (B, {self.embedding_dimension}). Embed the queries with "
                "the base model that the adapter was made for."
            )
        x = query_embeddings.to(next(self.parameters()).dtype)
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
        change = matrix.detach().to("cpu", torch.float64) - torch.eye(self.embedding_dimension, dtype=torch.float64)
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
                half = min(self.hidden_dim // 2, self.embedding_dimension)
                kept = torch.cat([torch.arange(half), self.embedding_dimension + torch.arange(half)])
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
        for name, parameter in self.named_parameters():
            _check_finite(f"the adapter's {name}", parameter, "Training diverged: lower the learning rate.")
        weights = {name: parameter.detach().to("cpu", torch.float64) for name, parameter in self.named_parameters()}
        identity = torch.eye(self.embedding_dimension, dtype=torch.float64)
        bias = weights.get("output_bias")
        if self.kind == "mlp":
            carried = torch.cat([weights["down"], identity, -identity])  # (H + 2D, D)
            hidden_bias = weights.get("hidden_bias")
            if hidden_bias is not None:
                hidden_bias = torch.cat([hidden_bias, torch.zeros(2 * self.embedding_dimension, dtype=torch.float64)])
            restored = torch.cat([weights["up"], identity, -identity], dim=1)  # (D, H + 2D)
            modules = [
                _dense(carried, hidden_bias, _ACTIVATIONS[self.activation]()),
                _dense(restored, bias, nn.Identity()),
            ]
        else:
            change = weights["delta"] if self.kind == "linear" else weights["up"] @ weights["down"]
            modules = [_dense(identity + change, bias, nn.Identity())]
        if self.normalize:
            modules.append(Normalize())
        device = next(self.parameters()).device
        return [module.to(device).eval() for module in modules]

    def get_embedding_dimension(self) -> int:
        """D, the dimension of what comes in and of what goes out."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write ``config.json`` and ``model.safetensors`` into an existing folder.

        Raises:
            ValueError: ``safe_serialization=False``; an adapter is never written as, nor read from, a pickle.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization is False, but an adapter is only saved as safetensors. Leave it at True."
            )
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> QueryAdapter:
        """Read what ``save`` wrote, from a local folder or a Hub repository.

        Args:
            model_name_or_path: Folder or Hub id.
            subfolder: The adapter's folder within it.
            token: As in Sentence Transformers, like the arguments below; only for the Hub.
            cache_folder: Where downloads are kept.
            revision: Branch, tag or commit.
            local_files_only: Never ask the Hub.
            kwargs: What Sentence Transformers passes to every module and this one has no use for.

        Returns:
            The adapter, in float32.

        Raises:
            ValueError: the configuration or the weights are missing, unreadable, or not those of an adapter: keys,
                shapes and dtypes are compared, and every weight must be finite.
        """
        where = f"{model_name_or_path}/{subfolder}" if subfolder else str(model_name_or_path)
        hub_kwargs = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        adapter = cls(**cls._read_config(where, model_name_or_path, hub_kwargs))
        # The base class would fall back to pytorch_model.bin, a pickle.
        if cls.load_file_path(model_name_or_path, "model.safetensors", **hub_kwargs) is None:
            raise ValueError(
                f"{where} has no model.safetensors, and an adapter is read from nothing else. "
                "Save it again with adapter.save(folder)."
            )
        try:
            weights = cls.load_torch_weights(model_name_or_path, **hub_kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"{where}/model.safetensors cannot be read ({error}). It may be truncated: copy or save it again."
            ) from error
        _check_weights(where, weights, dict(adapter.named_parameters()))
        adapter.load_state_dict(weights)
        return adapter

    @classmethod
    def _read_config(cls, where: str, model_name_or_path: str, hub_kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            config = cls.load_config(model_name_or_path, **hub_kwargs)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}/config.json is not JSON ({error}). Save the adapter again.") from error
        if not isinstance(config, dict) or set(config) != set(cls.config_keys):
            found = sorted(config) if isinstance(config, dict) else config
            raise ValueError(
                f"{where}/config.json has {found or 'no keys'}, but an adapter's configuration expects exactly "
                f"{sorted(cls.config_keys)}. Pass a folder that an adapter was saved to."
            )
        return config


def _dense(weight: Tensor, bias: Tensor | None, activation_function: nn.Module) -> Dense:
    # Dense draws a random weight before it takes ours; folding must not move the random state of a training run.
    with torch.random.fork_rng(devices=[]):
        return Dense(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            activation_function=activation_function,
            init_weight=weight.float(),
            init_bias=None if bias is None else bias.float(),
        )


def _check_weights(where: str, weights: dict[str, Tensor], expected: dict[str, nn.Parameter]) -> None:
    if set(weights) != set(expected):
        raise ValueError(
            f"{where}/model.safetensors has the weights {sorted(weights)}, but its config.json expects "
            f"{sorted(expected)}. The two files are not from one adapter: save it again."
        )
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise ValueError(
                f"{where}/model.safetensors has {name} of shape {tuple(weight.shape)}, but its config.json expects "
                f"{tuple(expected[name].shape)}. The two files are not from one adapter: save it again."
            )
        if weight.dtype not in _WEIGHT_DTYPES:
            raise ValueError(
                f"{where}/model.safetensors has {name} as {weight.dtype}, but an adapter expects one of "
                f"{', '.join(map(str, _WEIGHT_DTYPES))}. Save the adapter again."
            )
        _check_finite(f"{where}/model.safetensors: {name}", weight, "Save the adapter again.")


def _check_finite(name: str, tensor: Tensor, remedy: str = "Pass finite values.") -> None:
    num_bad = int((~torch.isfinite(tensor)).sum())
    if num_bad:
        raise ValueError(f"{name} has {num_bad} NaN or infinite values of {tensor.numel()}, expected none. {remedy}")


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, but a whole number of at least 1 is expected. Pass such a number.")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    # `is` for booleans: 1 == True, but a 1 in a configuration is a mistake.
    if not any(value is choice if isinstance(choice, bool) else value == choice for choice in choices):
        raise ValueError(f"{name} is {value!r}, but one of {choices} is expected. Pass one of these.")
