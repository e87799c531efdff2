"""FAISS: ``faiss:FILE``, with the documents' ids one a line in ``#?ids=FILE``, or else their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from st_adapter.stores.store import Address, Hits, Metric, MissingDocuments, Rows, Vectors, extra_missing


class FaissStore:
    """An index file of FAISS that holds the vectors as they were; see ``Store``. It holds no texts.

    Raises:
        ValueError: the index keeps rounded vectors (PQ, SQ), or gives its vectors out under other ids (IVF).
    """

    def __init__(self, address: Address) -> None:
        try:
            import faiss
        except ImportError as error:
            raise extra_missing("FAISS", "index", error) from error
        self.address = f"faiss:{address.place}"
        if address.collection:
            raise ValueError(
                f"{address.shown} names {address.collection!r}, but a file of FAISS is one index. Leave it out."
            )
        if not Path(address.place).is_file():
            raise ValueError(f"{self.address} is no file. Name the file that faiss.write_index wrote.")
        try:
            self._read = faiss.read_index(address.place)  # owns what the others point into
        except RuntimeError as error:
            raise ValueError(f"{self.address} cannot be read as an index: {error}") from error
        index: Any = faiss.downcast_index(self._read)
        self._index = index
        # IndexIDMap.reconstruct_n ends the process; the index inside does not.
        mapped = getattr(self._index, "id_map", None)
        self._flat: Any = self._index if mapped is None else faiss.downcast_index(self._index.index)
        numbers: NDArray[np.int64] = np.arange(self._index.ntotal) if mapped is None else faiss.vector_to_array(mapped)
        if not isinstance(self._flat, (faiss.IndexFlat, faiss.IndexHNSWFlat)):
            raise ValueError(
                f"{self.address} is a {type(self._flat).__name__}, which does not give its vectors out as they were. "
                "Use an IndexFlat or IndexHNSWFlat, or give the vectors as a table."
            )
        measures: dict[int, Metric] = {faiss.METRIC_INNER_PRODUCT: "dot", faiss.METRIC_L2: "euclidean"}
        if index.metric_type not in measures:
            raise ValueError(
                f"{self.address} compares by a measure of FAISS ({index.metric_type}) that is neither the inner "
                "product nor Euclidean, so it ranks as no model does. Make an index with one of these."
            )
        self._metric = measures[index.metric_type]
        self._names = self._read_names(address.options.get("ids"), numbers)

    @property
    def count(self) -> int:
        """N."""
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._index.d)

    @property
    def metric(self) -> Metric:
        """The index's metric; FAISS has no cosine, unit vectors with the dot product are one."""
        return self._metric

    def close(self) -> None:
        """Nothing is held that others would miss."""

    def ids(self) -> list[str]:
        """All ids."""
        return list(self._names)

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All vectors, in the order they were added."""
        for start in range(0, self.count, batch_size):
            vectors = self._flat.reconstruct_n(start, min(batch_size, self.count - start))
            yield Rows(self._names[start : start + len(vectors)], vectors, None)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The vectors with these ids."""
        missing = [name for name in ids if name not in self._rows]
        if missing:
            raise MissingDocuments(
                f"{self.address} has no vector for {len(missing)} of {len(ids)} ids, the first: {missing[:3]}. Name "
                "the documents' ids, one a line in the order they were added, with #?ids=FILE."
            )
        rows = [self._rows[name] for name in ids]
        vectors = [self._flat.reconstruct(row) for row in rows]
        return Rows(list(ids), np.asarray(vectors, dtype=np.float32).reshape(len(rows), self.dimension), None)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """FAISS's own search."""
        distances, rows = self._flat.search(np.ascontiguousarray(vectors), k)
        sign = 1 if self.metric == "dot" else -1
        there = rows >= 0
        return Hits(
            [[self._names[row] for row in line[kept]] for line, kept in zip(rows, there, strict=True)],
            [(sign * line[kept]).tolist() for line, kept in zip(distances, there, strict=True)],
        )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._names)}

    def _read_names(self, file: str | None, numbers: NDArray[Any]) -> list[str]:
        if file is None:
            return [str(number) for number in numbers.tolist()]
        try:
            # str.splitlines() would also cut at characters that stand within an id.
            names = Path(file).read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read as ids in UTF-8, one a line: {error}") from error
        if len(names) != self.count or len(set(names)) != len(names):
            raise ValueError(
                f"{file} has {len(names)} ids ({len(set(names))} different ones), but {self.address} holds "
                f"{self.count} vectors. Give one id a line, in the order the vectors were added."
            )
        return names
