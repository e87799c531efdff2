"""A saved model with an adapter against its own base model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.every_judgement import with_all_judged
from st_adapter.data.splits import UNCUT
from st_adapter.embeddings.checked_embedding import embed_to_measure
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.embedding import embed_as_queries, judged_by
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.evaluation.hits import Adapter, adapt
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evidence.changes import LargestChanges
from st_adapter.evidence.index_evaluation import IndexEvaluation, evaluate_indexes
from st_adapter.evidence.indexes import check_index
from st_adapter.evidence.split_results import SplitResults
from st_adapter.evidence.trec import write_trec
from st_adapter.evidence.verdict import RunVerdict
from st_adapter.saving.attach import detach, whole_dimension
from st_adapter.saving.deployed import check_embeds_documents
from st_adapter.saving.joined import parted
from st_adapter.saving.tasks import check_task_of
from st_adapter.storage.records import plain
from st_adapter.storage.writing import check_writable, write_json

# Of directions: rounding in half precision stays below, and an adapter of any use does not.
_SAME_DIRECTION = 1e-2


@dataclass(frozen=True, kw_only=True)
class SavedModelResults:
    """A saved model against another one, or its own base model, on one split; what ``st-adapter evaluate`` writes.

    Attributes:
        model: folder or Hub id of the saved model.
        task: whose adapter, of several.
        data: name of the data set.
        split: the split.
        seed: by which the data were cut, if they were.
        opened_with: settings of the base model that its own files do not say.
        notes: what was cut, merged or dropped.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        long_texts: texts of which the model reads a part.
        evaluations: exact search first, then the indexes.
        against: what it is compared with, ``base`` of the evaluations; its own base model if None.
        verdict: with ``against``, whether to deploy it in the other's place.
        changes: with ``against``, the queries that changed most.
    """

    model: str
    task: str | None
    data: str
    split: str
    seed: int | None
    opened_with: Mapping[str, Any]
    notes: Iterable[str]
    corpus_is_labelled_only: bool
    long_texts: LongTexts | None
    evaluations: list[IndexEvaluation]
    against: str | None = None
    verdict: RunVerdict | None = None
    changes: LargestChanges | None = None

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        exact, *others = self.evaluations
        apart = ("evaluations", "verdict", "changes", *(["against"] if self.against is None else []))
        content = plain({name: value for name, value in vars(self).items() if name not in apart})
        if self.verdict is not None:
            content["verdict"] = self.verdict.to_dict()
        if others:
            content["indexes"] = [
                {
                    **plain({name: value for name, value in vars(other).items() if name != "result"}),
                    **plain(SplitResults.of(other.result)),
                }
                for other in others
            ]
        write_json(path, {**content, **plain(SplitResults.of(exact.result, self.changes))})


def evaluate_saved(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str | None = None,
    *,
    task: str | None = None,
    indexes: Sequence[str] = (),
    fitted_on: Sequence[str] = (),
    run_dir: str | Path | None = None,
    **options: Any,
) -> list[IndexEvaluation]:
    """Evaluate a saved model with an adapter against its own base model, by exact search and through indexes.

    Args:
        model: a model saved by this package, opened with Sentence Transformers; without an adapter both sides
            are equal.
        dataset: queries, corpus and judgements.
        split: the split to evaluate on; test, or else the only one, if None; ``all``: every judged query of all splits.
            ``RetrievalDataset.load`` with ``cut_into=()`` reads data to evaluate on all of them.
        task: whose adapter, of a model with adapters for several tasks; that of ``encode_query`` if None.
        indexes: names as ``build_index`` takes them, such as ``int8`` or ``hnsw:40``.
        fitted_on: splits of these data that the adapter was fitted on, to tell queries whose documents it has seen from
            the others; without any they are not told apart.
        run_dir: a folder to write the rankings and judgements to in TREC form; see ``write_trec``.
        **options: ``paraphrase_threshold`` of the training, for the same splits where they were cut by document;
            ``allow_other_vectors``, to go on where vectors that came with the data are not the base model's; arguments
            of ``embed``, such as ``cache_dir``.

    Returns:
        One entry per index, exact search first.

    Raises:
        ValueError: the data do not have the split, the model embeds queries alone, has a Router of another making, or
            several adapters and none of them is meant, the name of an index is unknown or does not fit the model's
            dimensions, or the data cannot be written in TREC form.
        ImportError: an approximate index was named and ``st-adapter[index]`` is not installed.

    Examples:
        >>> adapted = st_adapter.attach(model, adapter)
        >>> (exact,) = evaluate_saved(adapted, dataset, cache_dir="cache", show_progress_bar=False)
        >>> exact.result.compare("ndcg@10").difference  # an untrained adapter
        0.0
    """
    checked = [check_index(name) for name in indexes]  # before anything is embedded
    if run_dir is not None:
        check_writable(Path(run_dir), "run_dir")
    ready = measured_with(model, dataset, split, task=task, fitted_on=fitted_on, **options)
    if run_dir is not None:
        write_trec(ready.split, run_dir, ready.adapter)
    return evaluate_indexes(ready.split, ready.adapter, checked, seen_documents=ready.seen_documents)


@dataclass(frozen=True)
class Measured:
    """A saved model, taken apart, on the split that it is measured on.

    Attributes:
        documents: what embeds documents.
        dataset: with the splits that were to be cut.
        split: queries as that model embeds them, corpus and judgements.
        adapter: what maps these queries to those of the saved model.
        seen_documents: (N,) bool, documents that were positives in training; None if that was not asked for.
    """

    documents: SentenceTransformer
    dataset: RetrievalDataset
    split: EmbeddedSplit
    adapter: Adapter
    seen_documents: Tensor | None


def measured_with(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str | None,
    *,
    task: str | None = None,
    fitted_on: Sequence[str] = (),
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD,
    allow_other_vectors: bool = False,
    **embedding: Any,
) -> Measured:
    """Take a saved model apart, and embed the data with it; arguments and errors are those of ``evaluate_saved``."""
    split = dataset.split_to_evaluate(split)
    check_embeds_documents(model)
    check_task_of(model, task)
    joined = parted(model)
    base, query_modules = detach(model, task) if joined is None else (joined.documents, [])
    dataset, embedded = embed_to_measure(
        base,
        dataset,
        paraphrase_threshold=paraphrase_threshold,
        allow_other_vectors=allow_other_vectors,
        **embedding,
    )
    if split == UNCUT:
        dataset = with_all_judged(dataset)
        embedded = judged_by(embedded, dataset)
    measured, adapter = embedded[split], cast(Adapter, query_modules)
    judged = measured.subset(measured.judged)
    vectors = embedded_anew(model, dataset, judged, task=task, **embedding)
    if vectors is not None:
        measured, adapter = judged, in_place_of(vectors)
    seen = seen_documents(embedded, fitted_on) if fitted_on else None
    return Measured(base, dataset, measured, adapter, seen)


def embedded_anew(
    model: SentenceTransformer, dataset: RetrievalDataset, split: EmbeddedSplit, *, task: str | None, **embedding: Any
) -> Tensor | None:
    """The queries of a split by a saved model (Q, D) that are no map of what its base model makes of them.

    They come from a query model, or are truncated behind the adapter. None for any other model.

    Raises:
        ValueError: the queries came as vectors alone.
    """
    joined = parted(model)
    if joined is not None:
        return embed_as_queries(joined.queries, query_texts(dataset, split), **embedding)
    base, query_modules = detach(model, task)
    if not _reads_beyond(base, query_modules):
        return None
    kept = base.get_embedding_dimension()
    if dataset.query_texts is None:
        raise ValueError(
            f"The queries came as vectors of {kept} dimensions, but the adapter reads all {whole_dimension(base)}, and "
            "what it gives is truncated. Give the texts of the queries."
        )
    with base.truncate_embeddings(None):
        vectors = embed_as_queries(base, query_texts(dataset, split), **embedding)
    return adapt(query_modules, vectors)[:, :kept]


def _reads_beyond(base: SentenceTransformer, query_modules: Sequence[Module]) -> bool:
    """Whether query modules read what the base model, opened with a ``truncate_dim``, cuts off its vectors.

    Sentence Transformers truncates behind them. Of an adapter that was trained on truncated vectors, the direction of
    what is kept does not depend on the rest.
    """
    kept, whole = base.get_embedding_dimension(), whole_dimension(base)
    if not query_modules or kept == whole:
        return False
    drawn = torch.randn(8, whole, generator=torch.Generator().manual_seed(0)).to(base.device, base.dtype)
    blind = drawn * (torch.arange(whole, device=base.device) < kept)
    found = (adapt(query_modules, vectors)[:, :kept].float() for vectors in (drawn, blind))
    one, other = map(torch.nn.functional.normalize, found)
    return bool((one - other).norm(dim=1).max() > _SAME_DIRECTION)


def query_texts(dataset: RetrievalDataset, split: EmbeddedSplit) -> list[str]:
    """The texts of the queries of a split.

    Raises:
        ValueError: the queries came as vectors alone.
    """
    if dataset.query_texts is None:
        raise ValueError(
            "The queries came as vectors, which are of one model, but another one is to embed them. Give their texts."
        )
    text_of = dict(zip(dataset.queries["id"], dataset.query_texts, strict=True))
    return [text_of[query_id] for query_id in split.query_ids]


def in_place_of(vectors: Tensor) -> Callable[[Tensor], Tensor]:
    """What stands for a map of the queries of a split: their (Q, D) vectors by another model."""

    def adapted(query_embeddings: Tensor) -> Tensor:
        if len(query_embeddings) != len(vectors):
            raise ValueError(
                f"{len(query_embeddings)} queries came, but the query model has embedded {len(vectors)}. Report this."
            )
        return vectors

    return adapted
