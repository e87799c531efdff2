"""The commands that make figures: the learning curve, and the report of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.cli.opening import load_dataset, open_base
from st_adapter.cli.options import LearningCurveOptions, ReportOptions
from st_adapter.cli.tables import console, print_curve, print_dataset
from st_adapter.data.fingerprint import data_fingerprint
from st_adapter.embeddings.checked_embedding import embed_to_measure
from st_adapter.embeddings.long_texts import long_texts
from st_adapter.evidence import learning_curve as measure
from st_adapter.evidence.curve import checked_curve
from st_adapter.evidence.output_folder import CURVE_FILE, CURVE_PICTURE, RESULTS_FILE, current_run, shown_at
from st_adapter.evidence.report import write_report
from st_adapter.evidence.results import CurveResults, Results, described
from st_adapter.evidence.terminal import escape
from st_adapter.storage.writing import check_writable


def learning_curve(options: LearningCurveOptions) -> int:
    """Fit on fewer and fewer labels, and show what more would bring."""
    if options.output_dir is not None:
        check_writable(options.output_dir, "output_dir")
    sizes = checked_curve(options.sizes or None, options.num_draws, options.seed, options.method)
    embedding = options.embedding
    base_model = open_base(options.model, embedding)
    dataset = load_dataset(options, options.reading, seed=options.seed)
    here = isinstance(base_model, SentenceTransformer)
    print_dataset(dataset, long_texts(base_model, dataset) if here else None)
    dataset, embedded = embed_to_measure(
        base_model,
        dataset,
        paraphrase_threshold=PARAPHRASE_THRESHOLD,
        allow_other_vectors=options.reading.allow_other_vectors,
        **embedding.arguments(run_here=here),
    )
    curve = measure(
        embedded,
        sizes=sizes,
        num_draws=options.num_draws,
        seed=options.seed,
        method=options.method,
        show_progress_bar=True,
    )
    print_curve(curve, dataset.corpus_is_labelled_only)
    if options.output_dir is not None:
        found = CurveResults(
            base_model=described(embedded.base_model),
            data=dataset.name,
            fingerprint=data_fingerprint(dataset),
            corpus_is_labelled_only=dataset.corpus_is_labelled_only,
            opened_with=embedding.opened_with(),
            curve=curve,
        )
        found.write(options.output_dir / CURVE_FILE)
        console.print(f"Written to [bold]{escape(str(options.output_dir / CURVE_FILE))}[/bold]")
        if _has_report_extra():
            curve.plot(options.output_dir / CURVE_PICTURE)
        run = current_run(options.output_dir)
        if (run / RESULTS_FILE).is_file():
            make_report(run)
            if not found.is_of(Results.read(run / RESULTS_FILE)):
                console.print(
                    "The report does not show the curve: it is of another base model, or of other data than the run's."
                )
    return 0


def report(options: ReportOptions) -> int:
    """Make the report of a finished run again."""
    made = write_report(options.output_dir)
    console.print(f"Report: [bold]{escape(str(made.page))}[/bold]; picture: {escape(str(made.picture))}")
    return 0


def _has_report_extra() -> bool:
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    console.print('No figures without matplotlib: `pip install "st-adapter[report]"`', style="dim", markup=False)
    return False


def make_report(run: Path | None) -> None:
    """The report of a run, where its packages are installed."""
    if run is not None and _has_report_extra():
        console.print(f"Report: [bold]{escape(str(shown_at(write_report(run).page)))}[/bold]")
