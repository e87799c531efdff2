"""Check that a 95 % interval covers the true difference 95 times in 100 and that a 5 % test errs 5 times in 100.

Pairs of systems are made with a difference that is known, or with none, and compared with the package's own functions.
The nDCG@10 of a query comes from simulated ranks, and from the values per query of the quality benchmark: there, a pair
with no difference is base and adapted model swapped on random queries, and a pair with a difference is a draw with
replacement, whose true difference is that of all queries. Writes scripts/results/check_statistics.json and prints it.

    python scripts/check_statistics.py
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_quality import METRIC, ROOT, Values, git_commit, write_results
from benchmark_quality import OUTPUT as QUALITY

from st_adapter.evaluation.statistics import bootstrap_intervals, sign_flip_p_values, two_sided_p_values

OUTPUT = ROOT / "scripts" / "results" / "check_statistics.json"
PACKAGES = ("st-adapter", "numpy", "scipy")
LEVEL = 0.05
REJECTS_BETWEEN, COVERS_BETWEEN = (0.04, 0.06), (0.93, 0.97)
NUM_CANDIDATES = 10
# Pairs that share their resamples and signs; each batch has its own seed.
BATCH = 500

# (generator, pairs, queries) -> differences (pairs, queries)
Draw = Callable[[np.random.Generator, int, int], Values]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10_000, help="simulated pairs of systems for every row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 300, 1000], help="numbers of queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = []
    for source, (same, different, true_difference) in populations(arguments.seed).items():
        for size in arguments.sizes:
            rows.append(
                {
                    "source": source,
                    "num_queries": size,
                    "zeros": round(float((different(np.random.default_rng(0), 50, size) == 0).mean()), 3),
                    "true_difference": round(true_difference, 5),
                    "rejects": round(rejection(same, arguments.pairs, size, arguments.seed), 4),
                    "covers": round(coverage(different, true_difference, arguments.pairs, size, arguments.seed), 4),
                    "covers_no_difference": round(coverage(same, 0.0, arguments.pairs, size, arguments.seed), 4),
                }
            )
            print(rows[-1], flush=True)
    families = [
        {"num_queries": size, "rejects": round(family_rejection(arguments.pairs // 5, size, arguments.seed), 4)}
        for size in arguments.sizes
    ]
    outside = [row for row in rows if not within(row)]
    results = {
        "settings": {
            "script": "check_statistics.py",
            "metric": METRIC,
            "pairs": arguments.pairs,
            "sizes": arguments.sizes,
            "seed": arguments.seed,
            "level_of_the_test": LEVEL,
            "level_of_the_interval": 1 - LEVEL,
            "rejects_between": REJECTS_BETWEEN,
            "covers_between": COVERS_BETWEEN,
            "num_candidates": NUM_CANDIDATES,
        },
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": f"cpu, {platform.machine()}",
        "command": f"python scripts/check_statistics.py --pairs {arguments.pairs} --sizes "
        f"{' '.join(map(str, arguments.sizes))} --seed {arguments.seed}",
        "seconds": round(time.perf_counter() - start, 1),
        "num_rows": len(rows),
        "num_rows_within": len(rows) - len(outside),
        "pairs": {f"{row['source']}, {row['num_queries']} queries": row for row in rows},
        "best_of_candidates": {f"{row['num_queries']} queries": row for row in families},
    }
    write_results(arguments.output, results)
    print(markdown_table(results))


# --- pairs of systems ---


def populations(seed: int) -> dict[str, tuple[Draw, Draw, float]]:
    """Name -> pairs with no difference, pairs with one, and that one."""
    shifted = simulated(np.random.default_rng([seed, 1]), 1, 5_000_000, shift=0.4)
    found: dict[str, tuple[Draw, Draw, float]] = {
        "simulated ranks": (
            lambda generator, pairs, size: simulated(generator, pairs, size, shift=0.0),
            lambda generator, pairs, size: simulated(generator, pairs, size, shift=0.4),
            float(shifted.mean()),
        )
    }
    for name, entry in json.loads(QUALITY.read_text(encoding="utf-8"))["datasets"].items():
        base = np.array(entry["methods"]["base"]["runs"]["any"]["per_query"])
        differences = np.array(entry["methods"]["auto"]["runs"]["0"]["per_query"]) - base
        if differences.any():
            found[name] = (swapped(differences), drawn(differences), float(differences.mean()))
    return found


def simulated(generator: np.random.Generator, pairs: int, size: int, shift: float) -> Values:
    """nDCG@10 of two systems with one relevant document a query: ranks share most of what makes a query hard.

    Half of the queries are not changed at all, as of a base model and its adapted form.
    """
    hardness = generator.normal(1.0, 1.8, (pairs, size))
    own = generator.normal(0.0, 0.8, (2, pairs, size))
    own[1] = np.where(generator.random((pairs, size)) < 0.5, own[0], own[1] - shift)
    ranks = np.maximum(1.0, np.round(np.exp(hardness + own)))
    base, adapted = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    return np.asarray(adapted - base)


def swapped(differences: Values) -> Draw:
    def draw(generator: np.random.Generator, pairs: int, size: int) -> Values:
        return np.asarray(generator.choice(differences, (pairs, size)) * generator.choice([-1, 1], (pairs, size)))

    return draw


def drawn(differences: Values) -> Draw:
    return lambda generator, pairs, size: generator.choice(differences, (pairs, size))


# --- what is measured ---


def rejection(draw: Draw, pairs: int, size: int, seed: int) -> float:
    """Share of the pairs that the two-sided test calls different."""
    generator = np.random.default_rng([seed, 2, size])
    rejected = 0
    for batch, start in enumerate(range(0, pairs, BATCH)):
        p_values = two_sided_p_values(draw(generator, min(BATCH, pairs - start), size), seed=seed + batch)
        rejected += int((p_values <= LEVEL).sum())
    return rejected / pairs


def coverage(draw: Draw, true_difference: float, pairs: int, size: int, seed: int) -> float:
    """Share of the pairs whose interval holds the true difference."""
    generator = np.random.default_rng([seed, 3, size])
    covered = 0
    for batch, start in enumerate(range(0, pairs, BATCH)):
        differences = draw(generator, min(BATCH, pairs - start), size)
        low, high = bootstrap_intervals(differences, 1 - LEVEL, seed=seed + batch).T
        covered += int(((low - 1e-12 <= true_difference) & (true_difference <= high + 1e-12)).sum())
    return covered / pairs


def family_rejection(families: int, size: int, seed: int) -> float:
    """How often the best of ten candidates, each as good as the base, passes the test that the gate uses."""
    generator = np.random.default_rng([seed, 4, size])
    rejected = 0
    for family in range(families):
        differences = simulated(generator, NUM_CANDIDATES, size, shift=0.0)
        rejected += int(sign_flip_p_values(differences, seed=seed + family).min() <= LEVEL)
    return rejected / families


def within(row: dict[str, Any]) -> bool:
    low, high = COVERS_BETWEEN
    covers = all(low <= row[key] <= high for key in ("covers", "covers_no_difference"))
    return covers and REJECTS_BETWEEN[0] <= row["rejects"] <= REJECTS_BETWEEN[1]


def markdown_table(results: dict[str, Any]) -> str:
    lines = [
        "| pairs of systems | queries | 5 % test rejects, no difference | interval covers | covers, no difference |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in results["pairs"].values():
        cells = [f"{100 * row[key]:.1f} %" for key in ("rejects", "covers", "covers_no_difference")]
        lines.append(f"| {row['source']} | {row['num_queries']:,} | {' | '.join(cells)} |")
    families = ", ".join(f"{100 * row['rejects']:.1f} %" for row in results["best_of_candidates"].values())
    sizes = ", ".join(str(row["num_queries"]) for row in results["best_of_candidates"].values())
    settings = results["settings"]
    lines += [
        "",
        f"{settings['pairs']:,} pairs a row; {results['num_rows_within']} of {results['num_rows']} rows lie within "
        f"{' to '.join(f'{100 * end:g}' for end in settings['rejects_between'])} % and "
        f"{' to '.join(f'{100 * end:g}' for end in settings['covers_between'])} %. The gate's test lets the best of "
        f"{settings['num_candidates']} candidates with no difference pass in {families} ({sizes} queries).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
