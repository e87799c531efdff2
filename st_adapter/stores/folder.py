"""A folder of vectors that ``st-adapter embed`` wrote: rows are read from disk when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from st_adapter.errors import setting_error
from st_adapter.storage.manifest import MANIFEST_FILE, Manifest
from st_adapter.storage.vector_parts import SUFFIX, Part
from st_adapter.stores.store import MissingDocuments, Rows, Vectors
from st_adapter.words import counted

DEFAULT_MEMORY = 4 * 10**9
# Besides the vectors of a block, a search holds scores and what it scores again.
_SEARCH_BYTES = 10**9
_LEAST_MEMORY = 15 * 10**8
_IDS_AT_ONCE = 2**16


class VectorFolder:
    """The vectors of a folder, in the order of its parts, read and never written.

    Ids lie in memory, in about their own length; vectors stay on disk.

    Args:
        folder: what ``st-adapter embed`` wrote.
        memory: bytes that a search may take for vectors and scores, at least 1.5 GB.
        ray_address: address of a Ray cluster whose machines search the parts, ``local`` for one on this machine; None
            to search them in this process. All machines see the folder under its path.

    Attributes:
        notes: what ``embed_to_folder`` left out, and what it could not compare; none of a folder that was opened alone.

    Raises:
        ValueError: the folder is not finished, or a part is missing, there twice, or cannot be read.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, folder: str | Path, *, memory: int = DEFAULT_MEMORY, ray_address: str | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = Manifest.read(self.folder)
        self.ray_address = ray_address
        self.memory = memory
        if memory < _LEAST_MEMORY:
            raise setting_error("memory", memory, f"at least {_LEAST_MEMORY:,} bytes")
        self.parts = read_parts_of(self.folder, self.manifest)
        refuse_copies(self.parts)
        self.starts = np.cumsum([0, *(part.count for part in self.parts)])
        if self.manifest.count != self.count:
            came = "it is not finished" if self.manifest.count is None else f"it held {self.manifest.count:,}"
            raise ValueError(
                f"{self.folder} holds {counted(self.count, 'vector')}, but {came}. Run st-adapter embed again with the "
                "same --output: only what is missing is embedded."
            )
        self.ids = Ids(pa.chunked_array([part.ids for part in self.parts], pa.string()))

    def __repr__(self) -> str:
        return f"VectorFolder({str(self.folder)!r}: {self.count:,} vectors, {self.dimension} dimensions)"

    @property
    def address(self) -> str:
        """What was opened, for messages and results."""
        return str(self.folder)

    @property
    def count(self) -> int:
        """N."""
        return int(self.starts[-1])

    @property
    def dimension(self) -> int:
        """D."""
        return self.manifest.dimension

    @property
    def normalized(self) -> bool:
        """Whether all vectors but those of zeros have length 1."""
        return bool(self.manifest.normalized)

    @property
    def block_rows(self) -> int:
        """How many vectors a search may hold at once, as float32."""
        return max(1, (self.memory - _SEARCH_BYTES) // (4 * self.dimension))

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The vectors with these ids, in this order; a folder keeps no texts.

        Raises:
            MissingDocuments: some are not there; their number and the first three are named.
        """
        there = pc.is_in(self.ids.array, value_set=pa.array(list(ids), self.ids.array.type))
        row_of = {self.ids[row]: row for row in np.flatnonzero(there.to_numpy(zero_copy_only=False)).tolist()}
        missing = [one for one in ids if one not in row_of]
        if missing:
            raise MissingDocuments(
                f"{self.address} has no vector for {len(missing)} of {len(ids)} ids, the first: {missing[:3]}. Check "
                "that the labels name documents of this folder."
            )
        return Rows(list(ids), self.rows(np.array([row_of[one] for one in ids], dtype=np.int64)), None)

    def rows(self, index: NDArray[np.int64]) -> Vectors:
        """The vectors (n, D), float32, of (n,) rows."""
        found = np.empty((len(index), self.dimension), dtype=np.float32)
        order = np.argsort(index, kind="stable")
        places = np.searchsorted(self.starts, index[order], side="right") - 1
        asked, begins = np.unique(places, return_index=True)
        for number, chosen in zip(asked.tolist(), np.split(order, begins[1:]), strict=True):
            found[chosen] = self.parts[number].rows(index[chosen] - self.starts[number])
        return found


class Ids(Sequence[str]):
    """Ids in the form of Arrow, each a string when it is asked for.

    Args:
        array: N strings.
    """

    def __init__(self, array: pa.ChunkedArray) -> None:
        # In one piece, as a row is looked for piece by piece; that may hold more than the 2 GB of plain strings.
        self.array = array.cast(pa.large_string()).combine_chunks()

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        return str(self.array[row].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _IDS_AT_ONCE):
            yield from self.array.slice(start, _IDS_AT_ONCE).to_pylist()


def read_parts_of(folder: Path, manifest: Manifest) -> list[Part]:
    """The parts of a folder, in the order of their names, which is that of the data.

    Raises:
        ValueError: one cannot be read, or is not what the manifest says.
    """
    parts = [Part.open(path) for path in sorted(folder.glob(f"part-*{SUFFIX}"))]
    for part in parts:
        if (part.dimension, part.dtype) != (manifest.dimension, manifest.dtype):
            raise ValueError(
                f"The part {part.path} holds {part.dimension} dimensions in {part.dtype}, but {MANIFEST_FILE} says "
                f"{manifest.dimension} in {manifest.dtype}: it is of another folder. Take it out."
            )
    return parts


def refuse_copies(parts: Sequence[Part]) -> None:
    """Raise ValueError if a part is there twice, and say which file to delete.

    Who writes parts sees to it that no id comes twice, so that only a part that was copied can bring one.
    """
    begins: dict[str, Part] = {}
    for part in filter(lambda part: part.count, parts):
        other = begins.setdefault(str(part.ids[0]), part)
        if other is not part:
            copy, kept = (other, part) if part.has_its_name else (part, other)
            raise ValueError(f"{copy.path} holds the vectors of {kept.path} once more. Delete {copy.path.name}.")
