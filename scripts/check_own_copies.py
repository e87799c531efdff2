"""Compare our metrics with trec_eval's on runs without the queries' own copies, where queries stand in the corpus.

Simulated sets have several copies a query, copies that are judged relevant and copies judged 0, and few different
scores. Then the demo's data and, with --data, further folders: once as they are and once with every query put into the
corpus as a document, with an adapter fitted to each. Leaving the copies out, the two must differ by what other queries
do as documents, and not by the queries' own. The run that trec_eval gets is made here, with a search of its own. Writes
scripts/results/check_own_copies.json.

    python scripts/check_own_copies.py --data FOLDER
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytrec_eval
import torch
from benchmark_quality import ROOT, device_name, git_commit, write_results
from torch import Tensor

from st_adapter import EmbeddedDataset, EmbeddedQrels, RetrievalDataset, embed, evaluate, fit
from st_adapter.demo import demo_model, standard_library_dataset
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.evaluation.hits import Adapter, adapt

OUTPUT = ROOT / "scripts" / "results" / "check_own_copies.json"
PACKAGES = ("st-adapter", "pytrec_eval-terrier", "sentence-transformers", "torch", "numpy")
MEASURES = {"ndcg@10": "ndcg_cut_10", "map@100": "map_cut_100", "recall@10": "recall_10", "precision@5": "P_5"}
TOLERANCE = 1e-9
DEPTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", type=int, default=100, help="simulated sets of each similarity")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="FOLDER", help="further data sets")
    parser.add_argument("--method", choices=["auto", "closed-form"], default="auto", help="how adapters are fitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path, help="where embeddings are cached; default: as the package does")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit = git_commit()
    model = demo_model()
    names = [folder.resolve().name for folder in arguments.data]
    command = f"python scripts/check_own_copies.py --sets {arguments.sets} --method {arguments.method}"
    results: dict[str, Any] = {
        "settings": {
            "script": "check_own_copies.py",
            "sets": arguments.sets,
            "data": names,
            "method": arguments.method,
            "seed": arguments.seed,
            "tolerance": TOLERANCE,
        },
        "git_commit": commit,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": device_name(model.device),
        "command": f"{command} --seed {arguments.seed}" + (f" --data {' '.join(names)}" if names else ""),
        "simulated": simulated(arguments.sets, arguments.seed),
        "data_sets": {},
    }
    material = {"standard library": standard_library_dataset(arguments.seed)}
    material |= {name: RetrievalDataset.load(str(path)) for name, path in zip(names, arguments.data, strict=True)}
    for name, plain in material.items():
        for form, dataset in (("as it is", plain), ("queries in the corpus", with_queries_in_corpus(plain))):
            embedded = embed(model, dataset, cache_dir=arguments.cache_dir, show_progress_bar=False)
            entry = results["data_sets"][f"{name}, {form}"] = measured(embedded, arguments.method, arguments.seed)
            print(f"{name}, {form}: {entry}")
    checked = [*results["simulated"].values(), *results["data_sets"].values()]
    results["all_equal"] = all(entry["largest_difference"] <= TOLERANCE for entry in checked)
    write_results(arguments.output, results)
    print(f"all equal: {results['all_equal']}")


def with_queries_in_corpus(dataset: RetrievalDataset) -> RetrievalDataset:
    """The same judgements, with every query a document as well, under an id of its own."""
    corpus_ids, corpus_texts = list(dataset.corpus["id"]), list(dataset.corpus["text"])
    known, ids = set(corpus_texts), set(corpus_ids)
    for query_id, text in zip(dataset.queries["id"], dataset.queries["text"], strict=True):
        if text not in known:
            corpus_id = f"query {query_id}"
            while corpus_id in ids:
                corpus_id += "'"
            corpus_ids.append(corpus_id)
            corpus_texts.append(text)
            known.add(text)
            ids.add(corpus_id)
    corpus = datasets.Dataset.from_dict({"id": corpus_ids, "text": corpus_texts})
    return RetrievalDataset(dataset.queries, corpus, dataset.qrels, name=dataset.name)


def measured(embedded: EmbeddedDataset, method: Any, seed: int) -> dict[str, Any]:
    """Fit, evaluate on test, and compare with trec_eval query by query."""
    fitted = fit(embedded, method=method, seed=seed)
    split = embedded["test"]
    result = evaluate(split, fitted.adapter, ks=[5, 10, DEPTH])
    sides = ((result.base, None), (result.adapted, fitted.adapter))
    compared = result.compare("ndcg@10")
    return {
        "num_queries": len(result.query_ids),
        "num_documents": result.num_documents,
        "num_own_copies": result.num_own_copies,
        "base_ndcg@10": compared.base,
        "adapted_ndcg@10": compared.adapted,
        "interval": list(compared.interval),
        "adopted": fitted.adopted,
        "largest_difference": max(largest_difference(split, ours, adapter) for ours, adapter in sides),
    }


def simulated(number: int, seed: int) -> dict[str, dict[str, Any]]:
    """Sets of few queries and documents, with integer vectors so that scores tie."""
    entries: dict[str, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(seed)
    for similarity in ("cosine", "dot"):
        differences, num_copies = [], 0
        for _ in range(number):
            split = random_split(generator, similarity)
            result = evaluate(split, ks=[5, 10, DEPTH])
            differences.append(largest_difference(split, result.base, None))
            num_copies += len(split.left_out.query_index)
        entries[similarity] = {
            "sets": number,
            "copies_left_out": num_copies,
            "largest_difference": max(differences, default=0.0),
        }
        print(f"simulated, {similarity}: {entries[similarity]}")
    return entries


def random_split(generator: torch.Generator, similarity: Any) -> EmbeddedSplit:
    num_queries, num_documents = 6, int(torch.randint(1, 30, (), generator=generator))

    def pairs(share: float) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(num_queries, num_documents, generator=generator) < share
        chosen[0, 0] = True
        rows, documents = chosen.nonzero(as_tuple=True)
        return rows, documents

    judged = pairs(0.3)
    grades = torch.randint(0, 4, (len(judged[0]),), generator=generator).float()
    grades[0] = 1.0
    return EmbeddedSplit(
        "test",
        [f"q{row}" for row in range(num_queries)],
        torch.randint(-2, 3, (num_queries, 4), generator=generator) + 0.25,
        MemoryCorpus(
            [f"d{row}" for row in range(num_documents)],
            torch.randint(-2, 3, (num_documents, 4), generator=generator) + 0.5,
            similarity,
        ),
        EmbeddedQrels(*judged, grades),
        own_copies=OwnCopies(*pairs(0.15)),
    )


def largest_difference(split: EmbeddedSplit, ours: Mapping[str, Any], adapter: Adapter | None) -> float:
    """Between our metrics and trec_eval's on a run without own copies that are not judged relevant."""
    queries = split.query_embeddings if adapter is None else adapt(adapter, split.query_embeddings)
    queries, documents = split.comparable(queries), MemoryCorpus.of(split.corpus).embeddings.double().cpu()
    assert split.own_copies is not None
    copies = set(zip(*(part.tolist() for part in split.own_copies), strict=True))
    qrels: dict[str, dict[str, int]] = {query_id: {} for query_id in split.query_ids}
    for row, document, grade in zip(*(part.tolist() for part in split.qrels), strict=True):
        qrels[split.query_ids[row]][split.corpus.ids[document]] = round(grade)
        if grade > 0:
            copies.discard((row, document))
    run: dict[str, dict[str, float]] = {}
    for row, (query_id, query) in enumerate(zip(split.query_ids, queries.double().cpu(), strict=True)):
        scores = (documents * query).sum(dim=1).float()
        ranked = scores.sort(descending=True, stable=True).indices.tolist()
        kept = [document for document in ranked if (row, document) not in copies][:DEPTH]
        run[query_id] = {split.corpus.ids[document]: float(-rank) for rank, document in enumerate(kept)}
    kept_ids = [query_id for query_id, judged in qrels.items() if max(judged.values(), default=0) > 0]
    measures = {"ndcg_cut.10", "map_cut.100", "recall.10", "P.5"}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    differences = [
        np.abs(ours[name] - [found.get(query_id, {}).get(theirs, 0.0) for query_id in kept_ids]).max()
        for name, theirs in MEASURES.items()
    ]
    return float(max(differences))


if __name__ == "__main__":
    main()
