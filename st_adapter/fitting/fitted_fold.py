"""What was fitted on a fold, measured on the queries that it left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.fitting.candidates import Candidate
from st_adapter.fitting.folds import Fold
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.portfolio import Maps
from st_adapter.fitting.reference import DeployedAdapter
from st_adapter.fitting.selection import Scoreboard


class FittedFold(NamedTuple):
    """A fold with its maps.

    ``rows`` are the measured queries, ``unseen`` (1 or 0) says which of them are, and ``compared_with`` how well the
    reference does on them, if that is not the base. ``deployed`` is what the adapter in use gains on them, if there is
    one.
    """

    measure: Measure
    rows: Tensor
    unseen: Tensor
    maps: Maps
    compared_with: Tensor | None
    deployed: Tensor | None

    def gains(self, candidates: Sequence[Candidate]) -> dict[Candidate, Tensor]:
        """What the candidates gain over the reference."""
        gains = self.measure.gains(candidates, self.maps)
        if self.compared_with is None:
            return gains
        ahead = self.measure.base - self.compared_with
        return {candidate: each + ahead for candidate, each in gains.items()}

    def enter_in(self, board: Scoreboard) -> int:
        """Enter what the candidates of a scoreboard gained; how many folds that was."""
        gains = self.gains(board.candidates)
        base = self.measure.base if self.compared_with is None else self.compared_with
        board.add(self.rows, self.unseen, base, gains, self.deployed)
        return 1


def measured_on(
    labelled: EmbeddedSplit,
    fold: Fold,
    maps: Maps,
    compared_with: Tensor | None,
    deployed: DeployedAdapter | None = None,
) -> FittedFold:
    """A fold with the maps that were fitted on it, ready to be measured.

    Args:
        labelled: all labelled queries.
        fold: which of them were left out.
        maps: fitted on the others.
        compared_with: (Q,) nDCG@10 of the reference on all of them; None if that is the base.
        deployed: the adapter in use, if there is one.
    """
    measure = Measure(labelled.subset(fold.measured))
    rows = fold.measured.nonzero().squeeze(1)
    unseen = fold.unseen[rows].long()
    gained = None if deployed is None else deployed.gains(measure.split, measure.base)
    return FittedFold(measure, rows, unseen, maps, None if compared_with is None else compared_with[rows], gained)
