"""Figures: what they show, that they are the same every time, and that a page can colour them."""

import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

import st_adapter
from st_adapter import evidence
from st_adapter.evaluation.comparison import compare
from st_adapter.evaluation.statistics import Interval
from st_adapter.evidence import plots
from st_adapter.evidence.curve import CurvePoint, DoublingEstimate, LearningCurve

SVG = "{http://www.w3.org/2000/svg}"
CURVE = LearningCurve(
    base=0.5,
    points=tuple(CurvePoint(size, 0.1, Interval(0.05, 0.15), 0.08, 0.12) for size in (100, 200, 400)),
    doubling=DoublingEstimate(0.02, Interval(0.0, 0.04), 0.5, None, None),
    num_dev_queries=50,
    num_documents=1000,
    num_draws=3,
    recipe="closed form, ridge 1, share 1",
    adopted=True,
    seed=0,
    method="auto",
    seconds={},
)


@pytest.fixture(scope="module")
def rows():
    base = np.linspace(0, 1, 50)
    compared = compare({"ndcg@10": base, "mrr@10": base}, {"ndcg@10": base**0.5, "mrr@10": base**2})
    return list(compared.items())


def figures(rows, palette):
    return [
        plots.differences_figure(rows, palette),
        plots.levels_figure(rows, palette),
        plots.ranks_figure([1.0, 0.5, 0.0], [1.0, 1.0, 0.2], palette),
        plots.learning_curve_figure(CURVE, palette),
    ]


def test_a_figure_for_a_page_is_valid_and_takes_its_colours_from_there(rows):
    for number, figure in enumerate(figures(rows, plots.PAGE)):
        svg = plots.inline_svg(figure, f"figure{number}", "What it says")
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label") == "What it says"
        assert root.get("viewBox") and root.get("width") is None
        assert "#0102" not in svg and "var(--ink)" in svg
        assert "metadata" not in svg and "<script" not in svg and 'href="http' not in svg
        # Every colour is the page's: what matplotlib adds of its own would vanish in the dark.
        styles = " ".join(element.get("style", "") for element in root.iter())
        assert "#" not in styles.replace("url(#", ""), styles


def test_the_same_figure_twice_is_the_same_text(rows):
    first, again = ([plots.inline_svg(f, "name", "words") for f in figures(rows, plots.PAGE)] for _ in range(2))
    assert first == again


def test_ranks_are_counted_where_they_belong():
    # Ranks 1 -> 1, 2 -> 1, none in the first 100 -> 5, 3 -> 40.
    figure = plots.ranks_figure([1.0, 0.5, 0.0, 1 / 3], [1.0, 1.0, 0.2, 1 / 40])
    counted = {text.get_position(): text.get_text() for text in figure.axes[0].texts if text.get_text() != "·"}
    assert counted == {(0, 0): "1", (0, 1): "1", (2, 4): "1", (3, 1): "1"}


def test_differences_are_drawn_where_they_are(rows):
    axes = plots.differences_figure(rows).axes[0]
    drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert drawn == [row.difference for _, row in rows]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ndcg@10", "mrr@10"]


def test_the_picture_is_written_whole_or_not_at_all(rows, tmp_path):
    curve = plots.learning_curve_figure(replace(CURVE, doubling=None))
    path = plots.write_png(curve, tmp_path / "new" / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG") and [p.name for p in path.parent.iterdir()] == ["curve.png"]
    for args in ((rows, [1.0], [0.5], CURVE), (rows, [], [], None), ([], [], [], None)):
        plots.write_png(plots.summary_figure("Headline", "Verdict $x$.", *args), path)
    with pytest.raises(OSError):
        plots.write_png(curve, path / "below-a-file.png")


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, plots.__name__)
    monkeypatch.delattr(evidence, "plots")
    with pytest.raises(ImportError, match=r'pip install "st-adapter\[report\]"'):
        st_adapter.write_report(tmp_path)
