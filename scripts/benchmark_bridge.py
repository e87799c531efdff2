"""Search an index of one model with the queries of another: measure all ways side by side, and the speed of queries.

For each data set, query model and seed: the status quo (queries of the index's own model), the same with an adapter,
the bridge without labels, and the query model with labels, as `train(..., query_model=...)` finds them. Test is used
once. Writes scripts/results/benchmark_bridge.json after every one.

With --token-tables, static query models are compared instead before any label has been used, each behind its bridge:
the distilled table as it is and fitted, plain regression on tokens, and other static models. All are measured on
held-out queries and on dev, never on test. Writes scripts/results/benchmark_token_tables.json.

    python scripts/benchmark_bridge.py --query-models DIR DIR --data DIR DIR
    python scripts/benchmark_bridge.py --model DIR --query-models sentence-transformers/all-mpnet-base-v2 --seeds 0 1 2
    python scripts/benchmark_bridge.py --query-models static DIR --data DIR DIR --token-tables
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import token_tables
import torch
from benchmark_quality import (
    METRIC,
    ROOT,
    Material,
    add_arguments,
    default_folders,
    device_name,
    interval,
    rounded,
    start_results,
    write_results,
)
from check_versions import random_bridge
from sentence_transformers import SentenceTransformer

from st_adapter.adapter import Kind, QueryAdapter
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.roles import encode_as
from st_adapter.evaluation.comparison import compare
from st_adapter.evaluation.evaluation import PerQuery, evaluate
from st_adapter.evidence.systems import QuerySpeed, times
from st_adapter.fitting.auto import Clock, fit
from st_adapter.fitting.bridges import MAX_UNITS
from st_adapter.running.bridging import bridged
from st_adapter.running.preparing import Data
from st_adapter.running.settings import RunOptions, Settings
from st_adapter.saving.base import ModelBase
from st_adapter.saving.joined import parted
from st_adapter.saving.query_base import STATIC, Index, query_model_base
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "benchmark_bridge.json"
MARGIN = 0.01
# Hidden units of corrections: one a labelled query.
NUM_CORRECTIONS = 1000
WAYS = ("status quo", "adapter", "bridge", "with labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--query-models", nargs="+", required=True, metavar="MODEL", help="Hub ids, folders, or static")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--token-tables", action="store_true", help="compare static query models without labels")
    arguments = parser.parse_args()
    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    if arguments.token_tables:
        token_tables.compare(arguments, material)
        return
    settings = {
        "margin": MARGIN,
        "query_models": [Path(name).name for name in arguments.query_models],
        "seeds": arguments.seeds,
    }
    options = ["--query-models", *settings["query_models"], "--seeds", *map(str, arguments.seeds)]
    results = start_results(arguments, "benchmark_bridge.py", settings, options, material)
    models = token_tables.query_models(arguments, material)
    results["speed"], results["speed_device"] = speeds(material, models), device_name(torch.device("cpu"))
    for name in material.names:
        entry = results["datasets"].setdefault(name, {"runs": {}})
        for seed in arguments.seeds:
            own = own_adapter(material, name, seed) if len(entry["runs"]) < len(models) * len(arguments.seeds) else None
            for query_model, model in models.items():
                key = f"{query_model}, seed {seed}"
                if key not in entry["runs"]:
                    entry["runs"][key] = measure(material, name, query_model, model, own, seed)
                    write_results(arguments.output, results)
                    print(name, key, {way: entry["runs"][key][way]["mean"] for way in WAYS}, flush=True)
    write_results(arguments.output, results)
    print(markdown_table(results))


def speeds(material: Material, models: Mapping[str, SentenceTransformer]) -> dict[str, dict[str, float]]:
    """Queries a second on the CPU, one by one and 64 a call, of both models in one and of the query model's part alone.

    The map is random: radial units; of ``static`` a matrix, which is part of its table, without and with corrections
    near known queries behind it. Without them the table alone is measured in model2vec as well, which runs no torch.
    """
    texts = (material.dataset(material.names[0]).query_texts or [])[:128]
    documents = copy.deepcopy(material.model).to("cpu")
    encode: dict[str, Callable[[list[str]], object]] = {material.model_name: by_sentence_transformers(documents)}
    for name, model in models.items():
        for kind in ("linear", "mlp") if name == STATIC else ("linear",):
            both = with_map(documents, copy.deepcopy(model).to("cpu"), name, kind)
            parts = parted(both)
            assert parts is not None  # it was made of two
            title = name if kind == "linear" else f"{name} with corrections"
            encode |= {
                title: by_sentence_transformers(both),
                f"{title}, its part alone": by_sentence_transformers(parts.queries),
            }
            if title == STATIC:
                encode[f"{title}, its part alone, in model2vec"] = by_model2vec(parts.queries)
    measured = {name: QuerySpeed.of(function, texts) for name, function in encode.items()}
    return {
        name: {"single": round(speed.single, 1), "batch": round(speed.batch, 1)} for name, speed in measured.items()
    }


def by_sentence_transformers(model: SentenceTransformer) -> Callable[[list[str]], object]:
    return partial(encode_as, model, "query", batch_size=64)


def by_model2vec(model: SentenceTransformer) -> Callable[[list[str]], object]:
    """A static table and nothing else, as docs/query_model.md has it."""
    model2vec = importlib.import_module("model2vec")
    table = model[0]
    static = model2vec.StaticModel(table.embedding.weight.detach().numpy(), table.tokenizer, normalize=True)
    encode: Callable[[list[str]], object] = static.encode
    return encode


def with_map(
    documents: SentenceTransformer, queries: SentenceTransformer, name: str, kind: Kind
) -> SentenceTransformer:
    """A query model with a map of random weights, without or with corrections near known queries (``mlp``)."""
    dimension, to_dimension = (int(model.get_embedding_dimension() or 0) for model in (queries, documents))
    units = None if name == STATIC else MAX_UNITS
    bridge = random_bridge(dimension, to_dimension, num_units=units, of_length=name == STATIC)
    base = query_model_base(ModelBase(documents), ModelBase(queries))
    hidden_dim = 2 * to_dimension + NUM_CORRECTIONS
    adapter = QueryAdapter(to_dimension, kind, hidden_dim=hidden_dim, activation="relu", bias=kind == "mlp")
    adapted = base.with_bridge(bridge, Index(identity_of(documents), "cosine")).adapted(adapter)
    assert adapted is not None  # there is an adapter
    return adapted


def own_adapter(material: Material, name: str, seed: int) -> QueryAdapter | None:
    """What the same labels do for the index's own queries."""
    embedded = material.embedded(name)
    labelled = replace(embedded, qrels={split: embedded.qrels[split] for split in ("train", "dev")})
    return fit(labelled, pseudo_queries=material.pseudo_queries(name), seed=seed).adapter


def measure(
    material: Material, name: str, query_model: str, model: SentenceTransformer, own: QueryAdapter | None, seed: int
) -> dict[str, Any]:
    """One run: all ways on test, the verdicts, and what was chosen."""
    clock, options = Clock(), RunOptions(non_inferior=MARGIN)
    settings = Settings("auto", seed, 0.05, None, None, material.cache_dir, False, options)
    base = query_model_base(ModelBase(material.model), ModelBase(model), to_measure=query_model == STATIC)
    pair = bridged(base, material.dataset(name), settings, clock)
    pseudo_queries = pair.pseudo_queries()
    with clock("fitting"):
        found = fit(without_test(pair.data), pseudo_queries=pseudo_queries, seed=seed, reference=pair.reference)
    best = found.adapter or found.refused
    mapped = pair.data.embedded["test"]
    bridge = evaluate(mapped)
    status_quo = evaluate((pair.status_quo or pair.data).embedded["test"], own)
    ways: dict[str, PerQuery] = {
        "status quo": status_quo.base,
        "adapter": status_quo.adapted,
        "bridge": bridge.base,
        "with labels": evaluate(mapped, best, base=bridge).adapted,
    }
    gate = found.verdict.gate
    return {
        **{way: against(ways["status quo"], values) for way, values in ways.items()},
        "with labels against bridge": against(ways["bridge"], ways["with labels"]),
        "handed_over": found.adopted,
        "better": found.adopted and gate.reason.startswith("Better"),
        "reason": gate.reason,
        "chosen": found.chosen,
        "bridge_name": pair.found.name,
        "agreement": round(pair.found.agreement, 5),
        "seconds": {step: round(value, 2) for step, value in clock.seconds.items()},
        "per_query": {way: rounded(values[METRIC]) for way, values in ways.items()},
    }


def without_test(data: Data) -> EmbeddedDataset:
    """The data in which no mistake could let test in."""
    return replace(data.embedded, qrels={split: data.embedded.qrels[split] for split in ("train", "dev")})


def against(base: PerQuery, values: PerQuery) -> dict[str, Any]:
    compared = compare({METRIC: base[METRIC]}, {METRIC: values[METRIC]})[METRIC]
    return {
        "mean": round(compared.adapted, 5),
        "difference": round(compared.difference, 5),
        "interval": [round(end, 5) for end in compared.interval],
        "p_value": round(compared.p_value, 5),
    }


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set and query model, means over the seeds that were run; from the content of the result file."""
    settings = results["settings"]
    titles = ["status quo", "its adapter", "bridge", "with labels", "gain [95 %] of the worst seed", "verdicts"]
    lines = [f"| test nDCG@10 | queries by | {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 1)}---|"]
    for name, entry in results["datasets"].items():
        for query_model in dict.fromkeys(key.rpartition(", seed ")[0] for key in entry["runs"]):
            runs = [run for key, run in entry["runs"].items() if key.rpartition(", seed ")[0] == query_model]
            cells = [fraction(sum(run[way]["mean"] for run in runs) / len(runs)) for way in WAYS]
            worst = min((run["with labels"] for run in runs), key=lambda found: float(found["difference"]))
            cells.append(f"{signed(worst['difference'])} {interval(worst['interval'])}")
            verdicts = [verdict(run) for run in runs]
            cells.append(", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts)))
            lines.append(f"| {name} | {query_model} | {' | '.join(cells)} |")
    note = (
        f"Index of {settings['model']}; mean of seeds {', '.join(map(str, settings['seeds']))}, or of as many of "
        "these as there are verdicts. Gain: with labels, against the status quo. Verdict: better than the status quo, "
        f"or not worse by more than {fraction(settings['margin'])}, on held-out queries. On {results['device']}."
    )
    return "\n".join([*lines, "", note])


def speed_table(results: Mapping[str, Any]) -> str:
    """Queries a second of each model over those of the index's own; from the content of the result file."""
    speed = results["speed"]
    own = speed[results["settings"]["model"]]
    lines = ["| queries by | one by one | in batches of 64 |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {times(each['single'] / own['single'])} | {times(each['batch'] / own['batch'])} |"
        for name, each in speed.items()
        if each is not own
    ]
    return "\n".join([*lines, "", f"Times as many as {results['settings']['model']}, on {results['speed_device']}."])


def verdict(run: Mapping[str, Any]) -> str:
    return "better" if run["better"] else "not worse" if run["handed_over"] else "nothing handed over"


if __name__ == "__main__":
    main()
