"""Queries made of the documents themselves, for where there are few labels or none."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

# The end of a sentence, or of a line.
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_MIN_WORDS, _MAX_WORDS = 3, 40
# More would take longer to embed than it would help.
_MAX_DOCUMENTS = 4000
# Fewer say nothing about a corpus.
MIN_PSEUDO_QUERIES = 50


class PseudoQueries(NamedTuple):
    """Portions of documents, each a query whose one relevant document is the one that it is of.

    Attributes:
        texts: the queries.
        rows: the document of each, as rows of the texts they were made of.
    """

    texts: list[str]
    rows: list[int]


def pseudo_queries(documents: Sequence[str], seed: int = 0) -> PseudoQueries:
    """The first sentence of each document, or the first half of a document that is one sentence.

    Of more than 4,000 such documents a random part is taken. A sentence that two documents begin with is left out, as
    is one of fewer than 3 words; of a longer one than 40 words the first 40 count.

    Args:
        documents: texts; empty ones are passed over.
        seed: of the part that is taken.

    Examples:
        >>> documents = ["How to fit. It takes seconds.", "Too short", "One sentence, and there is no other."]
        >>> made = pseudo_queries(documents)
        >>> sorted(zip(made.texts, made.rows))
        [('How to fit.', 0), ('One sentence, and', 2)]
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    found: dict[str, int | None] = {}
    for row in order:
        sentence = _first_sentence(documents[row])
        if sentence is not None:
            found[sentence] = None if sentence in found else row
        if len(found) == _MAX_DOCUMENTS:
            break
    kept = {sentence: row for sentence, row in found.items() if row is not None}
    return PseudoQueries(list(kept), list(kept.values()))


def _first_sentence(document: str) -> str | None:
    sentences = _END.split(document.strip(), maxsplit=1)
    words = sentences[0].split()
    if len(sentences) < 2:
        words = words[: len(words) // 2]
    if len(words) < _MIN_WORDS:
        return None
    return " ".join(words[:_MAX_WORDS])
