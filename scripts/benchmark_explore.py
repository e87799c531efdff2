"""How long `st-adapter explore` takes for an answer among 100,000 documents, its first one and those after it.

The model is all-MiniLM-L6-v2 with an adapter of random weights; the documents' vectors are random too, as the time does
not depend on what they are. Each question is one that was not asked before. Writes
scripts/results/benchmark_explore.json, and fails if the median is over the target.

    python scripts/benchmark_explore.py
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from benchmark_quality import ROOT, device_name, git_commit, write_results
from benchmark_report import WORDS, made_up_results

from st_adapter import QueryAdapter, RetrievalDataset, attach
from st_adapter.demo import demo_model
from st_adapter.evidence.explorer import Explorer
from st_adapter.evidence.exploring import explored

OUTPUT = ROOT / "scripts" / "results" / "benchmark_explore.json"
DIMENSION, NUM_LABELLED, NUM_QUESTIONS, TARGET = 384, 40, 50, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--cache-dir", type=Path, help="where embeddings are cached; default: as the package does")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    adapter = QueryAdapter(DIMENSION)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model = attach(demo_model("cpu"), adapter, allow_other_base=True)
    dataset = made_up_data(arguments.documents)
    results = made_up_results(NUM_LABELLED)
    data = replace(results.data, num_documents=arguments.documents)
    start = time.perf_counter()
    found = explored(
        model,
        dataset,
        replace(results, data=data, dev=None, test=None),
        allow_other_vectors=True,
        cache_dir=arguments.cache_dir,
        show_progress_bar=False,
    )
    explorer = Explorer(found.material)
    opening = time.perf_counter() - start
    load, seconds, of_processor = os.getloadavg()[0], [], []
    for number in range(NUM_QUESTIONS + 1):
        start, processor = time.perf_counter(), time.process_time()
        explorer.answer(f"{' '.join(WORDS[number % 9 : number % 9 + 7])}, number {number}")
        seconds.append(time.perf_counter() - start)
        of_processor.append(time.process_time() - processor)
    first, *others = seconds
    median = statistics.median(others)
    measured = {
        "script": "benchmark_explore.py",
        "command": f"python scripts/benchmark_explore.py --documents {arguments.documents}",
        "git_commit": git_commit(),
        "device": device_name(torch.device("cpu")),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "num_documents": arguments.documents,
        "dimension": DIMENSION,
        "load_average": round(load, 2),
        "opening_seconds": round(opening, 2),
        "first_answer_seconds": round(first, 4),
        "answer_seconds": {"median": round(median, 4), "most": round(max(others), 4), "questions": NUM_QUESTIONS},
        "answer_cpu_seconds": {
            "first": round(of_processor[0], 4),
            "median": round(statistics.median(of_processor[1:]), 4),
        },
        "target_seconds": TARGET,
    }
    write_results(arguments.output, measured)
    print(measured)
    if median > TARGET:
        raise SystemExit(f"An answer takes {median:.2f} s, over {TARGET} s.")


def made_up_data(num_documents: int) -> RetrievalDataset:
    """Documents with random vectors and ordinary texts, and a few labelled queries."""
    vectors = torch.nn.functional.normalize(torch.randn(num_documents, DIMENSION)).numpy()
    ids = [f"d{row}" for row in range(num_documents)]
    texts = [f"{row} {' '.join(WORDS)}" for row in range(num_documents)]
    queries = [f"q{row}" for row in range(NUM_LABELLED)]
    return RetrievalDataset.load(
        {
            "corpus": pd.DataFrame({"id": ids, "text": texts, "embedding": list(vectors)}),
            "queries": pd.DataFrame({"id": queries, "text": [f"{' '.join(WORDS[:8])} {row}" for row in queries]}),
            "qrels": pd.DataFrame({"query_id": queries, "corpus_id": ids[:NUM_LABELLED], "score": 1.0}),
        }
    )


if __name__ == "__main__":
    main()
