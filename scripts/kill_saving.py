"""Kill saving at random moments, and see that the target is the complete old or the complete new model each time.

A process saves models over each other without pause. At a random moment it gets SIGKILL; then the target is opened with
every check. Writes scripts/results/kill_saving.json.

    python scripts/kill_saving.py
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import write_base_model
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, from_pretrained, save_pretrained
from st_adapter.saving import TrainingRecord
from st_adapter.saving.folder import read_saved
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "kill_saving.json"
LONGEST = 3.0  # seconds, some ten times what one save takes

# Saves a number with every model, by which an old and a new one are told apart.
SAVE_FOR_EVER = """
import sys
from sentence_transformers import SentenceTransformer
from st_adapter import QueryAdapter, save_pretrained
from st_adapter.saving import TrainingRecord

base, target, first = SentenceTransformer(sys.argv[1], device="cpu"), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(first, first + 10**6):
    adapter = QueryAdapter(32, "mlp" if number % 2 else "linear", hidden_dim=8)
    save_pretrained(base, adapter, target, training=TrainingRecord(seed=number))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_base_model(work / "base")
        base = SentenceTransformer(str(work / "base"), device="cpu")
        target = work / "out" / "model"
        save_pretrained(base, QueryAdapter(32), target, training=TrainingRecord(seed=0))
        number = 0
        for kill in range(arguments.kills):
            writer = subprocess.Popen(
                [sys.executable, "-c", SAVE_FOR_EVER, str(work / "base"), str(target), str(number + 1)],
                stdout=subprocess.PIPE,
            )
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(generator.uniform(0, LONGEST))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
            try:
                found = read_saved(target).training
                vectors = from_pretrained(target, device="cpu").encode_query(["text"], convert_to_tensor=True)
                assert found is not None and found.seed is not None and bool(torch.isfinite(vectors).all())
                outcomes["old and complete" if found.seed == number else "new and complete"] += 1
                number = found.seed
            except (ValueError, AssertionError) as error:
                failures.append(f"kill {kill}: {type(error).__name__}: {error}")
            print(f"{kill + 1} of {arguments.kills}: {dict(outcomes)}, {len(failures)} failures", flush=True)
        save_pretrained(base, QueryAdapter(32), target)
        leftovers = [path.name for path in target.parent.iterdir() if path != target]
    result = {
        "script": "kill_saving.py",
        "command": f"python scripts/kill_saving.py --kills {arguments.kills} --seed {arguments.seed}",
        "kills": arguments.kills,
        "outcomes": dict(outcomes),
        "failures": failures,
        "unfinished_folders_beside_the_target": len(leftovers),
        "models_saved": number,
        "versions": installed_versions(),
        "git_commit": git_commit(),
    }
    write_results(arguments.output, result)
    print(result)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
