"""Embed a retrieval data set once with the base model, or take its vectors from the cache."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.choices import Precision
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.base_model import BaseModel, Role, check_encoder, is_unit, prompt_of
from st_adapter.embeddings.cache import DTYPES, VectorCache, autocast, cache_of_this_model, sample_of_texts
from st_adapter.embeddings.embedded import EmbeddedDataset, OwnCopies, Similarity, index_qrels
from st_adapter.embeddings.fingerprint import json_digest
from st_adapter.errors import InputError
from st_adapter.storage.files import check_writable

# A killed run loses at most the texts of one unfinished shard.
_SHARD_TEXTS = 2048
_CHUNK_TEXTS = 256


def embed(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> EmbeddedDataset:
    """Embed every query with ``encode_query`` and every document with ``encode_document``, each distinct text once.

    Vectors are cached as Arrow files under a key made of everything that can be read of the model in memory (see
    ``model_fingerprint``), the role, the prompt and the precision, and within it by text. Before cached vectors are
    used, 32 of their texts, the longest among them, are embedded afresh and compared: what no reading of a model shows
    is seen there, and all texts are embedded anew, with a warning. A second run embeds no more than these, and a killed
    run goes on after its last finished shard of 2,048 texts.

    Args:
        model: base model, on the device it shall run on.
        dataset: queries, corpus and judgements.
        cache_dir: where the cache lies; ``st_adapter`` in ``HF_HOME`` if None. One that cannot be written to is read,
            and what is new is kept in memory only, with a warning.
        batch_size: texts per forward pass, >= 1.
        precision: ``bf16`` or ``fp16`` run the model under autocast (GPUs); vectors are kept in float32 all the same.
        show_progress_bar: one bar for the queries, one for the documents, if there is anything to embed.

    Returns:
        Tensors on the model's device, rows in data set order.

    Raises:
        ValueError: the model is a cross-encoder or sparse, compares by Euclidean or Manhattan distance, has quantised
            weights, or gives a vector that is not finite; ``cache_dir`` cannot be made; a cached file cannot be read.
    """
    check_encoder(model)
    similarity = _similarity(model)
    store = Path(cache_dir) if cache_dir is not None else Path(HF_HOME) / "st_adapter"
    writable = _is_writable(store, given=cache_dir is not None)
    base_model = BaseModel.of(model)
    if base_model.fingerprint is None:
        raise ValueError(
            f"This model runs on the {model.get_backend()!r} backend, whose weights cannot be read to tell its cached "
            "vectors from those of another model. Load it with backend='torch' for training."
        )

    def embed_role(role: Role, texts: list[str]) -> Tensor:
        key = json_digest([base_model.fingerprint, role, prompt_of(model, role), precision, base_model.dimension])
        # Of models that nothing tells apart but their vectors, each has its own folder.
        folders = (store / "embeddings" / f"{key[:32]}{number}" for number in ("", *map("-{}".format, range(2, 100))))
        caches = (VectorCache(folder, base_model.dimension, writable=writable) for folder in folders)
        cache = cache_of_this_model(caches, model, role, texts, precision)
        todo = cache.missing(texts)
        if todo:
            _fill(cache, model, role, todo, batch_size, precision, show_progress_bar)
        return torch.from_numpy(cache.read(texts)).to(model.device)

    queries = embed_role("query", list(dataset.queries["text"]))
    corpus = embed_role("document", list(dataset.corpus["text"]))
    dtype = DTYPES.get(precision, model.dtype)
    unit = base_model.normalized and is_unit(queries, dtype) and is_unit(corpus, dtype)
    qrels = index_qrels(dataset, model.device)
    ids = list(dataset.queries["id"]), list(dataset.corpus["id"])
    copies = OwnCopies(*(torch.tensor(rows, dtype=torch.int64, device=model.device) for rows in dataset.own_copies))
    return EmbeddedDataset(*ids, queries, corpus, qrels, similarity, unit, base_model, copies)


def check_texts_of(dataset: RetrievalDataset) -> dict[Role, list[str]]:
    """The texts of a data set that a saved model is compared on; see ``save_pretrained``."""
    return {"query": sample_of_texts(dataset.queries["text"]), "document": sample_of_texts(dataset.corpus["text"])}


def _similarity(model: SentenceTransformer) -> Similarity:
    name = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name))
    if name not in ("cosine", "dot"):
        raise ValueError(
            f"This model compares by {name!r}, but an adapter needs a similarity that is linear in the query: cosine "
            "or dot. Load the model with similarity_fn_name='cosine' or 'dot' if your index compares that way."
        )
    return "cosine" if name == "cosine" else "dot"


def _is_writable(store: Path, given: bool) -> bool:
    """Whether embeddings can be kept; one warning if not.

    Raises:
        ValueError: the place was named and is not there to be read either.
    """
    try:
        check_writable(store, "cache_dir")
    except InputError as error:
        if given and not store.is_dir():
            raise
        problem = str(error).rpartition(" Choose ")[0]
        warnings.warn(
            f"{problem} So new embeddings are kept in memory only, and the next run computes them again. Name a place "
            "for them with cache_dir, or --cache-dir on the command line.",
            stacklevel=3,
        )
        return False
    return True


def _fill(
    cache: VectorCache,
    model: SentenceTransformer,
    role: Role,
    texts: list[str],
    batch_size: int,
    precision: Precision,
    show_progress_bar: bool,
) -> None:
    encode = model.encode_query if role == "query" else model.encode_document
    # Texts of like length share a batch, so little of it is padding.
    texts = sorted(texts, key=len, reverse=True)
    noun = "queries" if role == "query" else "documents"
    with tqdm(total=len(texts), desc=f"Embedding {noun}", unit="text", disable=not show_progress_bar) as progress:
        for start in range(0, len(texts), _SHARD_TEXTS):
            shard = texts[start : start + _SHARD_TEXTS]
            parts = []
            for offset in range(0, len(shard), _CHUNK_TEXTS):
                chunk = shard[offset : offset + _CHUNK_TEXTS]
                with autocast(model.device, precision):
                    vectors = encode(chunk, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
                parts.append(vectors.float().cpu().numpy())
                progress.update(len(chunk))
            cache.write(shard, np.concatenate(parts))
