"""What is kept of the data of a run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.fingerprint import data_fingerprint, query_keys
from st_adapter.data.leaks import LeakReport
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.long_texts import LongTexts

# Leaks written out; the counts are of all.
_SHOWN_LEAKS = 100


@dataclass(frozen=True, kw_only=True)
class TrainSplitResults:
    """How much there was to learn from.

    Attributes:
        num_queries: training queries.
        num_pairs: their relevant (query, document) pairs.
    """

    num_queries: int
    num_pairs: int


@dataclass(frozen=True, kw_only=True)
class DataResults:
    """The data of a run.

    Attributes:
        name: of the data set; empty for data in memory.
        notes: what was cut, merged or dropped.
        num_documents: N, size of the corpus.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        corpus: the vector database or file that holds the documents; empty if they came with the data.
        queries: the file that holds the queries; likewise.
        train: the training split.
        split_by: what was kept on one side when the splits were cut; None if they were given.
        split_seed: by which they were cut; that of the run if None, in results of earlier versions.
        long_texts: texts of which the model reads a part; None if it reads all of every text, or nothing tells.
        leaks: what stands in two splits, as ``LeakReport.to_dict`` writes it.
        fingerprint: hash of the content; see ``data_fingerprint``.
        learned_from: hashes of the queries that a new adapter was fitted on or chosen by; see ``query_keys``.
    """

    name: str
    notes: list[str]
    num_documents: int
    corpus_is_labelled_only: bool = False
    corpus: str = ""
    queries: str = ""
    train: TrainSplitResults
    split_by: str | None
    split_seed: int | None = None
    long_texts: LongTexts | None = None
    leaks: dict[str, Any]
    fingerprint: str = ""
    learned_from: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def of(
        cls, dataset: RetrievalDataset, embedded: EmbeddedDataset, leaks: LeakReport, learned_from: Collection[str] = ()
    ) -> DataResults:
        """What is kept of the data of a run; ``learned_from`` are the splits that a new adapter knows."""
        long_texts = embedded.long_texts
        train = embedded["train"] if "train" in embedded.qrels else None
        return cls(
            name=dataset.name,
            notes=[*dataset.notes, *(long_texts.notes if long_texts is not None else ())],
            num_documents=dataset.num_documents,
            corpus=dataset.apart.get("corpus", "") if dataset.store is None else dataset.store.address,
            queries=dataset.apart.get("queries", ""),
            corpus_is_labelled_only=dataset.corpus_is_labelled_only,
            train=TrainSplitResults(
                num_queries=0 if train is None else len(train.query_ids),
                num_pairs=0 if train is None else train.num_pairs,
            ),
            split_by=dataset.cut.by if dataset.cut else None,
            split_seed=dataset.cut.seed if dataset.cut else None,
            long_texts=long_texts,
            leaks=leaks.to_dict(max_pairs=_SHOWN_LEAKS),
            fingerprint=data_fingerprint(dataset),
            learned_from=sorted(set(query_keys(dataset, learned_from).values())),
        )
