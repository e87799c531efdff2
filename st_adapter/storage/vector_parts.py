"""Vectors in parquet files that any tool reads, laid out so that they are found in the file without decoding it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from st_adapter.storage.writing import file_written_whole

SUFFIX = ".parquet"
# Parquet's writers begin a new page, with a header among the vectors, after some 20,000 rows.
MAX_ROWS = 2**14
_IDS, _HASHES, _VECTORS = "id", "text_hash", "embedding"
_NORMALIZED, _FIRST = b"st_adapter.normalized", b"st_adapter.first"
_PAGE_BYTES = 2**30
_SHOWN = 8


@dataclass(frozen=True)
class Part:
    """A parquet file of ``id``, ``text_hash`` and ``embedding``, lists of a fixed size that lie at a known place.

    These are one page, neither compressed nor encoded, which ends where the column ends. Decoding them with Arrow takes
    some 20 times as long as reading them from there.

    Attributes:
        path: the file.
        count: n, rows.
        dimension: D.
        dtype: ``float32`` or ``float16``.
        normalized: whether all vectors but those of zeros have length 1.
        offset: bytes before the first vector.
        has_hashes: whether the hashes of the texts are there; earlier versions wrote none.
    """

    path: Path
    count: int
    dimension: int
    dtype: str
    normalized: bool
    offset: int
    has_hashes: bool = False

    @classmethod
    def open(cls, path: Path) -> Part:
        """Read where things lie, and check that they do.

        Raises:
            ValueError: the file cannot be read, or was written in another layout.
        """
        try:
            file = pq.ParquetFile(path)
            schema, metadata = file.schema_arrow, file.metadata
            known = schema.metadata or {}
            vector = schema.field(_VECTORS).type
            column = metadata.row_group(0).column(schema.get_field_index(_VECTORS))
            dtype = {"float": "float32", "halffloat": "float16"}[str(vector.value_type)]
            num_bytes = metadata.num_rows * vector.list_size * np.dtype(dtype).itemsize
            offset = column.data_page_offset + column.total_compressed_size - num_bytes
            of_texts = _HASHES in schema.names
            part = cls(
                path, metadata.num_rows, vector.list_size, dtype, known[_NORMALIZED] == b"true", offset, of_texts
            )
            if metadata.num_row_groups > 1 or column.compression != "UNCOMPRESSED" or part._first() != known[_FIRST]:
                raise ValueError("its vectors were written in another layout, by another tool or release")
        except (OSError, KeyError, AttributeError, ValueError, IndexError) as error:  # Arrow's errors are ValueErrors
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise ValueError(
                f"The part {path} cannot be read ({reason}). Delete it and run st-adapter embed again with the same "
                "--output: what it held is embedded again, and nothing else."
            ) from error
        return part

    @cached_property
    def ids(self) -> pa.StringArray:
        """The n ids."""
        return self._column(_IDS)

    def text_hashes(self) -> pa.UInt64Array:
        """The n hashes of the texts; nulls if they were not written, as by earlier versions."""
        return self._column(_HASHES) if self.has_hashes else pa.nulls(self.count, pa.uint64())

    @property
    def has_its_name(self) -> bool:
        """Whether the file is called what ``part_name`` calls a part of these ids; a copy is not."""
        return self.path.name.endswith(f"-{_ids_digest(self.ids.to_pylist())}{SUFFIX}")

    def vectors(self) -> NDArray[Any]:
        """The vectors (n, D), read into memory."""
        numbers = np.fromfile(self.path, dtype=self.dtype, count=self._size, offset=self.offset)
        return numbers.reshape(self.count, self.dimension)

    def rows(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """The vectors (m, D) of (m,) rows; of others no page of the file is read."""
        width = self.dimension * np.dtype(self.dtype).itemsize
        # As bytes, because numbers in a file need not lie where a processor wants them.
        mapped = np.memmap(self.path, dtype=np.uint8, mode="r", offset=self.offset, shape=(self.count, width))
        return np.asarray(mapped[index]).view(self.dtype)

    def _column(self, name: str) -> pa.Array:
        try:
            return pq.read_table(self.path, columns=[name]).column(name).combine_chunks()
        except (OSError, ValueError) as error:
            raise ValueError(f"The column {name!r} of the part {self.path} cannot be read ({error}).") from error

    def _first(self) -> bytes:
        return _shown(np.fromfile(self.path, dtype=self.dtype, count=min(_SHOWN, self._size), offset=self.offset))

    @property
    def _size(self) -> int:
        return self.count * self.dimension


def part_name(row: int, ids: Sequence[str]) -> str:
    """The name of the file of some ids, by which parts are in order and the same ids are there once.

    Args:
        row: of the first one, in the data.
        ids: n ids.
    """
    return f"part-{row:012d}-{_ids_digest(ids)}{SUFFIX}"


def _ids_digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:12]


def _shown(numbers: NDArray[Any]) -> bytes:
    """The first numbers, by which it is seen that they are where they are looked for."""
    return numbers[:_SHOWN].tobytes().hex().encode()


def write_part(
    path: Path,
    ids: Sequence[str],
    vectors: NDArray[Any],
    normalized: bool,
    text_hashes: Sequence[int] | None = None,
) -> None:
    """Write a part whole or not at all.

    Args:
        path: where to.
        ids: n ids.
        vectors: (n, D) float32 or float16, n <= ``MAX_ROWS``.
        normalized: whether all vectors but those of zeros have length 1.
        text_hashes: n numbers below 2**64, by which it is seen later whether a text is still the same.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    values = np.ascontiguousarray(vectors)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    marks: Mapping[bytes, bytes] = {
        _NORMALIZED: b"true" if normalized else b"false",
        _FIRST: _shown(values.reshape(-1)),
    }
    columns = {_IDS: pa.array(ids, pa.string())}
    if text_hashes is not None:
        columns[_HASHES] = pa.array(text_hashes, pa.uint64())
    columns[_VECTORS] = lists
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    table = pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields, metadata=dict(marks)))
    with file_written_whole(path) as unfinished:
        pq.write_table(
            table,
            unfinished,
            row_group_size=MAX_ROWS,
            data_page_size=_PAGE_BYTES,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
