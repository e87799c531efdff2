"""Retrieval data sets: queries, a corpus and graded qrels, loaded from wherever they are, checked, split by query."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, get_args

import datasets
import numpy as np
import pandas as pd

from st_adapter.choices import SplitBy
from st_adapter.data.cells import counted, first_three
from st_adapter.data.columns import DatasetParts, from_beir, from_pairs, without_columns
from st_adapter.data.files import NO_SPLIT, PairTables, Source, listed, read_source, usual_split
from st_adapter.data.splits import Part, cut, cut_in_groups, normalised
from st_adapter.errors import InputError

_TEXT_FEATURES = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("string")})
_QRELS_FEATURES = datasets.Features(
    {"query_id": datasets.Value("string"), "corpus_id": datasets.Value("string"), "score": datasets.Value("float64")}
)
_ALL_PARTS = (Part("train", 0.7), Part("dev", 0.1), Part("test", 0.2))  # when no split is given
_CARVED_PARTS = (Part("dev", 0.15), Part("train", 0.85))  # of train's queries, when dev is all that is missing
UNCUT = "all"  # the one split of data that came without splits and was not cut

_CUTS: dict[tuple[str, ...], tuple[Part, ...]] = {
    ("train", "dev", "test"): _ALL_PARTS,
    ("train", "dev"): _CARVED_PARTS,
    (): (),
}
_KEPT = {"query": "", "document": ", with all queries of one document on one side"}


class Cut(NamedTuple):
    """How the splits that did not come with the data were cut.

    Attributes:
        splits: Names of the splits that were cut; the others were given.
        by: `query`: duplicates of a query stay together; `document`: all queries of one document do so too.
        seed: Seed of the hash.
        notes: What the notes of the data set say about it.
    """

    splits: tuple[str, ...]
    by: SplitBy
    seed: int
    notes: tuple[str, ...]


def documents_searched(number: int, labelled_only: bool) -> str:
    """How large the corpus is, for wherever figures stand.

    Example:
        >>> documents_searched(3847, True)
        '3,847 documents, the labelled ones only'
    """
    return f"{number:,} document{'' if number == 1 else 's'}{', the labelled ones only' if labelled_only else ''}"


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
        source: Source,
        *,
        columns: Mapping[str, str] | None = None,
        ignore_columns: Collection[str] = (),
        relevant_from: float | None = None,
        seed: int = 0,
        split_by: SplitBy = "query",
        cut_into: Sequence[str] = ("train", "dev", "test"),
    ) -> RetrievalDataset:
        """Load pairs or a BEIR data set from memory, disk or the Hub; usual column names need no flags.

        Pairs are rows of a query and a document, optionally with `negative` (judged, score 0), `score` (1 where there
        is no such column) and the document's `title`. Cells may hold lists, and `negative_1`, `negative_2`, ... count
        as one. The BEIR form is a corpus, queries and qrels. Titles are put before their text. Identical texts become
        one document or one query, under the id that came first; of a repeated judgement the highest score is kept.

        A column that is not used, but looks as if it said what is relevant (0 and 1, grades, or a name such as
        `clicked` or `rating`), is refused: name it as score, or ignore it; see `data_labels.looks_like_labels`.

        Splits are taken as given, under their usual names (validation and eval are read as dev, training as train).
        With none, or only train, queries are cut 70/10/20 by a seeded hash of their text, in which case, width and
        spacing do not count: duplicates never land on two sides, and more data moves no query. Where dev is
        missing, the same hash cuts 15 % of train off as dev. With `split_by="document"`, all queries with a relevant
        document in common land on one side too, as far as no group of them is too large for that; see
        `splits.cut_in_groups`. Splits that were given stay as they are.

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
            >>> dataset.notes[-1]
            "1 query text stands in both 'train' and 'test' (apart from case and spacing); kept in both."
        """
        if split_by not in get_args(SplitBy):
            raise ValueError(f"split_by is {split_by!r}. Expected one of {listed(get_args(SplitBy))}.")
        if tuple(cut_into) not in _CUTS:
            raise ValueError(f"cut_into is {cut_into!r}. Expected one of {', '.join(map(str, _CUTS))}.")
        tables = without_columns(read_source(source), ignore_columns)
        read = from_pairs(tables, columns or {}) if isinstance(tables, PairTables) else from_beir(tables, columns or {})
        if relevant_from is not None:
            read = _with_least_relevant(read, relevant_from)
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
        parts = _ALL_PARTS if "test" in self.cut.splits else _CARVED_PARTS
        rows["split"], torn = _cut(rows, texts, documents, parts, self.cut.by, self.cut.seed, together)
        _check_filled(rows, parts, self.cut.seed)
        by_split = {
            name: rows[rows["split"] == name].drop(columns="split") if name in self.cut.splits else frames[name]
            for name in self.splits
        }
        first = self.cut.notes[0]
        if "test" not in self.cut.splits:
            first = _carved_note(by_split["dev"]["query_id"].nunique(), self.cut.by)
        notes = (first, *torn, *_overlap_notes(by_split, texts))
        return replace(
            self,
            qrels={name: _dataset(frame, _QRELS_FEATURES) for name, frame in by_split.items()},
            notes=(*(note for note in self.notes if note not in self.cut.notes), *notes),
            cut=self.cut._replace(notes=notes),
        )


# --- identical texts ---


def own_copies(queries: Iterable[str], corpus: Iterable[str]) -> tuple[list[int], list[int]]:
    """Find the queries that stand in the corpus themselves, apart from case, width and spacing.

    A search finds them first, though nobody who asks wants the question back. Ids do not count: equal ids with
    different texts are common, and the same text under another id is the same text.

    Returns:
        Two lists of the same length: places of queries, and of the documents with their text.

    Example:
        >>> own_copies(["How to sort?", "How to search?"], ["Call sorted().", "how  to sort?", "HOW TO SORT?"])
        ([0, 0], [1, 2])
    """
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(queries):
        rows_of.setdefault(normalised(text), []).append(row)
    pairs = [(row, place) for place, text in enumerate(corpus) for row in rows_of.get(normalised(text), ())]
    pairs.sort()
    return [row for row, _ in pairs], [place for _, place in pairs]


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


def _with_least_relevant(parts: DatasetParts, relevant_from: float) -> DatasetParts:
    """The judgements with lower scores as not relevant, without the queries that this leaves with none."""
    scores = parts.qrels["score"]
    if not (math.isfinite(relevant_from) and relevant_from > 0):
        raise InputError(
            f"The least score that is relevant is {relevant_from}, but a score is relevant only above 0.",
            python="Give relevant_from a number above 0.",
            flags="Give --relevant-from a number above 0.",
        )
    if not parts.has_scores:
        raise InputError(
            "The least score that is relevant was given, but no score column was found.",
            python="Name it with columns={'score': 'your_column'}.",
            flags="Name it with --score-column YOUR_COLUMN.",
        )
    qrels = parts.qrels.assign(score=scores.where(scores >= relevant_from, scores.clip(upper=0)))
    lowered = int(((scores > 0) & (scores < relevant_from)).sum())
    lower = f"{counted(lowered, 'score')} above 0, but below {relevant_from:g}, read as not relevant."
    return replace(parts, qrels=qrels, score_notes=[lower] if lowered else [], may_lack_relevant=True)


def _usual_names(given: Iterable[Any]) -> dict[Any, str]:
    """The name of each given split -> the usual name for it.

    Raises:
        ValueError: A name is no name, or two different words mean the same split.
    """
    names: dict[Any, str] = {}
    for name in given:
        if not isinstance(name, str) or (name and not name.strip()):
            raise ValueError(
                f"A row is in the split {name!r}. Expected a name such as train, dev or test in every row."
            )
        names[name] = usual_split(name) or name.strip()
    for split in dict.fromkeys(names.values()):
        words = [name for name in names if names[name] == split]
        if len({word.strip().casefold() for word in words}) > 1:
            raise ValueError(
                f"The splits {listed(words)} all read as {split!r}. Expected one split for each purpose. Rename the "
                "others, for example to 'test', or leave them out."
            )
    return names


def _split(
    qrels: pd.DataFrame,
    texts: Mapping[str, str],
    documents: Mapping[str, str],
    seed: int,
    by: SplitBy,
    cut_into: tuple[str, ...],
) -> tuple[pd.DataFrame, list[str], Cut | None]:
    """Name every row's split: as given where that is enough, cut where not."""
    names = _usual_names(qrels["split"].unique().tolist())
    qrels = qrels.assign(split=qrels["split"].map(names))
    given = list(dict.fromkeys(names.values()))
    if NO_SPLIT in given and len(given) > 1:
        raise ValueError("Some rows name a split and some do not. Expected a name in every row, or in none.")
    if not cut_into:
        if given == [NO_SPLIT]:
            number = counted(qrels["query_id"].nunique(), "query", "queries")
            return qrels.assign(split=UNCUT), [f"No splits were given; nothing was cut: {number} in all."], None
        return qrels, [], None
    if given in ([NO_SPLIT], ["train"]):
        return _cut_whole(qrels, texts, documents, seed, by, cut_into)
    if "train" not in given:
        raise ValueError(
            f"There is no train split; found {listed(sorted(given))}. Expected train, with dev and test if any. "
            "Name the split to learn from 'train', or give all rows without splits to have them cut."
        )
    notes = [] if "test" in given else ["No test split was given, so there is none."]
    others = [split for split in given if split not in ("train", "dev", "test")]
    if others:
        is_used = "Split {} is" if len(others) == 1 else "Splits {} are"
        notes.append(f"{is_used.format(listed(others))} used for nothing but to be evaluated on when asked.")
    if "dev" in given:
        if by == "document":
            notes.append("All splits were given and stay as they are, whatever documents their queries share.")
        return qrels, notes, None
    in_train = qrels["split"] == "train"
    train = qrels[in_train]
    carved, torn = _cut(train, texts, documents, _CARVED_PARTS, by, seed)
    num_dev = train.loc[carved == "dev", "query_id"].nunique()
    num_train = train.loc[carved == "train", "query_id"].nunique()
    if not num_dev or not num_train:
        raise ValueError(
            f"No dev split was given, and cutting it from the {num_dev + num_train} queries of train "
            f"left {'dev' if num_train else 'train'} empty. Give a dev split, more data, or another seed."
        )
    qrels.loc[in_train, "split"] = carved
    return qrels, notes, Cut(("train", "dev"), by, seed, (_carved_note(num_dev, by), *torn))


def _cut_whole(
    qrels: pd.DataFrame,
    texts: Mapping[str, str],
    documents: Mapping[str, str],
    seed: int,
    by: SplitBy,
    cut_into: tuple[str, ...],
) -> tuple[pd.DataFrame, list[str], Cut | None]:
    """Cut data of which no split is given, or only train."""
    parts = _CUTS[cut_into]
    found = "Only a train split was given" if "train" in set(qrels["split"]) else "No splits were given"
    qrels["split"], torn = _cut(qrels, texts, documents, parts, by, seed)
    _check_filled(qrels, parts, seed)
    if "test" not in cut_into:
        num_dev = qrels.loc[qrels["split"] == "dev", "query_id"].nunique()
        return qrels, ["No test split was set aside."], Cut(cut_into, by, seed, (_carved_note(num_dev, by), *torn))
    note = f"{found}; queries were cut 70/10/20 into train, dev and test by a hash (seed {seed}){_KEPT[by]}."
    return qrels, [], Cut(cut_into, by, seed, (note, *torn))


def _carved_note(num_dev: int, by: SplitBy) -> str:
    became = f"{counted(num_dev, 'query', 'queries')} of train became it, by a hash"
    return f"No dev split was given; {became}{_KEPT[by]}."


def _cut(
    qrels: pd.DataFrame,
    texts: Mapping[str, str],
    documents: Mapping[str, str],
    parts: Sequence[Part],
    by: SplitBy,
    seed: int,
    together: Sequence[Sequence[str]] = (),
) -> tuple[pd.Series[str], list[str]]:
    """Cut the rows of some queries: the new split of each row, and a note on groups that were too large."""
    query_of, query_ids = pd.factorize(qrels["query_id"])
    names = np.array([part.name for part in parts], dtype=object)
    query_texts = [normalised(texts[query_id]) for query_id in query_ids]
    if by == "query" and not together:
        return pd.Series(names[cut(query_texts, parts, seed)[query_of]], index=qrels.index), []
    relevant = (qrels["score"] > 0).to_numpy() & (by == "document")
    # Sorted by text, so that neither ids nor the order of rows decide anything.
    document = pd.factorize(qrels["corpus_id"][relevant].map(documents), sort=True)[0]
    number = {query_id: index for index, query_id in enumerate(query_ids)}
    links = [(number[group[0]], number[query_id]) for group in together for query_id in group[1:]]
    linked = np.array(links, dtype=np.int64).reshape(-1, 2)
    found = cut_in_groups(query_texts, query_of[relevant], document, (linked[:, 0], linked[:, 1]), parts, seed)
    notes = []
    if found.num_torn_groups:
        shared = " and ".join([*(["documents"] if by == "document" else []), *(["paraphrases"] if together else [])])
        groups = counted(found.num_torn_groups, "group of queries that hangs", "groups of queries that hang")
        notes.append(
            f"{groups} together by {shared} ({found.num_torn_queries} of {len(query_ids)} queries) too large for one "
            "side; cut further, no more than needed. What then stands on two sides is a leak, and counted as one."
        )
    return pd.Series(names[found.parts[query_of]], index=qrels.index), notes


def _check_filled(qrels: pd.DataFrame, parts: Sequence[Part], seed: int) -> None:
    missing = sorted({part.name for part in parts} - set(qrels["split"]))
    if missing:
        number = counted(qrels["query_id"].nunique(), "query", "queries")
        shares = "/".join(f"{part.share:.0%}"[:-1] for part in parts)
        raise ValueError(
            f"{number} cut {shares} with seed {seed} left {listed(missing)} without any. Expected queries in "
            f"each of {' and '.join([', '.join(part.name for part in parts[:-1]), parts[-1].name])}. "
            "Give more data, another seed, or splits of your own."
        )


def _order(splits: Iterable[str]) -> list[str]:
    """Put train, dev and test first, others as they came."""
    found = dict.fromkeys(splits)
    return [name for name in dict.fromkeys(("train", "dev", "test", *found)) if name in found]


# --- the whole ---


def _assemble(
    parts: DatasetParts, name: str, seed: int, split_by: SplitBy, cut_into: tuple[str, ...]
) -> RetrievalDataset:
    queries = _merge(parts.queries, "query", "queries")
    corpus = _merge(parts.corpus, "document", "documents")
    texts = dict(zip(queries.table["id"], queries.table["text"], strict=True))
    documents = dict(zip(corpus.table["id"], corpus.table["text"], strict=True))
    judged = _resolve(parts.qrels, queries.ids, corpus.ids)
    notes = [*parts.notes, *parts.score_notes, *queries.notes, *corpus.notes]
    if len(documents) == 1:
        notes.append("The corpus holds 1 document, so every ranking is right: there is nothing to learn or to measure.")
    if parts.may_lack_relevant:
        judged, left_out = _without_lacking(judged)
        notes += left_out
    resolved, split_notes, cut_by_us = _split(judged, texts, documents, seed, split_by, cut_into)
    qrels = resolved.groupby(["split", "query_id", "corpus_id"], sort=False, as_index=False)["score"].max()
    if len(qrels) < len(resolved):
        number = counted(len(resolved) - len(qrels), "repeated judgement")
        notes.append(f"{number} of the same query and document merged; the highest score was kept.")
    notes += [*split_notes, *(cut_by_us.notes if cut_by_us else ())]
    by_split = {split: qrels[qrels["split"] == split] for split in _order(qrels["split"])}
    _check_positives(by_split, texts)
    overlaps = _overlap_notes(by_split, texts)
    notes += overlaps
    notes += _own_copy_notes(by_split, texts, documents)
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


def _without_lacking(qrels: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The judgements of queries that have a relevant document in their split, and a note on the others."""
    best = qrels.groupby(["split", "query_id"], sort=False, dropna=False)["score"].transform("max")
    number = qrels.loc[best <= 0, "query_id"].nunique()
    if not number:
        return qrels, []
    kept = qrels[best > 0]
    if kept.empty:
        raise InputError(
            f"None of {counted(number, 'query', 'queries')} has a document that counts as relevant.",
            python="Give a lower relevant_from.",
            flags="Give a lower --relevant-from.",
        )
    return kept, [f"{counted(number, 'query', 'queries')} without a relevant document left out of all splits."]


def _check_positives(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> None:
    for split, rows in by_split.items():
        best = rows.groupby("query_id", sort=False)["score"].max()
        without = [f"{query_id}: {texts[query_id][:60]}" for query_id in best.index[best <= 0]]
        if without:
            raise InputError(
                f"{counted(len(without), 'query', 'queries')} of split {split!r} without any relevant document "
                f"(score above 0): {first_three(without)}. Expected at least one each. "
                "Add their relevant documents, or take them out of this split:",
                python="with relevant_from, the least score that is relevant, they are left out.",
                flags="with --relevant-from, the least score that is relevant, they are left out.",
            )


def _overlap_notes(by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str]) -> list[str]:
    present = {
        split: {normalised(texts[query_id]) for query_id in rows["query_id"]} for split, rows in by_split.items()
    }
    notes = []
    for earlier, later in itertools.combinations(present, 2):
        number = len(present[earlier] & present[later])
        if number:
            stand = "query text stands" if number == 1 else "query texts stand"
            notes.append(
                f"{number} {stand} in both {earlier!r} and {later!r} (apart from case and spacing); kept in both."
            )
    return notes


def _own_copy_notes(
    by_split: Mapping[str, pd.DataFrame], texts: Mapping[str, str], documents: Mapping[str, str]
) -> list[str]:
    rows, places = own_copies(texts.values(), documents.values())
    copies = pd.DataFrame({"query_id": np.array(list(texts))[rows], "corpus_id": np.array(list(documents))[places]})
    qrels = pd.concat(by_split.values())
    searched = qrels[["split", "query_id"]].drop_duplicates().merge(copies)
    relevant = qrels.loc[qrels["score"] > 0, ["split", "query_id", "corpus_id"]]
    found = searched.merge(relevant, how="left", indicator=True)
    number = found.loc[found["_merge"] == "left_only", "query_id"].nunique()
    if not number:
        return []
    return [
        f"{counted(number, 'query stands', 'queries stand')} in the corpus as documents too (apart from case and "
        "spacing); such a copy is left out of the query's hits and negatives, unless it is judged relevant."
    ]


def _dataset(table: pd.DataFrame, features: datasets.Features) -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: table[column].tolist() for column in features}, features=features)
