"""Read files of rows, and folders of such files, into tables, by their names and kinds."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from st_adapter.data.ms_marco import is_ms_marco, read_ms_marco, read_triples
from st_adapter.data.nested import read_squad, rows_of
from st_adapter.data.table_files import TABLE_FORMATS, read_tables
from st_adapter.data.tables import JUDGEMENTS, NO_SPLIT, SPLIT_OF_WORD, Tables, read_mapping
from st_adapter.data.text_files import decoded, json_table, read_delimited, read_json, read_json_lines
from st_adapter.data.vectors import NUMPY_FORMATS, is_list_of_ids, read_numpy
from st_adapter.storage.manifest import MANIFEST_FILE
from st_adapter.words import listed

_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", *TABLE_FORMATS, *NUMPY_FORMATS)


def _json_parts(content: Any) -> Tables | None:
    """Queries, corpus and judgements in one object: LlamaIndex's EmbeddingQAFinetuneDataset, or SQuAD's articles."""
    if not isinstance(content, dict):
        return None
    if squad := read_squad(content):
        return squad
    parts = {part: content[part] for part in ("queries", "corpus", *JUDGEMENTS) if isinstance(content.get(part), dict)}
    whole = {"queries", "corpus"} <= set(parts) and len(parts) > 2
    return read_mapping(parts, name="") if whole else None


def format_of(path: Path) -> str | None:
    """The format of a file, by its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in _FORMATS else None


def read_file(path: Path) -> Tables:
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
        if form in TABLE_FORMATS:
            return replace(read_mapping(read_tables(content, form), name=path.name), name=path.name)
        if form in NUMPY_FORMATS:
            return Tables({NO_SPLIT: read_numpy(path, content)}, name=path.name)
        text, notes = decoded(content)
        if form == ".tsv" and (triples := read_triples(path, text)) is not None:
            return Tables({NO_SPLIT: triples}, name=path.name)
        if form in (".csv", ".tsv"):
            frame, how = read_delimited(text, "," if form == ".csv" else "\t")
            notes += how
        else:
            found = read_json(text) if form == ".json" else read_json_lines(text)
            if whole := _json_parts(found):
                return replace(whole, name=path.name)
            frame = json_table(rows_of(found))
        return Tables({NO_SPLIT: frame}, name=path.name, notes=tuple(f"{path.name}: {note}" for note in notes))
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:  # pyarrow's errors are ValueErrors
        raise ValueError(
            f"{str(path)!r} cannot be read as {path.suffix[1:]}: {error}. Mend or convert the file."
        ) from error


def read_data_files(folder: Path) -> Tables:
    """Read a folder of files: pairs, one file per split, or corpus, queries and qrels.

    Raises:
        ValueError: nothing readable is there, or more than one thing that it could be.
    """
    files = data_files(folder)
    if is_ms_marco(files):
        return read_ms_marco(folder, files)
    if {"corpus", "queries"} <= set(files):
        return _read_beir_folder(folder, files)
    return _read_pair_folder(folder, files)


def readable_files(folder: Path) -> list[Path]:
    """The files of a folder that can be read as tables, by name."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and format_of(path) is not None and not is_list_of_ids(path) and path.name != MANIFEST_FILE
    ]


def data_files(folder: Path) -> dict[str, list[Path]]:
    """Find the readable files of a folder by stem; numbered shards of a table (`x-00000-of-00002`) share one."""
    found: dict[str, list[Path]] = {}
    for path in readable_files(folder):
        found.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.name.split(".")[0]), []).append(path)
    return found


def read_files(paths: list[Path]) -> Tables:
    """One table, or one whole data set, in a file or in shards."""
    if len(paths) > 1 and not all(re.search(r"-\d{5}-of-\d{5}\.", path.name) for path in paths):
        raise ValueError(
            f"{str(paths[0].parent)!r} holds {listed(path.name for path in paths)}, which are the same part twice. "
            "Keep one of them."
        )
    read = {path.name: read_file(path) for path in paths}
    several = next((name for name, tables in read.items() if list(tables.rows) != [NO_SPLIT]), None)
    if several is not None:
        raise ValueError(f"{str(paths[0].parent / several)!r} holds several splits. Give its own path.")
    joined = _joined(read, paths[0].parent)
    return replace(joined, rows={NO_SPLIT: pd.concat(joined.rows.values(), ignore_index=True)})


def _joined(parts: Mapping[str, Tables], folder: Path) -> Tables:
    """One data set of several in the same form; ids that mean two texts are found later."""
    kinds = {tuple(part.texts) for part in parts.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"Of the files in {str(folder)!r} some hold pairs, and some queries with a corpus. Give them in one form."
        )
    return Tables(
        {split: pd.concat(part.rows.values(), ignore_index=True) for split, part in parts.items()},
        {name: pd.concat([part.texts[name] for part in parts.values()], ignore_index=True) for name in min(kinds)},
        name=folder.name,
        notes=tuple(note for part in parts.values() for note in part.notes),
    )


def _plain(paths: list[Path]) -> Tables:
    tables = read_files(paths)
    if tables.texts:
        raise ValueError(f"{str(paths[0])!r} holds a whole data set. Give its own path.")
    return tables


def _read_beir_folder(folder: Path, files: Mapping[str, list[Path]]) -> Tables:
    per_split = data_files(folder / "qrels") if (folder / "qrels").is_dir() else {}
    if per_split and "qrels" in files:
        raise ValueError(f"{str(folder)!r} holds both a file and a folder of qrels. Keep one of them.")
    in_one = {NO_SPLIT: files["qrels"]} if "qrels" in files else {}
    qrels = {split: _plain(paths) for split, paths in (per_split or in_one).items()}
    if not qrels:
        raise ValueError(
            f"{str(folder)!r} holds a corpus and queries, but no qrels. Add qrels.tsv or qrels.parquet with the "
            "columns query_id, corpus_id, score and split, or one file per split as qrels/train.tsv, qrels/test.tsv."
        )
    unread = [
        path.name for stem, paths in files.items() if stem not in {"corpus", "queries", "qrels"} for path in paths
    ]
    texts = {part: _plain(files[part]) for part in ("queries", "corpus")}
    notes = [note for tables in (*texts.values(), *qrels.values()) for note in tables.notes]
    rows, text_rows = ({name: each.rows[NO_SPLIT] for name, each in tables.items()} for tables in (qrels, texts))
    return Tables(rows, text_rows, folder.name, (*notes, *_unread_note(unread)))


def _read_pair_folder(folder: Path, files: Mapping[str, list[Path]]) -> Tables:
    splits = {stem: paths for stem, paths in files.items() if re.split(r"[-_]", stem.lower())[0] in SPLIT_OF_WORD}
    unread = _unread_note([path.name for stem, paths in files.items() if stem not in splits for path in paths])
    if not splits and len(files) == 1:
        splits, unread = {NO_SPLIT: next(iter(files.values()))}, ()
    if not splits:
        found = listed(sorted(path.name for path in folder.iterdir()))
        raise ValueError(
            f"{str(folder)!r} holds {found or 'nothing'}. Expected one file of pairs, one per split (train.csv, "
            f"dev.csv, test.csv), or corpus, queries and qrels; as {', '.join(_FORMATS)}. Name them so, or give one "
            "file's path."
        )
    joined = _joined({split: read_files(paths) for split, paths in splits.items()}, folder)
    return replace(joined, notes=(*joined.notes, *unread))


def _unread_note(names: list[str]) -> tuple[str, ...]:
    return (f"Files left unread: {listed(names)}.",) if names else ()
