"""What a teacher says of queries without labels: soft targets over the documents that the base model finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.errors import printable
from st_adapter.words import counted

# In units of the spread of the teacher's scores within a query.
_TEMPERATURE = 0.5


@dataclass(frozen=True)
class Teaching:
    """Who taught, and how much; for results and card.

    Attributes:
        teacher: name of the model.
        num_queries: queries without labels that it scored.
        num_pseudo_queries: portions of documents that it scored besides.
        num_documents: documents scored for each of them.
        num_alike: queries without labels that were left out as copies or paraphrases of labelled ones.
    """

    teacher: str
    num_queries: int
    num_pseudo_queries: int
    num_documents: int
    num_alike: int = 0

    @property
    def sentence(self) -> str:
        """In one sentence."""
        parts = (
            (counted(self.num_queries, "query without labels", "queries without labels"), self.num_queries),
            (counted(self.num_pseudo_queries, "portion of a document", "portions of documents"),
             self.num_pseudo_queries),
        )  # fmt: skip
        asked = " and ".join(words for words, number in parts if number)
        alike = counted(self.num_alike, "query", "queries")
        left_out = f" {alike} left out: like ones with labels." if self.num_alike else ""
        return (
            f"The teacher {printable(self.teacher)} scored {self.num_documents} documents each for {asked}.{left_out}"
        )


@dataclass(frozen=True)
class SoftTargets:
    """Queries without labels, documents that the base model finds for each, and how likely each is to a teacher.

    Attributes:
        queries: Q queries; the one judgement of each is the document that the teacher scores best.
        documents: (Q, K) int64 into the corpus of the queries.
        targets: (Q, K) float32, each row a distribution: >= 0, its sum 1.
        teaching: who said so.
        weight: how much they count in a loss beside labelled pairs, which count 1.
    """

    queries: EmbeddedSplit
    documents: Tensor
    targets: Tensor
    teaching: Teaching
    weight: float = 0.5

    def __repr__(self) -> str:
        queries = counted(len(self.documents), "query", "queries")
        return f"SoftTargets({queries}, {self.documents.shape[1]} documents each, by {self.teaching.teacher!r})"

    @classmethod
    def of(
        cls,
        query_embeddings: Tensor,
        found: tuple[MemoryCorpus, Tensor],
        scores: Tensor,
        teaching: Teaching,
        normalized: bool = True,
    ) -> SoftTargets:
        """Make distributions of a teacher's scores; their zero and unit mean nothing.

        The scores are divided by their spread within a query, the root of the mean variance over all queries, and by a
        temperature of .5. So a cross-encoder's logits of any size and an embedding model's cosines teach alike, and a
        query on which the teacher is of no certain opinion stays one.

        Args:
            query_embeddings: (Q, D), as the base model gives them.
            found: the corpus, and the (Q, K) documents that were scored.
            scores: (Q, K), finite; higher is better.
            teaching: who said so.
            normalized: whether the base model's vectors have unit length.

        Raises:
            ValueError: a score is not finite.
        """
        corpus, documents = found
        check_scores(scores, teaching.teacher)
        spread = scores.var(dim=1, correction=0).mean().sqrt().clamp_min(1e-12)
        rows = torch.arange(len(scores), device=scores.device)
        best = documents.gather(1, scores.argmax(dim=1, keepdim=True)).squeeze(1)
        queries = EmbeddedSplit(
            name="taught queries",
            query_ids=[f"taught-{row}" for row in rows.tolist()],
            query_embeddings=query_embeddings,
            corpus=corpus,
            qrels=EmbeddedQrels(rows, best, torch.ones_like(rows)),
            normalized=normalized,
            own_copies=OwnCopies(rows[:0], rows[:0]),
        )
        return cls(queries, documents, (scores / (_TEMPERATURE * spread)).softmax(dim=1), teaching)


def check_scores(scores: Tensor, teacher: str) -> None:
    """Raise ValueError if a score is not finite; who gave it is named."""
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"The teacher {printable(teacher)} gave scores that are NaN or infinite. Check its weights, or name "
            "another one."
        )
