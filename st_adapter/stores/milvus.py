"""Milvus: ``milvus:FILE.db#COLLECTION`` (Milvus Lite) or ``milvus:http://HOST:PORT#COLLECTION``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from st_adapter.stores.store import (
    Address,
    Hits,
    Metric,
    Rows,
    Vectors,
    changed,
    extra_missing,
    in_order,
    lacks,
    text_field,
    unreachable,
    vector_field,
    whole_numbers,
)

_METRICS: dict[str, Metric] = {"COSINE": "cosine", "IP": "dot", "L2": "euclidean"}
_PAGE, _LOOKED_AT = 1024, 100
# The server inside Milvus Lite turns away clients while another one of the process has been idle ("too many pings").
_OPENINGS = 4


class MilvusStore:
    """One collection of Milvus; see ``Store``. The fields are the primary key and the only vector, unless named."""

    def __init__(self, address: Address) -> None:
        try:
            from pymilvus import DataType, MilvusClient, MilvusException
        except ImportError as error:
            raise extra_missing("Milvus", "milvus", error) from error
        self._name, self.address = address.required_collection(), address.shown
        remote = address.place.startswith(("http://", "https://"))
        # A client of a file that is not there would make one.
        if not remote and not Path(address.place).exists():
            raise ValueError(f"milvus:{address.place} is no file. Name the .db file of Milvus Lite, or a server's URL.")
        token = os.environ.get("MILVUS_TOKEN", "") if remote else ""
        for left in reversed(range(1 if remote else _OPENINGS)):
            try:
                self._client = MilvusClient(address.place, token=token)
                names = list(self._client.list_collections())
                break
            except MilvusException as error:
                if not left:
                    raise unreachable(address, error) from error
                time.sleep(1)
        try:
            self._look_at(address, names, DataType, remote)
        except BaseException:
            self._client.close()
            raise

    def _look_at(self, address: Address, names: list[str], types: Any, remote: bool) -> None:
        if self._name not in names:
            raise lacks(address.shown_place, "collection", self._name, names)
        if not remote:
            # What a file holds is loaded by each process that opens it; of a server that is its owner's choice.
            self._client.load_collection(self._name)
        described = self._client.describe_collection(self._name)
        fields = described["fields"]
        names = [each["name"] for each in fields]
        if described.get("enable_dynamic_field"):
            # Fields that no schema names: those of the first entities.
            first = self._client.query(self._name, filter="", output_fields=["*"], limit=_LOOKED_AT)
            names = list(dict.fromkeys([*names, *(name for entity in first for name in entity)]))
        self._text = text_field(names, address.options.get("text"), self.address)
        dense = (types.FLOAT_VECTOR, types.FLOAT16_VECTOR, types.BFLOAT16_VECTOR)
        vectors = {each["name"]: each for each in fields if each["type"] in dense}
        self._vector = vector_field(list(vectors), address.options.get("vector"), self.address)
        self._id = address.options.get("id") or next(each["name"] for each in fields if each.get("is_primary"))
        declared = [each["name"] for each in fields]
        if self._id not in declared:
            raise lacks(self.address, "field", self._id, declared, "with ?id=FIELD")
        self._size = int(vectors[self._vector]["params"]["dim"])
        self._quoted = next(each["type"] for each in fields if each["name"] == self._id) == types.VARCHAR

    @property
    def count(self) -> int:
        """N."""
        return int(self._client.query(self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    @property
    def dimension(self) -> int:
        """D."""
        return self._size

    @cached_property
    def metric(self) -> Metric:
        """How the collection's index compares."""
        index = self._client.describe_index(self._name, self._client.list_indexes(self._name, self._vector)[0])
        return _METRICS[index["metric_type"]]

    def close(self) -> None:
        """Let go of the database."""
        self._client.close()

    def ids(self) -> list[str]:
        """All ids."""
        return [str(entity[self._id]) for page in self._pages(_PAGE, [self._id]) for entity in page]

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All entities."""
        for page in self._pages(batch_size, self._fields):
            found = [self._row(entity) for entity in page]
            yield in_order([row[0] for row in found], found, self.address)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The entities with these ids."""
        found: list[Any] = []
        for start in range(0, len(ids), _PAGE):
            wanted: list[Any] = list(ids[start : start + _PAGE])
            wanted = wanted if self._quoted else whole_numbers(wanted)
            if wanted:
                found += self._client.query(self._name, filter=f"{self._id} in {wanted}", output_fields=self._fields)
        return in_order(ids, [self._row(entity) for entity in found], self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """Milvus's own search."""
        found = self._client.search(
            self._name, data=vectors.tolist(), limit=k, anns_field=self._vector, output_fields=[self._id]
        )
        sign = -1 if self.metric == "euclidean" else 1
        return Hits(
            [[str(hit["entity"][self._id]) for hit in hits] for hits in found],
            [[sign * float(hit["distance"]) for hit in hits] for hits in found],
        )

    def _pages(self, size: int, fields: list[str]) -> Iterator[list[Any]]:
        expected, read = self.count, 0
        iterator = self._client.query_iterator(self._name, batch_size=size, output_fields=fields)
        try:
            while batch := iterator.next():
                read += len(batch)
                yield list(batch)
        finally:
            iterator.close()
        if read != expected:
            raise changed(self.address, expected, read)

    @property
    def _fields(self) -> list[str]:
        return [self._id, self._vector, *([self._text] if self._text else [])]

    def _row(self, entity: Any) -> tuple[str, object, str | None]:
        return str(entity[self._id]), entity[self._vector], entity.get(self._text) if self._text else None
