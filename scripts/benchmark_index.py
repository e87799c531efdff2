"""Does the gain survive the index? Test nDCG@10 of base and adapted queries through each of several indexes.

The adapter is fitted once per data set, by `fit` as it comes, on the vectors in full; no index takes part in fitting or
choosing it, and every index is built from the base model's documents. Writes scripts/results/benchmark_index.json after
every data set and prints a table.

    python scripts/benchmark_index.py                              # two sets of ../shared/data and the demo's data
    python scripts/benchmark_index.py --data DIR DIR --no-demo     # folders with corpus, queries and qrels
    python scripts/benchmark_index.py --indexes int8 truncate:64   # other indexes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from benchmark_quality import (
    METRIC,
    ROOT,
    SHARED_DATA,
    Material,
    add_arguments,
    interval,
    rounded,
    start_results,
    write_results,
)

from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.evaluation.statistics import bootstrap_interval
from st_adapter.evidence.index_evaluation import evaluate_indexes
from st_adapter.evidence.indexes import EXACT, check_index
from st_adapter.fitting.auto import fit
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "benchmark_index.json"
DEFAULT_DATA = ("scifact", "feedbackqa")
CHANGE = "change of the gain [95 %]"
INDEXES = ["truncate:256", "truncate:128", "int8", "int8-both", "binary", "binary-rescored", "hnsw", "ivf"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--indexes", nargs="+", default=INDEXES, help="besides exact search")
    parser.add_argument("--seed", type=int, default=0, help="of the fit")
    arguments = parser.parse_args()

    indexes = [check_index(name) for name in arguments.indexes]
    default = [SHARED_DATA / name for name in DEFAULT_DATA if (SHARED_DATA / name).is_dir()]
    folders = arguments.data if arguments.data is not None else default
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    results = start_results(
        arguments,
        "benchmark_index.py",
        {
            "indexes": indexes,
            "seed": arguments.seed,
            "faiss-cpu": version("faiss-cpu"),
        },
        ["--indexes", *arguments.indexes, "--seed", str(arguments.seed)],
        material,
    )
    for name in material.names:
        if name in results["datasets"]:
            print(f"{name}: already there", flush=True)
            continue
        results["datasets"][name] = {
            "notes": list(material.dataset(name).notes),
            **measure(name, material.embedded(name), indexes, arguments.seed),
        }
        results["datasets"] = {key: results["datasets"][key] for key in material.names if key in results["datasets"]}
        write_results(arguments.output, results)
    print(markdown_table(results))


def measure(name: str, embedded: EmbeddedDataset, indexes: Sequence[str], seed: int) -> dict[str, Any]:
    """Fit once, and search the test queries through every index."""
    start = time.perf_counter()
    fitted = fit(embedded, seed=seed, show_progress_bar=False)
    seconds = time.perf_counter() - start
    print(f"{name}: fitted in {seconds:.1f} s, adopted: {fitted.adapter is not None}", flush=True)
    evaluations = evaluate_indexes(embedded["test"], fitted.adapter, indexes, ks=(10,))
    exact = evaluations[0].result
    exact_gain = exact.adapted[METRIC] - exact.base[METRIC]
    entries = {}
    for evaluation in evaluations:
        base, adapted = evaluation.result.base[METRIC], evaluation.result.adapted[METRIC]
        change = (adapted - base) - exact_gain
        entries[evaluation.index] = {
            "description": evaluation.description,
            "base": round(float(base.mean()), 5),
            "adapted": round(float(adapted.mean()), 5),
            "gain": round(float((adapted - base).mean()), 5),
            "interval": rounded_ends(bootstrap_interval(adapted - base)),
            "gain_change": round(float(change.mean()), 5),
            "gain_change_interval": rounded_ends(bootstrap_interval(change)),
            "base_recall": round(evaluation.base_recall, 5),
            "adapted_recall": round(evaluation.adapted_recall, 5),
            "seconds": round(evaluation.result.seconds, 3),
            "per_query": {"base": rounded(base), "adapted": rounded(adapted)},
        }
        print(f"{name}, {evaluation.index}: {base.mean():.4f} -> {adapted.mean():.4f}", flush=True)
    return {
        "num_documents": len(embedded.corpus),
        "num_queries": {split: len(embedded[split].query_ids) for split in embedded.qrels},
        "adopted": fitted.adapter is not None,
        "fit_seconds": round(seconds, 3),
        "test_query_ids": exact.query_ids,
        "indexes": entries,
    }


def rounded_ends(ends: Sequence[float]) -> list[float]:
    return [round(end, 5) for end in ends]


# --- the table ---


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set and index; from the content of the result file."""
    lines = [
        f"| test nDCG@10 | index | base | adapted | gain [95 %] | {CHANGE} | recall, base | recall, adapted |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in results["datasets"].items():
        title = f"{name} ({entry['num_queries']['test']:,} queries, {entry['num_documents']:,} documents)"
        for index, figures in entry["indexes"].items():
            cells = [
                f"`{index}`",
                *(fraction(figures[side]) for side in ("base", "adapted")),
                f"{signed(figures['gain'])} {interval(figures['interval'])}",
                ""
                if index == EXACT
                else f"{signed(figures['gain_change'])} {interval(figures['gain_change_interval'])}",
                *(fraction(figures[side]) for side in ("base_recall", "adapted_recall")),
            ]
            lines.append(f"| {title} | {' | '.join(cells)} |")
            title = ""
    settings = results["settings"]
    lines += [
        "",
        f"Base model {settings['model']}, seed {settings['seed']}; intervals: paired bootstrap over queries. "
        f"{CHANGE.capitalize()}: gain through this index − gain in exact search. Recall: share of exact search's first "
        f"ten documents, for the same queries, among the index's first ten. FAISS {settings['faiss-cpu']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
