"""A folder of data may say itself where its data lie; what it names must lie in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from datasets.data_files import resolve_pattern
from huggingface_hub import metadata_load

_CARD, _STANDALONE = "README.md", ".huggingface.yaml"  # `datasets` reads both, and the second counts
_SAVED_DICT, _SAVED_STATE = "dataset_dict.json", "state.json"


def is_configured(folder: Path) -> bool:
    """Whether a folder is a clone of a Hub data set whose card says what is where.

    Raises:
        ValueError: the card cannot be read, or names something outside the folder: another folder, an address, or a
            link that leads out. In a snapshot of the Hub's cache, links to that repository's own blobs do not.
    """
    configs = _configs(folder)
    if configs is None:
        return False
    for config in configs:
        base = folder
        if config.get("data_dir"):
            _check_name(folder, _CARD, str(config["data_dir"]))
            base = folder / str(config["data_dir"])
        for pattern in list(_patterns(config.get("data_files"))) or ["**"]:
            _check_name(folder, _CARD, pattern)
            for path in _matching(pattern, base):
                _check_place(folder, _CARD, path)
    return True


def is_saved_to_disk(folder: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`.

    Raises:
        ValueError: what it says about itself cannot be read, or names something outside the folder.
    """
    if (folder / _SAVED_DICT).is_file():
        splits = _read(folder / _SAVED_DICT, "splits")
        for split in splits:
            _check_name(folder, _SAVED_DICT, str(split))
            if (folder / str(split) / _SAVED_STATE).is_file():
                _check_state(folder, folder / str(split))
        return True
    if (folder / _SAVED_STATE).is_file():
        _check_state(folder, folder)
        return True
    return False


def _check_state(folder: Path, saved: Path) -> None:
    for entry in _read(saved / _SAVED_STATE, "_data_files"):
        name = str(entry.get("filename") if isinstance(entry, dict) else entry)
        _check_name(folder, _SAVED_STATE, name)
        _check_place(folder, _SAVED_STATE, saved / name)


def _read(path: Path, key: str) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}. Save the data set again.") from error
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{str(path)!r} holds no list {key!r}. Save the data set again.")
    return found


def _configs(folder: Path) -> list[dict[str, Any]] | None:
    content: dict[str, Any] = {}
    try:
        if (folder / _CARD).is_file():
            content |= metadata_load(folder / _CARD) or {}
        if (folder / _STANDALONE).is_file():
            content |= yaml.safe_load((folder / _STANDALONE).read_text(encoding="utf-8")) or {}
    except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"The metadata of {str(folder / _CARD)!r} cannot be read: {reason}. Mend it, or give the path of a file."
        ) from error
    configs = content.get("configs")
    if configs is None:
        return None
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        raise ValueError(
            f"{str(folder / _CARD)!r} has configs that are no list of configurations: {str(configs)[:100]}. "
            "Mend them, or give the path of a file."
        )
    return configs


def _patterns(data_files: Any) -> Iterator[str]:
    """The names of files, patterns included, wherever they stand in what a card says of its files."""
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, list):
        for entry in data_files:
            yield from _patterns(entry)
    elif isinstance(data_files, dict):
        for key, entry in data_files.items():
            if key != "split":
                yield from _patterns(entry)


def _matching(pattern: str, base: Path) -> list[Path]:
    try:
        return [Path(path) for path in resolve_pattern(pattern, str(base.absolute()))]
    except FileNotFoundError:  # left to the loading to say
        return []


def _check_name(folder: Path, source: str, name: str) -> None:
    elsewhere = urlsplit(name).scheme or "::" in name or name.startswith("~")
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if elsewhere or absolute or ".." in re.split(r"[\\/]", name):
        raise _outside(folder, source, name)


def _check_place(folder: Path, source: str, path: Path) -> None:
    root, place = folder.resolve(), path.resolve()
    blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(place.is_relative_to(allowed) for allowed in (root, *blobs)):
        raise _outside(folder, source, str(path.relative_to(folder) if path.is_relative_to(folder) else path))


def _outside(folder: Path, source: str, name: str) -> ValueError:
    return ValueError(
        f"{source} of {str(folder)!r} names {name!r}, which lies outside that folder. Only what lies in it is read. "
        "Copy the file into the folder, or give the path of the file itself."
    )
