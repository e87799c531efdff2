"""Whatever a user gives a trainer, as an embedded train and dev split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.identity import known_difference
from st_adapter.embeddings.probe_texts import check_texts_of
from st_adapter.embeddings.roles import Role
from st_adapter.fitting.pool import seen_by_fit

TrainDataset: TypeAlias = RetrievalDataset | EmbeddedDataset | EmbeddedSplit | Dataset
EvalDataset: TypeAlias = EmbeddedSplit | Dataset


class TrainingData(NamedTuple):
    """What a trainer works on.

    Attributes:
        train: the split to fit on, its documents in memory.
        dev: the split to measure on, with the same corpus.
        check_texts: texts that a saved model is compared on; None if the data came as vectors.
    """

    train: EmbeddedSplit
    dev: EmbeddedSplit
    check_texts: Mapping[Role, Sequence[str]] | None


def training_data(
    model: SentenceTransformer, train: TrainDataset | None, dev: EvalDataset | None = None
) -> TrainingData:
    """Load, embed and split what was given.

    Args:
        model: base model, which embeds what came as texts.
        train: a whole data set, one embedded split, or pairs.
        dev: the dev split, if ``train`` is not a whole data set.

    Raises:
        ValueError: the two do not make a train and a dev split over one corpus.
    """
    given = train
    if isinstance(train, RetrievalDataset | EmbeddedDataset) and dev is not None:
        raise _unfitting(train, dev)
    if isinstance(train, Dataset) and isinstance(dev, Dataset):
        train, dev = RetrievalDataset.load(DatasetDict(train=train, dev=dev)), None
    elif isinstance(train, Dataset) and dev is None:
        # A test split would be set aside for nothing: the trainer looks at train and dev alone.
        train = RetrievalDataset.load(train, cut_into=("train", "dev"))
    # Vectors alone leave nothing to compare a saved model on but fixed texts.
    check_texts = check_texts_of(train) if isinstance(train, RetrievalDataset) else None
    if isinstance(train, RetrievalDataset):
        train = embed(model, train)
    if isinstance(train, EmbeddedDataset):
        return TrainingData(seen_by_fit(train["train"]), train["dev"], check_texts)
    if isinstance(train, EmbeddedSplit) and isinstance(dev, EmbeddedSplit):
        _check_alike(train, dev)
        return TrainingData(seen_by_fit(train), dev, check_texts)
    raise _unfitting(given, dev)


def _unfitting(train: object, dev: object) -> ValueError:
    return ValueError(
        f"train_dataset is {type(train).__name__} and eval_dataset is {type(dev).__name__}. Pass a whole data set with "
        "the splits 'train' and 'dev' as train_dataset, or two embedded splits, or two datasets.Dataset of pairs."
    )


def _check_alike(train: EmbeddedSplit, dev: EmbeddedSplit) -> None:
    """Check that two splits are of one model and one corpus."""
    ours, theirs = train.base_model, dev.base_model
    difference = known_difference(ours, theirs)
    if difference is not None:
        raise ValueError(
            f"train_dataset holds vectors of {ours} and eval_dataset of {theirs}: {difference}. Embed both with one "
            "model."
        )
    searched, measured = train.corpus, dev.corpus
    if searched is measured:
        return
    same = list(searched.ids) == list(measured.ids) and searched.similarity == measured.similarity
    if same and isinstance(searched, MemoryCorpus) and isinstance(measured, MemoryCorpus):
        same = torch.allclose(searched.embeddings.cpu(), measured.embeddings.cpu(), atol=1e-5)
    if not same:
        raise ValueError("train_dataset and eval_dataset search different corpora. Embed both as one data set.")
