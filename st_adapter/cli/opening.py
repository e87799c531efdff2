"""What a command works on: the model that its flags name, and the data."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from st_adapter.cli.column_options import ColumnOptions
from st_adapter.cli.options import DataOptions, EmbeddingOptions, TrainOptions
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.unlabelled import documents_alone
from st_adapter.embeddings.openai_encoder import OpenAIEncoder
from st_adapter.embeddings.origin import remember_origin
from st_adapter.errors import InputError
from st_adapter.evidence.output_folder import RESULTS_FILE, adapter_alone, current_run, model_path
from st_adapter.saving.attach import check_base
from st_adapter.saving.declared_sizes import check_sizes
from st_adapter.saving.deployed import check_embeds_documents, taken_apart
from st_adapter.saving.folder import is_saved_model, read_saved
from st_adapter.saving.opening import from_pretrained
from st_adapter.saving.query_base import STATIC, check_has_no_adapter
from st_adapter.storage.manifest import is_vector_folder
from st_adapter.stores import is_address, open_store
from st_adapter.stores.folder import DEFAULT_MEMORY, VectorFolder
from st_adapter.stores.store import Store

_ENDPOINT = "openai:"


def load_dataset(where: DataOptions, reading: ColumnOptions, **arguments: Any) -> RetrievalDataset:
    """The data set, read as the flags say; further arguments are those of ``RetrievalDataset.load``."""
    return RetrievalDataset.load(
        where.data if where.labels is None else where.labels,
        queries=where.queries,
        corpus=_corpus(where),
        columns=_columns(reading),
        ignore_columns=reading.ignore_columns,
        relevant_from=reading.relevant_from,
        **arguments,
    )


def load_for_training(options: TrainOptions) -> RetrievalDataset:
    """The data set to train on; without labels, the documents of a file or folder."""
    reading, corpus = options.reading, options.corpus
    if not options.fitting.without_labels or corpus is None:
        return load_dataset(options, reading, seed=options.seed, split_by=reading.split_by)
    return load_documents(corpus, options, reading)


def load_documents(corpus: str, where: DataOptions, reading: ColumnOptions) -> RetrievalDataset:
    """The documents of a file or folder, without labels."""
    unused = [name for name in ("memory", "ray_address") if getattr(where, name) is not None]
    # A column that is none of documents is refused with the table in sight.
    how_read = [each for each in fields(reading) if not each.name.endswith("_column") and each.name != "columns"]
    unused += [each.name for each in how_read if getattr(reading, each.name) != each.default]
    if unused and not is_vector_folder(corpus):  # which has no texts, whatever else was said
        raise ValueError(
            f"--{unused[0].replace('_', '-')} is for labels, or for documents that are vectors already, but there are "
            "texts of documents alone. Leave it out."
        )
    if not Path(corpus).exists():
        raise ValueError(f"There is no {corpus}. Without labels, --corpus expects a file or folder of documents.")
    columns = {name.removeprefix("corpus."): column for name, column in _columns(reading).items()}
    return documents_alone(corpus, columns, name=Path(corpus).name)


def _columns(reading: ColumnOptions) -> dict[str, str]:
    named = {each.name: getattr(reading, each.name) for each in fields(ColumnOptions)}
    columns = {name.removesuffix("_column"): c for name, c in named.items() if name.endswith("_column") and c}
    for each in reading.columns:
        role, equals, column = each.partition("=")
        if not equals or "." not in role:
            raise ValueError(f"--columns got {each!r}, but expects TABLE.ROLE=NAME, such as corpus.id=uuid.")
        columns[role] = column
    return columns


def _corpus(where: DataOptions) -> str | Store | VectorFolder | None:
    """The opened store or folder of vectors that --corpus names, or the path that it is."""
    given = where.corpus
    if given is not None and is_vector_folder(given):
        memory = DEFAULT_MEMORY if where.memory is None else _num_bytes(where.memory)
        return VectorFolder(given, memory=memory, ray_address=where.ray_address)
    unused = [f"--{name}" for name in ("memory", "ray-address") if getattr(where, name.replace("-", "_")) is not None]
    if unused:
        raise ValueError(
            f"{unused[0]} is for a --corpus that st-adapter embed wrote, but there is none. Leave it out, or embed the "
            "documents to a folder first."
        )
    if given is None or Path(given).exists() or not (is_address(given) or "#" in given):
        return given
    return open_store(given)


def _num_bytes(text: str) -> int:
    """What --memory says, in bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])i?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"--memory is {text!r}, but a number of bytes is expected, such as 4GB.")
    return int(float(found[1]) * 1000 ** ("KMGT".index(found[2].upper()) + 1))


def is_endpoint(model: str) -> bool:
    """Whether --model names one behind an OpenAI-compatible endpoint."""
    return model.startswith(_ENDPOINT)


def open_base(model: str, options: EmbeddingOptions) -> SentenceTransformer | OpenAIEncoder:
    """Open a model to train an adapter for, which is not one that has an adapter already."""
    if is_endpoint(model):
        return _open_endpoint(model, options)
    folder = Path(model_path(model))
    if is_saved_model(folder) and read_saved(folder).has_adapter:
        name = read_saved(folder).base_model.name
        raise ValueError(f"{folder} is a model with an adapter already. Name its base model: --model {name}.")
    opened = open_model(str(folder) if folder.is_dir() else model, options)
    check_embeds_documents(opened)
    check_base(opened)
    return opened


def open_base_or_deployed(model: str, options: EmbeddingOptions) -> SentenceTransformer | OpenAIEncoder:
    """Open a model to train an adapter for, or one that has an adapter, which the new one has to beat."""
    if is_endpoint(model):
        return _open_endpoint(model, options)
    opened = open_model(model_path(model), options)
    if taken_apart(opened).adapter is None:
        check_base(opened)
    return opened


def open_query_model(model: str | None, options: EmbeddingOptions) -> SentenceTransformer | str | None:
    """Open the model that is to embed queries; the flags for prompts, sizes and revisions are --model's."""
    if model is None or model == STATIC:
        return model
    opened = open_model(model_path(model), EmbeddingOptions(device=options.device), "--query-model")
    check_has_no_adapter(opened)
    return opened


def _open_endpoint(model: str, options: EmbeddingOptions) -> OpenAIEncoder:
    """The encoder that openai:NAME is; what only a model in memory can be told is refused."""
    unused = {
        "--device": options.device is not None,
        "--precision": options.precision != "fp32",
        "--revision": options.revision is not None,
        "--trust-remote-code": options.trust_remote_code,
        "--max-seq-length": options.max_seq_length is not None,
    }
    given = [flag for flag, came in unused.items() if came]
    if given:
        raise ValueError(
            f"{', '.join(given)} came with --model {model}, but the server decides that of a model behind an endpoint. "
            "Leave it out, and set it where the server is started."
        )
    name = model.removeprefix(_ENDPOINT)
    if not name:
        raise ValueError(f"--model is {model!r} without a name. Name the model as the endpoint knows it.")
    return OpenAIEncoder(
        name,
        options.base_url,
        dimensions=options.truncate_dim,
        query_prompt=options.query_prompt or "",
        document_prompt=options.document_prompt or "",
        batch_size=options.embedding_batch_size,
    )


def open_model(model: str, options: EmbeddingOptions, flag: str = "--model") -> SentenceTransformer:
    """Open any model that a flag names, as the other flags say."""
    device = options.device
    if device is not None:
        try:
            torch.zeros(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    folder = Path(model)
    _check_model_name(model, options, flag)
    arguments: dict[str, Any] = {
        "device": device,
        "revision": options.revision,
        "trust_remote_code": options.trust_remote_code,
    }
    saved = is_saved_model(folder)
    if folder.is_dir() and not saved:
        check_sizes(folder)
    try:
        opened = from_pretrained(folder, **arguments) if saved else SentenceTransformer(model, **arguments)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError) or (folder.is_dir() and "trust_remote_code" not in str(error)):
            raise
        raise _not_opened(model, options, flag, error) from error
    remember_origin(opened, model)
    return set_options(opened, options)


def _check_model_name(model: str, options: EmbeddingOptions, flag: str) -> None:
    """Check what a flag names as far as it can be seen without asking the Hub."""
    folder = Path(model)
    if is_endpoint(model):
        raise ValueError(f"{flag} is {model}, an endpoint, but this command opens a saved model: a folder or Hub id.")
    if options.base_url is not None:
        raise ValueError(f"--base-url is for models behind an endpoint, --model openai:NAME, but {flag} is {model}.")
    if adapter_alone(model) is not None:
        raise ValueError(
            f"{flag} is {model}, which holds an adapter alone, but this command opens a whole model. Apply it to query "
            "embeddings: QueryAdapter.from_pretrained(...).transform(query_embeddings)."
        )
    if folder.is_dir():
        if options.revision is not None:
            raise ValueError(f"--revision {options.revision} is for models on the Hub, but {model} is a folder.")
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            if (current_run(folder) / RESULTS_FILE).is_file():
                raise ValueError(
                    f"{flag} is {model}, the output of st-adapter train, but the run in use saved no model. "
                    "`st-adapter list` shows the runs and their verdicts."
                )
            raise ValueError(
                f"{flag} is the folder {model}, which holds no model: there is neither a modules.json nor a "
                "config.json in it. Name the folder of a Sentence Transformers model, or a Hub id."
            )
    elif folder.exists():
        raise ValueError(f"{flag} is {model}, a file, but the folder of a model or a Hub id is expected.")
    elif folder.is_absolute() or model.startswith((".", "~")) or model.endswith("/") or model.count("/") > 1:
        raise ValueError(
            f"{flag} is {model}, but there is no such folder. Name the folder of a model, or a Hub id such as "
            "user/name."
        )


def _not_opened(model: str, options: EmbeddingOptions, flag: str, error: Exception) -> ValueError:
    if "trust_remote_code" in str(error) and not options.trust_remote_code:
        return ValueError(
            f"{model} comes with code of its own, which is not run unless you trust it. Read it, and if you do, add "
            "--trust-remote-code."
        )
    revision = f" (revision {options.revision})" if options.revision else ""
    reason = " ".join(str(error).split())[:300]
    return ValueError(
        f"{flag} is {model}, but there is no such folder, and no such model{revision} on the Hub that can be read "
        f"({reason}). Check the spelling, the connection, and whether it needs `hf auth login`."
    )


def set_options(model: SentenceTransformer, options: EmbeddingOptions) -> SentenceTransformer:
    """Change what the flags ask for; everything else of the model stays."""
    if options.query_prompt is not None:
        model.prompts["query"] = options.query_prompt
    if options.document_prompt is not None:
        model.prompts["document"] = options.document_prompt
    if options.truncate_dim is not None:
        dimension = model.get_embedding_dimension()
        if not 1 <= options.truncate_dim <= int(dimension or options.truncate_dim):
            raise ValueError(f"--truncate-dim is {options.truncate_dim}, but 1 to {dimension} is expected.")
        model.truncate_dim = options.truncate_dim
    if options.max_seq_length is not None:
        limit = getattr(getattr(model.transformers_model, "config", None), "max_position_embeddings", None)
        if limit is None:
            raise ValueError("--max-seq-length was given, but this model has no length at which it cuts texts.")
        if not 3 <= options.max_seq_length <= limit:
            raise ValueError(f"--max-seq-length is {options.max_seq_length}, but 3 to {limit} tokens are expected.")
        model.max_seq_length = options.max_seq_length
    return model
