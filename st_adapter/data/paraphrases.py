"""Queries that say the same in other words, by the cosine of their embeddings; exact, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.cutting import connected
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.words import counted

# Rows of either side that are compared at once: 16 MB of float32.
_BLOCK_ROWS = 2048
_MIN_QUERIES = 50


def cut_splits(
    dataset: RetrievalDataset, query_embeddings: Tensor, *, threshold: float = PARAPHRASE_THRESHOLD
) -> RetrievalDataset:
    """Cut the splits that are to be cut by document, so that paraphrases land on one side as well.

    Paraphrases of paraphrases belong together too.

    Args:
        dataset: Any data set.
        query_embeddings: (Q, D), the base model's, rows in the order of `dataset.queries`; of any length.
        threshold: How near two queries are that count as paraphrases, above 0, at most 1; see ``cosine_of``.

    Returns:
        The data set with all of its splits; the same if nothing is left to be cut.

    Raises:
        ValueError: A split would be empty; the embeddings do not fit the queries or are not finite; the threshold is
            out of range.
    """
    if dataset.uncut is None:
        return dataset
    vectors = normalized_queries(dataset, query_embeddings, threshold)
    judged = set(dataset.uncut["query_id"])
    ids = list(dataset.queries["id"])
    rows = np.array([row for row, query_id in enumerate(ids) if query_id in judged], dtype=np.int64)
    groups: dict[int, list[str]] = {}
    cosine = cosine_of(threshold, vectors)
    for row, label in zip(rows, _groups(vectors[torch.from_numpy(rows)], cosine).tolist(), strict=True):
        groups.setdefault(label, []).append(ids[row])
    together = [group for group in groups.values() if len(group) > 1]
    dataset = dataset.with_cut(together)
    number = counted(sum(map(len, together)), "query has", "queries have")
    note = f"{number} a paraphrase (cosine of at least {cosine:.2f}) and stay on its side."
    return replace(dataset, notes=(*dataset.notes, note))


def cosine_of(threshold: float, vectors: Tensor) -> float:
    """The cosine from which two queries of a model are as near as a threshold says.

    A threshold lies between two queries of the data set at random, 0, and the same one twice, 1. With a model whose
    queries have a mean cosine of ``u``, that is ``u + threshold * (1 - u)``: models whose vectors lie in a narrow cone
    (Ethayarajh 2019, "How contextual are contextualized word representations?") put unrelated queries at a cosine of .8
    and more. Fewer than 50 queries do not tell ``u``, which is then taken for 0.

    Args:
        threshold: 0 < threshold <= 1.
        vectors: (Q, D), unit rows.

    Examples:
        >>> cosine_of(0.9, torch.eye(60))
        0.9
    """
    number = len(vectors)
    if number < _MIN_QUERIES:
        return threshold
    mean_cosine = (float(vectors.double().sum(dim=0).square().sum()) - number) / (number * (number - 1))
    return threshold + (1 - threshold) * max(0.0, mean_cosine)


def normalized_queries(dataset: RetrievalDataset, query_embeddings: Tensor, threshold: float) -> Tensor:
    """The query embeddings at length 1, after a look at what came.

    Raises:
        ValueError: they do not fit the queries or are not finite, or the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"The paraphrase threshold is {threshold}. Expected a cosine above 0 and at most 1.")
    if query_embeddings.ndim != 2 or len(query_embeddings) != len(dataset.queries):
        raise ValueError(
            f"query_embeddings have the shape {tuple(query_embeddings.shape)}, but there are {len(dataset.queries)} "
            "queries. Pass one row per query of the data set, in its order."
        )
    if not torch.isfinite(query_embeddings).all():
        raise ValueError("query_embeddings hold NaN or infinite values. Embed the queries again.")
    return torch.nn.functional.normalize(query_embeddings.float())


def nearest(one: Tensor, other: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """For each row of either matrix, the highest cosine with a row of the other one and where: on the CPU."""
    best = [torch.full((len(side),), -2.0, device=one.device) for side in (one, other)]
    where = [torch.zeros(len(side), dtype=torch.int64, device=one.device) for side in (one, other)]
    for start, stop, cosines in _blocks(one, other):
        for side, dim, rows, first in (
            (0, 1, slice(start[0], stop[0]), start[1]),
            (1, 0, slice(start[1], stop[1]), start[0]),
        ):
            value, index = cosines.max(dim=dim)
            better = value > best[side][rows]
            best[side][rows] = torch.where(better, value, best[side][rows])
            where[side][rows] = torch.where(better, index + first, where[side][rows])
    return (best[0].cpu(), where[0].cpu()), (best[1].cpu(), where[1].cpu())


def _groups(vectors: Tensor, threshold: float) -> NDArray[np.int64]:
    """The connected components of rows with a cosine of at least the threshold, named by their first row."""
    labels = np.arange(len(vectors))
    for start, _, cosines in _blocks(vectors, vectors):
        if start[0] <= start[1]:  # the rest is the mirror image
            one, other = ((cosines >= threshold).nonzero().cpu().numpy() + start).T
            # Block by block, so that memory does not grow with the number of pairs.
            labels = connected(len(labels), np.append(np.arange(len(labels)), one), np.append(labels, other))
    return labels


def _blocks(one: Tensor, other: Tensor) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
    """The product of two matrices of unit rows in blocks, each with the rows and columns where it begins and ends."""
    for row in range(0, len(one), _BLOCK_ROWS):
        for column in range(0, len(other), _BLOCK_ROWS):
            rows, columns = one[row : row + _BLOCK_ROWS], other[column : column + _BLOCK_ROWS]
            yield (row, column), (row + len(rows), column + len(columns)), rows @ columns.T
