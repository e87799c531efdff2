"""What an index holds: which documents a query finds, what is shown of them, and how they score."""

from __future__ import annotations

from typing import Any

import numpy as np

Json = dict[str, Any]
SHARDS = 2


class Refused(Exception):
    """An answer with an error."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind


def only_keys(given: Json, *known: str) -> Json:
    if unknown := set(given) - set(known):
        raise Refused(400, "parsing_exception", f"Unknown key for a value in [{sorted(unknown)[0]}].")
    return given


def mapped(index: Json, path: str) -> Json:
    properties, parts = index["mappings"]["properties"], path.split(".")
    for part in parts[:-1]:
        properties = properties[part].get("properties") or properties[part].get("fields")
    if parts[-1] not in properties:
        raise Refused(400, "query_shard_exception", f"field [{path}] does not exist in the mapping")
    found: Json = properties[parts[-1]]
    return found


def value_of(source: Json, path: str) -> Any:
    value: Any = source
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def shard_doc(index: Json, one: str) -> int:
    """The shard, and which document of it."""
    place = list(index["documents"]).index(one)
    return (place % SHARDS << 32) | place // SHARDS


def matches(index: Json, one: str, source: Json, query: Json) -> bool:
    ((kind, asked),) = query.items()
    if kind == "bool":
        return all(matches(index, one, source, part) for part in only_keys(asked, "filter")["filter"])
    if kind == "exists":
        return value_of(source, asked["field"]) is not None
    if kind == "ids":
        return one in asked["values"]
    if kind == "terms":
        ((path, values),) = asked.items()
        settings = mapped(index, path)
        value = (
            value_of(source, path) if value_of(source, path) is not None else value_of(source, path.rpartition(".")[0])
        )
        # Text is kept as its words.
        words = str(value).lower().split() if settings["type"] == "text" else [str(value)]
        return value is not None and any(str(each) in words for each in values)
    raise Refused(400, "parsing_exception", f"unknown query [{kind}]")


def shown(index: Json, source: Json, wanted: list[str] | None, left_out: bool) -> Json:
    excluded = index["mappings"].get("_source", {}).get("excludes", [])
    shown: Json = {}
    for path in list(source) if wanted is None else wanted:
        value = value_of(source, path)
        vector = value is not None and mapped(index, path).get("type") == "dense_vector"
        if value is None or path in excluded or (vector and left_out):
            continue
        *above, last = path.split(".")
        inner = shown
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return shown


def score_of(measure: str, x: Any, y: Any) -> float:
    """As the documentation gives them: of Elasticsearch, and of OpenSearch since 2.19."""
    if measure in ("l2_norm", "l2"):
        return float(1 / (1 + ((x - y) ** 2).sum()))
    if measure in ("max_inner_product", "innerproduct"):
        return float(x @ y + 1 if x @ y >= 0 else 1 / (1 - x @ y))
    length = 1.0 if measure == "dot_product" else np.linalg.norm(x) * np.linalg.norm(y)
    return float((1 + x @ y / length) / 2)
