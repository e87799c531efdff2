"""What is kept of a run with a query model: the ways to search side by side, and how quick their queries are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.evaluation.comparison import Comparison, compare
from st_adapter.evaluation.evaluation import PerQuery
from st_adapter.evidence.split_results import HEADLINE_METRIC, check_within
from st_adapter.words import whole

# As they stand in sentences.
STATUS_QUO, WITH_ADAPTER = "the status quo", "the status quo with an adapter"
RUN_FILE = "the run file"
BRIDGE, WITH_LABELS = "the bridge without labels", "the query model with labels"
SYSTEM_METRICS = ("ndcg@10", "mrr@10", "recall@10")

_NUM_SINGLE, _BATCH, _NUM_BATCHES, _WARM_UP = 32, 64, 2, 4


@dataclass(frozen=True, kw_only=True)
class SystemResults:
    """One way to search, on one split.

    Attributes:
        name: of it.
        means: metric -> mean over the queries, fractions 0-1.
        compared: nDCG@10 against the reference; None of the reference itself.
    """

    name: str
    means: dict[str, float]
    compared: Comparison | None = None

    def check(self, where: str) -> None:
        """Check what its types do not say.

        Raises:
            ValueError: a number is out of its range, or nDCG@10 is missing.
        """
        if HEADLINE_METRIC not in self.means:
            raise ValueError(f"{where} has no {HEADLINE_METRIC} of {self.name!r:.80}.")
        figures = [] if self.compared is None else [self.compared.difference, *self.compared.interval]
        check_within(1, [*self.means.values(), *figures], f"{where}, {self.name!r:.80}")


@dataclass(frozen=True, kw_only=True)
class QuerySpeed:
    """Queries a second, tokenizing included, measured once on the machine of the run.

    Attributes:
        single: one query a call.
        batch: 64 queries a call.
    """

    single: float
    batch: float

    @classmethod
    def of(cls, encode: Callable[[list[str]], object], texts: Sequence[str]) -> QuerySpeed:
        """Measure a function of a list of texts; of few texts some are taken more than once.

        Args:
            encode: embeds queries.
            texts: at least one.
        """
        many = list(texts) * (-(-_BATCH * _NUM_BATCHES // len(texts)))
        for text in many[:_WARM_UP]:
            encode([text])
        start = time.perf_counter()
        for text in many[:_NUM_SINGLE]:
            encode([text])
        single = _NUM_SINGLE / (time.perf_counter() - start)
        start = time.perf_counter()
        for number in range(_NUM_BATCHES):
            encode(many[number * _BATCH : (number + 1) * _BATCH])
        return cls(single=single, batch=_NUM_BATCHES * _BATCH / (time.perf_counter() - start))


@dataclass(frozen=True, kw_only=True)
class BridgeResults:
    """How the map between the two models came about.

    Attributes:
        name: what was chosen, in words.
        num_queries: queries that it was fitted on.
        num_documents: documents that it was fitted on.
        agreement: how alike held-out texts rank documents to what they do as the other model embeds them, 0-1.
    """

    name: str
    num_queries: int
    num_documents: int
    agreement: float

    @property
    def origin(self) -> str:
        """What was chosen, and what it was fitted on."""
        if not self.num_queries and not self.num_documents:
            return self.name
        return f"{self.name} ({whole(self.num_queries)} queries, {whole(self.num_documents)} documents, without labels)"


@dataclass(frozen=True, kw_only=True)
class QueryModelResults:
    """A query model on an index of another model.

    Attributes:
        model: the query model, as ``described`` has it.
        reference: what it is compared with, in words.
        margin: the loss in nDCG@10 that is tolerated; 0 if none is.
        bridge: the map between the two.
        systems: split -> ways to search, the reference first.
        speed: of the query model's queries, map included.
        status_quo_speed: of those of the documents' model; None where it is not there.
        reference_run: the name of the run file, if that is the reference.
    """

    model: EncoderIdentity
    reference: str
    margin: float
    bridge: BridgeResults
    systems: dict[str, list[SystemResults]]
    speed: QuerySpeed | None = None
    status_quo_speed: QuerySpeed | None = None
    reference_run: str = ""

    @property
    def speed_sentence(self) -> str:
        """How much quicker its queries are; empty where that was not measured."""
        new, old = self.speed, self.status_quo_speed
        if new is None or old is None:
            return ""
        return (
            f"Queries {times(new.single / old.single)} as fast one by one, {times(new.batch / old.batch)} in batches "
            f"of {_BATCH} ({new.single:,.0f} and {new.batch:,.0f} a second; one measurement, tokenizing included)."
        )

    def check(self) -> None:
        """See ``SystemResults.check``."""
        for split, systems in self.systems.items():
            for system in systems:
                system.check(split)


def times(ratio: float) -> str:
    """A ratio in words.

    Examples:
        >>> times(52.34), times(0.316)
        ('52 times', '0.32 times')
    """
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"


def side_by_side(reference: str, systems: Mapping[str, PerQuery]) -> list[SystemResults]:
    """Ways to search on the same queries, each against the reference.

    Args:
        reference: the name of what the others are compared with.
        systems: name -> metric -> (Q,) values.
    """
    against = systems[reference]
    return [
        SystemResults(
            name=name,
            means={metric: float(values[metric].mean()) for metric in SYSTEM_METRICS},
            compared=None if name == reference else _compared(against, values),
        )
        for name, values in systems.items()
    ]


def _compared(reference: PerQuery, values: PerQuery) -> Comparison:
    # All metrics share the signs of the test, so that with one of them alone its p would be another.
    return compare(reference, values)[HEADLINE_METRIC]
