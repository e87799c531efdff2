"""Compare our metrics with those of other libraries on the same runs, query by query where they tell.

Runs are random: binary and graded judgements, ties, fewer documents than k, queries without a hit and queries for which
nothing was retrieved. Libraries break ties each in its own way (trec_eval by document id, ours in the order of the
run), so the run that all of them get is our ranking with strictly falling scores, as write_trec writes it. Writes
scripts/results/check_metrics.json.

    pip install ranx  # compiles its functions when first called, which takes a minute or more
    python scripts/check_metrics.py
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytrec_eval
import ranx
from benchmark_quality import ROOT, git_commit, write_results
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from st_adapter.evaluation.metrics import run_metrics

OUTPUT = ROOT / "scripts" / "results" / "check_metrics.json"
PACKAGES = ("st-adapter", "ir-measures", "pytrec_eval-terrier", "ranx", "sentence-transformers", "numpy")
KS = (1, 3, 10, 100)
TOLERANCE = 1e-9

Judgements = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]
PerQuery = Mapping[str, Mapping[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50, help="random runs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit = git_commit()
    generator = np.random.default_rng(arguments.seed)
    worst: dict[str, dict[str, Any]] = {}
    for max_grade, kind in ((1, "binary"), (3, "graded")):
        for num_documents, size in ((5, "fewer documents than k"), (150, "more documents than k")):
            for _ in range(arguments.runs):
                qrels, run = random_run(generator, num_documents, max_grade)
                ours = run_metrics(qrels, run, KS)
                strict = without_ties(run)
                found = {
                    "ir_measures": per_query(ours, ir_measures_values(qrels, strict)),
                    "pytrec_eval": per_query(ours, pytrec_eval_values(qrels, strict)),
                    "ranx": means(ours, ranx_means(qrels, strict)),
                }
                if max_grade == 1:  # Sentence Transformers knows no grades
                    found["sentence-transformers"] = means(ours, sentence_transformers_means(qrels, strict))
                for library, (values, difference) in found.items():
                    entry = worst.setdefault(f"{library}, {kind}, {size}", {"values": 0, "largest_difference": 0.0})
                    entry["values"] += values
                    entry["largest_difference"] = max(entry["largest_difference"], difference)
    for entry in worst.values():
        entry["equal"] = entry["largest_difference"] <= TOLERANCE
    results = {
        "settings": {
            "script": "check_metrics.py",
            "runs": arguments.runs,
            "seed": arguments.seed,
            "ks": KS,
            "tolerance": TOLERANCE,
        },
        "git_commit": commit,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": f"cpu, {platform.machine()}",
        "command": f"python scripts/check_metrics.py --runs {arguments.runs} --seed {arguments.seed}",
        "all_equal": all(entry["equal"] for entry in worst.values()),
        "comparisons": worst,
    }
    write_results(arguments.output, results)
    for name, entry in worst.items():
        print(f"{name}: {entry['values']} values, largest difference {entry['largest_difference']:.1e}")


def random_run(generator: np.random.Generator, num_documents: int, max_grade: int) -> tuple[Judgements, Run]:
    """20 queries; scores are few integers, so ties abound; query 0 has no hit, and for query 1 nothing is retrieved."""
    documents = [f"d{number}" for number in range(num_documents)]
    qrels: Judgements = {}
    run: Run = {}
    for number in range(20):
        query_id = f"q{number}"
        judged = generator.permutation(documents)[: generator.integers(2, num_documents)].tolist()
        grades = generator.integers(0, max_grade + 1, len(judged)).tolist()
        grades[0] = max(1, grades[0])
        qrels[query_id] = dict(zip(judged, grades, strict=True))
        relevant = {corpus_id for corpus_id, grade in qrels[query_id].items() if grade > 0}
        retrieved = generator.permutation(documents)[: generator.integers(1, num_documents + 1)].tolist()
        if number == 0:
            retrieved = [corpus_id for corpus_id in documents if corpus_id not in relevant] or ["unknown"]
        if number != 1:
            run[query_id] = {corpus_id: float(generator.integers(0, 5)) for corpus_id in retrieved}
    return qrels, run


def without_ties(run: Run) -> Run:
    """Our ranking, in scores that fall by one."""
    ranked = {query_id: sorted(scores, key=lambda c, s=scores: -s[c]) for query_id, scores in run.items()}  # type: ignore[misc]
    return {query_id: {c: float(-rank) for rank, c in enumerate(ids)} for query_id, ids in ranked.items()}


# --- the others ---


def ir_measures_values(qrels: Judgements, run: Run) -> PerQuery:
    names = {"ndcg": "nDCG", "mrr": "RR", "accuracy": "Success", "recall": "R", "precision": "P", "map": "AP"}
    measures = {ir_measures.parse_measure(f"{theirs}@{k}"): f"{ours}@{k}" for ours, theirs in names.items() for k in KS}
    values: dict[str, dict[str, float]] = {name: {} for name in measures.values()}
    for value in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[value.measure]][value.query_id] = value.value
    return values


def pytrec_eval_values(qrels: Judgements, run: Run) -> PerQuery:
    names = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "map": "map_cut", "accuracy": "success"}
    cuts = ",".join(map(str, KS))
    found = pytrec_eval.RelevanceEvaluator(qrels, {f"{name}.{cuts}" for name in names.values()}).evaluate(run)
    return {
        f"{ours}@{k}": {query_id: values[f"{theirs}_{k}"] for query_id, values in found.items()}
        for ours, theirs in names.items()
        for k in KS
    }


def ranx_means(qrels: Judgements, run: Run) -> Mapping[str, float]:
    names = {"ndcg": "ndcg", "mrr": "mrr", "accuracy": "hit_rate", "recall": "recall", "precision": "precision"}
    names["map"] = "map"
    metrics = {f"{theirs}@{k}": f"{ours}@{k}" for ours, theirs in names.items() for k in KS}
    found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(metrics), make_comparable=True)
    return {ours: float(found[theirs]) for theirs, ours in metrics.items()}


def sentence_transformers_means(qrels: Judgements, run: Run) -> Mapping[str, float]:
    relevant = {q: {c for c, grade in judged.items() if grade > 0} for q, judged in qrels.items()}
    corpus = {c: c for judged in qrels.values() for c in judged} | {c: c for scores in run.values() for c in scores}
    ks = list(KS)
    # Its MAP@k divides by k where that is less than the number of relevant documents, so it is not compared.
    evaluator = InformationRetrievalEvaluator(
        {q: q for q in qrels}, corpus, relevant, mrr_at_k=ks, ndcg_at_k=ks, accuracy_at_k=ks, precision_recall_at_k=ks
    )
    hits = [[{"corpus_id": c, "score": s} for c, s in run.get(q, {}).items()] for q in evaluator.queries_ids]
    found = evaluator.compute_metrics(hits)
    names = ("ndcg", "mrr", "accuracy", "recall", "precision")
    return {f"{name}@{k}": float(found[f"{name}@k"][k]) for name in names for k in KS}


# --- how far apart ---


def per_query(ours: PerQuery, theirs: PerQuery) -> tuple[int, float]:
    """Number of values and largest difference; a query that a library leaves out must be 0 in ours."""
    differences = [
        abs(ours[metric][query_id] - values.get(query_id, 0.0))
        for metric, values in theirs.items()
        for query_id in ours[metric]
    ]
    return len(differences), max(differences)


def means(ours: PerQuery, theirs: Mapping[str, float]) -> tuple[int, float]:
    differences = [abs(float(np.mean(list(ours[metric].values()))) - value) for metric, value in theirs.items()]
    return len(differences), max(differences)


if __name__ == "__main__":
    main()
