"""Texts of which a model reads a part alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from st_adapter.embeddings.roles import Role, prompt_of

_TEXTS_AT_ONCE = 1024


def token_limit(model: SentenceTransformer) -> int | None:
    """How many tokens a model reads; None without a limit: tokenizers then say 10^30."""
    length = model.max_seq_length
    return int(length) if isinstance(length, int | float) and 0 < length < 2**31 else None


def count_long_texts(model: SentenceTransformer, texts: Iterable[str], role: Role) -> int | None:
    """How many distinct texts have more tokens than the model reads, its prompt and special tokens included.

    Args:
        model: the base model.
        texts: as they are embedded, without prompt.
        role: whose prompt is put before them.

    Returns:
        Their number; None for a model that reads texts of any length, or whose tokenizer is none of `transformers`.
    """
    tokenizer, limit = getattr(model, "tokenizer", None), model.max_seq_length
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or limit is None or not math.isfinite(limit):
        return None
    prompt = prompt_of(model, role)
    # A token holds a byte at least, so short texts need not be taken apart.
    room = limit - tokenizer.num_special_tokens_to_add()
    long = [text for text in dict.fromkeys(prompt + text for text in texts) if len(text.encode()) > room]
    count = 0
    for start in range(0, len(long), _TEXTS_AT_ONCE):
        batch = long[start : start + _TEXTS_AT_ONCE]
        encoded = tokenizer(batch, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        count += sum(len(tokens) > limit for tokens in encoded["input_ids"])
    return count
