"""The README.md of a model with several adapters, each with its figures and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.saving.card import card_metadata, eval_results, facts_of, filled
from st_adapter.saving.layouts import Layout
from st_adapter.saving.record import TrainingRecord
from st_adapter.words import metric_name

_TEMPLATE = Path(__file__).with_name("tasks_card_template.md")
_HEADLINE = "ndcg@10"


def tasks_card(
    title: str,
    base_model: EncoderIdentity,
    training: Mapping[str, TrainingRecord | None],
    *,
    default_task: str | None = None,
    layout: Layout = "document",
    inherited: Mapping[str, Any] | None = None,
    remote_code: bool = False,
    query_prompt: bool = True,
) -> str:
    """The README.md of a whole model with several adapters.

    Args:
        title: Hub id, or name of the folder.
        base_model: the base.
        training: task -> what is known about the training of its adapter.
        default_task: the one that ``encode_query`` uses, if it uses one.
        layout: the model's.
        inherited: metadata taken over from the base's card.
        remote_code: whether the base model comes with code of its own.
        query_prompt: whether the model has a prompt, be it empty, by the name ``query``.
    """
    data = card_metadata(title, base_model, inherited, None, "sentence-transformers")
    known = {task: record for task, record in training.items() if record is not None}
    data_sets = dict.fromkeys(record.dataset_id for record in known.values() if record.dataset_id)
    if data_sets:
        data.datasets = list(data_sets)
    results = [each for record in known.values() if record.scores for each in eval_results(record, record.scores)]
    if results:
        data.model_name, data.eval_results = title, results
    measured = {task: record.scores for task, record in known.items() if record.scores}
    return filled(
        data,
        title,
        base_model,
        None,
        _TEMPLATE,
        tasks=list(training),
        default_task=default_task,
        measured={task: scores for task, scores in measured.items() if _HEADLINE in scores.base},
        headline=_HEADLINE,
        headline_name=metric_name(_HEADLINE),
        data_of={task: record.data for task, record in known.items()},
        facts_by_task={task: facts_of(record) for task, record in known.items() if facts_of(record)},
        layout=layout,
        query_prompt=query_prompt,
        remote_code=remote_code,
        hub_id=title if "/" in title else "",
    )
