"""Fine-tune the base model itself on the same labels, and compare by test nDCG@10 with the base model as it is.

- query encoder: a copy of the model learns for queries alone; the documents' vectors stay, as with an adapter;
- whole model: queries and documents learn together, and every document is embedded again.

Both learn by softmax over cosines with scale 20 (MultipleNegativesRankingLoss) on the pairs of train, six epochs; the
best epoch on dev, the base model among them, is taken. Test is used once. Beside them, `auto` on the same embeddings.
Writes scripts/results/benchmark_fine_tuning.json after every data set and prints a table.

    python scripts/benchmark_fine_tuning.py                          # ../shared/data/* if there, and the demo's data
    python scripts/benchmark_fine_tuning.py --data DIR DIR --no-demo # folders with corpus, queries and qrels
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmark_quality import (
    FITTED_ON,
    METRIC,
    ROOT,
    Beside,
    Material,
    Values,
    add_arguments,
    compare,
    default_folders,
    ours,
    rounded,
    score,
    start_results,
    write_results,
)
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.seen import seen_documents

OUTPUT = ROOT / "scripts" / "results" / "benchmark_fine_tuning.json"
EPOCHS, BATCH_SIZE, LEARNING_RATE, SCALE = 6, 32, 3e-5, 20.0
# Documents beside those of the batch that the query encoder is trained against.
SAMPLED = 1024
QUERY_ENCODER, WHOLE_MODEL, AUTO = "query encoder", "whole model", "auto"
# What there is instead of an adapter.
INSTEAD = (QUERY_ENCODER, WHOLE_MODEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_arguments(parser, OUTPUT)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo's data")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    folders = arguments.data if arguments.data is not None else default_folders()
    material = Material(arguments, folders, with_demo=not arguments.no_demo)
    results = start_results(
        arguments,
        "benchmark_fine_tuning.py",
        {
            "seed": arguments.seed,
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
        },
        ["--seed", str(arguments.seed)],
        material,
    )
    for name in material.names:
        if name in results["datasets"]:
            print(f"{name}: already there", flush=True)
            continue
        results["datasets"][name] = measure(material, name, arguments.seed)
        write_results(arguments.output, results)
    print(markdown_table(results))


def measure(material: Material, name: str, seed: int) -> dict[str, Any]:
    """Every method once on one data set."""
    dataset, embedded = material.dataset(name), material.embedded(name)
    of_base = evaluate(embedded["test"], ks=[10], seen_documents=seen_documents(embedded, FITTED_ON))
    base, seen = of_base.base[METRIC], of_base.seen
    assert seen is not None
    methods: dict[str, Any] = {"base": {**compare(base, base, seen), "seconds": 0.0}}

    def add(method: str, values: Values, start: float, **facts: Any) -> None:
        seconds = round(time.perf_counter() - start, 3)
        print(f"{name}, {method}: {values.mean():.4f} after {seconds:.1f} s", flush=True)
        methods[method] = {**compare(base, values, seen), "seconds": seconds, **facts, "per_query": rounded(values)}

    start = time.perf_counter()
    fitted = ours(embedded, Beside(embedded.query_embeddings[:0], material.pseudo_queries(name)), seed)
    add(AUTO, evaluate(embedded["test"], fitted.transform, ks=[10], base=of_base).adapted[METRIC], start)
    for method in INSTEAD:
        start = time.perf_counter()
        tuned, epoch = fine_tuned(material.model, dataset, embedded, whole=method == WHOLE_MODEL, seed=seed)
        add(method, ndcg(tuned, "test"), start, best_epoch=epoch)
    return {
        "num_documents": len(embedded.corpus),
        "num_queries": {split: len(embedded[split].query_ids) for split in embedded.qrels},
        "methods": methods,
    }


def fine_tuned(
    base: SentenceTransformer, dataset: RetrievalDataset, embedded: EmbeddedDataset, *, whole: bool, seed: int
) -> tuple[EmbeddedDataset, int]:
    """The data as the model of the best epoch embeds it, and which epoch that was; 0 is the base model."""
    query_texts, document_texts = dataset.all_texts("fine-tuning")
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of dropout
    judged = embedded.qrels["train"]
    rows, documents = (index[judged.relevance > 0].cpu() for index in (judged.query_index, judged.corpus_index))
    frozen = MemoryCorpus.of(embedded.corpus).embeddings
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    num_steps = EPOCHS * -(-len(rows) // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    best, best_epoch, best_score = embedded, 0, float(ndcg(embedded, "dev").mean())
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for batch in torch.randperm(len(rows), generator=generator).split(BATCH_SIZE):
            queries = encode(model, [query_texts[row] for row in rows[batch].tolist()], "query")
            candidates = documents[batch]
            if whole:
                vectors = encode(model, [document_texts[row] for row in candidates.tolist()], "document")
            else:
                sampled = torch.randint(len(frozen), (SAMPLED,), generator=generator)
                candidates = torch.cat([candidates, sampled])
                vectors = frozen[candidates.to(frozen.device)]
            scores = SCALE * F.normalize(queries) @ F.normalize(vectors).T
            scores = scores.masked_fill(also_relevant(rows[batch], candidates, rows, documents, scores.device), -1e4)
            loss = F.cross_entropy(scores, torch.arange(len(batch), device=scores.device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        now = embedded_again(model, query_texts, document_texts, embedded, whole=whole)
        reached = float(ndcg(now, "dev").mean())
        if reached > best_score:
            best, best_epoch, best_score = now, epoch, reached
    return best, best_epoch


def encode(model: SentenceTransformer, texts: list[str], task: str) -> Tensor:
    """(B, D) embeddings with a gradient, with the prompt that the model has for the task."""
    prompt = model.prompts.get(task) or ""
    features = model.preprocess([prompt + text for text in texts])
    features = {key: value.to(model.device) if isinstance(value, Tensor) else value for key, value in features.items()}
    embedding: Tensor = model(features)["sentence_embedding"]
    return embedding


def also_relevant(queries: Tensor, candidates: Tensor, rows: Tensor, documents: Tensor, device: torch.device) -> Tensor:
    """(B, M) bool: a candidate other than the pair's own document that is relevant to the query, too."""
    size = int(documents.max()) + int(candidates.max()) + 2
    relevant = torch.isin(queries[:, None] * size + candidates, rows * size + documents)
    relevant[torch.arange(len(queries)), torch.arange(len(queries))] = False
    return relevant.to(device)


def embedded_again(
    model: SentenceTransformer, queries: list[str], documents: list[str], embedded: EmbeddedDataset, *, whole: bool
) -> EmbeddedDataset:
    """The data set with the queries' vectors, and if the whole model learned those of the documents, of a model."""
    device = embedded.query_embeddings.device
    options: dict[str, Any] = {"batch_size": 128, "convert_to_tensor": True, "show_progress_bar": False}
    corpus = embedded.corpus
    if whole:
        vectors = model.encode_document(documents, **options)
        corpus = MemoryCorpus(corpus.ids, vectors.to(device), corpus.similarity)
    return replace(embedded, query_embeddings=model.encode_query(queries, **options).to(device), corpus=corpus)


def ndcg(embedded: EmbeddedDataset, split: str) -> Values:
    """nDCG@10 of each query of a split."""
    return np.asarray(evaluate(embedded[split], ks=[10]).base[METRIC])


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per data set; from the content of the result file."""
    lines = [
        "| test nDCG@10 | base | query encoder fine-tuned | s | whole model fine-tuned, documents embedded again | s "
        "| auto | s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in results["datasets"].items():
        methods = entry["methods"]
        cells = [score(methods["base"])]
        for method in (QUERY_ENCODER, WHOLE_MODEL, AUTO):
            cells += [score(methods[method]), f"{methods[method]['seconds']:,.0f}"]
        lines.append(f"| {name} ({entry['num_queries']['test']:,} queries) | {' | '.join(cells)} |")
    settings = results["settings"]
    lines += [
        "",
        f"Base model {settings['model']}, {settings['epochs']} epochs, the best by dev. ↑ ↓: significantly above or "
        f"below base (95 % interval, paired bootstrap over queries). Seconds on {results['device']}, embedding for the "
        "first time left out.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
