"""Size of the report of a run with 10,000 test queries, and the time it takes.

The run is made up: random reciprocal ranks and gains, comparisons computed from them, texts of ordinary length. Writes
scripts/results/benchmark_report.json.

    python scripts/benchmark_report.py
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import ROOT, device_name, git_commit, write_results

from st_adapter import EmbeddedDataset, EmbeddedQrels, QueryAdapter, RetrievalDataset, evaluate
from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.leaks import LeakReport
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evaluation.statistics import gate
from st_adapter.evidence import write_report
from st_adapter.evidence.changes import largest_changes
from st_adapter.evidence.data_results import DataResults
from st_adapter.evidence.output_folder import RESULTS_FILE
from st_adapter.evidence.results import Results, SelectionResults
from st_adapter.evidence.split_results import SplitResults

OUTPUT = ROOT / "scripts" / "results" / "benchmark_report.json"
NUM_DOCUMENTS, DIM, NUM_RUNS = 5_000, 64, 3
WORDS = "how to list files in a folder and read every line of them without loading the whole file into memory".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queries", type=int, default=10_000, help="test queries")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        made_up_results(arguments.queries).write(folder / RESULTS_FILE)
        evaluating = time.perf_counter() - start
        runs = []
        for _ in range(NUM_RUNS):
            load, cpu, start = os.getloadavg()[0], time.process_time(), time.perf_counter()
            report = write_report(folder)
            runs.append(
                {
                    "wall_seconds": round(time.perf_counter() - start, 2),
                    "cpu_seconds": round(time.process_time() - cpu, 2),
                    "load_average": round(load, 2),
                }
            )
        sizes = {path.name: path.stat().st_size for path in (*report, folder / RESULTS_FILE)}
    results = {
        "script": "benchmark_report.py",
        "command": f"python scripts/benchmark_report.py --queries {arguments.queries}",
        "git_commit": git_commit(),
        "device": device_name(torch.device("cpu")),
        "versions": {"python": platform.python_version(), "matplotlib": version("matplotlib")},
        "num_test_queries": arguments.queries,
        "bytes": sizes,
        "evaluating_seconds": round(evaluating, 2),
        "report": runs,
        "targets": {"page_bytes": 5_000_000, "seconds": 20},
    }
    write_results(arguments.output, results)
    print(f"{arguments.queries:,} queries: {sizes}; report {runs}; evaluation before it {evaluating:.1f} s")


def made_up_results(num_queries: int) -> Results:
    """What a run on random vectors would have left in results.json."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(NUM_DOCUMENTS, DIM, generator=generator))
    answers = torch.randint(0, NUM_DOCUMENTS, (num_queries,), generator=generator)
    turn = torch.linalg.matrix_exp(0.05 * torch.randn(DIM, DIM, generator=generator))
    queries = documents[answers] @ turn + 0.16 * torch.randn(num_queries, DIM, generator=generator)
    query_ids = [f"q{number}" for number in range(num_queries)]
    corpus_ids = [f"d{number}" for number in range(NUM_DOCUMENTS)]
    half = num_queries // 2
    parts = {"train": slice(0, half), "test": slice(0, num_queries)}
    rows = torch.arange(num_queries)
    qrels = {
        split: EmbeddedQrels(rows[part], answers[part], torch.ones(len(rows[part]))) for split, part in parts.items()
    }
    queries, corpus = torch.nn.functional.normalize(queries), MemoryCorpus(corpus_ids, documents)
    embedded = EmbeddedDataset(query_ids, queries, corpus, qrels, True)
    adapter = QueryAdapter.from_matrix(torch.linalg.inv(turn).T)
    evaluation = evaluate(embedded["test"], adapter, seen_documents=seen_documents(embedded, ["train"]))
    dataset = RetrievalDataset.load(made_up_texts(query_ids, corpus_ids, answers.tolist()))
    verdict = gate(evaluation.adapted["ndcg@10"] - evaluation.base["ndcg@10"])
    changes = largest_changes(dataset, embedded["test"], evaluation, adapter)
    return Results(
        base_model=None,
        data=DataResults.of(dataset, embedded, LeakReport(PARAPHRASE_THRESHOLD, PARAPHRASE_THRESHOLD, ())),
        method="gradient",
        adopted=True,
        fitted_on=["train"],
        adapter=adapter.get_config_dict(),
        selection=SelectionResults(chosen="made up", gate=verdict),
        test=SplitResults.of(evaluation, changes),
        seconds={"evaluating": evaluation.seconds},
        seed=0,
        arguments={},
        alpha=0.05,
        precision="fp32",
        device="cpu",
        versions={"python": platform.python_version()},
    )


def made_up_texts(query_ids: list[str], corpus_ids: list[str], answers: list[int]) -> dict[str, Any]:
    """Corpus, queries and judgements whose texts have 12 and 200 words."""
    generator = np.random.default_rng(0)

    def texts(ids: list[str], number: int) -> pd.DataFrame:
        words = generator.integers(0, len(WORDS), (len(ids), number))
        frame: pd.DataFrame = pd.DataFrame(
            {"id": ids, "text": [f"{i} " + " ".join(WORDS[w] for w in r) for i, r in zip(ids, words, strict=True)]}
        )
        return frame

    qrels = pd.DataFrame({"query_id": query_ids, "corpus_id": [f"d{number}" for number in answers], "score": 1.0})
    return {
        "corpus": texts(corpus_ids, 200),
        "queries": texts(query_ids, 12),
        "qrels": qrels,
    }


if __name__ == "__main__":
    main()
