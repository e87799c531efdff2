"""How exactly vectors of one text by one model agree, and when a vector has length 1."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNIT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# How far vectors of one model lie apart, in their length, when other hardware, releases or neighbours in the batch
# round them another way.
_SAME_WITHIN = {torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 0.15}


def relative_distances(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the rows of two (T, D) matrices lie apart, in the length of the longer one: (T,), 0 to 2."""
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    apart = np.linalg.norm(first - second, axis=1)
    return np.asarray(np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0))


def same_within(dtype: torch.dtype | None) -> float:
    """How far two vectors of one text by one model may lie apart, in their length, if computed in this dtype."""
    return _SAME_WITHIN.get(dtype or torch.float32, _SAME_WITHIN[torch.float32])


def is_normalized(embeddings: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether all rows of (B, D) have length 1, as exactly as the dtype in which they were computed allows.

    A row of zeros, such as that of a text without a token, has no direction to normalize and says nothing.
    """
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1)
    off = (lengths - 1).abs() > _UNIT_TOLERANCE.get(dtype or torch.float32, 1e-3)
    return bool((lengths > 0).any()) and not bool((off & (lengths > 0)).any())
