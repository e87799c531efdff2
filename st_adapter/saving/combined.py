"""Several saved models of one base model, each with an adapter -> one with all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from st_adapter.adapter import QueryAdapter
from st_adapter.errors import InputError
from st_adapter.saving.attach import detach
from st_adapter.saving.folder import SavedModel, is_saved_model
from st_adapter.saving.opening import from_pretrained, locate
from st_adapter.saving.save import save_pretrained
from st_adapter.saving.tasks import check_tasks
from st_adapter.saving.verify import check_saved
from st_adapter.storage.reading import read_object


def combine(
    models: Mapping[str, str | Path],
    output_dir: str | Path,
    *,
    default_task: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Save the adapters of several saved models, of the same base model, as one model with a task for each.

    Args:
        models: task -> folder or Hub id of a model that ``save_pretrained`` or ``push_to_hub`` wrote. The base model's
            files are taken from the first.
        output_dir: as in ``save_pretrained``, and none of ``models``.
        default_task: as in ``save_pretrained``.
        trust_remote_code: run code that comes with the base model.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ConnectionError: the Hub cannot be reached; it may work if tried again.
        ValueError: a model is damaged, has no adapter or several, or another base model; a name cannot be that of a
            task; else as ``save_pretrained``.

    Examples:
        >>> for name in ("legal", "support"):
        ...     folder = st_adapter.save_pretrained(model, adapter, name)
        >>> both = st_adapter.saving.combine({"legal": "legal", "support": "support"}, "both")
        >>> both = st_adapter.from_pretrained(both, device="cpu")
        >>> both.encode(["a car"], task="legal", prompt_name="query").shape
        (1, 32)
    """
    check_tasks(models, default_task)
    folders = {task: locate(where) for task, where in models.items()}
    _check_apart(Path(output_dir).resolve(), folders)
    saved = {task: _checked(task, folder, trust_remote_code) for task, folder in folders.items()}
    _check_one_base(folders, saved)
    first = next(iter(saved))
    base, _ = detach(from_pretrained(folders[first], trust_remote_code=trust_remote_code))
    records = {task: each.training for task, each in saved.items()}
    return save_pretrained(
        base,
        {task: QueryAdapter.from_pretrained(folder) for task, folder in folders.items()},
        output_dir,
        default_task=default_task,
        base_model=folders[first],
        training={task: record for task, record in records.items() if record is not None},
    )


def _check_one_base(folders: Mapping[str, Path], saved: Mapping[str, SavedModel]) -> None:
    """Check that all adapters are of one base model, set in one way."""
    first, *others = saved
    for task in others:
        ours, theirs = saved[first].base_model, saved[task].base_model
        difference = ours.difference(theirs)
        if difference is not None:
            raise ValueError(
                f"The adapter for {first!r} belongs to the base model {ours}, the one for {task!r} to {theirs}: "
                f"{difference}. One model has one base: combine those of the same, or train the others on it."
            )
        apart = _settings_apart(folders[first], folders[task], compared=not ours.normalized)
        if apart is not None:
            raise ValueError(
                f"The models for {first!r} and {task!r} have one base, but {apart}, and one model does one of the two. "
                "Set the same in both config_sentence_transformers.json, or train one of them anew."
            )


def _settings_apart(first: Path, other: Path, *, compared: bool) -> str | None:
    """What two models are set to that one cannot be, as a phrase; ``compared``: whether similarities count."""
    ours, theirs = (read_object(folder / "config_sentence_transformers.json") for folder in (first, other))
    similarities = [each.get("similarity_fn_name") or "cosine" for each in (ours, theirs)]
    if compared and similarities[0] != similarities[1]:
        return "their similarities are {!r} and {!r}".format(*similarities)
    plain = [(each.get("prompts") or {}).get(each.get("default_prompt_name") or "", "") for each in (ours, theirs)]
    if plain[0] != plain[1]:
        return "encode() puts {!r} and {!r} before a text".format(*plain)
    return None


def _check_apart(target: Path, folders: Mapping[str, Path]) -> None:
    for task, folder in folders.items():
        if target == folder.resolve():
            raise InputError(
                f"{target} is the model of the task {task!r} itself, but a folder of its own is expected for all.",
                python="Choose another output_dir.",
                flags="Choose another --output-dir.",
            )


def _checked(task: str, folder: Path, any_class: bool) -> SavedModel:
    """What a saved model says of itself, if it has one adapter and all its files are right."""
    if not is_saved_model(folder):
        raise InputError(
            f"For the task {task!r} came {folder}, which is no model that st-adapter saved.",
            python="Pass the folder or Hub id of one: in what `train` wrote it is the folder `model`.",
            flags="Pass the output folder of `st-adapter train`, or the folder or Hub id of the model.",
        )
    saved = check_saved(folder, any_class=any_class)
    reason = ""
    if not saved.has_adapter:
        reason = "the base model alone: no adapter helped there. Leave it out; encode_query embeds as the base does"
    elif saved.query_model is not None:
        reason = "no adapter by itself: its query model is part of it. Leave it out"
    elif saved.tasks:
        reason = "adapters for several tasks already. Name the models that they came from"
    elif saved.layout != "document":
        reason = f"a model of the layout {saved.layout!r}. Pass the one of the layout 'document'"
    if reason:
        raise ValueError(f"For the task {task!r} came {folder}, which holds {reason}.")
    return saved
