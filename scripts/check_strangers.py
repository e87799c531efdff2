"""Damage what a run leaves behind, forge what a model declares, and put private files beside one: see what comes of it.

200 damaged results, learning curves and training records are read: each is one clear error, or is shown. Configurations
that would exhaust the machine or fetch code are opened with right hashes: each is one clear error within seconds.
Twelve kinds of private files lie in the base model's folder, in its modules' folders, and in the saved one: none is
saved, and none is pushed to a Hub that runs here. Writes scripts/results/check_strangers.json.

    python scripts/check_strangers.py
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import write_base_model
from fuzz_repository import FORGED, _forged
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, RetrievalDataset, from_pretrained, save_pretrained, train
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evidence import write_report
from st_adapter.evidence.curve import learning_curve
from st_adapter.evidence.output_folder import CURVE_FILE
from st_adapter.evidence.results import CurveResults, described
from st_adapter.saving.folder import CONFIG_FILE_NAME, read_saved
from st_adapter.saving.record import installed_versions
from st_adapter.storage.paths import file_sha256

sys.path.insert(0, str(ROOT / "tests"))

OUTPUT = ROOT / "scripts" / "results" / "check_strangers.json"
SECONDS_PER_CASE = 20
SECRET = "hf_" + "strangers" * 3
FORGED.extend([-1.5, "x\x1b[31m", [1, 2, 3], 10**400])

PRIVATE = [
    *(".env", "id_rsa", "credentials.json", "customers.csv", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("training_args.bin", "trainer_state.json", "train.log", "wandb/run-1/config.yaml", "notes.ipynb"),
]
# What a file of a model may declare: file, key, value.
DECLARED: list[tuple[str, str, Any]] = [
    *(("config.json", "num_hidden_layers", value) for value in (20_000, 10**6, 10**12)),
    *(("config.json", key, 10**9) for key in ("vocab_size", "hidden_size", "intermediate_size", "num_labels")),
    *(("config.json", key, 10**12) for key in ("max_position_embeddings", "type_vocab_size", "num_attention_heads")),
    *(("config.json", key, "someone/kernel") for key in ("attn_implementation", "_attn_implementation")),
    ("config.json", "dtype", "os.system"),
    ("sentence_bert_config.json", "max_seq_length", 2**40),
    ("sentence_bert_config.json", "tokenizer_name_or_path", "/etc"),
    *(
        ("sentence_bert_config.json", "model_args", arguments)
        for arguments in (
            {"attn_implementation": "someone/kernel"},
            {"gguf_file": "../x.gguf"},
            {"variant": "../../x"},
            {"device_map": "auto"},
            {"cache_dir": "/"},
            {"use_safetensors": False},
        )
    ),
    ("sentence_bert_config.json", "config_args", {"num_hidden_layers": 20_000}),
    ("tokenizer.json", "normalizer", {"type": "Replace", "pattern": {"String": "e"}, "content": "x" * 10**6}),
    (
        "tokenizer.json",
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40},
    ),
    ("tokenizer.json", "padding", {"strategy": {"Fixed": 10**9}}),
    ("modules.json", "type", "os.system"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_base_model(work / "written")
        # As Transformers saves it, with a tokenizer.json.
        SentenceTransformer(str(work / "written"), device="cpu").save_pretrained(str(work / "base"))
        finished = finish_run(work)
        damaged, failures = damage(work, finished, arguments.cases, arguments.seed)
        declared = declare(work, finished / "model", failures)
        private = hide(work, failures)
    result = {
        "script": "check_strangers.py",
        "command": f"python scripts/check_strangers.py --cases {arguments.cases} --seed {arguments.seed}",
        "damaged": damaged,
        "declared": declared,
        "private_files": private,
        "failures": failures,
        "seconds": time.perf_counter() - start,
        "versions": installed_versions(),
        "git_commit": git_commit(),
    }
    write_results(arguments.output, result)
    print(json.dumps(result, indent=2))
    sys.exit(bool(failures))


def finish_run(work: Path) -> Path:
    """The folder of a training run with a learning curve."""
    colors, things = "red green blue black white yellow grey brown".split(), "car house river book table bird".split()
    rows = [{"query": f"where is the {c} {t}", "document": f"{t} : it is {c}"} for c in colors for t in things]
    pd.DataFrame(rows).to_csv(work / "pairs.csv", index=False)
    dataset = RetrievalDataset.load(str(work / "pairs.csv"))
    model = SentenceTransformer(str(work / "base"), device="cpu")
    options: dict[str, Any] = {"cache_dir": work / "cache", "show_progress_bar": False}
    result = train(model, dataset, output_dir=work / "out", method="closed-form", alpha=0.99, **options)
    if not result.verdict.adopted:
        raise RuntimeError("The pairs are made so that an adapter helps, but it was not adopted.")
    num_queries = result.results.data.train.num_queries
    embedded = embed(model, dataset, **options)
    curve = learning_curve(embedded, method="closed-form", sizes=[8, 16, num_queries], num_draws=2)
    base_model = described(embedded.base_model)
    CurveResults(base_model=base_model, data=dataset.name, curve=curve).write(work / "out" / CURVE_FILE)
    return work / "out"


# --- damaged results and records ---


def damage(work: Path, finished: Path, cases: int, seed: int) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by file, and a line for each case that did what it must not."""
    generator = random.Random(seed)
    outcomes: dict[str, Counter[str]] = {}
    failures: list[str] = []
    targets: dict[str, Callable[[Path], Any]] = {
        "results.json": write_report,
        "learning_curve.json": write_report,
        f"model/{CONFIG_FILE_NAME}": lambda folder: read_saved(folder / "model"),
    }
    for number in range(cases):
        name, read = generator.choices(list(targets.items()), weights=(1, 1, 2))[0]
        case = work / "case"
        case.mkdir()
        for kept in targets:
            (case / kept).parent.mkdir(exist_ok=True)
            shutil.copyfile(finished / kept, case / kept)
        content = json.loads((case / name).read_text(encoding="utf-8"))
        if name.endswith(CONFIG_FILE_NAME):
            content["training"] = _forged(content["training"], generator)
        else:
            # Not the values per query, which are most of the file.
            part = generator.choice(list(content))
            content = _replaced(content, part, generator)
        (case / name).write_text(json.dumps(content), encoding="utf-8")
        outcome = outcome_of(lambda read=read, case=case: read(case))  # type: ignore[misc]
        outcomes.setdefault(name, Counter())[outcome.partition(":")[0]] += 1
        if outcome.startswith("FAILED"):
            failures.append(f"case {number}, {name}: {outcome}")
        shutil.rmtree(case)
        if (number + 1) % 50 == 0:
            print(f"{number + 1} of {cases}, {len(failures)} failures", flush=True)
    return {name: dict(sorted(counts.items())) for name, counts in sorted(outcomes.items())}, failures


def _replaced(content: dict[str, Any], part: str, generator: random.Random) -> dict[str, Any]:
    content = copy.deepcopy(content)
    if isinstance(content[part], dict | list) and generator.random() < 0.8:
        content[part] = _forged(content[part], generator)
    elif generator.random() < 0.3:
        del content[part]
    else:
        content[part] = generator.choice(FORGED)
    return content


def outcome_of(call: Callable[[], Any]) -> str:
    """What came of a call that may read what is damaged."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS_PER_CASE)
    try:
        call()
    except ValueError as error:
        return "one clear error" if 20 < len(str(error)) < 2000 else f"FAILED: unclear error {str(error)[:300]!r}"
    except TimeoutError:
        return "FAILED: hung"
    except BaseException as error:
        return f"FAILED: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    return "read"


def _too_long(*args: object) -> None:
    raise TimeoutError


# --- forged declarations ---


def declare(work: Path, model: Path, failures: list[str]) -> dict[str, Any]:
    """Open models whose configurations declare what they do not hold; the longest time that one took, in seconds."""
    longest, refused = 0.0, 0
    for name, key, value in DECLARED:
        case = shutil.copytree(model, work / "declared")
        content = json.loads((case / name).read_text(encoding="utf-8"))
        (content[0] if isinstance(content, list) else content)[key] = value
        (case / name).write_text(json.dumps(content), encoding="utf-8")
        config = json.loads((case / CONFIG_FILE_NAME).read_text(encoding="utf-8"))
        config["files"][name] = file_sha256(case / name)
        (case / CONFIG_FILE_NAME).write_text(json.dumps(config), encoding="utf-8")
        start = time.perf_counter()
        outcome = outcome_of(lambda case=case: from_pretrained(case, device="cpu"))  # type: ignore[misc]
        longest = max(longest, time.perf_counter() - start)
        refused += outcome == "one clear error"
        if outcome != "one clear error":
            failures.append(f"{name} with {key}={str(value)[:80]}: {outcome}")
        shutil.rmtree(case)
    return {"cases": len(DECLARED), "one clear error": refused, "longest_seconds": longest}


# --- private files ---


def hide(work: Path, failures: list[str]) -> dict[str, int]:
    """Count the private files that were saved, and that were pushed."""
    base = shutil.copytree(work / "base", work / "private-base")
    for place in ("", "1_Pooling"):
        put_private_files(base / place)
    os.mkfifo(base / "pipe.json")
    saved = save_pretrained(SentenceTransformer(str(base), device="cpu"), QueryAdapter(32), work / "private-saved")
    found = private_files(path.relative_to(saved).as_posix() for path in saved.rglob("*"))
    failures += [f"{name} was saved" for name in found]
    shutil.rmtree(saved / "wandb", ignore_errors=True)
    for place in ("", "1_Pooling"):
        put_private_files(saved / place, ignored=(".json", ".bin"))
    with pushed(saved) as branches:
        on_hub = [f"{branch}: {name}" for branch, names in branches.items() for name in private_files(names)]
    failures += [f"{name} was pushed" for name in on_hub]
    return {"kinds": len(PRIVATE), "folders": 2, "saved": len(found), "pushed": len(on_hub)}


def put_private_files(folder: Path, ignored: tuple[str, ...] = ()) -> None:
    for name in PRIVATE:
        if not name.endswith(ignored or ("/",)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(SECRET, encoding="utf-8")


def private_files(names: Iterator[str] | set[str]) -> list[str]:
    return sorted(name for name in names if any(name == each or name.endswith(f"/{each}") for each in PRIVATE))


@contextmanager
def pushed(saved: Path) -> Iterator[dict[str, set[str]]]:
    """Push to a Hub in this process, by the real client in another one; branch -> names of its files."""
    from hub_double.client import HubClient  # type: ignore[import-not-found]
    from hub_double.server import ALICE, HubServer  # type: ignore[import-not-found]

    with HubServer() as server, HubClient(server.url) as client:
        client.run(_push, saved, token=ALICE)
        yield {branch: set(server.files("alice/private", branch)) for branch in ("main", "query", "twin")}


def _push(folder):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  (its source is sent to the other process)
    import warnings

    from st_adapter.saving import push_folder

    warnings.simplefilter("ignore")
    return push_folder(folder, "alice/private", twin=True)


if __name__ == "__main__":
    main()
