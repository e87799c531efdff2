"""The command that shows how data are read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from st_adapter.cli.check_data_options import CheckDataOptions
from st_adapter.cli.opening import load_dataset, open_model
from st_adapter.cli.tables import console
from st_adapter.data.summary import DataSummary, TextSummary, summarised
from st_adapter.embeddings.checked_embedding import checked_folders
from st_adapter.embeddings.cost import EmbeddingCost, embedding_cost
from st_adapter.embeddings.long_texts import LongTexts, long_texts
from st_adapter.evidence.output_folder import model_path
from st_adapter.evidence.terminal import escape
from st_adapter.saving.attach import detach
from st_adapter.storage.writing import check_writable, write_json
from st_adapter.words import counted, documents_searched, whole

_SHOWN = 160  # characters of a text


def check_data(options: CheckDataOptions) -> int:
    """Show how data are read, and with a model what it would make of them."""
    if options.output is not None:
        check_writable(options.output.parent, "output")
    dataset = load_dataset(options.source(), options.reading, seed=options.seed, split_by=options.split_by)
    summary = summarised(dataset)
    _print_summary(summary)
    found: dict[str, Any] = asdict(summary)
    if options.model:
        base = detach(open_model(model_path(options.model), options.embedding))[0]
        for note in checked_folders(base, dataset, allow_other=True).notes[len(dataset.notes) :]:
            console.print(f"  {escape(note)}", highlight=False)
        too_long = long_texts(base, dataset)
        cost = embedding_cost(base, dataset, options.embedding.embedding_batch_size)
        _print_model(too_long, cost)
        found |= {"model": options.model, "long_texts": too_long and asdict(too_long), "embedding": asdict(cost)}
    else:
        console.print("Add --model MODEL to see which texts it cuts, and what embedding takes.", style="dim")
    if options.output is not None:
        write_json(options.output, found)
        console.print(f"Written to [bold]{escape(str(options.output))}[/bold]")
    return 0


def _print_summary(summary: DataSummary) -> None:
    searched = documents_searched(summary.num_documents, summary.corpus_is_labelled_only)
    table = Table(title=f"{escape(summary.name)}: {searched}")
    table.add_column("split")
    for column in ("queries", "relevant pairs", "judged not relevant", "relevant per query"):
        table.add_column(column, justify="right")
    for split in summary.splits:
        counts = (whole(n) for n in (split.num_queries, split.num_relevant, split.num_not_relevant))
        table.add_row(escape(split.name), *counts, f"{split.fewest} to {split.most}, median {split.median:g}")
    console.print(table)
    for sentence in summary.how_read:
        console.print(f"  {escape(sentence)}", highlight=False)
    for nouns, texts in ((("query", "queries"), summary.queries), (("document", "documents"), summary.documents)):
        if texts is not None:
            console.print(f"  {_lengths(nouns, texts)}", highlight=False)
    samples = Table(title="some judgements", show_lines=True)
    for column in ("split", "query", "document"):
        samples.add_column(column)
    samples.add_column("relevance", justify="right")
    for sample in summary.samples:
        cells = [escape(_cut(text)) for text in (sample.split, sample.query, sample.document)]
        samples.add_row(*cells, f"{sample.relevance:g}")
    console.print(samples)


def _lengths(nouns: tuple[str, str], texts: TextSummary) -> str:
    sentence = (
        f"{counted(texts.num_texts, *nouns)} of {whole(texts.shortest)} to {counted(texts.longest, 'character')}, "
        f"median {texts.median:g}"
    )
    if not texts.num_variants:
        return f"{sentence}."
    differ = "differs" if texts.num_variants == 1 else "differ"
    return f"{sentence}; {whole(texts.num_variants)} {differ} from another one in case, width and spacing alone."


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _print_model(too_long: LongTexts | None, cost: EmbeddingCost) -> None:
    if too_long is None:
        console.print("The model reads texts of any length, or does not say how long they may be.")
    else:
        limit = f"No text is longer than the {whole(too_long.max_seq_length)} tokens that the model reads."
        console.print(*(too_long.notes or (limit,)), highlight=False)
    minutes = cost.seconds / 60
    took = f"{cost.seconds:.0f} seconds" if cost.seconds < 100 else f"{minutes:,.0f} minutes"
    console.print(
        f"Embedding {counted(cost.num_texts, 'text')} takes about {took} on this machine, as {cost.num_measured} of "
        f"them show, and {cost.num_bytes / 1e6:,.1f} MB in memory and on disk ({cost.dimension} dimensions). What was "
        "embedded before is in the cache and takes no time.",
        highlight=False,
    )
