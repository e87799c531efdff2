"""From texts to the parts of a folder of vectors: what every engine does with a chunk of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from st_adapter.embeddings.cache import check_finite
from st_adapter.embeddings.encoder import Encoder, encode
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.storage.manifest import StoredDtype
from st_adapter.storage.vector_parts import part_name, write_part
from st_adapter.words import first_three

_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Chunk:
    """Consecutive texts that become one part.

    Attributes:
        row: of the first text, in the data.
        ids: n ids.
        texts: n texts.
    """

    row: int
    ids: list[str]
    texts: list[str]


@dataclass(frozen=True)
class PartWriter:
    """How chunks become parts of a folder.

    Attributes:
        folder: where to.
        role: what the texts are embedded as.
        dtype: in which the vectors are kept.
    """

    folder: Path
    role: Role
    dtype: StoredDtype

    def embed(self, encoder: Encoder, chunk: Chunk, progress: Callable[[int], object] = lambda number: None) -> int:
        """Embed a chunk and write its part.

        Args:
            encoder: the model.
            chunk: the texts.
            progress: told how many more texts are done.

        Returns:
            How many texts it has.

        Raises:
            ValueError: a vector is not finite.
            OSError: the part cannot be written.
        """
        at_once = encoder.texts_per_answer or _TEXTS_AT_ONCE
        found: NDArray[np.float32] | None = None
        for rows in self.batches(chunk.texts, at_once):
            vectors = encode(encoder, self.role, [chunk.texts[row] for row in rows], at_once)
            found = np.empty((len(chunk.texts), vectors.shape[1]), dtype=np.float32) if found is None else found
            found[rows] = vectors
            progress(len(rows))
        if found is not None:
            self.write(chunk, found)
        return len(chunk.ids)

    @staticmethod
    def batches(texts: list[str], at_once: int) -> Iterator[list[int]]:
        """Rows of texts of like length, the longest first, so that little of a batch is padding."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]), reverse=True)
        for start in range(0, len(order), at_once):
            yield order[start : start + at_once]

    def write(self, chunk: Chunk, vectors: NDArray[np.float32]) -> None:
        """Write the (n, D) vectors of a chunk; the same texts have the same name, so that none is there twice."""
        check_finite(chunk.texts, vectors)
        with np.errstate(over="ignore"):
            kept = vectors.astype(self.dtype)
        over = ~np.isfinite(kept).all(axis=1)
        if over.any():
            labels = [chunk.ids[row] for row in np.flatnonzero(over).tolist()]
            raise ValueError(
                f"The vectors of {len(labels)} texts have numbers that float16 cannot hold: {first_three(labels)}. "
                "Keep them as float32."
            )
        # Nothing but zeros has no length that is off, and must not speak for the other parts.
        normalized = not kept.any() or is_normalized(torch.from_numpy(kept), torch.float32)
        path = self.folder / part_name(chunk.row, chunk.ids)
        write_part(path, chunk.ids, kept, normalized, [text_hash(text) for text in chunk.texts])


def text_hash(text: str) -> int:
    """A number below 2**64 by which it is seen that a text is another one, but for one chance in as many."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
