"""What a fit says in the end: the best candidate, its tests, and what all candidates did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from st_adapter.evaluation.statistics import Gate
from st_adapter.fitting.candidates import Candidate


@dataclass(frozen=True)
class CandidateResult:
    """What a candidate did on queries that its fit had not seen; gains are nDCG@10 above the base model's.

    Attributes:
        name: what it is.
        gain: weighted mean of the two parts.
        gain_seen: on queries whose documents were positives of some training query; None if there were none.
        gain_unseen: on queries none of whose documents was; likewise.
        p_value: that it is no better than the base, one-sided, adjusted for the number of candidates tested.
        rejected: whether it was clearly worse on one of the parts, or on the queries of dev.
    """

    name: str
    gain: float
    gain_seen: float | None
    gain_unseen: float | None
    p_value: float
    rejected: bool


@dataclass(frozen=True)
class AgainstDeployed:
    """The adapter in use, on held-out queries that it was not fitted on.

    Attributes:
        gate: the best candidate against it, the second gate.
        deployed: it against the base model.
        caution: why it looks better here than it is, if it does.
    """

    gate: Gate
    deployed: Gate
    caution: str = ""

    def deciding(self, first: Gate) -> Gate:
        """Of the first gate, against the base model, and the second one the one that decided."""
        return first if not first.adopted or self.gate.adopted else self.gate

    @property
    def sentence(self) -> str:
        """What else there is to say than the gate that decided: of the adapter in use, if it stays, how it does."""
        if self.gate.adopted:
            return self.gate.reason
        said = " ".join(filter(None, (f"The deployed adapter itself: {self.deployed.reason}", self.caution)))
        if self.deployed.adopted:
            return said
        return f"{said} So these queries do not say any more that it is better than the base model."


class Verdict(NamedTuple):
    """What the scoreboard says in the end.

    Attributes:
        chosen: the best candidate.
        gate: its test against the base model.
        candidates: all of them, best first.
        base: nDCG@10 of the base model, weighted as the gains are.
        num_seen: queries measured whose documents were positives of a training query.
        num_unseen: queries measured for which none was.
        unseen_weight: weight of the latter.
        against_deployed: the adapter in use, if there is one.
    """

    chosen: Candidate
    gate: Gate
    candidates: list[CandidateResult]
    base: float
    num_seen: int
    num_unseen: int
    unseen_weight: float
    against_deployed: AgainstDeployed | None = None

    @property
    def passed(self) -> bool:
        """Whether the best candidate is handed over: it has to pass each of the gates there are.

        Two tests that both have to be passed need no adjustment for being two (Berger 1982, "Multiparameter hypothesis
        testing and acceptance sampling": the intersection-union test).
        """
        return self.gate.adopted and (self.against_deployed is None or self.against_deployed.gate.adopted)


class Against(NamedTuple):
    """What candidates are compared with, where that is not the queries that they are built on.

    Attributes:
        name: of it, in a sentence.
        margin: a candidate may also pass by being no worse than it by more than this, in nDCG@10; 0 if it may not.
        unchanged: the candidate that changes nothing. None of the others may be clearly worse than it either.
    """

    name: str
    margin: float = 0.0
    unchanged: Candidate | None = None
