"""Exact search over embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Scores held at once by one block of a search: 2**25 float32 are 128 MiB.
_BLOCK_SCORES = 2**25
_BLOCK_DOCUMENTS = 2**16


class TopK(NamedTuple):
    """The K best documents of every query.

    Attributes:
        scores: (Q, K) float32, every row descending; -inf where nothing was found.
        indices: (Q, K) int64 into the corpus; equal scores are in corpus order. Where fewer than K documents are found,
            by an approximate index or because some are left out, the places that stay empty are -1 and lie at the end.
    """

    scores: Tensor
    indices: Tensor


# (Q, D) query embeddings and k -> the best documents, at most k columns: a search with its corpus built in.
Index = Callable[[Tensor, int], TopK]


def search(query_embeddings: Tensor, corpus_embeddings: Tensor, k: int) -> TopK:
    """Score every query against the whole corpus by dot product and keep the k best documents.

    Exact, not approximate. Candidates are found with one blocked float32 product and scored again pair by pair in
    float64, because a blocked product rounds the same pair differently depending on where it lies in its block.
    Scores equal in float32 keep corpus order, so neither batch size nor block size changes the result.

    Args:
        query_embeddings: (Q, D) floating point; unit rows make the score the cosine.
        corpus_embeddings: (N, D), same dtype and device.
        k: 1 <= k; at most N documents are returned.

    Returns:
        Scores and indices, both (Q, min(k, N)).

    Raises:
        ValueError: the two D differ, the corpus is empty, or k < 1.

    Examples:
        >>> search(torch.eye(2), torch.eye(2), k=1).indices.tolist()
        [[0], [1]]
    """
    if query_embeddings.ndim != 2 or corpus_embeddings.ndim != 2:
        raise ValueError(
            f"search() takes two matrices, got shapes {tuple(query_embeddings.shape)} and "
            f"{tuple(corpus_embeddings.shape)}. Pass one row per text."
        )
    if query_embeddings.shape[1] != corpus_embeddings.shape[1]:
        raise ValueError(
            f"query_embeddings have {query_embeddings.shape[1]} dimensions, but corpus_embeddings have "
            f"{corpus_embeddings.shape[1]}. Embed both with the same base model."
        )
    if len(corpus_embeddings) == 0:
        raise ValueError("The corpus is empty: there is nothing to search. Pass at least one document embedding.")
    if k < 1:
        raise ValueError(f"k is {k}, but at least one document has to be kept. Pass k >= 1.")
    k = min(k, len(corpus_embeddings))
    num_rows = max(1, _BLOCK_SCORES // min(len(corpus_embeddings), _BLOCK_DOCUMENTS))
    blocks = [_search_block(rows, corpus_embeddings, k, k + 8) for rows in query_embeddings.split(num_rows)]
    if not blocks:
        empty = query_embeddings.new_zeros((0, k), dtype=torch.float32)
        return TopK(empty, empty.long())
    return TopK(torch.cat([block.scores for block in blocks]), torch.cat([block.indices for block in blocks]))


def merged(parts: Sequence[TopK], k: int) -> TopK:
    """The k best documents of a corpus of which each part was searched by itself.

    Args:
        parts: what ``search`` finds for the same queries in consecutive parts of the corpus, with its own k at least as
            large, and indices into the whole.
        k: k >= 1.

    Examples:
        >>> first, second = (TopK(torch.tensor([[0.5]]), torch.tensor([[row]])) for row in (3, 7))
        >>> merged([first, second], k=2).indices.tolist()
        [[3, 7]]
    """
    scores, indices = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return TopK(scores[:, :k], indices.gather(1, order[:, :k]))


def _search_block(queries: Tensor, corpus: Tensor, k: int, num_candidates: int) -> TopK:
    """Search for the (B, D) rows of one block, scoring ``num_candidates`` documents of each exactly."""
    num_candidates = min(num_candidates, len(corpus))
    scores, indices = _candidates(queries, corpus, num_candidates)
    exact, indices = rescore(queries, corpus, indices)
    if num_candidates < len(corpus):
        # A float32 product of D terms is off by less than this; a document left out could lie that much higher.
        slack = 4e-7 * queries.shape[1] ** 0.5 * queries.norm(dim=1) * corpus.norm(dim=1).max()
        unsure = scores[:, -1] >= scores[:, k - 1] - slack
        if unsure.any():
            rows = unsure.nonzero().squeeze(1)
            wider = _search_block(queries[rows], corpus, k, 4 * num_candidates)
            exact, indices = exact[:, :k].contiguous(), indices[:, :k].contiguous()
            exact[rows], indices[rows] = wider.scores, wider.indices
    return TopK(exact[:, :k], indices[:, :k])


def rescore(query_embeddings: Tensor, corpus_embeddings: Tensor, indices: Tensor) -> TopK:
    """Score given candidates of every query by dot product, pair by pair in float64, and put the best first.

    Args:
        query_embeddings: (Q, D) floating point.
        corpus_embeddings: (N, D), N >= 1, same dtype and device.
        indices: (Q, C) int64 into the corpus, no document twice in a row; -1 is an empty place.

    Returns:
        Scores and indices, both (Q, C), equal scores in corpus order, empty places last.

    Examples:
        >>> rescore(torch.eye(2), torch.eye(2), torch.tensor([[0, 1], [0, -1]])).indices.tolist()
        [[0, 1], [0, -1]]
    """
    # Sorting by index first makes the stable sort by score keep corpus order among equal scores.
    indices = indices.sort(dim=1).values
    scores = _exact_scores(query_embeddings, corpus_embeddings, indices.clamp(min=0))
    scores, order = scores.masked_fill(indices < 0, -torch.inf).sort(dim=1, descending=True, stable=True)
    return TopK(scores, indices.gather(1, order))


def _candidates(queries: Tensor, corpus: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
    """The best documents of every query by plain blocked products, descending: scores and indices (B, C)."""
    best_scores, best_indices = [], []
    for start in range(0, len(corpus), _BLOCK_DOCUMENTS):
        block = queries @ corpus[start : start + _BLOCK_DOCUMENTS].T  # (B, M)
        scores, indices = block.topk(min(num_candidates, block.shape[1]), dim=1)
        best_scores.append(scores)
        best_indices.append(indices + start)
    if len(best_scores) == 1:
        return best_scores[0], best_indices[0]
    scores, order = torch.cat(best_scores, dim=1).topk(num_candidates, dim=1)
    return scores, torch.cat(best_indices, dim=1).gather(1, order)


def _exact_scores(queries: Tensor, corpus: Tensor, indices: Tensor) -> Tensor:
    """Dot products of each query with its own (B, C) documents, summed in float64, returned as float32."""
    # Apple's GPUs have no float64; there the sums are float32 and only ties of rounding may differ.
    dtype = torch.float32 if queries.device.type == "mps" else torch.float64
    num_rows = max(1, _BLOCK_SCORES // (indices.shape[1] * queries.shape[1]))
    parts = [
        (q.to(dtype).unsqueeze(1) * corpus[i].to(dtype)).sum(dim=2).float()  # (b, C, D) -> (b, C)
        for q, i in zip(queries.split(num_rows), indices.split(num_rows), strict=True)
    ]
    return torch.cat(parts)
