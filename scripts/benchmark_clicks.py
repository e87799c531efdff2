"""What adapters learn from a click log with position bias, with its ranks and without: nDCG@10 on true labels.

Users are made up, their queries and documents are real. For every query of train and dev the base model shows ten
documents, in an order that varies a little from session to session. A user looks at rank r with probability 1/r, clicks
what is relevant and looked at with probability .8, and what is not with .1. True labels say which documents are
relevant, and nothing else of them is learned from. The log is read as `RetrievalDataset.load` reads it, once with its
column `rank`, by which clicks are weighted with inverse propensities, and once without. Test queries keep their true
labels. Fits are those of method `closed-form`. Writes scripts/results/benchmark_clicks.json.

    python scripts/benchmark_clicks.py                 # ../shared/data/* if there
    python scripts/benchmark_clicks.py --data DIR DIR  # folders with corpus, queries and qrels
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import (
    FITTED_ON,
    METRIC,
    ROOT,
    Beside,
    Material,
    add_arguments,
    default_folders,
    ours,
    start_results,
    write_results,
)

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.evaluation.comparison import Comparison, compare
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate

OUTPUT = ROOT / "scripts" / "results" / "benchmark_clicks.json"
SESSIONS, SHOWN, ETA, CLICKS, MISTAKES, JITTER = 200, 10, 1.0, 0.8, 0.1, 0.05
Pairs = set[tuple[str, str]]
_ALONE = Beside(torch.empty(0, 0), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of users, splits and fits")
    arguments = parser.parse_args()
    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=False)
    settings = {
        "sessions": SESSIONS,
        "shown": SHOWN,
        "eta": ETA,
        "clicks": CLICKS,
        "mistakes": MISTAKES,
        "jitter": JITTER,
        "method": "closed-form",
        "seeds": arguments.seeds,
    }
    options = ["--seeds", *map(str, arguments.seeds)]
    results = start_results(arguments, "benchmark_clicks.py", settings, options, material)
    for name in material.names:
        runs = results["datasets"].setdefault(name, {"seeds": {}})["seeds"]
        for seed in arguments.seeds:
            if str(seed) not in runs:
                runs[str(seed)] = measure(material, name, seed)
                write_results(arguments.output, results)
            print(name, seed, runs[str(seed)], flush=True)
        results["datasets"][name]["difference"] = float(np.mean([run["difference"]["mean"] for run in runs.values()]))
    write_results(arguments.output, results)
    worse = [name for name, entry in results["datasets"].items() if entry["difference"] <= 0]
    if worse:
        raise SystemExit(f"With ranks the gain is no higher on {worse}.")


def measure(material: Material, name: str, seed: int) -> dict[str, Any]:
    """One log, read in both ways, beside the true labels."""
    dataset, embedded = material.dataset(name), material.embedded(name)
    relevant = {
        (row["query_id"], row["corpus_id"])
        for split in FITTED_ON
        for row in dataset.qrels[split]
        if row["relevance"] > 0
    }
    log = click_log(embedded, relevant, np.random.default_rng(seed))
    with_ranks = learned(material, name, log, relevant, seed)
    without = learned(material, name, log.drop(columns="rank"), relevant, seed)
    truth = evaluate(embedded["test"], ours(embedded, _ALONE, seed, method="closed-form").transform)
    compared = compare(without[0].adapted, with_ranks[0].adapted)[METRIC]
    return {
        "impressions": int(log["impressions"].sum()),
        "clicks": int(log["clicks"].sum()),
        "with_ranks": {**with_ranks[1], **gain(with_ranks[0].compare(METRIC))},
        "without_ranks": {**without[1], **gain(without[0].compare(METRIC))},
        "true_labels": gain(truth.compare(METRIC)),
        "difference": gain(compared),
    }


def click_log(embedded: EmbeddedDataset, relevant: Pairs, rng: np.random.Generator) -> pd.DataFrame:
    """What users were shown and clicked: a row per query, document and rank."""
    parts, ranks = [], np.arange(1, SHOWN + 1)
    for split in FITTED_ON:
        queries = embedded[split]
        found = queries.corpus.search(queries.comparable(queries.query_embeddings), 3 * SHOWN)
        for query_id, scores, documents in zip(
            queries.query_ids, found.scores.numpy(), found.indices.numpy(), strict=True
        ):
            ids = np.array([embedded.corpus.ids[row] for row in documents])
            likes = np.array([CLICKS if (query_id, corpus_id) in relevant else MISTAKES for corpus_id in ids])
            orders = np.argsort(-(scores + JITTER * rng.normal(size=(SESSIONS, len(scores)))), axis=1)[:, :SHOWN]
            shown = np.zeros((len(ids), SHOWN), dtype=np.int64)
            np.add.at(shown, (orders, ranks - 1), 1)
            clicks = rng.binomial(shown, likes[:, None] * ranks**-ETA)
            row, place = shown.nonzero()
            log = {
                "corpus_id": ids[row],
                "rank": place + 1,
                "impressions": shown[row, place],
                "clicks": clicks[row, place],
            }
            parts.append(pd.DataFrame({"query_id": query_id, **log}))
    frame: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return frame


def learned(
    material: Material, name: str, log: pd.DataFrame, relevant: Pairs, seed: int
) -> tuple[EvaluationResult, dict[str, Any]]:
    """What an adapter learns from a log as it is read, on the test queries' true labels."""
    dataset = material.dataset(name)
    tables: dict[str, pd.DataFrame] = {
        "queries": dataset.queries.to_pandas(),
        "corpus": dataset.corpus.to_pandas(),
        "qrels": log,
    }
    read = RetrievalDataset.load(tables, seed=seed, cut_into=FITTED_ON)
    given = embed(material.model, read, cache_dir=material.cache_dir, show_progress_bar=False)
    fitted = ours(given, _ALONE, seed, method="closed-form")
    positives = [
        (row["query_id"], row["corpus_id"]) for rows in read.qrels.values() for row in rows if row["relevance"] > 0
    ]
    facts = {
        "queries": sum(read.num_queries.values()),
        "positives": len(positives),
        "right": round(len(relevant & set(positives)) / len(positives), 4),
        "adopted": fitted.facts["adopted"],
        "chosen": fitted.facts["chosen"],
        "notes": [note for note in read.notes if note.startswith(("Rank r", "No ranks"))],
    }
    return evaluate(material.embedded(name)["test"], fitted.transform), facts


def gain(compared: Comparison) -> dict[str, Any]:
    """The difference in nDCG@10 with its interval."""
    return {"mean": round(compared.difference, 5), "interval": [round(end, 5) for end in compared.interval]}


if __name__ == "__main__":
    main()
