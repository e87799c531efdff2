"""The texts by which models are compared: fixed ones, and a sample of the data at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.roles import Role

CHECK_TEXTS = [
    "How do I read a file line by line?",
    "Return the absolute value of a number.",
    "def area(radius): return math.pi * radius**2",
    "Größe, naïve, 東京, emoji 🙂",
    "A longer document of several sentences. Texts of different lengths share a batch, so the padding of the shorter "
    "ones is part of what is compared. The vectors must not depend on which copy of the model made them.",
]
# Longer than what most models read, with another beginning than end: what is cut off, and where, shows in its vector.
_LONG_TEXT = " ".join(f"{word} {number}" for number in range(120) for word in ("line", "read", "value", "東", "open"))
_SAMPLE_TEXTS = 32


def fixed_texts(max_seq_length: int | None) -> list[str]:
    """The texts by which models are compared whatever the data: short ones, and one longer than the model reads."""
    # Without a limit, a long text shows nothing more, and some models fail on what is longer than they can read.
    return CHECK_TEXTS if max_seq_length is None else [*CHECK_TEXTS, _LONG_TEXT]


def sample_of_texts(texts: Iterable[str], size: int = _SAMPLE_TEXTS) -> list[str]:
    """Some of the texts, the longest first and the shortest among them, always the same ones; all if there are few."""
    by_length = sorted(dict.fromkeys(texts), key=len, reverse=True)
    if len(by_length) <= size:
        return by_length
    drawn = sorted(by_length[1:-1], key=text_key)[: size - 2]
    return sorted([by_length[0], *drawn, by_length[-1]], key=len, reverse=True)


def check_texts_of(dataset: RetrievalDataset) -> dict[Role, list[str]]:
    """The texts of a data set that a saved model is compared on; see ``save_pretrained``."""
    known: dict[Role, list[str] | None] = {"query": dataset.query_texts, "document": dataset.document_texts}
    return {role: sample_of_texts(texts) for role, texts in known.items() if texts is not None}


def text_key(text: str) -> str:
    """The first half of the SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
