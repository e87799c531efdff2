"""What embedding a data set will take, measured on some of its texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.roles import Role, encode_as

_BYTES_OF_A_NUMBER = 4  # float32
_NUM_MEASURED = 64


@dataclass(frozen=True)
class EmbeddingCost:
    """What embedding takes on this machine, if nothing of it is in the cache.

    Attributes:
        num_texts: Distinct queries and documents.
        dimension: D of their vectors.
        num_bytes: Of all vectors, in memory and on disk.
        seconds: Estimated.
        num_measured: Texts that were embedded for the estimate.
    """

    num_texts: int
    dimension: int
    num_bytes: int
    seconds: float
    num_measured: int


def embedding_cost(model: SentenceTransformer, dataset: RetrievalDataset, batch_size: int = 32) -> EmbeddingCost:
    """Estimate time and memory of embedding a data set, by embedding up to 64 texts of each side.

    They are spread evenly over the lengths of all texts, which are embedded in an order of lengths too; time is taken
    to grow with the number of texts. What came as vectors costs nothing.

    Args:
        model: the base model, on the device that will embed.
        dataset: queries and corpus.
        batch_size: texts per forward pass.
    """
    encode_as(model, "query", ["warm up"])
    num_texts, seconds, num_measured = 0, 0.0, 0
    sides: tuple[tuple[Role, Sequence[str]], ...] = (
        ("query", (dataset.query_texts or []) if dataset.query_embeddings is None else []),
        ("document", (dataset.document_texts or []) if dataset.corpus_embeddings is None and not dataset.store else []),
    )
    for role, texts in sides:
        by_length = sorted(set(texts), key=len)
        if not by_length:
            continue
        places = np.unique(np.linspace(0, len(by_length) - 1, _NUM_MEASURED).round().astype(int))
        started = time.perf_counter()
        encode_as(model, role, [by_length[place] for place in places], batch_size)
        seconds += (time.perf_counter() - started) * len(by_length) / len(places)
        num_texts, num_measured = num_texts + len(by_length), num_measured + len(places)
    dimension = int(model.get_embedding_dimension() or 0)
    return EmbeddingCost(num_texts, dimension, num_texts * dimension * _BYTES_OF_A_NUMBER, seconds, num_measured)
