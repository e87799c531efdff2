"""A vector database as a corpus: rows are fetched by id, the search is the store's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Similarity, check_vectors, comparable
from st_adapter.embeddings.search import TopK
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.stores.store import MissingDocuments, Rows, Store, Vectors

_IDS_AT_ONCE = 1024
_QUERIES_AT_ONCE = 256
# Documents whose lengths say whether a store that compares in another way ranks alike.
_LOOKED_AT = 256


class StoreCorpus:
    """The documents of a store, which are read and never written.

    Their ids are read once, and their vectors when they are asked for.

    Args:
        store: opened for reading.
        similarity: ``cosine`` or ``dot``, how the model compares a query with a document.

    Raises:
        ValueError: the store ranks by another measure than the model, holds nothing or an id twice, or was written to
            while it was read.
    """

    def __init__(self, store: Store, similarity: Similarity) -> None:
        self.store = store
        self.similarity = similarity
        self.ids: Sequence[str] = store.ids()
        if not self.ids:
            raise ValueError(f"{store.address} holds no documents. Fill it first, or name another collection.")
        if len(self._row_of) < len(self.ids):
            raise ValueError(
                f"{store.address} holds {len(self.ids):,} documents under {len(self._row_of):,} ids. Every document "
                "needs an id of its own: name the field that holds it with ?id=FIELD."
            )
        self._check_metric()

    def __repr__(self) -> str:
        return f"StoreCorpus({self.store.address}: {len(self):,} documents, {self.dimension} dimensions)"

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""
        return self.store.dimension

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {one: row for row, one in enumerate(self.ids)}

    def stored(self, index: Tensor) -> Vectors:
        """The vectors (n, D) of (n,) int64 rows as they lie in the store."""
        parts = [part.vectors for part in self._fetched(index)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimension), dtype=np.float32)

    def texts(self, index: Tensor) -> list[str] | None:
        """The texts of (n,) int64 rows, empty where a document has none; None if the store keeps none."""
        parts = [(len(part.ids), part.texts) for part in self._fetched(index)]
        if all(texts is None for _, texts in parts):
            return None
        return [text for number, texts in parts for text in (texts or [""] * number)]

    def _fetched(self, index: Tensor) -> Iterator[Rows]:
        ids = [self.ids[row] for row in index.tolist()]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            try:
                found = self.store.fetch(ids[start : start + _IDS_AT_ONCE])
            except MissingDocuments as error:
                raise ValueError(
                    f"{self.store.address} was changed after its ids were read. {error} Run again when nothing writes "
                    "to it."
                ) from error
            check_vectors("corpus", found.ids, torch.from_numpy(found.vectors))
            yield found

    def rows(self, index: Tensor) -> Tensor:
        """The vectors (n, D) of (n,) int64 rows, of unit length if the similarity is the cosine."""
        return comparable(torch.from_numpy(self.stored(index)).to(index.device), self.similarity)

    def search(self, query_embeddings: Tensor, k: int) -> TopK:
        """The k best documents of each of (Q, D) queries, as the store finds them; -1 where it finds fewer."""
        k = min(k, len(self))
        scores = torch.full((len(query_embeddings), k), -torch.inf)
        indices = torch.full((len(query_embeddings), k), -1, dtype=torch.int64)
        for start in range(0, len(query_embeddings), _QUERIES_AT_ONCE):
            queries = query_embeddings[start : start + _QUERIES_AT_ONCE].cpu().numpy()
            hits = self.store.search(queries, k)
            for row, (ids, found) in enumerate(zip(hits.ids, hits.scores, strict=True), start=start):
                indices[row, : len(ids)] = torch.tensor([self._row(one) for one in ids], dtype=torch.int64)
                scores[row, : len(ids)] = torch.tensor(found, dtype=torch.float32)
        return TopK(scores.to(query_embeddings.device), indices.to(query_embeddings.device))

    def _row(self, one: str) -> int:
        if one not in self._row_of:
            raise ValueError(
                f"{self.store.address} finds the document {one!r}, which was not there when its ids were read, so it "
                "was changed meanwhile. Run again when nothing writes to it."
            )
        return self._row_of[one]

    def _check_metric(self) -> None:
        """Other measures rank alike where all vectors have unit length."""
        metric = self.store.metric
        if metric == self.similarity:
            return
        number = min(_LOOKED_AT, len(self))
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:number]
        if not is_normalized(torch.from_numpy(self.stored(rows)), torch.float16):
            raise ValueError(
                f"{self.store.address} compares by {metric}, the model by {self.similarity}, and its vectors are not "
                "of unit length, so it ranks in another way than the model. Make an index that compares by "
                f"{self.similarity}, or store unit vectors."
            )
