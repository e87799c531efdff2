"""The documents as vectors: what is asked of a corpus wherever it lies, and the one that lies in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from st_adapter.choices import check_choice
from st_adapter.data.vectors import in_row_order
from st_adapter.embeddings.search import TopK, search
from st_adapter.errors import InputError

Similarity = Literal["cosine", "dot"]

_LENGTH_TOLERANCE = 1e-3
_BLOCK_ROWS = 2**14


class Corpus(Protocol):
    """N documents of D dimensions, by id and vector; their texts are needed by nothing but what shows them to people.

    Vectors are such that their dot product with a query is the similarity: of unit length if that is the cosine, where
    whoever searches brings the query to unit length as well.

    """

    @property
    def ids(self) -> Sequence[str]:
        """N ids, row by row."""

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""

    @property
    def similarity(self) -> Similarity:
        """``cosine`` or ``dot``, how a query is compared with a document."""

    def __len__(self) -> int: ...

    def rows(self, index: Tensor) -> Tensor:
        """The vectors (n, D), float32, of (n,) int64 rows, on the device of these, or its own if it lies on one."""

    def search(self, query_embeddings: Tensor, k: int) -> TopK:
        """The k best documents of each of (Q, D) queries, of unit length if the similarity is the cosine.

        Equal scores keep corpus order. Of fewer than k documents all are found. On the device of the queries.
        """


@dataclass(frozen=True, eq=False)
class MemoryCorpus:
    """A corpus whose vectors lie in memory, all on one device; the search is exact.

    Attributes:
        ids: N ids, row by row.
        embeddings: (N, D), as the base model gives them; kept as float32, and of unit length if the similarity is the
            cosine. A matrix that is in this form already is not copied.
        similarity: ``cosine`` or ``dot``.
        stands_for: (N,) how many documents of a larger corpus each one stands for, >= 1; None: each for itself.

    Raises:
        ValueError: ids and matrix do not fit together, a vector is not finite, or the similarity is another; or, when
            documents are asked for, the matrix was written into since.

    Examples:
        >>> corpus = MemoryCorpus(["a", "b"], torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        >>> corpus.rows(torch.tensor([1])).tolist(), corpus.search(torch.eye(2), k=1).indices.tolist()
        ([[0.0, 1.0]], [[0], [1]])
    """

    ids: Sequence[str]
    embeddings: Tensor
    similarity: Similarity = "cosine"
    stands_for: Tensor | None = None
    _written: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("similarity", self.similarity, get_args(Similarity))
        embeddings = self.embeddings.float()
        object.__setattr__(self, "ids", in_row_order(self.ids))
        check_vectors("corpus", self.ids, embeddings)
        if self.similarity == "cosine":
            lengths = embeddings.norm(dim=1)
            off = ((lengths - 1).abs() > _LENGTH_TOLERANCE) & (lengths > 0)  # a row of zeros stays what it is
            if off.any():
                embeddings = torch.nn.functional.normalize(embeddings)
        object.__setattr__(self, "embeddings", embeddings)
        object.__setattr__(self, "_written", _times_written(embeddings))

    def __repr__(self) -> str:
        where = self.embeddings.device
        return f"MemoryCorpus({len(self):,} documents, {self.dimension} dimensions, {self.similarity}, {where})"

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy's tensor counts its writes anew, so the corpus is made of it anew.
        return type(self), (self.ids, self._unchanged(), self.similarity, self.stands_for)

    @classmethod
    def of(cls, corpus: Corpus, device: str | torch.device = "cpu") -> MemoryCorpus:
        """A corpus read onto a device, block by block; itself if it lies in memory already.

        Raises:
            InputError: the corpus says that so much memory is not to be used.
        """
        if isinstance(corpus, cls):
            return corpus
        num_bytes, most = 4 * len(corpus) * corpus.dimension, getattr(corpus, "most_bytes", math.inf)
        if num_bytes > most:
            raise InputError(
                f"This needs all {len(corpus):,} documents in memory, {num_bytes / 1e9:.1f} GB, but at most "
                f"{most / 1e9:.1f} GB are allowed for them.",
                python="Open the folder with VectorFolder(..., memory=...), or work on fewer documents.",
                flags="Allow for more with --memory, or work on fewer documents.",
            )
        return cls(corpus.ids, torch.cat(list(blocks(corpus, device))), corpus.similarity)

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""
        return int(self.embeddings.shape[1])

    def rows(self, index: Tensor) -> Tensor:
        """The vectors (n, D) of (n,) int64 rows."""
        vectors = self._unchanged()
        return vectors.index_select(0, index.to(vectors.device))

    def search(self, query_embeddings: Tensor, k: int) -> TopK:
        """The k best documents of each of (Q, D) queries; see ``search``."""
        vectors = self._unchanged()
        found = search(query_embeddings.to(vectors.device), vectors, k)
        return TopK(*(each.to(query_embeddings.device) for each in found))

    def scores(self, query_embeddings: Tensor) -> Tensor:
        """The scores (Q, N) of all documents."""
        return query_embeddings @ self._unchanged().T

    @cached_property
    def first_of_equal(self) -> Tensor:
        """For each document the first one with exactly the same vector: (N,) int64."""
        return first_of_equal_rows(self.embeddings)

    def _unchanged(self) -> Tensor:
        # What was checked, and found to be equal, would not be so any more.
        if _times_written(self.embeddings) != self._written:
            raise ValueError(
                "The documents' vectors were written into after the corpus was made of them. Make a new MemoryCorpus."
            )
        return self.embeddings

    def to(self, device: str | torch.device) -> MemoryCorpus:
        """The same corpus on ``device``."""
        weights = None if self.stands_for is None else self.stands_for.to(device)
        return replace(self, embeddings=self.embeddings.to(device), stands_for=weights)


def comparable(vectors: Tensor, similarity: Similarity) -> Tensor:
    """Vectors (n, D) whose dot product with others of their kind is the similarity."""
    return torch.nn.functional.normalize(vectors) if similarity == "cosine" else vectors


def _times_written(embeddings: Tensor) -> int:
    """PyTorch counts writes into a tensor, but not those through NumPy, nor into tensors of inference mode."""
    return 0 if embeddings.is_inference() else embeddings._version


def blocks(corpus: Corpus, device: str | torch.device = "cpu") -> Iterator[Tensor]:
    """All vectors of a corpus in order, (n, D) at a time; memory for one block is enough."""
    for rows in torch.arange(len(corpus), device=device).split(_BLOCK_ROWS):
        yield corpus.rows(rows)


def first_of_equal_rows(matrix: Tensor) -> Tensor:
    """For each of N rows, the index of the first row with exactly the same numbers: (N,) int64.

    Examples:
        >>> first_of_equal_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])).tolist()
        [0, 1, 0]
    """
    # Wrapping integer sums do not depend on the order of addition, so equal rows always get equal keys.
    factors = torch.randint(-(2**62), 2**62, (matrix.shape[1],), generator=torch.Generator().manual_seed(0))
    factors = factors.to(matrix.device)
    # + 0.0 makes -0.0 and 0.0 the same bits.
    keys = torch.cat([((part + 0.0).view(torch.int32).long() * factors).sum(dim=1) for part in matrix.split(2**14)])
    distinct, group = keys.unique(return_inverse=True)
    rows = torch.arange(len(keys), device=keys.device)
    return torch.full_like(distinct, len(keys)).scatter_reduce(0, group, rows, "amin")[group]


def check_vectors(side: str, ids: Sequence[str], embeddings: Tensor) -> None:
    """Refuse vectors that do not fit their ids or are not finite.

    Args:
        side: ``query`` or ``corpus``, for the message.
        ids: one for each row.
        embeddings: what should be (N, D) finite numbers.

    Raises:
        ValueError: they are not.
    """
    if embeddings.ndim != 2 or len(ids) != len(embeddings):
        raise ValueError(
            f"{side}_embeddings have shape {tuple(embeddings.shape)}, but there are {len(ids)} ids. "
            "Pass one row of D numbers per id."
        )
    bad = ~torch.isfinite(embeddings).all(dim=1)
    if bad.any():
        rows = bad.nonzero().squeeze(1).tolist()
        raise ValueError(
            f"{len(rows)} rows of {side}_embeddings hold NaN or infinite values, the first: "
            f"{[ids[row] for row in rows[:3]]}. Embed these texts again."
        )
