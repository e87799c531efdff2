"""Kill saving at random moments, and read while it goes on: what is found is one complete model each time.

A process saves models over each other without pause. At a random moment it gets SIGKILL; then the target is opened with
every check. Then, with a process that saves two adapters in turn, the target is opened again and again: what comes out
has to be the one or the other, or one clear error. A process that moves an output folder from one run to another and
back gets SIGKILL as well. Writes scripts/results/kill_saving.json.

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
from typing import Any

import torch
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import write_base_model
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from st_adapter import QueryAdapter, from_pretrained, save_adapter, save_pretrained
from st_adapter.evidence import current_run, rollback
from st_adapter.evidence.output_folder import MODEL_FOLDER, VERSIONS_FOLDER
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


# Saves the two adapters that lie in two folders over each other.
SAVE_IN_TURN = """
import sys
from sentence_transformers import SentenceTransformer
from st_adapter import QueryAdapter, save_pretrained

base, target = SentenceTransformer(sys.argv[1], device="cpu"), sys.argv[2]
adapters = [QueryAdapter.from_pretrained(folder) for folder in sys.argv[3:]]
print("ready", flush=True)
while True:
    for adapter in adapters:
        save_pretrained(base, adapter, target)
"""


# Lets the two runs of an output folder be the one in use in turn.
MOVE_FOR_EVER = """
import sys
from st_adapter.evidence import rollback

print("ready", flush=True)
while True:
    for name in sys.argv[2:]:
        rollback(sys.argv[1], name)
"""
RUNS = ["20260101T000000Z-00000001", "20260102T000000Z-00000002"]
LONGEST_MOVE = 0.5  # seconds, some ten times what one move takes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--reads", type=int, default=2000)
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
            kill_within(generator.uniform(0, LONGEST), SAVE_FOR_EVER, work / "base", target, number + 1)
            try:
                found = read_saved(target).training
                vectors = from_pretrained(target, device="cpu").encode_query(["text"], convert_to_tensor=True)
                assert found is not None and found.seed is not None and bool(torch.isfinite(vectors).all())
                outcomes["old and complete" if found.seed == number else "new and complete"] += 1
                number = found.seed
            except (ValueError, AssertionError) as error:
                failures.append(f"kill {kill}: {type(error).__name__}: {error}")
            print(f"{kill + 1} of {arguments.kills}: {dict(outcomes)}, {len(failures)} failures", flush=True)
        moves = kill_moving(work, base, arguments.kills, generator)
        failures += moves.pop("failures")
        reads = read_while_saving(work, base, arguments.reads)
        if reads["mixtures"]:
            failures.append(f"{reads['mixtures']} of {arguments.reads} reads gave neither of the two models")
        save_pretrained(base, QueryAdapter(32), target)
        leftovers = [path.name for path in target.parent.iterdir() if path != target]
    result = {
        "script": "kill_saving.py",
        "command": f"python scripts/kill_saving.py --kills {arguments.kills} --reads {arguments.reads}",
        "seed": arguments.seed,
        "kills": arguments.kills,
        "outcomes": dict(outcomes),
        "reads": reads,
        "moves": moves,
        "failures": failures,
        "unfinished_folders_beside_the_target": len(leftovers),
        "models_saved": number,
        "versions": installed_versions(),
        "git_commit": git_commit(),
    }
    write_results(arguments.output, result)
    print(result)
    sys.exit(bool(failures))


def kill_within(seconds: float, code: str, *words: object) -> None:
    """Run some code in a process of its own, and kill it so long after it says that it is ready."""
    writer = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


def kill_moving(work: Path, base: SentenceTransformer, number: int, generator: random.Random) -> dict[str, Any]:
    """Kill a process so many times while it moves an output folder between two runs, and look at what it left.

    The run in use has to be one of the two, and what lies in the folder itself one complete model, of either; moving to
    the run in use puts that right.
    """
    out, counts, failures = work / "runs", Counter[str](), []
    for seed, name in enumerate(RUNS, start=1):
        run = out / VERSIONS_FOLDER / name / MODEL_FOLDER
        save_pretrained(base, QueryAdapter(32), run, training=TrainingRecord(seed=seed))
    rollback(out, RUNS[0])
    for kill in range(number):
        kill_within(generator.uniform(0, LONGEST_MOVE), MOVE_FOR_EVER, out, *RUNS)
        try:
            run = current_run(out)
            for folder in (run / MODEL_FOLDER, out / MODEL_FOLDER):
                from_pretrained(folder, device="cpu")
            in_use, beside = (read_saved(each / MODEL_FOLDER).training for each in (run, out))
            counts["the run in use" if in_use == beside else "the run before"] += 1
            rollback(out, run.name)
            assert read_saved(out / MODEL_FOLDER).training == in_use
        except (ValueError, AssertionError) as error:
            failures.append(f"move {kill}: {type(error).__name__}: {error}")
    return {"kills": number, "in_the_folder_itself": dict(counts), "failures": failures}


def read_while_saving(work: Path, base: SentenceTransformer, number: int) -> dict[str, int]:
    """Open the target so many times while two adapters are saved to it in turn."""
    target, texts = work / "out" / "read", ["text", "another one"]
    folders = [work / "linear", work / "mlp"]
    expected = []
    for folder in folders:
        adapter = QueryAdapter(32, folder.name, hidden_dim=8)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        save_adapter(adapter, folder)
        save_pretrained(base, adapter, target)
        expected.append(from_pretrained(target, device="cpu").encode_query(texts, convert_to_tensor=True))
    command = [sys.executable, "-c", SAVE_IN_TURN, str(work / "base"), str(target), *map(str, folders)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    counts: Counter[str] = Counter()
    try:
        for _ in tqdm(range(number), desc="Reading", unit="read"):
            try:
                found = from_pretrained(target, device="cpu").encode_query(texts, convert_to_tensor=True)
            except ValueError as error:
                assert str(error)
                counts["refused"] += 1
                continue
            counts["complete" if any(torch.equal(found, vectors) for vectors in expected) else "mixtures"] += 1
        assert writer.poll() is None, "the writer has to be at it until the end"
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    return {"reads": number, **{name: counts[name] for name in ("complete", "refused", "mixtures")}}


if __name__ == "__main__":
    main()
