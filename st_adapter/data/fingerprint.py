"""Which data these are: one hash of all of them, and one of each query, that do not depend on the order of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from typing import Any

import datasets
import numpy as np

from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.stores.folder import VectorFolder
from st_adapter.stores.store import Vectors

# Vectors of a folder: of those that one per cent of them differ from, a sample misses all with a chance of 1 to 29,000.
_MOST_SAMPLED = 1024
_QUERY_KEY_LENGTH = 16  # digits: among a million queries, any two share one with a chance of 1 to 40 million


def data_fingerprint(dataset: RetrievalDataset, store_address: str | None = None) -> str:
    """SHA-256 over queries, documents and judgements by split; the order of rows does not count.

    A query or document is its text, or else its vector, or else its id, which pairs get by their order. Of a store,
    which is not read for it, the address, the number of documents and those that are labelled count; of a folder of
    vectors some of these, wherever it lies.

    Args:
        dataset: the data.
        store_address: of the store, where the same one may be written otherwise; as it was opened if None.

    Examples:
        >>> len(data_fingerprint(dataset))
        64
    """
    rows = sorted(hashlib.sha256(json.dumps(row).encode()).digest() for row in _rows(dataset, store_address))
    return hashlib.sha256(b"".join(rows)).hexdigest()


def query_keys(dataset: RetrievalDataset, splits: Collection[str]) -> dict[str, str]:
    """The queries that some splits judge: id -> hash of the text, or else of the vector.

    A text is the same in any case, width and spacing, as where splits are cut.

    Args:
        dataset: with queries.
        splits: of them, those that are there count.
    """
    judged = {query_id for split in splits if split in dataset.qrels for query_id in dataset.qrels[split]["query_id"]}
    by_text = dataset.query_texts is not None
    return {
        query_id: _hash(text_key(content) if by_text else content)[:_QUERY_KEY_LENGTH]
        for query_id, content in _contents(dataset.queries, dataset.query_embeddings).items()
        if query_id in judged
    }


def _rows(dataset: RetrievalDataset, store_address: str | None) -> Iterator[list[Any]]:
    queries = _contents(dataset.queries, dataset.query_embeddings)
    documents = _contents(dataset.corpus, dataset.corpus_embeddings)
    yield from (["query", content] for content in queries.values())
    yield from (["document", content] for content in documents.values())
    for split, judged in dataset.judged_rows.items():
        columns = (judged["query_id"], judged["corpus_id"], judged["relevance"])
        for query_id, corpus_id, relevance in zip(*columns, strict=True):
            yield ["judgement", split, queries[query_id], documents.get(corpus_id, corpus_id), float(relevance)]
    if isinstance(dataset.store, VectorFolder):
        yield ["vectors", dataset.store.count, _sampled(dataset.store)]
    elif dataset.store is not None:
        yield ["store", store_address or dataset.store.address, dataset.store.count]


def _sampled(folder: VectorFolder) -> str:
    """Hash of ids and vectors of rows all over a folder; of a small one, of all."""
    rows = np.unique(np.linspace(0, folder.count - 1, min(folder.count, _MOST_SAMPLED)).astype(np.int64))
    ids = json.dumps([folder.ids[row] for row in rows.tolist()])
    return _hash(ids.encode() + folder.rows(rows).tobytes())


def _contents(table: datasets.Dataset, vectors: Vectors | None) -> dict[str, str]:
    """Id -> what stands under it."""
    ids = list(table["id"])
    if "text" in table.column_names:
        return dict(zip(ids, table["text"], strict=True))
    return {each: each if vectors is None else _hash(vectors[row].tobytes()) for row, each in enumerate(ids)}


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
