"""The main job from end to end: texts in, a saved model and a file of results out."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from st_adapter.data import RetrievalDataset
from st_adapter.embeddings import EmbeddedDataset, Precision, embed
from st_adapter.evaluation import EvaluationResult, evaluate
from st_adapter.model import detach, save_pretrained
from st_adapter.trainer import AdapterTrainer
from st_adapter.training_args import AdapterTrainingArguments

MODEL_FOLDER = "model"
RESULTS_FILE = "results.json"
# Metrics kept query by query, so that two runs can be compared query by query.
_PER_QUERY = ("ndcg@10", "mrr@100")


@dataclass(frozen=True)
class TrainingRun:
    """What a finished run leaves behind.

    Attributes:
        model_dir: the saved repository.
        results_file: the results as JSON.
        results: the content of that file.
        evaluations: split (``dev`` and, if the data have one, ``test``) -> base and adapted, per query.
    """

    model_dir: Path
    results_file: Path
    results: dict[str, Any]
    evaluations: dict[str, EvaluationResult]


def run_training(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    args: AdapterTrainingArguments,
    *,
    base_model: str | Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> TrainingRun:
    """Embed, train, evaluate and save.

    Writes ``model/`` and ``results.json`` to ``args.output_dir``; what lay there from an earlier run is replaced only
    once the new model is complete. If no adapter was better on the dev split, the saved model is the base model.

    Args:
        model: base model, on the device to work on.
        dataset: with the splits ``train`` and ``dev``; ``test`` is evaluated if it is there and used for nothing else.
        args: settings.
        base_model: Hub id or folder that the base model came from, if the model itself no longer knows it.
        cache_dir: where embeddings are cached; see ``embed``.
        embedding_batch_size: texts per forward pass of the base model.
        precision: of the base model's forward pass; see ``embed``.

    Raises:
        ValueError: the output folder holds something else, or model, data and settings do not fit together.
    """
    output_dir = Path(args.output_dir)
    _check_output_dir(output_dir)
    missing = [split for split in ("train", "dev") if split not in dataset.qrels]
    if missing:
        raise ValueError(f"The data have no split {missing[0]!r}, only {list(dataset.qrels)}. Training needs both.")
    seconds: dict[str, float] = {}

    start = time.perf_counter()
    embedded = embed(model, dataset, cache_dir=cache_dir, batch_size=embedding_batch_size, precision=precision)
    seconds["embedding"] = time.perf_counter() - start

    start = time.perf_counter()
    trainer = AdapterTrainer(model, args, train_dataset=embedded)
    trainer.train()
    adapter = trainer.best_adapter
    seconds["fitting"] = time.perf_counter() - start

    start = time.perf_counter()
    evaluations: dict[str, EvaluationResult] = {
        split: evaluate(embedded[split], adapter) for split in ("dev", "test") if split in embedded.qrels
    }
    seconds["evaluating"] = time.perf_counter() - start

    start = time.perf_counter()
    summary = {
        "data": dataset.name,
        "ndcg@10": {split: [e.base_means["ndcg@10"], e.adapted_means["ndcg@10"]] for split, e in evaluations.items()},
    }
    model_dir = save_pretrained(adapter, model, output_dir / MODEL_FOLDER, base_model=base_model, metadata=summary)
    seconds["saving"] = time.perf_counter() - start

    results = {
        "st_adapter": version("st-adapter"),
        "base_model": str(base_model) if base_model is not None else None,
        "data": {
            "name": dataset.name,
            "notes": list(dataset.notes),
            "num_documents": len(dataset.corpus),
            "train": _split_numbers(embedded, "train"),
        },
        "adopted": adapter is not None,
        "adapter": {
            "kind": args.kind,
            "step": trainer.state.best_global_step,
            "num_steps": trainer.state.global_step,
            "num_parameters": sum(parameter.numel() for parameter in trainer.adapter.parameters()),
        },
        **{split: evaluation.to_dict(per_query=_PER_QUERY) for split, evaluation in evaluations.items()},
        "seconds": seconds,
        "seed": args.seed,
        "arguments": args.to_dict(),
        "precision": precision,
        "device": str(model.device),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "sentence-transformers", "transformers", "datasets")},
        },
    }
    results_file = output_dir / RESULTS_FILE
    write_json(results_file, results)
    return TrainingRun(model_dir, results_file, results, evaluations)


def evaluate_saved(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    split: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> EvaluationResult:
    """Evaluate a saved model with an adapter against its own base model.

    Args:
        model: a model saved by this package, opened with Sentence Transformers; without an adapter both sides
            are equal.
        dataset: queries, corpus and judgements.
        split: the split to evaluate on.
        cache_dir: where embeddings are cached; see ``embed``.
        embedding_batch_size: texts per forward pass of the base model.
        precision: of the base model's forward pass; see ``embed``.

    Raises:
        ValueError: the data do not have the split, or the model has a Router of another making.
    """
    if split not in dataset.qrels:
        raise ValueError(f"There is no split {split!r}; the data have {list(dataset.qrels)}. Choose one of these.")
    base, query_modules = detach(model)
    embedded = embed(base, dataset, cache_dir=cache_dir, batch_size=embedding_batch_size, precision=precision)
    return evaluate(embedded[split], query_modules)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_output_dir(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The output folder {folder} is a file. Name a folder.")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            ours = "st_adapter" in json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise ValueError(
                f"The output folder {folder} holds files that are not from an earlier run (no {RESULTS_FILE} of "
                "st-adapter). Name a new or empty folder."
            )


def _split_numbers(embedded: EmbeddedDataset, split: str) -> dict[str, int]:
    part = embedded[split]
    return {"num_queries": len(part.query_ids), "num_pairs": part.num_pairs}
