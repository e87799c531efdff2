"""Which documents are no negatives of a query, and which were judged to be one."""

from __future__ import annotations

import torch
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit, place_in_group
from st_adapter.fitting.pairs import NOBODY, LabelledPairs, training_rows

# A query with more given negatives than this is not what the others' memory is laid out for.
_MANY = 256


class Barred:
    """The documents that are no negatives of each query, one after the other: memory for the pairs alone.

    Args:
        rows: (P,) queries.
        documents: (P,) their documents.
        num_queries: Q.
        num_documents: N.
    """

    def __init__(self, rows: Tensor, documents: Tensor, num_queries: int, num_documents: int) -> None:
        keys = (rows * num_documents + documents).unique()  # sorted
        self.documents = keys % num_documents
        # On the CPU, where batches are drawn: no device is waited for to learn how many there are.
        self._counts = torch.bincount(keys // num_documents, minlength=num_queries).cpu()
        self._starts = self._counts.cumsum(0) - self._counts

    @property
    def most(self) -> int:
        """How many documents are barred for one query at most."""
        return int(self._counts.max())

    def padded(self, width: int, nobody: int) -> Tensor:
        """The documents of every query, filled up to ``width`` with nobody: (Q, width), for a GPU to look up in."""
        places, rows = self.entries(torch.arange(len(self._counts)))
        table = torch.full((len(self._counts), width), nobody, device=self.documents.device)
        rows, columns = rows.to(table.device), (places - self._starts[rows]).to(table.device)
        table[rows, columns] = self.documents[places.to(table.device)]
        return table

    def entries(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The places in ``documents`` that belong to (U,) queries, and for each place which of these; on the CPU."""
        counts = self._counts[queries]
        owner = torch.arange(len(queries)).repeat_interleave(counts)
        shift = self._starts[queries] - (counts.cumsum(0) - counts)
        return torch.arange(len(owner)) + shift[owner], owner


def barred_documents(split: EmbeddedSplit, pairs: LabelledPairs, first: Tensor) -> Barred:
    """The positives of each training query and its own copies."""
    row_of = training_rows(split)
    copies = split.left_out
    rows = row_of[copies.query_index]
    trained = rows != NOBODY
    return Barred(
        torch.cat([pairs.rows, rows[trained]]),
        torch.cat([pairs.documents, first[copies.corpus_index[trained]]]),
        len(pairs.queries),
        len(first),
    )


def given_negatives(split: EmbeddedSplit, first: Tensor, seed: int) -> Tensor:
    """The documents judged not relevant, by training query: (Q, most negatives); of very many some, by chance."""
    relevant = split.qrels.relevance > 0
    row_of = training_rows(split)
    rows = row_of[split.qrels.query_index]
    judged = ~relevant & (rows != NOBODY)
    if not judged.any():
        raise ValueError(
            f"negatives is 'given', but the split {split.name!r} has no document judged not relevant (a negative "
            "column, or a score of 0). Add some, or choose negatives='corpus'."
        )
    rows, order = rows[judged].sort(stable=True)
    documents = first[split.qrels.corpus_index[judged][order]]
    num_rows = int(row_of.max()) + 1
    if int(torch.bincount(rows).max()) > _MANY:
        shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
        rows, order = rows[shuffled].sort(stable=True)
        documents = documents[shuffled][order]
    place = place_in_group(rows, num_rows)
    kept = place < _MANY
    given = torch.full((num_rows, int(place[kept].max()) + 1), NOBODY, device=rows.device)
    given[rows[kept], place[kept]] = documents[kept]
    return given
