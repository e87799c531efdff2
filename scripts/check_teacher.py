"""What a teacher brings where there are no labels, few, or all: test nDCG@10 of the base, without and with a teacher.

Of the training queries some are a log without labels, some train a small cross-encoder, and labels are drawn from the
rest. Teachers are a stronger embedding model; one that is no stronger; and a cross-encoder that is trained here from
the weights of a small embedding model on labels that the adapter does not get, as no package of the index carries one.
Needs the data sets of --data and the models of --models (folders of Sentence Transformers). Writes
scripts/results/check_teacher.json after every setting, and prints a table.

    python scripts/check_teacher.py --models DIR                # conala and feedbackqa of ../shared/data
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from benchmark_label_curve import draw_share
from benchmark_quality import METRIC, ROOT, SHARED_DATA, compare_part, git_commit, rounded, write_results
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.demo import demo_model_path
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.embedding import as_encoder, embed_pseudo_queries, judged_by
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.embeddings.teacher import open_teacher
from st_adapter.embeddings.teaching import School, ask_teacher
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.auto import fit
from st_adapter.fitting.maps import QueryMap, as_adapter
from st_adapter.fitting.prior import prior_of, taught_map
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "check_teacher.json"
MINILM, SMALL, OTHER, LARGE, TRAINED = (
    *("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", "multilingual-e5-small-q4", "all-mpnet-base-v2"),
    "a cross-encoder of 3 layers",
)
MODELS = (SMALL, OTHER, LARGE)
ALL = "all"
# Training queries of the log and, where it is trained here, of the cross-encoder.
NUM_LOG, NUM_FOR_TEACHER, NUM_NEGATIVES = 700, 300, 5


class Setting(NamedTuple):
    """Whose queries are adapted, and who teaches."""

    data: str
    base_model: str
    teacher: str


SETTINGS = [
    Setting("conala", SMALL, MINILM),
    Setting("conala", SMALL, TRAINED),
    Setting("feedbackqa", SMALL, MINILM),
    Setting("conala", MINILM, LARGE),
    Setting("feedbackqa", MINILM, LARGE),
    Setting("conala", MINILM, OTHER),
]


class Material(NamedTuple):
    """Everything that is there before labels are drawn."""

    embedded: EmbeddedDataset
    pseudo_queries: EmbeddedSplit | None
    soft_targets: SoftTargets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, default=SHARED_DATA, help="folder of the data sets; default: ../shared/data"
    )
    parser.add_argument("--models", type=Path, required=True, help=f"folder with {', '.join(MODELS)}")
    parser.add_argument("--device", help="where to work; default: the best there is")
    parser.add_argument("--cache-dir", type=Path, help="where embeddings are cached; default: as the package does")
    parser.add_argument("--sizes", nargs="+", default=["0", "50", "100", ALL], help="numbers of labels, or all")
    parser.add_argument("--draws", type=int, default=3, help="of each number of labels but 0 and all")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--resume", action="store_true", help="keep the settings that the output file has of this code")
    arguments = parser.parse_args()
    needed = [arguments.data / each.data for each in SETTINGS] + [arguments.models / name for name in MODELS]
    if missing := sorted({str(path) for path in needed if not path.is_dir()}):
        raise SystemExit(f"Missing: {', '.join(missing)}. Name where they are with --data and --models.")
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": f"python scripts/check_teacher.py --sizes {' '.join(arguments.sizes)} --draws {arguments.draws}",
        "git_commit": git_commit(),
        "versions": installed_versions(),
        "metric": METRIC,
        "settings": [],
    }
    if arguments.resume and arguments.output.is_file():
        earlier = json.loads(arguments.output.read_text(encoding="utf-8"))
        if all(earlier[key] == results[key] for key in ("command", "git_commit", "versions")):
            results["settings"] = earlier["settings"]
    for setting in SETTINGS[len(results["settings"]) :]:
        results["settings"].append(measure(setting, arguments))
        write_results(arguments.output, results)
    print(markdown_table(results))


def measure(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of labels of one setting."""
    start = time.perf_counter()
    there = prepared(setting, arguments)
    test = there.embedded["test"]
    base = evaluate(test, ks=[10]).base[METRIC]
    entry: dict[str, Any] = {
        **setting._asdict(),
        "taught": there.soft_targets.teaching.sentence,
        "seconds_before": round(time.perf_counter() - start, 1),
        "base": {"mean": round(float(base.mean()), 5), "per_query": rounded(base)},
        "runs": [],
    }
    for size in arguments.sizes:
        for draw in range(arguments.draws if size not in ("0", ALL) else 1):
            values, facts = {}, {}
            for name, soft_targets in (("without", None), ("with", there.soft_targets)):
                begun = time.perf_counter()
                values[name], facts[name] = fitted(there, size, draw, soft_targets)
                facts[name] |= {"seconds": round(time.perf_counter() - begun, 1), **compare_part(base, values[name])}
            run = {"labels": size, "draw": draw, **facts, "difference": compare_part(values["without"], values["with"])}
            entry["runs"].append({**run, "per_query": {name: rounded(each) for name, each in values.items()}})
            print(setting, size, draw, {name: each["mean"] for name, each in facts.items()}, flush=True)
    return entry


def fitted(there: Material, size: str, draw: int, soft_targets: SoftTargets | None) -> tuple[Any, dict[str, Any]]:
    """Test nDCG@10 by query after one fit, and what was chosen."""
    embedded = there.embedded
    if size == "0":
        # Nothing is tested: what is learned is handed over.
        assert there.pseudo_queries is not None
        learned = prior_of(there.pseudo_queries, draw) if soft_targets is None else taught_map(soft_targets, draw)
        adapter: QueryAdapter | None = as_adapter(QueryMap(learned), embedded.normalized)
        facts: dict[str, Any] = {"adopted": True, "chosen": "untested"}
    else:
        drawn = embedded if size == ALL else draw_share(embedded, int(size), draw)
        found = fit(drawn, pseudo_queries=there.pseudo_queries, soft_targets=soft_targets, seed=draw)
        adapter, facts = found.adapter, {"adopted": found.adopted, "chosen": found.chosen}
    evaluated = evaluate(embedded["test"], adapter, ks=[10])
    return evaluated.adapted[METRIC], facts


def prepared(setting: Setting, arguments: argparse.Namespace) -> Material:
    """The data with the log's queries and the cross-encoder's taken out of train, and what the teacher says."""

    def path(name: str) -> Path:
        there: Path = arguments.models / name
        return demo_model_path() if name == MINILM and not there.is_dir() else there

    dataset = RetrievalDataset.load(str(arguments.data / setting.data))
    model = SentenceTransformer(str(path(setting.base_model)), device=arguments.device)
    embedded = embed(model, dataset, cache_dir=arguments.cache_dir)
    train = sorted(set(dataset.qrels["train"]["query_id"]))
    random.Random(0).shuffle(train)
    log, of_teacher = set(train[:NUM_LOG]), set(train[NUM_LOG : NUM_LOG + NUM_FOR_TEACHER])
    taken = log | of_teacher if setting.teacher == TRAINED else log
    if setting.teacher == TRAINED:
        teacher: Any = trained_cross_encoder(path(SMALL), dataset, embedded, of_teacher, arguments.device)
        kept = [query_id not in of_teacher for query_id in dataset.queries["id"]]
        dataset = replace(dataset, queries=dataset.queries.select([n for n, keep in enumerate(kept) if keep]))
        embedded = replace(
            embedded,
            query_ids=list(dataset.queries["id"]),
            query_embeddings=embedded.query_embeddings[torch.tensor(kept)],
            qrels={},
            own_copies=None,
        )
    else:
        teacher = SentenceTransformer(str(path(setting.teacher)), device=arguments.device)
    rest = dataset.qrels["train"].filter(lambda row: row["query_id"] not in taken)
    dataset = replace(dataset, qrels={**dataset.qrels, "train": rest})
    embedded = judged_by(embedded, dataset)
    soft_targets = ask_teacher(
        School(open_teacher(teacher, cache_dir=arguments.cache_dir)),
        as_encoder(model),
        (dataset, embedded),
        cache_dir=arguments.cache_dir,
    )
    pseudo_queries = embed_pseudo_queries(model, dataset, embedded, cache_dir=arguments.cache_dir)
    return Material(embedded, pseudo_queries, soft_targets)


def trained_cross_encoder(
    folder: Path, dataset: RetrievalDataset, embedded: EmbeddedDataset, query_ids: set[str], device: str | None
) -> CrossEncoder:
    """A cross-encoder of three layers, trained on some labels against documents that the base model finds."""
    queries = dict(zip(dataset.queries["id"], dataset.query_texts or [], strict=True))
    documents = dict(zip(dataset.corpus["id"], dataset.document_texts or [], strict=True))
    split = embedded["train"]
    found = split.corpus.search(split.comparable(split.query_embeddings), 30).indices.tolist()
    hits = dict(zip(split.query_ids, found, strict=True))
    generator, rows = random.Random(0), []
    relevant: dict[str, set[str]] = {}
    for judged in dataset.qrels["train"]:
        relevant.setdefault(judged["query_id"], set()).add(judged["corpus_id"])
    for query_id in sorted(query_ids):
        others = [split.corpus.ids[row] for row in hits[query_id] if split.corpus.ids[row] not in relevant[query_id]]
        chosen = [*sorted(relevant[query_id]), *generator.sample(others, NUM_NEGATIVES)]
        rows += [(queries[query_id], documents[one], float(one in relevant[query_id])) for one in chosen]
    columns = dict(zip(("query", "document", "label"), map(list, zip(*rows, strict=True)), strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(temporary)
        AutoTokenizer.from_pretrained(folder).save_pretrained(temporary)
        model = CrossEncoder(temporary, device=device, max_length=128)
        training = CrossEncoderTrainingArguments(
            output_dir=temporary, num_train_epochs=3, per_device_train_batch_size=32, learning_rate=2e-4,
            warmup_steps=0.1, seed=0, report_to="none", save_strategy="no",
            use_cpu=model.device.type == "cpu", disable_tqdm=True,
        )  # fmt: skip
        CrossEncoderTrainer(
            model, training, datasets.Dataset.from_dict(columns), loss=BinaryCrossEntropyLoss(model)
        ).train()
    return model


def markdown_table(results: Mapping[str, Any]) -> str:
    """A row for each setting and number of labels, means over the draws."""
    lines = ["| data | base | teacher | labels | base | without teacher | with teacher | difference |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for each in results["settings"]:
        for size in dict.fromkeys(run["labels"] for run in each["runs"]):
            runs = [run for run in each["runs"] if run["labels"] == size]
            means = [sum(run[side]["mean"] for run in runs) / len(runs) for side in ("without", "with")]
            figures = (each["base"]["mean"], *means)
            cells = (each["data"], each["base_model"], each["teacher"], size, *(f"{figure:.3f}" for figure in figures))
            lines.append(f"| {' | '.join(map(str, cells))} | {means[1] - means[0]:+.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
