"""Elasticsearch: ``elasticsearch:http://HOST:9200#INDEX``; the key from ELASTIC_API_KEY."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from st_adapter.stores.lucene import MOST_HITS, LuceneStore
from st_adapter.stores.store import Metric, extra_missing

_METRICS: dict[str, Metric] = {
    "cosine": "cosine",
    "dot_product": "dot",
    "max_inner_product": "dot",
    "l2_norm": "euclidean",
}
_KEEP_ALIVE = "10m"
# Since then a document comes without its vectors, unless they are asked for; before, to ask is an error.
_WITHOUT_VECTORS_FROM = (9, 2)
# Candidates of each shard: 1.5 k is the server's own default, which is few for a small k.
_LEAST_CANDIDATES = 100
_SECONDS = 60


class ElasticsearchStore(LuceneStore):
    """One index of Elasticsearch with a ``dense_vector`` field; see ``Store``.

    It was tried with the real client, but against a double of the server alone, which behaves as the documentation of
    Elasticsearch 9 says. The client wants a server of its own major version.
    """

    def _connect(self, place: str) -> None:
        try:
            import elasticsearch
        except ImportError as error:
            raise extra_missing("Elasticsearch", "elasticsearch", error) from error
        self._failures = (elasticsearch.ApiError, elasticsearch.TransportError)
        self._not_found = elasticsearch.NotFoundError
        self._secret = os.environ.get("ELASTIC_API_KEY")
        self._client = elasticsearch.Elasticsearch(self._url(place), api_key=self._secret, request_timeout=_SECONDS)

    @property
    def dimension(self) -> int:
        """D."""
        if "dims" not in self._settings:
            raise ValueError(f"{self.address} holds no vector. Fill the index first.")
        return int(self._settings["dims"])

    @property
    def metric(self) -> Metric:
        """How the field compares."""
        return _METRICS[self._similarity]

    @property
    def _similarity(self) -> str:
        return str(self._settings.get("similarity", "cosine"))

    @cached_property
    def _leaves_vectors_out(self) -> bool:
        version = self._ask(self._client.info)["version"]
        number = tuple(int(part) for part in version["number"].split(".")[:2])
        # Serverless has the newest behaviour under an old number.
        return number >= _WITHOUT_VECTORS_FROM or version.get("build_flavor") == "serverless"

    def _is_readable(self, settings: Mapping[str, Any]) -> bool:
        floats = settings.get("element_type", "float") in ("float", "bfloat16")
        return settings.get("type") == "dense_vector" and floats and settings.get("index", True) is not False

    def _source(self, fields: list[str]) -> Any:
        if self._vector in fields and self._leaves_vectors_out:
            return {"includes": fields, "exclude_vectors": False}
        return {"includes": fields} if fields else False

    def _hits(self, source: Any, size: int) -> Iterator[list[Any]]:
        opened = self._ask(self._client.open_point_in_time, index=self._index, keep_alive=_KEEP_ALIVE)
        pit, after = opened["id"], None
        try:
            while True:
                body = {
                    "query": self._with_vector,
                    "size": size,
                    "_source": source,
                    "pit": {"id": pit, "keep_alive": _KEEP_ALIVE},
                    "sort": [{"_shard_doc": "asc"}],
                    "track_total_hits": False,
                    **({} if after is None else {"search_after": after}),
                }
                answer = self._ask(self._client.search, body=body)
                pit, hits = answer.get("pit_id", pit), answer["hits"]["hits"]
                if not hits:
                    return
                after = hits[-1]["sort"]
                yield hits
        finally:
            # What stays open is closed by the server later.
            with suppress(*self._failures):
                self._client.close_point_in_time(id=pit)

    def _nearest(self, vector: Any, k: int) -> dict[str, Any]:
        # A field of this similarity takes unit vectors alone; the length of a query changes no order.
        query = vector / np.linalg.norm(vector) if self._similarity == "dot_product" else vector
        candidates = min(max(k + k // 2, _LEAST_CANDIDATES), MOST_HITS)
        return {
            "knn": {"field": self._vector, "query_vector": query.tolist(), "k": k, "num_candidates": candidates},
        }
