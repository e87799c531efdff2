"""A model that was saved here, taken apart for the next training: its base model, and the adapter in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.origin import Origin, origin_of, say_origin
from st_adapter.errors import InputError
from st_adapter.saving.attach import detach, route_modules
from st_adapter.saving.folder import SavedModel, is_saved_model, read_saved
from st_adapter.saving.joined import is_joined
from st_adapter.saving.opening import locate
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.tasks import QUERY_ROUTE, tasks_of
from st_adapter.saving.unfold import stock_modules, unfold
from st_adapter.words import listed

# One of these is in whatever is saved here with an adapter.
_OF_SAVED = (Router, Dense, StaticEmbedding)


@dataclass(frozen=True)
class TakenApart:
    """A model, and what there is on it.

    Attributes:
        base: the base model, of which documents get the very vectors that they have.
        adapter: what was on its queries; None of a base model alone.
        training: how that came about, if it is recorded.
        folder: where the two were saved; None if they were put together in memory.
    """

    base: SentenceTransformer
    adapter: QueryAdapter | None = None
    training: TrainingRecord | None = None
    folder: Path | None = None


def taken_apart(model: SentenceTransformer) -> TakenApart:
    """Take the base model out of a model that may have an adapter; what was not made here stays as it is.

    The base model of a saved one is known by the name and revision that it had before, and its files are taken from
    there: see ``copy_base``.

    Raises:
        ValueError: it is made of two models, was saved in a layout for other software, has several adapters, or a
            Router of another making.
    """
    if is_joined(model):
        raise InputError(
            "The model is made of two, one for queries and one for documents, so that there is no base model with an "
            "adapter to compare with.",
            python="Pass the documents' model, and the query model as query_model.",
            flags="Name the documents' model with --model, and the query model with --query-model.",
        )
    if tasks_of(model):
        raise InputError(
            f"The model has adapters for the tasks {listed(tasks_of(model))}, but only one can be compared with.",
            python="Take one out with QueryAdapter.from_pretrained(..., task=...), and attach it to the base model.",
            flags="Name the run that one of them came from, and combine them again afterwards.",
        )
    folder, saved = _saved_as(model)
    _refuse_twin(folder, saved)
    if saved is not None and saved.layout != "document":
        raise InputError(
            f"{folder} was saved for software that only knows plain encode() (layout {saved.layout!r}), so that its "
            "base model cannot be taken out of it as it was.",
            python="Pass the model of the layout 'document', such as the branch main on the Hub.",
            flags="Name the model of the layout document, such as the branch main on the Hub.",
        )
    if saved is None and not any(isinstance(module, Router) for module in model):
        return TakenApart(model)
    base, modules = detach(model)
    if folder is None or saved is None:
        return TakenApart(base, unfold(modules, identity_of(base)) if modules else None)
    say_origin(base, Origin(str(folder), saved.base_model.name, saved.base_model.revision))
    if not modules:
        return TakenApart(base, folder=folder)
    adapter = QueryAdapter.from_pretrained(folder) if saved.has_adapter else None
    if adapter is None or not _same(route_modules(base, {QUERY_ROUTE: adapter})[QUERY_ROUTE], stock_modules(modules)):
        # Another one was attached in memory to what was opened from there.
        return TakenApart(base, unfold(modules, identity_of(base)))
    return TakenApart(base, adapter, saved.training, folder)


def embeds_queries_alone(model: SentenceTransformer) -> bool:
    """Whether a model is one of the layout ``twin`` with an adapter, as far as it is known where it came from."""
    return _is_twin(_saved_as(model)[1])


def check_embeds_documents(model: SentenceTransformer) -> None:
    """Check that a model is not one of which each method embeds queries; see ``embeds_queries_alone``.

    Raises:
        InputError: it is.
    """
    _refuse_twin(*_saved_as(model))


def _refuse_twin(folder: Path | None, saved: SavedModel | None) -> None:
    if saved is None or not _is_twin(saved):
        return
    raise InputError(
        f"{folder} embeds queries alone (layout 'twin'); the documents that they find are embedded by "
        f"{saved.base_model.name}, which is not in it.",
        python="Pass the model of both if there is one (layout 'document', the branch main on the Hub), or that one.",
        flags="Name the model of both if there is one (layout document, the branch main on the Hub), or that one.",
    )


def _is_twin(saved: SavedModel | None) -> bool:
    return saved is not None and saved.layout == "twin" and saved.has_adapter


def _saved_as(model: SentenceTransformer) -> tuple[Path | None, SavedModel | None]:
    folder = _saved_folder(model)
    return folder, None if folder is None else read_saved(folder)


def _saved_folder(model: SentenceTransformer) -> Path | None:
    """Where a model was saved here, downloaded if that is on the Hub; None if it was saved by something else."""
    origin = origin_of(model)
    if origin.path and Path(origin.path).is_dir():
        folder = Path(origin.path)
    elif origin.hub_id is not None and any(isinstance(module, _OF_SAVED) for module in model):
        # Sentence Transformers has downloaded what it opens, and not what stands beside it.
        try:
            folder = locate(origin.hub_id, revision=origin.revision, only_config=True)
            if is_saved_model(folder):
                folder = locate(origin.hub_id, revision=origin.revision)
        except (ValueError, OSError):
            return None
    else:
        return None
    return folder.resolve() if is_saved_model(folder) else None


def _same(ours: Sequence[Module], theirs: Sequence[Module]) -> bool:
    """Whether two lists of modules are of the same classes and, up to the precision of the others, weights."""
    weights = [[tensor for module in side for tensor in module.state_dict().values()] for side in (ours, theirs)]
    return (
        [type(module) for module in ours] == [type(module) for module in theirs]
        and [each.shape for each in weights[0]] == [each.shape for each in weights[1]]
        and all(torch.equal(one.to(other.device, other.dtype), other) for one, other in zip(*weights, strict=True))
    )
