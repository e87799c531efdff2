"""Write an adapted model as an ordinary Sentence Transformers repository."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.origin import origin_of
from st_adapter.embeddings.roles import Role
from st_adapter.saving.attach import Routes, check_adapters_fit, check_order, tells_queries_from_texts
from st_adapter.saving.base_files import BaseFiles, added_router, copy_base, find_base_files, write_stock
from st_adapter.saving.compare import Compared, add_adapters, check_layout, reopened
from st_adapter.saving.folder import CONFIG_FILE_NAME, SavedRoute, card_of, is_saved_model, write_config
from st_adapter.saving.layouts import Layout, task_error, to_layout
from st_adapter.saving.onnx_export import export_onnx
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.tasks import QUERY_ROUTE, by_route, check_saved_as, routes_of
from st_adapter.storage.adapters import adapter_folder
from st_adapter.storage.writing import folder_written_whole, write_text


@dataclass(frozen=True)
class SaveOptions:
    """How a model is saved; what saving to a folder and to the Hub have in common, see ``save_pretrained``."""

    layout: Layout = "document"
    onnx: bool = False
    base_model: str | Path | None = None
    training: TrainingRecord | Mapping[str, TrainingRecord] | None = None
    allow_other_base: bool = False
    title: str | None = None
    check_texts: Mapping[Role, Sequence[str]] = field(default_factory=dict)
    default_task: str | None = None


def save_pretrained(
    model: SentenceTransformer,
    adapter: QueryAdapter | Mapping[str, QueryAdapter] | None,
    output_dir: str | Path,
    *,
    default_task: str | None = None,
    layout: Layout = "document",
    onnx: bool = False,
    base_model: str | Path | None = None,
    training: TrainingRecord | Mapping[str, TrainingRecord] | None = None,
    allow_other_base: bool = False,
    title: str | None = None,
    check_texts: Mapping[Role, Sequence[str]] | None = None,
) -> Path:
    """Write a Sentence Transformers repository that plain ``SentenceTransformer(output_dir)`` opens.

    It holds the base model's own files byte for byte plus one ``Router`` folder of stock modules, so neither this
    package nor ``trust_remote_code`` is needed to open it; see ``write_model``.

    Args:
        model: The base model in memory, without the adapter.
        adapter: The trained adapter, or None to save the base model alone, for when no adapter helps. Several by the
            names of their tasks: then plain ``SentenceTransformer(output_dir).encode(texts, task="legal",
            prompt_name="query")`` uses the one of that task; see ``attach``.
        output_dir: A new or empty folder, or one written here before, which is replaced as a whole.
        default_task: The task, of several, whose adapter ``encode_query`` uses; the base model's queries if None.
        layout: What plain ``encode`` gives. ``document``: what the base model gives, for everyday use. ``query``:
            adapted queries, for software with a separate query embedder that only calls plain ``encode``. ``twin``:
            the same without a Router, for releases before 5 and for servers that do not know one. Of several adapters
            ``query`` is that of ``default_task``, and there is no ``twin``.
        onnx: Add ``onnx/model.onnx`` for documents and ``onnx/model_query.onnx`` for queries; see ``export_onnx``. Not
            with several adapters.
        base_model: Where the files of ``model`` are: a local folder or a Hub id. By default where Sentence
            Transformers loaded it from.
        training: How the adapter came about and what it does, for the model card; of several, by their tasks.
        allow_other_base: As in ``attach``.
        title: What the model card calls the model; the folder's name if None.
        check_texts: ``query`` and ``document`` -> texts of the data, such as ``sample_of_texts`` picks, to compare
            the saved model with ``model`` on, besides a few fixed ones.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: the adapter does not fit the model (see ``attach``); a ``layout`` for plain ``encode`` was asked for
            and the base model reads ``task``; the files named by ``base_model`` are not those of the model in memory,
            or hold its weights as pickles; ``output_dir`` holds something else.
        OSError: the folder cannot be written, for instance because the disk is full.

    Examples:
        >>> folder = save_pretrained(model, adapter, "model-with-adapter")
        >>> SentenceTransformer(str(folder), device="cpu").encode_query("where is the red car").shape
        (32,)
    """
    options = SaveOptions(layout, onnx, base_model, training, allow_other_base, title, check_texts or {}, default_task)
    return write_model(model, adapter, Path(output_dir), options)


def write_model(
    model: SentenceTransformer,
    adapter: QueryAdapter | Mapping[str, QueryAdapter] | None,
    output_dir: Path,
    options: SaveOptions,
) -> Path:
    """Do what ``save_pretrained`` says.

    Of the base model's files are changed only ``modules.json`` (one entry more), ``config_sentence_transformers.json``
    (empty prompts, when the base has none, and settings changed in memory) and ``README.md`` (a new model card).
    Pickles are left out. Added are ``adapter/`` (the adapter by itself, or a folder for each of several) and
    ``st_adapter_config.json``, by which a folder is recognised as written here and every file is known by its hash.

    A base model that exists only in memory, or was changed there, is written by Sentence Transformers itself, with a
    warning: releases before 5.4 may not open that.

    Everything is written to a temporary folder beside ``output_dir``, opened once and compared with ``model`` and
    ``adapter``, and only then put in place: weights, settings, tokenizer and code by their hash, and the vectors of
    some texts, documents bit by bit. An earlier result in ``output_dir`` survives any failure.
    """
    check_order(model, adapter)
    routes = routes_of(adapter, options.default_task)
    check_saved_as(routes, options.layout, onnx=options.onnx)
    records = by_route(options.training, routes or [QUERY_ROUTE], options.default_task)
    target = output_dir.resolve()
    _check_place(model, target, options.base_model)
    identity = check_adapters_fit(model, routes, allow_other_base=options.allow_other_base)
    if options.layout != "document" and tells_queries_from_texts(model):
        raise task_error(options.layout)
    source = find_base_files(model, options.base_model)
    compared = Compared.of(model, identity, options.check_texts)
    if source.folder is not None:
        identity = replace(identity, name=source.name, revision=source.revision)

    with folder_written_whole(target) as folder:
        write_base(folder, compared, routes, source, only_copy=options.base_model is not None)
        if routes and options.layout != "document":
            to_layout(folder, options.layout)
            check_layout(reopened(folder, model), compared, routes, options.layout)
        if routes and options.onnx:
            export_onnx(reopened(folder, model), folder)
        places = _write_adapters(folder, routes, identity, options.default_task)
        saved = {route: SavedRoute(places.get(route), record) for route, record in records.items()}
        write_config(folder, options.layout, identity, saved)
        if routes:
            write_text(folder / "README.md", card_of(folder, options.title or target.name))
        elif source.folder is not None and added_router(source.folder) is not None:
            (folder / "README.md").unlink(missing_ok=True)  # it is that of a model with an adapter
        gc.collect()  # models opened to compare map their weights, and Windows renames no folder with mapped files
    return target


def _write_adapters(
    folder: Path, routes: Routes, identity: EncoderIdentity, default_task: str | None
) -> dict[str, str]:
    """Write each adapter by itself, the default one of several once; route -> its folder within the model's."""
    places: dict[str, str] = {}
    for route, adapter in routes.items():
        if adapter is None or (route == QUERY_ROUTE and default_task is not None):
            continue
        place = places[route] = adapter_folder(None if route == QUERY_ROUTE else route)
        (folder / place).mkdir(parents=True)
        bound = copy.deepcopy(adapter)
        bound.base_model = identity
        bound.save(str(folder / place))
    return places if default_task is None else {**places, QUERY_ROUTE: places[default_task]}


def write_base(folder: Path, compared: Compared, routes: Routes, source: BaseFiles, *, only_copy: bool) -> None:
    """Copy the base model, or have it written as it is in memory, and put the adapters behind it."""
    missing = source.missing
    if source.folder is not None:
        copy_base(folder, compared.model, source.folder)
        problem = add_adapters(folder, compared, routes)
        if problem is None:
            return
        if only_copy:
            raise ValueError(
                f"{problem}: the base model's files are not those of the model in memory. Load the model from "
                "its files as they are, or leave base_model out."
            )
        gc.collect()  # Windows deletes no mapped file either
        missing = problem
    write_stock(folder, compared.model, missing)
    problem = add_adapters(folder, compared, routes)
    if problem is not None:
        raise ValueError(
            f"{problem}, also after Sentence Transformers has written it: what was changed in memory is not "
            "among what a repository can hold, such as a hook or code of another class. Undo that change, or "
            "save the base model so that opening it gives these vectors, and train the adapter on that."
        )


def check_target(model: SentenceTransformer, target: Path, base_model: str | Path | None = None) -> None:
    """Check, before work whose result is to be saved, that a model can be saved to a folder.

    Raises:
        ValueError: the folder is neither new nor empty nor written here, or not apart from the base model's; or the
            base model's files cannot be taken, as ``save_pretrained`` says.
    """
    _check_place(model, target.resolve(), base_model)
    find_base_files(model, base_model)


def _check_place(model: SentenceTransformer, target: Path, base_model: str | Path | None) -> None:
    """Check that a folder is new, empty or written here, and apart from that of the base model.

    Raises:
        ValueError: it is not.
    """
    path = origin_of(model, base_model).path
    source = Path(path).resolve()
    if path and source.is_dir() and (target == source or target in source.parents or source in target.parents):
        raise ValueError(
            f"output_dir {target} and the base model's folder {source} lie within each other, "
            "but saving expects two separate folders. Choose another output_dir."
        )
    check_replaceable(target)


def check_replaceable(target: Path) -> None:
    """Check that a folder is new, empty or written here.

    Raises:
        ValueError: it is not.
    """
    if target.is_dir():
        if any(target.iterdir()) and not is_saved_model(target):
            raise ValueError(
                f"output_dir {target} exists, is not empty and has no {CONFIG_FILE_NAME}, but a new folder or one "
                "written by st-adapter is expected. Choose another output_dir, or delete this one yourself."
            )
    elif target.exists():
        raise ValueError(f"output_dir {target} is a file, but a folder is expected. Choose another output_dir.")
