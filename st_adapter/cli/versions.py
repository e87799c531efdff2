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
    table = Table(title=f"{escape(str(options.output_dir))}: gains in nDCG@10 on held-out queries")
    table.add_column("")
    table.add_column("version", no_wrap=True)
    table.add_column("data", overflow="fold")
    table.add_column("queries", justify="right", no_wrap=True)
    table.add_column("outcome")
    table.add_column("gain [95 %]", justify="right")
    for version in versions:
        table.add_row(*_cells(version), style="bold" if version.is_current else None)
    console.print(table)
    bases = {version.results.base_model.name for version in versions if version.results and version.results.base_model}
    console.print(f"Base model: {escape(', '.join(sorted(bases)))}." if bases else "", style="dim")
    console.print(
        "* is in use: what lies in the folder itself is of it. A version begins with its date, in UTC.", style="dim"
    )
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
    # What version 0.1 left has no name yet.
    name = version.name or f"{version.date:%Y-%m-%d %H:%M} UTC"
    if results is None:
        return [mark, name, "", "", version.outcome, ""]
    gate = results.selection.gate
    gain = "" if gate is None else f"{signed(gate.gain)} [{', '.join(map(signed, gate.interval))}]"
    return [mark, name, escape(results.data.name), whole(results.data.train.num_queries), version.outcome, gain]
