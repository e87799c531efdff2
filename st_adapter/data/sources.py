"""Read whatever a retrieval data set comes in - frames, files, folders, the Hub - into plain tables, one per split.

Nothing is judged here: columns are looked at, and texts, ids and splits are checked, in `st_adapter.data.dataset`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import datasets
import pandas as pd
from datasets.exceptions import DatasetsError

from st_adapter.data.cards import is_configured, is_saved_to_disk
from st_adapter.data.files import format_of, read_data_files, read_file
from st_adapter.data.nested import unnested
from st_adapter.data.tables import NO_SPLIT, Tables, as_frame, read_mapping
from st_adapter.errors import without_secrets
from st_adapter.words import listed


class SupportsArrow(Protocol):
    """A table of any library that speaks Arrow: polars, pyarrow, DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


DataSource: TypeAlias = (
    "datasets.Dataset | datasets.DatasetDict | pd.DataFrame | Sequence[Any] | Mapping[str, Any] | "
    "str | os.PathLike[str] | SupportsArrow"
)


def read_source(source: DataSource) -> Tables:
    """Read a source into tables, and tell the pair form from the BEIR form by the names of its parts.

    Args:
        source: See `RetrievalDataset.load`.

    Raises:
        ValueError: Nothing there, nothing readable there, or more than one thing that it could be.
    """
    if isinstance(source, (str, os.PathLike)):
        tables = _read_location(os.fspath(source))
    elif isinstance(source, Mapping):
        tables = read_mapping(source, name="")
    else:
        tables = Tables({NO_SPLIT: as_frame(source)})
    return tables if tables.texts else unnested(tables)


def _read_location(location: str) -> Tables:
    path = Path(location).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return read_file(path)
    # "name" and "organisation/name" may be on the Hub; everything else can only have been meant as a path.
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", location) and format_of(path) is None:
        return _read_hub(location)
    shown = without_secrets(location)
    raise ValueError(f"There is no file or folder {shown!r}. Check the path (it is taken from {str(Path.cwd())!r}).")


def _read_folder(folder: Path) -> Tables:
    if is_saved_to_disk(folder):
        try:
            saved = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{str(folder)!r} was not saved whole ({reason}). Save the data set again.") from error
        parts = saved if isinstance(saved, datasets.DatasetDict) else {NO_SPLIT: saved}
        return read_mapping(parts, name=folder.name)
    if is_configured(folder):
        return _read_hub(str(folder), name=folder.name)
    return read_data_files(folder)


def _read_hub(location: str, name: str | None = None) -> Tables:
    """Read a data set on the Hub, or a clone of one, in the forms that BEIR, MTEB and pair sets are published in."""
    try:
        configs = datasets.get_dataset_config_names(location)
        if {"corpus", "queries"} <= set(configs):
            parts = {part: _concatenated(datasets.load_dataset(location, part)) for part in ("corpus", "queries")}
            return read_mapping({**parts, "qrels": _hub_qrels(location, configs)}, name=name or location)
        if len(configs) == 1:
            return read_mapping(datasets.load_dataset(location, configs[0]), name=name or location)
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
