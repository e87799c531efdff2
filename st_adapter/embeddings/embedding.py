"""Embed a retrieval data set once with the base model, or take its vectors from the cache."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.constants import HF_HOME
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.choices import Precision
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import cut_splits
from st_adapter.embeddings.cache import VectorCache
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, OwnCopies, index_qrels
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder, encode
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.errors import InputError
from st_adapter.storage.writing import check_writable

# A killed run loses at most the texts of one unfinished shard.
_SHARD_TEXTS = 2048
_CHUNK_TEXTS = 256


def embed(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> EmbeddedDataset:
    """Embed every query and every document, each distinct text once.

    Vectors are cached as Arrow files under a key made of everything that can be read of the model in memory (see
    ``model_fingerprint``), the role, the prompt and the precision, and within it by text. Before cached vectors are
    used, 32 of their texts, the longest among them, are embedded afresh and compared: if they differ, all are embedded
    anew, with a warning. A second run embeds no more than these; a killed one goes on after its last finished shard.

    Splits that are to be cut by document are cut here, with the paraphrases that the embeddings show.

    Args:
        model: base model, on the device it shall run on; its ``encode_query`` and ``encode_document`` are used. Or
            another ``Encoder``, which says itself how it is run.
        dataset: queries, corpus and judgements.
        cache_dir: where the cache lies; ``st_adapter`` in ``HF_HOME`` if None. One that cannot be written to is read,
            and what is new is kept in memory only, with a warning.
        batch_size: texts per forward pass of a ``SentenceTransformer``, >= 1.
        precision: ``bf16`` or ``fp16`` run the model under autocast (GPUs); vectors are kept in float32 all the same.
        show_progress_bar: one bar for the queries, one for the documents, if there is anything to embed.

    Returns:
        Tensors on the model's device, rows in data set order.

    Raises:
        ValueError: the model is a cross-encoder or sparse, compares by Euclidean or Manhattan distance, has quantised
            weights, or gives a vector that is not finite; ``cache_dir`` cannot be made; a cached file cannot be read.

    Example:
        >>> embedded = embed(model, dataset, cache_dir="cache", show_progress_bar=False)
        >>> embedded["test"].query_embeddings.shape[1]
        32
    """
    texts = embed_texts(
        model,
        dataset,
        cache_dir=cache_dir,
        batch_size=batch_size,
        precision=precision,
        show_progress_bar=show_progress_bar,
    )
    return judged_by(texts, cut_splits(dataset, texts.query_embeddings))


def judged_by(texts: EmbeddedDataset, dataset: RetrievalDataset) -> EmbeddedDataset:
    """The texts of a data set, embedded, with its judgements."""
    return replace(texts, qrels=index_qrels(dataset, texts.query_embeddings.device))


def embed_texts(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> EmbeddedDataset:
    """As ``embed``, but without judgements and splits: those are cut and indexed once it is known what to do with them.

    See ``paraphrases.cut_splits`` and ``judged_by``.
    """
    encoder = _as_encoder(model, batch_size, precision)
    store = Path(cache_dir) if cache_dir is not None else Path(HF_HOME) / "st_adapter"
    writable = _is_writable(store, given=cache_dir is not None)
    identity = encoder.identity

    def embed_role(role: Role, texts: list[str]) -> _Embedded:
        cache = VectorCache.of(encoder, identity, role, texts, store, writable=writable)
        _fill(cache, encoder, role, cache.missing(texts), show_progress_bar)
        return _Embedded(torch.from_numpy(cache.read(texts)).to(encoder.device), _num_cut(cache, encoder, role, texts))

    queries = embed_role("query", list(dataset.queries["text"]))
    corpus = embed_role("document", list(dataset.corpus["text"]))
    return EmbeddedDataset(
        query_ids=list(dataset.queries["id"]),
        query_embeddings=queries.vectors,
        corpus=MemoryCorpus(list(dataset.corpus["id"]), corpus.vectors, encoder.similarity),
        qrels={},
        normalized=identity.normalized
        and all(is_normalized(each.vectors, encoder.dtype) for each in (queries, corpus)),
        base_model=identity,
        own_copies=_own_copies(dataset, encoder.device),
        long_texts=_long_texts(identity.max_seq_length, queries.num_cut, corpus.num_cut),
    )


@dataclass(frozen=True)
class _Embedded:
    vectors: Tensor  # (T, D) float32
    num_cut: int | None  # of the distinct texts; None if all are read to the end, or if nothing tells


def _as_encoder(model: SentenceTransformer | Encoder, batch_size: int, precision: Precision) -> Encoder:
    # What is no encoder at all is refused by what is made for models.
    if isinstance(model, SentenceTransformer) or not hasattr(type(model), "cache_key"):
        return SentenceTransformerEncoder(model, batch_size=batch_size, precision=precision)
    if (batch_size, precision) != (32, "fp32"):
        raise ValueError(
            f"batch_size is {batch_size} and precision {precision!r}, but an Encoder says itself how it is run. Give "
            "them to the encoder."
        )
    return model


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
            stacklevel=4,
        )
        return False
    return True


def _fill(cache: VectorCache, encoder: Encoder, role: Role, texts: list[str], show_progress_bar: bool) -> None:
    """Embed texts and write them into the cache, with which of them are cut."""
    if not texts:
        return
    fixed = cache.missing(encoder.compared_on or ())
    if fixed:
        cache.write(fixed, encode(encoder, role, fixed, _CHUNK_TEXTS))
    # Texts of like length share a batch, so little of it is padding.
    texts = sorted(texts, key=len, reverse=True)
    at_once = encoder.texts_per_answer or _CHUNK_TEXTS
    noun = "queries" if role == "query" else "documents"
    with tqdm(total=len(texts), desc=f"Embedding {noun}", unit="text", disable=not show_progress_bar) as progress:
        for start in range(0, len(texts), _SHARD_TEXTS):
            shard = texts[start : start + _SHARD_TEXTS]
            parts = []
            for offset in range(0, len(shard), at_once):
                chunk = shard[offset : offset + at_once]
                parts.append(encode(encoder, role, chunk, at_once))
                if encoder.texts_per_answer is not None and len(chunk) < len(shard):
                    cache.write_ahead(chunk, parts[-1])
                progress.update(len(chunk))
            cache.write(shard, np.concatenate(parts), encoder.are_cut(shard, role))


def _num_cut(cache: VectorCache, encoder: Encoder, role: Role, texts: list[str]) -> int | None:
    """How many distinct texts are cut; those of which the cache does not tell are looked at now."""
    known = cache.cut(texts)
    looked_at = encoder.are_cut([text for text in dict.fromkeys(texts) if text not in known], role)
    return None if looked_at is None else sum(known.values()) + sum(looked_at)


def _own_copies(dataset: RetrievalDataset, device: torch.device) -> OwnCopies:
    return OwnCopies(*(torch.tensor(rows, dtype=torch.int64, device=device) for rows in dataset.own_copies))


def _long_texts(max_seq_length: int | None, num_queries: int | None, num_documents: int | None) -> LongTexts | None:
    if max_seq_length is None or num_queries is None or num_documents is None:
        return None
    return LongTexts(max_seq_length, num_queries, num_documents)
