"""Open thousands of damaged and forged models and adapters, and see that each is one clear error or works.

Every case takes a saved model (or adapter), changes one file (cut, bytes changed, JSON values or safetensors headers
forged, deleted, ...), half of the time writes its hash anew so that only the deeper checks can find it, and opens it.
Allowed are a ValueError with a message, or vectors that are finite. Anything else fails the run: another exception, a
crash, a hang, a file written outside of the temporary folder, an unchanged hash that was not noticed.
Writes scripts/results/fuzz_repository.json.

    python scripts/fuzz_repository.py
    python scripts/fuzz_repository.py --cases 20000 --seed 1
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import write_base_model
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, attach, from_pretrained, save_adapter, save_pretrained
from st_adapter.saving import TrainingRecord
from st_adapter.saving.folder import CONFIG_FILE_NAME
from st_adapter.saving.record import installed_versions
from st_adapter.storage.paths import file_sha256

OUTPUT = ROOT / "scripts" / "results" / "fuzz_repository.json"
SECONDS_PER_CASE = 60
MEMORY = 12 * 2**30

FORGED: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 10**12, 1e308, [], {}, [[]], ["query_0_Dense"], {"a": {}}),
    *("", "x", "..", "../../outside", "/etc/passwd", "a/../../b", "C:\\x", "\0", "os.system", "torch.load"),
    *(f"sentence_transformers.models.{name}" for name in ("Dense", "Router", "Transformer", "Nothing")),
    *("torch.nn.modules.activation.GELU", "F64", "I64", "BOOL", [10**9, 10**9], [0, 2**62], [32, 32]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # Deep enough for ../.. to stay where it is looked for.
        work = Path(folder) / "a" / "b" / "c"
        work.mkdir(parents=True)
        outcomes, failures = fuzz(work, arguments.cases, arguments.seed)
    result = {
        "script": "fuzz_repository.py",
        "command": f"python scripts/fuzz_repository.py --cases {arguments.cases} --seed {arguments.seed}",
        "cases": arguments.cases,
        "seed": arguments.seed,
        "outcomes": outcomes,
        "failures": failures,
        "seconds": time.perf_counter() - start,
        "versions": installed_versions(),
        "git_commit": git_commit(),
    }
    write_results(arguments.output, result)
    print(json.dumps({key: result[key] for key in ("cases", "outcomes", "failures", "seconds")}, indent=2))
    sys.exit(bool(failures))


def fuzz(work: Path, cases: int, seed: int) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind of change, and a line for each case that did what it must not."""
    write_base_model(work / "base")
    base = SentenceTransformer(str(work / "base"), device="cpu")
    targets = saved_targets(work, base)
    outcomes: dict[str, Counter[str]] = {}
    failures: list[str] = []
    generator = random.Random(seed)
    before = outside(work.parents[2])
    for number in range(cases):
        name, whole = generator.choice(list(targets.items()))
        case = work / "case"
        shutil.copytree(whole, case)
        change, path, noticed = mutate(case, generator)
        outcome = open_case(name, case, noticed, base)
        outcomes.setdefault(change, Counter())[outcome.partition(":")[0]] += 1
        if outcome.startswith("FAILED"):
            failures.append(f"case {number}, {name}, {change} of {path}: {outcome}")
        shutil.rmtree(case)
        if (number + 1) % 200 == 0:
            print(f"{number + 1} of {cases}, {len(failures)} failures", flush=True)
    if outside(work.parents[2]) != before:
        failures.append("something was written outside of the folder of the case")
    return {change: dict(sorted(counts.items())) for change, counts in sorted(outcomes.items())}, failures


def saved_targets(work: Path, base: SentenceTransformer) -> dict[str, Path]:
    """A whole model in every layout, one with adapters for several tasks, and an adapter alone."""
    adapter = QueryAdapter(32, "mlp", hidden_dim=8)
    record = TrainingRecord(data="fuzz", seed=0)
    targets = {
        layout: save_pretrained(base, adapter, work / layout, layout=layout, training=record)
        for layout in ("document", "query", "twin")
    }
    several = {"legal": adapter, "support": QueryAdapter(32)}
    targets["several"] = save_pretrained(base, several, work / "several", default_task="legal")
    return {**targets, "adapter": save_adapter(adapter, work / "adapter-only", training=record)}


def outside(work: Path) -> set[tuple[str, int]]:
    """Names and sizes of all files that no case may touch."""
    return {(str(path), path.stat().st_size) for path in work.rglob("*") if path.is_file()}


def open_case(name: str, case: Path, must_be_noticed: bool, base: SentenceTransformer) -> str:
    """Open a damaged model, and say what came of it."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS_PER_CASE)
    try:
        if name == "adapter":
            model = attach(base, QueryAdapter.from_pretrained(case), allow_other_base=True)
            vectors = model.encode_query(["a", "b"], convert_to_tensor=True)
        else:
            model = from_pretrained(case, device="cpu")
            texts = ["a", "b"]
            encoders = [model.encode_query, model.encode_document]
            if name == "several":
                encoders += [functools.partial(model.encode, task=task) for task in ("legal", "support")]
            vectors = torch.stack([encode(texts, convert_to_tensor=True) for encode in encoders])
    except ValueError as error:
        return "one clear error" if 20 < len(str(error)) < 2000 else f"FAILED: unclear error {str(error)[:300]!r}"
    except TimeoutError:
        return "FAILED: hung"
    except BaseException as error:
        return f"FAILED: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    if must_be_noticed:
        return "FAILED: opened, although a hash is wrong"
    return "opened, vectors finite" if bool(torch.isfinite(vectors).all()) else "FAILED: vectors are not finite"


def _too_long(*args: object) -> None:
    raise TimeoutError


# --- changes ---


def mutate(folder: Path, generator: random.Random) -> tuple[str, str, bool]:
    """Change one file of a saved folder.

    Returns:
        The kind of change, the file, and whether opening the folder has to notice it by its hash.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = generator.choice(files)
    content = path.read_bytes()
    kinds: list[Callable[[bytes, random.Random], bytes | None]] = [cut, flip, insert, empty, delete]
    if path.suffix == ".json":
        kinds += [forge_json] * 6
    if path.suffix == ".safetensors":
        kinds += [forge_header] * 5 + [poison] * 2
    kind = generator.choice(kinds)
    changed = kind(content, generator)
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    name = path.relative_to(folder).as_posix()
    config_file = folder / CONFIG_FILE_NAME
    if changed is None or path == config_file or not config_file.is_file():
        return kind.__name__, name, False
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if name in config["files"] and generator.random() < 0.5:
        config["files"][name] = file_sha256(path)
        config_file.write_text(json.dumps(config), encoding="utf-8")
        return f"{kind.__name__}, hash written anew", name, False
    return kind.__name__, name, name in config["files"] and changed != content


def cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


def flip(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(changed), generator.choice([1, 1, 2, 8, 64]))):
        # Headers and configurations are short, so most changes go there.
        position = generator.randrange(min(len(changed), generator.choice([16, 256, len(changed)])))
        changed[position] = generator.randrange(256)
    return bytes(changed)


def insert(content: bytes, generator: random.Random) -> bytes:
    position = generator.randrange(min(len(content), 512) + 1)
    return content[:position] + generator.randbytes(generator.randrange(1, 64)) + content[position:]


def empty(content: bytes, generator: random.Random) -> bytes:
    return b""


def delete(content: bytes, generator: random.Random) -> None:
    return None


def forge_json(content: bytes, generator: random.Random) -> bytes:
    return json.dumps(_forged(json.loads(content), generator)).encode()


def forge_header(content: bytes, generator: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(_forged(json.loads(content[8 : 8 + length]), generator)).encode()
    announced = generator.choice([len(header)] * 8 + [0, len(header) + 1, 2**31, 2**63])
    return announced.to_bytes(8, "little") + header + content[8 + length :]


def poison(content: bytes, generator: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    position = 8 + length + 4 * generator.randrange(max(1, (len(content) - 8 - length) // 4))
    not_finite = generator.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"])  # NaN, inf, -inf
    return content[:position] + not_finite + content[position + 4 :]


def _forged(content: Any, generator: random.Random) -> Any:
    """The same JSON with one value, key or element somewhere replaced, removed or added."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(content)
    if not places:
        return generator.choice(FORGED)
    node, key = generator.choice(places)
    action = generator.choice(["replace", "replace", "replace", "remove", "rename"])
    if action == "remove":
        del node[key]
    elif action == "rename" and isinstance(node, dict):
        node[str(generator.choice(FORGED))] = node.pop(key)
    else:
        node[key] = generator.choice(FORGED)
    return content


if __name__ == "__main__":
    main()
