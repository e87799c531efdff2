"""What a saved model says of its training, made from the results of a run."""

from __future__ import annotations

from collections.abc import Sequence

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.evidence.results import Results
from st_adapter.evidence.split_results import HEADLINE_METRIC, SplitResults
from st_adapter.evidence.systems import SystemResults
from st_adapter.saving.record import TABLE_METRICS, SplitScores, SystemScores, TrainingRecord


def record_of(
    results: Results, dataset: RetrievalDataset, similarity: str, paraphrase_threshold: float, script: str = ""
) -> TrainingRecord:
    """The record of a run, for configuration and card of the saved model.

    Args:
        results: of the run.
        dataset: what was learned from and measured on.
        similarity: ``cosine`` or ``dot``.
        paraphrase_threshold: how near two queries are that counted as paraphrases.
        script: the script that makes the model.
    """
    name, pair = results.data.name, results.query_model
    return TrainingRecord(
        data=name,
        dataset_id=name if "/" in name else "",
        data_fingerprint=results.data.fingerprint,
        date=results.date,
        num_documents=results.data.num_documents,
        corpus_is_labelled_only=results.data.corpus_is_labelled_only,
        num_queries=dataset.num_queries,
        method=results.method,
        chosen=results.selection.chosen,
        reason=results.verdict.sentence,
        seed=results.seed,
        split_by=dataset.cut.by if dataset.cut else "query",
        split_seed=results.data.split_seed,
        paraphrase_threshold=paraphrase_threshold,
        fitted_on=results.fitted_on,
        arguments=results.arguments or {},
        scores=None if results.test is None else _scores("test", results.test, similarity),
        reference="" if pair is None else pair.reference,
        systems=[] if pair is None else _systems(pair.systems.get("test", [])),
        speed="" if pair is None else pair.speed_sentence,
        script=script,
        opened_with=results.opened_with,
        versions=results.versions,
    )


def _systems(systems: Sequence[SystemResults]) -> list[SystemScores]:
    return [
        SystemScores(
            system.name,
            system.means[HEADLINE_METRIC],
            None if system.compared is None else system.compared.difference,
            [] if system.compared is None else list(system.compared.shown_interval or ()),
        )
        for system in systems
    ]


def _scores(split: str, measured: SplitResults, similarity: str) -> SplitScores:
    compared = {name: measured.comparisons["all"][name] for name in TABLE_METRICS}
    sentence = compared[HEADLINE_METRIC].sentence
    return SplitScores(
        split=split,
        num_queries=measured.num_queries,
        num_documents=measured.num_documents,
        similarity=similarity,
        base={name: each.base for name, each in compared.items()},
        adapted={name: each.adapted for name, each in compared.items()},
        intervals={name: list(each.shown_interval) for name, each in compared.items() if each.shown_interval},
        summary=f"{sentence[:1].upper()}{sentence[1:]}.",
        num_own_copies=measured.num_own_copies,
    )
