"""Elasticsearch and OpenSearch in memory, for tests: as much of their HTTP interface as reading an index needs.

It behaves as the documentation of Elasticsearch 9 and of OpenSearch 3 says: what they refuse is refused, an unknown
part of a request too, and whatever is no reading is answered with 405. Searches are exact, and an index has two shards.
"""

from __future__ import annotations

import base64
import fnmatch
import itertools
import json
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lucene_double.documents import (
    SHARDS,
    Json,
    Refused,
    mapped,
    matches,
    only_keys,
    score_of,
    shard_doc,
    shown,
    value_of,
)
from served import Served

_MOST_HITS = 10_000


class LuceneServer(Served):
    """The server, in a thread, on a free port of the loopback device.

    Attributes:
        url: its address.
        indices: name -> settings, mappings and documents by id.
        aliases: alias -> names of indices.
        requests: method and path of every request.
        authorization: the header that is asked for; none if None.
        failing_shards: how many shards answer nothing.
    """

    def __init__(self, kind: str, version: str, flavor: str = "default") -> None:
        self.kind, self.version, self.flavor = kind, version, flavor
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.indices: dict[str, Json] = {}
        self.aliases: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.authorization: str | None = None
        self.failing_shards = 0
        self._open: dict[str, Json] = {}  # points in time and scrolls: the documents they saw, and where they are
        self._numbers = itertools.count()

    @property
    def num_open(self) -> int:
        """Points in time and scrolls that nobody closed."""
        return len(self._open)

    @property
    def reads(self) -> set[str]:
        """What was asked for, without names of indices."""
        return {f"{method} {path[path.find('_') :] if '_' in path else path}" for method, path in self.requests}

    def forget_contexts(self) -> None:
        """As if all that is open had expired."""
        self._open.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        body = await request.body()
        self.requests.append((request.method, request.url.path))
        status, headers = 200, {"x-elastic-product": "Elasticsearch"} if self.kind == "elasticsearch" else {}
        try:
            self._check(request)
            answer = self._answer(request, json.loads(body) if body else {})
        except Refused as error:
            status = error.status
            cause = {"type": error.kind, "reason": str(error)}
            answer = {"error": {"root_cause": [cause], **cause}, "status": status}
        media = request.headers.get("accept", "application/json").split(",")[0]
        media = media if media.startswith("application/") else "application/json"
        await Response(json.dumps(answer), status, headers, media_type=media)(scope, receive, send)

    def _check(self, request: Request) -> None:
        given = request.headers.get("authorization")
        if self.authorization is not None and given != self.authorization:
            raise Refused(401, "security_exception", f"unable to authenticate with [{_plain(given)}]")
        major, accept = int(self.version.split(".")[0]), request.headers.get("accept", "")
        if self.kind == "elasticsearch" and f"compatible-with={major}" not in accept:
            raise Refused(400, "media_type_header_exception", f"Invalid media-type value on headers [Accept]: {accept}")

    def _answer(self, request: Request, body: Json) -> Json:
        path, query, elastic = request.url.path, request.query_params, self.kind == "elasticsearch"
        index, _, action = path.rpartition("/_")
        index = index.strip("/")
        match (request.method, action):
            case ("GET", "/"):
                number = "8.11.0" if self.flavor == "serverless" else self.version
                return {"version": {"number": number, "build_flavor": self.flavor}, "tagline": "You Know, for Search"}
            case ("GET", "mapping"):
                return {name: {"mappings": self.indices[name]["mappings"]} for name in self._named(index)}
            case ("GET", "settings") if not elastic and query.get("flat_settings") == "true":
                return {name: {"settings": self.indices[name]["settings"]} for name in self._named(index)}
            case ("GET", "alias"):
                return {name: {"aliases": {}} for name in self.indices if fnmatch.fnmatch(name, index)}
            case ("POST", "count"):
                return {"count": len(self._matching(self._only(index), only_keys(body, "query"))), **self._shards}
            case ("POST", "pit") if elastic:
                _time(query["keep_alive"])
                return {"id": self._opened(self._only(index)), **self._shards}
            case ("DELETE", "pit") if elastic:
                return {"succeeded": self._closed(only_keys(body, "id")["id"]), "num_freed": 1}
            case ("POST", "search") if elastic:
                return self._elastic_search(index, body)
            case ("POST", "search"):
                return self._open_search(index, body, query.get("scroll"))
            case ("POST", "search/scroll") if not elastic:
                return self._scrolled(only_keys(body, "scroll_id", "scroll"))
            case ("DELETE", "search/scroll") if not elastic:
                closed = [self._closed(one) for one in only_keys(body, "scroll_id")["scroll_id"]]
                return {"succeeded": all(closed), "num_freed": sum(closed)}
        raise Refused(405, "illegal_argument_exception", f"{request.method} {path} is no reading")

    @property
    def _shards(self) -> Json:
        return {"_shards": {"total": SHARDS, "successful": SHARDS - self.failing_shards, "failed": self.failing_shards}}

    @property
    def _leaves_vectors_out(self) -> bool:
        return self.flavor == "serverless" or tuple(map(int, self.version.split(".")[:2])) >= (9, 2)

    def _named(self, pattern: str) -> list[str]:
        names = self.aliases.get(pattern) or [name for name in self.indices if fnmatch.fnmatch(name, pattern)]
        if not names and "*" not in pattern:
            raise Refused(404, "index_not_found_exception", f"no such index [{pattern}]")
        return names

    def _only(self, pattern: str) -> Json:
        (name,) = self._named(pattern)
        return self.indices[name]

    def _opened(self, index: Json) -> str:
        name = f"context-{next(self._numbers)}"
        self._open[name] = {"index": {**index, "documents": dict(index["documents"])}}
        return name

    def _closed(self, name: str) -> bool:
        return self._open.pop(name, None) is not None

    def _context(self, name: str) -> Json:
        if name not in self._open:
            raise Refused(404, "search_context_missing_exception", f"No search context found for id [{name}]")
        return self._open[name]

    def _elastic_search(self, pattern: str, body: Json) -> Json:
        allowed = ("query", "size", "_source", "pit", "sort", "track_total_hits", "search_after", "knn")
        pit = only_keys(body, *allowed).get("pit")
        if pit and pattern:
            raise Refused(400, "action_request_validation_exception", "[indices] cannot be used with point in time")
        index = self._context(pit["id"])["index"] if pit else self._only(pattern)
        source, left_out = body.get("_source", True), self._leaves_vectors_out
        if isinstance(source, dict):
            only_keys(source, "includes", *(["exclude_vectors"] if left_out else []))
            left_out = source.get("exclude_vectors", left_out)
        size = _size(body)
        if "knn" in body:
            hits = self._elastic_nearest(index, body["knn"])[:size]
        else:
            hits = [(one, 1.0) for one in self._in_order(index, body, after=body.get("search_after", [-1])[0])][:size]
        answer = self._found(index, hits, source, left_out, numbered=bool(body.get("sort")))
        if pit:  # a search may give another id, and only the last one holds
            name = f"context-{next(self._numbers)}"
            self._open[name] = self._open.pop(pit["id"])
            answer["pit_id"] = name
        return answer

    def _in_order(self, index: Json, body: Json, after: int) -> list[str]:
        if body.get("sort") and (body["sort"] != [{"_shard_doc": "asc"}] or "pit" not in body):
            raise Refused(400, "query_shard_exception", "No mapping found for [_shard_doc] in order to sort on")
        names = self._matching(index, body)
        return sorted((one for one in names if shard_doc(index, one) > after), key=lambda one: shard_doc(index, one))

    def _open_search(self, pattern: str, body: Json, scroll: str | None) -> Json:
        only_keys(body, "query", "size", "_source", "sort")
        source = body.get("_source", True)
        if isinstance(source, dict):
            only_keys(source, "includes")
        index, size = self._only(pattern), _size(body)
        if "knn" in body["query"]:
            ((field, asked),) = body["query"]["knn"].items()
            settings = mapped(index, field)
            if settings["type"] != "knn_vector" or not 1 <= only_keys(asked, "vector", "k")["k"] <= _MOST_HITS:
                raise Refused(400, "parsing_exception", f"[knn] {field} with k {asked['k']}")
            space = settings.get("method", {}).get("space_type") or settings.get("space_type")
            space = space or index["settings"].get("index.knn.space_type", "l2")
            return self._found(
                index, self._nearest(index, field, asked["vector"], space)[: min(size, asked["k"])], source
            )
        if scroll is None:
            return self._found(index, [(one, 1.0) for one in self._matching(index, body)][:size], source)
        _time(scroll)
        name = self._opened(index)
        self._open[name].update(size=size, source=source, rest=self._matching(index, body))
        return self._scrolled({"scroll_id": name, "scroll": scroll})

    def _scrolled(self, asked: Json) -> Json:
        context = self._context(asked["scroll_id"])
        _time(asked["scroll"])
        page, context["rest"] = context["rest"][: context["size"]], context["rest"][context["size"] :]
        found = self._found(context["index"], [(one, None) for one in page], context["source"])
        return {"_scroll_id": asked["scroll_id"], **found}

    def _elastic_nearest(self, index: Json, asked: Json) -> list[tuple[str, float]]:
        only_keys(asked, "field", "query_vector", "k", "num_candidates")
        settings, query = mapped(index, asked["field"]), np.asarray(asked["query_vector"])
        if settings["type"] != "dense_vector" or settings.get("index") is False:
            raise Refused(400, "illegal_argument_exception", "to perform knn search, a field has to be indexed")
        if not asked["k"] <= asked["num_candidates"] <= _MOST_HITS:
            raise Refused(400, "illegal_argument_exception", "[num_candidates] has to be from k to 10000")
        similarity = settings.get("similarity", "cosine")
        if similarity == "dot_product" and abs(np.linalg.norm(query) - 1) > 1e-3:
            raise Refused(400, "illegal_argument_exception", "dot_product needs unit-length vectors")
        return self._nearest(index, asked["field"], asked["query_vector"], similarity)[: asked["k"]]

    def _nearest(self, index: Json, field: str, query: list[float], measure: str) -> list[tuple[str, float]]:
        if len(query) != (size := mapped(index, field).get("dims", mapped(index, field).get("dimension"))):
            raise Refused(400, "illegal_argument_exception", f"dimension {len(query)} differs from {size}")
        scores = {}
        for one in self._matching(index, {"query": {"exists": {"field": field}}}):
            x, y = np.asarray(query), np.asarray(value_of(index["documents"][one], field))
            scores[one] = score_of(measure, x, y)
        return sorted(scores.items(), key=lambda item: -item[1])

    def _matching(self, index: Json, body: Json) -> list[str]:
        return [one for one, source in index["documents"].items() if matches(index, one, source, body["query"])]

    def _found(self, index: Json, hits: list[Any], source: Any, left_out: bool = False, numbered: bool = False) -> Json:
        found = []
        for one, score in hits:
            hit = {"_index": "docs", "_id": one, "_score": score}
            if numbered:
                hit["sort"] = [shard_doc(index, one)]
            if source is not False and index["mappings"].get("_source", {}).get("enabled", True):
                wanted = source["includes"] if isinstance(source, dict) else None
                hit["_source"] = shown(index, index["documents"][one], wanted, left_out)
            found.append(hit)
        return {"took": 1, "timed_out": False, **self._shards, "hits": {"hits": found}}


def _time(text: str) -> None:
    if not text.endswith("m"):
        raise Refused(400, "illegal_argument_exception", f"failed to parse time value [{text}]")


def _size(body: Json) -> int:
    size = int(body.get("size", 10))
    if size > _MOST_HITS:
        raise Refused(400, "illegal_argument_exception", "Result window is too large, it must be at most [10000]")
    return size


def _plain(header: str | None) -> str:
    """What a careless server says of the credentials it got."""
    scheme, _, rest = (header or "none").partition(" ")
    return base64.b64decode(rest).decode() if scheme == "Basic" else rest
