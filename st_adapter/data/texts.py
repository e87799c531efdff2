"""Texts to embed, read a file at a time: more than lie in memory at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas as pd

from st_adapter.data.columns import CORPUS_COLUMNS, QUERIES_COLUMNS, check_roles, find_columns
from st_adapter.data.files import data_files, read_file, readable_files
from st_adapter.data.layout import laid_out_part
from st_adapter.data.sources import DataSource, read_source
from st_adapter.data.tables import Tables

_ROLES = ("id", "text", "title")


@dataclass(frozen=True)
class Texts:
    """n texts and their ids.

    Attributes:
        ids: n ids.
        texts: n texts.
        num_empty: rows without a text, which were left out.
    """

    ids: list[str]
    texts: list[str]
    num_empty: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TextSource:
    """Queries or documents with their ids, in a table, a file, the files of a folder, or a data set of the Hub.

    Of a folder one file is read at a time, in the order of their names. A data set in the BEIR form has both, and the
    ones that are asked for are taken. Texts that are empty are left out and counted.

    Attributes:
        source: as ``RetrievalDataset.load`` takes a corpus.
        part: ``queries`` or ``corpus``.
        columns: role (``id``, ``text``, ``title``) -> its column, where it has an unusual name.

    Examples:
        >>> [texts.ids for texts in TextSource(pd.DataFrame({"id": ["a", "b"], "text": ["one", " "]}), "corpus")]
        [['a']]
    """

    source: DataSource
    part: Literal["queries", "corpus"]
    columns: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Texts]:
        """The texts of one file after the other.

        Raises:
            ValueError: a file cannot be read, has no column of ids or texts, or not one that was named, or holds
                something else than texts; or a role was named that this part does not have.
        """
        if len(self._files) <= 1:
            yield self._alone
            return
        for path in self._files:
            yield self._texts(read_file(path), f" in {path.name}")

    @cached_property
    def _files(self) -> list[Path]:
        """The files of a folder; none for what is read in another way."""
        folder = Path(self.source).expanduser() if isinstance(self.source, (str, os.PathLike)) else None
        if folder is None or not folder.is_dir():
            return []
        of_parts = data_files(folder)
        return of_parts[self.part] if {"corpus", "queries"} <= set(of_parts) else readable_files(folder)

    @cached_property
    def _alone(self) -> Texts:
        # Read once: these texts lie in memory anyway.
        read = read_file(self._files[0]) if self._files else read_source(self.source)
        return self._texts(read, f" in {self.part}")

    def _texts(self, tables: Tables, where: str) -> Texts:
        frames = [tables.texts[self.part]] if tables.texts else list(tables.rows.values())
        usual = CORPUS_COLUMNS if self.part == "corpus" else QUERIES_COLUMNS
        read = [
            self._of_frame(frame, {role: usual[role] for role in _ROLES if role in usual}, where) for frame in frames
        ]
        return Texts(
            [one for each in read for one in each.ids],
            [one for each in read for one in each.texts],
            sum(each.num_empty for each in read),
        )

    def _of_frame(self, frame: pd.DataFrame, usual: Mapping[str, tuple[str, ...]], where: str) -> Texts:
        if frame.empty:
            return Texts([], [])
        check_roles(self.columns, usual)
        found = find_columns(frame, usual, self.columns, where, optional=("title",))
        table = laid_out_part(self.part, frame, found, judged=set()).table
        return Texts(table["id"].tolist(), table["text"].tolist(), len(frame) - len(table))
