"""What a run found, as tables and sentences on a terminal; ``print(result)`` and the command line show the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from st_adapter.evaluation.comparison import P_VALUE_IN_WORDS, Comparison
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evaluation.statistics import MIN_INTERVAL_QUERIES
from st_adapter.evidence.changes import LargestChanges, shortened
from st_adapter.evidence.index_evaluation import IndexEvaluation
from st_adapter.evidence.output_folder import RESULTS_FILE
from st_adapter.evidence.results import SelectionResults
from st_adapter.evidence.systems import SYSTEM_METRICS, QueryModelResults
from st_adapter.evidence.terminal import escape
from st_adapter.evidence.verdict import RunVerdict
from st_adapter.saving.record import TABLE_METRICS
from st_adapter.words import documents_searched, own_copies_left_out, signed_in_ascii, whole

_SHOWN_CANDIDATES = 6
_SHOWN_CHANGES = 4
_CONSOLE_CHARACTERS = 120
_PARTS = {"all": "All queries", "seen": "Documents asked for in training", "unseen": "Documents new"}


def print_evaluation(
    console: Console, evaluation: EvaluationResult, labelled_only: bool, sides: tuple[str, str] = ("base", "adapted")
) -> None:
    """Two sides, and what their difference is worth.

    Args:
        console: where to.
        evaluation: of both.
        labelled_only: whether the corpus is just the documents of the pairs.
        sides: what they are called.
    """
    searched = documents_searched(evaluation.num_documents, labelled_only)
    table = Table(title=f"{escape(evaluation.split)}: {len(evaluation.query_ids):,} queries, {searched}")
    _add_columns(table, ("metric", *sides, "difference", "95 % interval", "p"))
    for name in TABLE_METRICS:
        compared = evaluation.compare(name)
        difference = compared.difference
        style = "green" if difference > 0 else "red" if difference < 0 else ""
        cells = [f"{compared.base:.4f}", f"{compared.adapted:.4f}", f"{difference:+.4f}"]
        table.add_row(name, *cells, *_certainty(compared, "{:+.4f}".format), style=style)
    console.print(table)
    _print_p_value_in_words(console, evaluation.compare("ndcg@10"))
    sentences = [f"{_PARTS[part]}: {each['ndcg@10'].sentence}" for part, each in evaluation.comparisons.items()]
    if evaluation.unjudged_query_ids:
        sentences.append(f"{len(evaluation.unjudged_query_ids)} queries have no relevant document and are not counted.")
    if evaluation.num_own_copies:
        sentences.append(own_copies_left_out(evaluation.num_own_copies))
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def print_indexes(
    console: Console, evaluations: Sequence[IndexEvaluation], sides: tuple[str, str] = ("base", "adapted")
) -> None:
    """Both sides through each index, and how much of exact search each index finds."""
    table = Table(title="through each index: nDCG@10, and recall@10 against exact search")
    _add_columns(table, ("index", *sides, "gain", "95 % interval", *(f"recall {side}" for side in sides)))
    for name in (0, 4):
        table.columns[name].no_wrap = True
    for evaluation in evaluations:
        compared = evaluation.result.compare("ndcg@10")
        shown = compared.shown_interval
        table.add_row(
            escape(evaluation.index),
            f"{compared.base:.3f}",
            f"{compared.adapted:.3f}",
            signed_in_ascii(compared.difference),
            _certainty(compared)[0],
            *(f"{recall:.3f}" for recall in (evaluation.base_recall, evaluation.adapted_recall)),
            style="" if shown is None else "green" if shown.low > 0 else "red" if shown.high < 0 else "",
        )
    console.print(table)


def print_systems(console: Console, found: QueryModelResults, but: Collection[str] = ()) -> None:
    """All ways to search side by side, with what a query model was compared with first.

    Args:
        console: where to.
        found: of a run with a query model.
        but: splits that something was fitted on.
    """
    for split, systems in found.systems.items():
        if split in but:
            continue
        table = Table(title=f"{escape(split)}: all ways to search, against {escape(found.reference)}")
        _add_columns(table, ("queries by", *SYSTEM_METRICS, "difference", "95 % interval", "p"))
        table.columns[0].no_wrap = True
        for system in systems:
            compared, cells = system.compared, [f"{system.means[metric]:.3f}" for metric in SYSTEM_METRICS]
            if compared is not None:
                cells += [signed_in_ascii(compared.difference), *_certainty(compared)]
            table.add_row(escape(system.name.removeprefix("the ")), *cells)
        console.print(table)
    console.print(
        f"Bridge: {found.bridge.origin}. {found.speed_sentence}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def print_candidates(console: Console, selection: SelectionResults) -> None:
    """The best candidates, with what they gained on queries that their fit had not seen."""
    if not selection.candidates:
        return
    table = Table(
        title=f"candidates: gain in nDCG@10 on {selection.num_seen} queries for documents asked for before and "
        f"{selection.num_unseen} for documents that are new"
    )
    _add_columns(table, ("candidate", "gain", "seen", "new", "p"))
    for number, candidate in enumerate(selection.candidates[:_SHOWN_CANDIDATES]):
        gains = (candidate.gain, candidate.gain_seen, candidate.gain_unseen)
        cells = ["-" if gain is None else f"{gain:+.4f}" for gain in gains]
        p_value = "rejected" if candidate.rejected else f"{candidate.p_value:.4f}"
        table.add_row(escape(candidate.name), *cells, p_value, style="bold" if number == 0 else "")
    hidden = len(selection.candidates) - _SHOWN_CANDIDATES
    table.caption = f"{hidden} more in {RESULTS_FILE}" if hidden > 0 else None
    console.print(table)
    console.print("p: the chance that by luck alone the best of them gains as much.", style="dim")
    if selection.passed_over:
        console.print(escape(selection.passed_over), style="dim")
    if selection.num_documents is not None:
        console.print(
            f"Gains are estimated on {whole(selection.num_documents)} documents that stand for the whole corpus.",
            style="dim",
        )


def print_changes(
    console: Console,
    changes: LargestChanges,
    evaluation: EvaluationResult,
    sides: tuple[str, str] = ("base", "adapted"),
) -> None:
    """The queries on which either side wins by most.

    Args:
        console: where to.
        changes: what is shown.
        evaluation: that they are of.
        sides: what the two are called.
    """
    compared = evaluation.compare("ndcg@10")
    table = Table(title=f"largest changes; nDCG@10 rose for {compared.wins:,} queries, fell for {compared.losses:,}")
    _add_columns(table, (f"{evaluation.split} query", *(f"rank, {side}" for side in sides), "nDCG@10"))
    table.columns[0].max_width = 70
    for examples, style in ((changes.gains[:_SHOWN_CHANGES], "green"), (changes.losses[:_SHOWN_CHANGES], "red")):
        for example in examples:
            ranks = ("> 100" if each is None else whole(each) for each in (example.base_rank, example.adapted_rank))
            table.add_row(
                escape(shortened(example.query, _CONSOLE_CHARACTERS)),
                *ranks,
                signed_in_ascii(example.difference),
                style=style,
            )
    if changes.gains or changes.losses:
        console.print(table)


def print_verdict(console: Console, verdict: RunVerdict) -> None:
    """The decision, and why."""
    style = "bold green" if verdict.decision == "deploy" else "bold"
    console.print(f"[{style}]{escape(verdict.headline)}[/{style}] {escape(verdict.why)}", highlight=False)


def _certainty(compared: Comparison, written: Callable[[float], str] = signed_in_ascii) -> tuple[str, str]:
    """The cells of interval and p; of fewer queries than an interval is shown of, both are empty."""
    if compared.shown_interval is None:
        return "-", "-"
    return " to ".join(map(written, compared.shown_interval)), f"{compared.p_value:.4f}"


def _print_p_value_in_words(console: Console, compared: Comparison) -> None:
    few = f"Fewer than {MIN_INTERVAL_QUERIES} queries do not tell how they vary: no intervals."
    console.print(P_VALUE_IN_WORDS if compared.shown_interval is not None else few, style="dim", highlight=False)


def _add_columns(table: Table, names: Iterable[str]) -> None:
    """The first one holds names, the others numbers."""
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
