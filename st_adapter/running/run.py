"""The main job from end to end: a model and data in; an adapted model and its evidence out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import Method, Precision, as_whole
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.pseudo_queries import MIN_PSEUDO_QUERIES
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.probe_texts import check_texts_of
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.embeddings.teacher import TeacherModel
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evaluation.statistics import gate
from st_adapter.evidence.changes import largest_changes
from st_adapter.evidence.data_results import DataResults
from st_adapter.evidence.output_folder import CHECKPOINT_FOLDER
from st_adapter.evidence.record import record_of
from st_adapter.evidence.results import Results, SelectionResults, described
from st_adapter.evidence.split_results import HEADLINE_METRIC, SplitResults
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import Clock, fit
from st_adapter.fitting.folds import LABELLED_SPLITS
from st_adapter.fitting.maps import QueryMap, as_adapter
from st_adapter.fitting.prior import prior_of, taught_map
from st_adapter.fitting.reference import DeployedAdapter, Reference
from st_adapter.running.bridging import bridged
from st_adapter.running.deploying import InUse, base_and_deployed, beside_deployed, check_deployed, splits_to_compare_on
from st_adapter.running.keeping import finished
from st_adapter.running.preparing import Data, prepared, pseudo_queries_of, soft_targets_of
from st_adapter.running.query_model import Bridged
from st_adapter.running.result import Result
from st_adapter.running.settings import (
    RunOptions,
    Settings,
    check_fit_together,
    check_query_model,
    check_settings,
    opened,
    opened_school,
)
from st_adapter.saving.base import Base, Kept, ModelBase, base_of
from st_adapter.saving.query_base import STATIC, QueryModelBase, query_model_base, static_query_model
from st_adapter.saving.record import installed_versions, package_commit
from st_adapter.trainer import AdapterTrainer


@dataclass(frozen=True)
class _Fitted:
    """What was chosen; the base model if ``adapter`` is None. ``best`` is the best one, passed or not.

    ``deployed`` says that nothing new was, and that the adapter is the one in use.
    """

    adapter: QueryAdapter | None
    selection: SelectionResults
    fitted_on: list[str]
    args: AdapterTrainingArguments | None = None
    best: QueryAdapter | None = None
    deployed: bool = False

    @property
    def adopted(self) -> bool:
        return self.adapter is not None and not self.deployed


def train(
    model: SentenceTransformer | Encoder | str | Path | None,
    dataset: Any,
    *,
    query_model: SentenceTransformer | str | Path | None = None,
    teacher: TeacherModel | str | Path | None = None,
    method: Method = "auto",
    seed: int = 0,
    alpha: float = 0.05,
    args: AdapterTrainingArguments | None = None,
    output_dir: str | Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
    options: RunOptions | None = None,
) -> Result:
    """Embed, fit, test and evaluate: an adapter for a model's queries, if held-out queries say that it is better.

    Else the base model is kept, or the adapter that it has, which has to be beaten too. The test split is used for
    nothing. A query model has to be better as a whole, or no worse than ``RunOptions(non_inferior=...)`` allows.

    Args:
        model: base model on the device to work on, or its Hub id or folder, or one with an adapter; or any ``Encoder``,
            of which the adapter is saved alone; None with a query model, if the documents' model is gone.
        dataset: with the splits ``train`` and ``dev``, or whatever ``RetrievalDataset.load`` takes.
        query_model: what is to embed queries from now on, likewise; or ``static``, a table distilled from ``model``.
        teacher: a ``CrossEncoder`` or a stronger model, likewise, that is learned from as well; see ``ask_teacher``.
        method: ``auto``, ``linear``, ``closed-form``: see ``fit``; ``gradient``: one run of ``AdapterTrainer``.
        seed: of the whole run, and of the splits of data that come without.
        alpha: level of the test that an adapter has to pass, 0 < alpha < 1.
        args: settings of method ``gradient``, but for ``seed`` and what is given here.
        output_dir: for ``model/`` or ``adapter/`` and ``results.json``: new, empty or of earlier runs; None: nowhere.
        cache_dir: where embeddings are cached; see ``embed``.
        batch_size: texts per forward pass of the base model; an ``Encoder`` says that itself.
        precision: of the base model's forward pass; see ``embed``.
        show_progress_bar: bars for embedding and fitting.
        options: what few runs need.

    Raises:
        ValueError: model, data, settings and folder do not fit together; all before anything is embedded.

    Examples:
        >>> result = train(model, dataset, method="closed-form", cache_dir="cache", show_progress_bar=False)
        >>> result.verdict.adopted, result.adapter
        (False, None)
        >>> result.save_pretrained("saved").name
        'saved'
    """
    folder, options = None if output_dir is None else Path(output_dir), RunOptions() if options is None else options
    how = (alpha, args, folder, cache_dir, show_progress_bar, options, teacher)
    settings = Settings(method, as_whole(seed), *how, as_whole(batch_size), precision)
    check_settings(settings)
    check_query_model(settings, query_model, model is not None)
    base, in_use = _base(model, query_model, settings)
    check_deployed(settings, in_use, query_model is not None)
    dataset = dataset if isinstance(dataset, RetrievalDataset) else RetrievalDataset.load(dataset, seed=seed)
    check_fit_together(base, dataset, settings)
    return _run(base, dataset, settings, in_use)


def _base(
    model: SentenceTransformer | Encoder | str | Path | None,
    query_model: SentenceTransformer | str | Path | None,
    settings: Settings,
) -> tuple[Base, InUse | None]:
    """What the models are that were given, of which one is there at least, and the adapter in use, if there is one."""
    base, in_use = (None, None) if model is None else base_and_deployed(opened(model), settings)
    if (query_model is None or in_use is not None) and base is not None:
        return base, in_use
    if to_measure := query_model == STATIC:
        query_model = static_query_model(base, settings.cache_dir)
    # Both have to be in one place.
    device = base.device if isinstance(base, ModelBase) else None
    return query_model_base(base, base_of(opened(query_model or "", device)), to_measure=to_measure), None


def _run(base: Base, dataset: RetrievalDataset, settings: Settings, in_use: InUse | None) -> Result:
    school = opened_school(settings, base.device)
    clock, options, pair = Clock(), settings.options, None
    if isinstance(base, QueryModelBase):
        pair = bridged(base, dataset, settings, clock)
        base, data = pair.base, pair.data
    else:
        data = prepared(base, dataset, settings, clock)
    deployed = None
    if in_use is not None:
        deployed, data = in_use.compared_on(data, splits_to_compare_on(settings))
    with clock("embedding"):
        pseudo_queries = pair.pseudo_queries() if pair else pseudo_queries_of(base.encoder, data, settings)
    soft_targets = None
    if school is not None:
        with clock("teaching"):
            soft_targets = soft_targets_of(base.encoder, data, school, settings)
    with clock("fitting"):
        if pair is not None and options.without_labels:
            fitted = _bridge_alone(pair)
        else:
            against = deployed if pair is None else pair.reference
            fitted = _fitted(base, data, (pseudo_queries, soft_targets), settings, against)
    with clock("evaluating"):
        evaluations = _evaluations(data, fitted, pair)
        splits = _splits(data, fitted, evaluations, pair)
        results = _results(str(base.device), data, fitted, splits, settings)
    if pair is not None:
        with clock("comparing"):
            results = replace(results, query_model=pair.results(fitted.best, evaluations))
    similarity, threshold = data.embedded.similarity, options.paraphrase_threshold
    record = record_of(results, data.texts, similarity, threshold, options.script)
    result = Result(
        model=base.adapted(fitted.adapter),
        adapter=fitted.adapter,
        results=results,
        evaluations=evaluations,
        leaks=data.leaks,
        base=base,
        kept=Kept(record, check_texts_of(data.texts)),
    )
    return finished(result, settings, clock)


def _fitted(
    base: Base,
    data: Data,
    without_labels: tuple[EmbeddedSplit | None, SoftTargets | None],
    settings: Settings,
    against: Reference | DeployedAdapter | None,
) -> _Fitted:
    pseudo_queries, soft_targets = without_labels
    deployed = against if isinstance(against, DeployedAdapter) else None
    if settings.options.without_labels:
        return _fitted_without_labels(pseudo_queries, soft_targets, data.embedded, settings)
    if settings.method == "gradient":
        return _or_deployed(_fitted_by_gradient(base, data, settings, deployed), deployed)
    found = fit(
        data.embedded,
        pseudo_queries=pseudo_queries,
        soft_targets=soft_targets,
        method=settings.method,
        seed=settings.seed,
        alpha=settings.alpha,
        show_progress_bar=settings.show_progress_bar,
        reference=against if isinstance(against, Reference) else None,
        deployed=deployed,
    )
    best = found.adapter or found.refused
    teaching = None if soft_targets is None else soft_targets.teaching
    fitted = _Fitted(found.adapter, SelectionResults.of(found, teaching), list(LABELLED_SPLITS), best=best)
    return _or_deployed(fitted, deployed)


def _or_deployed(fitted: _Fitted, deployed: DeployedAdapter | None) -> _Fitted:
    """What was fitted, or else the adapter in use, if there is one and nothing new is handed over."""
    if deployed is None:
        return fitted
    fitted = replace(fitted, selection=fitted.selection.with_caution(deployed.caution))
    return fitted if fitted.adapter is not None else replace(fitted, adapter=deployed.adapter, deployed=True)


def _bridge_alone(pair: Bridged) -> _Fitted:
    """The bridge with nothing behind it; nothing says whether it helps."""
    embedded, found = pair.data.embedded, pair.found
    selection = SelectionResults(chosen="bridge", gate=None, num_texts=found.num_queries + found.num_documents)
    adapter = QueryAdapter(embedded.dimension, normalize=embedded.normalized, base_model=embedded.base_model)
    return _Fitted(adapter.to(embedded.query_embeddings.device), selection, [], best=adapter)


def _fitted_without_labels(
    pseudo_queries: EmbeddedSplit | None,
    soft_targets: SoftTargets | None,
    embedded: EmbeddedDataset,
    settings: Settings,
) -> _Fitted:
    """What a teacher gives, or else portions of the documents; nothing says whether it helps."""
    if soft_targets is not None:
        learned = taught_map(soft_targets, settings.seed)
        selection = SelectionResults(chosen="teacher", gate=None, teaching=soft_targets.teaching)
    elif pseudo_queries is not None:
        learned = prior_of(pseudo_queries, settings.seed)
        number = len(pseudo_queries.query_ids)
        selection = SelectionResults(chosen="pseudo-queries", gate=None, num_pseudo_queries=number)
    else:
        raise ValueError(
            f"Fewer than {MIN_PSEUDO_QUERIES} documents are longer than a sentence, so that without labels there is "
            "nothing to learn from."
        )
    return _Fitted(as_adapter(QueryMap(learned), embedded.normalized, embedded.base_model), selection, [])


def _fitted_by_gradient(base: Base, data: Data, settings: Settings, deployed: DeployedAdapter | None) -> _Fitted:
    """One run of the trainer, and the gates on the dev split."""
    embedded = data.embedded
    args = replace(
        settings.args or AdapterTrainingArguments(), seed=settings.seed, disable_tqdm=not settings.show_progress_bar
    )
    if settings.output_dir is not None:
        args = replace(args, output_dir=str(settings.output_dir / CHECKPOINT_FOLDER))
    trainer = AdapterTrainer(base.model, args, train_dataset=embedded)
    trainer.train(resume_from_checkpoint=settings.options.resume_from_checkpoint)
    dev = evaluate(embedded["dev"], trainer.best_adapter)
    differences = dev.adapted[HEADLINE_METRIC] - dev.base[HEADLINE_METRIC]
    tested = gate(differences, alpha=settings.alpha, seed=settings.seed)
    second = None if deployed is None else beside_deployed(dev, data, deployed, settings.alpha, settings.seed)
    passed = tested.adopted and (second is None or second.gate.adopted)
    selection = SelectionResults(
        chosen=f"{args.kind}, step {trainer.state.best_global_step}",
        gate=tested,
        step=trainer.state.best_global_step,
        num_steps=trainer.state.global_step,
        against_deployed=second,
    )
    return _Fitted(trainer.best_adapter if passed else None, selection, ["train"], args)


def _evaluations(data: Data, fitted: _Fitted, pair: Bridged | None) -> dict[str, EvaluationResult]:
    # Figures of a split that the adapter was fitted on say how well it fits, not how well it does.
    seen = seen_documents(data.embedded, fitted.fitted_on)
    return {
        split: pair.evaluate(split, fitted.adapter, seen)
        if pair is not None
        else evaluate(data.embedded[split], fitted.adapter, seen_documents=seen)
        for split in ("dev", "test")
        if split in data.embedded.qrels
    }


def _splits(
    data: Data, fitted: _Fitted, evaluations: Mapping[str, EvaluationResult], pair: Bridged | None
) -> dict[str, SplitResults]:
    """What is kept of the evaluations, with the queries that changed most."""
    splits = {}
    for split, evaluation in evaluations.items():
        if pair is not None:
            changes = pair.changes(split, evaluation, fitted.adapter)
        else:
            changes = largest_changes(data.texts, data.embedded[split], evaluation, fitted.adapter)
        splits[split] = SplitResults.of(evaluation, changes)
    return splits


def _results(
    device: str, data: Data, fitted: _Fitted, splits: Mapping[str, SplitResults], settings: Settings
) -> Results:
    """What is kept of a run, but for the seconds, which are not over yet."""
    texts, embedded = data.texts, data.embedded
    config = None if fitted.adapter is None else fitted.adapter.get_config_dict()
    return Results(
        base_model=described(embedded.base_model),
        data=DataResults.of(texts, embedded, data.leaks, LABELLED_SPLITS if fitted.adopted else ()),
        method=settings.method,
        adopted=fitted.adopted,
        fitted_on=fitted.fitted_on,
        # Its base model stands in the results by itself.
        adapter=config and {name: value for name, value in config.items() if name != "base_model"},
        selection=fitted.selection,
        dev=splits.get("dev"),
        test=splits.get("test"),
        seconds={},
        seed=settings.seed,
        arguments=None if fitted.args is None else fitted.args.hyperparameters(),
        alpha=settings.alpha,
        opened_with=dict(settings.options.opened_with),
        precision=settings.precision,
        device=device,
        versions=installed_versions(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=package_commit(),
    )
