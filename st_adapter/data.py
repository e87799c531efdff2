"""Retrieval data sets: queries, a corpus and graded qrels, loaded from wherever they are, checked, split by query."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd

from st_adapter.data_columns import DatasetParts, counted, first_three, from_beir, from_pairs
from st_adapter.data_files import NO_SPLIT, SPLIT_NAMES, PairTables, Source, listed, read_source

_TEXT_FEATURES = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("string")})
_QRELS_FEATURES = datasets.Features(
    {"query_id": datasets.Value("string"), "corpus_id": datasets.Value("string"), "score": datasets.Value("float64")}
)
_TRAIN_SHARE, _DEV_SHARE = 0.7, 0.1  # of the queries when no split is given; the rest is test
_CARVED_DEV_SHARE = 0.15  # of train's queries, when train and test are given but no dev


@dataclass(frozen=True)
class RetrievalDataset:
    """Queries, a corpus and graded judgements, by split. Texts are unique by id and by content.

    Attributes:
        queries: Q rows of `id` and `text`, both strings; those that no split judges included.
        corpus: N rows of `id` and `text`, both strings; their order is the corpus order that breaks ties in search.
        qrels: Split -> rows of `query_id`, `corpus_id` and `score` (float64; above 0 is relevant, higher is better).
            Every query of a split has at least one relevant document in it.
        name: Where the data came from, for results and model cards; empty for data in memory.
        notes: What was merged, cut or left unused while loading, in plain words with counts.
    """

    queries: datasets.Dataset
    corpus: datasets.Dataset
    qrels: Mapping[str, datasets.Dataset]
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> list[str]:
        """The names of the splits: train, dev, test as far as they are there, then others."""
        return list(self.qrels)

    @classmethod
    def load(cls, source: Source, *, columns: Mapping[str, str] | None = None, seed: int = 0) -> RetrievalDataset:
        """Load pairs or a BEIR data set from memory, disk or the Hub; usual column names need no flags.

        Pairs are rows of a query and a document, optionally with `negative` (judged, score 0), `score` (1 where there
        is no such column) and the document's `title`. Cells may hold lists, and `negative_1`, `negative_2`, ... count
        as one. The BEIR form is a corpus, queries and qrels. Titles are put before their text. Identical texts become
        one document or one query, under the id that came first; of a repeated judgement the highest score is kept.

        Splits are taken as given (validation, valid and val are read as dev). With none, or only train, queries are
        cut 70/10/20 by a seeded hash of their text, in which case, width and spacing do not count: duplicates never
        land on two sides, and more data moves no query. Where dev is missing,
        the same hash cuts 15 % of train off as dev.

        Args:
            source: A `datasets.Dataset` or `DatasetDict`, a pandas frame, a mapping of split -> table or of `corpus`,
                `queries` and `qrels` -> table; the path of a csv, tsv, json, jsonl or parquet file; a folder with one
                file per split (`train.csv`), or with `corpus`, `queries` and `qrels`; or the id of a Hub data set.
            columns: Role -> name of the column, where names are unusual. Roles of pairs: query, document, title,
                negative, score, split. Of BEIR data sets: id, text, title (corpus and queries), query_id, corpus_id,
                score, split (qrels).
            seed: Seeds the hash that makes splits.

        Raises:
            ValueError: Nothing is found at `source`; a column is missing; a split is empty or train is missing; a
                text is empty or no string; an id is missing, unknown or stands for two texts; a score is no finite
                number; a query has no relevant document in its split. The message says which and what to do.

        Example:
            >>> pairs = {
            ...     "question": ["How do I sort?", "How do I search?", "how do I  sort?"],
            ...     "answer": ["Call sorted().", "Use bisect.", "Call list.sort()."],
            ...     "split": ["train", "dev", "test"],
            ... }
            >>> dataset = RetrievalDataset.load(pd.DataFrame(pairs))
            >>> dataset.splits, len(dataset.queries), len(dataset.corpus)
            (['train', 'dev', 'test'], 3, 3)
            >>> dataset.notes
            ("1 query text stands in both 'train' and 'test' (apart from case and spacing); kept in both.",)
        """
        tables = read_source(source)
        read = from_pairs(tables, columns or {}) if isinstance(tables, PairTables) else from_beir(tables, columns or {})
        return _assemble(read, tables.name, seed)


# --- identical texts ---


class _Merged(NamedTuple):
    table: pd.DataFrame  # id, text; both unique
    ids: dict[str, str]  # every id that was given -> the id that stands for its text
    notes: list[str]


def _merge(frame: pd.DataFrame, singular: str, plural: str) -> _Merged:
    """Keep one row per id and per text, the first; ids that stand for two texts are an error."""
    once = frame.drop_duplicates()
    torn = once["id"][once["id"].duplicated()].unique().tolist()
    if torn:
        raise ValueError(
            f"{counted(len(torn), f'{singular} id')} given to several different texts: {first_three(torn)}. "
            "Expected one text per id. Rename or remove the others."
        )
    notes = []
    if len(once) < len(frame):
        notes.append(f"{counted(len(frame) - len(once), 'repeated row')} of the {plural} read once.")
    table = once.drop_duplicates("text")
    if len(table) < len(once):
        number = len(once) - len(table)
        notes.append(f"{counted(number, singular, plural)} with exactly the text of an earlier one merged into it.")
    id_of_text = dict(zip(table["text"], table["id"], strict=True))
    ids = {given: id_of_text[text] for given, text in zip(once["id"], once["text"], strict=True)}
    return _Merged(table, ids, notes)


def _resolve(qrels: pd.DataFrame, query_ids: Mapping[str, str], corpus_ids: Mapping[str, str]) -> pd.DataFrame:
    """Point qrels at the ids that were kept, after checking that all of them are known."""
    for column, known, where in (("query_id", query_ids, "queries"), ("corpus_id", corpus_ids, "corpus")):
        unknown = [str(given) for given in qrels[column].unique() if given not in known]
        if unknown:
            number = counted(len(unknown), f"{column} of the qrels", f"{column}s of the qrels")
            raise ValueError(
                f"{number} not in the {where}: {first_three(unknown)}. "
                f"Expected only ids that are there, such as {first_three(list(known))}. "
                f"Add the missing rows to the {where}, or take these out of the qrels."
            )
    resolved: pd.DataFrame = qrels.assign(
        query_id=qrels["query_id"].map(query_ids), corpus_id=qrels["corpus_id"].map(corpus_ids)
    )
    return resolved


# --- splits ---


def _hash_share(text: str, seed: int) -> float:
    """Place a query in [0, 1), always the same place for texts that differ in case, width and spacing only."""
    digest = hashlib.sha256(f"{seed}:{_normalised(text)}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _normalised(text: str) -> str:
    # The second NFKC puts together what casefold took apart, so that upper and lower case meet for every script.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def _given_split(name: Any) -> str:
    if not isinstance(name, str) or (name and not name.strip()):
        raise ValueError(f"A row is in the split {name!r}. Expected a name such as train, dev or test in every row.")
    return SPLIT_NAMES.get(name.strip().lower(), name.strip())


def _split(qrels: pd.DataFrame, texts: Mapping[str, str], seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Name every row's split: as given where that is enough, by the hash of the query's text where not."""
    names = {name: _given_split(name) for name in qrels["split"].unique().tolist()}
    qrels = qrels.assign(split=qrels["split"].map(names))
    given = set(names.values())
    shares = qrels["query_id"].map(
        {query_id: _hash_share(texts[query_id], seed) for query_id in qrels["query_id"].unique()}
    )
    if given in ({NO_SPLIT}, {"train"}):
        test_from = _TRAIN_SHARE + _DEV_SHARE
        split = np.select([shares < _TRAIN_SHARE, shares < test_from], ["train", "dev"], "test")
        missing = sorted({"train", "dev", "test"} - set(split))
        if missing:
            number = counted(qrels["query_id"].nunique(), "query", "queries")
            raise ValueError(
                f"{number} cut 70/10/20 with seed {seed} left {listed(missing)} without any. Expected queries in "
                "each of train, dev and test. Give more data, another seed, or splits of your own."
            )
        found = "Only a train split was given" if "train" in given else "No splits were given"
        note = f"{found}; queries were cut 70/10/20 into train, dev and test by a hash (seed {seed})."
        return qrels.assign(split=split), [note]
    if NO_SPLIT in given:
        raise ValueError("Some rows name a split and some do not. Expected a name in every row, or in none.")
    if "train" not in given:
        raise ValueError(
            f"There is no train split; found {listed(sorted(given))}. Expected train, with dev and test if any. "
            "Name the split to learn from 'train', or give all rows without splits to have them cut."
        )
    notes = [] if "test" in given else ["No test split was given, so there is none."]
    if "dev" not in given:
        carved = (qrels["split"] == "train") & (shares < _CARVED_DEV_SHARE)
        num_dev = qrels.loc[carved, "query_id"].nunique()
        num_train = qrels.loc[(qrels["split"] == "train") & ~carved, "query_id"].nunique()
        if not num_dev or not num_train:
            raise ValueError(
                f"No dev split was given, and cutting it from the {num_dev + num_train} queries of train "
                f"left {'dev' if num_train else 'train'} empty. Give a dev split, more data, or another seed."
            )
        qrels = qrels.assign(split=qrels["split"].mask(carved, "dev"))
        notes.append(f"No dev split was given; {counted(num_dev, 'query', 'queries')} of train became it, by a hash.")
    return qrels, notes


def _order(splits: Iterable[str]) -> list[str]:
    """Put train, dev and test first, others as they came."""
    found = dict.fromkeys(splits)
    return [name for name in dict.fromkeys(("train", "dev", "test", *found)) if name in found]


# --- the whole ---


def _assemble(parts: DatasetParts, name: str, seed: int) -> RetrievalDataset:
    queries = _merge(parts.queries, "query", "queries")
    corpus = _merge(parts.corpus, "document", "documents")
    texts = dict(zip(queries.table["id"], queries.table["text"], strict=True))
    resolved, split_notes = _split(_resolve(parts.qrels, queries.ids, corpus.ids), texts, seed)
    qrels = resolved.groupby(["split", "query_id", "corpus_id"], sort=False, as_index=False)["score"].max()
    notes = [*parts.notes, *queries.notes, *corpus.notes]
    if len(qrels) < len(resolved):
        number = counted(len(resolved) - len(qrels), "repeated judgement")
        notes.append(f"{number} of the same query and document merged; the highest score was kept.")
    notes += split_notes
    by_split = {split: qrels[qrels["split"] == split] for split in _order(qrels["split"])}
    _check_positives(by_split, texts)
    notes += _overlap_notes(by_split, texts)
    unjudged = len(texts) - qrels["query_id"].nunique()
    if unjudged:
        notes.append(f"{counted(unjudged, 'query', 'queries')} without judgements in any split kept, but not used.")
    return RetrievalDataset(
        queries=_dataset(queries.table, _TEXT_FEATURES),
        corpus=_dataset(corpus.table, _TEXT_FEATURES),
        qrels={split: _dataset(rows, _QRELS_FEATURES) for split, rows in by_split.items()},
        name=name,
        notes=tuple(notes),
    )


def _check_positives(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> None:
    for split, rows in by_split.items():
        best = rows.groupby("query_id", sort=False)["score"].max()
        without = [f"{query_id}: {texts[query_id][:60]}" for query_id in best.index[best <= 0]]
        if without:
            raise ValueError(
                f"{counted(len(without), 'query', 'queries')} of split {split!r} without any relevant document "
                f"(score above 0): {first_three(without)}. Expected at least one each. "
                "Add their relevant documents, or take them out of this split."
            )


def _overlap_notes(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> list[str]:
    normalised = {
        split: {_normalised(texts[query_id]) for query_id in rows["query_id"]} for split, rows in by_split.items()
    }
    notes = []
    for earlier, later in itertools.combinations(normalised, 2):
        number = len(normalised[earlier] & normalised[later])
        if number:
            stand = "query text stands" if number == 1 else "query texts stand"
            notes.append(
                f"{number} {stand} in both {earlier!r} and {later!r} (apart from case and spacing); kept in both."
            )
    return notes


def _dataset(table: pd.DataFrame, features: datasets.Features) -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: table[column].tolist() for column in features}, features=features)
