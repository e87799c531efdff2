"""What is printed: tables and sentences of data, runs and evaluations."""

from __future__ import annotations

import os
from typing import Literal
from urllib.parse import urlsplit

from rich.table import Table

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.summary import how_read
from st_adapter.embeddings.long_texts import LongTexts
from st_adapter.evidence.curve import LearningCurve
from st_adapter.evidence.output_folder import RESULTS_FILE, shown_at
from st_adapter.evidence.tables import print_candidates
from st_adapter.evidence.terminal import Terminal, escape
from st_adapter.running.result import Result
from st_adapter.saving.folder import read_saved
from st_adapter.words import documents_searched, signed_in_ascii

console = Terminal()


def print_dataset(dataset: RetrievalDataset, too_long: LongTexts | None = None) -> None:
    """What was read, and what there is to note about it."""
    splits = ", ".join(f"{number} {escape(split)}" for split, number in dataset.num_queries.items()) or "none"
    searched = documents_searched(dataset.num_documents, dataset.corpus_is_labelled_only)
    console.print(f"[bold]{escape(dataset.name)}[/bold]: {searched}; queries: {splits}")
    for note in (*how_read(dataset), *(too_long.notes if too_long is not None else ())):
        console.print(f"  note: {escape(note)}", style="dim")


def print_leaks(dataset: RetrievalDataset, result: Result) -> None:
    """What the embeddings showed about the splits, after the notes that were shown before."""
    for note in result.results.data.notes:
        if note not in dataset.notes:
            console.print(f"  note: {escape(note)}", style="dim")
    for sentence in result.leaks.sentences:
        console.print(f"  leaks: {escape(sentence)}", style="dim")


def print_result(result: Result) -> None:
    """Candidates, evaluations, the verdict, and where the results lie."""
    print_candidates(console, result.results.selection)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result.results.seconds.items())
    console.print(f"Time: {seconds}", style="dim")
    result.print_to(console)
    if result.run_dir is not None:
        console.print(f"Results: [bold]{escape(str(shown_at(result.run_dir / RESULTS_FILE)))}[/bold]")
    if result.instead:
        console.print(f"note: {escape(result.instead)}", soft_wrap=True, highlight=False)
    saved = result.model_dir or result.adapter_dir
    if saved is not None and result.verdict.adopted and result.verdict.decision == "do not deploy":
        console.print(f"The adapter is saved all the same, for a closer look: {escape(str(saved))}", soft_wrap=True)
        return
    if result.adapter_dir is not None:
        console.print("Use the adapter on query embeddings of the base model, as NumPy arrays or tensors:")
        path = os.path.relpath(result.adapter_dir)
        print_code(f"adapter = QueryAdapter.from_pretrained({path!r})")
        print_code("adapter.transform(query_embeddings)")
    if result.model_dir is not None:
        console.print("Use the model with plain Sentence Transformers:")
        path = os.path.relpath(result.model_dir)
        print_code(f"model = SentenceTransformer({path!r})")
        # Of a model for queries alone every method embeds queries.
        documents = "" if read_saved(result.model_dir).layout == "twin" else ", model.encode_document(documents)"
        print_code(f"model.encode_query(queries){documents}")


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
    if more is not None and more.expected_before is not None and more.came is not None:
        expected, came = (signed_in_ascii(gain) for gain in (more.expected_before, more.came))
        console.print(
            f"The same estimate without the largest size: {expected} for the last step, which brought {came}.",
            style="dim",
        )


def print_uploaded(url: str, what: Literal["model", "adapter"] | None = None) -> None:
    """Where something is now, and the line that opens it, by its whole id: a name alone is one of the user's."""
    console.print(f"Uploaded: {escape(url)}", soft_wrap=True, highlight=False)
    if what is not None:
        repo_id = "/".join(urlsplit(url).path.partition("/commit/")[0].split("/")[-2:])
        opened_by = {"model": "SentenceTransformer", "adapter": "QueryAdapter.from_pretrained"}
        print_code(f"{what} = {opened_by[what]}({repo_id!r})")


def print_code(line: str) -> None:
    """A line of Python."""
    console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
