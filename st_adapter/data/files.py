"""Read whatever a retrieval data set comes in - frames, files, folders, the Hub - into plain tables, one per split.

Nothing is judged here: columns are looked at, and texts, ids and splits are checked, in `st_adapter.data.dataset`.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pandas as pd
from datasets.exceptions import DatasetsError
from pyarrow.parquet import read_schema

from st_adapter.data.cards import is_configured, is_saved_to_disk
from st_adapter.data.text_files import Table, decoded, json_table, read_delimited, read_json, read_json_lines

Source: TypeAlias = (
    "datasets.Dataset | datasets.DatasetDict | pd.DataFrame | Mapping[str, Any] | str | os.PathLike[str]"
)

NO_SPLIT = ""  # the key of a table that came without the name of a split
_JUDGEMENTS = ("qrels", "relevant_docs")  # BEIR's word, and that of Sentence Transformers and LlamaIndex
_SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "devel", "development", "validation", "validate", "valid", "val", "eval", "evaluation"),
    "test": ("test", "tests", "testing", "tst"),
}
_SPLIT_OF_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
# What stands beside it in the names of files: train_dataset.json, test-pairs.csv.
_PLAIN_WORDS = ("data", "dataset", "set", "split", "pairs", "df", "queries", "qrels")


@dataclass(frozen=True)
class PairTables:
    """Rows of a query with its documents, as they were found."""

    tables: Mapping[str, pd.DataFrame]  # split as the source calls it -> rows; NO_SPLIT when it names none
    name: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BeirTables:
    """Queries, corpus and judgements, as they were found."""

    queries: pd.DataFrame
    corpus: pd.DataFrame
    qrels: Mapping[str, pd.DataFrame]  # split as the source calls it -> rows; NO_SPLIT when it names none
    name: str = ""
    notes: tuple[str, ...] = ()


def usual_split(name: str) -> str | None:
    """The usual name of a split, train, dev or test, that a name says in other words; None if it says none.

    Example:
        >>> usual_split("Validation"), usual_split("train_dataset"), usual_split("test_hard")
        ('dev', 'train', None)
    """
    first, *others = re.split(r"[-_. ]+", name.strip().casefold())
    return _SPLIT_OF_WORD.get(first) if all(word in _PLAIN_WORDS for word in others) else None


def read_source(source: Source) -> PairTables | BeirTables:
    """Read a source into tables, and tell the pair form from the BEIR form by the names of its parts.

    Args:
        source: See `RetrievalDataset.load`.

    Raises:
        ValueError: Nothing there, nothing readable there, or more than one thing that it could be.
    """
    if isinstance(source, (str, os.PathLike)):
        return _read_location(os.fspath(source))
    if isinstance(source, Mapping):
        return _read_mapping(source, name="")
    return PairTables({NO_SPLIT: _as_frame(source)})


def _read_location(location: str) -> PairTables | BeirTables:
    path = Path(location).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        read = _read_file(path)
        if isinstance(read, BeirTables):
            return replace(read, name=path.name)
        return PairTables({NO_SPLIT: read.frame}, name=path.name, notes=read.notes)
    # "name" and "organisation/name" may be on the Hub; everything else can only have been meant as a path.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", location) and _kind(path) is None:
        return _read_hub(location)
    raise ValueError(f"There is no file or folder {location!r}. Check the path (it is taken from {str(Path.cwd())!r}).")


# --- what is in memory ---


def _as_frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, datasets.Dataset):
        frame = table.with_format(None).to_pandas()
        return frame
    raise ValueError(
        f"The data is of type {type(table).__name__}, but expected a datasets.Dataset, a datasets.DatasetDict, a "
        "pandas DataFrame, a mapping of these, a path, or the id of a Hub data set. "
        "Turn it into one of these first, for example with `datasets.Dataset.from_list(rows)`."
    )


def _read_mapping(parts: Mapping[str, Any], name: str) -> PairTables | BeirTables:
    """Read a mapping of split -> pairs, or one of corpus, queries and qrels (one table, or split -> table)."""
    if not parts:
        raise ValueError(
            "The data set holds no table at all. Give one table per split, such as {'train': ..., 'test': ...}."
        )
    if not {"corpus", "queries"} <= set(parts):
        return PairTables({str(split): _as_frame(table) for split, table in parts.items()}, name=name)
    judgements = next((part for part in _JUDGEMENTS if part in parts), None)
    if judgements is None:
        raise ValueError(
            f"The data set has the parts {listed(parts)}, but no 'qrels'. Add the judgements: a table with "
            "query_id, corpus_id and score, or one such table per split."
        )
    qrels = parts[judgements]
    tabular = (pd.DataFrame, datasets.Dataset)
    by_split = isinstance(qrels, Mapping) and all(isinstance(table, tabular) for table in qrels.values())
    tables = qrels if by_split else {NO_SPLIT: _judged(qrels)}
    unused = sorted(set(parts) - {"corpus", "queries", judgements})
    return BeirTables(
        queries=_texts(parts["queries"]),
        corpus=_texts(parts["corpus"]),
        qrels={str(split): _as_frame(table) for split, table in tables.items()},
        name=name,
        notes=(f"Parts left unused: {listed(unused)}.",) if unused else (),
    )


def _texts(table: Any) -> pd.DataFrame:
    """A table of texts; of id -> text, or id -> title and text, the rows are made."""
    if not isinstance(table, Mapping):
        return _as_frame(table)
    rows = [{"id": given, **(text if isinstance(text, Mapping) else {"text": text})} for given, text in table.items()]
    frame: pd.DataFrame = pd.DataFrame(rows, dtype=object)
    return frame


def _judged(table: Any) -> Any:
    """A table of judgements; of query id -> relevant ids, or query id -> id -> score, the rows are made."""
    if not isinstance(table, Mapping):
        return table
    rows = []
    for query_id, judged in table.items():
        if isinstance(judged, (str, int)) or not isinstance(judged, Iterable):
            raise ValueError(
                f"The judgements of query {str(query_id)!r} are {str(judged)[:60]!r}, a {type(judged).__name__}. "
                "Expected the ids of its relevant documents, or id -> score."
            )
        scored = judged if isinstance(judged, Mapping) else dict.fromkeys(judged, 1)
        rows += [{"query_id": query_id, "corpus_id": given, "score": score} for given, score in scored.items()]
    return pd.DataFrame(rows, columns=["query_id", "corpus_id", "score"], dtype=object)


# --- files ---


def _json_parts(content: Any) -> BeirTables | None:
    """Queries, corpus and judgements in one object, as LlamaIndex saves its EmbeddingQAFinetuneDataset."""
    parts = ("queries", "corpus")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        return None
    judgements = next((part for part in _JUDGEMENTS if isinstance(content.get(part), dict)), None)
    if judgements is None:
        return None
    read = _read_mapping({part: content[part] for part in (*parts, judgements)}, name="")
    return read if isinstance(read, BeirTables) else None


_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


def _kind(path: Path) -> str | None:
    """Which of the kinds a file is, by its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in _KINDS else None


def _read_file(path: Path) -> Table | BeirTables:
    kind = _kind(path)
    if kind is None:
        raise ValueError(f"{str(path)!r} is not a file that can be read here. Expected one of: {', '.join(_KINDS)}.")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
        if kind == ".parquet":
            _check_parquet_names(content)
            return Table(pd.read_parquet(io.BytesIO(content)))
        text, notes = decoded(content)
        if kind in (".csv", ".tsv"):
            read = read_delimited(text, "," if kind == ".csv" else "\t")
            return Table(read.frame, tuple(f"{path.name}: {note}" for note in (*notes, *read.notes)))
        found = read_json(text) if kind == ".json" else read_json_lines(text)
        return _json_parts(found) or Table(json_table(found), tuple(f"{path.name}: {note}" for note in notes))
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:  # pyarrow's errors are ValueErrors
        raise ValueError(
            f"{str(path)!r} cannot be read as {path.suffix[1:]}: {error}. Mend or convert the file."
        ) from error


def _check_parquet_names(content: bytes) -> None:
    names = read_schema(io.BytesIO(content)).names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"there are several columns called {listed(twice)}. Keep or rename one of each")


# --- folders ---


def _read_folder(folder: Path) -> PairTables | BeirTables:
    if is_saved_to_disk(folder):
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{str(folder)!r} was not saved whole ({reason}). Save the data set again.") from error
        parts = saved if isinstance(saved, datasets.DatasetDict) else {NO_SPLIT: saved}
        return _read_mapping(parts, name=folder.name)
    if is_configured(folder):
        return _read_hub(str(folder), name=folder.name)
    files = _data_files(folder)
    if {"corpus", "queries"} <= set(files):
        return _read_beir_folder(folder, files)
    return _read_pair_folder(folder, files)


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Find the readable files of a folder by stem; numbered shards of a table (`x-00000-of-00002`) share one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and _kind(path) is not None:
            found.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.name.split(".")[0]), []).append(path)
    return found


def _read_table(paths: list[Path]) -> Table | BeirTables:
    if len(paths) > 1 and not all(re.search(r"-\d{5}-of-\d{5}\.", path.name) for path in paths):
        raise ValueError(
            f"{str(paths[0].parent)!r} holds {listed(path.name for path in paths)}, which are the same part twice. "
            "Keep one of them."
        )
    parts = [_read_file(path) for path in paths]
    tables = [part for part in parts if isinstance(part, Table)]
    if len(tables) < len(parts):
        return _joined({str(number): part for number, part in enumerate(parts)}, paths[0].parent)
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    return Table(frame, tuple(note for table in tables for note in table.notes))


def _joined(parts: Mapping[str, Table | BeirTables], folder: Path) -> BeirTables:
    """One data set of several that each have queries and corpus; ids that mean two texts are found later."""
    whole = {split: part for split, part in parts.items() if isinstance(part, BeirTables)}
    if len(whole) < len(parts):
        raise ValueError(
            f"Of the files in {str(folder)!r} some hold pairs, and some queries with a corpus. Give them in one form."
        )
    return BeirTables(
        pd.concat([part.queries for part in whole.values()], ignore_index=True),
        pd.concat([part.corpus for part in whole.values()], ignore_index=True),
        {split: pd.concat(part.qrels.values(), ignore_index=True) for split, part in whole.items()},
    )


def _plain(table: Table | BeirTables, path: Path) -> Table:
    if isinstance(table, BeirTables):
        raise ValueError(f"{str(path)!r} holds a whole data set. Give its own path.")
    return table


def _read_beir_folder(folder: Path, files: Mapping[str, list[Path]]) -> BeirTables:
    per_split = _data_files(folder / "qrels") if (folder / "qrels").is_dir() else {}
    if per_split and "qrels" in files:
        raise ValueError(f"{str(folder)!r} holds both a file and a folder of qrels. Keep one of them.")
    in_one = {NO_SPLIT: files["qrels"]} if "qrels" in files else {}
    qrels = {split: _plain(_read_table(paths), paths[0]) for split, paths in (per_split or in_one).items()}
    if not qrels:
        raise ValueError(
            f"{str(folder)!r} holds a corpus and queries, but no qrels. Add qrels.tsv or qrels.parquet with the "
            "columns query_id, corpus_id, score and split, or one file per split as qrels/train.tsv, qrels/test.tsv."
        )
    unread = [
        path.name for stem, paths in files.items() if stem not in {"corpus", "queries", "qrels"} for path in paths
    ]
    queries, corpus = (_plain(_read_table(files[part]), files[part][0]) for part in ("queries", "corpus"))
    notes = [*queries.notes, *corpus.notes, *(note for table in qrels.values() for note in table.notes)]
    frames = {split: table.frame for split, table in qrels.items()}
    return BeirTables(queries.frame, corpus.frame, frames, folder.name, notes=(*notes, *_unread_note(unread)))


def _read_pair_folder(folder: Path, files: Mapping[str, list[Path]]) -> PairTables | BeirTables:
    splits = {stem: paths for stem, paths in files.items() if re.split(r"[-_]", stem.lower())[0] in _SPLIT_OF_WORD}
    if splits:
        unread = _unread_note([path.name for stem, paths in files.items() if stem not in splits for path in paths])
        tables = {split: _read_table(paths) for split, paths in splits.items()}
    elif len(files) == 1:
        unread, tables = (), {NO_SPLIT: _read_table(next(iter(files.values())))}
    else:
        found = listed(sorted(path.name for path in folder.iterdir()))
        raise ValueError(
            f"{str(folder)!r} holds {found or 'nothing'}. Expected one file of pairs, one per split (train.csv, "
            f"dev.csv, test.csv), or corpus, queries and qrels; as {', '.join(_KINDS)}. Name them so, or give one "
            "file's path."
        )
    pairs = {split: table for split, table in tables.items() if isinstance(table, Table)}
    if len(pairs) < len(tables):
        return replace(_joined(tables, folder), name=folder.name, notes=unread)
    notes = (*(note for table in pairs.values() for note in table.notes), *unread)
    return PairTables({split: table.frame for split, table in pairs.items()}, folder.name, notes=notes)


def _unread_note(names: list[str]) -> tuple[str, ...]:
    return (f"Files left unread: {listed(names)}.",) if names else ()


# --- the Hub ---


def _read_hub(location: str, name: str | None = None) -> PairTables | BeirTables:
    """Read a data set on the Hub, or a clone of one, in the forms that BEIR, MTEB and pair sets are published in."""
    try:
        configs = datasets.get_dataset_config_names(location)
        if {"corpus", "queries"} <= set(configs):
            parts = {part: _concatenated(datasets.load_dataset(location, part)) for part in ("corpus", "queries")}
            return _read_mapping({**parts, "qrels": _hub_qrels(location, configs)}, name=name or location)
        if len(configs) == 1:
            return _read_mapping(datasets.load_dataset(location, configs[0]), name=name or location)
    except (OSError, DatasetsError) as error:  # not found, no network, no permission, broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if Path(location).is_dir():
            raise ValueError(
                f"{location!r} cannot be read as its card says ({reason}). Mend the card, or give the path of a file."
            ) from error
        raise ValueError(
            f"{location!r} is no file or folder here, and the Hub gave no data set of that name ({reason}). "
            "Check the spelling and the network, or give the path of a file."
        ) from error
    raise ValueError(
        f"{location!r} has the configurations {listed(configs)}. Expected one, or 'corpus', 'queries' and 'qrels'. "
        f"Choose one: RetrievalDataset.load(datasets.load_dataset({location!r}, {configs[0]!r}))."
    )


def _hub_qrels(location: str, configs: list[str]) -> datasets.DatasetDict:
    for config in ("qrels", "default"):  # MTEB calls its qrels "default"
        if config in configs:
            return datasets.load_dataset(location, config)
    beside = f"{location}-qrels"
    if Path(beside).is_dir():
        is_configured(Path(beside))  # refuses what leads out of it
    return datasets.load_dataset(beside)  # BEIR's own sets keep theirs next door: BeIR/scifact-qrels


def _concatenated(splits: datasets.DatasetDict) -> datasets.Dataset:
    return datasets.concatenate_datasets(list(splits.values()))


def listed(names: Iterable[object]) -> str:
    """Quote and join names: 'a', 'b'."""
    return ", ".join(repr(str(name)) for name in names)
