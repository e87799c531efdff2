"""Texts of which a model reads a part alone."""

from __future__ import annotations

from dataclasses import dataclass

from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.base_model import count_long_texts
from st_adapter.words import counted


@dataclass(frozen=True)
class LongTexts:
    """How many distinct texts of a data set are longer than what the model reads of them.

    Attributes:
        max_seq_length: tokens that it reads, prompt and special tokens included.
        num_queries: queries with more.
        num_documents: documents with more.
    """

    max_seq_length: int
    num_queries: int
    num_documents: int

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence if there are any."""
        queries = [counted(self.num_queries, "query", "queries")] if self.num_queries else []
        documents = [counted(self.num_documents, "document")] if self.num_documents else []
        sentence = (
            f"{' and '.join(queries + documents)} longer than the {self.max_seq_length} tokens that the model reads "
            "(max_seq_length); the rest of them is not read."
        )
        return (sentence,) if queries or documents else ()


def long_texts(model: SentenceTransformer, dataset: RetrievalDataset) -> LongTexts | None:
    """Count the texts of a data set that are longer than a base model reads.

    Args:
        model: the base model, without an adapter.
        dataset: queries and corpus.

    Returns:
        The counts; None for a model that reads texts of any length.
    """
    queries = count_long_texts(model, dataset.queries["text"], "query")
    documents = count_long_texts(model, dataset.corpus["text"], "document")
    if queries is None or documents is None:
        return None
    return LongTexts(int(model.max_seq_length), queries, documents)
