"""Fill the tables and printed output of README and documentation from the result files: no figure is typed by hand.

python scripts/update_readme.py           # rewrite the pages
python scripts/update_readme.py --check   # exit status 1 if one is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import benchmark_bridge
import benchmark_bridge_unlabelled
import benchmark_fine_tuning
import benchmark_index
import benchmark_label_curve
import benchmark_pool
import benchmark_quality
import benchmark_scale
import check_false_alarms
import check_ray
import check_stores
import check_teacher
import check_versions
import measure_house
import readme_example
import token_tables
from benchmark_quality import ROOT, interval

from st_adapter.words import fraction, signed

RESULTS = ROOT / "scripts" / "results"
END = "\n<!-- end -->"


class Part(NamedTuple):
    """What stands on a page between two markers: made from the contents of result files, in their order."""

    make: Callable[..., str]
    files: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page is out of date")
    arguments = parser.parse_args()
    before = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    after = {page: filled(page, text) for page, text in before.items()}
    stale = [page for page in PAGES if before[page] != after[page]]
    if arguments.check:
        sys.exit(f"{', '.join(stale)}: out of date. Run scripts/update_readme.py." if stale else 0)
    for page in stale:
        (ROOT / page).write_text(after[page], encoding="utf-8")


def filled(page: str, text: str) -> str:
    """The page with every part between its markers made anew from its result files."""
    for name, part in PAGES[page].items():
        begin = f"<!-- {name} -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(END)
        if not (found and closed):
            raise ValueError(f"{page} has no part between '<!-- {name} -->' and '<!-- end -->'. Put the markers back.")
        text = before + begin + part.make(*(read(file) for file in part.files)) + END + after
    return text


def read(name: str) -> dict[str, Any]:
    """The content of a result file."""
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return results


def short_quality_table(results: Mapping[str, Any], *fine_tuned: Mapping[str, Any]) -> str:
    """What the adapter brings, and fine-tuning the model instead, one row per data set."""
    titles = ["queries", "base", "adapted", "difference [95 %]", "seconds", "encoder tuned", "whole model tuned"]
    lines = [f"| test nDCG@10 | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    tuned = {name: entry["methods"] for found in fine_tuned for name, entry in found["datasets"].items()}
    for name, entry in results["datasets"].items():
        base, auto = entry["methods"]["base"], entry["methods"]["auto"]
        cells = [
            f"{entry['num_queries']['test']:,}",
            fraction(base["mean"]),
            fraction(auto["mean"]) if auto["num_adopted"] else "base kept",
            f"{signed(auto['gain'])} {interval(auto['interval'])}",
            f"{auto['seconds']:.0f}",
            *(fraction(tuned[name][method]["mean"]) for method in benchmark_fine_tuning.INSTEAD),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    settings = results["settings"]
    note = (
        f"{settings['model']}, mean of {len(settings['seeds'])} seeds. Seconds: fitting alone, on {results['device']}. "
        "Tuned: the query encoder alone, or the whole model and every document embedded again; one seed."
    )
    return "\n".join([*lines, "", note])


def demo_output(results: Mapping[str, Any]) -> str:
    """What the second run of the demo printed, from the table of the test split on."""
    printed = results["output"]
    first = next(number for number, line in enumerate(printed) if line.lstrip().startswith("test:"))
    seconds = results["wall_seconds"]
    note = f"First run {seconds['first run']:.0f} s, second run {seconds['second run']:.0f} s."
    return "\n".join(["```text", *printed[first:], "```", "", note])


def speed_table(results: Mapping[str, Any]) -> str:
    """The ratios of the speed benchmark."""
    step, solve = results["step"], results["closed_form"]
    recipe = next(target for target in results["targets"] if target["what"].startswith("ancestor"))
    load, device = results["load_average_before"], results["device"]
    machine = f"{device['cores']} cores of a machine with {device['name']}"
    return (
        two_columns(
            [
                ("closed form, against one bare `torch.linalg.solve` of its size", f"{solve['ratio']:.1f} times"),
                ("method auto on scifact, in all", f"{results['auto']['seconds']:.1f} s"),
                *seconds_of_auto(results["auto_sizes"], 1),
                ("training step, over its bare tensor operations", f"{100 * step['overhead']:+.0f} %"),
                ("training step, against the floor of this machine", f"{step['ratio_to_floor']['ours']:.1f} times"),
                (
                    "1,000 epochs of the ancestor's recipe, over our time to beat its best",
                    f"{recipe['measured']:,.0f} times",
                ),
            ]
        )
        + f"\n\nOn {machine} (load {load:.1f} before)."
    )


def seconds_of_auto(found: Mapping[str, Any], digits: int) -> list[tuple[str, str]]:
    """A row for each size of synthetic vectors."""
    return [
        (f"method auto on synthetic vectors, {name}", f"{each['seconds']:.{digits}f} s") for name, each in found.items()
    ]


def speed_on_a_gpu(results: Mapping[str, Any]) -> str:
    """Seconds of whole fits on a GPU."""
    found = {"scifact's size": results["auto"], **results["auto_sizes"]}
    return two_columns(seconds_of_auto(found, 2)) + f"\n\nOn {results['device']['name']}."


def damage_table(
    fuzz: Mapping[str, Any], strangers: Mapping[str, Any], killed: Mapping[str, Any], read: Mapping[str, Any]
) -> str:
    """What became of damaged files, of saving that was cut off, and of reading while others save."""
    opened, refused = "opened, vectors finite", "one clear error"
    outcomes = {name: sum(o.get(name, 0) for o in fuzz["outcomes"].values()) for name in (refused, opened)}
    records = [sum(found[name] for found in strangers["damaged"].values()) for name in (refused, "read")]
    declared, kills = strangers["declared"], killed["outcomes"]
    return two_columns(
        [
            (
                f"{fuzz['cases']:,} damaged and forged models: refused, with one clear error each",
                f"{outcomes[refused]:,}",
            ),
            (
                "opened, every vector finite, none of them against a saved hash",
                f"{outcomes[opened]:,}",
            ),
            ("did anything else", f"{len(fuzz['failures']):,}"),
            (f"{sum(records):,} damaged records of runs: refused, with one clear error each", f"{records[0]:,}"),
            ("read and shown", f"{records[1]:,}"),
            (f"{declared['cases']} declared sizes without the weights: refused", f"{declared[refused]}"),
            (
                f"{killed['kills']} processes killed while saving: the old model, complete",
                f"{kills['old and complete']}",
            ),
            ("the new model, complete", f"{kills['new and complete']}"),
            ("anything else", f"{len(killed['failures'])}"),
            (
                f"{read['reads']['reads']:,} times opened while two models are saved there in turn: one, complete",
                f"{read['reads']['complete']:,}",
            ),
            ("refused, as it was being replaced", f"{read['reads']['refused']:,}"),
            ("a mixture of both", f"{read['reads']['mixtures']}"),
        ]
    )


def evidence_table(
    metrics: Mapping[str, Any], statistics: Mapping[str, Any], copies: Mapping[str, Any], leaks: Mapping[str, Any]
) -> str:
    """How far metrics, intervals, tests and checks of the data can be trusted."""
    tools = sorted({name.partition(",")[0] for name in metrics["comparisons"]})
    values = sum(comparison["values"] for comparison in metrics["comparisons"].values())
    furthest = max(comparison["largest_difference"] for comparison in metrics["comparisons"].values())
    pairs = statistics["pairs"].values()
    rejects, covers = ([row[name] for row in pairs] for name in ("rejects", "covers"))
    kinds = leaks["planted"]["kinds"].values()
    found, planted = (sum(kind[name] for kind in kinds) for name in ("found", "planted"))
    left_out = sum(simulated["copies_left_out"] for simulated in copies["simulated"].values())
    return two_columns(
        [
            (f"largest difference of {values:,} values of metrics from {', '.join(tools)}", f"{furthest:.0e}"),
            (
                f"share of tests that reject where there is no difference (level "
                f"{statistics['settings']['level_of_the_test']:.0%}), over {len(rejects)} settings",
                f"{min(rejects):.1%} to {max(rejects):.1%}",
            ),
            (
                f"share of {statistics['settings']['level_of_the_interval']:.0%} intervals that cover the difference",
                f"{min(covers):.1%} to {max(covers):.1%}",
            ),
            ("planted leaks between splits that are found", f"{found} of {planted}"),
            (
                f"leaks found among {leaks['planted']['num_clean_queries']} queries without any",
                f"{leaks['planted']['found_in_clean_set']}",
            ),
            (
                f"largest difference from pytrec_eval where queries meet their own copies ({left_out} left out)",
                f"{max(simulated['largest_difference'] for simulated in copies['simulated'].values()):.0e}",
            ),
        ]
    )


def identity_table(results: Mapping[str, Any]) -> str:
    """Whether a changed model is ever taken for the old one."""
    bound = sum(change["binding_differs"] for change in results["changes"])
    return two_columns(
        [
            (
                f"{results['num_changes']} changes of a model: met a cached vector of the old one",
                f"{len(results['stale'])}",
            ),
            ("bind an adapter to another model", f"{bound}"),
        ]
    )


def learning_curve_sentences(results: Mapping[str, Any]) -> str:
    """What the learning curve said of real data, and what half of the labels said of all of them."""
    lines = []
    for name, curve in results["datasets"].items():
        doubling = curve["doubling"]
        lines.append(
            f"- {name}: {curve['sentence']} From half of the labels, {signed(doubling['expected_before'])} was "
            f"expected of all of them; {signed(doubling['came'])} came."
        )
    return "\n".join(lines)


def two_columns(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


PAGES: dict[str, dict[str, Part]] = {
    "README.md": {
        "readme_example": Part(readme_example.python_block, ("readme_example",)),
        "short_quality_table": Part(
            short_quality_table, ("benchmark_quality", "benchmark_fine_tuning", "benchmark_fine_tuning_more")
        ),
    },
    "docs/measured.md": {
        "demo": Part(demo_output, ("demo",)),
        "benchmark_quality": Part(benchmark_quality.markdown_table, ("benchmark_quality",)),
        **{
            f"quality_{name}": Part(benchmark_quality.markdown_table, (f"benchmark_quality_{name}",))
            for name in ("mpnet", "e5", "paraphrase_l3", "wordllama")
        },
        "fine_tuning": Part(benchmark_fine_tuning.markdown_table, ("benchmark_fine_tuning",)),
        "fine_tuning_more": Part(benchmark_fine_tuning.markdown_table, ("benchmark_fine_tuning_more",)),
        "label_curve": Part(benchmark_label_curve.markdown_table, ("label_curve",)),
        "learning_curve": Part(learning_curve_sentences, ("benchmark_learning_curve",)),
        "benchmark_index": Part(benchmark_index.markdown_table, ("benchmark_index",)),
        "benchmark_speed": Part(speed_table, ("benchmark_speed",)),
        "speed_cuda": Part(speed_on_a_gpu, ("benchmark_speed_cuda",)),
        "teacher_table": Part(check_teacher.markdown_table, ("check_teacher",)),
        "false_alarms": Part(check_false_alarms.markdown_table, ("check_false_alarms",)),
        "evidence": Part(evidence_table, ("check_metrics", "check_statistics", "check_own_copies", "check_leaks")),
        "check_versions": Part(check_versions.markdown_table, ("check_versions",)),
        "damage": Part(damage_table, ("fuzz_repository", "check_strangers", "kill_saving", "kill_saving_reads")),
        "identity": Part(identity_table, ("check_identity",)),
        "stores": Part(check_stores.markdown_table, ("check_stores",)),
        "pool": Part(benchmark_pool.markdown_table, ("benchmark_pool",)),
        "pool_growth": Part(benchmark_pool.growth_table, ("benchmark_pool_growth",)),
        "house": Part(measure_house.markdown_table, ("measure_house",)),
    },
    "docs/query_model.md": {
        **{
            name: Part(benchmark_bridge.markdown_table, (name,))
            for name in (
                *("benchmark_bridge_static", "benchmark_bridge", "benchmark_bridge_by_mpnet"),
                *("benchmark_bridge_by_mpnet_before", "benchmark_bridge_mpnet"),
            )
        },
        **{
            name: Part(benchmark_bridge_unlabelled.markdown_table, (name,))
            for name in ("benchmark_bridge_unlabelled", "benchmark_bridge_unlabelled_by_mpnet")
        },
        "token_tables": Part(token_tables.markdown_table, ("benchmark_token_tables",)),
        "query_speed": Part(benchmark_bridge.speed_table, ("benchmark_query_speed",)),
    },
    "docs/scale.md": {
        "scale": Part(benchmark_scale.markdown_table, ("benchmark_scale",)),
        "ray": Part(check_ray.markdown_table, ("check_ray",)),
    },
}


if __name__ == "__main__":
    main()
