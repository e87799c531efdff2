"""A retrieval data set as vectors: queries, corpus, judgements as indices, and a query's own copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from st_adapter.choices import SplitBy
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import cut_splits
from st_adapter.data.vectors import in_row_order, table_of_arrays
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus, Similarity, check_vectors, comparable
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.embeddings.own_copies import OwnCopies, copies_of, same_id_and_vector
from st_adapter.embeddings.tolerance import is_normalized


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


@dataclass(frozen=True)
class EmbeddedSplit:
    """The queries of one split, the whole corpus and the judgements between them; all tensors on one device.

    Attributes:
        name: ``train``, ``dev``, ``test`` or another split.
        query_ids: Q ids, row by row.
        query_embeddings: (Q, D) float32, as the base model gives them.
        corpus: the N documents and how they are compared with a query.
        qrels: judgements, indices into queries and corpus.
        normalized: whether the base model's vectors have unit length.
        base_model: the model that the vectors are of; None if unknown.
        own_copies: the documents that are a query's own text, as far as the texts tell. None where there are no texts:
            then it is the document with the query's id and, up to rounding, its vector.

    Raises:
        ValueError: ids, vectors and indices do not fit together, or a vector is not finite.
    """

    name: str
    query_ids: list[str]
    query_embeddings: Tensor
    corpus: Corpus
    qrels: EmbeddedQrels
    normalized: bool = True
    base_model: EncoderIdentity | None = None
    own_copies: OwnCopies | None = None

    def __post_init__(self) -> None:
        # Not kept as given, so that no user of the split has to ask for dtypes.
        object.__setattr__(self, "qrels", _as_qrels(self.qrels))
        _bring_into_form(self)
        _check_indices(self.name, self.qrels, len(self.query_ids), len(self.corpus))

    def __repr__(self) -> str:
        return f"EmbeddedSplit({self.name!r}: {_sizes(self)}, {self.num_pairs:,} relevant pairs)"

    @cached_property
    def left_out(self) -> OwnCopies:
        """The own copies that count neither as hits nor as negatives, by query: all that are not judged relevant."""
        copies = self.own_copies
        if copies is None:
            copies = same_id_and_vector(self.query_ids, self.query_embeddings, self.corpus)
        if len(copies.query_index) == 0:
            return copies
        num_documents = len(self.corpus)
        relevant = self.qrels.relevance > 0
        judged = self.qrels.query_index[relevant] * num_documents + self.qrels.corpus_index[relevant]
        keys = copies.query_index * num_documents + copies.corpus_index
        keys = keys[~torch.isin(keys, judged)].sort().values
        return OwnCopies(keys // num_documents, keys % num_documents)

    @property
    def judged(self) -> Tensor:
        """Which queries have a relevant document, and so count in a mean: (Q,) bool."""
        judged = torch.zeros(len(self.query_ids), dtype=torch.bool, device=self.query_embeddings.device)
        judged[self.qrels.query_index[self.qrels.relevance > 0]] = True
        return judged

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
            own_copies=copies_of(self.own_copies, kept),
        )

    def in_memory(self) -> EmbeddedSplit:
        """The same split with all documents in memory, where fits want them."""
        return replace(self, corpus=MemoryCorpus.of(self.corpus, self.query_embeddings.device))

    def comparable(self, query_embeddings: Tensor) -> Tensor:
        """Query vectors (n, D) whose dot product with a document is the similarity."""
        return comparable(query_embeddings, self.similarity)

    @property
    def similarity(self) -> Similarity:
        """``cosine`` or ``dot``, how the model compares a query with a document."""
        return self.corpus.similarity

    @property
    def dimension(self) -> int:
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
        query_embeddings: (Q, D) float32, as the base model gives them.
        corpus: the N documents, one corpus for all splits.
        qrels: split -> judgements.
        normalized: whether the base model's vectors have unit length.
        base_model: the model that the vectors are of; None if unknown.
        own_copies: as in ``EmbeddedSplit``.
        long_texts: how many texts are longer than what the model reads; None if it reads all to the end, or if nothing
            tells.
        notes: what was cut, merged or dropped, and with what vectors that came with the data were compared.

    Raises:
        ValueError: ids, vectors and indices do not fit together, or a vector is not finite.
    """

    query_ids: list[str]
    query_embeddings: Tensor
    corpus: Corpus
    qrels: dict[str, EmbeddedQrels]
    normalized: bool
    base_model: EncoderIdentity | None = None
    own_copies: OwnCopies | None = None
    long_texts: LongTexts | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "qrels", {split: _as_qrels(qrels) for split, qrels in self.qrels.items()})
        _bring_into_form(self)
        if len(set(self.query_ids)) < len(self.query_ids):
            raise ValueError("Two queries have the same id. Give each an id of its own, and one row.")
        for split, qrels in self.qrels.items():
            _check_indices(split, qrels, len(self.query_ids), len(self.corpus))
            if len((qrels.query_index * len(self.corpus) + qrels.corpus_index).unique()) < len(qrels.query_index):
                raise ValueError(f"{split!r} judges the same query and document twice. Pass one judgement of each.")

    def __repr__(self) -> str:
        judged = ", ".join(f"{split} {len(q.query_index.unique()):,}" for split, q in self.qrels.items())
        return f"EmbeddedDataset({_sizes(self)}; {judged} queries)"

    @classmethod
    def from_arrays(
        cls,
        *,
        queries: tuple[Iterable[Any], Any],
        corpus: tuple[Iterable[Any], Any],
        qrels: Any,
        similarity: Similarity = "cosine",
        seed: int = 0,
        split_by: SplitBy = "query",
    ) -> EmbeddedDataset:
        """Make a data set of vectors that are there already, without a model.

        Args:
            queries: Q ids, and their (Q, D) vectors of NumPy or PyTorch, or a column of a frame with one vector a row.
            corpus: N ids, and their (N, D) vectors.
            qrels: query id -> document id -> relevance, query id -> relevant ids, a table of ``query_id``,
                ``corpus_id`` and ``relevance``, or split -> any of these.
            similarity: ``cosine`` or ``dot``, how a query is compared with a document.
            seed: of the splits, if none are given; queries are cut by their ids.
            split_by: what stays on one side of a cut; see ``RetrievalDataset.load``.

        Raises:
            ValueError: ids, vectors and judgements do not fit together.

        Examples:
            >>> ids, vectors = [f"q{n}" for n in range(40)], torch.eye(40)
            >>> EmbeddedDataset.from_arrays(queries=(ids, vectors), corpus=(ids, vectors), qrels={i: [i] for i in ids})
            EmbeddedDataset(40 queries, 40 documents, 40 dimensions, cosine; train 29, dev 5, test 6 queries)
        """
        tables = {"queries": table_of_arrays(*queries), "corpus": table_of_arrays(*corpus), "qrels": qrels}
        dataset = RetrievalDataset.load(tables, seed=seed, split_by=split_by)
        if dataset.query_embeddings is None or dataset.corpus_embeddings is None:
            raise ValueError("There are no vectors. Pass (ids, vectors) for queries and for corpus.")
        vectors = torch.from_numpy(dataset.query_embeddings)
        dataset = cut_splits(dataset, vectors)
        documents = MemoryCorpus(list(dataset.corpus["id"]), torch.from_numpy(dataset.corpus_embeddings), similarity)
        return cls(
            query_ids=list(dataset.queries["id"]),
            query_embeddings=vectors,
            corpus=documents,
            qrels=index_qrels(dataset, documents, vectors.device),
            normalized=is_normalized(vectors, torch.float32),
            notes=dataset.notes,
        )

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
            query_embeddings=self.query_embeddings[rows],
            corpus=self.corpus,
            qrels=qrels._replace(query_index=query_index),
            normalized=self.normalized,
            base_model=self.base_model,
            own_copies=copies_of(self.own_copies, judged),
        )

    @property
    def similarity(self) -> Similarity:
        """``cosine`` or ``dot``, how the model compares a query with a document."""
        return self.corpus.similarity

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""
        return int(self.query_embeddings.shape[1])

    def in_memory(self) -> EmbeddedDataset:
        """The same data set with all documents in memory, where fits want them."""
        return replace(self, corpus=MemoryCorpus.of(self.corpus, self.query_embeddings.device))

    def to(self, device: str | torch.device) -> EmbeddedDataset:
        """The same data set with all tensors on ``device``, those of a corpus in memory too."""
        copies, corpus = self.own_copies, self.corpus
        return replace(
            self,
            query_embeddings=self.query_embeddings.to(device),
            corpus=corpus.to(device) if isinstance(corpus, MemoryCorpus) else corpus,
            qrels={split: EmbeddedQrels(*(part.to(device) for part in qrels)) for split, qrels in self.qrels.items()},
            own_copies=None if copies is None else OwnCopies(*(part.to(device) for part in copies)),
        )


def index_qrels(dataset: RetrievalDataset, corpus: Corpus, device: str | torch.device) -> dict[str, EmbeddedQrels]:
    """The judgements of each split as indices into the rows of queries and corpus, on ``device``."""
    query_rows = {query_id: row for row, query_id in enumerate(dataset.queries["id"])}
    named = {corpus_id for judged in dataset.qrels.values() for corpus_id in judged["corpus_id"]}
    corpus_rows = {corpus_id: row for row, corpus_id in enumerate(corpus.ids) if corpus_id in named}
    return {
        split: EmbeddedQrels(
            torch.tensor([query_rows[query_id] for query_id in judged["query_id"]], device=device),
            torch.tensor([corpus_rows[corpus_id] for corpus_id in judged["corpus_id"]], device=device),
            torch.tensor(list(judged["relevance"]), dtype=torch.float32, device=device),
        )
        for split, judged in dataset.qrels.items()
    }


def place_in_group(groups: Tensor, num_groups: int) -> Tensor:
    """For entries ordered by group, the place of each one in its own group, from 0: (P,) int64.

    Examples:
        >>> place_in_group(torch.tensor([0, 0, 2, 2, 2]), 3).tolist()
        [0, 1, 0, 1, 2]
    """
    counts = torch.bincount(groups, minlength=num_groups)
    return torch.arange(len(groups), device=groups.device) - (counts.cumsum(0) - counts)[groups]


def _as_qrels(given: EmbeddedQrels) -> EmbeddedQrels:
    cast = EmbeddedQrels(given.query_index.long(), given.corpus_index.long(), given.relevance.float())
    return given if all(one is other for one, other in zip(given, cast, strict=True)) else cast


def _bring_into_form(embedded: EmbeddedSplit | EmbeddedDataset) -> None:
    """Bring the queries into the form that the class promises, after a look at what came."""
    object.__setattr__(embedded, "query_ids", in_row_order(embedded.query_ids))
    object.__setattr__(embedded, "query_embeddings", embedded.query_embeddings.float())
    check_vectors("query", embedded.query_ids, embedded.query_embeddings)
    if embedded.dimension != embedded.corpus.dimension:
        raise ValueError(
            f"query_embeddings have {embedded.dimension} dimensions, but corpus_embeddings have "
            f"{embedded.corpus.dimension}. Embed both with the same base model."
        )
    if embedded.own_copies is not None:
        copies = OwnCopies(*(part.long() for part in embedded.own_copies))
        object.__setattr__(embedded, "own_copies", copies)
        _check_range("own copies", *copies, len(embedded.query_ids), len(embedded.corpus))


def _sizes(embedded: EmbeddedSplit | EmbeddedDataset) -> str:
    return (
        f"{len(embedded.query_ids):,} queries, {len(embedded.corpus):,} documents, "
        f"{embedded.dimension} dimensions, {embedded.similarity}"
    )


def _check_indices(split: str, qrels: EmbeddedQrels, num_queries: int, num_documents: int) -> None:
    if len({tuple(part.shape) for part in qrels}) > 1 or qrels.relevance.ndim != 1:
        shapes = [tuple(part.shape) for part in qrels]
        raise ValueError(
            f"The judgements of {split!r} have query_index, corpus_index and relevance of the shapes {shapes}. "
            "Pass three tensors with one entry per judgement."
        )
    if not torch.isfinite(qrels.relevance).all():
        raise ValueError(f"A judgement of {split!r} has a relevance that is NaN or infinite. Pass finite numbers.")
    _check_range(f"judgements of {split!r}", qrels.query_index, qrels.corpus_index, num_queries, num_documents)


def _check_range(what: str, query_index: Tensor, corpus_index: Tensor, num_queries: int, num_documents: int) -> None:
    if query_index.shape != corpus_index.shape or query_index.ndim != 1:
        raise ValueError(
            f"The {what} have indices of the shapes {tuple(query_index.shape)} and {tuple(corpus_index.shape)}. "
            "Pass two tensors with one entry per pair."
        )
    for index, size, side in ((query_index, num_queries, "query"), (corpus_index, num_documents, "corpus")):
        if len(index) and not (0 <= int(index.min()) and int(index.max()) < size):
            raise ValueError(f"The {what} point to {side} rows outside 0..{size - 1}. Pass indices of these rows.")
