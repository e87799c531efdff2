"""What a run found, as it lies in its files: results.json and learning_curve.json, written and read in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.soft_targets import Teaching
from st_adapter.evaluation.statistics import Gate
from st_adapter.evidence.curve import LearningCurve
from st_adapter.evidence.data_results import DataResults
from st_adapter.evidence.split_results import HEADLINE_METRIC, SplitResults, check_within
from st_adapter.evidence.systems import QueryModelResults
from st_adapter.evidence.verdict import HeldOut, RunVerdict
from st_adapter.fitting.auto import FitResult
from st_adapter.fitting.verdict import AgainstDeployed, CandidateResult
from st_adapter.storage.reading import read_object
from st_adapter.storage.records import built, plain
from st_adapter.storage.writing import write_json
from st_adapter.words import counted, signed_in_ascii

_MOST_GAIN = 10  # an interval of an estimate may reach beyond what nDCG can
_MAX_BYTES = 1 << 30
# A candidate that was rejected is told of where it gains so much more in nDCG@10 than the one that was chosen.
_CLEARLY_MORE = 0.01


@dataclass(frozen=True, kw_only=True)
class SelectionResults:
    """What was chosen, by which test, and among what.

    Attributes:
        chosen: the candidate.
        gate: its test against the base model; None if nothing was tested, for want of labels.
        candidates: all that were measured, best first; None of a gradient run, as all up to ``seconds``.
        base: nDCG@10 of the base model on the queries measured, weighted as the gains are.
        num_seen: queries measured whose documents were positives of a training query.
        num_unseen: queries measured for which none was.
        unseen_weight: weight of the latter.
        seconds: wall time of the fit by step.
        step: of a gradient run: the one whose adapter was taken.
        num_steps: of a gradient run: how many there were.
        num_documents: documents that the fit saw, if that were not all; see ``pooled``.
        num_pseudo_queries: without labels: portions of documents that were learned from.
        num_texts: without labels, of a query model: texts that both models embed.
        teaching: the teacher, if there was one, and what it scored.
        against_deployed: the adapter in use, if there was one: its tests on the same held-out queries.
    """

    chosen: str
    gate: Gate | None
    candidates: list[CandidateResult] | None = None
    base: float | None = None
    num_seen: int | None = None
    num_unseen: int | None = None
    unseen_weight: float | None = None
    seconds: dict[str, float] | None = None
    step: int | None = None
    num_steps: int | None = None
    num_documents: int | None = None
    num_pseudo_queries: int | None = None
    num_texts: int | None = None
    teaching: Teaching | None = None
    against_deployed: AgainstDeployed | None = None

    @property
    def tested(self) -> bool:
        """Whether labels decided it; without any, an adapter is handed over untested."""
        return self.gate is not None

    @property
    def reason(self) -> str:
        """Why an adapter is handed over or not, with the figures."""
        taught = "" if self.teaching is None else f" {self.teaching.sentence}"
        if self.gate is not None:
            return f"{self.gate.reason}{taught}"
        learned_from, other = f"{counted(self.num_pseudo_queries or 0, 'portion')} of the documents", "base model"
        if self.num_texts is not None:
            learned_from, other = f"{counted(self.num_texts, 'text')} that both models embed", "status quo"
        return (
            f"It was learned from {'a teacher' if taught else learned_from} without any label, so that nothing says "
            f"whether it is better than the {other}.{taught}"
        )

    @property
    def passed_over(self) -> str:
        """Which candidate gains clearly more than the chosen one and was rejected all the same; empty if none."""
        candidates = self.candidates or []
        best = max((each for each in candidates if each.rejected), key=lambda each: each.gain, default=None)
        if best is None or candidates[0].rejected or best.gain < candidates[0].gain + _CLEARLY_MORE:
            return ""
        parts = {"for documents asked for before": best.gain_seen, "for new documents": best.gain_unseen}
        said = ", ".join(f"{signed_in_ascii(gain)} {part}" for part, gain in parts.items() if gain is not None)
        return (
            f"Passed over, as it is clearly worse on one of the parts or on dev: {best.name}, which gains "
            f"{signed_in_ascii(best.gain)} on the whole ({said})."
        )

    @classmethod
    def of(cls, fitted: FitResult, teaching: Teaching | None = None) -> SelectionResults:
        """What ``fit`` chose, and with which teacher."""
        verdict = fitted.verdict
        return cls(
            chosen=fitted.chosen,
            gate=verdict.gate,
            candidates=verdict.candidates,
            base=verdict.base,
            num_seen=verdict.num_seen,
            num_unseen=verdict.num_unseen,
            unseen_weight=verdict.unseen_weight,
            seconds=fitted.seconds,
            num_documents=fitted.num_documents,
            teaching=teaching,
            against_deployed=verdict.against_deployed,
        )

    def with_caution(self, caution: str) -> SelectionResults:
        """The same, with why the adapter in use looks better than it is."""
        if self.against_deployed is None:
            return self
        return replace(self, against_deployed=replace(self.against_deployed, caution=caution))

    def check(self) -> None:
        """Check what its types do not say.

        Raises:
            ValueError: there are candidates, but not what they were measured on.
        """
        if self.candidates and None in (self.base, self.num_seen, self.num_unseen, self.unseen_weight):
            raise ValueError("selection has candidates, but not base, num_seen, num_unseen and unseen_weight.")


@dataclass(frozen=True, kw_only=True, repr=False)
class Results:
    """Everything that judging and repeating a run takes; the content of ``results.json``.

    Attributes:
        base_model: the base model, as ``described`` has it; None if the vectors do not say.
        data: what was learned from and measured on.
        method: ``auto``, ``linear``, ``closed-form`` or ``gradient``.
        adopted: whether there is an adapter.
        fitted_on: splits that the adapter was fitted on; their figures say how well it fits, no more.
        adapter: configuration of the adapter; None if the base model is kept.
        selection: what was chosen, and why.
        dev: base and adapted on dev.
        test: the same on test, if there is one.
        seconds: wall time by step.
        seed: of the whole run.
        arguments: settings of a gradient run.
        alpha: level of the test against the base model.
        opened_with: settings of the base model that its own files do not say, such as ``truncate_dim``.
        query_model: what a run with a query model found besides; ``base`` of its splits is then the reference.
        precision: of the base model's forward pass.
        device: where the model ran.
        versions: package -> version.
        date: when the run ended, in UTC, as ISO 8601 has it.
        commit: of this package, if it runs from a git checkout or was installed from one.
    """

    base_model: EncoderIdentity | None
    data: DataResults
    method: str
    adopted: bool
    fitted_on: list[str]
    adapter: dict[str, Any] | None
    selection: SelectionResults
    dev: SplitResults | None = None
    test: SplitResults | None = None
    seconds: dict[str, float]
    seed: int
    arguments: dict[str, Any] | None
    alpha: float
    opened_with: dict[str, Any] = field(default_factory=dict)
    query_model: QueryModelResults | None = None
    precision: str
    device: str
    versions: dict[str, str]
    date: str = ""
    commit: str = ""

    def __repr__(self) -> str:
        return f"Results({self.data.name}, {self.method}, {self.selection.chosen}: {self.verdict})"

    @property
    def kept_deployed(self) -> bool:
        """Whether the adapter in use stays, as what was fitted is not better than it."""
        return not self.adopted and self.selection.against_deployed is not None

    @property
    def splits(self) -> dict[str, SplitResults]:
        """The splits measured, by name."""
        return {name: split for name, split in (("dev", self.dev), ("test", self.test)) if split is not None}

    @property
    def held_out(self) -> str | None:
        """The split whose figures are evidence: test, or else dev, unless the adapter was fitted on it."""
        return next((name for name in reversed(self.splits) if name not in self.fitted_on), None)

    @property
    def verdict(self) -> RunVerdict:
        """Whether to deploy the adapter, and why: the same wherever it is said, also of older files."""
        selection, split, pair = self.selection, self.held_out, self.query_model
        compared = None if split is None else self.splits[split].comparisons["all"][HEADLINE_METRIC]
        held_out = None if split is None or compared is None else HeldOut(split, compared)
        if selection.gate is None:
            return RunVerdict.without_labels(selection.reason.rstrip("."), held_out)
        kept, taught = "the base model is kept", "" if selection.teaching is None else selection.teaching.sentence
        gate, other = selection.gate, selection.against_deployed
        if pair is not None:
            kept = "nothing is handed over"
        if other is not None:
            gate, kept = other.deciding(gate), "the deployed adapter is kept"
            taught = " ".join(filter(None, (other.sentence, taught)))
        return RunVerdict.of(gate, self.alpha, held_out, kept, taught)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready form, with the verdict for who reads nothing else."""
        return {"verdict": self.verdict.to_dict(), **plain(self)}

    def write(self, path: Path) -> None:
        """Write ``results.json``, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read ``results.json`` of a training run, of this or an earlier version.

        Raises:
            ValueError: it is missing, of something else, or damaged.
        """
        content = read_object(path, max_bytes=_MAX_BYTES) if path.exists() else {}
        if not {"selection", "fitted_on", "data"} <= content.keys():
            raise ValueError(
                f"{path.parent} holds no {path.name} of a training run. Name the folder that `st-adapter train` wrote "
                "to."
            )
        try:
            results = built(cls, content)
            results.selection.check()
            for name, split in results.splits.items():
                split.check(name)
            if results.query_model is not None:
                results.query_model.check()
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: {error} Run `st-adapter train` again, or copy the folder again."
            ) from error
        return results


@dataclass(frozen=True, kw_only=True)
class CurveResults:
    """A learning curve and what it was measured with; the content of ``learning_curve.json``.

    Attributes:
        base_model: the base model, as ``described`` has it; None if the vectors do not say.
        data: name of the data set.
        fingerprint: hash of its content; see ``data_fingerprint``.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        opened_with: settings of the base model that its own files do not say.
        curve: what was measured.
    """

    base_model: EncoderIdentity | None
    data: str
    fingerprint: str = ""
    corpus_is_labelled_only: bool = False
    opened_with: dict[str, Any] = field(default_factory=dict)
    curve: LearningCurve

    def is_of(self, results: Results) -> bool:
        """Whether it was measured with the base model and the data of a run."""
        if self.base_model != results.base_model:
            return False
        if self.fingerprint and results.data.fingerprint:
            return self.fingerprint == results.data.fingerprint
        # Of earlier versions there is no more to go by.
        same = self.data == results.data.name
        return same and self.curve.points[-1].num_queries == results.data.train.num_queries

    def write(self, path: Path) -> None:
        """Write ``learning_curve.json``, whole or not at all."""
        content = plain(self)
        del content["curve"]
        write_json(path, {**content, **self.curve.to_dict()})

    @classmethod
    def read(cls, path: Path) -> CurveResults:
        """Read ``learning_curve.json``.

        Raises:
            ValueError: it is damaged.
        """
        content = read_object(path, max_bytes=_MAX_BYTES)
        try:
            curves = built(cls, {**content, "curve": content})
            _check_curve(curves.curve)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: {error} Run `st-adapter learning-curve` again, or delete it."
            ) from error
        return curves


def described(base_model: EncoderIdentity | None) -> EncoderIdentity | None:
    """What a person reads of a base model; the rest of it is for comparing."""
    return None if base_model is None else replace(base_model, fingerprint=None, probes=None)


def _check_curve(curve: LearningCurve) -> None:
    if not curve.points:
        raise ValueError("points is empty.")
    if any(point.num_queries < 1 for point in curve.points):
        raise ValueError("points has a number of queries below 1.")
    doubling = curve.doubling
    if doubling is not None and (doubling.came is None) != (doubling.expected_before is None):
        raise ValueError("doubling has only one of came and expected_before.")
    estimates = [(each.gain, *each.interval) for each in (*curve.points, doubling) if each is not None]
    check_within(_MOST_GAIN, chain(*estimates), "a point or doubling")
    check_within(1, [curve.base], "base")
