"""How an adapter came about and what it does, as a saved model keeps it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib.metadata import version
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from st_adapter import __version__
from st_adapter.storage.reading import checked

TABLE_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "precision@10", "map@100")
_NOT_A_RECORD = "The training record is not one"
_VERSIONS = ("sentence-transformers", "transformers", "torch", "datasets")


@dataclass(frozen=True)
class SplitScores:
    """Base against adapted on one split that the adapter was not fitted on.

    Attributes:
        split: its name.
        num_queries: how many queries were measured.
        num_documents: N, size of the corpus searched.
        similarity: ``cosine`` or ``dot``.
        base: metric -> mean of the base model, a fraction 0-1.
        adapted: the same of the adapted model.
        intervals: metric -> ends of the 95 % interval of adapted minus base.
        summary: the comparison in one sentence; empty if there is none.
        num_own_copies: queries that stand in the corpus themselves and whose own copy was left out of their hits.
    """

    split: str
    num_queries: int
    num_documents: int
    similarity: str
    base: dict[str, float]
    adapted: dict[str, float]
    intervals: dict[str, list[float]]
    summary: str = ""
    num_own_copies: int = 0

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SplitScores:
        """Rebuild from a mapping of the fields.

        Raises:
            ValueError: a field is missing or of another type, or the metrics of the two sides are not the same.
        """
        scores = cls(**_fields_of(cls, content))
        if set(scores.base) != set(scores.adapted):
            raise ValueError(f"{_NOT_A_RECORD}: base and adapted have other metrics. Save the model again.")
        if any(len(ends) != 2 for ends in scores.intervals.values()):
            raise ValueError(f"{_NOT_A_RECORD}: an interval has not two ends. Save the model again.")
        return scores


@dataclass(frozen=True)
class TrainingRecord:
    """How an adapter came about and what it does; what is unknown stays empty and is left out of a card.

    Attributes:
        data: name of the data set.
        dataset_id: its id on the Hub, if it is there.
        num_documents: N, size of the corpus.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        num_queries: split -> number of its queries.
        method: ``auto``, ``closed-form`` or ``gradient``.
        chosen: the candidate that was chosen.
        reason: why it is given out, or why the base model is kept, with the figures.
        seed: of the whole run.
        split_by: what was kept on one side when the splits were cut.
        paraphrase_threshold: cosine from which two queries count as paraphrases.
        fitted_on: the splits it was fitted on.
        arguments: settings of a gradient run.
        scores: held-out figures.
        script: the script that made the model.
        opened_with: settings of the base model that its own files do not say, such as ``truncate_dim``.
        versions: package -> version at training time.
    """

    data: str = ""
    dataset_id: str = ""
    num_documents: int = 0
    corpus_is_labelled_only: bool = False
    num_queries: dict[str, int] = field(default_factory=dict)
    method: str = ""
    chosen: str = ""
    reason: str = ""
    seed: int | None = None
    split_by: Literal["query", "document"] = "query"
    paraphrase_threshold: float | None = None
    fitted_on: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    scores: SplitScores | None = None
    script: str = ""
    opened_with: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainingRecord:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        known = _fields_of(cls, content)
        if known.get("scores") is not None:
            known["scores"] = SplitScores.from_dict(known["scores"])
        return cls(**known)


def _fields_of(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass in a file, once each is of its type; dataclasses in it are still plain objects."""
    hints = get_type_hints(kind)
    required = {
        each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
    } - set(content)
    unknown = set(content) - set(hints)
    if required or unknown:
        problem = f"it has no {', '.join(sorted(required)[:3])}." if required else f"{sorted(unknown)[:3]} are unknown."
        raise ValueError(f"{_NOT_A_RECORD}: {problem} Save the model again.")
    for name, value in content.items():
        try:
            checked(value, _as_plain(hints[name]), name)
        except ValueError as error:
            raise ValueError(f"{_NOT_A_RECORD}: {error} Save the model again.") from error
    return dict(content)


def _as_plain(hint: Any) -> Any:
    """A type as JSON carries it: a dataclass is an object."""
    if is_dataclass(hint):
        return dict[str, Any]
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_as_plain(each) for each in arguments)]  # noqa: UP007  (made of a list)
    return hint


def installed_versions() -> dict[str, str]:
    """Python and the packages that the vectors depend on -> version."""
    packages = {name: version(name) for name in _VERSIONS}
    return {"python": platform.python_version(), "st-adapter": __version__, **packages}
