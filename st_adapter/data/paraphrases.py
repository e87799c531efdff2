"""Which texts say the same in other words, by the cosine of their embeddings; exact, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.data.cutting import join

# Rows of either side that are compared at once: 16 MB of float32.
_BLOCK_ROWS = 2048


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


def paraphrase_groups(vectors: Tensor, threshold: float) -> NDArray[np.int64]:
    """The connected components of rows with a cosine of at least the threshold, named by their first row."""
    labels = np.arange(len(vectors))
    for start, _, cosines in _blocks(vectors, vectors):
        if start[0] <= start[1]:  # the rest is the mirror image
            one, other = (cosines >= threshold).nonzero(as_tuple=True)
            labels = join(labels, one.cpu().numpy() + start[0], other.cpu().numpy() + start[1])
    return labels


def _blocks(one: Tensor, other: Tensor) -> Iterator[tuple[tuple[int, int], tuple[int, int], Tensor]]:
    """The product of two matrices of unit rows in blocks, each with the rows and columns where it begins and ends."""
    for row in range(0, len(one), _BLOCK_ROWS):
        for column in range(0, len(other), _BLOCK_ROWS):
            rows, columns = one[row : row + _BLOCK_ROWS], other[column : column + _BLOCK_ROWS]
            yield (row, column), (row + len(rows), column + len(columns)), rows @ columns.T
