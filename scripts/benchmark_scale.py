"""A corpus on disk that is larger than memory: exact search, evaluation and fit, and what embedding to a folder costs.

The documents are random vectors of unit length, the queries are relevant documents turned by one fixed matrix, with
noise. They are written to a folder of vectors, searched there with base and adapted queries, and compared with a bare
blocked product over the same files in the same process, with a search in memory on the first million, and in the time
of a fit with 100,000 of them. Then real texts are embedded to a folder, in one process and in two, and by a bare loop
over `model.encode`. Writes scripts/results/benchmark_scale.json. With 10,000,000 documents it takes 8 GB of disk.

    python scripts/benchmark_scale.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import ROOT, git_commit, write_results
from torch import Tensor

from st_adapter import EmbeddedDataset, EmbeddedQrels, evaluate, fit
from st_adapter.data.texts import TextSource
from st_adapter.demo import demo_model, standard_library_dataset
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.embed_folder import FolderSettings, embed_to_folder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.local_engine import LocalEngine
from st_adapter.saving.record import installed_versions
from st_adapter.storage.manifest import Manifest
from st_adapter.storage.vector_parts import MAX_ROWS, write_part
from st_adapter.stores.folder import VectorFolder

OUTPUT = ROOT / "scripts" / "results" / "benchmark_scale.json"
DIMENSION, NUM_QUERIES, NUM_LABELLED = 384, 1000, 600
SMALL, COMPARED = 100_000, 1_000_000
_STEPS = ("search", "fit", "embed")


def main() -> None:
    """Make the documents, take the steps, each in a process of its own, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--texts", type=int, default=1000, help="real texts to embed")
    parser.add_argument("--memory", type=float, default=4, help="GB that a search may take")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of search and fit")
    parser.add_argument("--method", choices=["auto", "closed-form"], default="auto", help="of the fits")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "st-adapter-scale")
    parser.add_argument("--step", choices=_STEPS, help="take this step alone, and print what it finds")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    if arguments.step is not None:
        torch.set_num_threads(1 if arguments.step == "embed" else arguments.threads)
        print(json.dumps(globals()[f"{arguments.step}_step"](arguments)))
        return
    commit, started, load = git_commit(), time.perf_counter(), os.getloadavg()[0]
    try:
        made = make_documents(arguments.folder, arguments.documents)
        found = {step: _in_process(step) for step in _STEPS}
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    write_results(
        arguments.output,
        {
            "script": "benchmark_scale.py",
            "command": f"python scripts/benchmark_scale.py --documents {arguments.documents} --texts {arguments.texts} "
            f"--method {arguments.method}",
            "git_commit": commit,
            "versions": installed_versions(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "num_documents": arguments.documents,
            "dimension": DIMENSION,
            "dtype": "float16",
            "num_queries": NUM_QUERIES,
            "memory_gb": arguments.memory,
            "making_seconds": made,
            "seconds": time.perf_counter() - started,
            "load_before": load,
            **found,
        },
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """The result file as the documentation shows it."""
    search, fitting, embedding = results["search"], results["fit"], results["embed"]
    number, queries = f"{results['num_documents']:,}", f"{results['num_queries']:,}"
    share = search["speed_of_bare_product"]
    seconds = ", ".join(f"{search['evaluation'][f'{kind}_seconds']:.0f}" for kind in ("wall", "cpu"))
    rows = {
        f"evaluation of base and adapted queries ({queries}), most memory": f"{search['peak_resident_gb']:.1f} GB",
        "the same, seconds on the wall and of the processor": seconds,
        "its speed, a bare blocked product over the same files being 1: wall, processor": (
            f"{share['wall_seconds']:.2f}, {share['cpu_seconds']:.2f}"
        ),
        f"equal to a search in memory on the first {search['num_compared']:,}, bit for bit": (
            "yes" if search["equal_in_memory"] else "no"
        ),
        f"fit ({fitting['method']}), time in that with {fitting['small']['num_documents']:,} documents: without the "
        "search that chooses documents, with it": f"{fitting['ratio_without_search']:.2f}, {fitting['ratio']:.2f}",
        "embedding in one process, speed of a bare loop over `model.encode` being 1": (
            f"{embedding['speed_of_bare_loop']:.2f}"
        ),
        "two processes once they run, speed of one with one thread being 1": (
            f"{embedding['speed_of_two_processes']:.2f}"
        ),
    }
    lines = [f"| {number} documents of {results['dimension']} dimensions in {results['dtype']} | |", "|---|---:|"]
    lines += [f"| {what} | {value} |" for what, value in rows.items()]
    load = f"{results['load_before']:.0f}"
    how = f"By `benchmark_scale.py`, on {results['cores']} cores shared with other work (load {load} when it began)."
    return "\n".join([*lines, "", how])


def _in_process(step: str) -> Any:
    """What a step finds in a process of its own, whose memory is its own too."""
    print(step, flush=True)
    done = subprocess.run([sys.executable, *sys.argv, "--step", step], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, flush=True)
    return found


def documents(first: int, number: int) -> Tensor:
    """Random unit vectors (number, D) as they are kept; the same for the same ``first``."""
    generator = torch.Generator().manual_seed(first)
    return torch.nn.functional.normalize(torch.randn((number, DIMENSION), generator=generator)).half()


def make_documents(folder: Path, number: int) -> float:
    """Write the documents of three folders: all, and the first of them for the comparisons.

    Returns:
        Seconds that it took.
    """
    start = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    identity = EncoderIdentity.probed("random", torch.nn.functional.normalize(torch.ones(2, DIMENSION)))
    for name, size in _sizes(number).items():
        (folder / name).mkdir(parents=True)
        Manifest(identity.to_dict(), "document", "", DIMENSION, "float16", size, True).write(folder / name)
    for first in range(0, number, MAX_ROWS):
        vectors = documents(first, min(MAX_ROWS, number - first)).numpy()
        for name, size in _sizes(number).items():
            rows = min(len(vectors), size - first)
            if rows > 0:
                path = folder / name / f"part-{first:012d}.parquet"
                write_part(path, [f"d{row}" for row in range(first, first + rows)], vectors[:rows], True)
    return time.perf_counter() - start


def _sizes(number: int) -> dict[str, int]:
    return {"all": number, "compared": min(COMPARED, number), "small": min(SMALL, number)}


def _queries(corpus: DiskCorpus, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Queries (number, D) and the rows of their relevant documents, all among the first 100,000."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(min(SMALL, len(corpus)), generator=generator)[:number]
    noise = torch.randn((number, DIMENSION), generator=generator) / DIMENSION**0.5
    return torch.nn.functional.normalize(corpus.rows(rows) @ _turn() + 2.5 * noise), rows


def _turn() -> Tensor:
    """A rotation (D, D) by which a vector and its image have a cosine of about .5."""
    numbers = torch.randn((DIMENSION, DIMENSION), generator=torch.Generator().manual_seed(1))
    turn: Tensor = torch.linalg.matrix_exp((numbers - numbers.T) * 0.04)
    return turn


def _corpus(arguments: argparse.Namespace, name: str) -> DiskCorpus:
    return DiskCorpus(VectorFolder(arguments.folder / name, memory=int(arguments.memory * 1e9)), "cosine")


def _embedded(corpus: DiskCorpus, splits: Mapping[str, int]) -> EmbeddedDataset:
    """A data set with so many queries in each split."""
    queries, rows = _queries(corpus, sum(splits.values()), seed=2)
    numbers = torch.arange(len(rows)).split(list(splits.values()))
    qrels = {
        split: EmbeddedQrels(chosen, rows[chosen], torch.ones(len(chosen)))
        for split, chosen in zip(splits, numbers, strict=True)
    }
    return EmbeddedDataset([f"q{row}" for row in range(len(rows))], queries, corpus, qrels, True)


class Clock:
    """Seconds since it was made: on the wall, and of this process on the processor, whatever else runs on it."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both."""
        return {"wall_seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def _peak_gb() -> float:
    """Most that this process has had resident so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def search_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate base and adapted queries, and compare with a bare product and with a search in memory."""
    start = time.perf_counter()
    corpus = _corpus(arguments, "all")
    opening = time.perf_counter() - start
    split = _embedded(corpus, {"test": NUM_QUERIES})["test"]
    clock = Clock()
    result = evaluate(split, lambda queries: queries @ _turn().T)
    evaluation, resident = clock.read(), _peak_gb()
    bare = _bare_product(corpus, split.query_embeddings)
    return {
        "opening_seconds": opening,
        "evaluation": evaluation,
        "base_ndcg": result.base_means["ndcg@10"],
        "adapted_ndcg": result.adapted_means["ndcg@10"],
        "peak_resident_gb": resident,
        "bare_product": bare,
        # An evaluation searches twice, with base and with adapted queries.
        "speed_of_bare_product": {name: 2 * bare[name] / evaluation[name] for name in bare},
        "equal_in_memory": _equal_in_memory(_corpus(arguments, "compared"), split.query_embeddings),
        "num_compared": min(COMPARED, len(corpus)),
    }


def _bare_product(corpus: DiskCorpus, queries: Tensor) -> dict[str, float]:
    """Seconds of reading all vectors and multiplying them with the queries, and nothing else."""
    clock = Clock()
    for part in corpus.folder.parts:
        _ = queries @ torch.from_numpy(part.vectors()).float().T
    return clock.read()


def _equal_in_memory(corpus: DiskCorpus, queries: Tensor) -> bool:
    """Whether scores and order are those of a search in memory, bit for bit."""
    vectors = torch.cat([torch.from_numpy(part.vectors()).float() for part in corpus.folder.parts])
    on_disk, in_memory = corpus.search(queries, 100), MemoryCorpus(corpus.ids, vectors).search(queries, 100)
    return all(torch.equal(*both) for both in zip(on_disk, in_memory, strict=True))


def fit_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit with 100,000 of the documents and with all."""
    found: dict[str, Any] = {}
    for name in ("small", "all"):
        embedded = _embedded(_corpus(arguments, name), {"train": NUM_LABELLED * 3 // 4, "dev": NUM_LABELLED // 4})
        clock = Clock()
        fitted = fit(embedded, method=arguments.method)
        found[name] = {
            "num_documents": len(embedded.corpus),
            **clock.read(),
            "seconds_by_step": fitted.seconds,
            "adopted": fitted.adopted,
        }
    # The search that chooses the documents grows with them, as any search does; what is learned from does not.
    seconds = {
        name: each["wall_seconds"] - each["seconds_by_step"].get("choosing documents", 0.0)
        for name, each in found.items()
    }
    return {
        **found,
        "num_labelled": NUM_LABELLED,
        "method": arguments.method,
        "ratio": found["all"]["wall_seconds"] / found["small"]["wall_seconds"],
        "ratio_without_search": seconds["all"] / seconds["small"],
        "peak_resident_gb": _peak_gb(),
    }


def embed_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds for texts by a bare loop and by the engine, with one thread; and of two processes once they run."""
    model, texts = demo_model(device="cpu"), list(standard_library_dataset().corpus["text"])[: arguments.texts]
    table = pd.DataFrame({"id": [f"d{row}" for row in range(len(texts))], "text": texts})

    def seconds(number: int, processes: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            settings = FolderSettings(part_size=256, engine=LocalEngine(processes), show_progress_bar=False)
            start = time.perf_counter()
            embed_to_folder(model, TextSource(table.head(number), "corpus"), Path(folder) / "vectors", settings)
            return time.perf_counter() - start

    model.encode_document(texts[:64])
    rounds = []
    for _ in range(2):
        start = time.perf_counter()
        for first in range(0, len(texts), 256):
            model.encode(texts[first : first + 256], show_progress_bar=False)
        bare = time.perf_counter() - start
        one, half = seconds(len(texts), 1), seconds(len(texts) // 2, 1)
        two, two_half = seconds(len(texts), 2), seconds(len(texts) // 2, 2)
        rounds.append({"bare": bare, "one": one, "one_half": half, "two": two, "two_half": two_half})
    median = {name: float(np.median([each[name] for each in rounds])) for name in rounds[0]}
    return {
        "num_texts": len(texts),
        "base_model": "all-MiniLM-L6-v2",
        "rounds": rounds,
        "speed_of_bare_loop": median["bare"] / median["one"],
        # The time of the second half: the first one includes starting the processes.
        "speed_of_two_processes": (median["one"] - median["one_half"]) / (median["two"] - median["two_half"]),
        "starting_two_seconds": 2 * median["two_half"] - median["two"],
    }


if __name__ == "__main__":
    main()
