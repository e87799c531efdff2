"""Run the demo as a new user does, twice from an empty cache, and keep what it printed and how long it took.

Writes scripts/results/demo.json, whose output the README shows, and docs/images/demo_report.png, its report's picture.

    python scripts/run_demo.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_quality import ROOT, git_commit, write_results

from st_adapter.evidence.output_folder import REPORT_PICTURE, RESULTS_FILE
from st_adapter.evidence.results import Results
from st_adapter.storage.records import plain

OUTPUT = ROOT / "scripts" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "images" / "demo_report.png"
WIDTH = 100


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, found = run(Path(folder)), Path(folder) / "demo" / RESULTS_FILE
        embedding_seconds = [Results.read(found).seconds["embedding"]]
        second, results = run(Path(folder)), Results.read(found)
        embedding_seconds.append(results.seconds["embedding"])
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / "demo" / REPORT_PICTURE, PICTURE)
    write_results(
        OUTPUT,
        {
            "command": "st-adapter demo --output-dir demo",
            "git_commit": git_commit(),
            "wall_seconds": {"first run": first[0], "second run": second[0]},
            "embedding_seconds": {"first run": embedding_seconds[0], "second run": embedding_seconds[1]},
            "output": second[1],
            "adopted": results.adopted,
            "selection": plain(results.selection),
            "comparisons": plain({name: split.comparisons for name, split in results.splits.items()}),
            "seconds": results.seconds,
            "device": results.device,
            "versions": results.versions,
        },
    )
    print("\n".join(second[1]))
    print(f"first run {first[0]:.0f} s, second run {second[0]:.0f} s")


def run(folder: Path) -> tuple[float, list[str]]:
    """Wall time, and the lines that are left on the screen when the progress bars are gone."""
    environment: dict[str, Any] = {**os.environ, "HF_HOME": str(folder / "cache"), "COLUMNS": str(WIDTH)}
    start = time.perf_counter()
    finished = subprocess.run(
        [Path(sys.executable).with_name("st-adapter"), "demo", "--output-dir", "demo"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    return seconds, [re.sub(r"\s+$", "", line) for line in finished.stdout.splitlines()]


if __name__ == "__main__":
    main()
