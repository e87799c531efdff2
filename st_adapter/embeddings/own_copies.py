"""Queries that stand in the corpus themselves: which documents they are, as far as texts or vectors tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.data.cutting import text_key
from st_adapter.embeddings.corpus import Corpus, comparable
from st_adapter.embeddings.store_corpus import StoreCorpus

# Batches of other sizes shift a vector; a cosine this near to 1 is the same text, whatever the precision.
_COPY_TOLERANCE = 1e-4
# A text is found first by itself; a prompt of the queries may put some others before it.
_FIRST_HITS = 5


class OwnCopies(NamedTuple):
    """Queries that stand in the corpus themselves, as indices: C (query, document) pairs, each once.

    Attributes:
        query_index: (C,) int64 into the queries.
        corpus_index: (C,) int64 into the corpus.
    """

    query_index: Tensor
    corpus_index: Tensor


def copies_of(copies: OwnCopies | None, kept: Tensor) -> OwnCopies | None:
    """The own copies of the queries that are kept, (Q,) bool, as indices into these."""
    if copies is None:
        return None
    there = kept[copies.query_index]
    rows = kept.cumsum(0) - 1
    return OwnCopies(rows[copies.query_index[there]], copies.corpus_index[there])


def same_id_and_vector(query_ids: Sequence[str], query_embeddings: Tensor, corpus: Corpus) -> OwnCopies:
    """The documents with a query's id and vector: "1", "2", ... often number both sides, so ids alone say nothing."""
    row_of = {query_id: row for row, query_id in enumerate(query_ids)}
    pairs = [(row_of[one], document) for document, one in enumerate(corpus.ids) if one in row_of]
    device = query_embeddings.device
    query_index, corpus_index = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2).unbind(1)
    if not pairs:
        return OwnCopies(query_index, corpus_index)
    return _with_the_same_vector(query_embeddings, corpus, OwnCopies(query_index, corpus_index))


def copies_in_store(query_texts: Sequence[str] | None, query_embeddings: Tensor, corpus: StoreCorpus) -> OwnCopies:
    """The documents of a store that are a query's own text, among those that the base model finds first.

    By the text apart from case, width and spacing, or, where there are none, by the vector.
    """
    indices = corpus.search(comparable(query_embeddings, corpus.similarity), _FIRST_HITS).indices
    query_index = torch.arange(len(indices), device=indices.device).unsqueeze(1).expand_as(indices)
    there = indices >= 0
    pairs = OwnCopies(query_index[there], indices[there])
    documents = pairs.corpus_index.unique()
    texts = None if query_texts is None else corpus.texts(documents)
    if query_texts is None or texts is None:
        return _with_the_same_vector(query_embeddings, corpus, pairs)
    key_of = dict(zip(documents.tolist(), map(text_key, texts), strict=True))
    own = [text_key(text) for text in query_texts]
    same = [key_of[document] == own[query] for query, document in zip(*(part.tolist() for part in pairs), strict=True)]
    kept = torch.tensor(same, dtype=torch.bool, device=indices.device)
    return OwnCopies(pairs.query_index[kept], pairs.corpus_index[kept])


def _with_the_same_vector(query_embeddings: Tensor, corpus: Corpus, pairs: OwnCopies) -> OwnCopies:
    query_index, corpus_index = pairs
    queries, documents = query_embeddings[query_index], corpus.rows(corpus_index)
    lengths = queries.norm(dim=1), documents.norm(dim=1)
    same = (queries * documents).sum(dim=1) >= (1 - _COPY_TOLERANCE) * lengths[0] * lengths[1]
    if corpus.similarity == "dot":
        # With the cosine, the documents have lost the lengths they had.
        same &= (lengths[0] - lengths[1]).abs() <= _COPY_TOLERANCE * lengths[0]
    return OwnCopies(query_index[same], corpus_index[same])
