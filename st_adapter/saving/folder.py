"""What a saved model's folder says of itself: its layout, its routes, and its files by their hashes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from st_adapter import __version__
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.saving.card import QueryModelCard, base_metadata, model_card
from st_adapter.saving.layouts import Layout, to_layout
from st_adapter.saving.model_files import BOOKKEEPING, DAMAGED, inside, model_files, read_modules
from st_adapter.saving.onnx_files import ONNX_FILES
from st_adapter.saving.query_part import halve_table, has_half_table, transformer_to_top
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.tasks import QUERY_ROUTE, is_task
from st_adapter.saving.tasks_card import tasks_card
from st_adapter.storage.adapters import ADAPTER_FOLDER, WEIGHTS_FILE, check_task
from st_adapter.storage.paths import MAX_FILES, file_sha256, file_within, names_in
from st_adapter.storage.reading import read_object
from st_adapter.storage.records import built
from st_adapter.storage.writing import write_json, write_text

CONFIG_FILE_NAME = "st_adapter_config.json"
# Texts that people edit on the Hub, and what no reader of the model opens.
UNVERIFIED = ("README.md", ".gitattributes", CONFIG_FILE_NAME)

_ALWAYS = ("adapter", "training")  # of a route; what came later is written where there is some


@dataclass(frozen=True)
class SavedRoute:
    """One way for texts through a saved model.

    Attributes:
        adapter: the folder of its adapter within the model's; None if the base model alone embeds what takes it, or
            another model does.
        training: how the adapter came about, or why there is none, if recorded.
        model: the model that embeds in place of the base model.
        license: of that model, as its card names it.
    """

    adapter: str | None
    training: TrainingRecord | None
    model: EncoderIdentity | None = None
    license: str = ""


@dataclass(frozen=True)
class SavedModel:
    """What ``st_adapter_config.json`` says of a folder.

    Attributes:
        layout: see ``Layout``.
        base_model: the base model.
        routes: name -> route, of all but the one for documents, which the base model embeds; one adapter is the route
            ``query``. Of several each has a route of its own, and ``query`` is the one of ``encode_query``.
        files: path -> SHA-256 of every file whose change would change the model.
    """

    layout: Layout
    base_model: EncoderIdentity
    routes: dict[str, SavedRoute]
    files: dict[str, str]

    @property
    def has_adapter(self) -> bool:
        """False if nothing helped and the base was saved alone."""
        return any(route.adapter is not None or route.model is not None for route in self.routes.values())

    @property
    def tasks(self) -> list[str]:
        """The tasks of several adapters; empty if there is one or none."""
        return [name for name in self.routes if name != QUERY_ROUTE]

    @property
    def default_task(self) -> str | None:
        """The task, of several, whose adapter ``encode_query`` uses, if it uses one."""
        adapter = self.routes[QUERY_ROUTE].adapter
        return next((task for task in self.tasks if self.routes[task].adapter == adapter), None)

    def route(self, task: str | None = None) -> SavedRoute:
        """The route of a task; that of ``encode_query`` if None.

        Raises:
            ValueError: there is no such task; or None, and ``encode_query`` uses none of several adapters.
        """
        check_task(task, self.tasks, has_default=self.default_task is not None)
        return self.routes[task or QUERY_ROUTE]

    @property
    def query_model(self) -> EncoderIdentity | None:
        """The model that embeds queries, if it is not the base model."""
        return self.routes[QUERY_ROUTE].model

    @property
    def training(self) -> TrainingRecord | None:
        """How the adapter for queries came about, if recorded."""
        return self.routes[QUERY_ROUTE].training

    def __str__(self) -> str:
        adapted = self.tasks or [name for name, route in self.routes.items() if route.adapter is not None]
        adapters = f"adapters for {', '.join(adapted)}" if adapted else "no adapter"
        adapters = adapters if self.query_model is None else f"queries by {self.query_model.name!r}"
        return f"SavedModel({self.base_model.name!r}, {adapters}, layout {self.layout!r}, {len(self.files)} files)"

    __repr__ = __str__


def write_config(folder: Path, layout: Layout, base_model: EncoderIdentity, routes: Mapping[str, SavedRoute]) -> None:
    """Write ``st_adapter_config.json``, last of all files but the card, because it holds the hashes of the others."""
    content = {
        "st_adapter_version": __version__,
        "layout": layout,
        "base_model": base_model.to_dict(),
        "routes": {
            route: {name: each for name, each in asdict(saved).items() if name in _ALWAYS or each}
            for route, saved in routes.items()
        },
        "files": _hashes(folder),
    }
    write_json(folder / CONFIG_FILE_NAME, content)


def is_saved_model(folder: Path) -> bool:
    """Whether a folder was written here."""
    try:
        return "st_adapter_version" in read_object(folder / CONFIG_FILE_NAME)
    except ValueError:
        return False


def read_saved(folder: Path) -> SavedModel:
    """Read ``st_adapter_config.json``.

    Raises:
        ValueError: it is missing or damaged.
    """
    path = folder / CONFIG_FILE_NAME
    content = read_object(file_within(folder, path) if folder.is_dir() else path)
    if isinstance(content.get("has_adapter"), bool):  # as version 0.1 says it
        adapter = ADAPTER_FOLDER if content["has_adapter"] else None
        content["routes"] = {QUERY_ROUTE: {"adapter": adapter, "training": content.get("training")}}
    try:
        saved = built(SavedModel, content, "it")
        EncoderIdentity.from_dict(content["base_model"])
        for route in content["routes"].values():
            _ = route.get("model") and EncoderIdentity.from_dict(route["model"])
        if len(saved.files) > MAX_FILES:
            raise ValueError(f"it lists {len(saved.files):,} files, but a model has a few dozen.")
        if QUERY_ROUTE not in saved.routes or not all(map(is_task, saved.tasks)):
            raise ValueError(f"its routes are {list(saved.routes)[:5]}, but short names and 'query' are expected.")
        if any(saved.routes[task].adapter is None for task in saved.tasks):
            raise ValueError("one of its tasks has no adapter, but each is expected to have one.")
    except ValueError as error:
        raise ValueError(f"{path} is not that of a saved model: {error} {DAMAGED}") from error
    for name, route in saved.routes.items():
        inside(folder, route.adapter or "", path)
        known = {each.name for each in fields(TrainingRecord)}
        unknown = sorted((content["routes"][name].get("training") or {}).keys() - known)
        if unknown:
            warnings.warn(
                f"{path} records {', '.join(map(repr, unknown[:3]))}, as a newer st-adapter may do. It is not shown.",
                stacklevel=3,
            )
    return saved


def copy_as(source: Path, target: Path, layout: Layout, title: str) -> Path:
    """Copy a saved model of the layout ``document``, and give the copy another layout and a card with that title.

    Copied are the files that the model was saved with and is made of; see ``left_out``. The twin of two models is the
    query model's part alone, a static table in half precision.
    """
    saved = read_saved(source)
    for name in _published(source, saved):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        # Contents only: read-only files of a cache must not make a read-only repository.
        shutil.copyfile(file_within(source, source / name), target / name)
    to_layout(target, layout)
    if saved.query_model is not None and (saved.layout, layout) == ("document", "twin"):
        transformer_to_top(target)
        halve_table(target)
    config = read_object(source / CONFIG_FILE_NAME)
    write_json(target / CONFIG_FILE_NAME, {**config, "layout": layout, "files": _hashes(target)})
    if saved.has_adapter:
        write_text(target / "README.md", card_of(target, title))
    return target


def left_out(folder: Path, saved: SavedModel) -> list[str]:
    """What lies in a saved model's folder and is not published with it: it was added later, or is no part of a model.

    Releases before 0.2 saved everything that lay beside the base model's files.
    """
    published = {*_published(folder, saved), CONFIG_FILE_NAME, ".gitattributes"}
    return [name for name in names_in(folder, ignored=BOOKKEEPING) if name not in published]


def _published(folder: Path, saved: SavedModel) -> list[str]:
    adapters = {route.adapter for route in saved.routes.values() if route.adapter is not None}
    parts = {f"{adapter}/{name}" for adapter in adapters for name in (QueryAdapter.config_file_name, WEIGHTS_FILE)}
    parts |= set(model_files(folder, custom_code=True))
    names = [name for name in saved.files if name in parts and (folder / name).is_file()]
    return [*names, *(["README.md"] if (folder / "README.md").is_file() else [])]


def card_of(folder: Path, title: str) -> str:
    """The model card of a saved model; of the card that lies there, such as its base's, it has language and license."""
    saved = read_saved(folder)
    if saved.tasks:
        return tasks_card(
            title,
            saved.base_model,
            {task: saved.routes[task].training for task in saved.tasks},
            default_task=saved.default_task,
            layout=saved.layout,
            inherited=base_metadata(folder),
            remote_code=_needs_remote_code(folder),
            query_prompt="query" in read_object(folder / "config_sentence_transformers.json").get("prompts", {}),
        )
    return model_card(
        title,
        saved.base_model,
        layout=saved.layout,
        queries=QueryModelCard.of(saved.query_model, saved.routes[QUERY_ROUTE].license, has_half_table(folder)),
        inherited=base_metadata(folder),
        training=saved.training,
        remote_code=_needs_remote_code(folder),
        onnx_files=[name for name in ONNX_FILES if (folder / "onnx" / name).is_file()],
    )


def _needs_remote_code(folder: Path) -> bool:
    """Whether a model opens with ``trust_remote_code=True`` only."""
    entries = read_modules(folder)
    if any(not entry["type"].startswith("sentence_transformers.") for entry in entries):
        return True
    configs = [folder / entry["path"] / "config.json" for entry in entries]
    return any(config.is_file() and "auto_map" in read_object(config) for config in configs)


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that shape a saved model."""
    names = [name for name in names_in(folder, ignored=BOOKKEEPING) if name not in UNVERIFIED]
    return {name: file_sha256(file_within(folder, folder / name)) for name in names}
