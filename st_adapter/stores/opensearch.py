"""OpenSearch: ``opensearch:URL#INDEX``; user and password from OPENSEARCH_USER and OPENSEARCH_PASSWORD."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from st_adapter.stores.lucene import LuceneStore
from st_adapter.stores.store import Metric, extra_missing

_METRICS: dict[str, Metric] = {"cosinesimil": "cosine", "innerproduct": "dot", "l2": "euclidean"}
_KEEP_ALIVE = "10m"
_SECONDS = 60


class OpenSearchStore(LuceneStore):
    """One index of OpenSearch with a ``knn_vector`` field; see ``Store``.

    It was tried with the real client, but against a double of the server alone, which behaves as the documentation of
    OpenSearch 3 says.
    """

    def _connect(self, place: str) -> None:
        try:
            import opensearchpy
        except ImportError as error:
            raise extra_missing("OpenSearch", "opensearch", error) from error
        self._failures = (opensearchpy.OpenSearchException,)
        self._not_found = opensearchpy.NotFoundError
        self._secret = os.environ.get("OPENSEARCH_PASSWORD")
        user = os.environ.get("OPENSEARCH_USER")
        login = (user, self._secret or "") if user else None
        self._client = opensearchpy.OpenSearch(self._url(place), http_auth=login, timeout=_SECONDS)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._settings["dimension"])

    @cached_property
    def metric(self) -> Metric:
        """How the field compares."""
        name = self._settings.get("method", {}).get("space_type") or self._settings.get("space_type")
        if name is None:
            given = self._ask(self._client.indices.get_settings, index=self._index, params={"flat_settings": "true"})
            name = next(iter(given.values()))["settings"].get("index.knn.space_type", "l2")
        if name not in _METRICS:
            raise ValueError(f"{self.address} compares by {name}, but an adapter needs {', '.join(_METRICS)}.")
        return _METRICS[name]

    def _is_readable(self, settings: Mapping[str, Any]) -> bool:
        # A field made from a trained model has no dimension of its own.
        floats = settings.get("data_type", "float") == "float" and "dimension" in settings
        return settings.get("type") == "knn_vector" and floats

    def _source(self, fields: list[str]) -> Any:
        return {"includes": fields} if fields else False

    def _hits(self, source: Any, size: int) -> Iterator[list[Any]]:
        """By scroll: before 3.3 no order tells the documents of two shards apart, as search_after needs it."""
        body = {"query": self._with_vector, "size": size, "_source": source, "sort": ["_doc"]}
        answer = self._ask(self._client.search, index=self._index, body=body, params={"scroll": _KEEP_ALIVE})
        try:
            while hits := answer["hits"]["hits"]:
                yield hits
                following = {"scroll_id": answer["_scroll_id"], "scroll": _KEEP_ALIVE}
                answer = self._ask(self._client.scroll, body=following)
        finally:
            # What stays open is closed by the server later.
            with suppress(*self._failures):
                self._client.clear_scroll(body={"scroll_id": [answer["_scroll_id"]]})

    def _nearest(self, vector: Any, k: int) -> dict[str, Any]:
        return {"query": {"knn": {self._vector: {"vector": vector.tolist(), "k": k}}}}
