"""Tables of token vectors fitted to the index's vectors by ridge regression, beside static models and their bridges.

A part of scripts/benchmark_bridge.py, which takes it for --token-tables.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmark_quality import METRIC, ROOT, Material, start_results, write_results
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix, diags, vstack
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.embeddings.roles import encode_as
from st_adapter.embeddings.static import distilled
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.bridges import Twins, fit_bridge
from st_adapter.saving.query_base import STATIC
from st_adapter.settings import opened
from st_adapter.words import fraction

OUTPUT = ROOT / "scripts" / "results" / "benchmark_token_tables.json"
MAX_QUERIES, MAX_DOCUMENTS = 2000, 1500
RIDGES = (0.1, 0.3, 1.0)  # in units of the mean of the diagonal of X X'
Matrix = NDArray[np.float64]


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
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


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
    settings = {"query_models": names, "max_queries": MAX_QUERIES, "max_documents": MAX_DOCUMENTS, "ridges": RIDGES}
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
    """Each start on one data set: cosine to the right vector and rank on held-out queries, nDCG@10 on dev."""
    embedded, texts = material.embedded(name), texts_of(material, name)
    among = torch.cat([texts.of_queries[texts.held_out], texts.of_documents])

    def measured(vectors: Tensor) -> dict[str, float]:
        unit = torch.nn.functional.normalize(vectors.float())
        held_out = unit[texts.held_out]
        scores = held_out @ torch.nn.functional.normalize(among).T
        own = scores.diagonal().unsqueeze(1)
        dev = evaluate(replace(embedded, query_embeddings=unit)["dev"]).base_means[METRIC]
        ranks = 1.0 + (scores > own + 1e-6).sum(dim=1)
        return {"cosine": round(float(own.mean()), 4), "mrr": round(float((1 / ranks).mean()), 4), "dev": round(dev, 4)}

    found = {"status quo": measured(texts.of_queries)}
    zero = torch.zeros_like(texts.of_queries), torch.zeros_like(texts.of_documents)
    tokenizer = copy.deepcopy(material.model.tokenizer.backend_tokenizer)
    for label, weighted in (("regression", False), ("regression, IDF", True)):
        found[label] = measured(regressed(texts, tokenizer, *zero, weighted=weighted))
    for label, model in models.items():
        ours = encode_as(model, "query", texts.queries).float()
        theirs = encode_as(model, "query", texts.documents).float()
        twins = Twins(ours[texts.train], texts.of_queries[texts.train])
        bridge = fit_bridge(twins, Twins(theirs, texts.of_documents), normalize=True).bridge
        found[label] = measured(bridge(ours))
        corrected = regressed(texts, tokenizer, bridge(ours), bridge(theirs), weighted=True)
        found[f"{label} + regression, IDF"] = measured(corrected)
    return found


def texts_of(material: Material, name: str) -> Texts:
    """A sample of queries that neither dev nor test has, and of documents."""
    embedded, dataset = material.embedded(name), material.dataset(name)
    generator = torch.Generator().manual_seed(0)
    free = torch.ones(len(embedded.query_ids), dtype=torch.bool)
    for split in ("dev", "test"):
        free[embedded.qrels[split].query_index.cpu()] = False
    rows = free.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=generator)][:MAX_QUERIES]
    sample = torch.randperm(len(embedded.corpus), generator=generator)[:MAX_DOCUMENTS]
    held_out = len(rows) // 5
    documents = dataset.document_texts or []
    return Texts(
        queries=dataset.query_texts or [],
        documents=[documents[row] for row in sample.tolist()],
        of_queries=embedded.query_embeddings.float().cpu(),
        of_documents=embedded.corpus.rows(sample).float().cpu(),
        train=rows[held_out:].numpy(),
        held_out=rows[:held_out].numpy(),
    )


def regressed(texts: Texts, tokenizer: Any, start: Tensor, of_documents: Tensor, *, weighted: bool) -> Tensor:
    """What a start leaves over of the index's vectors, by ridge regression on the tokens of queries and documents.

    The ridge is the one whose held-out queries come nearest to the right vectors.

    Args:
        texts: the texts.
        tokenizer: gives the tokens.
        start: (Q, D), what is corrected.
        of_documents: (N, D), the same of the documents.
        weighted: whether tokens count by their inverse document frequency; else all alike.

    Returns:
        (Q, D) of all queries.
    """
    queries, documents = (counts(tokenizer, each) for each in (texts.queries, texts.documents))
    seen = vstack([queries[texts.train], documents])
    if weighted:
        frequency = np.asarray((seen > 0).sum(axis=0)).ravel()
        weights = diags(np.log((1 + seen.shape[0]) / (1 + frequency)) + 0.1)
        queries, documents = queries @ weights, documents @ weights
    queries, documents = averaged(queries), averaged(documents)
    left = (texts.of_queries - start).double().numpy(), (texts.of_documents - of_documents).double().numpy()
    means = left[0][texts.train].mean(axis=0), left[1].mean(axis=0)
    targets = np.vstack([left[0][texts.train] - means[0], left[1] - means[1]])
    rows = vstack([queries[texts.train], documents]).tocsr()
    right = torch.nn.functional.normalize(texts.of_queries[texts.held_out])
    best, nearest = start, -1.0
    for table in tables(rows, targets):
        vectors = start + torch.from_numpy(means[0] + queries @ table).float()
        cosine = float((torch.nn.functional.normalize(vectors[texts.held_out]) * right).sum(dim=1).mean())
        if cosine > nearest:
            best, nearest = vectors, cosine
    return best


def tables(rows: csr_matrix, targets: Matrix) -> Iterator[Matrix]:
    """For each ridge the (V, D) table W of least ``|rows W - targets|^2 + ridge |W|^2``, by its dual of T x T."""
    gram = np.asarray((rows @ rows.T).todense())
    for ridge in RIDGES:
        penalized = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        yield rows.T @ cho_solve(cho_factor(penalized, overwrite_a=True), targets)


def counts(tokenizer: Any, texts: Sequence[str]) -> csr_matrix:
    """(T, V): how often each text has each token, as far as the index's model reads it."""
    tokenizer.no_padding()
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    ends = np.cumsum([0, *map(len, ids)])
    flat = np.fromiter((token for row in ids for token in row), dtype=np.int64, count=int(ends[-1]))
    found = csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(ids), tokenizer.get_vocab_size()))
    found.sum_duplicates()
    return found


def averaged(found: csr_matrix) -> csr_matrix:
    """Rows that add up to 1; one of a text without tokens stays empty."""
    return diags(1 / np.maximum(np.asarray(found.sum(axis=1)).ravel(), 1e-9)) @ found


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per start; from the content of the result file."""
    sets = results["datasets"]
    titles = [f"{name}: {kind}" for name in sets for kind in ("cosine, held out", "nDCG@10, dev")]
    lines = [f"| without labels | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for start in next(iter(sets.values())):
        cells = [fraction(found[start][kind]) for found in sets.values() for kind in ("cosine", "dev")]
        lines.append(f"| {start} | {' | '.join(cells)} |")
    return "\n".join(lines)
