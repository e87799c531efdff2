"""Texts of which a model reads a part alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.roles import Role, prompt_of
from st_adapter.words import counted

_TEXTS_AT_ONCE = 1024


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

    ``embed`` counts them as well, and keeps what it found beside the vectors.

    Args:
        model: the base model, without an adapter.
        dataset: queries and corpus.

    Returns:
        The counts; None for a model that reads texts of any length, or whose tokenizer is none of ``transformers``.
    """
    queries = are_cut(model, list(dict.fromkeys(dataset.query_texts or ())), "query")
    documents = are_cut(model, list(dict.fromkeys(dataset.document_texts or ())), "document")
    if queries is None or documents is None:
        return None
    return LongTexts(int(model.max_seq_length), sum(queries), sum(documents))


def are_cut(model: SentenceTransformer, texts: Sequence[str], role: Role) -> list[bool] | None:
    """Which texts have more tokens than a model reads, its prompt and special tokens included.

    Args:
        model: the base model.
        texts: T texts as they are embedded, without prompt.
        role: whose prompt is put before them.

    Returns:
        T answers; None for a model that reads texts of any length, or whose tokenizer is none of ``transformers``.
    """
    tokenizer, limit = getattr(model, "tokenizer", None), token_limit(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or limit is None:
        return None
    prompt = prompt_of(model, role)
    # A token holds a byte at least, so short texts need not be taken apart.
    room = limit - tokenizer.num_special_tokens_to_add()
    long = [row for row, text in enumerate(texts) if len((prompt + text).encode()) > room]
    cut = [False] * len(texts)
    for start in range(0, len(long), _TEXTS_AT_ONCE):
        rows = long[start : start + _TEXTS_AT_ONCE]
        batch = [prompt + texts[row] for row in rows]
        encoded = tokenizer(batch, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        for row, tokens in zip(rows, encoded["input_ids"], strict=True):
            cut[row] = len(tokens) > limit
    return cut


def token_limit(model: SentenceTransformer) -> int | None:
    """How many tokens a model reads; None without a limit: tokenizers then say 10^30."""
    length = model.max_seq_length
    return int(length) if isinstance(length, int | float) and 0 < length < 2**31 else None
