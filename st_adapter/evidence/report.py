"""One page and one picture that say whether to deploy the adapter, made from the files of a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypedDict

from st_adapter.demo import DATASET_NAME
from st_adapter.evaluation.comparison import written
from st_adapter.evidence.changes import shortened
from st_adapter.evidence.results import CURVE_FILE, REPORT_FILE, REPORT_PICTURE, RESULTS_FILE
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.storage.reading import checked, read_object
from st_adapter.storage.writing import write_text
from st_adapter.words import documents_searched

_TEMPLATE = "report_template.html"
_METRICS = ("ndcg", "mrr", "accuracy", "recall", "precision", "map")
_HEADLINE_METRIC = "ndcg@10"
_PICTURED_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "map@100")
_PARTS = {"all": "all queries", "seen": "documents seen", "unseen": "documents new"}
_SHOWN_CANDIDATES = 12
# Reciprocal ranks of the first relevant document, query by query.
_RANKS = "mrr@100"
_MOST_GAIN = 10  # an interval of an estimate may reach beyond what nDCG can
_MAX_RESULTS_BYTES = 1 << 30
_REPEAT = "Run `st-adapter train` again, or copy the folder again."


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

    The page holds everything: no script, no font, no image from elsewhere, and a policy that forbids the browser to
    load any. Of queries and documents it shows the ones that changed most, as text. A learning curve that
    ``st-adapter learning-curve`` left in the folder is shown if it is of the same data and base model.

    Args:
        output_dir: folder of ``run_training``; ``report.html`` and ``report.png`` are written to it.

    Raises:
        ValueError: there are no results of a training run in the folder.
        ImportError: matplotlib or Jinja is not installed.
    """
    plots, jinja2 = _plots(), _jinja2()
    output_dir = Path(output_dir)
    results = _read_results(output_dir / RESULTS_FILE)
    curve_file = output_dir / CURVE_FILE
    curve = _curve_of(results, _read_curve(curve_file) if curve_file.exists() else None)
    content = _content(results, curve)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": _fraction, "signed": _signed}
    environment.globals |= {"written": written, "documents_searched": documents_searched}
    page = environment.get_template(_TEMPLATE).render(**content, figures=_figures(content, plots, jinja2))
    # Texts of others may hold halves of characters, which UTF-8 cannot.
    write_text(output_dir / REPORT_FILE, page.encode("utf-8", "replace").decode())
    picture = plots.summary_figure(
        content["headline"],
        content["verdict"],
        content["pictured"],
        content["base_rr"],
        content["adapted_rr"],
        curve,
    )
    return Report(output_dir / REPORT_FILE, plots.write_png(picture, output_dir / REPORT_PICTURE))


# --- what is read ---


class _Compared(TypedDict):
    num_queries: int
    base: float
    adapted: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    ties: int
    losses: int


class _PerQuery(TypedDict):
    base: dict[str, list[float]]
    adapted: dict[str, list[float]]


class _Example(TypedDict):
    query: str
    relevant: str
    base_rank: int
    adapted_rank: int
    difference: float
    base_top: str
    base_top_is_relevant: bool
    adapted_top: str
    adapted_top_is_relevant: bool


class _Examples(TypedDict):
    gains: list[_Example]
    losses: list[_Example]


class _Evaluation(TypedDict):
    num_queries: int
    num_documents: int
    num_pairs: int
    num_unjudged_queries: int
    comparisons: dict[str, dict[str, _Compared]]
    per_query: _PerQuery
    examples: _Examples


class _Gate(TypedDict):
    reason: str


class _Candidate(TypedDict):
    name: str
    gain: float
    gain_seen: float | None
    gain_unseen: float | None
    p_value: float | None
    rejected: bool


class _Selection(TypedDict):
    chosen: str
    gate: _Gate


class _Searched(_Selection):
    """What ``fit`` adds to a selection: all candidates."""

    candidates: list[_Candidate]
    num_seen: int
    num_unseen: int
    unseen_weight: float
    base: float


class _TrainSplit(TypedDict):
    num_queries: int
    num_pairs: int


class _NewerData(TypedDict, total=False):
    """What version 0.1 did not write yet."""

    corpus_is_labelled_only: bool


class _Data(_NewerData):
    name: str
    notes: list[str]
    num_documents: int
    train: _TrainSplit


class _Named(TypedDict):
    name: str


class _NewerResults(TypedDict, total=False):
    """What version 0.1 did not write yet."""

    opened_with: dict[str, Any]


class _Results(_NewerResults):
    base_model: _Named
    data: _Data
    method: str
    adopted: bool
    fitted_on: list[str]
    adapter: dict[str, Any] | None
    selection: _Selection
    seconds: dict[str, float]
    seed: int
    arguments: dict[str, Any] | None
    alpha: float
    precision: str
    device: str
    versions: dict[str, str]


class _Point(TypedDict):
    num_queries: int
    gain: float
    interval: tuple[float, float]
    lowest: float
    highest: float


class _Doubling(TypedDict):
    gain: float
    interval: tuple[float, float]
    expected_before: float | None
    came: float | None


class _Curve(TypedDict):
    data: str
    base_model: Any
    base: float
    num_dev_queries: int
    num_draws: int
    sentence: str
    points: list[_Point]
    doubling: _Doubling | None


def _read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a training run, with everything in it that a report shows.

    Raises:
        ValueError: it is missing, of something else, or damaged.
    """
    results = read_object(path, max_bytes=_MAX_RESULTS_BYTES) if path.exists() else {}
    if not {"selection", "fitted_on", "data"} <= results.keys():
        raise ValueError(
            f"{path.parent} holds no {path.name} of a training run. Name the folder that `st-adapter train` wrote to."
        )
    try:
        checked(results, _Results, "")
        if "candidates" in results["selection"]:
            for candidate in checked(results["selection"], _Searched, "selection")["candidates"]:
                if candidate["p_value"] is None and not candidate["rejected"]:
                    raise ValueError(f"the candidate {candidate['name']!r:.80} has no p_value.")
        for split in ("test", "dev"):
            if split in results:
                _check_evaluation(checked(results[split], _Evaluation, split), split)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error} {_REPEAT}") from error
    return results


def _check_evaluation(evaluation: Mapping[str, Any], split: str) -> None:
    names = {f"{name}@" for name in _METRICS}
    for part, compared in evaluation["comparisons"].items():
        unknown = [m for m in compared if m.rstrip("0123456789") not in names or not m[-1].isdigit() or len(m) > 30]
        if unknown:
            raise ValueError(f"{split} compares {unknown[0]!r:.80}, which is no metric.")
        if _HEADLINE_METRIC not in compared:
            raise ValueError(f"{split} has no {_HEADLINE_METRIC} of {part!r:.80}.")
        for metric, row in compared.items():
            numbers = [*row["interval"], *(row[name] for name in ("base", "adapted", "difference", "p_value"))]
            _check_within(1, numbers, f"{split}, {metric}")
    if "all" not in evaluation["comparisons"]:
        raise ValueError(f"{split} compares nothing on all queries.")
    ranks = [evaluation["per_query"][side].get(_RANKS, []) for side in ("base", "adapted")]
    if not len(ranks[0]) == len(ranks[1]) == evaluation["num_queries"]:
        raise ValueError(f"{split} has {_RANKS} of {len(ranks[0])} and {len(ranks[1])} queries, not of all.")
    if not all(0 <= value <= 1 for side in ranks for value in side):
        raise ValueError(f"{split} has {_RANKS} outside of 0 to 1.")


def _check_within(limit: float, numbers: Iterable[float], where: str) -> None:
    if not all(abs(number) <= limit for number in numbers):
        raise ValueError(f"{where} has figures beyond {limit}, but differences and means of fractions are expected.")


def _read_curve(path: Path) -> dict[str, Any]:
    """``learning_curve.json``, with everything in it that a report shows.

    Raises:
        ValueError: it is damaged.
    """
    curve = read_object(path, max_bytes=_MAX_RESULTS_BYTES)
    try:
        checked(curve, _Curve, "")
        if not curve["points"]:
            raise ValueError("points is empty.")
        if any(point["num_queries"] < 1 for point in curve["points"]):
            raise ValueError("points has a number of queries below 1.")
        doubling = curve["doubling"]
        if doubling is not None and (doubling["came"] is None) != (doubling["expected_before"] is None):
            raise ValueError("doubling has only one of came and expected_before.")
        for point in [*curve["points"], *([doubling] if doubling is not None else [])]:
            _check_within(_MOST_GAIN, [*point["interval"], point["gain"]], "a point or doubling")
        _check_within(1, [curve["base"]], "base")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error} Run `st-adapter learning-curve` again, or delete it.") from error
    return curve


def _plots() -> ModuleType:
    # Only here, so that nobody who wants no figures needs or waits for matplotlib.
    from st_adapter.evidence import plots

    return plots


def _jinja2() -> ModuleType:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            'The report needs Jinja, which is not installed. Run `pip install "st-adapter[report]"`.'
        ) from error
    return jinja2


def _curve_of(results: Mapping[str, Any], curve: dict[str, Any] | None) -> dict[str, Any] | None:
    """The curve, if it belongs to the run."""
    if curve is None:
        return None
    same = curve["data"] == results["data"]["name"] and curve["base_model"] == results["base_model"]
    return curve if same and curve["points"][-1]["num_queries"] == results["data"]["train"]["num_queries"] else None


def _content(results: Mapping[str, Any], curve: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that page and picture show, by name."""
    gate = results["selection"]["gate"]
    split = next((s for s in ("test", "dev") if s in results and s not in results["fitted_on"]), None)
    evaluation = results[split] if split is not None else None
    comparisons = evaluation["comparisons"] if evaluation is not None else {}
    compared = comparisons.get("all", {})
    # Without an adapter both sides are equal, and there is nothing to draw.
    shown = bool(results["adopted"]) and evaluation is not None
    reciprocal_ranks = {
        side: evaluation["per_query"][side][_RANKS] if shown and evaluation is not None else []
        for side in ("base", "adapted")
    }
    if shown:
        headline = _headline(compared[_HEADLINE_METRIC], split or "")
    elif results["adopted"]:
        headline = "The adapter passed its test; there is no split left to measure it on."
    else:
        headline = "No adapter: the base model is kept."
    parts = [
        (f"{label}\n({comparisons[part][_HEADLINE_METRIC]['num_queries']:,})", comparisons[part][_HEADLINE_METRIC])
        for part, label in _PARTS.items()
        if part in comparisons
    ]
    return {
        "headline": headline,
        "verdict": gate["reason"],
        "adopted": results["adopted"],
        "split": split,
        "evaluation": evaluation,
        "compared": compared,
        "headline_metric": compared.get(_HEADLINE_METRIC),
        "metrics": [m for m in _ordered(compared) if m.endswith("@10")],
        "all_metrics": _ordered(compared),
        "pictured": [(written(m), compared[m]) for m in _PICTURED_METRICS if shown and m in compared],
        "parts": [(_PARTS[part], comparisons[part][_HEADLINE_METRIC]) for part in _PARTS if part in comparisons],
        "pictured_parts": parts if shown else [],
        "base_rr": reciprocal_ranks["base"],
        "adapted_rr": reciprocal_ranks["adapted"],
        "curve": curve,
        "examples": evaluation["examples"] if evaluation is not None else {"gains": [], "losses": []},
        "selection": results["selection"],
        "candidates": results["selection"].get("candidates", [])[:_SHOWN_CANDIDATES],
        "num_more_candidates": max(0, len(results["selection"].get("candidates", [])) - _SHOWN_CANDIDATES),
        "data": results["data"],
        # Runs of before did not say it.
        "labelled_only": results["data"].get("corpus_is_labelled_only", False),
        "data_name": results["data"]["name"] or "data in memory",
        "base_model": results["base_model"]["name"],
        "fitted_on": results["fitted_on"],
        "seconds": results["seconds"],
        "command": _command(results),
        "facts": _facts(results),
        "results_file": RESULTS_FILE,
    }


def _headline(compared: Mapping[str, Any], split: str) -> str:
    low, high = compared["interval"]
    direction = "better" if low > 0 else "worse" if high < 0 else "not clearly different"
    return (
        f"{_signed(compared['difference'])} nDCG@10 on {compared['num_queries']:,} {split} queries: {direction} "
        f"({_fraction(compared['base'])} → {_fraction(compared['adapted'])})"
    )


def _ordered(compared: Mapping[str, Any]) -> list[str]:
    """Metric by metric, and within a metric by cut-off."""

    def place(metric: str) -> tuple[int, int]:
        name, _, k = metric.partition("@")
        return _METRICS.index(name), int(k)

    return sorted(compared, key=place)


def _figures(content: Mapping[str, Any], plots: ModuleType, jinja2: ModuleType) -> list[dict[str, Any]]:
    """The figures of the page with what they say in words; those there is nothing to draw for are left out."""
    figures = []

    def add(figure: Any, name: str, title: str, caption: str) -> None:
        # The only markup that is not escaped: it comes from matplotlib, and no text of the data goes into it.
        svg = jinja2.utils.markupsafe.Markup(plots.inline_svg(figure, name, title))
        figures.append({"name": name, "title": title, "caption": caption, "svg": svg})

    if content["pictured"]:
        add(
            plots.differences_figure(content["pictured"], plots.PAGE),
            "differences",
            "What the adapter changes, by metric",
            "Means over the queries with a 95 % interval; right of the line the adapted model is better.",
        )
    if content["pictured_parts"]:
        add(
            plots.levels_figure(content["pictured_parts"], plots.PAGE),
            "seen",
            "Documents seen in training, and new ones",
            "A query counts as seen if one of its relevant documents was a positive in training.",
        )
    if content["base_rr"]:
        rose = sum(a > b for b, a in zip(content["base_rr"], content["adapted_rr"], strict=True))
        fell = sum(a < b for b, a in zip(content["base_rr"], content["adapted_rr"], strict=True))
        add(
            plots.ranks_figure(content["base_rr"], content["adapted_rr"], plots.PAGE),
            "ranks",
            "Rank of the first relevant document, before and after",
            f"Number of queries. It rose for {rose:,} (cells below the diagonal) and fell for {fell:,} (above it).",
        )
    if content["curve"] is not None:
        add(
            plots.learning_curve_figure(content["curve"], plots.PAGE),
            "curve",
            "How many labels are enough",
            content["curve"]["sentence"],
        )
    return figures


def _command(results: Mapping[str, Any]) -> str:
    """The command line that repeats the run; names of folders are given without where they lie."""
    model, data = results["base_model"]["name"], results["data"]["name"] or "DATA"
    options = {"--seed": str(results["seed"])}
    if data == DATASET_NAME:
        words = ["st-adapter", "demo"]
    else:
        words = ["st-adapter", "train", "--model", _quoted(model), "--data", _quoted(data)]
        options |= {"--method": results["method"], "--alpha": f"{results['alpha']:g}"}
        defaults = AdapterTrainingArguments().to_dict()
        left_out = {"output_dir", "seed", "disable_tqdm"}
        for name, value in (results["arguments"] or {}).items():
            if name not in left_out and value != defaults.get(name):
                options[f"--{name.replace('_', '-')}"] = str(value)
    options |= {"--precision": results["precision"]} if results["precision"] != "fp32" else {}
    for name, value in results.get("opened_with", {}).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            options[flag] = str(value)
    return " ".join([*words, *(f"{name} {_quoted(value)}" for name, value in options.items())])


def _quoted(word: str) -> str:
    return word if word and all(c.isalnum() or c in "-_./:+" for c in word) else "'" + word.replace("'", "'\\''") + "'"


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything else that a repetition needs."""
    facts = [
        *results["versions"].items(),
        ("seed", str(results["seed"])),
        ("device", results["device"]),
        ("precision", results["precision"]),
    ]
    adapter = results["adapter"]
    if adapter is not None:
        facts.append(("adapter", ", ".join(f"{k} {v}" for k, v in adapter.items() if isinstance(v, (str, int, float)))))
    return [(name, shortened(str(value), 200)) for name, value in facts]


def _fraction(value: float) -> str:
    """Three decimals without the leading zero, as tables of metrics have them."""
    text = f"{value:.3f}"
    if float(text) == 0:
        return ".000"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def _signed(value: float) -> str:
    text = _fraction(value)
    return text if text == ".000" else f"+{text}" if value > 0 else text.replace("-", "−")
