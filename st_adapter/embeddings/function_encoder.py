"""Two functions as an encoder: vectors of any library or service, with nothing but what they give to tell who it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Similarity
from st_adapter.embeddings.encoder import Encoder, check_batch_size
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.probe_texts import CHECK_TEXTS

# Takes T texts and gives T vectors of D numbers: lists, a NumPy array or a tensor.
Encode = Callable[[list[str]], Any]


class FunctionEncoder(Encoder):
    """Whatever gives vectors, by two functions of a list of texts.

    What was answered is on disk before more is asked for, and a sample of it is asked for again in each run to see
    that the functions are still the same; where none of the texts was answered yet, five fixed ones are.

    Args:
        encode_query: T texts -> T vectors of D numbers, as lists, NumPy array or tensor, for texts as queries.
        encode_document: the same for texts as documents.
        similarity: ``cosine`` or ``dot``, how a query is compared with a document.
        name: of the model behind them. Its vectors are cached and its adapters bound under it: give another one to
            another model.
        batch_size: texts per call, >= 1.

    Raises:
        ValueError: a setting is out of its range.

    Examples:
        >>> def count(texts):
        ...     return [[text.count("a"), text.count("b"), 1.0] for text in texts]
        >>> encoder = FunctionEncoder(count, count, similarity="dot", name="letters")
        >>> encoder.encode_query(["a banana", "b"]).tolist()
        [[4.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
        >>> encoder.dimension, encoder.identity.normalized
        (3, False)
    """

    def __init__(
        self,
        encode_query: Encode,
        encode_document: Encode,
        *,
        similarity: Similarity = "cosine",
        name: str,
        batch_size: int = 32,
    ) -> None:
        check_settings(similarity, batch_size)
        self.name = name
        self.batch_size = batch_size
        self._similarity = similarity
        self._functions = encode_query, encode_document

    def __repr__(self) -> str:
        return f"FunctionEncoder({self.name!r}, {self.similarity}, batches of {self.batch_size})"

    @property
    def identity(self) -> EncoderIdentity:
        """By the name, and what the functions make of some fixed texts now."""
        vectors = torch.cat([self.encode_query(CHECK_TEXTS), self.encode_document(CHECK_TEXTS)])
        return EncoderIdentity.probed(self.name, vectors)

    @property
    def similarity(self) -> Similarity:
        """As given."""
        return self._similarity

    @property
    def texts_per_answer(self) -> int:
        """As ``batch_size`` says."""
        return self.batch_size

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as queries."""
        return self._encode(self._functions[0], texts)

    def encode_document(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as documents."""
        return self._encode(self._functions[1], texts)

    def _encode(self, function: Encode, texts: Sequence[str]) -> Tensor:
        starts = range(0, len(texts), self.batch_size)
        batches = [list(texts[start : start + self.batch_size]) for start in starts]
        return torch.cat([checked_vectors(function(batch), batch, self.name) for batch in batches])


def check_settings(similarity: str, batch_size: int) -> None:
    """Check what encoders without a model in memory are told.

    Raises:
        ValueError: a setting is out of its range.
    """
    if similarity not in ("cosine", "dot"):
        raise ValueError(
            f"similarity is {similarity!r}, but an adapter needs one that is linear in the query: 'cosine' or 'dot'. "
            "Pass the one that the index compares by."
        )
    check_batch_size(batch_size)


def checked_vectors(vectors: Any, texts: Sequence[str], name: str, dimension: int | None = None) -> Tensor:
    """What somebody else's code gave for T texts, as (T, D) float32 on the CPU, after a look at each number.

    Args:
        vectors: lists, an array or a tensor.
        texts: T of them.
        name: who gave them, for the error.
        dimension: D, if it is known already.

    Raises:
        ValueError: there are not T vectors of one dimension, or a number is NaN or infinite.
    """
    rows = [row.detach().cpu().float().numpy() if isinstance(row, Tensor) else row for row in vectors]
    if len(rows) != len(texts):
        raise ValueError(
            f"{name} gave {len(rows)} vectors for {len(texts)} texts, but one for each is expected. Which belongs to "
            "which cannot be told; look at what it does with long and with equal texts."
        )
    try:
        arrays = [np.asarray(row, dtype=np.float32) for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} gave something else than numbers ({error}). Have it give one vector a text."
        ) from None
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 1 or shapes[0][0] == 0:
        raise ValueError(
            f"{name} gave arrays of the shapes {shapes[:3]}, but one vector a text is expected, all of one dimension. "
            "Have it give (D,) numbers for each."
        )
    if dimension is not None and shapes[0][0] != dimension:
        raise ValueError(
            f"{name} gave vectors of {shapes[0][0]} dimensions, but {dimension} are expected. See whether it is still "
            "the same model."
        )
    array = np.stack(arrays)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        first = [texts[row][:60] for row in bad[:3]]
        raise ValueError(
            f"{name} gave NaN or infinite values for {len(bad)} of {len(texts)} texts, the first: {first}. Look at "
            "what it does with these texts."
        )
    return torch.from_numpy(array)
