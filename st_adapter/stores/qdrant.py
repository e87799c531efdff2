"""Qdrant: ``qdrant:FOLDER#COLLECTION`` or ``qdrant:http://HOST:PORT#COLLECTION``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from st_adapter.stores.store import (
    TEXT_FIELDS,
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
    unreachable,
    vector_field,
    whole_numbers,
)

_METRICS: dict[str, Metric] = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclidean"}
_PAGE, _IDS_AT_ONCE = 256, 4096


class QdrantStore:
    """One collection of Qdrant; see ``Store``.

    Ids are the points' own; ``?id=FIELD`` takes them from the payload, ``?id=metadata.FIELD`` from deeper in it. Of
    several vectors ``?vector=NAME`` chooses one, and points without it are no documents.
    """

    def __init__(self, address: Address) -> None:
        try:
            import qdrant_client
        except ImportError as error:
            raise extra_missing("Qdrant", "qdrant", error) from error
        self._models = qdrant_client.models
        self._name, self._options = address.required_collection(), address.options
        self.address = address.shown
        self._client = _client(qdrant_client, address.place)
        try:
            self._look_at(address)
        except qdrant_client.http.exceptions.ApiException as error:
            self._client.close()
            raise unreachable(address, error) from error
        except BaseException:
            self._client.close()
            raise

    def _look_at(self, address: Address) -> None:
        names = [collection.name for collection in self._client.get_collections().collections]
        if self._name not in names:
            raise lacks(address.shown_place, "collection", self._name, names)
        given = self._client.get_collection(self._name).config.params.vectors
        named = given if isinstance(given, dict) else {"": given}
        self._vector = vector_field(list(named), self._options.get("vector"), self.address)
        self._settings = named[self._vector]

    @property
    def count(self) -> int:
        """N."""
        return int(self._client.count(self._name, count_filter=self._filter(), exact=True).count)

    @property
    def without_vector(self) -> int:
        """Rows that have no vector, and so are no documents."""
        return int(self._client.count(self._name, exact=True).count) - self.count

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._settings.size)

    @property
    def metric(self) -> Metric:
        """How the collection compares."""
        name = self._settings.distance.value
        if name not in _METRICS:
            raise ValueError(f"{self.address} compares by {name}, but an adapter needs cosine, dot or Euclid.")
        return _METRICS[name]

    @cached_property
    def _text(self) -> str | None:
        first, _ = self._client.scroll(self._name, limit=_PAGE, with_payload=True)
        fields = dict.fromkeys(name for point in first for name in point.payload or {})
        # A payload has no schema, so that fields which the first points lack are looked for by name.
        named = self._options.get("text")
        wanted = TEXT_FIELDS if named is None else (named,)
        further = [] if any(name in fields for name in wanted) else filter(self._has, wanted)
        return text_field([*fields, *further], named, self.address)

    def _has(self, field: str) -> bool:
        """Whether a point has this in its payload."""
        empty = self._models.IsEmptyCondition(is_empty=self._models.PayloadField(key=field))
        found, _ = self._client.scroll(self._name, scroll_filter=self._models.Filter(must_not=[empty]), limit=1)
        return bool(found)

    def close(self) -> None:
        """Let go of the database."""
        self._client.close()

    def ids(self) -> list[str]:
        """All ids."""
        return [
            self._id(point)
            for page in self._pages(_IDS_AT_ONCE, vectors=False, payload=self._by_payload)
            for point in page
        ]

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All points, page by page in the order of their ids."""
        for page in self._pages(batch_size, vectors=self._wanted, payload=True):
            found = [self._row(point) for point in page]
            yield in_order([row[0] for row in found], found, self.address)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The points with these ids."""
        found: list[Any] = []
        for start in range(0, len(ids), _PAGE):
            found += self._points(list(ids[start : start + _PAGE]))
        return in_order(ids, [self._row(point) for point in found], self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """Qdrant's own search."""
        requests = [
            self._models.QueryRequest(
                query=vector.tolist(), limit=k, using=self._vector or None, with_payload=self._by_payload or False
            )
            for vector in vectors
        ]
        answers = [answer.points for answer in self._client.query_batch_points(self._name, requests)]
        # A Euclidean distance is smaller where it is better.
        sign = -1 if self.metric == "euclidean" else 1
        return Hits(
            [[self._id(point) for point in points] for points in answers],
            [[sign * point.score for point in points] for points in answers],
        )

    def _pages(self, size: int, vectors: Any, payload: Any) -> Iterator[list[Any]]:
        expected, read, offset = self.count, 0, None
        while True:
            points, offset = self._client.scroll(
                self._name,
                scroll_filter=self._filter(),
                limit=size,
                offset=offset,
                with_vectors=vectors,
                with_payload=payload or False,
            )
            read += len(points)
            if points:
                yield list(points)
            if offset is None:
                break
        if read != expected:
            raise changed(self.address, expected, read)

    @property
    def _wanted(self) -> Any:
        return [self._vector] if self._vector else True

    @property
    def _by_payload(self) -> list[str]:
        return [self._options["id"]] if "id" in self._options else []

    def _points(self, ids: list[str]) -> list[Any]:
        common = {"with_vectors": self._wanted, "with_payload": True}
        if "id" not in self._options:
            points = [point for point in map(_point_id, ids) if point is not None]
            found = self._client.retrieve(self._name, points, **common)
            return [point for point in found if not self._vector or self._vector in point.vector]
        # What is written as a number is none but for who asks for a number.
        alike = [self._models.MatchAny(any=values) for values in (ids, whole_numbers(ids)) if values]
        matches = [self._models.FieldCondition(key=self._options["id"], match=match) for match in alike]
        points, _ = self._client.scroll(self._name, scroll_filter=self._filter(matches), limit=len(ids), **common)
        return list(points)

    def _filter(self, one_of: Sequence[Any] = ()) -> Any:
        """Points that have the vector, and meet one of some conditions."""
        vector = [self._models.HasVectorCondition(has_vector=self._vector)] if self._vector else None
        return self._models.Filter(must=vector, should=list(one_of) or None) if vector or one_of else None

    def _row(self, point: Any) -> tuple[str, object, str | None]:
        vector = point.vector[self._vector] if self._vector else point.vector
        text = (point.payload or {}).get(self._text) if self._text else None
        return self._id(point), vector, text

    def _id(self, point: Any) -> str:
        if "id" not in self._options:
            return str(point.id)
        found: Any = point.payload or {}
        for name in self._options["id"].split("."):
            if not isinstance(found, dict) or name not in found:
                raise ValueError(
                    f"{self.address} has no {self._options['id']!r} in the payload of point {point.id}, only "
                    f"{sorted(point.payload or {})}. Name a field that all points have with ?id=FIELD, or leave it out "
                    "to use the points' own ids."
                )
            found = found[name]
        return as_id(found, self.address)


def _point_id(name: str) -> int | str | None:
    """A point's id, which is a number or a UUID; None for a text that can be neither."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return str(UUID(name))
    except ValueError:
        return None


def _client(qdrant_client: Any, place: str) -> Any:
    if place.startswith(("http://", "https://")):
        # Whether the server answers shows at once; the client would ask in a thread of its own, and only warn.
        key = os.environ.get("QDRANT_API_KEY")
        return qdrant_client.QdrantClient(url=place, api_key=key, check_compatibility=False)
    # A client of a folder that is not there would make one.
    if not (Path(place) / "meta.json").is_file():
        raise ValueError(f"qdrant:{place} is no folder that Qdrant's client wrote: there is no meta.json in it.")
    try:
        return qdrant_client.QdrantClient(path=place)
    except RuntimeError as error:
        raise ValueError(
            f"qdrant:{place} is open elsewhere, and Qdrant's local mode lets one client in: {error}"
        ) from error
