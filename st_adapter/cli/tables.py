"""What is printed: tables and sentences of data, runs and evaluations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from st_adapter.cli.terminal import console, escape
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.splits import UNCUT
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evidence.curve import LearningCurve
from st_adapter.evidence.indexes import IndexEvaluation
from st_adapter.evidence.results import RESULTS_FILE
from st_adapter.run import TrainingRun
from st_adapter.saving.card import TABLE_METRICS, TrainingRecord
from st_adapter.words import documents_searched

_SHOWN_CANDIDATES = 6


def print_dataset(dataset: RetrievalDataset, too_long: LongTexts | None = None) -> None:
    """What was read, and what there is to note about it."""
    splits = ", ".join(f"{len(set(judged['query_id']))} {escape(split)}" for split, judged in dataset.qrels.items())
    searched = documents_searched(len(dataset.corpus), dataset.corpus_is_labelled_only)
    console.print(f"[bold]{escape(dataset.name)}[/bold]: {searched}; queries: {splits}")
    for note in (*dataset.notes, *(too_long.notes if too_long is not None else ())):
        console.print(f"  note: {escape(note)}", style="dim")


def print_uncut(dataset: RetrievalDataset, recorded: TrainingRecord | None) -> None:
    """Why all queries are used, where the figures would be too good if the adapter was fitted on some of them."""
    if UNCUT not in dataset.qrels and dataset.splits != ["train"]:
        return
    known = (
        f"was trained on {recorded.data!r}" if recorded is not None and recorded.data else "does not say on what data"
    )
    console.print(
        escape(
            f"note: The model {known}, so {dataset.name!r} counts as data that it has not seen, and all queries are "
            "used. If it was trained on some of them, the figures are too good: pass the --seed of its training to "
            "have the data cut as they were then."
        ),
        style="dim",
    )


def print_leaks(dataset: RetrievalDataset, run: TrainingRun) -> None:
    """What the embeddings showed about the splits, after the notes that were shown before."""
    for note in run.notes:
        if note not in dataset.notes:
            console.print(f"  note: {escape(note)}", style="dim")
    for sentence in run.leaks.sentences:
        console.print(f"  leaks: {escape(sentence)}", style="dim")


def print_evaluation(result: EvaluationResult, labelled_only: bool) -> None:
    """Base and adapted side by side, and what their difference is worth."""
    searched = documents_searched(result.num_documents, labelled_only)
    table = Table(title=f"{escape(result.split)}: {len(result.query_ids):,} queries, {searched}")
    for column in ("metric", "base", "adapted", "difference", "95 % interval", "p"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in TABLE_METRICS:
        compared = result.compare(name)
        difference, (low, high) = compared.difference, compared.interval
        style = "green" if difference > 0 else "red" if difference < 0 else ""
        cells = [f"{compared.base:.4f}", f"{compared.adapted:.4f}", f"{difference:+.4f}"]
        table.add_row(name, *cells, f"{low:+.4f} to {high:+.4f}", f"{compared.p_value:.4f}", style=style)
    console.print(table)
    titles = {"all": "All queries", "seen": "Documents asked for in training", "unseen": "Documents new"}
    for part, compared_part in result.comparisons.items():
        console.print(
            f"{titles[part]}: {compared_part['ndcg@10'].sentence}", soft_wrap=True, highlight=False, markup=False
        )
    if result.unjudged_query_ids:
        console.print(f"{len(result.unjudged_query_ids)} queries have no relevant document and are not counted.")
    if result.num_own_copies:
        stand = "query stands" if result.num_own_copies == 1 else "queries stand"
        console.print(
            f"{result.num_own_copies} {stand} in the corpus as documents too; left out of their own hits.",
            soft_wrap=True,
        )


def print_indexes(evaluations: Sequence[IndexEvaluation]) -> None:
    """Both sides through each index, and how much of exact search each index finds."""
    table = Table(title="through each index: nDCG@10, and recall@10 against exact search")
    table.add_column("index", no_wrap=True)
    for column in ("base", "adapted", "gain"):
        table.add_column(column, justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for column in ("recall base", "recall adapted"):
        table.add_column(column, justify="right")
    for evaluation in evaluations:
        compared = evaluation.result.compare("ndcg@10")
        low, high = compared.interval
        table.add_row(
            escape(evaluation.index),
            f"{compared.base:.3f}",
            f"{compared.adapted:.3f}",
            f"{compared.difference:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            *(f"{recall:.3f}" for recall in (evaluation.base_recall, evaluation.adapted_recall)),
            style="green" if low > 0 else "red" if high < 0 else "",
        )
    console.print(table)


def print_candidates(selection: Mapping[str, Any]) -> None:
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


def print_run(run: TrainingRun) -> None:
    """Candidates, evaluations, the verdict, and where the results lie."""
    results = run.results
    print_candidates(results["selection"])
    for split, evaluation in run.evaluations.items():
        if split not in results["fitted_on"]:
            print_evaluation(evaluation, results["data"]["corpus_is_labelled_only"])
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in results["seconds"].items())
    console.print(f"Time: {seconds}", style="dim")
    verdict = "[bold green]Adopted.[/bold green]" if results["adopted"] else "[bold]The base model is kept.[/bold]"
    console.print(f"{verdict} {escape(results['selection']['gate']['reason'])}")
    console.print(f"Results: [bold]{escape(str(run.results_file))}[/bold]")
    if run.model_dir is not None:
        console.print("Use the model with plain Sentence Transformers:")
        path = os.path.relpath(run.model_dir)
        console.print(f"  model = SentenceTransformer({path!r})", highlight=False, soft_wrap=True, markup=False)
        console.print(
            "  model.encode_query(queries), model.encode_document(documents)", highlight=False, soft_wrap=True
        )


def print_curve(curve: LearningCurve, labelled_only: bool) -> None:
    """A learning curve, and what twice as many labels would bring."""
    searched = documents_searched(curve.num_documents, labelled_only)
    table = Table(title=f"dev: {curve.num_dev_queries} queries, {searched}; {escape(curve.recipe)}")
    for column in ("labelled queries", "nDCG@10", "gain", "95 % interval", "draws"):
        table.add_column(column, justify="right")
    table.add_row("0", f"{curve.base:.4f}", "", "", "")
    for point in curve.points:
        low, high = point.interval
        cells = (f"{curve.base + point.gain:.4f}", f"{point.gain:+.4f}", f"{low:+.4f} to {high:+.4f}")
        table.add_row(f"{point.num_queries}", *cells, f"{point.lowest:+.4f} to {point.highest:+.4f}")
    console.print(table)
    console.print(curve.sentence, markup=False)
    more = curve.doubling
    if more is not None and more.expected_before is not None:
        console.print(
            f"The same estimate without the largest size: {more.expected_before:+.3f} for the last step, which brought "
            f"{more.came:+.3f}.",
            style="dim",
        )


def print_examples(dataset: RetrievalDataset, result: EvaluationResult) -> None:
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
