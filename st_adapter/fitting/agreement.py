"""How alike the queries of two models rank the same documents."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_DEPTH = 10


def first_found(scores: Tensor) -> Tensor:
    """Of (Q, N) scores the up to ten best documents, best first: (Q, K) int64."""
    return scores.topk(min(_DEPTH, scores.shape[1]), dim=1).indices


def average_overlap(found: Tensor, others: Tensor) -> Tensor:
    """How alike rankings of the same depth are, (Q, K) documents each, best first: (Q,), 0-1.

    That is for each depth the share of the documents up to there that both rankings have, averaged.

    References:
        Webber, Moffat & Zobel 2010, "A similarity measure for indefinite rankings"; 1 minus the intersection metric of
        Fagin, Kumar & Sivakumar 2003, "Comparing top k lists".

    Examples:
        >>> average_overlap(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [0, 1]])).tolist()
        [1.0, 0.5]
    """
    same = found.unsqueeze(2) == others.unsqueeze(1)  # (Q, K, K)
    common = same.cumsum(dim=1).cumsum(dim=2).diagonal(dim1=1, dim2=2)  # (Q, K)
    depths = torch.arange(1, common.shape[1] + 1, device=common.device)
    return (common / depths).mean(dim=1)


class Agreement:
    """What queries of the documents' model find first among some documents, to compare with what others find.

    It needs no label. A vector that is near the right one may still find other documents, and among documents that are
    unlike it any rough copy of a query finds its own text first, so neither of the two says as much.

    Args:
        theirs: (Q, D) queries by the documents' model.
        documents: (N, D), such that their dot product with a query is the similarity, as a corpus has them; None where
            there are none: the queries rank one another by their directions.
    """

    def __init__(self, theirs: Tensor, documents: Tensor | None) -> None:
        self._documents = normalize(theirs.float()) if documents is None else documents.float()
        self._first = self._found(theirs)

    def of(self, ours: Tensor) -> float:
        """The mean average overlap, 0-1, of the rankings by (Q, D) other vectors of the queries with theirs.

        Examples:
            >>> agreement = Agreement(torch.eye(2), torch.eye(2))
            >>> agreement.of(torch.eye(2)), agreement.of(torch.eye(2).flip(0))
            (1.0, 0.5)
        """
        return float(average_overlap(self._found(ours), self._first).mean())

    def _found(self, queries: Tensor) -> Tensor:
        return first_found(queries.float() @ self._documents.T)  # the length of a query changes no ranking
