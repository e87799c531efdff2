"""What a fit chooses from: maps fitted in every fold, each shrunk towards the identity, and averages of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class MapName(NamedTuple):
    """A linear map that was fitted in every fold.

    Attributes:
        family: what was fitted; of a family the best member may enter an average.
        detail: the member, such as ``ridge 1`` or ``160 steps``.
    """

    family: str
    detail: str

    def __str__(self) -> str:
        return f"{self.family}, {self.detail}"


class ShrunkMap(NamedTuple):
    """One fitted map, shrunk towards the identity: ``(1 - share) I + share W``."""

    name: MapName
    share: float

    def __str__(self) -> str:
        return f"{self.name}, share {self.share:g}"


Candidate = tuple[ShrunkMap, ...]
"""The shrunk maps that are averaged; usually one."""
BASE: Candidate = ()
"""The base model: no map at all."""


class Scorings(Protocol):
    """The scores of the same pairs by the base, under None, and by fitted maps."""

    def __getitem__(self, name: MapName | None, /) -> Tensor:
        """The scores by one map."""


def scorings_of(candidate: Candidate) -> list[MapName | None]:
    """What a candidate's scores are mixed from."""
    return [None, *(shrunk.name for shrunk in candidate)]


def mixed(candidate: Candidate, scores: Scorings) -> Tensor:
    """A candidate's scores from those of its maps.

    Rounding keeps the order of sums of the same form, so what bounds the summands bounds the sum.
    """
    number = max(1, len(candidate))
    total = scores[None] * (1 - sum(shrunk.share for shrunk in candidate) / number)
    for shrunk in candidate:
        total += scores[shrunk.name] * (shrunk.share / number)
    return total
