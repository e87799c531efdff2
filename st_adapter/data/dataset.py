"""Retrieval data sets: queries, a corpus and graded qrels, loaded from wherever they are, checked, split by query.

Pairs are rows of a query and a document, optionally with `negative` (judged, relevance 0), `score` (the relevance; 1
where there is no such column) and the document's `title`. Cells may hold lists, and `negative_1`, `negative_2`, ...
count as one. The BEIR form is a corpus, queries and qrels; labels with queries and corpus given apart are the same.
Titles are put before their text. A column `embedding` of queries or corpus is taken as it is, and their texts are then
optional. Identical texts become one document or one query, under the id that came first, unless these came with
vectors; of a repeated judgement the highest is kept.

A column that is not used, but looks as if it said what is relevant (0 and 1, grades, or a name such as `clicked` or
`rating`), is refused: name it as score, or ignore it; see `labels.looks_like_labels`. Clicks with impressions or ranks
are read as a log; see `clicks`.

Splits are taken as given, under their usual names (validation and eval are read as dev, training as train). With none,
or only train, queries are cut 70/10/20 by a seeded hash of their text, in which case, width and spacing do not count:
duplicates never land on two sides, and more data moves no query. Where dev is missing, the same hash cuts 15 % of train
off as dev. With `split_by="document"`, all queries with a relevant document in common land on one side too, and so do
paraphrases, as far as no group of them is too large for that; see `cutting.cut_in_groups`. Which queries are
paraphrases their embeddings show, so these splits are cut once there are any, by `embed` or `paraphrases.cut_splits`.
Splits that were given stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import datasets

from st_adapter.choices import SplitBy, as_whole
from st_adapter.data.columns import ColumnsRead, without_columns
from st_adapter.data.judgements import (
    check_relevant,
    merged,
    once_each,
    overlap_notes,
    own_copies,
    own_copy_notes,
    resolved,
    with_least_relevant,
    without_lacking,
)
from st_adapter.data.layout import LaidOut, lay_out
from st_adapter.data.parts import read_parts
from st_adapter.data.sources import DataSource
from st_adapter.data.splits import UNCUT, Cut, cut_rows, in_order, named_splits
from st_adapter.data.tables import NO_SPLIT
from st_adapter.data.typed import as_qrels, as_texts, by_id
from st_adapter.errors import InputError, printable, without_secrets
from st_adapter.storage.manifest import Manifest
from st_adapter.stores.folder import VectorFolder
from st_adapter.stores.store import Store, Vectors
from st_adapter.words import counted, documents_searched


@dataclass(frozen=True)
class RetrievalDataset:
    """Queries, a corpus and graded judgements, by split. Texts are unique by id and by content.

    Attributes:
        queries: Q rows of `id` and `text`, both strings; those that no split judges included. Without `text` if the
            queries came as vectors alone.
        corpus: N rows of `id` and `text`, both strings; their order is the corpus order that breaks ties in search.
            Without `text` if the documents came as vectors alone. Of a corpus in a store, the labelled documents.
        qrels: Split -> rows of `query_id`, `corpus_id` and `relevance` (float64; above 0 is relevant, more is better).
            Every query of a split has at least one relevant document in it.
        name: Where the data came from, for results and model cards; empty for data in memory.
        notes: What was merged, cut or left unused while loading, in plain words with counts.
        cut: How the splits that were not given are cut; None if all of them were given.
        corpus_is_labelled_only: Whether the corpus is just the documents of the pairs, with no others to search among.
        query_embeddings: (Q, D) float32, if the queries came with vectors.
        corpus_embeddings: (N, D) float32, if the documents came with vectors.
        store: Where the documents' vectors lie, if in a vector database or a folder that `st-adapter embed` wrote.
        uncut: Rows as in `qrels` that are still to be cut, by document once paraphrases are known; see `cut_splits`.
        columns_read: Which columns played which role, by table; see `summary.how_read`.
        queries_manifest: What the queries say of themselves, if they are a folder that `st-adapter embed` wrote.
        apart: Where `queries` and `corpus` came from, if they were given apart from the judgements and by a name.
    """

    queries: datasets.Dataset
    corpus: datasets.Dataset
    qrels: Mapping[str, datasets.Dataset]
    name: str = ""
    notes: tuple[str, ...] = ()
    cut: Cut | None = None
    corpus_is_labelled_only: bool = False
    uncut: datasets.Dataset | None = None
    query_embeddings: Vectors | None = None
    corpus_embeddings: Vectors | None = None
    store: Store | VectorFolder | None = None
    columns_read: tuple[ColumnsRead, ...] = ()
    queries_manifest: Manifest | None = None
    apart: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The name is kept in results and records.
        object.__setattr__(self, "name", without_secrets(self.name))

    def __repr__(self) -> str:
        """Name, size and splits, a line each."""
        searched = documents_searched(self.num_documents, self.corpus_is_labelled_only)
        lines = [f"{printable(self.name) or 'Data in memory'}: {searched}"]
        for split, rows in self.judged_rows.items():
            queries = counted(len(rows.unique("query_id")), "query", "queries")
            pairs = counted(sum(relevance > 0 for relevance in rows["relevance"]), "relevant pair")
            lines.append(f"  {printable(split)}: {queries}, {pairs}")
        return "\n".join(lines)

    @property
    def splits(self) -> list[str]:
        """The names of the splits, also of those still to be cut: train, dev, test if there, then others."""
        return in_order([*self.qrels, *(self.cut.splits if self.cut and self.uncut is not None else ())])

    @property
    def num_queries(self) -> dict[str, int]:
        """How many queries each split judges, and how many are still to be cut."""
        return {split: len(rows.unique("query_id")) for split, rows in self.judged_rows.items()}

    @property
    def judged_rows(self) -> dict[str, datasets.Dataset]:
        """Split -> its rows as in `qrels`, also of those still to be cut, which are called so."""
        to_cut = {"to be cut": self.uncut} if self.uncut is not None else {}
        return {**self.qrels, **to_cut}

    @property
    def num_documents(self) -> int:
        """N, how many documents are searched."""
        return len(self.corpus) if self.store is None else self.store.count

    @property
    def query_texts(self) -> list[str] | None:
        """The texts of the queries, row by row; None if they came as vectors alone."""
        return list(self.queries["text"]) if "text" in self.queries.column_names else None

    @property
    def document_texts(self) -> list[str] | None:
        """The texts of `corpus`, row by row; None if the documents came as vectors alone."""
        return list(self.corpus["text"]) if "text" in self.corpus.column_names else None

    def all_texts(self, purpose: str) -> tuple[list[str], list[str]]:
        """The texts of queries and corpus, for what embeds them itself.

        Args:
            purpose: What needs them, for the message.

        Raises:
            ValueError: One side came as vectors alone, or lies in a store.
        """
        queries, documents = self.query_texts, self.document_texts
        if queries is None or documents is None or self.store is not None:
            side = "queries" if queries is None else "documents"
            raise ValueError(f"{purpose} embeds all texts itself, but the {side} came as vectors. Give their texts.")
        return queries, documents

    @cached_property
    def own_copies(self) -> tuple[list[int], list[int]] | None:
        """The documents that are a query's own text: rows of `queries`, and for each one the row of `corpus`.

        None where not all texts are there to tell.
        """
        queries, documents = self.query_texts, self.document_texts
        if queries is None or documents is None or self.store is not None:
            return None
        return own_copies(queries, documents)

    @classmethod
    def load(
        cls,
        source: DataSource,
        *,
        queries: DataSource | None = None,
        corpus: DataSource | Store | VectorFolder | None = None,
        columns: Mapping[str, str] | None = None,
        ignore_columns: Collection[str] = (),
        relevant_from: float | None = None,
        seed: int = 0,
        split_by: SplitBy = "query",
        cut_into: Sequence[str] = ("train", "dev", "test"),
    ) -> RetrievalDataset:
        """Load pairs or a BEIR data set from memory, disk or the Hub; see the head of this module for how.

        Args:
            source: A `datasets.Dataset` or `DatasetDict`, a frame of pandas or polars, a list of dicts or of
                `InputExample`s, a mapping of split -> table or of `corpus`, `queries` and `qrels` (or `relevant_docs`)
                -> table or dict of ids; the path of a csv, tsv, json, jsonl, parquet, feather, arrow or xlsx file, of
                rows or as other tools write it; a folder with one file per split (`train.csv`), or with `corpus`,
                `queries` and `qrels`; or the id of a Hub data set. Logs of clicks too, see `clicks.read_clicks`.
            queries: A table of the queries, if `source` is labels that name them by id.
            corpus: A table of the documents, if `source` is labels that name them by id: a frame, a file, a folder of
                its parts; a folder that `st-adapter embed` wrote, which stays on disk; or an opened `Store`.
            columns: Role -> name of the column, where names are unusual. Roles of pairs: query, document, title,
                negative, score, split. Of queries and corpus: id, text, title, embedding. Of qrels and labels:
                query_id, corpus_id, score, split. Of logs also: clicks, impressions, rank. Of tables given apart,
                `corpus.id` is that of the corpus alone.
            ignore_columns: Columns that mean nothing here.
            relevant_from: The least relevance that counts, above 0: with a lower one, a document is judged and not
                relevant; from it on they are kept as they are. Queries that are left without a relevant document are
                left out, with a note. If None, all above 0 count. Of logs, the least click rate in percent.
            seed: Seeds the hash that makes splits.
            split_by: What stays on one side where splits are cut: the duplicates of a query, or all queries of one
                document and their paraphrases; then the splits are cut once the queries are embedded.
            cut_into: The splits that queries are cut into where the data come without. `("train", "dev")` sets no test
                split aside: 15 % are dev. `()` cuts nothing, to evaluate on all there is: queries that came without
                splits are the split `all`, and no train split is needed.

        Raises:
            ValueError: Nothing is found at `source`; a column is missing; a split is empty or train is missing; a text,
                an id or a score is none, or stands for two; a query has no relevant document in its split.

        Examples:
            >>> pairs = {
            ...     "question": ["How do I sort?", "How do I search?", "how do I  sort?"],
            ...     "answer": ["Call sorted().", "Use bisect.", "Call list.sort()."],
            ...     "split": ["train", "dev", "test"],
            ... }
            >>> RetrievalDataset.load(datasets.Dataset.from_dict(pairs)).splits
            ['train', 'dev', 'test']
        """
        cut = Cut(tuple(cut_into), split_by, as_whole(seed))
        tables, named, store = read_parts(source, queries, corpus, columns or {})
        tables = without_columns(tables, ignore_columns)
        rows = lay_out(tables, named, documents_are_stored=store is not None, relevant_from=relevant_from)
        made = _assembled(with_least_relevant(rows, relevant_from), tables.name, cut, store)
        dataset = replace(made, queries_manifest=tables.queries_manifest, apart=tables.apart)
        return dataset if split_by == "document" else dataset.with_cut()

    def split_to_evaluate(self, split: str | None = None) -> str:
        """The split to measure on: the one that is asked for, or else test, or the only one there is.

        Args:
            split: Its name, or `all` for every judged query; None for the usual choice.

        Raises:
            InputError: There is no such split, or several and none of them is test.
        """
        if split is None:
            split = "test" if "test" in self.splits else self.splits[0] if len(self.splits) == 1 else None
        if split is not None and split in (*self.splits, UNCUT):
            return split
        asked = "No split was named, and there is no test split" if split is None else f"There is no split {split!r}"
        raise InputError(
            f"{asked}; the data have {self.splits}.",
            python="Choose one of these.",
            flags="Name one of these with --split."
            + (" Pass --seed to have the data cut as for training." if UNCUT in self.qrels else ""),
        )

    def judgements(self, split: str) -> datasets.Dataset:
        """The rows of a split.

        Raises:
            ValueError: There is no such split, or it is still to be cut.
        """
        if split in self.qrels:
            return self.qrels[split]
        if split in self.splits:
            raise ValueError(
                f"The split {split!r} is still to be cut by document, once the queries are embedded. "
                "Cut it first: dataset = cut_splits(dataset, embedded.query_embeddings)."
            )
        raise ValueError(f"There is no split {split!r}; the data have {self.splits}. Choose one of these.")

    def with_cut(self, together: Sequence[Sequence[str]] = ()) -> RetrievalDataset:
        """The data set with the splits cut that `load` left to be cut; those that were given stay as they are.

        Args:
            together: Groups of query ids. Each group stays on one side, besides what `cut` keeps together, as far as no
                group is too large for that.

        Raises:
            ValueError: A split would be empty.
        """
        if self.cut is None or self.uncut is None:
            return self
        # What has no text is known by its id.
        texts, documents = (by_id(table) for table in (self.queries, self.corpus))
        made, notes = cut_rows(self.uncut.to_pandas(), self.cut, texts, documents, together)
        frames = {**{split: rows.to_pandas() for split, rows in self.qrels.items()}, **made}
        qrels = {**self.qrels, **{split: as_qrels(rows) for split, rows in made.items()}}
        return replace(
            self,
            qrels={split: qrels[split] for split in self.splits},
            uncut=None,
            notes=(
                *self.notes,
                *notes,
                *overlap_notes(
                    {split: frames[split] for split in self.splits}, None if self.query_texts is None else texts
                ),
            ),
        )


def _assembled(rows: LaidOut, name: str, cut: Cut, store: Store | VectorFolder | None) -> RetrievalDataset:
    """The data set, without what is still to be cut."""
    queries = merged(rows.queries, "query", "queries", vectors=rows.query_embeddings)
    by_text = rows.corpus_embeddings is None and store is None
    corpus = merged(rows.corpus, "document", "documents", by_text, rows.corpus_embeddings)
    texts, documents = queries.texts, corpus.texts
    qrels = resolved(rows.qrels, queries.ids, corpus.ids)
    notes = [*rows.notes, *(rows.relevance_notes or []), *queries.notes, *corpus.notes]
    if len(corpus.table) == 1 and store is None:
        notes.append("The corpus holds 1 document, so every ranking is right: there is nothing to learn or to measure.")
    if rows.may_lack_relevant:
        qrels, left_out = without_lacking(qrels)
        notes += left_out
    qrels, split_notes, left_to_cut = named_splits(qrels, cut)
    qrels, repeated = once_each(qrels)
    notes += [*repeated, *split_notes]
    check_relevant(qrels, texts)
    notes += own_copy_notes(qrels, texts, documents)
    unjudged = len(queries.table) - qrels["query_id"].nunique()
    if unjudged:
        number = counted(unjudged, "query", "queries")
        notes.append(f"{number} without judgements in any split kept; only a teacher learns from such queries.")
    by_split = {split: qrels[qrels["split"] == split] for split in in_order(qrels["split"])}
    uncut = by_split.pop(NO_SPLIT, None)
    if left_to_cut is None:
        notes += overlap_notes(by_split, texts)
    return RetrievalDataset(
        queries=as_texts(queries.table),
        corpus=as_texts(corpus.table),
        qrels={split: as_qrels(rows) for split, rows in by_split.items()},
        name=name,
        notes=tuple(notes),
        cut=left_to_cut,
        corpus_is_labelled_only=rows.corpus_is_labelled_only,
        uncut=None if uncut is None else as_qrels(uncut),
        query_embeddings=None if rows.query_embeddings is None else rows.query_embeddings[queries.rows],
        corpus_embeddings=None if rows.corpus_embeddings is None else rows.corpus_embeddings[corpus.rows],
        store=store,
        columns_read=rows.columns_read,
    )
