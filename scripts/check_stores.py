"""Fit on a corpus that lies in a vector database, for each kind of database, and compare with the fit from its texts.

Each database is filled with the base model's vectors beforehand. Then `st-adapter train --corpus STORE` runs on it: how
many documents it embeds, where its adapter ends on the test split, and whether a byte of the database changed.

    python scripts/check_stores.py --data DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from benchmark_quality import ROOT, git_commit, write_results
from build_stores import BUILDERS
from huggingface_hub.constants import HF_HOME
from numpy.typing import NDArray

from st_adapter import RetrievalDataset, embed
from st_adapter.demo import demo_model
from st_adapter.saving.record import installed_versions
from st_adapter.words import fraction

OUTPUT = ROOT / "scripts" / "results" / "check_stores.json"
_CLIENTS = {"chroma": "chromadb", "faiss": "faiss-cpu", "milvus": "pymilvus", "postgresql": "psycopg"}
_CLIENTS |= {"lancedb": "lancedb", "qdrant": "qdrant-client"}
# What an open database keeps beside its data.
_NO_DATA = (".lock", ".log", ".pid", "-wal", "-shm")


def main() -> None:
    """Fill, fit, compare, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--only", nargs="+", choices=sorted(BUILDERS), default=sorted(BUILDERS))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit, start = git_commit(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = demo_model(device="cpu")
        model.save_pretrained(str(folder / "base"))
        dataset = RetrievalDataset.load(str(arguments.data))
        embedded = embed(model, dataset)
        vectors = embedded.corpus.rows(torch.arange(len(embedded.corpus))).numpy()
        ids, texts = list(embedded.corpus.ids), list(dataset.corpus["text"])
        _write_tables(dataset, folder)
        # What the first lines embedded need not be embedded again.
        from_texts = _trained(folder, "texts", ["--data", str(arguments.data)], cache=Path(HF_HOME) / "st_adapter")
        stores = {}
        for kind in arguments.only:
            stores[kind] = _checked(kind, folder, ids, vectors, texts, from_texts)
            print(f"{kind}: {stores[kind]}", flush=True)
    write_results(
        arguments.output,
        {
            "script": "check_stores.py",
            "git_commit": commit,
            "versions": installed_versions(),
            "data": dataset.name,
            "num_documents": len(ids),
            "from_texts": from_texts,
            "stores": stores,
            "seconds": time.perf_counter() - start,
        },
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """The result file as the documentation shows it."""
    whole = results["from_texts"]
    lines = [
        "| corpus | client | embedded by the run | base | adapted | bytes unchanged |",
        "|---|---|---:|---:|---:|---|",
        f"| texts | – | – | {fraction(whole['base'])} | {fraction(whole['adapted'])} | – |",
    ]
    for kind, found in results["stores"].items():
        figures = f"{found['num_embedded']:,} | {fraction(found['base'])} | {fraction(found['adapted'])}"
        unchanged = "yes" if found["unchanged"] else "**no**"
        lines.append(f"| {kind} | {found['client']} {found['version']} | {figures} | {unchanged} |")
    lines += [
        "",
        f"Test nDCG@10 on {results['data']}, {results['num_documents']:,} documents, all-MiniLM-L6-v2, seed 0. "
        "Embedded: texts that the run embedded and kept, which are queries alone where the documents lie in a store.",
    ]
    return "\n".join(lines)


def _write_tables(dataset: RetrievalDataset, folder: Path) -> None:
    """Labels by id and queries, as somebody has them whose documents lie in a database."""
    labels = [rows.to_pandas().assign(split=split) for split, rows in dataset.qrels.items()]
    pd.concat(labels).to_parquet(folder / "labels.parquet")
    dataset.queries.to_pandas().to_parquet(folder / "queries.parquet")


def _trained(folder: Path, name: str, where: list[str], cache: Path | None = None) -> dict[str, Any]:
    """Run `st-adapter train`, and read what it measured."""
    output, own, cache = folder / f"out-{name}", cache is None, cache or folder / f"cache-{name}"
    command = [sys.executable, "-m", "st_adapter", "train", "--model", str(folder / "base"), *where]
    command += ["--output-dir", str(output), "--cache-dir", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    return {
        "adopted": results["adopted"],
        "base": compared["base"],
        "adapted": compared["adapted"],
        "num_embedded": sum(_num_rows(path) for path in cache.rglob("*.arrow")) if own else None,
        "fit_seconds": results["seconds"]["fitting"],
        "comparison": [note for note in results["data"]["notes"] if note.startswith("Documents: ")],
    }


def _num_rows(path: Path) -> int:
    """Texts in a file of the cache."""
    with pa.memory_map(str(path)) as source:
        return int(pa.ipc.open_stream(source).read_all().num_rows)


def _checked(
    kind: str, folder: Path, ids: list[str], vectors: NDArray[np.float32], texts: list[str], whole: dict[str, Any]
) -> dict[str, Any]:
    place = folder / kind
    place.mkdir()
    with ExitStack() as stack:
        address = _filled(kind, place, stack, ids, vectors, texts)
        # A server writes as it likes while it runs: of its table the rows are compared.
        before = _digests(place) if kind != "postgresql" else _rows_digest(address)
        where = ["--corpus", address, "--labels", str(folder / "labels.parquet")]
        found = _trained(folder, kind, [*where, "--queries", str(folder / "queries.parquet")])
        after = _digests(place) if kind != "postgresql" else _rows_digest(address)
    return {
        "client": _CLIENTS[kind],
        "version": version(_CLIENTS[kind]),
        **found,
        "adapted_minus_texts": found["adapted"] - whole["adapted"],
        "unchanged": before == after,
    }


def _filled(
    kind: str, place: Path, stack: ExitStack, ids: list[str], vectors: NDArray[np.float32], texts: list[str]
) -> str:
    """Fill a database, in a process of its own if it lies in files: clients keep some of these open to their end."""
    if kind == "postgresql":
        return stack.enter_context(BUILDERS[kind](place, ids, vectors, texts))
    rows = place.with_suffix(".npz")
    np.savez(rows, ids=np.array(ids), vectors=vectors, texts=np.array(texts))
    command = [sys.executable, str(ROOT / "scripts" / "build_stores.py"), kind, str(rows), str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def _digests(place: Path) -> dict[str, str]:
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.endswith(_NO_DATA))
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _rows_digest(address: str) -> str:
    import psycopg

    with psycopg.connect(address.partition("#")[0]) as connection:
        row = connection.execute("SELECT md5(string_agg(docs::text, ',' ORDER BY id)) FROM docs").fetchone()
    return str(row)


if __name__ == "__main__":
    main()
