"""`st-adapter combine`: the adapters of finished runs behind one model."""

from __future__ import annotations

from st_adapter.cli.combine_options import CombineOptions
from st_adapter.cli.tables import console, print_code
from st_adapter.evidence.output_folder import model_path
from st_adapter.evidence.terminal import escape
from st_adapter.saving.combined import combine as combine_models


def combine(options: CombineOptions) -> int:
    """Save one model with the adapters of several."""
    runs: dict[str, str] = {}
    for each in options.runs:
        task, equals, run = each.partition("=")
        if not (task and equals and run):
            raise ValueError(f"{each!r} came, but TASK=RUN is expected, such as legal=out-legal.")
        if task in runs:
            raise ValueError(f"The task {task!r} came twice. Give each a name of its own.")
        runs[task] = model_path(run)
    saved = combine_models(
        runs, options.output_dir, default_task=options.default_task, trust_remote_code=options.trust_remote_code
    )
    console.print(f"Saved: [bold]{escape(str(options.output_dir))}[/bold]")
    print_code(f"model = SentenceTransformer({str(saved)!r})")
    for task in runs:
        print_code(f'query_embeddings = model.encode(queries, task="{task}", prompt_name="query")')
    return 0
