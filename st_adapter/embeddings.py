"""Embed a retrieval data set once with the base model, and keep the vectors in a cache keyed by content."""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets import Sequence as SequenceFeature
from datasets.arrow_writer import ArrowWriter
from huggingface_hub.constants import HF_HOME
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from tqdm.auto import tqdm

from st_adapter.base_model import (
    BaseModel,
    Role,
    check_encoder,
    embed_texts,
    is_unit,
    prompt_of,
    relative_distances,
    same_within,
)
from st_adapter.data import RetrievalDataset
from st_adapter.errors import InputError
from st_adapter.fingerprint import json_digest
from st_adapter.storage import check_writable

Precision = Literal["fp32", "bf16", "fp16"]
Similarity = Literal["cosine", "dot"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A killed run loses at most the texts of one unfinished shard.
_SHARD_TEXTS = 2048
_CHUNK_TEXTS = 256
_UNIT_TOLERANCE = 1e-3
# Texts a role that are embedded afresh to see that cached vectors are this model's; few side by side, so that the
# longest one does not make a large batch as long as itself.
_SAMPLE_TEXTS, _SAMPLE_BATCH = 32, 8
# Batches of other sizes shift a vector; a cosine this near to 1 is the same text, whatever the precision.
_COPY_TOLERANCE = 1e-4
# Splits share one corpus tensor: version and similarity for which it was found to be in form.
_in_form: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class EmbeddedQrels(NamedTuple):
    """The judgements of one split as indices: P judged (query, document) pairs.

    Attributes:
        query_index: (P,) int64 into the queries.
        corpus_index: (P,) int64 into the corpus.
        relevance: (P,) float32; > 0 is relevant.
    """

    query_index: Tensor
    corpus_index: Tensor
    relevance: Tensor


class OwnCopies(NamedTuple):
    """Queries that stand in the corpus themselves, as indices: C (query, document) pairs, each once.

    Attributes:
        query_index: (C,) int64 into the queries.
        corpus_index: (C,) int64 into the corpus.
    """

    query_index: Tensor
    corpus_index: Tensor


@dataclass(frozen=True)
class EmbeddedSplit:
    """The queries of one split, the whole corpus and the judgements between them; all tensors on one device.

    Attributes:
        name: ``train``, ``dev``, ``test`` or another split.
        query_ids: Q ids, row by row.
        corpus_ids: N ids, row by row.
        query_embeddings: (Q, D) float32, as the base model gives them.
        corpus_embeddings: (N, D) float32; brought to unit length if ``similarity`` is cosine.
        qrels: judgements, indices into the two matrices.
        similarity: ``cosine`` or ``dot``, how the model compares a query with a document.
        unit: whether the base model's vectors have unit length.
        base_model: the model that the vectors are of; None if unknown.
        own_copies: the documents that are a query's own text, as far as the texts tell. None where there are no texts:
            then it is the document with the query's id and, up to rounding, its vector.

    Raises:
        ValueError: ids, matrices and indices do not fit together, or a vector is not finite.
    """

    name: str
    query_ids: list[str]
    corpus_ids: list[str]
    query_embeddings: Tensor
    corpus_embeddings: Tensor
    qrels: EmbeddedQrels
    similarity: Similarity = "cosine"
    unit: bool = True
    base_model: BaseModel | None = None
    own_copies: OwnCopies | None = None

    def __post_init__(self) -> None:
        # Not kept as given, so that no user of the split has to ask for dtypes or for the similarity.
        object.__setattr__(self, "qrels", _as_qrels(self.qrels))
        _bring_into_form(self)
        _check_indices(self.name, self.qrels, self.query_ids, self.corpus_ids)

    @property
    def left_out(self) -> OwnCopies:
        """The own copies that count neither as hits nor as negatives, by query: all that are not judged relevant."""
        copies = _same_id_and_vector(self) if self.own_copies is None else self.own_copies
        if len(copies.query_index) == 0:
            return copies
        num_documents = len(self.corpus_ids)
        relevant = self.qrels.relevance > 0
        judged = self.qrels.query_index[relevant] * num_documents + self.qrels.corpus_index[relevant]
        keys = copies.query_index * num_documents + copies.corpus_index
        keys = keys[~torch.isin(keys, judged)].sort().values
        return OwnCopies(keys // num_documents, keys % num_documents)

    def subset(self, kept: Tensor) -> EmbeddedSplit:
        """The split without the queries (and their judgements) for which ``kept``, (Q,) bool, is False."""
        judged = kept[self.qrels.query_index]
        query_index, corpus_index, relevance = (part[judged] for part in self.qrels)
        rows = kept.cumsum(0) - 1
        return replace(
            self,
            query_ids=[query_id for query_id, keep in zip(self.query_ids, kept.tolist(), strict=True) if keep],
            query_embeddings=self.query_embeddings[kept],
            qrels=EmbeddedQrels(rows[query_index], corpus_index, relevance),
            own_copies=_copies_of(self.own_copies, kept),
        )

    @property
    def dim(self) -> int:
        """D, the number of dimensions."""
        return int(self.query_embeddings.shape[1])

    @property
    def num_pairs(self) -> int:
        """How many judged pairs are relevant."""
        return int((self.qrels.relevance > 0).sum())


@dataclass(frozen=True)
class EmbeddedDataset:
    """A retrieval data set as vectors: ``embedded["train"]`` is what training and evaluation take.

    Attributes:
        query_ids: Q ids of all splits, row by row.
        corpus_ids: N ids, row by row.
        query_embeddings: (Q, D) float32, as the base model gives them.
        corpus_embeddings: (N, D) float32; of unit length if ``similarity`` is cosine. One tensor for all splits.
        qrels: split -> judgements.
        similarity: ``cosine`` or ``dot``.
        unit: whether the base model's vectors have unit length.
        base_model: the model that the vectors are of; None if unknown.
        own_copies: as in ``EmbeddedSplit``.

    Raises:
        ValueError: ids, matrices and indices do not fit together, or a vector is not finite.
    """

    query_ids: list[str]
    corpus_ids: list[str]
    query_embeddings: Tensor
    corpus_embeddings: Tensor
    qrels: dict[str, EmbeddedQrels]
    similarity: Similarity
    unit: bool
    base_model: BaseModel | None = None
    own_copies: OwnCopies | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "qrels", {split: _as_qrels(qrels) for split, qrels in self.qrels.items()})
        _bring_into_form(self)
        for split, qrels in self.qrels.items():
            _check_indices(split, qrels, self.query_ids, self.corpus_ids)

    def __getitem__(self, split: str) -> EmbeddedSplit:
        """The queries that a split judges, in data set order, with the whole corpus.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.qrels:
            raise ValueError(
                f"There is no split {split!r}; this data set has {list(self.qrels)}. Ask for one of these."
            )
        qrels = self.qrels[split]
        rows, query_index = qrels.query_index.unique(return_inverse=True)
        judged = torch.zeros(len(self.query_ids), dtype=torch.bool, device=rows.device)
        judged[rows] = True
        return EmbeddedSplit(
            name=split,
            query_ids=[self.query_ids[row] for row in rows.tolist()],
            corpus_ids=self.corpus_ids,
            query_embeddings=self.query_embeddings[rows],
            corpus_embeddings=self.corpus_embeddings,
            qrels=qrels._replace(query_index=query_index),
            similarity=self.similarity,
            unit=self.unit,
            base_model=self.base_model,
            own_copies=_copies_of(self.own_copies, judged),
        )

    def to(self, device: str | torch.device) -> EmbeddedDataset:
        """The same data set with all tensors on ``device``."""
        copies = self.own_copies
        return replace(
            self,
            query_embeddings=self.query_embeddings.to(device),
            corpus_embeddings=self.corpus_embeddings.to(device),
            qrels={split: EmbeddedQrels(*(part.to(device) for part in qrels)) for split, qrels in self.qrels.items()},
            own_copies=None if copies is None else OwnCopies(*(part.to(device) for part in copies)),
        )


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
        caches = (_VectorCache(folder, base_model.dimension, writable=writable) for folder in folders)
        cache = _cache_of_this_model(caches, model, role, texts, precision)
        todo = cache.missing(texts)
        if todo:
            _fill(cache, model, role, todo, batch_size, precision, show_progress_bar)
        return torch.from_numpy(cache.read(texts)).to(model.device)

    queries = embed_role("query", list(dataset.queries["text"]))
    corpus = embed_role("document", list(dataset.corpus["text"]))
    dtype = _DTYPES.get(precision, model.dtype)
    unit = base_model.normalized and is_unit(queries, dtype) and is_unit(corpus, dtype)
    qrels = index_qrels(dataset, model.device)
    ids = list(dataset.queries["id"]), list(dataset.corpus["id"])
    copies = OwnCopies(*(torch.tensor(rows, dtype=torch.int64, device=model.device) for rows in dataset.own_copies))
    return EmbeddedDataset(*ids, queries, corpus, qrels, similarity, unit, base_model, copies)


def index_qrels(dataset: RetrievalDataset, device: str | torch.device) -> dict[str, EmbeddedQrels]:
    """The judgements of each split as indices into the rows of queries and corpus, on ``device``."""
    query_rows = {query_id: row for row, query_id in enumerate(dataset.queries["id"])}
    corpus_rows = {corpus_id: row for row, corpus_id in enumerate(dataset.corpus["id"])}
    return {
        split: EmbeddedQrels(
            torch.tensor([query_rows[query_id] for query_id in judged["query_id"]], device=device),
            torch.tensor([corpus_rows[corpus_id] for corpus_id in judged["corpus_id"]], device=device),
            torch.tensor(list(judged["score"]), dtype=torch.float32, device=device),
        )
        for split, judged in dataset.qrels.items()
    }


def place_in_group(groups: Tensor, num_groups: int) -> Tensor:
    """For entries ordered by group, the place of each one in its own group, from 0: (P,) int64.

    Example:
        >>> place_in_group(torch.tensor([0, 0, 2, 2, 2]), 3).tolist()
        [0, 1, 0, 1, 2]
    """
    counts = torch.bincount(groups, minlength=num_groups)
    return torch.arange(len(groups), device=groups.device) - (counts.cumsum(0) - counts)[groups]


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
    cache: _VectorCache,
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
                with _autocast(model.device, precision):
                    vectors = encode(chunk, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
                parts.append(vectors.float().cpu().numpy())
                progress.update(len(chunk))
            cache.write(shard, np.concatenate(parts))


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def sample_of_texts(texts: Iterable[str], size: int = _SAMPLE_TEXTS) -> list[str]:
    """Some of the texts, the longest first and the shortest among them, always the same ones; all if there are few."""
    by_length = sorted(dict.fromkeys(texts), key=len, reverse=True)
    if len(by_length) <= size:
        return by_length
    drawn = sorted(by_length[1:-1], key=_text_key)[: size - 2]
    return sorted([by_length[0], *drawn, by_length[-1]], key=len, reverse=True)


def check_texts_of(dataset: RetrievalDataset) -> dict[Role, list[str]]:
    """The texts of a data set that a saved model is compared on; see ``save_pretrained``."""
    return {"query": sample_of_texts(dataset.queries["text"]), "document": sample_of_texts(dataset.corpus["text"])}


def _cache_of_this_model(
    caches: Iterable[_VectorCache], model: SentenceTransformer, role: Role, texts: list[str], precision: Precision
) -> _VectorCache:
    """The first cache whose vectors are those that the model gives now, or that has none of these texts."""
    for cache in caches:
        sample = sample_of_texts(cache.known(texts))
        if not sample:
            return cache
        with _autocast(model.device, precision):
            fresh = embed_texts(model, role, sample, _SAMPLE_BATCH).float().cpu().numpy()
        tolerance = same_within(_DTYPES.get(precision, model.dtype))
        distance = float(relative_distances(cache.read(sample), fresh).max())
        if distance <= tolerance:
            return cache
        with _autocast(model.device, precision):
            alone = embed_texts(model, role, sample, 1).float().cpu().numpy()
        if relative_distances(alone, fresh).max() > tolerance:
            warnings.warn(
                "This model gives a text another vector when other texts share its batch (padding on the left of a "
                "model that was not made for it does that), so whether cached vectors are its own cannot be checked.",
                stacklevel=4,
            )
            return cache
        warnings.warn(
            f"The cache holds vectors of another model that cannot be told from this one by its weights, settings and "
            f"code: of {len(sample)} {role} texts embedded again, one lies {distance:.2g} of its length apart. Its "
            f"vectors are not used; the texts are embedded anew.",
            stacklevel=4,
        )
    raise ValueError(
        "The cache holds vectors of a hundred models that look like this one, so it gives other vectors each time "
        "it is called. Make it deterministic: an adapter cannot be fitted to vectors that change."
    )


class _VectorCache:
    """Vectors of one model and prompt in a folder of Arrow shards, found again by the SHA-256 of their text."""

    def __init__(self, folder: Path, dim: int, *, writable: bool = True) -> None:
        self.folder = folder
        self.dim = dim
        self.writable = writable
        self._shards: list[NDArray[np.float32]] = []
        self._where: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.arrow")):
            self._add(path)

    def known(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts with a vector, in order."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) in self._where]

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts without a vector, in order."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) not in self._where]

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The (T, D) vectors of texts that all have one."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            shard, index = self._where[_text_key(text)]
            vectors[row] = self._shards[shard][index]
        return vectors

    def write(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the (T, D) vectors of some texts in a new shard, whole or not at all."""
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            first = [texts[row][:60] for row in np.flatnonzero(bad)[:3]]
            raise ValueError(
                f"The base model gave NaN or infinite values for {int(bad.sum())} texts, the first: {first}. "
                "Check these texts and the model's weights; with fp16 try bf16 or fp32."
            )
        if not self.writable:
            self._keep([_text_key(text) for text in texts], vectors)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        unfinished, finished = self.folder / f"{name}.part", self.folder / f"{name}.arrow"
        features = Features({"key": Value("string"), "embedding": SequenceFeature(Value("float32"), length=self.dim)})
        try:
            with ArrowWriter(path=str(unfinished), features=features) as writer:
                writer.write_batch({"key": [_text_key(text) for text in texts], "embedding": vectors})
                writer.finalize()
            unfinished.replace(finished)
        finally:
            unfinished.unlink(missing_ok=True)
        self._add(finished)

    def _add(self, path: Path) -> None:
        try:
            table = Dataset.from_file(str(path)).data.table
            keys = table["key"].to_pylist()
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(keys), self.dim)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"The cached embeddings in {path} cannot be read as vectors of {self.dim} dimensions ({error}). "
                "Delete that file; its texts will be embedded again."
            ) from error
        self._keep(keys, vectors)

    def _keep(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._where.update((key, (len(self._shards), row)) for row, key in enumerate(keys))
        self._shards.append(vectors)


def _as_qrels(given: EmbeddedQrels) -> EmbeddedQrels:
    cast = EmbeddedQrels(given.query_index.long(), given.corpus_index.long(), given.relevance.float())
    return given if all(one is other for one, other in zip(given, cast, strict=True)) else cast


def _bring_into_form(embedded: EmbeddedSplit | EmbeddedDataset) -> None:
    """Bring the vectors into the form that the class promises, after a look at what came."""
    object.__setattr__(embedded, "query_embeddings", embedded.query_embeddings.float())
    object.__setattr__(embedded, "corpus_embeddings", embedded.corpus_embeddings.float())
    _check_shape("query", embedded.query_ids, embedded.query_embeddings)
    _check_shape("corpus", embedded.corpus_ids, embedded.corpus_embeddings)
    if embedded.query_embeddings.shape[1] != embedded.corpus_embeddings.shape[1]:
        raise ValueError(
            f"query_embeddings have {embedded.query_embeddings.shape[1]} dimensions, but corpus_embeddings have "
            f"{embedded.corpus_embeddings.shape[1]}. Embed both with the same base model."
        )
    _check_finite("query", embedded.query_ids, embedded.query_embeddings)
    corpus = embedded.corpus_embeddings
    if not _is_in_form(corpus, embedded.similarity):
        _check_finite("corpus", embedded.corpus_ids, corpus)
        corpus = _comparable(corpus, embedded.similarity)
        object.__setattr__(embedded, "corpus_embeddings", corpus)
        if not corpus.is_inference():
            _in_form[corpus] = (corpus._version, embedded.similarity)
    if embedded.own_copies is not None:
        copies = OwnCopies(*(part.long() for part in embedded.own_copies))
        object.__setattr__(embedded, "own_copies", copies)
        _check_range("own copies", *copies, embedded.query_ids, embedded.corpus_ids)


def _is_in_form(corpus_embeddings: Tensor, similarity: Similarity) -> bool:
    """Whether these very documents were looked at before, and have not been written into since."""
    if corpus_embeddings.is_inference() or corpus_embeddings not in _in_form:
        return False
    return bool(_in_form[corpus_embeddings] == (corpus_embeddings._version, similarity))


def _comparable(corpus_embeddings: Tensor, similarity: Similarity) -> Tensor:
    """Documents whose dot product with a unit query is the similarity; the same tensor if nothing has to change."""
    if similarity == "dot":
        return corpus_embeddings
    lengths = corpus_embeddings.norm(dim=1)
    off = ((lengths - 1).abs() > _UNIT_TOLERANCE) & (lengths > 0)  # a row of zeros stays what it is
    return torch.nn.functional.normalize(corpus_embeddings) if off.any() else corpus_embeddings


def _check_shape(side: str, ids: Sequence[str], embeddings: Tensor) -> None:
    if embeddings.ndim != 2 or len(ids) != len(embeddings):
        raise ValueError(
            f"{side}_embeddings have shape {tuple(embeddings.shape)}, but there are {len(ids)} ids. "
            "Pass one row of D numbers per id."
        )


def _check_finite(side: str, ids: Sequence[str], embeddings: Tensor) -> None:
    bad = ~torch.isfinite(embeddings).all(dim=1)
    if bad.any():
        rows = bad.nonzero().squeeze(1).tolist()
        raise ValueError(
            f"{len(rows)} rows of {side}_embeddings hold NaN or infinite values, the first: "
            f"{[ids[row] for row in rows[:3]]}. Embed these texts again."
        )


def _check_indices(split: str, qrels: EmbeddedQrels, query_ids: Sequence[str], corpus_ids: Sequence[str]) -> None:
    if len({tuple(part.shape) for part in qrels}) > 1 or qrels.relevance.ndim != 1:
        shapes = [tuple(part.shape) for part in qrels]
        raise ValueError(
            f"The judgements of {split!r} have query_index, corpus_index and relevance of the shapes {shapes}. "
            "Pass three tensors with one entry per judgement."
        )
    if not torch.isfinite(qrels.relevance).all():
        raise ValueError(f"A judgement of {split!r} has a relevance that is NaN or infinite. Pass finite numbers.")
    _check_range(f"judgements of {split!r}", qrels.query_index, qrels.corpus_index, query_ids, corpus_ids)


def _check_range(
    what: str, query_index: Tensor, corpus_index: Tensor, query_ids: Sequence[str], corpus_ids: Sequence[str]
) -> None:
    if query_index.shape != corpus_index.shape or query_index.ndim != 1:
        raise ValueError(
            f"The {what} have indices of the shapes {tuple(query_index.shape)} and {tuple(corpus_index.shape)}. "
            "Pass two tensors with one entry per pair."
        )
    for index, size, side in ((query_index, len(query_ids), "query"), (corpus_index, len(corpus_ids), "corpus")):
        if len(index) and not (0 <= int(index.min()) and int(index.max()) < size):
            raise ValueError(f"The {what} point to {side} rows outside 0..{size - 1}. Pass indices of these rows.")


def _copies_of(copies: OwnCopies | None, kept: Tensor) -> OwnCopies | None:
    """The own copies of the queries that are kept, (Q,) bool, as indices into these."""
    if copies is None:
        return None
    there = kept[copies.query_index]
    rows = kept.cumsum(0) - 1
    return OwnCopies(rows[copies.query_index[there]], copies.corpus_index[there])


def _same_id_and_vector(split: EmbeddedSplit) -> OwnCopies:
    """The documents with a query's id and vector: "1", "2", ... often number both sides, so ids alone say nothing."""
    row_of = {query_id: row for row, query_id in enumerate(split.query_ids)}
    pairs = [(row_of[one], document) for document, one in enumerate(split.corpus_ids) if one in row_of]
    device = split.query_embeddings.device
    query_index, corpus_index = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2).unbind(1)
    queries, documents = split.query_embeddings[query_index], split.corpus_embeddings[corpus_index]
    lengths = queries.norm(dim=1), documents.norm(dim=1)
    same = (queries * documents).sum(dim=1) >= (1 - _COPY_TOLERANCE) * lengths[0] * lengths[1]
    if split.similarity == "dot":
        # With the cosine, the documents have lost the lengths they had.
        same &= (lengths[0] - lengths[1]).abs() <= _COPY_TOLERANCE * lengths[0]
    return OwnCopies(query_index[same], corpus_index[same])


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
