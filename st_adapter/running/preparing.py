"""The data of a run, embedded and checked: what is learned from and measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.leaks import LeakReport, drop_leaks, find_leaks
from st_adapter.data.paraphrases import cut_splits
from st_adapter.embeddings.checked_embedding import checked_folders, checked_given
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.embedding import as_encoder, embed_pseudo_queries, embed_texts, judged_by
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.embeddings.teaching import School, ask_teacher
from st_adapter.fitting.auto import Clock, starts_from_pseudo_queries
from st_adapter.fitting.folds import labelled_split
from st_adapter.running.settings import RunOptions, Settings
from st_adapter.saving.base import Base


@dataclass(frozen=True)
class Data:
    """The data as they are learned from and measured on.

    Attributes:
        texts: ids, texts and splits.
        embedded: the same as vectors.
        leaks: what stands in two splits.
    """

    texts: RetrievalDataset
    embedded: EmbeddedDataset
    leaks: LeakReport


def prepared(base: Base, dataset: RetrievalDataset, settings: Settings, clock: Clock) -> Data:
    """Embed a data set with the model of its documents, check vectors that came with it, and cut it."""
    allow_other = settings.options.allow_other_vectors
    with clock("embedding"):
        dataset = checked_folders(base.encoder, dataset, allow_other)
        embedded = embed_texts(base.encoder, dataset, **how_to_embed(settings))
    with clock("checking"):
        dataset = checked_given(base.encoder, dataset, embedded, allow_other)
        return checked_data(dataset, embedded, settings.options)


def checked_data(dataset: RetrievalDataset, embedded: EmbeddedDataset, options: RunOptions) -> Data:
    """Cut and count with what the embeddings show."""
    threshold = options.paraphrase_threshold
    dataset = cut_splits(dataset, embedded.query_embeddings, threshold=threshold)
    leaks = find_leaks(dataset, embedded.query_embeddings, threshold=threshold)
    if options.drop_leaks:
        dataset = drop_leaks(dataset, leaks)
        leaks = find_leaks(dataset, embedded.query_embeddings, threshold=threshold)
    return Data(dataset, judged_by(embedded, dataset), leaks)


def pseudo_queries_of(encoder: SentenceTransformer | Encoder, data: Data, settings: Settings) -> EmbeddedSplit | None:
    """What few labels start from, or what there is without any."""
    method = settings.method
    if settings.options.without_labels:
        needed = settings.teacher is None
    else:
        needed = method != "gradient" and starts_from_pseudo_queries(labelled_split(data.embedded), method)
    if not needed:
        return None
    return embed_pseudo_queries(encoder, data.texts, data.embedded, seed=settings.seed, **how_to_embed(settings))


def soft_targets_of(
    encoder: SentenceTransformer | Encoder, data: Data, school: School, settings: Settings
) -> SoftTargets:
    """What the teacher says."""
    return ask_teacher(
        school,
        as_encoder(encoder, settings.batch_size, settings.precision),
        (data.texts, data.embedded),
        seed=settings.seed,
        threshold=settings.options.paraphrase_threshold,
        cache_dir=settings.cache_dir,
        show_progress_bar=settings.show_progress_bar,
    )


def how_to_embed(settings: Settings) -> dict[str, Any]:
    """The settings that ``embed`` takes."""
    return {
        "cache_dir": settings.cache_dir,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "show_progress_bar": settings.show_progress_bar,
    }
