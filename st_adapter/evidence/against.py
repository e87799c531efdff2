"""A saved model against another one: the one that is deployed, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.splits import UNCUT
from st_adapter.embeddings.checked_embedding import compare_sample
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.embedding import as_encoder, embed_as_queries
from st_adapter.embeddings.identity import identity_of
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evaluation.hits import adapt
from st_adapter.evaluation.statistics import gate
from st_adapter.evidence.changes import LargestChanges, largest_changes
from st_adapter.evidence.index_evaluation import IndexEvaluation, evaluate_indexes
from st_adapter.evidence.indexes import check_index
from st_adapter.evidence.saved import (
    Measured,
    embedded_anew,
    in_place_of,
    measured_with,
    query_texts,
)
from st_adapter.evidence.split_results import HEADLINE_METRIC
from st_adapter.evidence.trec import write_trec
from st_adapter.evidence.verdict import RunVerdict
from st_adapter.saving.attach import attach, detach
from st_adapter.saving.joined import documents_model
from st_adapter.saving.tasks import check_task_of, tasks_of
from st_adapter.storage.writing import check_writable

_ALPHA = 0.05
# Documents that both models embed, besides the texts by which they are told apart in any case.
_NUM_DOCUMENTS = 16
# Of the options, those that say nothing of how texts are embedded.
_NOT_OF_EMBEDDING = ("paraphrase_threshold", "allow_other_vectors", "fitted_on")


@dataclass(frozen=True)
class SavedComparison:
    """Two saved models on the same queries.

    Attributes:
        evaluations: exact search first, then the indexes; ``base`` of them is what was compared with.
        changes: the queries on which either of them wins by most.
        verdict: whether to deploy the one in the other's place; None where it was fitted on some of the queries.
    """

    evaluations: list[IndexEvaluation]
    changes: LargestChanges
    verdict: RunVerdict | None


def compare_saved(
    model: SentenceTransformer,
    against: SentenceTransformer | QueryAdapter,
    dataset: RetrievalDataset,
    split: str | None = None,
    *,
    task: str | None = None,
    indexes: Sequence[str] = (),
    run_dir: str | Path | None = None,
    name: str = "the other model",
    **options: Any,
) -> SavedComparison:
    """Compare a saved model with another one over the same documents, query by query.

    The verdict comes from a one-sided test at the level of .05, as that of training does.

    Args:
        model: a model saved by this package, opened with Sentence Transformers.
        against: what to compare with, likewise; an adapter alone, for the base model of ``model``; or a base model.
        dataset: queries, corpus and judgements, which neither of the two should have been fitted on.
        split: the split to evaluate on; test, or else the only one, if None; ``all``: every judged query of all splits.
        task: whose adapter, of either that has adapters for several tasks.
        indexes: as for ``evaluate_saved``.
        run_dir: as for ``evaluate_saved``; ``base.run`` is of ``against``.
        name: of ``against``, for the verdict.
        **options: other arguments of ``evaluate_saved``, such as ``cache_dir``; ``fitted_on`` is of ``model``.

    Raises:
        ValueError: the two do not embed documents alike, or as ``evaluate_saved``.

    Examples:
        >>> found = compare_saved(attach(model, adapter), model, dataset, cache_dir="cache", show_progress_bar=False)
        >>> found.evaluations[0].result.compare("ndcg@10").difference  # an untrained adapter
        0.0
        >>> found.verdict.decision
        'do not deploy'
    """
    checked = [check_index(index) for index in indexes]  # before anything is embedded
    if run_dir is not None:
        check_writable(Path(run_dir), "run_dir")
    documents = documents_model(model)
    other = attach(documents, against) if isinstance(against, QueryAdapter) else against
    check_same_documents(documents, documents_model(other), name)
    of_ours, of_theirs = _tasks(model, other, task)
    ready = measured_with(model, dataset, split, task=of_ours, **options)
    _check_documents_of(ready, documents_model(other), name)
    ours, theirs = _both(
        ready, other, of_theirs, {key: each for key, each in options.items() if key not in _NOT_OF_EMBEDDING}
    )
    # From here on, what was compared with stands for the base model.
    compared = replace(ours, query_embeddings=theirs, own_copies=ours.left_out)
    adapter = in_place_of(adapt(ready.adapter, ours.query_embeddings))
    if run_dir is not None:
        write_trec(compared, run_dir, adapter)
    evaluations = evaluate_indexes(compared, adapter, checked, seen_documents=ready.seen_documents)
    changes = largest_changes(ready.dataset, compared, evaluations[0].result, adapter)
    fitted_on = options.get("fitted_on", ())
    of_fit = bool(fitted_on) and ours.name in (*fitted_on, UNCUT)
    return SavedComparison(evaluations, changes, None if of_fit else _verdict(evaluations[0].result, name))


def _verdict(result: EvaluationResult, name: str) -> RunVerdict:
    tested = gate(result.adapted[HEADLINE_METRIC] - result.base[HEADLINE_METRIC], alpha=_ALPHA, against=name)
    return RunVerdict.of(tested, _ALPHA, kept=f"{name} stays")


def _tasks(model: SentenceTransformer, other: SentenceTransformer, task: str | None) -> tuple[str | None, str | None]:
    """The task of each of the two, for those that have adapters for several."""
    ours, theirs = (task if tasks_of(each) else None for each in (model, other))
    check_task_of(other, theirs)
    if ours is None and theirs is None:
        check_task_of(model, task)
    return ours, theirs


def check_same_documents(documents: SentenceTransformer, others: SentenceTransformer, name: str) -> None:
    """Check, before any text of the data is embedded, that two models embed documents alike.

    Args:
        documents: what embeds the documents of one.
        others: what embeds those of the other.
        name: of the other.

    Raises:
        InputError: they do not.
    """
    ours, theirs = identity_of(documents), identity_of(others)
    apart = ours.document_difference(theirs)
    if apart is not None:
        raise _other_documents(name, f"{apart}: {theirs} there, {ours} here")
    by = [as_encoder(each).similarity for each in (others, documents)]
    if not ours.normalized and by[0] != by[1]:
        raise InputError(
            f"The similarity of {name} is {by[0]!r}, and that of this model {by[1]!r}, so that the two do not rank the "
            "same vectors alike.",
            python="Open both with the same similarity_fn_name.",
            flags="Write the same similarity_fn_name in their config_sentence_transformers.json.",
        )


def _check_documents_of(ready: Measured, others: SentenceTransformer, name: str) -> None:
    """The same on some documents of the data, if they lie in memory with their texts."""
    texts, corpus = ready.dataset.document_texts, ready.split.corpus
    if not isinstance(corpus, MemoryCorpus):
        return
    found = compare_sample(as_encoder(others), "document", texts, corpus.embeddings, corpus, _NUM_DOCUMENTS)
    if found is not None and not found.same:
        raise _other_documents(name, found.sentence)


def _other_documents(name: str, why: str) -> InputError:
    return InputError(
        f"The documents of {name} have other vectors ({why}), so that the two cannot search the same index.",
        python="Compare models that were made from the same base model, opened in the same way.",
        flags="Compare models that were made from the same base model; flags such as --truncate-dim open both.",
    )


def _both(
    ready: Measured, other: SentenceTransformer, task: str | None, embedding: dict[str, Any]
) -> tuple[EmbeddedSplit, Tensor]:
    """The queries that count, and the (Q, D) vectors that the other model has for them."""
    split = ready.split.subset(ready.split.judged)
    anew = embedded_anew(other, ready.dataset, split, task=task, **embedding)
    if anew is not None:
        return split, anew
    base, modules = detach(other, task)
    if identity_of(ready.documents).difference(identity_of(base)) is None:
        vectors = split.query_embeddings  # also of queries that came as vectors
    else:
        vectors = embed_as_queries(base, query_texts(ready.dataset, split), **embedding)
    return split, adapt(modules, vectors)
