"""A vector database as a corpus: rows are fetched by id, the search is the store's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Corpus, Similarity
from st_adapter.embeddings.search import TopK
from st_adapter.stores.store import Store

_IDS_AT_ONCE = 1024


class StoreCorpus(Corpus):
    """The documents of a store.

    Args:
        store: opened for reading.
        similarity: ``cosine`` or ``dot``, how the model compares a query with a document.

    Raises:
        ValueError: the store compares in another way.
    """

    def __init__(self, store: Store, similarity: Similarity) -> None:
        self.store = store
        self._similarity = similarity
        self._ids = [one for rows in store.iterate(_IDS_AT_ONCE) for one in rows.ids]

    @property
    def ids(self) -> Sequence[str]:
        """N ids, row by row."""
        return self._ids

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""
        return self.store.dimension

    @property
    def similarity(self) -> Similarity:
        """``cosine`` or ``dot``."""
        return self._similarity

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {one: row for row, one in enumerate(self._ids)}

    def rows(self, index: Tensor) -> Tensor:
        """The vectors (n, D) of (n,) int64 rows, of unit length if the similarity is the cosine."""
        ids = [self._ids[row] for row in index.tolist()]
        parts = [
            self.store.fetch(ids[start : start + _IDS_AT_ONCE]).vectors for start in range(0, len(ids), _IDS_AT_ONCE)
        ]
        vectors = torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, self.dimension)
        vectors = vectors.to(index.device)
        return torch.nn.functional.normalize(vectors) if self._similarity == "cosine" else vectors

    def search(self, query_embeddings: Tensor, k: int) -> TopK:
        """The k best documents of each of (Q, D) queries, as the store finds them."""
        k = min(k, len(self))
        found = self.store.search(query_embeddings.cpu().numpy(), k)
        indices = torch.full((len(found.ids), k), -1, dtype=torch.int64)
        scores = torch.full((len(found.ids), k), -torch.inf)
        for row, (ids, values) in enumerate(zip(found.ids, found.scores, strict=True)):
            indices[row, : len(ids)] = torch.tensor([self._row_of[one] for one in ids], dtype=torch.int64)
            scores[row, : len(ids)] = torch.tensor(values, dtype=torch.float32)
        return TopK(scores.to(query_embeddings.device), indices.to(query_embeddings.device))
