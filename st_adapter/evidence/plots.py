"""Figures of results, for a page that is read in light and dark and for pictures; needs the extra ``report``."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Rectangle
except ImportError as error:
    raise ImportError(
        'Figures need matplotlib, which is not installed. Run `pip install "st-adapter[report]"`.'
    ) from error

from st_adapter.evaluation.comparison import Comparison
from st_adapter.evidence.curve import LearningCurve
from st_adapter.storage.writing import file_written_whole
from st_adapter.words import fraction, signed


class Palette(NamedTuple):
    """Colours by what they stand for; the pairs base/adapted and better/worse differ for the colour-blind as well."""

    ink: str
    muted: str
    grid: str
    surface: str
    base: str
    adapted: str
    better: str
    worse: str


LIGHT = Palette("#1b1f24", "#59636e", "#d8dee4", "#ffffff", "#6e7781", "#0969da", "#0a7d5a", "#bc4c00")
# In a page the colours come from its style sheet. Each stands here for the variable of its name.
PAGE = Palette(*(f"#0102{number:02x}" for number in range(3, 11)))

# Ranks of the right document are told apart as a reader of a result list would.
_RANK_BINS = ((1, 1), (2, 3), (4, 10), (11, 100))
_RANK_LABELS = ("1", "2–3", "4–10", "11–100", "> 100")
# Wide enough for a desktop's half page, and its letters still legible when it fills a phone.
_WIDTH = 4.7
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "svg.fonttype": "none",
    # Without a salt the ids of a picture are random, and the same results would give another file.
    "svg.hashsalt": "st-adapter",
    "figure.dpi": 100,
}


def _alone(height: float, draw: Callable[..., None], *what: Any) -> Figure:
    """A figure of one drawing, so many inches high."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot(), *what)
        return figure


def differences_figure(rows: Sequence[tuple[str, Comparison]], palette: Palette = LIGHT) -> Figure:
    """Adapted minus base with its 95 % interval, one row per comparison; of fewer than 20 queries a dot alone.

    Args:
        rows: label, and the comparison that it names.
        palette: colours.
    """
    return _alone(0.9 + 0.36 * len(rows), _draw_differences, rows, palette)


def levels_figure(rows: Sequence[tuple[str, Comparison]], palette: Palette = LIGHT) -> Figure:
    """Base and adapted side by side, one row per comparison."""
    return _alone(1.2 + 0.5 * len(rows), _draw_levels, rows, palette)


def ranks_figure(base_rr: Sequence[float], adapted_rr: Sequence[float], palette: Palette = LIGHT) -> Figure:
    """Where the right document stood with the base model against where it stands with the adapted one.

    Args:
        base_rr: (Q,) reciprocal ranks, 0 beyond rank 100.
        adapted_rr: (Q,) the same of the adapted model.
        palette: colours.
    """
    return _alone(3.7, _draw_ranks, base_rr, adapted_rr, palette)


def learning_curve_figure(curve: LearningCurve, palette: Palette = LIGHT) -> Figure:
    """nDCG@10 on dev against the number of labelled queries.

    Args:
        curve: what to draw.
        palette: colours.
    """
    return _alone(3.3, _draw_learning_curve, curve, palette)


def summary_figure(
    headline: str,
    verdict: str,
    rows: Sequence[tuple[str, Comparison]],
    base_rr: Sequence[float],
    adapted_rr: Sequence[float],
    curve: LearningCurve | None,
) -> Figure:
    """One picture of all for a model card: headline, verdict, differences, ranks and, if there is one, the curve.

    Args:
        headline: first line.
        verdict: second line.
        rows: as for ``differences_figure``; may be empty.
        base_rr: as for ``ranks_figure``; may be empty.
        adapted_rr: likewise.
        curve: as for ``learning_curve_figure``.
    """
    panels = [bool(rows), bool(base_rr), curve is not None]
    width = max(2, sum(panels)) * 4.4
    # No wider than the picture: a letter of that size takes about .085 inches.
    lines = textwrap.wrap(verdict, int(width / 0.085))
    head = 0.58 + 0.19 * len(lines)  # inches above the panels
    height = head + (3.8 if any(panels) else 0.1)
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0.0, 0.0, 1.0, 1 - head / height)))
        for down, words, size, weight, color in (
            (0.17, headline, 13.5, "bold", LIGHT.ink),
            (0.5, "\n".join(lines), 10.5, "normal", LIGHT.muted),
        ):
            figure.text(
                0.02, 1 - down / height, words, fontsize=size, fontweight=weight, va="top", color=color,
                parse_math=False,
            )  # fmt: skip
        axes = iter(figure.subplots(1, max(1, sum(panels)), squeeze=False)[0])
        if not any(panels):
            next(axes).set_axis_off()
        title: Any = {"loc": "left", "fontsize": 10.5, "color": LIGHT.ink, "pad": 10}
        if rows:
            axes_of_rows = next(axes)
            _draw_differences(axes_of_rows, rows, LIGHT)
            axes_of_rows.set_title("What the adapter changes", **title)
        if base_rr:
            axes_of_ranks = next(axes)
            _draw_ranks(axes_of_ranks, base_rr, adapted_rr, LIGHT)
            axes_of_ranks.set_title("Queries by rank of the first relevant document", **title)
        if curve is not None:
            axes_of_curve = next(axes)
            _draw_learning_curve(axes_of_curve, curve, LIGHT)
            axes_of_curve.set_title("How many labels are enough", **title)
        return figure


def write_png(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path = Path(path)
    FigureCanvasAgg(figure)
    with file_written_whole(path) as unfinished, rc_context(_STYLE):
        figure.savefig(unfinished, format="png", dpi=dpi, facecolor=LIGHT.surface, metadata={"Software": "st-adapter"})
    return path


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as SVG to be put into a page, with the page's colours for those of ``PAGE``.

    Args:
        figure: drawn with ``PAGE``.
        name: sets its ids apart from those of other figures in the page.
        description: what a screen reader says; plain text without markup.
    """
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        # No metadata: it names addresses, which a reader may take for links, and the date, which differs every time.
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for field, sentinel in PAGE._asdict().items():
        svg = svg.replace(sentinel, f"var(--{field})")
    # A width in points would keep it from filling its column; the view box has the proportions.
    opening, closing, rest = svg.partition(">")
    opening = re.sub(r'\s(width|height|version)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{description}"{closing}{rest}'


def _draw_differences(ax: Axes, rows: Sequence[tuple[str, Comparison]], palette: Palette) -> None:
    for place, (_, row) in enumerate(rows):
        low, high = row.shown_interval or (0.0, 0.0)
        color = palette.better if low > 0 else palette.worse if high < 0 else palette.muted
        if row.shown_interval is not None:
            ax.plot([low, high], [place, place], color=color, linewidth=2, solid_capstyle="butt")
        ax.plot([row.difference], [place], "o", color=color, markersize=6)
        ax.annotate(
            signed(row.difference), (row.difference, place), (0, 7), textcoords="offset points",
            ha="center", va="bottom", fontsize=9, color=palette.ink,
        )  # fmt: skip
    ax.axvline(0, color=palette.muted, linewidth=1)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.set_ylim(len(rows) - 0.6, -0.85)
    ends = [end for _, row in rows for end in (row.shown_interval or (row.difference,))]
    reach = max([abs(end) for end in ends] + [0.01])
    ax.set_xlim(min(ends + [0.0]) - 0.08 * reach, max(ends + [0.0]) + 0.08 * reach)
    ax.set_xlabel("adapted − base, with 95 % interval")
    ax.locator_params(axis="x", nbins=5, steps=[1, 2, 4, 5, 10])
    ax.xaxis.set_major_formatter(lambda value, _: signed(value, 2))
    _finish(ax, palette, left=False)


def _draw_levels(ax: Axes, rows: Sequence[tuple[str, Comparison]], palette: Palette) -> None:
    for place, (_, row) in enumerate(rows):
        base, adapted = row.base, row.adapted
        color = palette.better if adapted > base else palette.worse
        ax.plot([base, adapted], [place, place], color=color, linewidth=2, zorder=1)
        ax.plot([base], [place], "o", color=palette.base, markersize=7, label="base" if place == 0 else None)
        ax.plot([adapted], [place], "D", color=palette.adapted, markersize=7, label="adapted" if place == 0 else None)
        for value, other in ((base, adapted), (adapted, base)):
            lower = value < other or (value == other and value is base)
            ax.annotate(
                fraction(value), (value, place), (-8 if lower else 8, 0), textcoords="offset points",
                ha="right" if lower else "left", va="center", fontsize=9, color=palette.ink,
            )  # fmt: skip
    values = [value for _, row in rows for value in (row.base, row.adapted)]
    span = max(0.1, max(values) - min(values))
    ax.set_xlim(min(values) - 0.3 * span, max(values) + 0.3 * span)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.set_xlabel("nDCG@10")
    ax.locator_params(axis="x", nbins=5, steps=[1, 2, 4, 5, 10])
    ax.xaxis.set_major_formatter(lambda value, _: fraction(value, 2))
    legend = ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(palette.ink)
    _finish(ax, palette, left=False)


def _draw_ranks(ax: Axes, base_rr: Sequence[float], adapted_rr: Sequence[float], palette: Palette) -> None:
    size = len(_RANK_LABELS)
    counts = [[0] * size for _ in range(size)]
    for base, adapted in zip(base_rr, adapted_rr, strict=True):
        counts[_rank_bin(base)][_rank_bin(adapted)] += 1
    largest = max(1, max(max(row) for row in counts))
    for row in range(size):
        for column in range(size):
            count = counts[row][column]
            color = palette.better if column < row else palette.worse if column > row else palette.base
            # Area, not strength of colour, would be the better scale, but cells have to hold their number.
            alpha = 0.06 + 0.5 * math.sqrt(count / largest) if count else 0.03
            cell = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=color, alpha=alpha, linewidth=0)
            ax.add_patch(cell)
            ax.text(
                column, row, f"{count:,}" if count else "·", ha="center", va="center", fontsize=10,
                color=palette.ink if count else palette.muted,
            )  # fmt: skip
    ax.set_xlim(-0.5, size - 0.5)
    ax.set_ylim(size - 0.5, -0.5)
    ax.set_xticks(range(size), _RANK_LABELS)
    ax.set_yticks(range(size), _RANK_LABELS)
    ax.set_xlabel("rank with the adapter")
    ax.set_ylabel("rank with the base model")
    _finish(ax, palette, left=False, bottom=False)


def _draw_learning_curve(ax: Axes, curve: LearningCurve, palette: Palette) -> None:
    base, points = curve.base, curve.points
    sizes = [point.num_queries for point in points]
    for point in points:
        low, high = (base + end for end in point.interval)
        ax.plot([point.num_queries] * 2, [low, high], color=palette.adapted, linewidth=2, alpha=0.45)
    ax.plot(sizes, [base + point.gain for point in points], "D-", color=palette.adapted, markersize=6, linewidth=1.5)
    ax.axhline(base, color=palette.base, linewidth=1.5, linestyle=(0, (4, 3)))
    ax.annotate(
        f"base {fraction(base)}", (sizes[-1], base), (0, -4), textcoords="offset points", ha="center", va="top",
        fontsize=9, color=palette.ink,
    )  # fmt: skip
    last = base + points[-1].gain
    ax.annotate(
        fraction(last), (sizes[-1], last), (-5, 5), textcoords="offset points", ha="right", va="bottom", fontsize=9,
        color=palette.ink,
    )  # fmt: skip
    ticks = list(sizes)
    doubling = curve.doubling
    if doubling is not None:
        double = 2 * sizes[-1]
        ticks.append(double)
        ax.plot([sizes[-1], double], [last, last + doubling.gain], ":", color=palette.adapted, linewidth=1.5)
        ends = [last + end for end in doubling.interval]
        ax.plot([double] * 2, ends, color=palette.muted, linewidth=2, alpha=0.7)
        ax.plot([double], [last + doubling.gain], "D", color=palette.muted, markersize=6, fillstyle="none")
        ax.annotate(
            "estimate", (double, max(ends)), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=9,
            color=palette.ink,
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    ax.minorticks_off()
    ax.margins(x=0.1, y=0.14)
    ax.set_xlabel("labelled training queries")
    ax.set_ylabel("nDCG@10 on dev")
    ax.locator_params(axis="y", nbins=5, steps=[1, 2, 4, 5, 10])
    ax.yaxis.set_major_formatter(lambda value, _: fraction(value, 2))
    _finish(ax, palette)


def _finish(ax: Axes, palette: Palette, left: bool = True, bottom: bool = True) -> None:
    """Colour what every panel has, and drop the lines it can do without."""
    ax.set_facecolor("none")
    ax.tick_params(colors=palette.ink, which="both", length=3 if bottom else 0, color=palette.grid, labelsize=9.5)
    if not left:
        ax.tick_params(axis="y", length=0)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_color(palette.muted)
    for side, shown in (("left", left), ("bottom", bottom)):
        ax.spines[side].set_visible(shown)
        ax.spines[side].set_color(palette.grid)


def _rank_bin(reciprocal_rank: float) -> int:
    if reciprocal_rank <= 0:
        return len(_RANK_BINS)
    rank = round(1 / reciprocal_rank)
    return next(number for number, (_, last) in enumerate(_RANK_BINS) if rank <= last)
