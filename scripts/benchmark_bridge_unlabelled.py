"""Another query model on the index of the base model without any label: the bridge, and the same taught by both models.

The judgements of test are used for nothing but the figures, and its queries are shown to no bridge.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import token_tables
from benchmark_bridge import against
from benchmark_quality import (
    METRIC,
    ROOT,
    Material,
    add_arguments,
    default_folders,
    interval,
    rounded,
    start_results,
    write_results,
)
from sentence_transformers import SentenceTransformer

from st_adapter.evaluation.evaluation import PerQuery, evaluate
from st_adapter.fitting.auto import Clock
from st_adapter.running.bridging import bridged
from st_adapter.running.query_model import Bridged
from st_adapter.running.settings import RunOptions, Settings
from st_adapter.saving.base import ModelBase
from st_adapter.saving.query_base import query_model_base
from st_adapter.words import fraction, signed

OUTPUT = ROOT / "scripts" / "results" / "benchmark_bridge_unlabelled.json"
# With many labels they are fitted behind the bridge as it is; without any, the bridge is taught.
OPTIONS = {"bridge": RunOptions(), "taught bridge": RunOptions(without_labels=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--query-models", nargs="+", required=True, metavar="MODEL", help="Hub ids or folders")
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    arguments = parser.parse_args()
    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    settings = {"query_models": [Path(name).name for name in arguments.query_models]}
    options = ["--query-models", *settings["query_models"]]
    results = start_results(arguments, "benchmark_bridge_unlabelled.py", settings, options, material)
    models = token_tables.query_models(arguments, material)
    for name in material.names:
        entry = results["datasets"].setdefault(name, {"runs": {}})
        for query_model, model in models.items():
            if query_model not in entry["runs"]:
                run = entry["runs"][query_model] = measure(material, name, model)
                write_results(arguments.output, results)
                print(name, query_model, {way: run[way]["mean"] for way in OPTIONS}, flush=True)
    write_results(arguments.output, results)
    print(markdown_table(results))


def measure(material: Material, name: str, model: SentenceTransformer) -> dict[str, Any]:
    """The status quo and both bridges on test."""
    base = query_model_base(ModelBase(material.model), ModelBase(model))
    pairs: dict[str, Bridged] = {}
    for way, options in OPTIONS.items():
        settings = Settings("auto", 0, 0.05, None, None, material.cache_dir, False, options)
        pairs[way] = bridged(base, material.dataset(name), settings, Clock())
    ways: dict[str, PerQuery] = {"status quo": evaluate(material.embedded(name)["test"]).base}
    ways |= {way: evaluate(pair.data.embedded["test"]).base for way, pair in pairs.items()}
    return {
        **{way: against(ways["status quo"], values) for way, values in ways.items()},
        "taught against bridge": against(ways["bridge"], ways["taught bridge"]),
        "bridge_names": {way: pair.found.name for way, pair in pairs.items()},
        "per_query": {way: rounded(values[METRIC]) for way, values in ways.items()},
    }


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set and query model; from the content of the result file.

    Of a data set with few labels the bridge as it is was not measured, as it is taught with them too.
    """
    titles = ["status quo", "bridge", "taught bridge", "against the status quo [95 %]", "against the bridge [95 %]"]
    lines = [f"| test nDCG@10 | queries by | {' | '.join(titles)} |", f"|---|---|{'---:|' * len(titles)}"]
    for name, entry in results["datasets"].items():
        for query_model, run in entry["runs"].items():
            cells = [fraction(run[way]["mean"]) for way in ("status quo", *OPTIONS)]
            cells += [
                f"{signed(found['difference'])} {interval(found['interval'])}"
                for found in (run["taught bridge"], run["taught against bridge"])
            ]
            if len(set(run["bridge_names"].values())) < len(OPTIONS):
                cells[1] = cells[-1] = ""
            lines.append(f"| {name} | {query_model} | {' | '.join(cells)} |")
    note = f"Index of {results['settings']['model']}; no label was used. On {results['device']}."
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
