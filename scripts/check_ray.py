"""Embed on a Ray cluster of two nodes on this machine while processes, a node and the driver are killed.

In each case every id has to be there exactly once, with the vector that this process computes to 1e-5, and no more may
be computed twice than what was in work. Then the folder is searched by the cluster, which has to find what a search in
this process does. Writes scripts/results/check_ray.json. Needs `pip install "st-adapter[ray]"`.

    python scripts/check_ray.py --model MODEL
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import ROOT, git_commit, write_results
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_adapter.data.texts import TextSource
from st_adapter.demo import standard_library_dataset
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.embed_folder import FolderSettings, embed_to_folder
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.part_writer import Chunk, PartWriter
from st_adapter.embeddings.ray_engine import RayEngine
from st_adapter.saving.record import installed_versions
from st_adapter.stores.folder import VectorFolder

OUTPUT = ROOT / "scripts" / "results" / "check_ray.json"
NUM_TEXTS, PART_SIZE, NUM_ACTORS, TOLERANCE = 20_000, 500, 2, 1e-5
# Parts after which something is killed.
_AFTER = 8


@dataclass(frozen=True)
class LoggedWriter(PartWriter):
    """Writes down each chunk that it begins, and takes its time, so that what is killed is at work."""

    log: Path = Path()

    def embed(self, encoder: Encoder, chunk: Chunk, progress: Callable[[int], object] = lambda number: None) -> int:
        """Embed a chunk."""
        with (self.log / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{chunk.row}\n")
        time.sleep(0.3)
        return super().embed(encoder, chunk, progress)


def main() -> None:
    """Try every case, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a small model: folder or Hub id")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--driver", nargs=2, metavar=("ADDRESS", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = SentenceTransformer(arguments.model, device="cpu")
    if arguments.driver:
        embed_by_ray(model, arguments.driver[0], Path(arguments.driver[1]))
        return
    commit, expected = git_commit(), model.encode_document(texts(), show_progress_bar=False)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for case, kill in CASES.items():
            found[case] = _tried(model, arguments.model, Path(name) / case.replace(" ", "-"), kill, expected)
            print(case, found[case], flush=True)
    write_results(
        arguments.output,
        {
            "script": "check_ray.py",
            "command": f"python scripts/check_ray.py --model {Path(arguments.model).name}",
            "git_commit": commit,
            "versions": {**installed_versions(), "ray": version("ray")},
            "base_model": Path(arguments.model).name,
            "num_texts": NUM_TEXTS,
            "part_size": PART_SIZE,
            "num_actors": NUM_ACTORS,
            "nodes": 2,
            "cases": found,
            "all_right": all(each["right"] for each in found.values()),
        },
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """The result file as the documentation shows it."""
    titles = ["every id once", "largest difference", "parts begun", "of them twice", "processes"]
    lines = [f"| two nodes, {results['num_actors']} actors | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for case, found in results["cases"].items():
        once = "yes" if found["every_id_once"] else "no"
        cells = [once, f"{found['largest_difference']:.0e}", found["begun"], found["begun_twice"], found["processes"]]
        lines.append(f"| {case} | {' | '.join(map(str, cells))} |")
    number, size = f"{results['num_texts']:,}", results["part_size"]
    return "\n".join([*lines, "", f"{number} texts in parts of {size}, {results['base_model']}; by `check_ray.py`."])


@cache
def texts() -> list[str]:
    """Sentences of the standard library's documentation, again and again with another number before them."""
    sentences = [part[:100] for text in standard_library_dataset().corpus["text"] for part in text.split(". ")]
    return [f"{row} {sentences[row % len(sentences)]}" for row in range(NUM_TEXTS)]


def source() -> TextSource:
    return TextSource(pd.DataFrame({"id": [f"t{row}" for row in range(NUM_TEXTS)], "text": texts()}), "corpus")


def embed_by_ray(model: SentenceTransformer, address: str, folder: Path) -> VectorFolder:
    """Embed the texts into a folder, with a log beside it."""
    log = folder.with_name(f"{folder.name}-log")
    log.mkdir(parents=True, exist_ok=True)

    def engine(
        encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> None:
        logged = LoggedWriter(writer.folder, writer.role, writer.dtype, log)
        RayEngine(NUM_ACTORS, address=address)(encoder, logged, chunks, progress)

    settings = FolderSettings(part_size=PART_SIZE, engine=engine, show_progress_bar=False)
    return embed_to_folder(model, source(), folder, settings)


@dataclass(frozen=True)
class Running:
    """What can be killed.

    Attributes:
        cluster: of two nodes.
        node: the second one.
        folder: where the parts come.
        log: what each process began.
        model: the model, as it was named.
    """

    cluster: Any
    node: Any
    folder: Path
    log: Path
    model: str

    def wait(self) -> None:
        """Wait until some parts are there."""
        while len(list(self.folder.glob("part-*"))) < _AFTER:
            time.sleep(0.05)


def kill_worker(running: Running) -> None:
    """Kill the process that began a chunk last, as soon as some parts are there."""
    running.wait()
    newest = max(running.log.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    os.kill(int(newest.name), signal.SIGKILL)


def remove_node(running: Running) -> None:
    """Take a node away, with all its processes, as soon as some parts are there."""
    running.wait()
    running.cluster.remove_node(running.node, allow_graceful=False)


def kill_driver(running: Running) -> None:
    """Kill another driver that embeds to the same folder, before this one goes on with it."""
    words = [sys.executable, __file__, "--model", running.model, "--driver", running.cluster.address]
    driver = subprocess.Popen([*words, str(running.folder)])
    running.wait()
    driver.kill()
    driver.wait()


CASES: dict[str, Callable[[Running], None] | None] = {
    "undisturbed": None,
    "worker killed": kill_worker,
    "node removed": remove_node,
    "driver killed": kill_driver,
}


def _tried(
    model: SentenceTransformer, name: str, folder: Path, kill: Callable[[Running], None] | None, expected: NDArray[Any]
) -> dict[str, Any]:
    """Start a cluster, embed while something is killed, and compare."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NUM_ACTORS})
    running = Running(
        cluster, cluster.add_node(num_cpus=NUM_ACTORS), folder, folder.with_name(f"{folder.name}-log"), name
    )
    start = time.perf_counter()
    try:
        if kill is kill_driver:
            kill_driver(running)
        elif kill is not None:
            threading.Thread(target=kill, args=(running,), daemon=True).start()
        made = embed_by_ray(model, cluster.address, folder)
        seconds = time.perf_counter() - start
        return _judged(made, running, expected, seconds, searched=kill is None)
    finally:
        cluster.shutdown()


def _judged(
    made: VectorFolder, running: Running, expected: NDArray[Any], seconds: float, searched: bool
) -> dict[str, Any]:
    begun = [row for log in running.log.iterdir() for row in log.read_text().split()]
    processes = len(list(running.log.iterdir()))
    chunks = NUM_TEXTS // PART_SIZE
    apart = float(np.abs(made.rows(np.arange(made.count)) - expected).max())
    once = list(made.ids) == [f"t{row}" for row in range(NUM_TEXTS)]
    result: dict[str, Any] = {
        "seconds": seconds,
        "chunks": chunks,
        "begun": len(begun),
        "begun_twice": len(begun) - len(set(begun)),
        "processes": processes,
        "every_id_once": once,
        "largest_difference": apart,
        # Each process that was lost had one chunk in work, and may have had those of Ray's queue before it.
        "right": once and apart <= TOLERANCE and set(begun) == {str(row) for row in range(0, NUM_TEXTS, PART_SIZE)},
    }
    if searched:
        queries = torch.nn.functional.normalize(torch.from_numpy(expected[:50]))
        here = DiskCorpus(made, "cosine").search(queries, 100)
        made.ray_address = running.cluster.address
        there = DiskCorpus(made, "cosine").search(queries, 100)
        result["search_equal"] = all(torch.equal(*both) for both in zip(here, there, strict=True))
        result["right"] = result["right"] and result["search_equal"]
    return result


if __name__ == "__main__":
    main()
