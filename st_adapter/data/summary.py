"""What a data set is at a glance: how its rows were read, counts, samples and lengths, before anything is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.words import listed


@dataclass(frozen=True)
class SplitSummary:
    """One split.

    Attributes:
        name: As in the data set, or "to be cut".
        num_queries: Queries that it judges.
        num_relevant: Judgements above 0.
        num_not_relevant: The others.
        fewest: Relevant documents of the query with fewest.
        median: The same of the median query.
        most: The same of the query with most.
    """

    name: str
    num_queries: int
    num_relevant: int
    num_not_relevant: int
    fewest: int
    median: float
    most: int


@dataclass(frozen=True)
class TextSummary:
    """The texts of one side.

    Attributes:
        num_texts: Queries or documents.
        shortest: Characters of the shortest text.
        median: The same of the median text.
        longest: The same of the longest text.
        num_variants: Texts that differ from another one in case, width and spacing alone.
    """

    num_texts: int
    shortest: int
    median: float
    longest: int
    num_variants: int


@dataclass(frozen=True)
class Sample:
    """A judgement.

    Attributes:
        split: Where it stands.
        query: Its text, or its id if there is none.
        document: The same.
        relevance: Above 0 is relevant.
    """

    split: str
    query: str
    document: str
    relevance: float


@dataclass(frozen=True)
class DataSummary:
    """A data set at a glance.

    Attributes:
        name: Where it came from.
        num_documents: N, how many documents are searched.
        corpus_is_labelled_only: Whether they are just the documents of the pairs.
        how_read: Which columns played which role, and what was guessed, merged, cut and left out, in sentences.
        splits: One each.
        queries: Their texts; None if they came as vectors alone.
        documents: Their texts; None if they came as vectors alone.
        samples: Judgements spread evenly over the data.
    """

    name: str
    num_documents: int
    corpus_is_labelled_only: bool
    how_read: tuple[str, ...]
    splits: tuple[SplitSummary, ...]
    queries: TextSummary | None
    documents: TextSummary | None
    samples: tuple[Sample, ...]


def summarised(dataset: RetrievalDataset, num_samples: int = 5) -> DataSummary:
    """Summarise a data set, in seconds and without any model.

    Args:
        dataset: Any.
        num_samples: Judgements to show, at least 1.

    Examples:
        >>> summary = summarised(RetrievalDataset.load([{"question": "How?", "answer": "So."}], cut_into=()))
        >>> summary.how_read[0], summary.splits[0].num_relevant
        ("Columns: query = 'question', document = 'answer'.", 1)
    """
    return DataSummary(
        name=dataset.name,
        num_documents=dataset.num_documents,
        corpus_is_labelled_only=dataset.corpus_is_labelled_only,
        how_read=how_read(dataset),
        splits=tuple(_split_summary(dataset, split) for split in dataset.num_queries),
        queries=_text_summary(dataset.query_texts),
        documents=_text_summary(dataset.document_texts),
        samples=_samples(dataset, num_samples),
    )


def how_read(dataset: RetrievalDataset) -> tuple[str, ...]:
    """How the rows of a data set were read: the columns by role, and its notes."""
    columns = []
    for table in dataset.columns_read:
        roles = ", ".join(f"{role} = {listed(played)}" for role, played in table.roles)
        columns.append(f"Columns{table.where}: {roles}.")
    return (*dict.fromkeys(columns), *dataset.notes)


def _split_summary(dataset: RetrievalDataset, split: str) -> SplitSummary:
    rows = dataset.judged_rows[split].to_pandas()
    relevant = rows["relevance"] > 0
    per_query = relevant.groupby(rows["query_id"]).sum()
    return SplitSummary(
        name=split,
        num_queries=len(per_query),
        num_relevant=int(relevant.sum()),
        num_not_relevant=int((~relevant).sum()),
        fewest=int(per_query.min()),
        median=float(per_query.median()),
        most=int(per_query.max()),
    )


def _text_summary(texts: Sequence[str] | None) -> TextSummary | None:
    if not texts:
        return None
    lengths = np.array([len(text) for text in texts])
    num_variants = len(set(texts)) - len(set(map(text_key, texts)))
    return TextSummary(len(texts), int(lengths.min()), float(np.median(lengths)), int(lengths.max()), num_variants)


def _samples(dataset: RetrievalDataset, number: int) -> tuple[Sample, ...]:
    sides = ((dataset.queries, dataset.query_texts), (dataset.corpus, dataset.document_texts))
    queries, documents = (dict(zip(table["id"], texts or table["id"], strict=True)) for table, texts in sides)
    sizes = {split: len(rows) for split, rows in dataset.judged_rows.items()}
    places = np.unique(np.linspace(0, sum(sizes.values()) - 1, number).astype(int)).tolist()
    samples, before = [], 0
    for split, size in sizes.items():
        rows = dataset.judged_rows[split]
        for place in (each - before for each in places if before <= each < before + size):
            row = rows[place]
            samples.append(Sample(split, queries[row["query_id"]], documents[row["corpus_id"]], row["relevance"]))
        before += size
    return tuple(samples)
