"""Linear adapters and maps between two models that are solved for, not trained."""

from __future__ import annotations

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Corpus
from st_adapter.fitting.pairs import LabelledPairs


def within_class_whitening(pairs: LabelledPairs, corpus: Corpus, ridge: float) -> Tensor:
    """Shrink the directions in which relevant documents differ from their queries, and stretch the others.

    With ``S`` the weighted mean of ``(d - q)(d - q)'`` over the relevant pairs, the map is
    ``(S + ridge * tr(S) / D * I)^-1``, scaled so that the mean length of a mapped query is 1. What changes between a
    query and its document is noise to retrieval; this is the within-class covariance normalisation of Hatch, Kajarekar
    & Stolcke 2006 ("Within-class covariance normalization for SVM-based speaker recognition"), with one class per
    query. It is solved in milliseconds and has one number to choose.

    Args:
        pairs: P relevant pairs; of queries and documents only the directions count.
        corpus: the documents; only those of the pairs are looked at.
        ridge: > 0, in units of the mean eigenvalue of ``S``; the larger, the closer to the identity.

    Returns:
        (D, D): apply it as ``q @ W.T``. The identity if every document equals its query.
    """
    queries = torch.nn.functional.normalize(pairs.queries)
    differences = torch.nn.functional.normalize(corpus.rows(pairs.documents)) - queries[pairs.rows]  # (P, D)
    scatter = differences.T @ (differences * pairs.weights.unsqueeze(1)) / pairs.weights.sum()
    identity = torch.eye(len(scatter), device=scatter.device)
    mean_eigenvalue = scatter.trace() / len(scatter)
    if mean_eigenvalue <= 0:
        return identity
    matrix: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(scatter + ridge * mean_eigenvalue * identity))
    matrix = matrix / (queries @ matrix.T).norm(dim=1).mean()
    return matrix


def ridge_to_positives(pairs: LabelledPairs, corpus: Corpus, ridge: float) -> Tensor:
    """Map every query as near to its relevant documents as a penalty on leaving the identity allows.

    Minimises the weighted sum of ``|W q - d|^2`` over the relevant pairs plus ``ridge * tr(S) / D * |W - I|^2``, with
    ``S`` the weighted sum of ``q q'`` (ridge regression: Hoerl & Kennard 1970, shrunk towards the identity, not 0).

    Args:
        pairs: P relevant pairs; of queries and documents only the directions count.
        corpus: the documents; only those of the pairs are looked at.
        ridge: > 0, in units of the mean eigenvalue of ``S``; the larger, the closer to the identity.

    Returns:
        (D, D): apply it as ``q @ W.T``.
    """
    queries = torch.nn.functional.normalize(pairs.queries)[pairs.rows]  # (P, D)
    documents = torch.nn.functional.normalize(corpus.rows(pairs.documents))
    weighted = queries.T * pairs.weights
    scatter, identity = weighted @ queries, torch.eye(queries.shape[1], device=queries.device)
    penalty = ridge * scatter.trace() / len(scatter)
    change: Tensor = torch.linalg.solve(scatter + penalty * identity, weighted @ (documents - queries))
    return identity + change.T


def mix(matrix: Tensor, share: float) -> Tensor:
    """Shrink a (D, D) map towards the identity: ``(1 - share) I + share * matrix``, with 0 <= share <= 1."""
    return (1 - share) * torch.eye(len(matrix), device=matrix.device) + share * matrix


def procrustes(scatter: Tensor, cross: Tensor) -> Tensor:
    """The rotation, times one scale, that maps x nearest to y: (D, E), with orthogonal rows or columns.

    Args:
        scatter: sum of ``x x'``, (E, E), of centred x.
        cross: sum of ``y x'``, (D, E).

    References:
        Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    left, singular, right = torch.linalg.svd(cross, full_matrices=False)
    trace = scatter.trace()
    rotation: Tensor = left @ right
    return rotation * (singular.sum() / trace if trace > 0 else 1.0)


def ridge_between(scatter: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The matrix (D, E) of ridge regression of y on x (Hoerl & Kennard 1970).

    Args:
        scatter: sum of ``x x'``, (E, E), of centred x.
        cross: sum of ``y x'``, (D, E).
        ridge: > 0, in units of the mean eigenvalue of ``scatter``.
    """
    penalty = ridge * scatter.trace().clamp(min=1e-12) / len(scatter)
    identity = torch.eye(len(scatter), device=scatter.device)
    solved: Tensor = torch.linalg.solve(scatter + penalty * identity, cross.T)
    return solved.T
