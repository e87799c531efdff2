"""Embed a retrieval data set once with the base model, or take its vectors from the cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
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
from st_adapter.data.pseudo_queries import MIN_PSEUDO_QUERIES, PseudoQueries, pseudo_queries
from st_adapter.embeddings.cache import VectorCache
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus, Similarity
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit, index_qrels
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder, encode, is_encoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.embeddings.own_copies import OwnCopies, copies_in_store, same_id_and_vector
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.errors import InputError
from st_adapter.storage.writing import check_writable
from st_adapter.stores.folder import VectorFolder
from st_adapter.stores.store import Store, Vectors

# A killed run loses at most the texts of one unfinished shard.
_SHARD_TEXTS = 2048
_CHUNK_TEXTS = 256


def judged_by(texts: EmbeddedDataset, dataset: RetrievalDataset) -> EmbeddedDataset:
    """The texts of a data set, embedded, with its judgements."""
    qrels = index_qrels(dataset, texts.corpus, texts.query_embeddings.device)
    return replace(texts, qrels=qrels, notes=dataset.notes)


def embed_texts(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> EmbeddedDataset:
    """As ``embed``, but without judgements and splits, which are cut and indexed once it is known what to do with them.

    See ``paraphrases.cut_splits`` and ``judged_by``; vectors that came with the data are not compared with the model.
    """
    encoder = as_encoder(model, batch_size, precision)
    embedding = _embedding(encoder, cache_dir, show_progress_bar)
    queries = embedding.side("query", dataset.query_texts, dataset.query_embeddings)
    corpus: Corpus
    documents = None
    if dataset.store is not None:
        corpus = stored_corpus(dataset.store, encoder.similarity)
    else:
        documents = embedding.side("document", dataset.document_texts, dataset.corpus_embeddings)
        corpus = MemoryCorpus(list(dataset.corpus["id"]), documents.vectors, encoder.similarity)
    sides = [queries] if documents is None else [queries, documents]
    # Without labels there may be no query, which says nothing.
    lengths_of = [side.vectors for side in sides if len(side.vectors)]
    return EmbeddedDataset(
        query_ids=list(dataset.queries["id"]),
        query_embeddings=queries.vectors,
        corpus=corpus,
        qrels={},
        normalized=embedding.identity.normalized and all(is_normalized(each, encoder.dtype) for each in lengths_of),
        base_model=embedding.identity,
        own_copies=own_copies_of(dataset, queries.vectors, corpus),
        long_texts=_long_texts(embedding.identity.max_seq_length, [each.num_cut for each in sides]),
    )


def embed_pseudo_queries(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    embedded: EmbeddedDataset,
    *,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> EmbeddedSplit | None:
    """Embed portions of the documents as queries; see ``pseudo_queries``.

    Args:
        model: as in ``embed``.
        dataset: its documents have texts, or nothing can be made of them.
        embedded: the same, embedded.
        seed: of the documents that are taken, if there are many.
        cache_dir: as in ``embed``, like the others.
        batch_size: texts per forward pass.
        precision: of the forward pass.
        show_progress_bar: one bar.

    Returns:
        A split whose judgements say which document each is of; None without texts, with documents in a store, of which
        only the labelled ones are at hand, or if fewer than 50 documents are long enough.

    Examples:
        >>> embedded = st_adapter.embed(model, dataset, cache_dir="cache", show_progress_bar=False)
        >>> embed_pseudo_queries(model, dataset, embedded, cache_dir="cache", show_progress_bar=False) is None
        True
    """
    made = pseudo_queries_from(dataset, seed)
    if made is None:
        return None
    encoder = as_encoder(model, batch_size, precision)
    return split_of_pseudo_queries(
        made, embed_role(encoder, "query", made.texts, cache_dir, show_progress_bar), embedded
    )


def pseudo_queries_from(dataset: RetrievalDataset, seed: int) -> PseudoQueries | None:
    """Portions of the documents; None where there are no texts of all of them, or too few portions."""
    texts = dataset.document_texts
    if texts is None or dataset.store is not None:
        return None
    made = pseudo_queries(texts, seed)
    return made if len(made.texts) >= MIN_PSEUDO_QUERIES else None


def split_of_pseudo_queries(made: PseudoQueries, vectors: Tensor, embedded: EmbeddedDataset) -> EmbeddedSplit:
    """Pseudo-queries with their (Q, D) vectors as a split, whose judgements say which document each is of."""
    rows = torch.arange(len(made.rows), device=vectors.device)
    return EmbeddedSplit(
        name="pseudo-queries",
        query_ids=[f"pseudo-{row}" for row in made.rows],
        query_embeddings=vectors,
        corpus=embedded.corpus,
        qrels=EmbeddedQrels(rows, torch.tensor(made.rows, device=vectors.device), torch.ones_like(rows)),
        normalized=embedded.normalized,
        base_model=embedded.base_model,
        own_copies=OwnCopies(rows[:0], rows[:0]),
    )


def embed_role(
    encoder: Encoder,
    role: Role,
    texts: list[str],
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
) -> Tensor:
    """The vectors (T, D) of texts in a role, embedded once and cached as those of a data set; see ``embed``."""
    return _embedding(encoder, cache_dir, show_progress_bar).side(role, texts, None).vectors


def embed_as_queries(
    model: SentenceTransformer | Encoder,
    texts: list[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
) -> Tensor:
    """The (T, D) vectors of texts as queries, or those of the cache; see ``embed``."""
    return embed_role(as_encoder(model, batch_size, precision), "query", texts, cache_dir, show_progress_bar)


def stored_corpus(store: Store | VectorFolder, similarity: Similarity) -> Corpus:
    """The documents of a store, or of a folder of vectors."""
    return DiskCorpus(store, similarity) if isinstance(store, VectorFolder) else StoreCorpus(store, similarity)


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where the cache lies."""
    return Path(cache_dir) if cache_dir is not None else Path(HF_HOME) / "st_adapter"


def _embedding(encoder: Encoder, cache_dir: str | os.PathLike[str] | None, show_progress_bar: bool) -> _Embedding:
    folder = cache_folder(cache_dir)
    writable = _is_writable(folder, given=cache_dir is not None)
    return _Embedding(encoder, encoder.identity, folder, writable, show_progress_bar)


@dataclass(frozen=True)
class _Embedded:
    vectors: Tensor  # (T, D) float32
    num_cut: int | None  # of the distinct texts; None if all are read to the end, or if nothing tells


@dataclass(frozen=True)
class _Embedding:
    """An encoder with its cache."""

    encoder: Encoder
    identity: EncoderIdentity
    folder: Path
    writable: bool
    show_progress_bar: bool

    def side(self, role: Role, texts: list[str] | None, given: Vectors | None) -> _Embedded:
        """The vectors of queries or documents: those that came with the data, or else those of their texts."""
        if given is not None:
            return _Embedded(torch.from_numpy(given).to(self.encoder.device), None)
        texts = texts or []  # there is one or the other
        cache = VectorCache.of(self.encoder, self.identity, role, texts, self.folder, writable=self.writable)
        _fill(cache, self.encoder, role, cache.missing(texts), self.show_progress_bar)
        vectors = torch.from_numpy(cache.read(texts)).to(self.encoder.device)
        return _Embedded(vectors, _num_cut(cache, self.encoder, role, texts))


def as_encoder(model: SentenceTransformer | Encoder, batch_size: int = 32, precision: Precision = "fp32") -> Encoder:
    """A model with the way it is run; an encoder as it is."""
    if not is_encoder(model):
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
    fixed = cache.missing(cache.fixed)
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


def own_copies_of(dataset: RetrievalDataset, queries: Tensor, corpus: Corpus) -> OwnCopies | None:
    """Which documents are a query's own text; of a store those among what (Q, D) vectors find first."""
    if isinstance(corpus, StoreCorpus):
        return copies_in_store(dataset.query_texts, queries, corpus)
    if isinstance(corpus, DiskCorpus):
        # Once for all splits: so many ids take a while to look through.
        return same_id_and_vector(list(dataset.queries["id"]), queries, corpus)
    if dataset.own_copies is None:
        return None
    return OwnCopies(*(torch.tensor(rows, dtype=torch.int64, device=queries.device) for rows in dataset.own_copies))


def _long_texts(max_seq_length: int | None, num_cut: Sequence[int | None]) -> LongTexts | None:
    if max_seq_length is None or len(num_cut) < 2 or None in num_cut:
        return None
    return LongTexts(max_seq_length, *(number or 0 for number in num_cut))
