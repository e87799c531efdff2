"""Compare base model, other projects' recipes, the closed form and `auto` by test nDCG@10, on every data set given.

All methods see the same embeddings: the recipes fit on train, the package's own methods on train and dev. Test is used
once per method and seed. Writes scripts/results/benchmark_quality.json after every data set and prints a table.

    python scripts/benchmark_quality.py                          # ../shared/data/* if there, and the demo's data
    python scripts/benchmark_quality.py --data DIR DIR --no-demo # folders with corpus, queries and qrels
    python scripts/benchmark_quality.py --resume                 # go on with a run that was stopped
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.demo import demo_model_path, standard_library_dataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.embedding import embed_pseudo_queries
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.evaluation import comparison
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import adapt
from st_adapter.evaluation.seen import seen_documents
from st_adapter.fitting.auto import fit
from st_adapter.words import fraction, signed

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
OUTPUT = ROOT / "scripts" / "results" / "benchmark_quality.json"
DEMO = "Python standard library"
METRIC = "ndcg@10"
FITTED_ON = ("train", "dev")
PACKAGES = ("st-adapter", "torch", "sentence-transformers", "transformers", "datasets", "numpy")

Values = NDArray[np.float64]
Transform = Callable[[Tensor], Tensor]


class Beside(NamedTuple):
    """What a method may learn from besides the labels: documents of another corpus, and portions of its own."""

    outside: Tensor
    pseudo_queries: EmbeddedSplit | None


class Fitted(NamedTuple):
    """What a method made of the labels: a map over (Q, D) query embeddings, and what it says about itself."""

    transform: Transform
    facts: dict[str, Any]


class Method(NamedTuple):
    """A row of the comparison; without `seeded`, nothing in it is random and one run says all."""

    fit: Callable[[EmbeddedDataset, Beside, int], Fitted]
    seeded: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    results = start_results(
        arguments,
        "benchmark_quality.py",
        {
            "seeds": arguments.seeds,
        },
        ["--seeds", *map(str, arguments.seeds)],
        material,
    )
    for position, name in enumerate(material.names):
        other = material.names[(position + 1) % len(material.names)]
        source = f"documents of {other}" if other != name else "documents of its own corpus without a training query"
        if results["datasets"].get(name, {}).get("outside_negatives") == source:
            print(f"{name}: already there", flush=True)
            continue
        embedded = material.embedded(name)
        outside = MemoryCorpus.of(material.embedded(other).corpus).embeddings if other != name else unlabelled(embedded)
        beside = Beside(outside, material.pseudo_queries(name))
        entry = {"notes": list(material.dataset(name).notes), "outside_negatives": source}
        results["datasets"][name] = {
            **entry,
            **measure(name, embedded, beside, arguments.seeds),
        }
        # Data sets in the order of this run, whatever order an earlier one had.
        results["datasets"] = {key: results["datasets"][key] for key in material.names if key in results["datasets"]}
        write_results(arguments.output, results)
    write_results(arguments.output, results)
    print(markdown_table(results))


# --- the methods ---


def keep_base(embedded: EmbeddedDataset, beside: Beside, seed: int) -> Fitted:
    """The base model as it is."""
    return Fitted(lambda queries: queries, {})


def ancestor(embedded: EmbeddedDataset, beside: Beside, seed: int) -> Fitted:
    """The recipe of Minhao-Zhang/Fine-Tune-Embedding-Adapter.

    A randomly started linear layer with bias, triplet loss, for every pair a fresh negative from another domain. The
    numbers are the defaults of its trainer: 100 epochs, batch 1,024, learning rate 3e-3, 5 steps of warm-up, then
    linear decay, gradients clipped at 1, margin 1.
    """
    train = embedded["train"]
    rows, documents = positive_pairs(train)
    anchors, positives = train.query_embeddings[rows], train.corpus.rows(documents)
    generator = torch.Generator().manual_seed(seed)
    weights = random_linear(train.dimension, generator, anchors.device)
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    num_epochs, batch_size = 100, 1024
    num_steps = num_epochs * math.ceil(len(rows) / batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, 5, num_steps)
    for _ in range(num_epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(batch_size):
            drawn = torch.randint(len(beside.outside), (len(batch),), generator=generator)
            loss = F.triplet_margin_loss(
                F.linear(anchors[batch], *weights), positives[batch], beside.outside[drawn], margin=1.0
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
    return Fitted(linear_map(weights), {})


def chroma(embedded: EmbeddedDataset, beside: Beside, seed: int) -> Fitted:
    """The query-only recipe of Chroma's report on embedding adapters (suvansh/ChromaAdaptEmbed).

    A randomly started linear layer with bias and triplet loss with margin .3. Every query has five negatives, fixed
    before training: its documents judged not relevant, filled up at random from the whole corpus, so that now and then
    one of them is a positive. Every positive meets every negative of its query. The other numbers are those of the
    launcher that holds out a test split: 10 epochs, batch 256, learning rate 3e-3, losses summed over the batch.
    """
    train = embedded["train"]
    generator = torch.Generator().manual_seed(seed)
    positives: dict[int, list[int]] = {}
    negatives: dict[int, list[int]] = {}
    for row, document, relevance in zip(*(part.tolist() for part in train.qrels), strict=True):
        (positives if relevance >= 0.5 else negatives).setdefault(row, []).append(document)
    triplets: list[tuple[int, int, int]] = []
    for row, relevant in sorted(positives.items()):
        judged = negatives.get(row, [])
        drawn = torch.randperm(len(train.corpus), generator=generator)[: max(0, 5 - len(judged))].tolist()
        against = dict.fromkeys([*judged, *drawn])
        triplets += [(row, positive, negative) for positive in relevant for negative in against]
    indices = torch.tensor(triplets, device=train.query_embeddings.device)  # (T, 3)
    weights = random_linear(train.dimension, generator, indices.device)
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(len(indices), generator=generator).split(256):
            row_index, positive_index, negative_index = indices[batch].unbind(dim=1)
            loss = F.triplet_margin_loss(
                F.linear(train.query_embeddings[row_index], *weights),
                train.corpus.rows(positive_index),
                train.corpus.rows(negative_index),
                margin=0.3,
                reduction="sum",
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Fitted(linear_map(weights), {})


def llama_index(embedded: EmbeddedDataset, beside: Beside, seed: int) -> Fitted:
    """The recipe of LlamaIndex's EmbeddingAdapterFinetuneEngine.

    A linear layer without bias that starts as the identity, in-batch softmax over cosines with scale 20, only the
    first positive of each query, in data set order without shuffling. The numbers are its defaults (batch 10, learning
    rate 2e-5, a tenth of the steps as warm-up, linear decay, gradients clipped at 1), with the 4 epochs of the example
    in its documentation instead of the default of 1.
    """
    train = embedded["train"]
    first: dict[int, int] = {}
    for row, document, relevance in zip(*(part.tolist() for part in train.qrels), strict=True):
        if relevance > 0:
            first.setdefault(row, document)
    rows, documents = torch.tensor(sorted(first.items()), device=train.query_embeddings.device).unbind(dim=1)
    weight = torch.eye(train.dimension, device=rows.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=2e-5)
    num_epochs, batch_size = 4, 10
    num_steps = num_epochs * math.ceil(len(rows) / batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.1 * num_steps), num_steps)
    for _ in range(num_epochs):
        for batch in torch.arange(len(rows)).split(batch_size):
            anchors = F.normalize(train.query_embeddings[rows[batch]] @ weight.T)
            candidates = F.normalize(train.corpus.rows(documents[batch]))
            scores = 20.0 * anchors @ candidates.T  # (B, B)
            loss = F.cross_entropy(scores, torch.arange(len(batch), device=rows.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([weight], 1.0)
            optimizer.step()
            schedule.step()
    return Fitted(linear_map([weight]), {})


def ours(
    embedded: EmbeddedDataset, beside: Beside, seed: int, *, method: Literal["auto", "closed-form"] = "auto"
) -> Fitted:
    """The package with default settings."""
    # Without test in the data, no mistake could let it in.
    labelled = replace(embedded, qrels={split: embedded.qrels[split] for split in FITTED_ON})
    result = fit(labelled, pseudo_queries=beside.pseudo_queries, method=method, seed=seed)
    facts: dict[str, Any] = {
        "adopted": result.adopted,
        "chosen": result.chosen,
        "reason": result.verdict.gate.reason,
        "estimated_gain": round(result.verdict.gate.gain, 5),
        "p_value": round(result.verdict.gate.p_value, 5),
        "seconds_by_part": {part: round(seconds, 3) for part, seconds in result.seconds.items()},
    }
    return Fitted(lambda queries: queries if result.adapter is None else adapt(result.adapter, queries), facts)


METHODS = {
    "base": Method(keep_base, seeded=False),
    "ancestor's recipe": Method(ancestor, seeded=True),
    "Chroma's recipe": Method(chroma, seeded=True),
    "LlamaIndex's recipe": Method(llama_index, seeded=False),
    "closed form": Method(partial(ours, method="closed-form"), seeded=True),
    "auto": Method(ours, seeded=True),
}


def positive_pairs(split: EmbeddedSplit) -> tuple[Tensor, Tensor]:
    """Row of the query and row of the document of every relevant pair, in data set order."""
    relevant = split.qrels.relevance > 0
    return split.qrels.query_index[relevant], split.qrels.corpus_index[relevant]


def unlabelled(embedded: EmbeddedDataset) -> Tensor:
    """Documents without a training query, for want of another domain; all documents if each has one."""
    documents = MemoryCorpus.of(embedded.corpus).embeddings
    kept = torch.ones(len(documents), dtype=torch.bool)
    kept[positive_pairs(embedded["train"])[1].cpu()] = False
    return documents[kept] if kept.any() else documents


def random_linear(dim: int, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Weight and bias as `torch.nn.Linear` starts them."""
    bound = dim**-0.5
    start = [torch.empty(dim, dim), torch.empty(dim)]
    return [part.uniform_(-bound, bound, generator=generator).to(device).requires_grad_() for part in start]


def linear_map(weights: Sequence[Tensor]) -> Transform:
    fixed = [part.detach() for part in weights]
    return lambda queries: F.linear(queries, *fixed)


# --- measuring ---


def measure(name: str, embedded: EmbeddedDataset, beside: Beside, seeds: Sequence[int]) -> dict[str, Any]:
    """Run every method with every seed on one data set and compare with the base model, query by query."""
    test = embedded["test"]
    of_base = evaluate(test, ks=[10], seen_documents=seen_documents(embedded, FITTED_ON))
    base, seen = of_base.base[METRIC], of_base.seen
    assert seen is not None
    methods = {}
    for method_name, method in METHODS.items():
        runs: dict[str, dict[str, Any]] = {}
        values = []
        for seed in seeds if method.seeded else seeds[:1]:
            start = time.perf_counter()
            fitted = method.fit(embedded, beside, seed)
            seconds = time.perf_counter() - start
            adapted = evaluate(test, fitted.transform, ks=[10], base=of_base).adapted[METRIC]
            values.append(adapted)
            runs[str(seed) if method.seeded else "any"] = {
                **compare(base, adapted, seen),
                "seconds": round(seconds, 3),
                **fitted.facts,
                "per_query": rounded(adapted),
            }
            print(f"{name}, {method_name}, seed {seed}: {adapted.mean():.4f} after {seconds:.1f} s", flush=True)
        methods[method_name] = {**summary(list(runs.values()), base, values, seen), "runs": runs}
    return {
        "num_documents": len(embedded.corpus),
        "num_queries": {split: len(embedded[split].query_ids) for split in embedded.qrels},
        "test_query_ids": of_base.query_ids,
        "seen": [int(flag) for flag in seen],
        "methods": methods,
    }


def summary(
    runs: Sequence[Mapping[str, Any]], base: Values, values: Sequence[Values], seen: NDArray[np.bool_]
) -> dict[str, Any]:
    """The mean of several runs against the base model, and in how many of them the difference is no chance."""
    return {
        **compare(base, np.mean(values, axis=0), seen),
        "num_runs": len(runs),
        "num_significantly_below": sum(run["interval"][1] < 0 for run in runs),
        "num_significantly_above": sum(run["interval"][0] > 0 for run in runs),
        "num_adopted": sum(run.get("adopted", True) for run in runs),
        "lowest_gain": min(run["gain"] for run in runs),
        "seconds": round(float(np.mean([run["seconds"] for run in runs])), 3),
    }


def compare(base: Values, adapted: Values, seen: NDArray[np.bool_]) -> dict[str, Any]:
    """All queries, and those with and without seen documents apart; None where there are none."""
    parts = {"seen": seen, "unseen": ~seen}
    return {
        **compare_part(base, adapted),
        **{part: compare_part(base[kept], adapted[kept]) if kept.any() else None for part, kept in parts.items()},
    }


def compare_part(base: Values, adapted: Values) -> dict[str, Any]:
    compared = comparison.compare({METRIC: base}, {METRIC: adapted})[METRIC]
    return {
        "num_queries": compared.num_queries,
        "base": round(compared.base, 5),
        "mean": round(compared.adapted, 5),
        "gain": round(compared.difference, 5),
        "interval": [round(bound, 5) for bound in compared.interval],
        "p_value": round(compared.p_value, 5),
        "wins": compared.wins,
        "losses": compared.losses,
    }


# --- data, settings, files ---


def default_folders() -> list[Path]:
    return sorted(path for path in SHARED_DATA.glob("*") if path.is_dir())


def add_arguments(parser: argparse.ArgumentParser, output: Path) -> None:
    parser.add_argument("--data", type=Path, nargs="*", metavar="DIR", help="folders with corpus, queries and qrels")
    parser.add_argument("--model", help="base model: Hub id or folder; default: the demo's, all-MiniLM-L6-v2")
    parser.add_argument("--device", help="where to work; default: the best there is")
    parser.add_argument("--cache-dir", type=Path, help="where embeddings are cached; default: as the package does")
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--resume", action="store_true", help="keep what the output file has with the same settings")


class Material:
    """The base model and the data sets of a run; each is loaded and embedded when first asked for."""

    def __init__(self, arguments: argparse.Namespace, folders: Sequence[Path], *, with_demo: bool) -> None:
        self._loaders: dict[str, Callable[[], RetrievalDataset]] = {
            folder.resolve().name: partial(RetrievalDataset.load, str(folder)) for folder in folders
        }
        if len(self._loaders) < len(folders):
            raise SystemExit("Two data set folders have the same name; results are kept by name. Rename one.")
        if with_demo:
            self._loaders[DEMO] = standard_library_dataset
        if not self._loaders:
            raise SystemExit("There is no data set. Name folders with --data DIR.")
        self.cache_dir = arguments.cache_dir
        self._datasets: dict[str, RetrievalDataset] = {}
        self._embedded: dict[str, EmbeddedDataset] = {}
        self.names = list(self._loaders)
        self.model = SentenceTransformer(arguments.model or str(demo_model_path()), device=arguments.device)
        # Of a folder the name alone: where it lies on this machine is nobody's business.
        local = arguments.model is not None and Path(arguments.model).is_dir()
        self.model_name = Path(arguments.model).resolve().name if local else arguments.model or "all-MiniLM-L6-v2"
        self.fingerprint = model_fingerprint(self.model)

    def dataset(self, name: str) -> RetrievalDataset:
        """The texts and judgements."""
        if name not in self._datasets:
            self._datasets[name] = self._loaders[name]()
        return self._datasets[name]

    def embedded(self, name: str) -> EmbeddedDataset:
        """The vectors, from the cache if they are there."""
        if name not in self._embedded:
            self._embedded[name] = embed(self.model, self.dataset(name), cache_dir=self.cache_dir)
        return self._embedded[name]

    def pseudo_queries(self, name: str) -> EmbeddedSplit | None:
        """What few labels start from."""
        embedded = self.embedded(name)
        return embed_pseudo_queries(self.model, self.dataset(name), embedded, cache_dir=self.cache_dir)


def start_results(
    arguments: argparse.Namespace, script: str, settings: dict[str, Any], options: Sequence[str], material: Material
) -> dict[str, Any]:
    """The frame of a result file, with the data sets of an earlier one if asked for and made the same way."""
    command = ["python", f"scripts/{script}", "--data", *(n for n in material.names if n != DEMO), *options]
    command += ["--model", material.model_name] if arguments.model else []
    command += ["--no-demo"] if getattr(arguments, "no_demo", False) else []
    results: dict[str, Any] = {
        "settings": {
            "script": script,
            "metric": METRIC,
            "model": material.model_name,
            "model_fingerprint": material.fingerprint,
            **settings,
        },
        "git_commit": git_commit(),
        "code_sha256": code_digest(script),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": device_name(material.model.device),
        "command": " ".join(command),
        "datasets": {},
    }
    if arguments.resume and arguments.output.is_file():
        earlier = json.loads(arguments.output.read_text(encoding="utf-8"))
        same = ("settings", "code_sha256", "versions", "device")
        changed = [key for key in same if earlier.get(key) != results[key]]
        if changed:
            print(f"starting anew: {', '.join(changed)} differ from those of the earlier results", flush=True)
        else:
            results["datasets"] = {n: entry for n, entry in earlier["datasets"].items() if n in material.names}
    return results


def git_commit() -> str | None:
    """The commit, marked if code differs from it; result files may change while a benchmark runs."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", "st_adapter", "scripts", ":(exclude)scripts/results")
    return (f"{commit}-dirty" if changed else commit) or None


def code_digest(script: str) -> str:
    """SHA-256 over the package and the scripts that measure, so that a run goes on only with the code it began with."""
    digest = hashlib.sha256()
    paths = {*(ROOT / "st_adapter").rglob("*.py"), Path(__file__).resolve(), ROOT / "scripts" / script}
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def rounded(values: Values) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(to_json(results) + "\n", encoding="utf-8")
    unfinished.replace(path)


def to_json(value: object, indent: int = 0) -> str:
    """JSON with one line per entry of an object, and every list on one line."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = " " * (indent + 1)
    lines = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {to_json(item, indent + 1)}" for key, item in value.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


# --- the table ---


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set, means over the seeds; from the content of the result file."""
    titles = [*METHODS, "auto − base [95 %]", "seen", "unseen", "adopted", "↓ seeds", "seconds"]
    lines = [
        f"| test nDCG@10 | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    for name, entry in results["datasets"].items():
        auto = entry["methods"]["auto"]
        cells = [score(entry["methods"][method]) for method in METHODS]
        cells.append(f"{signed(auto['gain'])} {interval(auto['interval'])}")
        cells += [part_gain(auto[part]) for part in ("seen", "unseen")]
        cells += [f"{auto[count]}/{auto['num_runs']}" for count in ("num_adopted", "num_significantly_below")]
        cells.append(f"{auto['seconds']:.1f}")
        lines.append(f"| {name} ({entry['num_queries']['test']:,} queries) | {' | '.join(cells)} |")
    settings = results["settings"]
    lines += [
        "",
        f"Base model {settings['model']}; mean of seeds {', '.join(map(str, settings['seeds']))}. ↑ ↓: significantly "
        f"above or below base (95 % interval, paired bootstrap over queries). Seen, unseen: auto "
        "− base on the queries (how many) with and without a relevant document that train or dev has a query for. "
        "Adopted, ↓ seeds: with how many seeds auto gave an adapter, and was significantly below base. "
        f"Seconds: auto, fitting alone, on {results['device']}.",
    ]
    return "\n".join(lines)


def score(method: Mapping[str, Any]) -> str:
    low, high = method["interval"]
    return fraction(method["mean"]) + (" ↓" if high < 0 else " ↑" if low > 0 else "")


def part_gain(part: Mapping[str, Any] | None) -> str:
    return "–" if part is None else f"{signed(part['gain'])} ({part['num_queries']:,})"


def interval(bounds: Sequence[float]) -> str:
    return f"[{', '.join(signed(bound) for bound in bounds)}]"


if __name__ == "__main__":
    main()
