"""What Elasticsearch and OpenSearch have in common: an index, whose documents are read over HTTP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from st_adapter.errors import without_secrets
from st_adapter.stores.store import (
    Address,
    Hits,
    Metric,
    Rows,
    Vectors,
    changed,
    in_order,
    lacks,
    text_field,
    vector_field,
)

# Neither server gives more for one request.
MOST_HITS = 10_000
_PAGE, _IDS_AT_ONCE = 256, 4096
# Fields whose values are cut into words, so that only a keyword in them finds a whole value.
_CUT_INTO_WORDS = ("text", "match_only_text", "search_as_you_type")


class LuceneStore(ABC):
    """One index with a field of vectors; see ``Store``.

    Ids are the documents' ``_id``; ``?id=FIELD`` takes them from a field. The vectors are in the only field of vectors,
    unless ``?vector=FIELD`` names one. What is read is the state of one moment, whatever is written meanwhile.

    Args:
        address: its place is ``http://HOST:PORT`` or ``https://HOST:PORT``.
    """

    def __init__(self, address: Address) -> None:
        # Set by _connect, as those of the client.
        self._client: Any
        self._failures: tuple[type[Exception], ...]
        self._not_found: type[Exception]
        self._secret: str | None
        self._server = f"{address.scheme}:{without_secrets(address.place)}"
        self.address = f"{self._server}#{address.required_collection()}"
        self._index = address.collection
        self._connect(address.place)
        try:
            self._look_at(address.options)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _connect(self, place: str) -> None:
        """Make the client, with its secrets from the environment."""

    @abstractmethod
    def _is_readable(self, settings: Mapping[str, Any]) -> bool:
        """Whether a field of the mapping holds vectors of floats that can be searched."""

    @abstractmethod
    def _source(self, fields: list[str]) -> Any:
        """How these fields of a document are asked for."""

    @abstractmethod
    def _hits(self, source: Any, size: int) -> Iterator[list[Any]]:
        """All documents with a vector, ``size`` at a time."""

    @abstractmethod
    def _nearest(self, vector: Any, k: int) -> dict[str, Any]:
        """The request for the k documents nearest to (D,) floats."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """How the field compares."""

    @property
    def count(self) -> int:
        """N, documents with a vector."""
        return int(self._ask(self._client.count, index=self._index, body={"query": self._with_vector})["count"])

    @property
    def without_vector(self) -> int:
        """Documents that have no vector, and so do not count."""
        everything: dict[str, Any] = {"query": {"match_all": {}}}
        return int(self._ask(self._client.count, index=self._index, body=everything)["count"]) - self.count

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def ids(self) -> list[str]:
        """All ids."""
        return [self._name(hit) for page in self._pages(self._source(self._id_fields), _IDS_AT_ONCE) for hit in page]

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All documents."""
        for page in self._pages(self._source(self._all_fields), min(batch_size, MOST_HITS)):
            found = [self._row(hit) for hit in page]
            yield in_order([row[0] for row in found], found, self.address)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The documents with these ids."""
        found: list[Any] = []
        for start in range(0, len(ids), _PAGE):
            wanted = list(dict.fromkeys(ids[start : start + _PAGE]))
            named = {"terms": {self._exact: wanted}} if self._exact else {"ids": {"values": wanted}}
            query = {"bool": {"filter": [named, self._with_vector]}}
            body = {"query": query, "size": len(wanted), "_source": self._source(self._all_fields)}
            found += self._ask(self._client.search, index=self._index, body=body)["hits"]["hits"]
        return in_order(ids, [self._row(hit) for hit in found], self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """The server's own search, of at most 10,000 documents; scores are its ``_score``."""
        size, hits = min(k, MOST_HITS), Hits([], [])
        for vector in vectors:
            body = {"size": size, "_source": self._source(self._id_fields), **self._nearest(vector, size)}
            found = self._ask(self._client.search, index=self._index, body=body)["hits"]["hits"]
            hits.ids.append([self._name(hit) for hit in found])
            # How a server makes them from the similarity depends on its version, but not their order.
            hits.scores.append([float(hit["_score"]) for hit in found])
        return hits

    def _look_at(self, options: Mapping[str, str]) -> None:
        fields = _leaves(self._mapping().get("properties", {}))
        vectors = [name for name, settings in fields.items() if self._is_readable(settings)]
        self._vector = vector_field(vectors, options.get("vector"), self.address, usual="embedding")
        self._settings = fields[self._vector]
        self._text = text_field(fields, options.get("text"), self.address)
        self._id = options.get("id")
        if self._id is not None and self._id not in fields:
            raise lacks(self.address, "field", self._id, list(fields), "with ?id=FIELD")
        self._exact = None if self._id is None else self._exact_name(self._id, fields[self._id])

    def _mapping(self) -> dict[str, Any]:
        try:
            indices = self._client.indices.get_mapping(index=self._index)
        except self._not_found:
            indices = {}
        except self._failures as error:
            raise self._failed(error) from None
        if not indices:
            names = self._ask(self._client.indices.get_alias, index="*")
            there = sorted(name for name in names if not name.startswith("."))
            raise lacks(self._server, "index", self._index, there)
        if len(indices) > 1:
            raise ValueError(
                f"{self.address} names {len(indices)} indices, the first: {sorted(indices)[:3]}. Name one of them: ids "
                "are those of one index."
            )
        mapping: dict[str, Any] = next(iter(indices.values()))["mappings"]
        return mapping

    def _exact_name(self, name: str, settings: Mapping[str, Any]) -> str:
        if settings.get("type") not in _CUT_INTO_WORDS:
            return name
        keyword = (part for part, how in settings.get("fields", {}).items() if how.get("type") == "keyword")
        exact = next(keyword, None)
        if exact is None:
            raise ValueError(
                f"{self.address} cuts the values of {name!r} into words, so that no document is found by it. Name a "
                "field of type keyword with ?id=FIELD, or leave it out to take _id."
            )
        return f"{name}.{exact}"

    def _pages(self, source: Any, size: int) -> Iterator[list[Any]]:
        expected, read = self.count, 0
        for page in self._hits(source, size):
            read += len(page)
            yield page
        if read != expected:
            raise changed(self.address, expected, read)

    @property
    def _with_vector(self) -> dict[str, Any]:
        return {"exists": {"field": self._vector}}

    @property
    def _id_fields(self) -> list[str]:
        return [] if self._id is None else [self._id]

    @property
    def _all_fields(self) -> list[str]:
        return [*self._id_fields, self._vector, *([self._text] if self._text else [])]

    def _name(self, hit: Any) -> str:
        name = hit["_id"] if self._id is None else _value(hit.get("_source", {}), self._id)
        if name is None or isinstance(name, list):
            raise ValueError(
                f"{self.address} has the document {hit['_id']!r} with {name} in its field {self._id!r}, where one id "
                "is expected. Name another field with ?id=FIELD, or leave it out to take _id."
            )
        return str(name)

    def _row(self, hit: Any) -> tuple[str, object, str | None]:
        source = hit.get("_source", {})
        vector = _value(source, self._vector)
        if not isinstance(vector, list):
            raise ValueError(
                f"{self.address} does not give the vector of {hit['_id']!r} out as numbers: the index keeps no _source,"
                f" or one without {self._vector!r}, or the vectors as they were sent, in base64. Make an index that "
                "keeps them as numbers, or give the vectors as a table."
            )
        text = _value(source, self._text) if self._text else None
        return self._name(hit), vector, text

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """What the server answers, if it is whole."""
        try:
            given = call(**arguments)
        except self._failures as error:
            raise self._failed(error) from None
        answer = getattr(given, "body", given)
        failed = answer.get("_shards", {}).get("failed", 0)
        if failed or answer.get("timed_out"):
            raise ConnectionError(
                f"{self.address} answered in part: {failed} shards failed, {'' if answer.get('timed_out') else 'not '}"
                "out of time. Run again when the cluster is well, since documents would be missing."
            )
        return answer

    def _failed(self, error: Exception) -> ConnectionError:
        reason = without_secrets(str(error), [self._secret]).strip()
        return ConnectionError(
            f"{self.address} cannot be read: {reason}. Start the server, or check its address, what the environment "
            "says of key or user, and that client and server are of one major version."
        )

    def _url(self, place: str) -> str:
        """The place, if it is the URL of a server and no secret is in it."""
        url = urlsplit(place)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{self._server} is no server. Give its URL, like http://localhost:9200.")
        if "@" in url.netloc:
            raise ValueError(
                f"{self._server} names a user, but user, password and key are taken from the environment alone. Leave "
                "out what stands before the @."
            )
        return place


def _leaves(properties: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Name -> settings of all fields, those in objects too."""
    found: dict[str, Any] = {}
    for name, settings in properties.items():
        # What is nested are many small documents in one.
        if settings.get("type") == "nested":
            continue
        inner = settings.get("properties")
        found |= {f"{above}{name}": settings} if inner is None else _leaves(inner, f"{above}{name}.")
    return found


def _value(source: Mapping[str, Any], path: str) -> Any:
    """What a document has in a field; ``a.b`` may be a key of its own, or b in a."""
    if path in source:
        return source[path]
    head, _, rest = path.partition(".")
    return _value(source[head], rest) if rest and isinstance(source.get(head), dict) else None
