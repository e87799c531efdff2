"""How often is an adapter adopted where there is nothing to learn, and how often is it worse on fresh queries?

Synthetic data sets whose truth is known: queries that have nothing to do with their documents (noise), a base model
that is right already (perfect), and training queries that ask for a tenth of the documents where users then ask for all
of them, with nothing to learn in general (topic). With few labels the fits start from pseudo-queries, of the same kind
as the queries. Some have a teacher besides, who knows nothing: its scores are random (teacher). Writes
scripts/results/check_false_alarms.json after every setting, and prints a table.

    python scripts/check_false_alarms.py           # 1,000 of noise, 200 perfect, 240 of topic, 180 of teacher
    python scripts/check_false_alarms.py --noise 50 --perfect 20 --topic 10 --teacher 10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from benchmark_quality import ROOT, git_commit, write_results
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets, Teaching
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.auto import fit
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "check_false_alarms.json"
METRIC = "ndcg@10"
DIMENSION, NUM_DOCUMENTS, NUM_TEST = 32, 200, 400
NUM_TAUGHT = 200

Kind = Literal["noise", "perfect", "topic"]
NOISE: dict[Kind, float] = {"noise": 1.0, "perfect": 0.02, "topic": 0.35}


class Setting(NamedTuple):
    """What is drawn again and again."""

    kind: Kind
    num_labels: int
    method: Literal["auto", "linear", "closed-form"]
    pseudo_queries: bool
    teacher: bool = False


SETTINGS: dict[str, list[Setting]] = {
    "noise": [Setting("noise", 50, "auto", True), Setting("noise", 500, "closed-form", False)],
    "perfect": [Setting("perfect", 50, "auto", True), Setting("perfect", 500, "closed-form", False)],
    "topic": [
        Setting("topic", number, method, pseudo)  # type: ignore[arg-type]
        for number in (100, 300)
        for method, pseudo in (("auto", True), ("closed-form", False))
    ],
    "teacher": [
        Setting("noise", 50, "auto", True, teacher=True),
        Setting("perfect", 50, "auto", True, teacher=True),
        Setting("noise", 500, "linear", False, teacher=True),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind, default in (("noise", 500), ("perfect", 100), ("topic", 60), ("teacher", 60)):
        parser.add_argument(f"--{kind}", type=int, default=default, help="data sets of each setting")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = " ".join(f"--{kind} {getattr(arguments, kind)}" for kind in SETTINGS)
    results: dict[str, Any] = {
        "command": f"python scripts/check_false_alarms.py {numbers}",
        "git_commit": git_commit(),
        "versions": installed_versions(),
        "metric": METRIC,
        "settings": [],
    }
    for kind, settings in SETTINGS.items():
        for setting in settings:
            results["settings"].append(measure(setting, getattr(arguments, kind)))
            write_results(arguments.output, results)
    print(markdown_table(results))


def measure(setting: Setting, number: int) -> dict[str, Any]:
    """Fit on so many draws of a setting."""
    adopted = worse = 0
    start = time.perf_counter()
    for seed in tqdm(range(number), desc=f"{setting.kind}, {setting.num_labels} labels, {setting.method}"):
        data, pseudo_queries = drawn(setting, seed)
        taught = random_teacher(setting, data, seed) if setting.teacher else None
        found = fit(data, pseudo_queries=pseudo_queries, soft_targets=taught, method=setting.method, seed=seed)
        if found.adapter is not None:
            adopted += 1
            worse += evaluate(data["test"], found.adapter, ks=[10]).compare(METRIC).interval.high < 0
    seconds = round(time.perf_counter() - start, 1)
    return {
        **setting._asdict(),
        "num_drawn": number,
        "adopted": adopted,
        "significantly_worse": worse,
        "seconds": seconds,
    }


def drawn(setting: Setting, seed: int) -> tuple[EmbeddedDataset, EmbeddedSplit | None]:
    """A data set, and pseudo-queries for it."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    documents, total = normalize(random(NUM_DOCUMENTS, DIMENSION)), setting.num_labels + NUM_TEST
    relevant = torch.randint(0, NUM_DOCUMENTS, (total,), generator=generator)
    noise = NOISE[setting.kind]
    if setting.kind == "topic":
        asked = torch.randint(0, NUM_DOCUMENTS // 10, (setting.num_labels,), generator=generator)
        relevant[: setting.num_labels] = asked
    towards = torch.zeros_like(documents) if setting.kind == "noise" else documents
    queries = normalize(towards[relevant] + noise * random(total, DIMENSION))
    num_dev, rows = max(3, setting.num_labels // 8), torch.arange(total)
    cuts = {"train": (0, setting.num_labels - num_dev), "dev": (setting.num_labels - num_dev, setting.num_labels)}
    cuts["test"] = (setting.num_labels, total)
    qrels = {
        split: EmbeddedQrels(rows[first:last], relevant[first:last], torch.ones(last - first))
        for split, (first, last) in cuts.items()
    }
    corpus = MemoryCorpus([f"d{row}" for row in range(NUM_DOCUMENTS)], documents)
    data = EmbeddedDataset([f"q{row}" for row in range(total)], queries, corpus, qrels, normalized=True)
    if not setting.pseudo_queries:
        return data, None
    every = torch.arange(NUM_DOCUMENTS)
    asking = normalize(towards + noise * random(NUM_DOCUMENTS, DIMENSION))
    pairs = EmbeddedQrels(every, every, torch.ones(NUM_DOCUMENTS))
    return data, EmbeddedSplit("pseudo-queries", [f"p{row}" for row in every.tolist()], asking, corpus, pairs)


def random_teacher(setting: Setting, data: EmbeddedDataset, seed: int) -> SoftTargets:
    """Further queries of the same kind, and random scores of the documents that the base model finds for them."""
    generator, corpus = torch.Generator().manual_seed(seed + 1_000_000), MemoryCorpus.of(data.corpus)
    relevant = torch.randint(0, NUM_DOCUMENTS, (NUM_TAUGHT,), generator=generator)
    towards = corpus.embeddings[relevant] * (setting.kind != "noise")
    queries = normalize(towards + NOISE[setting.kind] * torch.randn(NUM_TAUGHT, DIMENSION, generator=generator))
    found = corpus.search(queries, 30).indices
    scores = torch.randn(found.shape, generator=generator)
    return SoftTargets.of(queries, (corpus, found), scores, Teaching("random", NUM_TAUGHT, 0, 30))


def markdown_table(results: Mapping[str, Any]) -> str:
    """A row for each setting."""
    lines = ["| data | labels | method | drawn | adopted | significantly worse |", "|---|---:|---|---:|---:|---:|"]
    for each in results["settings"]:
        method = f"{each['method']}{', from pseudo-queries' if each['pseudo_queries'] else ''}"
        method += ", random teacher" if each.get("teacher") else ""
        cells = (
            each["kind"],
            each["num_labels"],
            method,
            each["num_drawn"],
            each["adopted"],
            each["significantly_worse"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
