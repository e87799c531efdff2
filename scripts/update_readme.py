"""Fill the README's tables and its printed output from the result files, so that no figure is typed by hand.

python scripts/update_readme.py           # rewrite README.md
python scripts/update_readme.py --check   # exit status 1 if it is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import benchmark_index
import benchmark_label_curve
import benchmark_quality
import check_versions
import stack_recipes
from benchmark_quality import ROOT

README = ROOT / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 if README.md is out of date"
    )
    arguments = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if arguments.check:
        sys.exit(before != after and "README.md is out of date. Run scripts/update_readme.py.")
    README.write_text(after, encoding="utf-8")


def filled(text: str) -> str:
    """The README with every part between its markers made anew from its result file."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(
                f"README.md has no part between '<!-- {name} -->' and '<!-- end -->'. Put the markers back."
            )
        results = json.loads((ROOT / "scripts" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        text = before + begin + make(results) + end + after
    return text


def demo_output(results: dict[str, Any]) -> str:
    """What the second run of the demo printed, from the table of the test split on."""
    printed = results["output"]
    first = next(number for number, line in enumerate(printed) if line.lstrip().startswith("test:"))
    lines = printed[first:]
    seconds = results["wall_seconds"]
    note = f"First run {seconds['first run']:.0f} s, second run {seconds['second run']:.0f} s."
    return "\n".join(["```", *lines, "```", "", note])


def speed_table(results: dict[str, Any]) -> str:
    """The ratios of the speed benchmark."""
    step, solve = results["step"], results["closed_form"]
    rows = [
        ("closed form, against one bare `torch.linalg.solve` of its size", f"{solve['ratio']:.1f} times"),
        ("method auto, scifact size, in all", f"{results['auto']['seconds']:.1f} s"),
        ("training step, over its bare tensor operations", f"{100 * step['overhead']:+.0f} %"),
        ("training step, against the floor of this machine", f"{step['ratio_to_floor']['ours']:.1f} times"),
    ]
    ancestor = next(target for target in results["targets"] if target["what"].startswith("ancestor"))
    rows.append(
        ("1,000 epochs of the ancestor's recipe, over our time to beat its best", f"{ancestor['measured']:,.0f} times")
    )
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


PARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "demo": demo_output,
    "benchmark_quality": benchmark_quality.markdown_table,
    "label_curve": benchmark_label_curve.markdown_table,
    "benchmark_speed": speed_table,
    "benchmark_index": benchmark_index.markdown_table,
    "check_versions": check_versions.markdown_table,
    "check_stacks": partial(stack_recipes.markdown_table, folder="docs/stacks/"),
}


if __name__ == "__main__":
    main()
