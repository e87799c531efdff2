"""One page and one picture that say whether to deploy the adapter, made from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jinja2

from st_adapter.demo import DATASET_NAME
from st_adapter.embeddings.identity import UNKNOWN_MODEL
from st_adapter.evaluation.comparison import P_VALUE_IN_WORDS, Comparison
from st_adapter.evidence.changes import LargestChanges, shortened
from st_adapter.evidence.curve import LearningCurve
from st_adapter.evidence.output_folder import (
    CURVE_FILE,
    REPORT_FILE,
    REPORT_PICTURE,
    RESULTS_FILE,
    current_run,
    output_of,
    show_files,
    shown_at,
)
from st_adapter.evidence.results import CurveResults, Results
from st_adapter.evidence.split_results import HEADLINE_METRIC, METRICS, RANKS_METRIC, SplitResults
from st_adapter.evidence.systems import RUN_FILE
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.storage.writing import write_text
from st_adapter.words import documents_searched, fraction, metric_name, own_copies_left_out, signed

_TEMPLATE = "report_template.html"
_PICTURED_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "map@100")
_PARTS = {"all": "all queries", "seen": "documents seen", "unseen": "documents new"}
_SHOWN_CANDIDATES = 12


class Report(NamedTuple):
    """The files of a report.

    Attributes:
        page: self-contained HTML.
        picture: PNG for a model card.
    """

    page: Path
    picture: Path


def write_report(output_dir: str | Path) -> Report:
    """Make the report of a training run from the ``results.json`` that it left behind.

    A learning curve that ``st-adapter learning-curve`` left in the folder is shown if it is of the same data and base
    model.

    Args:
        output_dir: folder of ``train``, or that of one run in it; ``report.html`` and ``report.png`` are written to it.

    Raises:
        ValueError: there are no results of a training run in the folder.
        ImportError: matplotlib or Jinja is not installed.

    Examples:
        >>> result = st_adapter.train(model, dataset, output_dir="out", cache_dir="cache", show_progress_bar=False)
        >>> [path.name for path in write_report("out")]
        ['report.html', 'report.png']
    """
    plots = _plots()
    run = current_run(output_dir)
    results = Results.read(run / RESULTS_FILE)
    curve_file = output_of(run) / CURVE_FILE
    curve = CurveResults.read(curve_file) if curve_file.exists() else None
    shown = _Shown(results, curve.curve if curve is not None and curve.is_of(results) else None)
    page = _write_page(shown, run / REPORT_FILE)
    picture = plots.summary_figure(
        shown.headline, results.verdict.sentence, shown.pictured, *shown.ranks, curve=shown.curve
    )
    made = page, plots.write_png(picture, run / REPORT_PICTURE)
    show_files(run)
    return Report(*map(shown_at, made))


def write_page(results: Results, path: str | Path) -> Path:
    """Make the page of a report.

    It holds everything: no script, no font, no image from elsewhere, and a policy that forbids the browser to load
    any. Of queries and documents it shows the ones that changed most, as text.

    Args:
        results: of a run.
        path: the HTML file.

    Raises:
        ImportError: matplotlib or Jinja is not installed.
    """
    return _write_page(_Shown(results, None), Path(path))


class _Shown:
    """What page and picture show of the results of a run."""

    def __init__(self, results: Results, curve: LearningCurve | None) -> None:
        self.results, self.curve = results, curve
        self.split = results.held_out
        self.evaluation: SplitResults | None = results.splits[self.split] if self.split is not None else None
        self.parts: Mapping[str, Mapping[str, Comparison]] = self.evaluation.comparisons if self.evaluation else {}
        self.compared = self.parts.get("all", {})
        # Without an adapter both sides are equal, and there is nothing to draw.
        self.drawn = results.adopted and self.evaluation is not None

    @property
    def headline(self) -> str:
        if self.results.kept_deployed:
            return "Nothing new: the deployed adapter is kept."
        if not self.results.adopted:
            kept = "No adapter: the base model is kept."
            return kept if self.results.query_model is None else "Nothing is handed over: the query model did not pass."
        if self.evaluation is None and not self.results.selection.tested:
            return "An adapter that was learned without labels, and not tested."
        if self.evaluation is None:
            return "The adapter passed its test; there is no split left to measure it on."
        compared = self.compared[HEADLINE_METRIC]
        return (
            f"{self.results.verdict.decision.capitalize()}: {signed(compared.difference)} nDCG@10 on "
            f"{compared.num_queries:,} {self.split} queries ({fraction(compared.base)} → {fraction(compared.adapted)})"
        )

    @property
    def pictured(self) -> list[tuple[str, Comparison]]:
        """The metrics of the picture, by the names they are written with."""
        metrics = [metric for metric in _PICTURED_METRICS if metric in self.compared] if self.drawn else []
        return [(metric_name(metric), self.compared[metric]) for metric in metrics]

    @property
    def ranks(self) -> tuple[list[float], list[float]]:
        """Reciprocal ranks of base and adapted model, query by query."""
        if not self.drawn or self.evaluation is None:
            return [], []
        values = self.evaluation.per_query
        return values.base[RANKS_METRIC], values.adapted[RANKS_METRIC]

    def rows(self, at_10_only: bool) -> list[tuple[str, Comparison]]:
        """Comparisons metric by metric, and within a metric by cut-off."""

        def place(metric: str) -> tuple[int, int]:
            name, _, k = metric.partition("@")
            return METRICS.index(name), int(k)

        metrics = [m for m in sorted(self.compared, key=place) if m.endswith("@10") or not at_10_only]
        return [(metric_name(metric), self.compared[metric]) for metric in metrics]

    def rows_of_parts(self, with_number: bool) -> list[tuple[str, Comparison]]:
        """The headline metric on all queries, and on those of either kind."""
        found = [(label, self.parts[part][HEADLINE_METRIC]) for part, label in _PARTS.items() if part in self.parts]
        return [(f"{label}\n({row.num_queries:,})" if with_number else label, row) for label, row in found]


def _write_page(shown: _Shown, path: Path) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": fraction, "signed": signed}
    environment.globals |= {"documents_searched": documents_searched, "own_copies_left_out": own_copies_left_out}
    page = environment.get_template(_TEMPLATE).render(**_content(shown), figures=_figures(shown, _plots()))
    # Texts of others may hold halves of characters, which UTF-8 cannot.
    write_text(path, page.encode("utf-8", "replace").decode())
    return path


def _plots() -> ModuleType:
    # Only here, so that nobody who wants no figures needs or waits for matplotlib.
    from st_adapter.evidence import plots

    return plots


def _content(shown: _Shown) -> dict[str, Any]:
    """Everything that the page shows besides its figures, by name."""
    results, evaluation = shown.results, shown.evaluation
    candidates = results.selection.candidates or []
    examples = evaluation.examples if evaluation is not None else None
    return {
        "results": results,
        "verdict": results.verdict,
        "p_value_in_words": P_VALUE_IN_WORDS,
        "headline": shown.headline,
        "split": shown.split,
        "evaluation": evaluation,
        "headline_metric": shown.compared.get(HEADLINE_METRIC),
        "rows": shown.rows(at_10_only=True),
        "all_rows": shown.rows(at_10_only=False),
        "rows_of_parts": shown.rows_of_parts(with_number=False),
        "curve": shown.curve,
        "examples": examples or LargestChanges((), ()),
        "candidates": candidates[:_SHOWN_CANDIDATES],
        "num_more_candidates": max(0, len(candidates) - _SHOWN_CANDIDATES),
        "data_name": results.data.name or "data in memory",
        "base_model": _base_name(results),
        "command": _command(results),
        "facts": _facts(results),
        "results_file": RESULTS_FILE,
    }


class _Figure(NamedTuple):
    """A figure of the page with what it says in words."""

    name: str
    title: str
    caption: str
    svg: str


def _figures(shown: _Shown, plots: ModuleType) -> list[_Figure]:
    """The figures of the page; those there is nothing to draw for are left out."""
    figures = []

    def add(figure: Any, name: str, title: str, caption: str) -> None:
        figures.append(_Figure(name, title, caption, plots.inline_svg(figure, name, title)))

    if shown.pictured:
        caption = "Means over the queries with a 95 % interval; right of the line the adapted model is better."
        figure = plots.differences_figure(shown.pictured, plots.PAGE)
        add(figure, "differences", "What the adapter changes, by metric", caption)
    if shown.drawn:
        caption = "A query counts as seen if one of its relevant documents was a positive in training."
        figure = plots.levels_figure(shown.rows_of_parts(with_number=True), plots.PAGE)
        add(figure, "seen", "Documents seen in training, and new ones", caption)
        caption = _movement(*shown.ranks)
        figure = plots.ranks_figure(*shown.ranks, plots.PAGE)
        add(figure, "ranks", "Rank of the first relevant document, before and after", caption)
    if shown.curve is not None:
        figure = plots.learning_curve_figure(shown.curve, plots.PAGE)
        add(figure, "curve", "How many labels are enough", shown.curve.sentence)
    return figures


def _movement(base: Sequence[float], adapted: Sequence[float]) -> str:
    rose = sum(a > b for b, a in zip(base, adapted, strict=True))
    fell = sum(a < b for b, a in zip(base, adapted, strict=True))
    return f"Number of queries. It rose for {rose:,} (cells below the diagonal) and fell for {fell:,} (above it)."


def _base_name(results: Results) -> str:
    return results.base_model.name if results.base_model is not None else "vectors"


def _command(results: Results) -> str:
    """The command line that repeats the run; names of folders are given without where they lie."""
    data = results.data.name or "DATA"
    options = {"--seed": str(results.seed)}
    if data == DATASET_NAME:
        words = ["st-adapter", "demo"]
    else:
        model = "none" if _base_name(results) == UNKNOWN_MODEL else _base_name(results)
        tested = results.selection.tested
        words = ["st-adapter", "train", "--model", _quoted(model)]
        apart = {"--corpus": results.data.corpus, "--queries": results.data.queries}
        if not tested:
            words += ["--without-labels", "--corpus", _quoted(data)]
        else:
            words += ["--labels" if any(apart.values()) else "--data", _quoted(data)]
            options |= {flag: where for flag, where in apart.items() if where}
        options |= {"--method": results.method, "--alpha": f"{results.alpha:g}"} if tested else {}
        options |= _further_models(results)
        defaults = AdapterTrainingArguments().to_dict()
        for name, value in (results.arguments or {}).items():
            if name not in ("output_dir", "seed", "disable_tqdm") and value != defaults.get(name):
                options[_flag(name)] = str(value)
    options |= {"--precision": results.precision} if results.precision != "fp32" else {}
    words += [_flag(name) for name, value in results.opened_with.items() if value is True]
    options |= {_flag(name): str(value) for name, value in results.opened_with.items() if value is not True}
    return " ".join([*words, *(f"{name} {_quoted(value)}" for name, value in options.items())])


def _further_models(results: Results) -> dict[str, str]:
    """Flags of a query model or a teacher; what queries without labels came from is not known."""
    pair, teaching, tested = results.query_model, results.selection.teaching, results.selection.tested
    options: dict[str, str] = {}
    if pair is not None:
        options |= {"--query-model": pair.model.name} | ({"--non-inferior": f"{pair.margin:g}"} if tested else {})
        if pair.reference == RUN_FILE:
            options["--reference-run"] = pair.reference_run or "FILE"
    if teaching is not None:
        options["--teacher"] = teaching.teacher
    unlabelled = (pair.bridge.num_queries if pair else 0) + (teaching.num_queries if teaching else 0)
    return options | ({"--unlabelled-queries": "QUERIES"} if unlabelled and not tested else {})


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _quoted(word: str) -> str:
    return word if word and all(c.isalnum() or c in "-_./:+" for c in word) else "'" + word.replace("'", "'\\''") + "'"


def _facts(results: Results) -> list[tuple[str, str]]:
    """Name and value of everything else that a repetition needs."""
    facts = [
        *results.versions.items(),
        ("seed", str(results.seed)),
        ("device", results.device),
        ("precision", results.precision),
    ]
    if results.adapter is not None:
        settings = {name: value for name, value in results.adapter.items() if isinstance(value, str | int | float)}
        facts.append(("adapter", ", ".join(f"{name} {value}" for name, value in settings.items())))
    return [(name, shortened(str(value), 200)) for name, value in facts]
