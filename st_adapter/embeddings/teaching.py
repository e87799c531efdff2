"""Ask a teacher: which queries it is asked about, and what becomes of its scores."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
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

    def without(self, known_texts: set[str], known: Tensor, cosine: float) -> _Asked:
        """The queries that are none of the known ones, nor paraphrases of one."""
        if not self.texts or not len(known):
            return self
        near = nearest(torch.nn.functional.normalize(self.vectors), known)[0][0] >= cosine
        kept = [n for n, text in enumerate(self.texts) if not near[n] and text_key(text) not in known_texts]
        return _Asked([self.texts[n] for n in kept], self.vectors[torch.tensor(kept, dtype=torch.int64)])


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
    """
    dataset, embedded = data
    documents = dataset.document_texts or []

    def embed(texts: list[str]) -> Tensor:
        return embed_role(encoder, "query", texts, cache_dir, show_progress_bar)

    judged = {query_id for rows in dataset.qrels.values() for query_id in rows["query_id"]}
    labelled = torch.tensor([query_id in judged for query_id in embedded.query_ids], dtype=torch.bool)
    unit = normalized_queries(dataset, embedded.query_embeddings, threshold)
    cosine = cosine_of(threshold, unit)
    texts = dataset.query_texts
    known_texts = {text_key(text) for text, known in zip(texts or [], labelled.tolist(), strict=False) if known}
    own = [] if texts is None else [text for text, known in zip(texts, labelled.tolist(), strict=True) if not known]
    drawn = list(dict.fromkeys(filter(None, (text.strip() for text in [*own, *school.queries]))))
    random.Random(seed).shuffle(drawn)

    def asked(candidates: list[str]) -> _Asked:
        return _Asked(candidates, embed(candidates)).without(known_texts, unit[labelled], cosine)

    users = asked(drawn[:_MAX_QUERIES])
    portions = asked(pseudo_queries(documents, seed).texts[: _MAX_QUERIES - len(users.texts)])
    queries = _Asked([*users.texts, *portions.texts], torch.cat([users.vectors, portions.vectors]))
    if len(queries.texts) < MIN_PSEUDO_QUERIES:
        raise InputError(
            f"Of queries without labels and portions of documents together there are {len(queries.texts)} that are no "
            f"copy or paraphrase of a labelled query, but to learn from a teacher takes {MIN_PSEUDO_QUERIES}.",
            python="Give more as unlabelled_queries, or leave teacher out.",
            flags="Give more with --unlabelled-queries, or leave out --teacher.",
        )
    corpus = MemoryCorpus.of(embedded.corpus, embedded.query_embeddings.device)
    found = corpus.search(comparable(queries.vectors, corpus.similarity), _NUM_DOCUMENTS).indices
    scores = school.teacher.scores(queries.texts, documents, found).to(found.device)
    teaching = Teaching(school.teacher.name, len(users.texts), len(portions.texts), found.shape[1])
    return SoftTargets.of(queries.vectors, (corpus, found), scores, teaching, embedded.normalized)
