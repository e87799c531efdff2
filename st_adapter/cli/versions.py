"""The commands for the runs that an output folder keeps."""

from __future__ import annotations

from rich.table import Table

from st_adapter.cli.tables import console
from st_adapter.cli.version_options import ListOptions, RollbackOptions
from st_adapter.evidence.terminal import escape
from st_adapter.evidence.versions import Version, versions_of
from st_adapter.evidence.versions import rollback as go_back
from st_adapter.words import signed, whole


def list_runs(options: ListOptions) -> int:
    """Show the runs that an output folder keeps."""
    versions = versions_of(options.output_dir)
    table = Table(title=f"{escape(str(options.output_dir))}: dates in UTC, gains in nDCG@10 on held-out queries")
    for column in ("", "version", "date", "base", "data"):
        table.add_column(column, overflow="fold")
    table.add_column("queries", justify="right")
    table.add_column("verdict")
    for column in ("gain", "95 % interval"):
        table.add_column(column, justify="right")
    for version in versions:
        table.add_row(*_cells(version), style="bold" if version.is_current else None)
    console.print(table)
    console.print("* is in use: what lies in the folder itself is of it.", style="dim")
    return 0


def rollback(options: RollbackOptions) -> int:
    """Use an earlier run again."""
    before = next((each for each in versions_of(options.output_dir) if each.is_current), None)
    version = go_back(options.output_dir, options.version)
    if before is not None and before.name == version.name:
        console.print(f"[bold]{version.name}[/bold] was in use already.")
        return 0
    instead = "" if before is None else f" in place of {before.name or 'the one before'}, which is kept"
    console.print(f"[bold]{version.name}[/bold] is in use now{instead}: {version.outcome}.")
    return 0


def _cells(version: Version) -> list[str]:
    results, mark = version.results, "*" if version.is_current else ""
    date = f"{version.date:%Y-%m-%d %H:%M}"
    if results is None:
        return [mark, version.name, date, "", "", "", version.outcome, "", ""]
    base = "" if results.base_model is None else results.base_model.name
    gate = results.selection.gate
    gain, interval = ("", "") if gate is None else (signed(gate.gain), " to ".join(map(signed, gate.interval)))
    number = whole(results.data.train.num_queries)
    return [mark, version.name, date, escape(base), escape(results.data.name), number, version.outcome, gain, interval]
