"""Fit on a part of a corpus that stands for the whole, and compare with the fit on all documents.

On each data set one fit sees all documents and another one a pool of about a fifth of them; both adapters then search
the whole corpus. With --growth the first data set gets random documents beside its own instead, 100,000 and 1,000,000
in all: what a fit takes must not grow with them. It is timed in turns.

    python scripts/benchmark_pool.py --data DIR [DIR ...]
    python scripts/benchmark_pool.py --data DIR --growth
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmark_quality import ROOT, git_commit, write_results

from st_adapter import EmbeddedDataset, RetrievalDataset, embed, evaluate, fit
from st_adapter.demo import demo_model, standard_library_dataset
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.fitting.auto import FitResult, fit_labelled
from st_adapter.fitting.folds import labelled_split, shown_by_dev
from st_adapter.fitting.pool import pooled
from st_adapter.fitting.reference import Hurdle
from st_adapter.saving.record import installed_versions
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "benchmark_pool.json"
OUTPUT_OF_GROWTH = ROOT / "scripts" / "results" / "benchmark_pool_growth.json"
_SHARE = 0.2
_DEPTHS = (100, 50, 20, 10, 5, 2, 1)
_SIZES = (100_000, 1_000_000)
_ROUNDS = 3


def main() -> None:
    """Fit, measure, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with corpus, queries and qrels")
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--growth", action="store_true", help="time fits beside random documents instead")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="documents in all, random ones included")
    parser.add_argument("--cache-dir", type=Path, help="where embeddings are cached; default: as the package does")
    parser.add_argument("--output", type=Path, help="default: as the script, in scripts/results")
    arguments = parser.parse_args()
    output = arguments.output or (OUTPUT_OF_GROWTH if arguments.growth else OUTPUT)
    if arguments.growth and len(arguments.data) > 1:
        parser.error("--growth takes one data set. Give one folder with --data.")
    commit, model = git_commit(), demo_model(device="cpu")
    sets = {str(path.name): RetrievalDataset.load(str(path)) for path in arguments.data}
    if not arguments.no_demo and not arguments.growth:
        sets["Python standard library"] = standard_library_dataset()
    flags = {"--no-demo": arguments.no_demo, "--growth": arguments.growth}
    words = [*(path.name for path in arguments.data), *(flag for flag, given in flags.items() if given)]
    words += [] if tuple(arguments.sizes) == _SIZES else ["--sizes", *map(str, arguments.sizes)]
    results: dict[str, Any] = {
        "script": "benchmark_pool.py",
        "command": f"python scripts/benchmark_pool.py --data {' '.join(words)}",
        "git_commit": commit,
        "versions": installed_versions(),
        "base_model": "all-MiniLM-L6-v2",
        "seed": 0,
    }
    if arguments.growth:
        name, dataset = next(iter(sets.items()))
        growth = _growth(embed(model, dataset, cache_dir=arguments.cache_dir), arguments.sizes)
        write_results(output, {**results, "cores": os.cpu_count(), "data_set": name, **growth})
        return
    results["data_sets"] = {}
    for name, dataset in sets.items():
        embedded = embed(model, dataset, cache_dir=arguments.cache_dir)
        results["data_sets"][name] = _compared(embedded)
        print(f"{name}: {results['data_sets'][name]}", flush=True)
        write_results(output, results)


def markdown_table(results: Mapping[str, Any]) -> str:
    """The result file as the documentation shows it."""
    lines = [
        "| data set | documents | in the pool | base | fit on all | fit on the pool | gain, cross-fitted: all | pool |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results["data_sets"].items():
        whole, part = found["whole"], found["pool"]
        gains = [
            f"{signed(each['cross_fitted_gain'])} [{', '.join(signed(end) for end in each['interval'])}]"
            for each in (whole, part)
        ]
        figures = " | ".join(fraction(value) for value in (found["base"], whole["test"], part["test"]))
        lines.append(
            f"| {name} | {found['num_documents']:,} | {found['num_pooled']:,} | {figures} | {' | '.join(gains)} |"
        )
    return "\n".join([*lines, "", "Test nDCG@10 on the whole corpus, all-MiniLM-L6-v2, seed 0."])


def growth_table(results: Mapping[str, Any]) -> str:
    """What fits took on growing corpora, the first being 1."""
    first = results["sizes"][0]
    lines = [
        "| documents in all | seen by the fit | time | without the search that chooses them |",
        "|---:|---:|---:|---:|",
    ]
    for found in results["sizes"]:
        ratios = [f"{found[key] / first[key]:.2f}" for key in ("seconds", "seconds_without_search")]
        lines.append(f"| {found['num_documents']:,} | {found['num_documents_seen']:,} | {' | '.join(ratios)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Random documents beside those of {results['data_set']}; medians of {results['rounds']} rounds on "
            f"{results['cores']} cores, the first line being 1.",
        ]
    )


def _fitted(labelled: EmbeddedSplit, embedded: EmbeddedDataset) -> FitResult:
    return fit_labelled(
        labelled, shown_by_dev(embedded), method="auto", seed=0, hurdle=Hurdle(0.05), show_progress_bar=False
    )


def _compared(embedded: EmbeddedDataset) -> dict[str, Any]:
    """The fit on all documents and the one on a pool, both measured on all of them."""
    labelled, number = labelled_split(embedded), len(embedded.corpus)
    wanted = round(_SHARE * number)
    depth, known = _depth(labelled, wanted)
    part = pooled(labelled, 0, depth, max(wanted - known, number // 50))
    whole, of_part = _fitted(labelled, embedded), _fitted(part, embedded)
    base = evaluate(embedded["test"]).base_means["ndcg@10"]
    return {
        "num_documents": number,
        "num_pooled": len(part.corpus),
        "depth": depth,
        "base": base,
        "whole": _figures(whole, embedded),
        "pool": _figures(of_part, embedded),
    }


def _depth(labelled: EmbeddedSplit, wanted: int) -> tuple[int, int]:
    """How deep each query may look, so that what is found leaves room for a sample; and how many documents that is."""
    for depth in _DEPTHS:
        known = len(pooled(labelled, 0, depth, 1).corpus) - 1
        if known <= 0.7 * wanted:
            return depth, known
    return _DEPTHS[-1], known


def _figures(found: FitResult, embedded: EmbeddedDataset) -> dict[str, Any]:
    test = evaluate(embedded["test"], found.adapter)
    return {
        "adopted": found.adopted,
        "chosen": found.chosen,
        "test": test.adapted_means["ndcg@10"],
        "cross_fitted_gain": found.verdict.gate.gain,
        "interval": list(found.verdict.gate.interval),
    }


def _growth(embedded: EmbeddedDataset, sizes: Sequence[int]) -> dict[str, Any]:
    """What fits take when random documents lie among the real ones: medians of several rounds, each of all sizes."""
    larger = {size: _with_random_documents(embedded, size) for size in sizes}
    rounds: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for _ in range(_ROUNDS):
        for size, dataset in larger.items():
            start = time.perf_counter()
            found = fit(dataset, seed=0)
            seconds = time.perf_counter() - start
            search = found.seconds.get("choosing documents", 0.0)
            rounds[size].append({"seconds": seconds, "seconds_without_search": seconds - search, **_seen(found, size)})
            print(size, rounds[size][-1], flush=True)
    return {"rounds": _ROUNDS, "sizes": [_median(size, found) for size, found in rounds.items()]}


def _seen(found: FitResult, size: int) -> dict[str, Any]:
    return {"num_documents_seen": found.num_documents or size, "gain": found.verdict.gate.gain}


def _median(size: int, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    timed = ("seconds", "seconds_without_search")
    return {"num_documents": size, **rounds[0], **{key: statistics.median(r[key] for r in rounds) for key in timed}}


def _with_random_documents(embedded: EmbeddedDataset, size: int) -> EmbeddedDataset:
    """So many documents in all, the random ones with the mean and covariance of the real ones."""
    own = embedded.in_memory().corpus.rows(torch.arange(len(embedded.corpus)))
    generator = torch.Generator().manual_seed(0)
    covariance = torch.linalg.cholesky(torch.cov(own.T) + 1e-6 * torch.eye(own.shape[1]))
    parts = [own]
    for rows in torch.arange(size - len(own)).split(2**16):
        noise = torch.randn(len(rows), own.shape[1], generator=generator) @ covariance.T
        parts.append(torch.nn.functional.normalize(own.mean(dim=0) + noise))
    ids = [*embedded.corpus.ids, *(f"random-{row}" for row in range(size - len(own)))]
    return replace(embedded, corpus=MemoryCorpus(ids, torch.cat(parts)))


if __name__ == "__main__":
    main()
