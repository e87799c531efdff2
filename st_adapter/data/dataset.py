"""Retrieval data sets: queries, a corpus and graded qrels, loaded from wherever they are, checked, split by query.

Pairs are rows of a query and a document, optionally with `negative` (judged, score 0), `score` (1 where there is no
such column) and the document's `title`. Cells may hold lists, and `negative_1`, `negative_2`, ... count as one. The
BEIR form is a corpus, queries and qrels. Titles are put before their text. Identical texts become one document or one
query, under the id that came first; of a repeated judgement the highest score is kept.

A column that is not used, but looks as if it said what is relevant (0 and 1, grades, or a name such as `clicked` or
`rating`), is refused: name it as score, or ignore it; see `labels.looks_like_labels`.

Splits are taken as given, under their usual names (validation and eval are read as dev, training as train). With none,
or only train, queries are cut 70/10/20 by a seeded hash of their text, in which case, width and spacing do not count:
duplicates never land on two sides, and more data moves no query. Where dev is missing, the same hash cuts 15 % of train
off as dev. With `split_by="document"`, all queries with a relevant document in common land on one side too, as far as
no group of them is too large for that; see `cutting.cut_in_groups`. Splits that were given stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import datasets
import pandas as pd

from st_adapter.data.columns import without_columns
from st_adapter.data.judgements import (
    check_positives,
    merge,
    overlap_notes,
    own_copies,
    own_copy_notes,
    resolve,
    with_least_relevant,
    without_lacking,
)
from st_adapter.data.layout import LaidOut, from_beir, from_pairs
from st_adapter.data.sources import DataSource, read_source
from st_adapter.data.splits import (
    CARVED,
    CUTS,
    UNCUT,
    WHOLE,
    Cut,
    Cutter,
    SplitBy,
    carved_note,
    check_filled,
    in_order,
    split_rows,
)
from st_adapter.data.tables import PairTables
from st_adapter.errors import InputError
from st_adapter.words import counted, first_three, listed

_TEXT_FEATURES = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("string")})
_QRELS_FEATURES = datasets.Features(
    {"query_id": datasets.Value("string"), "corpus_id": datasets.Value("string"), "score": datasets.Value("float64")}
)


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
        cut: How splits were cut; None if all of them were given.
        corpus_is_labelled_only: Whether the corpus is just the documents of the pairs, with no others to search among.
    """

    queries: datasets.Dataset
    corpus: datasets.Dataset
    qrels: Mapping[str, datasets.Dataset]
    name: str = ""
    notes: tuple[str, ...] = ()
    cut: Cut | None = None
    corpus_is_labelled_only: bool = False

    @property
    def splits(self) -> list[str]:
        """The names of the splits: train, dev, test as far as they are there, then others."""
        return list(self.qrels)

    @cached_property
    def own_copies(self) -> tuple[list[int], list[int]]:
        """The documents that are a query's own text: rows of `queries`, and for each one the row of `corpus`."""
        return own_copies(self.queries["text"], self.corpus["text"])

    @classmethod
    def load(
        cls,
        source: DataSource,
        *,
        columns: Mapping[str, str] | None = None,
        ignore_columns: Collection[str] = (),
        relevant_from: float | None = None,
        seed: int = 0,
        split_by: SplitBy = "query",
        cut_into: Sequence[str] = ("train", "dev", "test"),
    ) -> RetrievalDataset:
        """Load pairs or a BEIR data set from memory, disk or the Hub; usual column names need no flags.

        How the data are read, and how splits are cut where there are none, stands at the head of this module.

        Args:
            source: A `datasets.Dataset` or `DatasetDict`, a pandas frame, a mapping of split -> table or of `corpus`,
                `queries` and `qrels` (or `relevant_docs`) -> table or dict of ids; the path of a csv, tsv, json, jsonl
                or parquet file, of rows or of LlamaIndex's `EmbeddingQAFinetuneDataset`; a folder with one
                file per split (`train.csv`), or with `corpus`, `queries` and `qrels`; or the id of a Hub data set.
            columns: Role -> name of the column, where names are unusual. Roles of pairs: query, document, title,
                negative, score, split. Of BEIR data sets: id, text, title (corpus and queries), query_id, corpus_id,
                score, split (qrels).
            ignore_columns: Columns that mean nothing here, as if they were not there.
            relevant_from: The least score that is relevant, above 0: lower ones count as judged and not relevant, those
                from it on are kept as they are. Queries that are left without a relevant document are left out, with a
                note. If None, every score above 0 is relevant.
            seed: Seeds the hash that makes splits.
            split_by: What stays on one side where splits are cut: the duplicates of a query, or all queries of one
                document. To keep paraphrases together as well, see `leaks.regroup`.
            cut_into: The splits that queries are cut into where the data come without. `("train", "dev")` sets no test
                split aside: 15 % are dev. `()` cuts nothing, to evaluate on all there is: queries that came without
                splits are the split `all`, and no train split is needed.

        Raises:
            ValueError: Nothing is found at `source`; a column is missing; a split is empty or train is missing; a text,
                an id or a score is none, or an id stands for two texts; a query has no relevant document in its split.

        Example:
            >>> pairs = {
            ...     "question": ["How do I sort?", "How do I search?", "how do I  sort?"],
            ...     "answer": ["Call sorted().", "Use bisect.", "Call list.sort()."],
            ...     "split": ["train", "dev", "test"],
            ... }
            >>> dataset = RetrievalDataset.load(pd.DataFrame(pairs))
            >>> dataset.splits, len(dataset.queries), len(dataset.corpus)
            (['train', 'dev', 'test'], 3, 3)
            >>> dataset.notes[-1]
            "1 query text stands in both 'train' and 'test' (apart from case and spacing); kept in both."
        """
        if split_by not in get_args(SplitBy):
            raise ValueError(f"split_by is {split_by!r}. Expected one of {listed(get_args(SplitBy))}.")
        if tuple(cut_into) not in CUTS:
            raise ValueError(f"cut_into is {cut_into!r}. Expected one of {', '.join(map(str, CUTS))}.")
        tables = without_columns(read_source(source), ignore_columns)
        read = from_pairs(tables, columns or {}) if isinstance(tables, PairTables) else from_beir(tables, columns or {})
        if relevant_from is not None:
            read = with_least_relevant(read, relevant_from)
        return _assemble(read, tables.name, seed, split_by, tuple(cut_into))

    def split_to_evaluate(self, split: str | None = None) -> str:
        """The split to measure on: the one that is asked for, or else test, or the only one there is.

        Args:
            split: Its name; None for the usual choice.

        Raises:
            InputError: There is no such split, or several and none of them is test.
        """
        if split is None:
            split = "test" if "test" in self.qrels else self.splits[0] if len(self.qrels) == 1 else None
        if split is not None and split in self.qrels:
            return split
        asked = "No split was named, and there is no test split" if split is None else f"There is no split {split!r}"
        raise InputError(
            f"{asked}; the data have {self.splits}.",
            python="Choose one of these.",
            flags="Name one of these with --split."
            + (" Pass --seed to have the data cut as for training." if UNCUT in self.qrels else ""),
        )

    def recut(self, together: Sequence[Sequence[str]]) -> RetrievalDataset:
        """Cut anew the splits that `load` cut, with the same seed; those that were given stay as they are.

        Args:
            together: Groups of query ids. Each group stays on one side, besides what `load` keeps together, as far as
                no group is too large for that.

        Raises:
            ValueError: All splits were given; an id is unknown to the splits that were cut; a split would be empty.
        """
        if self.cut is None:
            raise ValueError(
                f"The splits {listed(self.splits)} were given with the data, so there is nothing to cut anew. "
                "Load the rows without their splits to have them cut."
            )
        texts = dict(zip(self.queries["id"], self.queries["text"], strict=True))
        documents = dict(zip(self.corpus["id"], self.corpus["text"], strict=True))
        frames = {name: rows.to_pandas() for name, rows in self.qrels.items()}
        rows = pd.concat([frames[name] for name in self.cut.splits], ignore_index=True)
        unknown = sorted({query_id for group in together for query_id in group} - set(rows["query_id"]))
        if unknown:
            raise ValueError(
                f"{counted(len(unknown), 'query id')} not in the splits {listed(self.cut.splits)}: "
                f"{first_three(unknown)}. Expected ids of queries that these splits judge."
            )
        parts = WHOLE if "test" in self.cut.splits else CARVED
        rows["split"], torn = Cutter(texts, documents, self.cut.by, self.cut.seed).cut(rows, parts, together)
        check_filled(rows, parts, self.cut.seed)
        by_split = {
            name: rows[rows["split"] == name].drop(columns="split") if name in self.cut.splits else frames[name]
            for name in self.splits
        }
        first = self.cut.notes[0]
        if "test" not in self.cut.splits:
            first = carved_note(by_split["dev"]["query_id"].nunique(), self.cut.by)
        notes = (first, *torn, *overlap_notes(by_split, texts))
        return replace(
            self,
            qrels={name: _dataset(frame, _QRELS_FEATURES) for name, frame in by_split.items()},
            notes=(*(note for note in self.notes if note not in self.cut.notes), *notes),
            cut=self.cut._replace(notes=notes),
        )


def _assemble(parts: LaidOut, name: str, seed: int, split_by: SplitBy, cut_into: tuple[str, ...]) -> RetrievalDataset:
    queries = merge(parts.queries, "query", "queries")
    corpus = merge(parts.corpus, "document", "documents")
    texts = dict(zip(queries.table["id"], queries.table["text"], strict=True))
    documents = dict(zip(corpus.table["id"], corpus.table["text"], strict=True))
    judged = resolve(parts.qrels, queries.ids, corpus.ids)
    notes = [*parts.notes, *parts.score_notes, *queries.notes, *corpus.notes]
    if len(documents) == 1:
        notes.append("The corpus holds 1 document, so every ranking is right: there is nothing to learn or to measure.")
    if parts.may_lack_relevant:
        judged, left_out = without_lacking(judged)
        notes += left_out
    resolved, split_notes, cut_by_us = split_rows(judged, Cutter(texts, documents, split_by, seed), cut_into)
    qrels = resolved.groupby(["split", "query_id", "corpus_id"], sort=False, as_index=False)["score"].max()
    if len(qrels) < len(resolved):
        number = counted(len(resolved) - len(qrels), "repeated judgement")
        notes.append(f"{number} of the same query and document merged; the highest score was kept.")
    notes += [*split_notes, *(cut_by_us.notes if cut_by_us else ())]
    by_split = {split: qrels[qrels["split"] == split] for split in in_order(qrels["split"])}
    check_positives(by_split, texts)
    overlaps = overlap_notes(by_split, texts)
    notes += overlaps
    notes += own_copy_notes(by_split, texts, documents)
    unjudged = len(texts) - qrels["query_id"].nunique()
    if unjudged:
        notes.append(f"{counted(unjudged, 'query', 'queries')} without judgements in any split kept, but not used.")
    return RetrievalDataset(
        queries=_dataset(queries.table, _TEXT_FEATURES),
        corpus=_dataset(corpus.table, _TEXT_FEATURES),
        qrels={split: _dataset(rows, _QRELS_FEATURES) for split, rows in by_split.items()},
        name=name,
        notes=tuple(notes),
        cut=cut_by_us._replace(notes=(*cut_by_us.notes, *overlaps)) if cut_by_us else None,
        corpus_is_labelled_only=parts.corpus_is_labelled_only,
    )


def _dataset(table: pd.DataFrame, features: datasets.Features) -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: table[column].tolist() for column in features}, features=features)
