"""Where a model in memory was loaded from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from huggingface_hub import try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.misc import ORIGINAL_TRANSFORMER_MODELS

from st_adapter.storage.reading import read_object


class Origin(NamedTuple):
    """Where a model in memory was loaded from.

    Attributes:
        path: what was given to load it, a folder or a Hub id; empty if the model does not remember.
        hub_id: ``user/name`` if it is on the Hub.
        revision: commit on the Hub, if known.
    """

    path: str
    hub_id: str | None
    revision: str | None


# Of models whose files say where they came from before these were written.
_said: WeakKeyDictionary[SentenceTransformer, Origin] = WeakKeyDictionary()


def say_origin(model: SentenceTransformer, origin: Origin) -> None:
    """Let a model in memory have come from somewhere else than its transformer says."""
    _said[model] = origin


def origin_of(model: SentenceTransformer, base_model: str | Path | None = None) -> Origin:
    """Where a model came from: what is given, or else what the transformer inside says it was loaded from.

    A local copy of a model on the Hub is known by its Hub id if ``model.model_card_data.model_id`` says it.
    """
    if base_model is None and model in _said:
        return _said[model]
    card = model.model_card_data
    loaded_from = getattr(getattr(model.transformers_model, "config", None), "_name_or_path", "") or card.base_model
    path = str(base_model or loaded_from or "")
    if not path:
        return Origin("", None, None)
    if Path(path).is_dir():
        hub_id, revision = _cached_repository(Path(path))
        return Origin(path, hub_id or card.model_id, revision)
    if Path(path).is_absolute() or path.count("/") > 1 or "\\" in path or path.startswith("."):
        return Origin(path, None, None)  # a folder that is not there any more
    # Sentence Transformers' own short names, but for those of models that are older than it.
    whole = "/" in path or path.lower() in ORIGINAL_TRANSFORMER_MODELS
    hub_id = path if whole else f"{SentenceTransformer.default_huggingface_organization}/{path}"
    return Origin(path, hub_id, card.base_model_revision if card.base_model == hub_id else None)


def remember_origin(model: SentenceTransformer, place: str | Path) -> None:
    """Have a model say where it came from that does not say it by itself, as a static table does not."""
    if not origin_of(model).path:
        model.model_card_data.base_model = str(place)


def _cached_repository(folder: Path) -> tuple[str | None, str | None]:
    """Hub id and commit, if a folder is a snapshot in a Hub cache: ``models--user--name/snapshots/commit``."""
    parts = folder.resolve().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None, None
    return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]


def origin_object(model: SentenceTransformer, name: str) -> dict[str, Any]:
    """A configuration among the files that a model was opened from; empty if there is none that can be read."""
    origin = origin_of(model)
    if origin.hub_id is not None and not Path(origin.path).is_dir():
        cache = os.getenv("SENTENCE_TRANSFORMERS_HOME")
        file = try_to_load_from_cache(origin.hub_id, name, cache_dir=cache, revision=origin.revision)
    else:
        file = str(Path(origin.path) / name)
    try:
        return read_object(Path(file)) if isinstance(file, str) else {}
    except ValueError:
        return {}


def name_of(model: SentenceTransformer) -> str:
    """Hub id or folder of a model, never a path, which would tell about a machine."""
    origin = origin_of(model)
    return origin.hub_id or Path(origin.path).name or "the model"
