"""How many labelled queries are enough: test nDCG@10 of `auto` with 0, 25, 50, 100, 200, 400 and all of them.

Labelled queries are drawn at random from train and dev, each keeping its share, several times; with all of them only
the seed differs. Corpus and test stay whole. With 0 labels, what pseudo-queries give is taken untested. Writes
scripts/results/label_curve.json after every size and prints a table.

    python scripts/benchmark_label_curve.py                 # ../shared/data/* if there, and the demo's data
    python scripts/benchmark_label_curve.py --data DIR DIR  # folders with corpus, queries and qrels
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from benchmark_quality import (
    FITTED_ON,
    METRIC,
    ROOT,
    Beside,
    Fitted,
    Material,
    add_arguments,
    compare,
    default_folders,
    ours,
    rounded,
    start_results,
    summary,
    write_results,
)

from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.seen import seen_documents
from st_adapter.fitting.folds import draw_labels
from st_adapter.fitting.prior import prior_of
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "label_curve.json"
SIZES = [0, 25, 50, 100, 200, 400]
ALL = "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labelled queries, besides all")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()

    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    results = start_results(
        arguments,
        "benchmark_label_curve.py",
        {
            "sizes": arguments.sizes,
            "draws": arguments.draws,
        },
        ["--sizes", *map(str, arguments.sizes), "--draws", str(arguments.draws)],
        material,
    )
    for name in material.names:
        embedded = material.embedded(name)
        test = embedded["test"]
        of_base = evaluate(test, ks=[10])
        base = of_base.base[METRIC]
        num_labelled = sum(len(embedded[split].query_ids) for split in ("train", "dev"))
        entry = results["datasets"].setdefault(
            name,
            {
                "num_documents": len(embedded.corpus),
                "num_labelled": num_labelled,
                "test_query_ids": of_base.query_ids,
                "base": {"mean": round(float(base.mean()), 5), "per_query": rounded(base)},
                "sizes": {},
            },
        )
        sizes = {str(size): size for size in arguments.sizes if size < num_labelled} | {ALL: num_labelled}
        for key, size in sizes.items():
            if key in entry["sizes"]:
                print(f"{name}, {key} labelled queries: already there", flush=True)
                continue
            entry["sizes"][key] = measure_size(material, name, of_base, size, arguments.draws)
            write_results(arguments.output, results)
    write_results(arguments.output, results)
    print(markdown_table(results))


def measure_size(material: Material, name: str, of_base: EvaluationResult, size: int, draws: int) -> dict[str, Any]:
    """Fit on every draw of one size; seen and unseen are those of the drawn labels."""
    embedded, pseudo_queries = material.embedded(name), material.pseudo_queries(name)
    test, base = embedded["test"], of_base.base[METRIC]
    runs, values = {}, []
    for draw in range(draws):
        drawn = draw_share(embedded, size, seed=draw)
        start = time.perf_counter()
        fitted = fit_some(drawn, pseudo_queries, seed=draw)
        seconds = time.perf_counter() - start
        seen = seen_documents(drawn, FITTED_ON)
        evaluated = evaluate(test, fitted.transform, ks=[10], seen_documents=seen, base=of_base)
        adapted = evaluated.adapted[METRIC]
        assert evaluated.seen is not None
        values.append(adapted)
        runs[str(draw)] = {
            **compare(base, adapted, evaluated.seen),
            "num_queries_by_split": {split: len(drawn[split].query_ids) for split in ("train", "dev")},
            "seconds": round(seconds, 3),
            **fitted.facts,
            "per_query": rounded(adapted),
        }
        print(f"{name}, {size} labelled queries, draw {draw}: {adapted.mean():.4f} after {seconds:.1f} s", flush=True)
    # Each draw sees other documents, so a mean over draws has no seen and unseen part.
    whole = summary(list(runs.values()), base, values, np.ones(len(base), dtype=np.bool_))
    return {**{key: value for key, value in whole.items() if key not in ("seen", "unseen")}, "runs": runs}


def fit_some(drawn: EmbeddedDataset, pseudo_queries: EmbeddedSplit | None, seed: int) -> Fitted:
    """`auto` on some labels, or without any the map of the pseudo-queries."""
    if drawn["train"].num_pairs:
        return ours(drawn, Beside(drawn.query_embeddings[:0], pseudo_queries), seed)
    if pseudo_queries is None:
        return Fitted(lambda queries: queries, {"adopted": False})
    prior = prior_of(pseudo_queries, seed)
    return Fitted(lambda queries: queries @ prior.T, {"adopted": True})


def draw_share(embedded: EmbeddedDataset, size: int, seed: int) -> EmbeddedDataset:
    """Keep `size` random queries of train and dev together, each with its share and at least one; test stays whole.

    A larger draw with the same seed contains every smaller one.
    """
    numbers = {split: len(embedded[split].query_ids) for split in ("train", "dev")}
    num_dev = min(max(1, round(size * numbers["dev"] / sum(numbers.values()))), numbers["dev"], max(0, size - 1))
    return draw_labels(embedded, {"train": size - num_dev, "dev": num_dev}, seed)


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set, one column per number of labels, means over the draws; from the result file's content."""
    keys = [*map(str, results["settings"]["sizes"]), ALL]
    lines = [f"| labelled queries | base | {' | '.join(keys)} |", f"|---|{'---:|' * (1 + len(keys))}"]
    num_runs = num_below = 0
    for name, entry in results["datasets"].items():
        cells = [fraction(entry["base"]["mean"])]
        for key in keys:
            size = entry["sizes"].get(key)
            if size is None:
                cells.append("–")
                continue
            num_runs += size["num_runs"]
            num_below += size["num_significantly_below"]
            cells.append(f"{fraction(size['mean'])} ({signed(size['gain'])}; lowest {signed(size['lowest_gain'])})")
        lines.append(f"| {name} (all: {entry['num_labelled']:,}) | {' | '.join(cells)} |")
    lines += [
        "",
        f"Test nDCG@10 of auto, mean of {results['settings']['draws']} draws, with the difference to base and that of "
        f"the lowest draw. Significantly below base (95 % bootstrap interval): {num_below} of {num_runs} draws.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
