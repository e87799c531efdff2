"""Ask a teacher: which queries it is asked about, and what becomes of its scores."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import cosine_of, nearest, normalized_queries
from st_adapter.data.pseudo_queries import MIN_PSEUDO_QUERIES, pseudo_queries
from st_adapter.embeddings.corpus import MemoryCorpus, comparable
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.embedding import embed_role
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.soft_targets import SoftTargets, Teaching
from st_adapter.embeddings.teacher import Teacher
from st_adapter.errors import InputError

# A cross-encoder reads each pair: 30,000 of them take minutes without a GPU. Queries of users come first.
_MAX_QUERIES, _NUM_DOCUMENTS = 1000, 30


@dataclass(frozen=True)
class _Asked:
    """Queries to ask a teacher about: texts and the base model's vectors of them."""

    texts: list[str]
    vectors: Tensor


@dataclass(frozen=True)
class _Labelled:
    """What no teacher is asked about: queries with a label in any split, and all as near to one as ``cosine``."""

    texts: set[str]
    vectors: Tensor
    cosine: float

    @classmethod
    def of(cls, dataset: RetrievalDataset, embedded: EmbeddedDataset, threshold: float) -> _Labelled:
        judged = _judged(dataset)
        unit = normalized_queries(dataset, embedded.query_embeddings, threshold)
        texts = {text_key(text) for text, known in zip(dataset.query_texts or [], judged, strict=False) if known}
        return cls(texts, unit[torch.tensor(judged, dtype=torch.bool)], cosine_of(threshold, unit))

    def removed_from(self, asked: _Asked) -> _Asked:
        if not asked.texts or not len(self.vectors):
            return asked
        near = nearest(torch.nn.functional.normalize(asked.vectors), self.vectors)[0][0] >= self.cosine
        kept = [n for n, text in enumerate(asked.texts) if not near[n] and text_key(text) not in self.texts]
        return _Asked([asked.texts[n] for n in kept], asked.vectors[torch.tensor(kept, dtype=torch.int64)])


@dataclass(frozen=True)
class School:
    """A teacher, and what it is asked.

    Attributes:
        teacher: see ``open_teacher``.
        queries: queries without labels, besides those of the data that no split judges.
    """

    teacher: Teacher
    queries: Sequence[str] = ()


def ask_teacher(
    school: School,
    encoder: Encoder,
    data: tuple[RetrievalDataset, EmbeddedDataset],
    *,
    seed: int = 0,
    threshold: float = PARAPHRASE_THRESHOLD,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
) -> SoftTargets:
    """Have a teacher score the base model's best documents for queries that have no labels.

    These are the queries of the data set that no split judges and those given here, 1,000 of them at most; if there are
    fewer, portions of the documents as well. A query with a label in any split, and whatever paraphrases one, is never
    among them, so what the teacher says is learned from no query that anything is measured on.

    Args:
        school: the teacher, and further queries.
        encoder: the base model.
        data: the data set, whose documents have texts, and the same embedded.
        seed: of the queries that are taken, if there are many.
        threshold: how near two queries are that count as paraphrases.
        cache_dir: where embeddings are cached.
        show_progress_bar: bars for embedding and scoring.

    Returns:
        What it says of 30 documents for each query.

    Raises:
        ValueError: there are fewer than 50 such queries; the teacher gives a score that is not finite.

    Examples:
        >>> from st_adapter.embeddings import open_teacher
        >>> from st_adapter.embeddings.encoder import SentenceTransformerEncoder
        >>> school = School(open_teacher(model, show_progress_bar=False), [f"what is number {n}" for n in range(60)])
        >>> encoder, how = SentenceTransformerEncoder(model), {"cache_dir": "cache", "show_progress_bar": False}
        >>> ask_teacher(school, encoder, (dataset, embedded), threshold=1.0, **how)
        SoftTargets(60 queries, 16 documents each, by 'tiny-flat')
    """
    dataset, embedded = data
    documents = dataset.document_texts or []
    labelled = _Labelled.of(dataset, embedded, threshold)

    def asked(texts: list[str]) -> _Asked:
        vectors = embed_role(encoder, "query", texts, cache_dir, show_progress_bar)
        return labelled.removed_from(_Asked(texts, vectors))

    users, num_alike = _of_users(_unlabelled(dataset, school.queries, seed), labelled, asked)
    portions = asked(pseudo_queries(documents, seed).texts[: _MAX_QUERIES - len(users.texts)])
    queries = _Asked([*users.texts, *portions.texts], torch.cat([users.vectors, portions.vectors]))
    if len(queries.texts) < MIN_PSEUDO_QUERIES:
        raise _too_few(len(queries.texts))
    corpus = MemoryCorpus.of(embedded.corpus, embedded.query_embeddings.device)
    found = corpus.search(comparable(queries.vectors, corpus.similarity), _NUM_DOCUMENTS).indices
    scores = school.teacher.scores(queries.texts, documents, found).to(found.device)
    teaching = Teaching(school.teacher.name, len(users.texts), len(portions.texts), found.shape[1], num_alike)
    return SoftTargets.of(queries.vectors, (corpus, found), scores, teaching, embedded.normalized)


def _too_few(number: int) -> InputError:
    return InputError(
        f"Of queries without labels and portions of documents together there are {number} that are no copy or "
        f"paraphrase of a labelled query, but to learn from a teacher takes {MIN_PSEUDO_QUERIES}.",
        python="Give more as unlabelled_queries, or leave teacher out.",
        flags="Give more with --unlabelled-queries, or leave out --teacher.",
    )


def _of_users(texts: list[str], labelled: _Labelled, asked: Callable[[list[str]], _Asked]) -> tuple[_Asked, int]:
    """The queries of users that the teacher is asked about, and how many were left out for a labelled one."""
    # Those with the very text of a labelled query give their place to others; paraphrases are known once embedded.
    new = [text for text in texts if text_key(text) not in labelled.texts]
    taken = new[:_MAX_QUERIES]
    users = asked(taken)
    return users, len(texts) - len(new) + len(taken) - len(users.texts)


def _judged(dataset: RetrievalDataset) -> list[bool]:
    """Which queries of a data set have a label in any split."""
    judged = {query_id for rows in dataset.qrels.values() for query_id in rows["query_id"]}
    return [query_id in judged for query_id in dataset.queries["id"]]


def _unlabelled(dataset: RetrievalDataset, given: Sequence[str], seed: int) -> list[str]:
    """The queries of a data set that no split judges, and those given, each once and in random order."""
    texts = dataset.query_texts
    own = [] if texts is None else [text for text, known in zip(texts, _judged(dataset), strict=True) if not known]
    drawn = list(dict.fromkeys(filter(None, (text.strip() for text in [*own, *given]))))
    random.Random(seed).shuffle(drawn)
    return drawn
