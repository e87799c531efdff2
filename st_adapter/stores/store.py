"""What every vector database can do for us, and the address by which a user names one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from urllib.parse import parse_qsl
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from st_adapter.errors import without_secrets

Metric = Literal["cosine", "dot", "euclidean"]
Vectors = NDArray[np.float32]

# Names under which frameworks keep the text of a document beside its vector.
TEXT_FIELDS = ("text", "document", "page_content", "content", "chunk", "body")


class Rows(NamedTuple):
    """Some documents of a store.

    Attributes:
        ids: n ids, as strings.
        vectors: (n, D) float32, as stored.
        texts: n texts, empty where a document has none; None if none of these has one.
    """

    ids: list[str]
    vectors: Vectors
    texts: list[str] | None


class Hits(NamedTuple):
    """What a store finds for some queries.

    Attributes:
        ids: for every query up to k ids, the best first.
        scores: for every query as many similarities, higher is better.
    """

    ids: list[list[str]]
    scores: list[list[float]]


class Store(Protocol):
    """One collection of a vector database, opened for reading.

    Attributes:
        address: what was opened, without secrets.
        count: N, documents with a vector.
        dimension: D.
        metric: how the store compares; ``euclidean`` orders unit vectors as the cosine does.
    """

    address: str

    @property
    def count(self) -> int:
        """N."""

    @property
    def dimension(self) -> int:
        """D."""

    @property
    def metric(self) -> Metric:
        """How the store compares."""

    def ids(self) -> list[str]:
        """The N ids, without their vectors.

        Raises:
            ValueError: the store was written to meanwhile.
        """

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All documents, in an order of the store's, at most ``batch_size`` at a time; each once."""

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The documents with these ids, in this order.

        Raises:
            MissingDocuments: the store lacks some; their number and the first three are named.
        """

    def search(self, vectors: Vectors, k: int) -> Hits:
        """The store's own search with (Q, D) query vectors."""

    def close(self) -> None:
        """Let go of the database, which some let only one process open."""


@dataclass(frozen=True)
class Address:
    """``scheme:place#collection?option=value``: one string for a collection, as it is given on the command line.

    Attributes:
        scheme: ``chroma``, ``qdrant``, ``lancedb``, ``postgresql``, ``milvus``, ``faiss`` and so on.
        place: folder, file or URL.
        collection: collection, table or index; empty where a place holds one alone.
        options: names of the fields that hold id, vector and text, where they are not the usual ones.

    Examples:
        >>> Address.parse("lancedb:vectors#docs?text=body")
        Address(scheme='lancedb', place='vectors', collection='docs', options={'text': 'body'})
    """

    scheme: str
    place: str
    collection: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: str) -> Address:
        """Take an address apart.

        Raises:
            ValueError: it has no scheme, or an option twice.
        """
        scheme, colon, rest = address.partition(":")
        place, _, collection = rest.partition("#")
        collection, _, options = collection.partition("?")
        shown = without_secrets(address)
        if not colon or not place:
            raise ValueError(
                f"{shown!r} is no address of a vector store. Give one like chroma:FOLDER#COLLECTION or "
                "postgresql://USER@HOST/DATABASE#TABLE."
            )
        pairs = parse_qsl(options, keep_blank_values=True)
        named = dict(pairs)
        for name, _ in pairs:
            if [each for each, _ in pairs].count(name) > 1:
                raise ValueError(f"{shown!r} has the option {name!r} twice. Leave one of them out.")
        return cls(scheme, place, collection, named)

    def check_options(self, taken: Sequence[str]) -> None:
        """Check that all options are some that the store heeds.

        Raises:
            ValueError: one is not; it would change nothing.
        """
        for name in self.options:
            if name not in taken:
                *others, last = taken or ("none",)
                choice = f"{', '.join(others)} and {last}" if others else last
                raise ValueError(
                    f"{self.shown} came with the option {name!r}, but {self.scheme} takes {choice}. Leave it out."
                )

    @property
    def shown_place(self) -> str:
        """Scheme and place without secrets, for messages and records."""
        return without_secrets(f"{self.scheme}:{self.place}")

    @property
    def shown(self) -> str:
        """Scheme, place and collection without secrets.

        Examples:
            >>> Address.parse("qdrant:https://me:password@host#docs").shown
            'qdrant:https://***@host#docs'
        """
        return f"{self.shown_place}#{self.collection}" if self.collection else self.shown_place

    def required_collection(self) -> str:
        """The collection.

        Raises:
            ValueError: none is named.
        """
        if not self.collection:
            raise ValueError(f"{self.shown_place} names no collection. Add it: {self.shown_place}#COLLECTION.")
        return self.collection


class MissingDocuments(ValueError):
    """A store does not have the documents that it was asked for."""


def in_order(ids: Sequence[str], found: Iterable[tuple[str, object, str | None]], address: str) -> Rows:
    """Rows in the order of the ids asked for, from (id, vector, text) in any order.

    Raises:
        MissingDocuments: some ids were not found.
    """
    by_id = {name: (vector, text) for name, vector, text in found}
    missing = [name for name in ids if name not in by_id]
    if missing:
        raise MissingDocuments(
            f"{address} has no document for {len(missing)} of {len(ids)} ids, the first: {missing[:3]}. Check that the "
            "labels name documents of this collection, or name the field that holds their ids with ?id=FIELD."
        )
    vectors = np.asarray([by_id[name][0] for name in ids], dtype=np.float32)
    texts = [by_id[name][1] for name in ids]
    return Rows(list(ids), vectors, texts_of(texts))


def texts_of(texts: Sequence[object]) -> list[str] | None:
    """Texts of which some may be missing, as ``Rows`` has them.

    Examples:
        >>> texts_of(["a", None]), texts_of([None, None])
        (['a', ''], None)
    """
    if all(text is None for text in texts):
        return None
    return ["" if text is None else str(text) for text in texts]


def whole_numbers(ids: Iterable[str]) -> list[int]:
    """Those of some ids that are whole numbers of 64 bits, for a store whose ids are: no other can be there.

    Examples:
        >>> whole_numbers(["7", "-1", "x", "1.5", str(2**70)])
        [7, -1]
    """
    numbers = (int(name) for name in ids if re.fullmatch(r"-?[0-9]{1,19}", name))
    return [number for number in numbers if -(2**63) <= number < 2**63]


def text_field(names: Iterable[str], given: str | None, address: str) -> str | None:
    """The field that holds the text: the one that was named, else the first usual one there is.

    Raises:
        ValueError: the named field is not there.
    """
    there = list(names)
    if given is not None and given not in there:
        raise ValueError(f"{address} has no field {given!r}, only {there}. Name one of these with ?text=FIELD.")
    return given or next((name for name in TEXT_FIELDS if name in there), None)


def vector_field(there: Sequence[str], given: str | None, address: str, usual: str | None = None) -> str:
    """The field that holds the vector: the one that was named, the only one, or the usual one of several.

    Raises:
        ValueError: the named field is not there, there is none, or several and none of them is named.
    """
    if given is not None and given not in there:
        raise lacks(address, "searchable field of float vectors", given, there, "with ?vector=FIELD")
    if not there:
        raise ValueError(f"{address} has no searchable field of float vectors. Name another collection.")
    found = given or (there[0] if len(there) == 1 else usual)
    if found is None or found not in there:
        raise ValueError(f"{address} has several vectors, {list(there)}. Name one of them with ?vector=FIELD.")
    return found


def as_id(value: object, address: str) -> str:
    """An id of a store as text.

    Raises:
        ValueError: it is neither a text nor a whole number.

    Examples:
        >>> as_id(7, "chroma:folder#docs")
        '7'
    """
    if isinstance(value, str | int | UUID) and not isinstance(value, bool):
        return str(value)
    raise ValueError(
        f"{address} has a document with the id {value!r}, but a text or a whole number is expected. Name a field that "
        "holds one in all documents with ?id=FIELD."
    )


def changed(address: str, expected: int, found: int) -> ValueError:
    """The error of a store that is written to while it is read."""
    return ValueError(
        f"{address} held {expected} documents when reading began and {found} were read, so it was changed meanwhile. "
        "Read it again when nothing writes to it."
    )


def unreachable(address: Address, error: Exception) -> ConnectionError:
    """The error of a server that does not answer, or lets nobody in."""
    reason = " ".join(without_secrets(str(error)).split()).rstrip(".")
    return ConnectionError(
        f"{address.shown} cannot be reached: {reason}. Start the server, or check host, port, name and key."
    )


def lacks(address: str, kind: str, name: str, there: Sequence[str], where: str = "after the #") -> ValueError:
    """The error of a collection or field that does not exist; ``where`` it is named in an address."""
    return ValueError(f"{address} has no {kind} {name!r}, only {list(there)[:10]}. Name one of these {where}.")


def extra_missing(store: str, extra: str, error: ImportError) -> ImportError:
    """The error of a client that is not installed."""
    return ImportError(
        f"Reading {store} needs its client, which is not installed ({error}). Install it with: "
        f"pip install 'st-adapter[{extra}]'"
    )
