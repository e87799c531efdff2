"""Two models in one repository: a Router that holds the files of both, and the query model's part of it alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module

from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.roles import Role
from st_adapter.saving.attach import check_adapters_fit
from st_adapter.saving.base_files import find_base_files
from st_adapter.saving.card import base_metadata
from st_adapter.saving.compare import Compared, check_documents, check_queries, encoded, reopened
from st_adapter.saving.declared_settings import in_float32
from st_adapter.saving.folder import SavedRoute, card_of, copy_as, read_saved, write_config
from st_adapter.saving.joined import join, query_route, query_side
from st_adapter.saving.layouts import LEGACY_MODULE, Layout, to_layout, write_module
from st_adapter.saving.model_files import TERMS, read_modules
from st_adapter.saving.onnx_export import export_queries
from st_adapter.saving.query_part import transformer_to_top, write_table
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.save import check_replaceable, check_target, write_base
from st_adapter.saving.tasks import QUERY_ROUTE
from st_adapter.saving.verify import check_files
from st_adapter.storage.reading import read_object
from st_adapter.storage.writing import folder_written_whole, write_json, write_text

_ROUTER = "0_Router"
_SETTINGS = "config_sentence_transformers.json"
# What lies at the top of a repository and belongs to it as a whole, or to other ways to run its first module.
_OF_REPOSITORY = ("modules.json", _SETTINGS, "README.md")
_OTHER_BACKENDS = ("onnx", "openvino")


@dataclass(frozen=True)
class JoinedModel:
    """What is saved of two models.

    Attributes:
        documents: the model of the index; None if it is not there, and then the query model's part is all there is.
        queries: the query model.
        query_modules: what maps its vectors into the space of the documents.
        index: the model that the documents were embedded with, as far as it is known.
        similarity: ``cosine`` or ``dot``, how a query is compared with a document.
        sources: where the files of documents' and query model are, if they no longer know.
    """

    documents: SentenceTransformer | None
    queries: SentenceTransformer
    query_modules: Sequence[Module]
    index: EncoderIdentity
    similarity: str
    sources: tuple[str | Path | None, str | Path | None] = (None, None)

    @cached_property
    def route(self) -> list[Module]:
        """All modules that queries pass through."""
        return query_route(self.queries, self.query_modules)

    def in_memory(self) -> SentenceTransformer:
        """Both in one, or the query model's part alone."""
        if self.documents is None:
            return self.queries_alone()
        return join(self.documents, self.queries, self.route)

    def queries_alone(self) -> SentenceTransformer:
        """The query model's part."""
        return query_side(self.queries, self.route, self.similarity)


def save_joined(
    joined: JoinedModel,
    output_dir: str | Path,
    *,
    onnx: bool = False,
    training: TrainingRecord | None = None,
    check_texts: Mapping[Role, Sequence[str]] | None = None,
    title: str | None = None,
) -> Path:
    """Write two models as one repository that plain ``SentenceTransformer(output_dir)`` opens.

    Each model's own files are copied, opened and compared as ``save_pretrained`` does with one; then they become the
    two routes of a ``Router``, that for queries with the ``Dense`` behind it. What comes of it is opened once more:
    documents have to be bit for bit those of the documents' model. All of it is written beside ``output_dir`` and put
    in place only then.

    Args:
        joined: the two.
        output_dir: a new or empty folder, or one written here before, which is replaced as a whole.
        onnx: add ONNX files of the query model to its folder; see ``export_queries``.
        training: how it came about and what it does, for the model card.
        check_texts: as in ``save_pretrained``.
        title: what the model card calls the model; the folder's name if None.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: as ``save_pretrained``, of either model.
        OSError: the folder cannot be written.
    """
    target = Path(output_dir).resolve()
    for model, source in zip((joined.documents, joined.queries), joined.sources, strict=True):
        if model is not None:
            check_target(model, target, source)
    expected, texts = joined.in_memory(), dict(check_texts or {})
    with folder_written_whole(target) as folder:
        queries, of_queries = _written(folder / "queries", joined.queries, joined.sources[1], texts)
        index, of_documents = joined.index, None
        if joined.documents is not None:
            index, of_documents = _written(folder / "documents", joined.documents, joined.sources[0], texts)
        license_name = str(base_metadata(folder / "queries").get("license", ""))
        _join(folder, joined)
        write_json(folder / _SETTINGS, {**read_object(folder / _SETTINGS), **_settings_of(expected)})
        _check(folder, expected, of_documents, of_queries)
        if onnx:
            export_queries(joined.queries_alone(), len(joined.queries), _first_of_queries(folder))
        layout: Layout = "document" if joined.documents is not None else "twin"
        write_config(folder, layout, index, {QUERY_ROUTE: SavedRoute(None, training, queries, license_name)})
        write_text(folder / "README.md", card_of(folder, title or target.name))
    return target


def save_query_part(folder: str | Path, output_dir: str | Path) -> Path:
    """Write the query model's part of a saved model of two, alone: what the branch ``query`` holds on the Hub.

    Every method of it embeds queries. A static table is stored in half precision, with which queries stay the same up
    to 1e-3 in cosine; a table that would lose more stays as it is, with a warning. ONNX files that the model was saved
    with lie at the top, beside the tokenizer.

    Args:
        folder: the saved model, which stays as it is.
        output_dir: a new or empty folder, or one written here before, which is replaced as a whole.

    Returns:
        ``output_dir`` as an absolute path.

    Raises:
        ValueError: the folder holds no such model or is damaged, or ``output_dir`` holds something else.
        OSError: the folder cannot be written.

    Examples:
        >>> save_query_part("out/model", "for-the-device")  # doctest: +SKIP
    """
    source, target = Path(folder).resolve(), Path(output_dir).resolve()
    saved = read_saved(source)
    check_files(source, saved)
    if saved.query_model is None or saved.layout != "document":
        raise ValueError(
            f"{source} is {saved}, but a model of two, one for queries and one for documents, is expected. Pass the "
            "folder that training with a query model wrote."
        )
    check_replaceable(target)
    with folder_written_whole(target) as unfinished:
        copy_as(source, unfinished, "twin", target.name)
    return target


def _written(
    folder: Path, model: SentenceTransformer, source: str | Path | None, texts: Mapping[Role, Sequence[str]]
) -> tuple[EncoderIdentity, Compared]:
    """Write one of the two as a repository of its own, compared with the one in memory."""
    identity = check_adapters_fit(model, {})
    files = find_base_files(model, source)
    compared = Compared.of(model, identity, texts)
    folder.mkdir()
    write_base(folder, compared, {}, files, only_copy=False)
    if files.folder is not None:
        identity = replace(identity, name=files.name, revision=files.revision)
    return identity, compared


def _join(folder: Path, joined: JoinedModel) -> None:
    """Make of the folders ``documents`` and ``queries`` one repository."""
    router = folder / _ROUTER
    router.mkdir()
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, side in (("document", folder / "documents"), ("query", folder / "queries")):
        if side.is_dir():
            moved = _moved(side, router, route)
            structure[route] = list(moved)
            types |= moved
    first, *others = joined.route
    if first is not joined.queries[0]:
        write_table(router / structure["query"][0], first.embedding.weight)
    for module in others[len(joined.queries) - 1 :]:
        name = f"query_{len(structure['query'])}_{type(module).__name__}"
        write_module(module, router / name)
        types[name] = f"{LEGACY_MODULE}.{type(module).__name__}"
        structure["query"].append(name)
    main, other = (folder / name for name in ("documents", "queries"))
    if not main.is_dir():
        main, other = other, main
    for path in sorted(main.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(folder / path.name)
    # The top of the repository is that of the documents' model; under which terms the other may be used lies beside it.
    for path in sorted(other.iterdir()) if other.is_dir() else ():
        terms = TERMS.fullmatch(path.name)
        if terms is not None and path.name != "README.md":
            path.rename(folder / f"{path.name[: len(terms[1] or path.stem)]}-query{path.suffix}")
    for side in filter(Path.is_dir, (main, other)):
        shutil.rmtree(side)
    # In a Router the modules of each model keep the precision that its files name, and what lies behind it has float32.
    if joined.documents is not None:
        for path in (*router.glob("*/config.json"), *router.glob("*/sentence_bert_config.json")):
            write_json(path, in_float32(read_object(path)))
    parameters = {"default_route": next(iter(structure)), "allow_empty_key": True}
    write_json(router / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    entry = {"idx": 0, "name": "0", "path": _ROUTER, "type": f"{LEGACY_MODULE}.Router"}
    write_json(folder / "modules.json", [entry])
    if joined.documents is None:
        to_layout(folder, "twin")
        transformer_to_top(folder)


def _first_of_queries(folder: Path) -> Path:
    """The folder of the query model's first module."""
    router = folder / _ROUTER
    if not router.is_dir():
        return folder / str(read_modules(folder)[0]["path"])
    return router / str(read_object(router / "router_config.json")["structure"]["query"][0])


def _moved(side: Path, router: Path, route: str) -> dict[str, str]:
    """Move the modules of a repository into a Router: name there -> class."""
    entries = read_modules(side)
    names = [f"{route}_{n}_{entry['type'].rpartition('.')[2]}" for n, entry in enumerate(entries)]
    # The first module may lie at the top, among the folders of the others, so it is the last to be moved.
    for name, entry in reversed(list(zip(names, entries, strict=True))):
        if entry["path"] not in ("", "."):
            if (side / entry["path"]).is_dir():
                (side / entry["path"]).rename(router / name)
            continue
        (router / name).mkdir()
        for path in sorted(side.iterdir()):
            if path.name not in (*_OF_REPOSITORY, *_OTHER_BACKENDS) and not TERMS.fullmatch(path.name):
                path.rename(router / name / path.name)
    return {name: _class_of(entry["type"]) for name, entry in zip(names, entries, strict=True)}


def _class_of(type_: str) -> str:
    # It has no configuration whose form could differ, and under this path every release since 5.0 finds it.
    kind = type_.rpartition(".")[2]
    return f"{LEGACY_MODULE}.{kind}" if kind == "StaticEmbedding" else type_


def _settings_of(model: SentenceTransformer) -> dict[str, Any]:
    return {
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "similarity_fn_name": str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name)),
    }


def _check(folder: Path, expected: SentenceTransformer, documents: Compared | None, queries: Compared) -> None:
    """Open what was written, and compare it with what is in memory.

    Args:
        folder: what was written.
        expected: both models in one, or the query model's part alone.
        documents: the documents' model and what it makes of the check texts, if it is there.
        queries: the query model and its check texts.
    """
    saved = reopened(folder, (documents or queries).model, as_named=documents is not None)
    if documents is not None:
        for name in ("encode_document", "encode"):
            check_documents(saved, name, documents, "the model of the documents")
    texts: dict[Role, list[str]] = {**queries.texts, "document": queries.texts["query"]}
    right = encoded(expected, "encode_query", texts).float().cpu()
    for name in ("encode_query", *(["encode"] if documents is None else [])):
        what, found = f"{name} of the saved model differs from the one in memory", encoded(saved, name, texts)
        check_queries(what, found, right, queries.model.dtype, "Report this.")
