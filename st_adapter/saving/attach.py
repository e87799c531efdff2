"""Base model + adapter -> a SentenceTransformer in memory whose query route alone is adapted, and back."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Router
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling
from torch import Tensor, nn

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity, identity_of, known_difference
from st_adapter.embeddings.model_kind import check_encoder, has_made_up_pooling
from st_adapter.embeddings.origin import origin_of
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import encode_as, prompt_of
from st_adapter.errors import InputError
from st_adapter.saving.tasks import DOCUMENT_ROUTE, QUERY_ROUTE, called, check_task_of, is_task, routes_of

Routes = Mapping[str, QueryAdapter | None]


def attach(
    model: SentenceTransformer,
    adapter: QueryAdapter | Mapping[str, QueryAdapter],
    *,
    default_task: str | None = None,
    allow_other_base: bool = False,
) -> SentenceTransformer:
    """Put the adapter on the query route of a model in memory, or several, each on a route of its own.

    The result ends in a ``Router`` of stock modules: ``encode_query`` is adapted, ``encode_document`` and ``encode``
    return what the base model returns, bit for bit. Of several adapters, ``encode(texts, task="legal",
    prompt_name="query")`` uses the one of that task, and ``encode_query`` that of ``default_task``; without one, it
    returns what the base model returns. A task that is not there is an error of Sentence Transformers.

    Args:
        model: The base model; left as it is. The result shares its modules, so its memory is not needed twice.
        adapter: Folded into the router as it is now; training it further does not change the result. Several by the
            names of their tasks, such as ``{"legal": a, "support": b}``: lower-case letters, digits, ``-`` and ``_``.
        default_task: The task, of several, whose adapter ``encode_query`` uses.
        allow_other_base: Accept a model other than the one the adapter is bound to. Its vectors may mean something
            else, so measure before you use it.

    Returns:
        A new model, on the device and in the dtype of ``model``.

    Raises:
        ValueError: the two do not fit: another base model, another dimension, an existing ``Router``, non-2-D
            embeddings, vectors that are not unit for a normalizing adapter, or an adapter with NaN weights; or a name
            cannot be that of a task.

    Examples:
        >>> adapted = attach(model, adapter)
        >>> (adapted.encode_document("a red car") == model.encode_document("a red car")).all()
        np.True_
    """
    check_order(model, adapter)
    routes = routes_of(adapter, default_task)
    check_adapters_fit(model, routes, allow_other_base=allow_other_base)
    router = Router(sub_modules=route_modules(model, routes), default_route=DOCUMENT_ROUTE)
    name = next(str(index) for index in itertools.count(len(model)) if str(index) not in model._modules)
    return with_modules(
        model, [*model.named_children(), (name, router.to(model.device, model.dtype or torch.float32).eval())]
    )


def route_modules(model: SentenceTransformer, routes: Routes) -> dict[str, list[Module]]:
    """Adapters folded into stock modules for the place behind a model's last module, before any truncation.

    An adapter of two routes is folded once, so that it is neither kept nor saved twice.

    Args:
        model: the base model.
        routes: see ``routes_of``.

    Returns:
        Route -> modules in order, those of documents last.
    """
    # Dropout(0.0) and not an empty route: with [], Router.tokenizer and .max_seq_length raise IndexError.
    untouched: list[Module] = [Dropout(0.0)]
    folded: dict[int, list[Module]] = {}
    for adapter in routes.values():
        if adapter is not None and id(adapter) not in folded:
            folded[id(adapter)] = adapter.padded(whole_dimension(model) or adapter.input_dimension).fold()
    return {**{route: folded.get(id(each), untouched) for route, each in routes.items()}, DOCUMENT_ROUTE: untouched}


def detach(model: SentenceTransformer, task: str | None = None) -> tuple[SentenceTransformer, list[Module]]:
    """Take a model apart again: the base model, and the modules that only its queries pass through.

    Args:
        model: What ``attach`` returned, or a repository of ``save_pretrained`` opened with ``SentenceTransformer``.
            It is left as it is.
        task: Whose modules, of a model with adapters for several tasks; those of ``encode_query`` if None.

    Returns:
        The base model, sharing its modules with ``model``, and the modules of the query route in order, each mapping
        ``{"sentence_embedding": (B, D)}`` to the same, with D as the model truncates it. The list is empty for a model
        without a ``Router``, such as one saved with ``adapter=None``, and for the ``encode_query`` of one with several
        adapters and no default task.

    Raises:
        ValueError: the model has a ``Router`` of another making, or no such task.

    Examples:
        >>> base, modules = detach(attach(model, adapter))
        >>> len(base), [type(module).__name__ for module in modules]
        (3, ['Dense', 'Normalize'])
    """
    children = list(model.named_children())
    routers = [module for _, module in children if isinstance(module, Router)]
    if not routers:
        check_task_of(model, task)
        return with_modules(model, children), []
    router = routers[-1]
    routes = {name: list(modules) for name, modules in router.sub_modules.items()}
    if len(children) == 1 and not isinstance(routes.get("document", [None])[0], Dropout):
        raise ValueError(
            "The model is made of two, one for queries and one for documents, so that there are no modules which its "
            "queries pass through behind the other one. Use it as it is, with encode_query() and encode_document()."
        )
    made_here = (
        len(routers) == 1
        and children[-1][1] is router
        and {QUERY_ROUTE, DOCUMENT_ROUTE} <= set(routes)
        and all(is_task(name) for name in set(routes) - {QUERY_ROUTE, DOCUMENT_ROUTE})
        and router.default_route in routes
        and all(isinstance(module, Dropout) and module.dropout == 0.0 for module in routes[DOCUMENT_ROUTE])
    )
    if not made_here:
        raise ValueError(
            f"The model has a Router with the routes {sorted(routes)} and the default {router.default_route!r}, but "
            "detach expects one Router at the end that leaves documents untouched. "
            "Pass a model from attach() or from a folder written by save_pretrained()."
        )
    if task is not None:
        check_task_of(model, task)
    modules = [module for module in routes[task or QUERY_ROUTE] if not isinstance(module, Dropout)]
    base = with_modules(model, children[:-1])
    dimension = whole_dimension(base)
    if modules and dimension > base.get_embedding_dimension():
        return base, [_Truncated(modules, dimension)]
    return base, modules


def whole_dimension(model: SentenceTransformer) -> int:
    """D of a model before it truncates; 0 if it does not say."""
    with model.truncate_embeddings(None):
        return int(model.get_embedding_dimension() or 0)


def check_order(model: object, adapter: object) -> None:
    """Check that the model was given first and the adapter second.

    Raises:
        ValueError: it was not.
    """
    if isinstance(model, QueryAdapter | Mapping) or not (
        adapter is None or isinstance(adapter, QueryAdapter | Mapping)
    ):
        raise ValueError(
            f"The first argument is a {type(model).__name__} and the second a {type(adapter).__name__}, but a "
            "SentenceTransformer and a QueryAdapter are expected. Pass the model first."
        )


def check_base(model: SentenceTransformer) -> None:
    """Check, before any text is embedded, that an adapter can be trained for a model.

    A plain transformer, which Sentence Transformers pools as it sees fit, is taken with a warning.

    Raises:
        ValueError: the model is no encoder of one dense vector per text, or already has an adapter or a ``Router``.
    """
    check_encoder(model)
    _check_not_adapted(model)
    if has_made_up_pooling(model):
        mode = getattr(next((module for module in model if isinstance(module, Pooling)), None), "pooling_mode", None)
        pooled = f"pools it by {mode!r}" if mode else "takes it as it is"
        warnings.warn(
            f"{origin_of(model).path or 'The model'} has no modules.json: it is a plain transformer, and Sentence "
            f"Transformers {pooled}. If it was trained otherwise, its vectors are poor, and the adapter is measured "
            "against a poor base model.",
            stacklevel=3,
        )


def _check_not_adapted(model: SentenceTransformer) -> None:
    taken = [type(module).__name__ for module in model.modules() if isinstance(module, Router | QueryAdapter)]
    if taken:
        raise InputError(
            f"The base model already has a {taken[0]}, but one without is expected.",
            python="Pass the model that the adapter was trained on, or take it apart with detach(model).",
            flags="Name the base model that it was made from with --model.",
        )


def check_adapters_fit(
    model: SentenceTransformer, routes: Routes, *, allow_other_base: bool = False
) -> EncoderIdentity:
    """Check that a model is one that an adapter can be put on, and that it is the one of these adapters.

    Args:
        model: the base model.
        routes: see ``routes_of``; empty for a model without an adapter.
        allow_other_base: as in ``attach``.

    Returns:
        What the model is.

    Raises:
        ValueError: as ``attach``.
    """
    check_encoder(model)
    _check_not_adapted(model)
    # As one dict per text: the only view that shows what the last module really gives.
    features = model.encode(CHECK_TEXTS[:2], output_value=None, show_progress_bar=False)
    vectors = [row.get("sentence_embedding") for row in features]
    if not all(isinstance(vector, Tensor) and vector.ndim == 1 and vector.is_floating_point() for vector in vectors):
        shape = getattr(vectors[0], "shape", None)
        found = f"gives one of shape {tuple(shape)} per text" if shape is not None else "gives none"
        raise ValueError(
            f"The base model's last module is {type(model[-1]).__name__} and {found}, but a floating-point "
            "'sentence_embedding' of shape (D,) per text is expected. Pass a model that gives one vector per text."
        )
    if len(routes) > 1 and tells_queries_from_texts(model):
        raise ValueError(
            "Modules of the base model read `task` themselves and would get the names of the adapters' tasks there, "
            "so that it cannot have several. Attach one adapter."
        )
    base_model = identity_of(model)
    for task, adapter in routes.items():
        if adapter is not None and (task != QUERY_ROUTE or len(routes) == 1):  # else one of the others once more
            _check_fits(model, base_model, adapter, task, allow_other_base)
            if adapter.normalize and not base_model.normalized:
                raise ValueError(
                    f"The base model gives vectors of length {vectors[0].float().norm().item():.4g}, but "
                    f"{called(task)} with normalize=True expects unit length. Train one with "
                    "QueryAdapter(..., normalize=False)."
                )
    return base_model


def check_trained_for(
    model: SentenceTransformer | None, adapter: QueryAdapter, trained_on: EncoderIdentity | None
) -> None:
    """Refuse before an adapter is trained what saving it would refuse: vectors, or a start, of another model.

    Args:
        model: that it is to be saved with; None if that is not known yet.
        adapter: that training starts from.
        trained_on: the model that the embeddings are of; None if they do not say.

    Raises:
        ValueError: two of the three are of two models, or ``attach`` would not put the adapter on the model.
    """
    for whose, ours in (("model", None if model is None else identity_of(model)), ("adapter", adapter.base_model)):
        difference = known_difference(trained_on, ours)
        if difference is not None:
            raise ValueError(
                f"The embeddings are of {trained_on}, but the {whose} is of {ours}: {difference}. Embed the data with "
                "the model that the adapter is for."
            )
    if model is not None:
        check_adapters_fit(model, routes_of(adapter))


def _check_fits(
    model: SentenceTransformer, base_model: EncoderIdentity, adapter: QueryAdapter, task: str, allow_other_base: bool
) -> None:
    name = called(task)
    if adapter.input_dimension != base_model.dimension:
        truncated = f" (truncate_dim={model.truncate_dim})" if model.truncate_dim is not None else ""
        raise ValueError(
            f"The base model has {base_model.dimension} dimensions{truncated}, but {name} expects "
            f"{adapter.input_dimension}. Pass the model that the adapter was trained on, or train a new adapter."
        )
    bound_to = adapter.base_model
    difference = known_difference(bound_to, base_model)
    if difference is not None and not allow_other_base:
        raise ValueError(
            f"{name[0].upper()}{name[1:]} belongs to the base model {bound_to}, but the model is {base_model}: "
            f"{difference}. Load the base model that the adapter was trained on, or train a new adapter. "
            "allow_other_base=True attaches it all the same."
        )
    undecided = bound_to is not None and bound_to.probes is None and not bound_to.comparable(base_model)
    if bound_to is not None and undecided and not allow_other_base:
        warnings.warn(
            f"{name[0].upper()}{name[1:]} was trained on {bound_to.name!r} in {bound_to.dtype}, and this model's "
            f"weights are in {base_model.dtype}: whether they are the same cannot be seen, so the name was compared.",
            stacklevel=4,
        )


def tells_queries_from_texts(model: SentenceTransformer) -> bool:
    """Whether a base model embeds a query otherwise than the same text, with the same prompt, by plain ``encode``."""
    plain = model.encode(CHECK_TEXTS, prompt=prompt_of(model, "query"), convert_to_tensor=True, show_progress_bar=False)
    return not torch.equal(encode_as(model, "query", CHECK_TEXTS), plain)


def with_modules(model: SentenceTransformer, modules: Sequence[tuple[str, nn.Module]]) -> SentenceTransformer:
    """The same model, with its prompts, similarity and placement, of other named modules."""
    # A shallow copy keeps prompts, similarity, placement and subclass, which the constructor would have to be told.
    changed = copy.copy(model)
    changed._modules = OrderedDict(modules)
    changed.prompts = dict(model.prompts)
    changed.model_card_data = copy.copy(model.model_card_data)
    changed.model_card_data.register_model(changed)
    return changed


class _Truncated(Module):  # type: ignore[misc]  # sentence_transformers is untyped, so its Module is Any
    """Query modules as they act on truncated embeddings: what they do not see of a vector they do not change."""

    def __init__(self, modules: Sequence[Module], dimension: int) -> None:
        super().__init__()
        self.query_modules = nn.ModuleList(modules)
        self.dimension = dimension

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Map ``features["sentence_embedding"]``, (B, truncated D)."""
        kept = features["sentence_embedding"].shape[1]
        features["sentence_embedding"] = nn.functional.pad(features["sentence_embedding"], (0, self.dimension - kept))
        for module in self.query_modules:
            features = module(features)
        features["sentence_embedding"] = features["sentence_embedding"][:, :kept]
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """It is never saved: a repository holds the query modules themselves."""
        raise NotImplementedError("Save the model that was taken apart.")
