"""Count the queries that stand in two splits: planted ones, and those of every data set given.

The synthetic part plants leaks of every kind between clean splits of made-up English queries and says how many of them
the check finds, and what else. The other part reports what it finds in given splits, with the default threshold; it
looks at queries alone, so no document is embedded. Writes scripts/results/check_leaks.json.

    python scripts/check_leaks.py                    # ../shared/data/* if there
    python scripts/check_leaks.py --data DIR DIR     # folders with corpus, queries and qrels
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmark_quality import default_folders, device_name, git_commit, write_results
from scipy.sparse import csr_matrix
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.leaks import LeakReport, drop_leaks, find_leaks
from st_adapter.demo import demo_model_path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "scripts" / "results" / "check_leaks.json"
SHOWN_PAIRS = 10
WORDS_ALIKE = 0.8  # Jaccard coefficient of the sets of words
NUM_PLANTED = 40

# Made-up help-desk queries. One thing and one place each, so that two of them rarely ask the same.
THINGS = (
    "invoice printer password calendar laptop badge projector heating parking contract holiday payslip pension headset "
    "visa expense canteen bicycle locker keyboard"
).split()
ASKING = {
    "return": "How do I return a {thing} that I bought in {place}?",
    "price": "What does a new {thing} cost for someone who works in {place}?",
    "repair": "Who repairs a broken {thing} at the office in {place}?",
    "lost": "My {thing} was lost on the way to {place}, what now?",
}
# The same request in other words: what a paraphrase is.
ALSO_ASKING = {
    "return": "How can I return a {thing} I bought in {place}?",
    "price": "What does a new {thing} cost for somebody working in {place}?",
    "repair": "Who can repair a broken {thing} at the {place} office?",
    "lost": "My {thing} got lost on the way to {place}. What now?",
}
PLACES = "Lisbon Oslo Nairobi Lima Osaka Tunis Quebec Perth Riga Hanoi".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", help="default: ../shared/data/*")
    parser.add_argument("--model", type=Path, help="default: all-MiniLM-L6-v2 from the demo's package")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--scale", type=int, nargs=2, default=(100_000, 10_000), metavar=("TRAIN", "TEST"))
    arguments = parser.parse_args()

    model = SentenceTransformer(str(arguments.model or demo_model_path()), device=arguments.device)
    results: dict[str, Any] = {
        "script": "check_leaks.py",
        "git_commit": git_commit(),
        "model": "all-MiniLM-L6-v2" if arguments.model is None else str(arguments.model),
        "device": device_name(model.device),
        "paraphrase_threshold": PARAPHRASE_THRESHOLD,
        "planted": planted(model),
        "scale": scale(arguments.scale[0], arguments.scale[1], model.device),
        "datasets": {},
    }
    for kind, entry in results["planted"]["kinds"].items():
        print(f"planted, {kind}: {entry['found']} of {entry['planted']} found")
    print(f"planted, nothing: {results['planted']['found_in_clean_set']} found")
    for folder in default_folders() if arguments.data is None else arguments.data:
        results["datasets"][folder.name] = given(folder, model)
        print(folder.name, *results["datasets"][folder.name]["sentences"], sep="\n  ")
        write_results(arguments.output, results)
    write_results(arguments.output, results)
    print(f"Written to {arguments.output}")


def planted(model: SentenceTransformer) -> dict[str, Any]:
    """Plant leaks of every kind in clean splits, and count those that are found, those invented and those left."""
    draw = random.Random(0)
    asked = [(kind, thing, place) for kind in ASKING for thing in THINGS for place in PLACES]
    draw.shuffle(asked)
    texts = {query: ASKING[query[0]].format(thing=query[1], place=query[2]) for query in asked}
    # A query is let in only if it is no paraphrase of one before it, by a plain loop: a clean set to begin with.
    vectors = dict(zip(asked, encode(model, [texts[query] for query in asked]), strict=True))
    clean: list[tuple[str, str, str]] = []
    for query in asked:
        if all(float(vectors[query] @ vectors[known]) < PARAPHRASE_THRESHOLD for known in clean):
            clean.append(query)
    third = len(clean) // 3
    split_of = {query: ("train", "dev", "test")[min(2, n // third)] for n, query in enumerate(clean)}
    rows = [(split, texts[query], f"Answer to: {texts[query]}") for query, split in split_of.items()]
    empty = find_leaks(load := to_dataset(rows), encode(model, list(load.queries["text"])))

    sources = [query for query in clean if split_of[query] != "test"]
    planted_in: dict[tuple[str, str], str] = {}
    kinds = ("exact", "normalised", "paraphrase", "shared document")
    for number, query in enumerate(draw.sample(sources, NUM_PLANTED * len(kinds))):
        kind, text = kinds[number % len(kinds)], texts[query]
        document = f"Planted answer {number}"
        if kind == "normalised":
            text = text.upper() if number % 8 < 4 else f"  {text.replace(' ', '   ')}\n"
        elif kind == "paraphrase":
            text = ALSO_ASKING[query[0]].format(thing=query[1], place=query[2])
        elif kind == "shared document":
            text, document = f"Something new, number {number}: {draw.random():.6f}", f"Answer to: {text}"
        planted_in[kind, text] = split_of[query]
        rows.append(("test", text, document))
    dataset = to_dataset(rows)
    embeddings = encode(model, list(dataset.queries["text"]))
    report = find_leaks(dataset, embeddings)
    found: set[tuple[str, str, str]] = {
        (leak.kind, leak.later_text, part.earlier) for part in report.between for leak in part.leaks
    }
    text_of = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    found |= {
        ("shared document", text_of[query_id], part.earlier)
        for part in report.between
        for query_id, _ in part.shared_documents
    }
    row_of = {text: row for row, text in enumerate(dataset.queries["text"])}
    cosines = sorted(
        float(embeddings[row_of[text]] @ embeddings[row_of[texts[query]]])
        for query in clean
        for text in [ALSO_ASKING[query[0]].format(thing=query[1], place=query[2])]
        if ("paraphrase", text) in planted_in
    )
    return {
        "num_clean_queries": len(clean),
        "found_in_clean_set": sum(len(part.leaks) + len(part.shared_documents) for part in empty.between),
        "kinds": {
            kind: {
                "planted": sum(planted_kind == kind for planted_kind, _ in planted_in),
                "found": sum(
                    (planted_kind, text, split) in found
                    for (planted_kind, text), split in planted_in.items()
                    if planted_kind == kind
                ),
            }
            for kind in kinds
        },
        "cosines_of_planted_paraphrases": {"min": cosines[0], "median": cosines[len(cosines) // 2]},
        "left_after_drop_leaks": sum(
            len(part.leaks) for part in find_leaks(drop_leaks(dataset, report), embeddings).between
        ),
    }


def given(folder: Path, model: SentenceTransformer) -> dict[str, Any]:
    """What the check finds in the splits of a data set."""
    dataset = RetrievalDataset.load(folder)
    embeddings = encode(model, list(dataset.queries["text"]))
    start = time.perf_counter()
    report = find_leaks(dataset, embeddings)
    seconds = time.perf_counter() - start
    dropped = drop_leaks(dataset, report)
    return {
        "num_queries": dataset.num_queries,
        "num_queries_after_drop_leaks": dropped.num_queries,
        "seconds": round(seconds, 3),
        "sentences": report.sentences,
        "near_duplicates_by_words": near_duplicates_by_words(dataset, report),
        **report.to_dict(max_pairs=SHOWN_PAIRS),
    }


def near_duplicates_by_words(dataset: RetrievalDataset, report: LeakReport) -> dict[str, dict[str, int]]:
    """Without any model: later queries that share four fifths of their words with an earlier one, and those found."""
    words = [set(re.findall(r"\w+", text.lower())) for text in dataset.queries["text"]]
    column = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    rows = np.repeat(np.arange(len(words)), [len(each) for each in words])
    columns = np.array([column[word] for each in words for word in sorted(each)])
    matrix = csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(len(words), len(column)))
    lengths = np.array([len(each) for each in words])
    row_of = {query_id: row for row, query_id in enumerate(dataset.queries["id"])}
    counts = {}
    for part in report.between:
        earlier, later = (
            np.array(sorted({row_of[query_id] for query_id in dataset.qrels[split]["query_id"]}))
            for split in (part.earlier, part.later)
        )
        common = (matrix[later] @ matrix[earlier].T).tocoo()
        of, to = later[common.row], earlier[common.col]
        alike = common.data / (lengths[of] + lengths[to] - common.data) >= WORDS_ALIKE
        near = set(of[alike].tolist())
        leaking = {row_of[leak.later_id] for leak in part.leaks}
        name = f"{part.later} in {part.earlier}"
        counts[name] = {"with_word_overlap_of_0.8": len(near), "of_these_found": len(near & leaking)}
    return counts


def scale(num_train: int, num_test: int, device: torch.device) -> dict[str, Any]:
    """The check on many queries: random vectors, with one paraphrase planted for every hundredth test query."""
    texts = {split: [f"{split} {n}" for n in range(size)] for split, size in (("train", num_train), ("test", num_test))}
    rows = [(split, text, f"document of {text}") for split, queries in texts.items() for text in queries]
    dataset = to_dataset([*rows, ("dev", "dev 0", "document of dev 0")])
    vectors = torch.randn(len(dataset.queries), 384, generator=torch.Generator().manual_seed(0)).to(device)
    copied = torch.arange(0, num_test, 100)
    vectors[num_train + copied] = vectors[copied] + 0.1 * vectors[num_train + copied]
    start = time.perf_counter()
    report = find_leaks(dataset, vectors)
    seconds = time.perf_counter() - start
    found = next(part for part in report.between if (part.earlier, part.later) == ("train", "test"))
    return {
        "num_train": num_train,
        "num_test": num_test,
        "dim": 384,
        "planted": len(copied),
        "found": found.counts()["paraphrase"],
        "seconds": round(seconds, 1),
    }


def to_dataset(rows: list[tuple[str, str, str]]) -> RetrievalDataset:
    return RetrievalDataset.load(pd.DataFrame(rows, columns=["split", "query", "document"]))


def encode(model: SentenceTransformer, texts: list[str]) -> Tensor:
    embeddings: Tensor = model.encode_query(
        texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
    )
    return embeddings


if __name__ == "__main__":
    main()
