"""Dataclasses in JSON: written as they are, read back equal, and refused where a file lies."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from st_adapter.storage.records import built, plain


class Ends(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    name: str
    ends: Ends
    value: float | None


@dataclass(frozen=True, kw_only=True)
class Whole:
    number: int
    parts: tuple[Part, ...]
    by_name: dict[str, dict[str, Part]]
    listed: list[Part] | None = None
    seconds: Mapping[str, float]
    words: list[str] = field(default_factory=list)
    anything: dict[str, Any]
    other: Part | None = None


PART = Part("a", Ends(0.0, 1.0), None)
WHOLE = Whole(
    number=3,
    parts=(PART, Part("b", Ends(-1.0, 2.0), 0.5)),
    by_name={"x": {"y": PART}},
    seconds={"fitting": 1.5},
    anything={"settings": [1, "two", None]},
)


def test_what_is_written_is_read_back_equal():
    content = json.loads(json.dumps(plain(WHOLE)))
    assert content == {
        "number": 3,
        "parts": [
            {"name": "a", "ends": [0.0, 1.0], "value": None},
            {"name": "b", "ends": [-1.0, 2.0], "value": 0.5},
        ],
        "by_name": {"x": {"y": {"name": "a", "ends": [0.0, 1.0], "value": None}}},
        "seconds": {"fitting": 1.5},
        "words": [],
        "anything": {"settings": [1, "two", None]},
    }
    assert built(Whole, {**content, "of a later version": 1}) == WHOLE
    assert built(Whole, {**content, "other": content["parts"][0], "listed": content["parts"]}).other == PART


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("number", "3", r"number is '3', but int is expected"),
        ("number", True, "number is True"),
        ("parts", {}, r"parts is a dict of 0"),
        ("parts", [{"name": "a", "ends": [0.0], "value": None}], r"parts\[0\]\['ends'\] is a list of 1"),
        ("parts", [{"name": "a", "value": None}], r"parts\[0\] has no ends, but is expected to"),
        ("by_name", {"x": {"y": 1}}, r"by_name\['x'\]\['y'\] is 1, but dict\[str, Any\] is expected"),
        ("seconds", {"fitting": float("nan")}, r"seconds\['fitting'\] is nan"),
        ("seconds", None, "seconds is None"),
        ("other", "a", "other is 'a'"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_place(key, value, message):
    with pytest.raises(ValueError, match=message):
        built(Whole, {**plain(WHOLE), key: value})


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="It has no number, parts, by_name, but is expected to"):
        built(Whole, {})
    with pytest.raises(ValueError, match=r"a list of 0, but dict"):
        built(Whole, [], "results")
