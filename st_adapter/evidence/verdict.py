"""Whether to deploy: what chose an adapter and what it does on queries apart from that, in one decision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from st_adapter.evaluation.comparison import Comparison
from st_adapter.evaluation.power import effect_size, queries_missing, queries_needed
from st_adapter.evaluation.statistics import MIN_INTERVAL_QUERIES, Gate
from st_adapter.storage.records import plain
from st_adapter.words import MOST_ESTIMATED, counted, fraction, roughly, signed_in_ascii

Decision = Literal["deploy", "do not deploy", "too little data to tell"]
# What is said of a run without labels, where there is nothing to compute a number from.
_FIRST_LABELS = 100
# One side of a 95 % interval, by which it is judged what queries apart from the gate's show.
_ONE_SIDE = 0.025


class HeldOut(NamedTuple):
    """Queries that had no part in a gate, and what an adapter does on them.

    Attributes:
        split: their name.
        compared: in the metric of the gate.
    """

    split: str
    compared: Comparison


@dataclass(frozen=True)
class RunVerdict:
    """Whether to deploy an adapter, and why; console, results, report and model card say it in the same words.

    What is handed over is decided by the gate alone, on queries that fits had not seen. Queries apart from that choose
    nothing, but if the adapter is clearly worse on them, the decision is not to deploy it.

    Attributes:
        decision: ``deploy``, ``do not deploy`` or ``too little data to tell``.
        adopted: whether there is an adapter.
        reason: the test that decided it, with its figures.
        measured: what the adapter does on queries that had no part in that; empty if there are none, or no adapter.
        tested: whether labels decided it; without any, the adapter is handed over untested.
        num_more_labels: about how many more labelled queries it takes to tell; None where that is not the question.
        kept: what becomes of it if there is no adapter; empty if there is one.
        background: what else belongs to it, such as who taught the adapter.
    """

    decision: Decision
    adopted: bool
    reason: str
    measured: str = ""
    tested: bool = True
    num_more_labels: int | None = None
    kept: str = ""
    background: str = ""

    @classmethod
    def of(
        cls,
        gate: Gate,
        alpha: float,
        held_out: HeldOut | None = None,
        kept: str = "the base model is kept",
        background: str = "",
    ) -> RunVerdict:
        """The verdict on what was compared by a gate.

        Args:
            gate: the test; its reason names what was compared with.
            alpha: its level.
            held_out: what is known apart from it, if anything is.
            kept: what becomes of it if the gate is not passed.
            background: as in the attributes.
        """
        reason = _reason(gate, alpha)
        if gate.adopted:
            measured, contradicts = ("", False) if held_out is None else _measured(gate, held_out)
            decision: Decision = "do not deploy" if contradicts else "deploy"
            return cls(decision, True, reason, measured, background=background)
        missing = math.inf if gate.rejected else queries_missing(gate, alpha)
        if missing is None:  # an older file
            known = gate.gain > 0 and gate.p_value > alpha
            decision = "too little data to tell" if known else "do not deploy"
            return cls(decision, False, reason, kept=kept, background=background)
        if missing <= MOST_ESTIMATED:
            number = math.ceil(missing)
            return cls("too little data to tell", False, reason, "", True, number, kept, background)
        if not math.isinf(missing):
            reason += f"; so small a gain takes {roughly(missing)} queries to show"
        return cls("do not deploy", False, reason, kept=kept, background=background)

    @classmethod
    def without_labels(cls, reason: str, held_out: HeldOut | None = None) -> RunVerdict:
        """The verdict on an adapter that was learned without labels, and handed over for that without a test.

        Args:
            reason: how it was learned.
            held_out: labelled queries that it can be judged by all the same.
        """
        shown = None if held_out is None else held_out.compared.shown_interval
        if held_out is None or shown is None:
            measured = "" if held_out is None else _too_few(held_out)
            return cls("too little data to tell", True, reason, measured, tested=False, num_more_labels=_FIRST_LABELS)
        measured, effect = f"{_queries(held_out)} say: {_figures(held_out.compared)}", held_out.compared.effect_size
        if shown.low > 0 or shown.high < 0:
            return cls("deploy" if shown.low > 0 else "do not deploy", True, reason, measured)
        missing = queries_needed(effect or 0.0, _ONE_SIDE) - held_out.compared.num_queries
        number = None if missing > MOST_ESTIMATED else max(1, math.ceil(missing))
        return cls("too little data to tell", True, reason, measured, num_more_labels=number)

    @property
    def headline(self) -> str:
        """The decision and what follows from it, in one short sentence."""
        words = f"{'' if self.tested else 'not tested, '}{self.decision}{', ' if self.kept else ''}{self.kept}"
        if self.decision == "too little data to tell":
            number = "" if self.num_more_labels is None else f"{roughly(self.num_more_labels)} "
            words += f": label {number}{'more ' if self.tested else ''}queries"
        return f"{words[0].upper()}{words[1:]}."

    @property
    def why(self) -> str:
        """What the decision rests on, in one sentence, and what belongs to it."""
        return " ".join(filter(None, ("; ".join(filter(None, (self.reason, self.measured))) + ".", self.background)))

    @property
    def sentence(self) -> str:
        """Decision and reasons."""
        return f"{self.headline} {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**plain(self), "sentence": self.sentence}

    def __str__(self) -> str:
        return self.sentence


def _reason(gate: Gate, alpha: float) -> str:
    """What the gate says, with what a reader could stumble over."""
    words = gate.reason.rstrip(".")
    words += f", the chance of {'such a gain' if gate.gain > 0 else 'doing as well'} by luck alone"
    if gate.conceded is not None:
        words += " if it were worse by more"
    number = gate.num_queries
    if number is not None and number < MIN_INTERVAL_QUERIES:
        return words
    if gate.adopted and gate.conceded is None and gate.interval.low <= 0:
        words += f" (the test asks for a gain, at a level of {alpha:g}; the interval looks at both sides)"
    elif not gate.adopted and not gate.rejected and gate.interval.low > 0 and gate.p_value > alpha:
        words += " (p allows for its being the best of several candidates, the interval does not)"
    return words


def _measured(gate: Gate, held_out: HeldOut) -> tuple[str, bool]:
    """What queries apart from the gate's say, and whether that is the contrary."""
    compared, shown, queries = held_out.compared, held_out.compared.shown_interval, _queries(held_out)
    claimed = 0.0 if gate.conceded is None else gate.conceded.margin
    if shown is None:
        return _too_few(held_out), False
    figures = _figures(compared)
    if shown.low > -claimed:
        return f"{queries}, which had no part in that, confirm it: {figures}", False
    if shown.high < -claimed:
        words = f"but {queries}, which had no part in that, say the contrary: {figures}"
        if gate.tolerated is not None and shown.low > -gate.tolerated.margin:
            return f"{words}, which is within the {fraction(gate.tolerated.margin)} that are tolerated", False
        return words, True
    return f"{queries} alone do not show it: {figures}{_how_many(gate, compared.num_queries)}", False


def _queries(held_out: HeldOut) -> str:
    return f"the {counted(held_out.compared.num_queries, 'query', 'queries')} of {held_out.split}"


def _too_few(held_out: HeldOut) -> str:
    compared = held_out.compared
    verb = "is" if compared.num_queries == 1 else "are"
    return f"{_queries(held_out)} {verb} too few to check that ({signed_in_ascii(compared.difference)} on average)"


def _figures(compared: Comparison) -> str:
    ends = " to ".join(map(signed_in_ascii, compared.interval))
    sides = f"from {fraction(compared.base)} to {fraction(compared.adapted)}"
    return f"{signed_in_ascii(compared.difference)} nDCG@10, {sides}, 95 % interval {ends}"


def _how_many(gate: Gate, number: int) -> str:
    """Why that many queries do not show what the gate found."""
    effect = effect_size(gate)
    if effect is None:
        return ""
    needed, what = queries_needed(effect, _ONE_SIDE), "a gain of that size"
    if gate.conceded is not None:
        what = "that it is not worse by more"
    if needed > number:
        return f" ({what} takes {roughly(needed)} to show)"
    return f" ({what} shows on {roughly(needed)} four times in five, so it may be smaller here)"
