"""Read whatever a retrieval data set comes in - frames, files, folders, the Hub - into plain tables, one per split.

Nothing is judged here: columns are looked at, and texts, ids and splits are checked, in `st_adapter.data`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pandas as pd
from huggingface_hub import metadata_load

Source: TypeAlias = (
    "datasets.Dataset | datasets.DatasetDict | pd.DataFrame | Mapping[str, Any] | str | os.PathLike[str]"
)

NO_SPLIT = ""  # the key of a table that came without the name of a split
SPLIT_NAMES = {"train": "train", "dev": "dev", "test": "test", "validation": "dev", "valid": "dev", "val": "dev"}


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
        return PairTables({NO_SPLIT: _read_file(path)}, name=path.name)
    # "name" and "organisation/name" may be on the Hub; everything else can only have been meant as a path.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", location) and _reader(path) is None:
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
    if "qrels" not in parts:
        raise ValueError(
            f"The data set has the parts {listed(parts)}, but no 'qrels'. Add the judgements: a table with "
            "query_id, corpus_id and score, or one such table per split."
        )
    qrels = parts["qrels"]
    tables = qrels if isinstance(qrels, Mapping) else {NO_SPLIT: qrels}
    unused = sorted(set(parts) - {"corpus", "queries", "qrels"})
    return BeirTables(
        queries=_as_frame(parts["queries"]),
        corpus=_as_frame(parts["corpus"]),
        qrels={str(split): _as_frame(table) for split, table in tables.items()},
        name=name,
        notes=(f"Parts left unused: {listed(unused)}.",) if unused else (),
    )


# --- files ---


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    # All cells as they are written: "NA" and "null" are texts, "007" is an id. Numbers are made of scores later.
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)


def _read_json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype=False)


def _read_json(path: Path) -> pd.DataFrame:
    try:
        return pd.read_json(path, dtype=False)
    except ValueError:  # many a .json file holds one object per line
        return _read_json_lines(path)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _read_csv(path, ","),
    ".tsv": lambda path: _read_csv(path, "\t"),
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": pd.read_parquet,
}


def _reader(path: Path) -> Callable[[Path], pd.DataFrame] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return _READERS.get(suffixes[-1]) if suffixes else None


def _read_file(path: Path) -> pd.DataFrame:
    frame: pd.DataFrame
    reader = _reader(path)
    if reader is None:
        raise ValueError(f"{str(path)!r} is not a file that can be read here. Expected one of: {', '.join(_READERS)}.")
    try:
        frame = reader(path)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except ValueError as error:  # pandas', pyarrow's and the decoder's errors for broken content are all ValueErrors
        raise ValueError(
            f"{str(path)!r} cannot be read as {path.suffix[1:]}: {error}. Mend or convert the file."
        ) from error
    return frame


# --- folders ---


def _read_folder(folder: Path) -> PairTables | BeirTables:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():  # written by save_to_disk
        saved = datasets.load_from_disk(str(folder))
        parts = saved if isinstance(saved, datasets.DatasetDict) else {NO_SPLIT: saved}
        return _read_mapping(parts, name=folder.name)
    card = folder / "README.md"
    if card.is_file() and "configs" in (
        metadata_load(card) or {}
    ):  # a clone of a Hub data set, whose card says what is where
        return _read_hub(str(folder), name=folder.name)
    files = _data_files(folder)
    if {"corpus", "queries"} <= set(files):
        return _read_beir_folder(folder, files)
    return _read_pair_folder(folder, files)


def _data_files(folder: Path) -> dict[str, list[Path]]:
    """Find the readable files of a folder by stem; numbered shards of a table (`x-00000-of-00002`) share one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and _reader(path) is not None:
            found.setdefault(re.sub(r"-\d{5}-of-\d{5}$", "", path.name.split(".")[0]), []).append(path)
    return found


def _read_table(paths: list[Path]) -> pd.DataFrame:
    if len(paths) > 1 and not all(re.search(r"-\d{5}-of-\d{5}\.", path.name) for path in paths):
        raise ValueError(
            f"{str(paths[0].parent)!r} holds {listed(path.name for path in paths)}, which are the same part twice. "
            "Keep one of them."
        )
    return pd.concat([_read_file(path) for path in paths], ignore_index=True)


def _read_beir_folder(folder: Path, files: Mapping[str, list[Path]]) -> BeirTables:
    per_split = _data_files(folder / "qrels") if (folder / "qrels").is_dir() else {}
    if per_split and "qrels" in files:
        raise ValueError(f"{str(folder)!r} holds both a file and a folder of qrels. Keep one of them.")
    in_one = {NO_SPLIT: files["qrels"]} if "qrels" in files else {}
    qrels = {split: _read_table(paths) for split, paths in (per_split or in_one).items()}
    if not qrels:
        raise ValueError(
            f"{str(folder)!r} holds a corpus and queries, but no qrels. Add qrels.tsv or qrels.parquet with the "
            "columns query_id, corpus_id, score and split, or one file per split as qrels/train.tsv, qrels/test.tsv."
        )
    unread = [
        path.name for stem, paths in files.items() if stem not in {"corpus", "queries", "qrels"} for path in paths
    ]
    return BeirTables(
        _read_table(files["queries"]), _read_table(files["corpus"]), qrels, folder.name, notes=_unread_note(unread)
    )


def _read_pair_folder(folder: Path, files: Mapping[str, list[Path]]) -> PairTables:
    splits = {stem: paths for stem, paths in files.items() if re.split(r"[-_]", stem.lower())[0] in SPLIT_NAMES}
    if splits:
        unread = [path.name for stem, paths in files.items() if stem not in splits for path in paths]
        tables = {split: _read_table(paths) for split, paths in splits.items()}
        return PairTables(tables, folder.name, notes=_unread_note(unread))
    if len(files) == 1:
        return PairTables({NO_SPLIT: _read_table(next(iter(files.values())))}, folder.name)
    found = listed(sorted(path.name for path in folder.iterdir()))
    raise ValueError(
        f"{str(folder)!r} holds {found or 'nothing'}. Expected one file of pairs, one per split (train.csv, dev.csv, "
        f"test.csv), or corpus, queries and qrels; as {', '.join(_READERS)}. Name them so, or give one file's path."
    )


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
    except OSError as error:  # not found, no network, no permission: all of the Hub's errors are OSErrors
        raise ValueError(
            f"{location!r} is no file or folder here, and the Hub gave no data set of that name "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). "
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
    return datasets.load_dataset(f"{location}-qrels")  # BEIR's own sets keep theirs next door: BeIR/scifact-qrels


def _concatenated(splits: datasets.DatasetDict) -> datasets.Dataset:
    return datasets.concatenate_datasets(list(splits.values()))


def listed(names: Iterable[object]) -> str:
    """Quote and join names: 'a', 'b'."""
    return ", ".join(repr(str(name)) for name in names)
