"""How long a learning curve takes after embedding, and how far its estimate of the last doubling was off.

Writes scripts/results/benchmark_learning_curve.json and prints a table.

    python scripts/benchmark_learning_curve.py                     # feedbackqa of ../shared/data
    python scripts/benchmark_learning_curve.py --data DIR DIR      # folders with corpus, queries and qrels
"""

from __future__ import annotations

import argparse
import os
import time

from benchmark_quality import ROOT, SHARED_DATA, Material, add_arguments, start_results, write_results

from st_adapter import learning_curve
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "benchmark_learning_curve.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    arguments = parser.parse_args()
    material = Material(
        arguments, arguments.data if arguments.data is not None else [SHARED_DATA / "feedbackqa"], with_demo=False
    )
    results = start_results(arguments, "benchmark_learning_curve.py", {}, [], material)
    print("| data | labelled | gain on dev | next doubling | last doubling: expected, came | seconds | CPU seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in material.names:
        if name not in results["datasets"]:
            embedded = material.embedded(name)
            load, cpu, start = os.getloadavg()[0], time.process_time(), time.perf_counter()
            curve = learning_curve(embedded)
            results["datasets"][name] = {
                **curve.to_dict(),
                "wall_seconds": round(time.perf_counter() - start, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                # On a machine that others use as well, wall time says little.
                "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
            }
            write_results(arguments.output, results)
        entry = results["datasets"][name]
        last, more = entry["points"][-1], entry["doubling"]
        steps = (
            f"{signed(more['gain'])} | {signed(more['expected_before'])}, {signed(more['came'])}" if more else "– | –"
        )
        print(
            f"| {name} (base {fraction(entry['base'])}) | {last['num_queries']:,} | {signed(last['gain'])} | {steps} "
            f"| {entry['wall_seconds']:.0f} | {entry['cpu_seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
