"""Static query models before any label has been used: plain regression, a distilled table, the same fitted, others.

A part of scripts/benchmark_bridge.py, which takes it for --token-tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_quality import METRIC, ROOT, Material, start_results, write_results
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.embeddings.long_texts import token_limit
from st_adapter.embeddings.roles import encode_as
from st_adapter.embeddings.static import distilled
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.agreement import Agreement
from st_adapter.fitting.bridges import Twins, fit_bridge
from st_adapter.fitting.token_table import MAX_TEXTS, Sample, fit_token_table, token_shares
from st_adapter.running.settings import opened
from st_adapter.saving.query_base import STATIC
from st_adapter.words import fraction

OUTPUT = ROOT / "scripts" / "results" / "benchmark_token_tables.json"


class Texts(NamedTuple):
    """Texts of a data set and their vectors by the index's model.

    Attributes:
        queries: all.
        documents: a sample.
        of_queries: (Q, D).
        of_documents: (N, D).
        train: queries that are fitted on, rows.
        held_out: other ones, that neither are of dev or test.
    """

    queries: list[str]
    documents: list[str]
    of_queries: Tensor
    of_documents: Tensor
    train: Tensor
    held_out: Tensor


def query_models(arguments: argparse.Namespace, material: Material) -> dict[str, SentenceTransformer]:
    """The query models by their names; ``static`` is distilled from the index's model."""
    return {
        Path(name).name: distilled(material.model, arguments.cache_dir) if name == STATIC else opened(name)
        for name in arguments.query_models
    }


def compare(arguments: argparse.Namespace, material: Material) -> None:
    """Measure all starts on all data sets."""
    if arguments.output.name == "benchmark_bridge.json":
        arguments.output = OUTPUT
    names = [Path(name).name for name in arguments.query_models]
    settings = {"query_models": names, "max_texts": MAX_TEXTS}
    options = ["--query-models", *names, "--token-tables"]
    results = start_results(arguments, "benchmark_bridge.py", settings, options, material)
    models = query_models(arguments, material)
    for name in material.names:
        if name not in results["datasets"]:
            results["datasets"][name] = starts(material, name, models)
            write_results(arguments.output, results)
            print(name, results["datasets"][name], flush=True)
    write_results(arguments.output, results)
    print(markdown_table(results))


def starts(material: Material, name: str, models: Mapping[str, SentenceTransformer]) -> dict[str, dict[str, float]]:
    """Each start on one data set: cosine to the right vector and agreement on held-out queries, nDCG@10 on dev."""
    embedded, texts = material.embedded(name), texts_of(material, name)
    right = texts.of_queries[texts.held_out]
    agreement = Agreement(right, texts.of_documents)

    def measured(vectors: Tensor) -> dict[str, float]:
        unit = torch.nn.functional.normalize(vectors.float())
        held_out = unit[texts.held_out]
        figures = {
            "cosine": float(torch.nn.functional.cosine_similarity(held_out, right).mean()),
            "agreement": agreement.of(held_out),
            "dev": evaluate(replace(embedded, query_embeddings=unit)["dev"]).base_means[METRIC],
        }
        return {name_of_figure: round(figure, 4) for name_of_figure, figure in figures.items()}

    def bridged(ours: Tensor, documents: Tensor, by_queries: Tensor | None = None, *, affine: bool = True) -> Tensor:
        fitted_on = ours[texts.train] if by_queries is None else by_queries
        twins = Twins(fitted_on, texts.of_queries[texts.train])
        fitted = fit_bridge(
            twins, Twins(documents, texts.of_documents), normalize=True, affine=affine, of_length=affine
        )
        return fitted.bridge(ours)

    read = token_limit(material.model)
    found = {"status quo": measured(texts.of_queries)}
    for label, model in models.items():
        ours, theirs = (encode_as(model, "query", each).float() for each in (texts.queries, texts.documents))
        found[f"{label}, bridge"] = measured(bridged(ours, theirs, affine=label == STATIC))
        if label != STATIC:
            continue
        table = model[0].embedding.weight.detach()
        queries, documents = (
            token_shares(model[0].tokenizer, each, len(table), read) for each in (texts.queries, texts.documents)
        )
        samples = [
            Sample(queries[texts.train.numpy()], texts.of_queries[texts.train]),
            Sample(documents, texts.of_documents),
        ]
        for name_of_start, start in (("regression alone", torch.zeros(len(table), 1)), ("static, fitted", table)):
            fitted = fit_token_table(start, samples, texts.of_documents)
            vectors = torch.from_numpy(queries @ fitted.table.numpy())
            found[f"{name_of_start}, bridge"] = measured(bridged(vectors, fitted.held_out[1], fitted.held_out[0]))
    return found


def texts_of(material: Material, name: str) -> Texts:
    """A sample of queries that neither dev nor test has, and of documents."""
    embedded, dataset = material.embedded(name), material.dataset(name)
    generator = torch.Generator().manual_seed(0)
    free = torch.ones(len(embedded.query_ids), dtype=torch.bool)
    for split in ("dev", "test"):
        free[embedded.qrels[split].query_index.cpu()] = False
    rows = free.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=generator)][: MAX_TEXTS * 5 // 4]
    sample = torch.randperm(len(embedded.corpus), generator=generator)[:MAX_TEXTS]
    held_out = len(rows) // 5
    documents = dataset.document_texts or []
    return Texts(
        queries=dataset.query_texts or [],
        documents=[documents[row] for row in sample.tolist()],
        of_queries=embedded.query_embeddings.float().cpu(),
        of_documents=embedded.corpus.rows(sample).float().cpu(),
        train=rows[held_out:],
        held_out=rows[:held_out],
    )


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per start; from the content of the result file."""
    sets = results["datasets"]
    titles = [f"{name}: {kind}" for name in sets for kind in ("agreement", "nDCG@10, dev")]
    lines = [f"| without labels | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for start in next(iter(sets.values())):
        cells = [fraction(found[start][kind]) for found in sets.values() for kind in ("agreement", "dev")]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines)
