"""Read files of rows, and folders of such files, into tables, by their names and kinds."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.parquet import read_schema

from st_adapter.data.tables import JUDGEMENTS, NO_SPLIT, SPLIT_OF_WORD, BeirTables, PairTables, read_mapping
from st_adapter.data.text_files import Table, decoded, json_table, read_delimited, read_json, read_json_lines
from st_adapter.words import listed

_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


def _json_parts(content: Any) -> BeirTables | None:
    """Queries, corpus and judgements in one object, as LlamaIndex saves its EmbeddingQAFinetuneDataset."""
    parts = ("queries", "corpus")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        return None
    judgements = next((part for part in JUDGEMENTS if isinstance(content.get(part), dict)), None)
    if judgements is None:
        return None
    read = read_mapping({part: content[part] for part in (*parts, judgements)}, name="")
    return read if isinstance(read, BeirTables) else None


def format_of(path: Path) -> str | None:
    """The format of a file, by its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in _FORMATS else None


def read_file(path: Path) -> Table | BeirTables:
    """Read one file: rows, or a whole data set in one JSON object.

    Raises:
        ValueError: it is of no format that is read here, or cannot be read.
    """
    form = format_of(path)
    if form is None:
        raise ValueError(f"{str(path)!r} is not a file that can be read here. Expected one of: {', '.join(_FORMATS)}.")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
        if form == ".parquet":
            _check_parquet_names(content)
            return Table(pd.read_parquet(io.BytesIO(content)))
        text, notes = decoded(content)
        if form in (".csv", ".tsv"):
            read = read_delimited(text, "," if form == ".csv" else "\t")
            return Table(read.frame, tuple(f"{path.name}: {note}" for note in (*notes, *read.notes)))
        found = read_json(text) if form == ".json" else read_json_lines(text)
        return _json_parts(found) or Table(json_table(found), tuple(f"{path.name}: {note}" for note in notes))
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:  # pyarrow's errors are ValueErrors
        raise ValueError(
            f"{str(path)!r} cannot be read as {path.suffix[1:]}: {error}. Mend or convert the file."
        ) from error


def _check_parquet_names(content: bytes) -> None:
    names = read_schema(io.BytesIO(content)).names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"there are several columns called {listed(twice)}. Keep or rename one of each")


def read_data_files(folder: Path) -> PairTables | BeirTables:
    """Read a folder of files: pairs, one file per split, or corpus, queries and qrels.

    Raises:
        ValueError: nothing readable is there, or more than one thing that it could be.
    """
    files = _data_files(folder)
    if {"corpus", "queries"} <= set(files):
        return _read_beir_folder(folder, files)
    return _read_pair_folder(folder, files)


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Find the readable files of a folder by stem; numbered shards of a table (`x-00000-of-00002`) share one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and format_of(path) is not None:
            found.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.name.split(".")[0]), []).append(path)
    return found


def _read_table(paths: list[Path]) -> Table | BeirTables:
    if len(paths) > 1 and not all(re.search(r"-\d{5}-of-\d{5}\.", path.name) for path in paths):
        raise ValueError(
            f"{str(paths[0].parent)!r} holds {listed(path.name for path in paths)}, which are the same part twice. "
            "Keep one of them."
        )
    parts = [read_file(path) for path in paths]
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
    splits = {stem: paths for stem, paths in files.items() if re.split(r"[-_]", stem.lower())[0] in SPLIT_OF_WORD}
    if splits:
        unread = _unread_note([path.name for stem, paths in files.items() if stem not in splits for path in paths])
        tables = {split: _read_table(paths) for split, paths in splits.items()}
    elif len(files) == 1:
        unread, tables = (), {NO_SPLIT: _read_table(next(iter(files.values())))}
    else:
        found = listed(sorted(path.name for path in folder.iterdir()))
        raise ValueError(
            f"{str(folder)!r} holds {found or 'nothing'}. Expected one file of pairs, one per split (train.csv, "
            f"dev.csv, test.csv), or corpus, queries and qrels; as {', '.join(_FORMATS)}. Name them so, or give one "
            "file's path."
        )
    pairs = {split: table for split, table in tables.items() if isinstance(table, Table)}
    if len(pairs) < len(tables):
        return replace(_joined(tables, folder), name=folder.name, notes=unread)
    notes = (*(note for table in pairs.values() for note in table.notes), *unread)
    return PairTables({split: table.frame for split, table in pairs.items()}, folder.name, notes=notes)


def _unread_note(names: list[str]) -> tuple[str, ...]:
    return (f"Files left unread: {listed(names)}.",) if names else ()
