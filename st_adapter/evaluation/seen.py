"""Which documents an adapter was fitted on, and which queries ask for one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit


def seen_documents(embedded: EmbeddedDataset, fitted_on: Sequence[str]) -> Tensor:
    """Which documents are a positive of a query that the adapter was fitted on: (N,) bool.

    Args:
        embedded: the data set.
        fitted_on: the splits of the fit.

    Raises:
        ValueError: there is no such split.

    Examples:
        >>> seen = seen_documents(embedded, ("train",))
        >>> int(seen.sum()), len(seen)
        (11, 16)
    """
    seen = torch.zeros(len(embedded.corpus), dtype=torch.bool, device=embedded.query_embeddings.device)
    for split in fitted_on:
        qrels = embedded[split].qrels
        seen[qrels.corpus_index[qrels.relevance > 0]] = True
    return seen


def seen_queries(split: EmbeddedSplit, seen_documents: Tensor) -> NDArray[np.bool_]:
    """Which queries of a split have a relevant document among the seen ones: (Q,) bool.

    Args:
        split: queries and judgements.
        seen_documents: (N,) bool, from the function of this name.

    Raises:
        ValueError: ``seen_documents`` has another number of documents, or is of something else than bools.
    """
    seen_documents = torch.as_tensor(seen_documents)
    if seen_documents.shape != (len(split.corpus),) or seen_documents.dtype != torch.bool:
        raise ValueError(
            f"seen_documents has shape {tuple(seen_documents.shape)} of {seen_documents.dtype}, but the corpus has "
            f"{len(split.corpus)} documents. Pass one bool per document of the same data set."
        )
    relevant = split.qrels.relevance > 0
    hit = seen_documents.to(relevant.device)[split.qrels.corpus_index] & relevant
    seen = np.zeros(len(split.query_ids), dtype=np.bool_)
    seen[split.qrels.query_index[hit].cpu().numpy()] = True
    return seen
