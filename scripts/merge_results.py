"""Put result files of one benchmark together whose data sets were measured by several processes at the same time.

All of them have to have the same settings, code, versions and device. What is no data set is taken from the first file.

    python scripts/merge_results.py --output FILE FILE FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmark_quality import write_results

SAME = ("settings", "git_commit", "code_sha256", "versions", "device")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    first, *others = (json.loads(path.read_text(encoding="utf-8")) for path in arguments.files)
    datasets, commands = dict(first["datasets"]), [first["command"]]
    for path, other in zip(arguments.files[1:], others, strict=True):
        if changed := [key for key in SAME if other[key] != first[key]]:
            raise SystemExit(f"{path.name} differs from {arguments.files[0].name} in {', '.join(changed)}.")
        if twice := sorted(datasets.keys() & other["datasets"].keys()):
            raise SystemExit(f"{path.name} has {', '.join(twice)} as well, which an earlier file has.")
        datasets |= other["datasets"]
        commands.append(other["command"])
    write_results(arguments.output, {**first, "command": commands, "datasets": datasets})


if __name__ == "__main__":
    main()
