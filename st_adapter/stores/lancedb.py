"""LanceDB: ``lancedb:FOLDER#TABLE``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from st_adapter.stores.store import (
    Address,
    Hits,
    Metric,
    Rows,
    Vectors,
    as_id,
    changed,
    extra_missing,
    in_order,
    lacks,
    text_field,
    texts_of,
    vector_field,
    whole_numbers,
)

_METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "l2": "euclidean"}
_PAGE = 512


class LanceStore:
    """One table of LanceDB; see ``Store``. The columns are ``id`` and the only vector, unless named in the address."""

    def __init__(self, address: Address) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise extra_missing("LanceDB", "lancedb", error) from error
        address.required_collection()
        self.address = address.shown
        # Connecting to a folder that is not there would make one.
        if "://" not in address.place and not Path(address.place).is_dir():
            raise ValueError(f"lancedb:{address.place} is no folder. Name the folder that LanceDB was connected to.")
        database = lancedb.connect(address.place)
        names = list(database.list_tables().tables)
        if address.collection not in names:
            raise lacks(address.shown_place, "table", address.collection, names)
        self._table = database.open_table(address.collection)
        # The state of now, whatever is written meanwhile.
        self._table.checkout(self._table.version)
        schema = self._table.schema
        self._text = text_field(schema.names, address.options.get("text"), self.address)
        vectors = [column.name for column in schema if pyarrow.types.is_fixed_size_list(column.type)]
        self._vector = vector_field(vectors, address.options.get("vector"), self.address, usual="vector")
        self._id = address.options.get("id", "id")
        if self._id not in schema.names:
            raise lacks(self.address, "column", self._id, schema.names, "with ?id=COLUMN")
        self._quoted = pyarrow.types.is_string(schema.field(self._id).type) or pyarrow.types.is_large_string(
            schema.field(self._id).type
        )

    @property
    def count(self) -> int:
        """N."""
        return int(self._table.count_rows(self._there))

    @property
    def without_vector(self) -> int:
        """Rows that have no vector, and so are no documents."""
        return int(self._table.count_rows()) - self.count

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._table.schema.field(self._vector).type.list_size)

    @cached_property
    def metric(self) -> Metric:
        """How the table's index compares; without one, a search names its own and LanceDB's default is Euclidean."""
        for index in self._table.list_indices():
            if self._vector in index.columns:
                return _METRICS[self._table.index_stats(index.name).distance_type]
        return "euclidean"

    def close(self) -> None:
        """Nothing is held that others would miss."""

    def ids(self) -> list[str]:
        """All ids."""
        found = self._table.search().where(self._there).select([self._id]).to_arrow()
        return [as_id(name, self.address) for name in found[self._id].to_pylist()]

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All rows."""
        expected, read = self.count, 0
        for batch in self._table.search().where(self._there).select(self._columns).to_batches(batch_size):
            if len(batch):
                read += len(batch)
                yield self._rows(batch)
        if read != expected:
            raise changed(self.address, expected, read)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The rows with these ids."""
        found: list[tuple[str, object, str | None]] = []
        for start in range(0, len(ids), _PAGE):
            wanted = ids[start : start + _PAGE]
            quoted = ["'{}'".format(name.replace("'", "''")) for name in wanted]
            values = ", ".join(quoted if self._quoted else map(str, whole_numbers(wanted)))
            if not values:
                continue
            here = f"`{self._id}` IN ({values}) AND {self._there}"
            rows = self._rows(self._table.search().where(here).select(self._columns).limit(len(wanted)).to_arrow())
            texts: Sequence[str | None] = rows.texts or [None] * len(rows.ids)
            found += list(zip(rows.ids, rows.vectors, texts, strict=True))
        return in_order(ids, found, self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """LanceDB's own search."""
        ids, scores = [], []
        for vector in vectors:
            query = self._table.search(vector, vector_column_name=self._vector)
            query = query.distance_type({"cosine": "cosine", "dot": "dot", "euclidean": "l2"}[self.metric])
            found = query.select([self._id, "_distance"]).limit(k).to_arrow()
            ids.append([str(name) for name in found[self._id].to_pylist()])
            scores.append([1 - distance for distance in found["_distance"].to_pylist()])
        return Hits(ids, scores)

    @property
    def _there(self) -> str:
        """A row without a vector is no document."""
        return f"`{self._vector}` IS NOT NULL"

    @property
    def _columns(self) -> list[str]:
        return [self._id, self._vector, *([self._text] if self._text else [])]

    def _rows(self, table: Any) -> Rows:
        column = table[self._vector]
        column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        vectors = np.asarray(column.flatten(), dtype=np.float32).reshape(len(table), self.dimension)
        texts = texts_of(table[self._text].to_pylist()) if self._text else None
        return Rows([str(name) for name in table[self._id].to_pylist()], vectors, texts)
