"""Chroma: ``chroma:FOLDER#COLLECTION`` or ``chroma:http://HOST:PORT#COLLECTION``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

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
    unreachable,
)

_METRICS: dict[str, Metric] = {"cosine": "cosine", "ip": "dot", "l2": "euclidean"}


class ChromaStore:
    """One collection of Chroma; see ``Store``.

    Of a folder a copy is opened, which is removed at the end: Chroma's client writes into what it opens, be it for
    reading only.
    """

    def __init__(self, address: Address) -> None:
        try:
            import chromadb
        except ImportError as error:
            raise extra_missing("Chroma", "chroma", error) from error
        address.required_collection()
        self.address = address.shown
        self._copy = None if _is_url(address.place) else _copied(address.place)
        self._client: Any = (
            _of_server(chromadb, address) if self._copy is None else chromadb.PersistentClient(path=self._copy.name)
        )
        try:
            self._look_at(address)
        except BaseException:
            self.close()
            raise

    def _look_at(self, address: Address) -> None:
        names = [collection.name for collection in self._client.list_collections()]
        if address.collection not in names:
            raise lacks(address.shown_place, "collection", address.collection, names)
        # Without this, opening a collection attaches an embedding function that downloads a model.
        self._collection = self._client.get_collection(address.collection, embedding_function=None)

    @property
    def count(self) -> int:
        """N."""
        return int(self._collection.count())

    @cached_property
    def dimension(self) -> int:
        """D."""
        return int(np.shape(self._collection.get(limit=1, include=["embeddings"])["embeddings"])[1])

    @cached_property
    def metric(self) -> Metric:
        """How the collection compares."""
        settings = self._collection.configuration_json
        space = (settings.get("hnsw") or settings.get("spann") or {}).get("space", "l2")
        return _METRICS[space]

    def close(self) -> None:
        """Remove the copy of a folder."""
        self._client = self._collection = None
        if self._copy is not None:
            self._copy.cleanup()

    def ids(self) -> list[str]:
        """All ids."""
        return list(self._collection.get(include=[])["ids"])

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All documents; ids first, because pages by offset skip documents when others are deleted meanwhile."""
        ids = self.ids()
        for start in range(0, len(ids), batch_size):
            wanted = ids[start : start + batch_size]
            found = self._found(wanted)
            if len(found) < len(wanted):
                raise changed(self.address, len(ids), start + len(found))
            yield in_order(wanted, found, self.address)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The documents with these ids."""
        return in_order(ids, self._found(list(ids)), self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """Chroma's own search."""
        found = self._collection.query(query_embeddings=vectors, n_results=k, include=["distances"])
        # 1 - similarity, or a squared distance: smaller is nearer.
        return Hits(found["ids"], [[1 - distance for distance in row] for row in found["distances"]])

    def _found(self, ids: list[str]) -> list[tuple[str, object, str | None]]:
        if not ids:
            return []
        found = self._collection.get(ids=list(dict.fromkeys(ids)), include=["embeddings", "documents"])
        return list(zip(found["ids"], found["embeddings"], found["documents"], strict=True))


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _copied(place: str) -> tempfile.TemporaryDirectory[str]:
    # A client of a folder that is not there would make one.
    if not (Path(place) / "chroma.sqlite3").is_file():
        raise ValueError(f"chroma:{place} is no folder that Chroma wrote: there is no chroma.sqlite3 in it.")
    copy = tempfile.TemporaryDirectory(prefix="st-adapter-chroma-", ignore_cleanup_errors=True)
    needed = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    free = shutil.disk_usage(copy.name).free
    if needed > free:
        copy.cleanup()
        raise ValueError(
            f"chroma:{place} is read from a copy of its {needed / 1e9:.1f} GB, because Chroma writes into what it "
            f"opens; {copy.name} has {free / 1e9:.1f} GB. Name a larger place with TMPDIR."
        )
    shutil.copytree(place, copy.name, dirs_exist_ok=True)
    return copy


def _of_server(chromadb: Any, address: Address) -> Any:
    url = urlsplit(address.place)
    try:
        return chromadb.HttpClient(host=url.hostname, port=url.port or 8000, ssl=url.scheme == "https")
    except (ValueError, chromadb.errors.ChromaError) as error:
        raise unreachable(address, error) from error
