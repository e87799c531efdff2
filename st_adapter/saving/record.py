"""How an adapter came about and what it does, as a saved model keeps it."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal

from st_adapter import __version__

TABLE_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "precision@10", "map@100")
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
        intervals: metric -> ends of the 95 % interval of adapted minus base; empty where there are too few queries.
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

    def __post_init__(self) -> None:
        if set(self.base) != set(self.adapted):
            raise ValueError("The scores of base and adapted have other metrics, but the same are expected.")
        if any(len(ends) != 2 for ends in self.intervals.values()):
            raise ValueError("An interval of the scores has not two ends, but a lower and an upper one are expected.")


@dataclass(frozen=True)
class SystemScores:
    """One way to search on the split of the scores, beside others.

    Attributes:
        name: of it.
        ndcg: mean nDCG@10.
        difference: that minus the one of what it is compared with; None of that itself.
        interval: ends of the 95 % interval of the difference; empty where there is none.
    """

    name: str
    ndcg: float
    difference: float | None = None
    interval: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingRecord:
    """How an adapter came about and what it does; what is unknown stays empty and is left out of a card.

    Attributes:
        data: name of the data set.
        dataset_id: its id on the Hub, if it is there.
        data_fingerprint: of its content; see ``data_fingerprint``.
        date: when it was trained, in UTC, as ISO 8601 has it.
        num_documents: N, size of the corpus.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        num_queries: split -> number of its queries.
        method: ``auto``, ``linear``, ``closed-form`` or ``gradient``.
        chosen: the candidate that was chosen.
        reason: the verdict: whether to deploy it and why, with the figures.
        seed: of the whole run.
        split_by: what was kept on one side when the splits were cut.
        split_seed: by which they were cut; ``seed`` if None, in records of earlier versions.
        paraphrase_threshold: how near two queries are that count as paraphrases.
        fitted_on: the splits it was fitted on.
        arguments: settings of a gradient run.
        scores: held-out figures.
        reference: with a query model: what it is compared with, ``base`` of the scores.
        systems: with a query model: all ways to search side by side.
        speed: with a query model: how much quicker its queries are, in a sentence.
        script: the script that made the model.
        opened_with: settings of the base model that its own files do not say, such as ``truncate_dim``.
        versions: package -> version at training time.
    """

    data: str = ""
    dataset_id: str = ""
    data_fingerprint: str = ""
    date: str = ""
    num_documents: int = 0
    corpus_is_labelled_only: bool = False
    num_queries: dict[str, int] = field(default_factory=dict)
    method: str = ""
    chosen: str = ""
    reason: str = ""
    seed: int | None = None
    split_by: Literal["query", "document"] = "query"
    split_seed: int | None = None
    paraphrase_threshold: float | None = None
    fitted_on: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    scores: SplitScores | None = None
    reference: str = ""
    systems: list[SystemScores] = field(default_factory=list)
    speed: str = ""
    script: str = ""
    opened_with: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def installed_versions() -> dict[str, str]:
    """Python and the packages that the vectors depend on -> version."""
    packages = {name: version(name) for name in _VERSIONS}
    return {"python": platform.python_version(), "st-adapter": __version__, **packages}


def package_commit() -> str:
    """The git commit of this package: of the checkout that it runs from, or that it was installed from; else empty.

    A checkout whose files differ from its commit gives that commit with ``-dirty`` behind it.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / ".git").exists():
        described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(described, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # there is no git, or the checkout is somebody else's
            return ""
    try:
        url = distribution("st-adapter").read_text("direct_url.json")
        commit = json.loads(url or "{}").get("vcs_info", {}).get("commit_id", "")
    except (PackageNotFoundError, ValueError, AttributeError):
        return ""
    return commit if isinstance(commit, str) else ""
