"""The main job from end to end: texts in, a saved model and a file of results out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.leaks import LeakReport, drop_leaks, find_leaks
from st_adapter.data.paraphrases import PARAPHRASE_THRESHOLD, cut_splits
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.embedding import embed_texts, judged_by
from st_adapter.embeddings.encoder import Precision
from st_adapter.embeddings.probe_texts import check_texts_of
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evaluation.statistics import gate
from st_adapter.evidence.changes import largest_changes
from st_adapter.evidence.indexes import IndexEvaluation, check_index, evaluate_indexes
from st_adapter.evidence.results import CURVE_FILE, CURVE_PICTURE, REPORT_FILE, REPORT_PICTURE, RESULTS_FILE
from st_adapter.evidence.trec import write_trec
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import check_seed_and_level, fit
from st_adapter.saving.attach import check_base, detach
from st_adapter.saving.onnx_export import check_dependencies, check_exportable
from st_adapter.saving.record import TABLE_METRICS, SplitScores, TrainingRecord, installed_versions
from st_adapter.saving.save import check_target, save_pretrained
from st_adapter.storage.writing import check_writable, write_json
from st_adapter.trainer import AdapterTrainer

Method = Literal["auto", "closed-form", "gradient"]

MODEL_FOLDER = "model"
CHECKPOINT_FOLDER = "checkpoints"
# Leaks written out; the counts are of all.
_SHOWN_LEAKS = 100
# Metrics kept query by query, so that two runs can be compared query by query.
PER_QUERY = ("ndcg@10", "mrr@100")


@dataclass(frozen=True)
class TrainingRun:
    """What a finished run leaves behind.

    Attributes:
        model_dir: the saved repository; None if the base model is kept and was not to be saved.
        results_file: the results as JSON.
        results: the content of that file.
        evaluations: split (``dev`` and, if the data have one, ``test``) -> base and adapted, per query.
        leaks: queries and documents that stand in two splits, as far as they were not dropped.
        notes: what was cut, merged or dropped; those of the data set and of the run.
    """

    model_dir: Path | None
    results_file: Path
    results: dict[str, Any]
    evaluations: dict[str, EvaluationResult]
    leaks: LeakReport
    notes: tuple[str, ...]


def run_training(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    output_dir: str | Path,
    *,
    method: Method = "auto",
    seed: int = 0,
    alpha: float = 0.05,
    args: AdapterTrainingArguments | None = None,
    resume_from_checkpoint: bool = False,
    save_base: bool = True,
    onnx: bool = False,
    drop_leaking: bool = False,
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD,
    base_model: str | Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
    script: str = "",
    opened_with: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Embed, fit, test, evaluate and save.

    Writes ``model/`` and ``results.json`` to ``output_dir``; what lay there from an earlier run is replaced only once
    the new model is complete. If held-out queries do not say that the adapter is better than the base model, the base
    model is kept: it is what is saved then, with nothing added.

    Args:
        model: base model, on the device to work on.
        dataset: with the splits ``train`` and ``dev``; ``test`` is evaluated if it is there and used for nothing else.
        output_dir: a new or empty folder, or one of an earlier run.
        method: ``auto`` and ``closed-form``: see ``fit``; ``gradient`` is one run of ``AdapterTrainer`` with ``args``.
        seed: of the whole run.
        alpha: level of the test that an adapter has to pass, 0 < alpha < 1.
        args: settings of method ``gradient``; the other methods take none. ``seed`` and ``output_dir`` of this
            function count, not theirs.
        resume_from_checkpoint: go on with a ``gradient`` run that was cut off, from its newest checkpoint.
        save_base: whether to save the base model if it is kept.
        onnx: whether to save the model as ONNX too.
        drop_leaking: whether to take queries out of train and dev that a later split has too, as text or paraphrase;
            see ``drop_leaks``. They are counted in any case.
        paraphrase_threshold: cosine from which two queries count as paraphrases; see ``find_leaks``. Where the splits
            were cut by document, paraphrases stay on one side as well; see ``cut_splits``.
        base_model: Hub id or folder that the base model came from, if the model itself no longer knows it.
        cache_dir: where embeddings are cached; see ``embed``.
        embedding_batch_size: texts per forward pass of the base model.
        precision: of the base model's forward pass; see ``embed``.
        show_progress_bar: bars for embedding and fitting.
        script: the script that makes the model, for the model card.
        opened_with: settings that ``model`` was opened with and its files do not say, such as ``truncate_dim``, for the
            results, the report and the model card.

    Raises:
        ValueError: the output folder holds something else or cannot be written to, or model, data and settings do not
            fit together; all before anything is embedded.
    """
    output_dir = Path(output_dir)
    _check_output_dir(output_dir)
    check_base(model)
    check_writable(output_dir, "output_dir", num_bytes=_num_bytes(model))
    missing = [split for split in ("train", "dev") if split not in dataset.splits]
    if missing:
        raise ValueError(f"The data have no split {missing[0]!r}, only {dataset.splits}. Training needs both.")
    if args is not None and method != "gradient":
        raise InputError(
            f"Training settings were given, but method {method!r} takes none.",
            python="Choose method='gradient'.",
            flags="Add --method gradient.",
        )
    if resume_from_checkpoint and method != "gradient":
        raise ValueError(f"Method {method!r} writes no checkpoints to resume from. Run it again, or choose 'gradient'.")
    check_seed_and_level(seed, alpha)
    check_target(model, output_dir / MODEL_FOLDER, base_model)
    if onnx:
        check_dependencies()
        check_exportable(model)
    seconds: dict[str, float] = {}

    start = time.perf_counter()
    embedded = embed_texts(
        model,
        dataset,
        cache_dir=cache_dir,
        batch_size=embedding_batch_size,
        precision=precision,
        show_progress_bar=show_progress_bar,
    )
    seconds["embedding"] = time.perf_counter() - start

    start = time.perf_counter()
    dataset = cut_splits(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    too_long = embedded.long_texts
    leaks = find_leaks(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    if drop_leaking:
        dataset = drop_leaks(dataset, leaks)
        leaks = find_leaks(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    embedded = judged_by(embedded, dataset)
    seconds["checking"] = time.perf_counter() - start

    start = time.perf_counter()
    adapter: QueryAdapter | None
    if method == "gradient":
        args = replace(
            args or AdapterTrainingArguments(),
            seed=seed,
            output_dir=str(output_dir / CHECKPOINT_FOLDER),
            disable_tqdm=not show_progress_bar,
        )
        adapter, selection = _fit_gradient(model, embedded, args, alpha, resume_from_checkpoint)
    else:
        fitted = fit(embedded, method=method, seed=seed, alpha=alpha, show_progress_bar=show_progress_bar)
        adapter, selection = fitted.adapter, fitted.to_dict()
    seconds["fitting"] = time.perf_counter() - start

    start = time.perf_counter()
    # Figures of a split that the adapter was fitted on say how well it fits, not how well it does.
    fitted_on = ["train"] if method == "gradient" else ["train", "dev"]
    seen = seen_documents(embedded, fitted_on)
    evaluations: dict[str, EvaluationResult] = {
        split: evaluate(embedded[split], adapter, seen_documents=seen)
        for split in ("dev", "test")
        if split in embedded.qrels
    }
    figures = {split: evaluation.to_dict(per_query=PER_QUERY) for split, evaluation in evaluations.items()}
    for split, evaluation in evaluations.items():
        figures[split]["examples"] = largest_changes(dataset, embedded[split], evaluation, adapter).to_dict()
    seconds["evaluating"] = time.perf_counter() - start

    start = time.perf_counter()
    record = TrainingRecord(
        data=dataset.name,
        dataset_id=dataset.name if "/" in dataset.name else "",
        num_documents=len(dataset.corpus),
        corpus_is_labelled_only=dataset.corpus_is_labelled_only,
        num_queries=dataset.num_queries,
        method=method,
        chosen=selection["chosen"],
        reason=selection["gate"]["reason"],
        seed=seed,
        split_by=dataset.cut.by if dataset.cut else "query",
        paraphrase_threshold=paraphrase_threshold,
        fitted_on=fitted_on,
        arguments={} if args is None else args.hyperparameters(),
        scores=_scores(evaluations["test"], embedded.similarity) if "test" in evaluations else None,
        script=script,
        opened_with=dict(opened_with or {}),
        versions=installed_versions(),
    )
    notes = (*dataset.notes, *(too_long.notes if too_long is not None else ()))
    model_dir = output_dir / MODEL_FOLDER
    if adapter is not None or save_base:
        save_pretrained(
            model,
            adapter,
            model_dir,
            onnx=onnx,
            base_model=base_model,
            training=record,
            check_texts=check_texts_of(dataset),
        )
    elif model_dir.exists():
        # An adapter of an earlier run must not pass for the outcome of this one.
        shutil.rmtree(model_dir)
    seconds["saving"] = time.perf_counter() - start

    results = {
        "base_model": None if embedded.base_model is None else embedded.base_model.facts(),
        "data": {
            "name": dataset.name,
            "notes": list(notes),
            "num_documents": len(dataset.corpus),
            "corpus_is_labelled_only": dataset.corpus_is_labelled_only,
            "long_texts": None if too_long is None else too_long.to_dict(),
            "train": _split_numbers(embedded, "train"),
            "split_by": dataset.cut.by if dataset.cut else None,
            "leaks": leaks.to_dict(max_pairs=_SHOWN_LEAKS),
        },
        "method": method,
        "adopted": adapter is not None,
        "fitted_on": fitted_on,
        "adapter": None if adapter is None else _without_base_model(adapter),
        "selection": selection,
        **figures,
        "seconds": seconds,
        "seed": seed,
        "arguments": None if args is None else args.hyperparameters(),
        "alpha": alpha,
        "opened_with": dict(opened_with or {}),
        "precision": precision,
        "device": str(model.device),
        "versions": installed_versions(),
    }
    results_file = output_dir / RESULTS_FILE
    for name in (REPORT_FILE, REPORT_PICTURE):
        # A report of an earlier run must not pass for one of this run.
        (output_dir / name).unlink(missing_ok=True)
    write_json(results_file, results)
    saved = model_dir if model_dir.exists() else None
    return TrainingRun(saved, results_file, results, evaluations, leaks, notes)


def _fit_gradient(
    model: SentenceTransformer,
    embedded: EmbeddedDataset,
    args: AdapterTrainingArguments,
    alpha: float,
    resume_from_checkpoint: bool,
) -> tuple[QueryAdapter | None, dict[str, Any]]:
    """One run of the trainer, and the gate on the dev split."""
    trainer = AdapterTrainer(model, args, train_dataset=embedded)
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    dev = evaluate(embedded["dev"], trainer.best_adapter)
    verdict = gate(dev.adapted["ndcg@10"] - dev.base["ndcg@10"], alpha=alpha, seed=args.seed)
    selection = {
        "chosen": f"{args.kind}, step {trainer.state.best_global_step}",
        "step": trainer.state.best_global_step,
        "num_steps": trainer.state.global_step,
        "gate": verdict._asdict(),
    }
    return (trainer.best_adapter if verdict.adopted else None), selection


def evaluate_saved(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str | None = None,
    *,
    indexes: Sequence[str] = (),
    fitted_on: Sequence[str] = (),
    run_dir: str | Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD,
) -> list[IndexEvaluation]:
    """Evaluate a saved model with an adapter against its own base model, by exact search and through indexes.

    Args:
        model: a model saved by this package, opened with Sentence Transformers; without an adapter both sides
            are equal.
        dataset: queries, corpus and judgements.
        split: the split to evaluate on; test, or else the only one, if None. ``RetrievalDataset.load`` with
            ``cut_into=()`` reads data to evaluate on all of them.
        indexes: names as ``build_index`` takes them, such as ``int8`` or ``hnsw:40``.
        fitted_on: splits of these data that the adapter was fitted on, to tell queries whose documents it has seen from
            the others; without any they are not told apart.
        run_dir: a folder to write the rankings and judgements to in TREC form; see ``write_trec``.
        cache_dir: where embeddings are cached; see ``embed``.
        embedding_batch_size: texts per forward pass of the base model.
        precision: of the base model's forward pass; see ``embed``.
        paraphrase_threshold: where the splits were cut by document, that of the training, for the same splits.

    Returns:
        One entry per index, exact search first.

    Raises:
        ValueError: the data do not have the split, the model has a Router of another making, the name of an index is
            unknown or does not fit the model's dimensions, or the data cannot be written in TREC form.
        ImportError: an approximate index was named and ``st-adapter[index]`` is not installed.
    """
    split = dataset.split_to_evaluate(split)
    indexes = [check_index(name) for name in indexes]  # before anything is embedded
    if run_dir is not None:
        check_writable(Path(run_dir), "run_dir")
    base, query_modules = detach(model)
    embedded = embed_texts(base, dataset, cache_dir=cache_dir, batch_size=embedding_batch_size, precision=precision)
    dataset = cut_splits(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    embedded = judged_by(embedded, dataset)
    if run_dir is not None:
        write_trec(embedded[split], run_dir, query_modules)
    seen = seen_documents(embedded, fitted_on) if fitted_on else None
    return evaluate_indexes(embedded[split], query_modules, indexes, seen_documents=seen)


def _check_output_dir(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output folder {folder} is a file. Name a folder.")
    if folder.is_dir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        ours = {MODEL_FOLDER, RESULTS_FILE, CHECKPOINT_FOLDER, REPORT_FILE, REPORT_PICTURE, CURVE_FILE, CURVE_PICTURE}
        foreign = sorted(names - ours)
        if foreign:
            raise ValueError(
                f"The output folder {folder} holds files that are not from an earlier run, the first: {foreign[:3]}. "
                "Name a new or empty folder."
            )


def _num_bytes(model: SentenceTransformer) -> int:
    """What the weights of a saved model need at least."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _scores(evaluation: EvaluationResult, similarity: str) -> SplitScores:
    compared = {name: evaluation.compare(name) for name in TABLE_METRICS}
    sentence = compared["ndcg@10"].sentence
    return SplitScores(
        split=evaluation.split,
        num_queries=len(evaluation.query_ids),
        num_documents=evaluation.num_documents,
        similarity=similarity,
        base={name: each.base for name, each in compared.items()},
        adapted={name: each.adapted for name, each in compared.items()},
        intervals={name: list(each.interval) for name, each in compared.items()},
        summary=f"{sentence[:1].upper()}{sentence[1:]}.",
        num_own_copies=evaluation.num_own_copies,
    )


def _without_base_model(adapter: QueryAdapter) -> dict[str, Any]:
    """The adapter's configuration; its base model stands in the results by itself."""
    return {name: value for name, value in adapter.get_config_dict().items() if name != "base_model"}


def _split_numbers(embedded: EmbeddedDataset, split: str) -> dict[str, int]:
    part = embedded[split]
    return {"num_queries": len(part.query_ids), "num_pairs": part.num_pairs}
