"""Choose the candidate that gained most on queries its fit did not see, and test it against the base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.evaluation.statistics import Gate, Tolerated, gate, sign_flip_p_values
from st_adapter.fitting.candidates import Candidate

# A candidate that loses on either part by more than this many standard errors is out.
_REJECTED_BEYOND = 1.28
# More than gains can differ by.
_BEHIND = 10.0
# A part of fewer queries says nothing of its own.
_MIN_PART = 8


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
    """

    chosen: Candidate
    gate: Gate
    candidates: list[CandidateResult]
    base: float
    num_seen: int
    num_unseen: int
    unseen_weight: float


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


class Scoreboard:
    """Gains of all candidates on all queries, seen and unseen apart.

    Args:
        candidates: what is measured.
        in_dev: (Q,) which of the labelled queries are of the dev split: a candidate that is clearly worse on these
            alone is out as well.
        unseen_weight: weight of the unseen part, 0-1.
        against: what the candidates are compared with; the base model if None.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        in_dev: NDArray[np.bool_],
        unseen_weight: float,
        against: Against | None = None,
    ) -> None:
        num_queries = len(in_dev)
        self.candidates = candidates
        self.unseen_weight = unseen_weight
        self._against = against or Against("the base model")
        self._in_dev = in_dev
        self._rejected_elsewhere: set[Candidate] = set()
        self._counts = np.zeros((2, num_queries))  # how often each query was measured as seen (0) and unseen (1)
        self._base = np.zeros((2, num_queries))
        self._gains = np.zeros((2, len(candidates), num_queries))

    def add(self, rows: Tensor, unseen: Tensor, base: Tensor, gains: dict[Candidate, Tensor]) -> None:
        """Enter what one fold measured: its queries, which of them are unseen, and every candidate's gains on them."""
        at = (unseen.cpu().numpy(), rows.cpu().numpy())
        self._counts[at] += 1
        self._base[at] += base.cpu().numpy()
        for number, candidate in enumerate(self.candidates):
            if candidate in gains:
                self._gains[at[0], number, at[1]] += gains[candidate].cpu().numpy()

    def extend(
        self,
        candidates: list[Candidate],
        places: list[tuple[Tensor, Tensor]],
        gains: list[dict[Candidate, Tensor]],
    ) -> None:
        """Add candidates that were measured after the others, on the same queries."""
        more = np.zeros((2, len(candidates), self._counts.shape[1]))
        for (rows, unseen), values in zip(places, gains, strict=True):
            for number, candidate in enumerate(candidates):
                more[unseen.cpu().numpy(), number, rows.cpu().numpy()] += values[candidate].cpu().numpy()
        self.candidates = self.candidates + candidates
        self._gains = np.concatenate([self._gains, more], axis=1)

    def best_families(self, number: int, among: Sequence[str]) -> list[str]:
        """The given families whose best members gained most so far, in the given order."""
        gains = self._weighted(self._gains).sum(axis=1)
        reached = {family: -math.inf for family in among}
        for candidate, gain in zip(self.candidates, gains, strict=True):
            family = candidate[0].name.family
            if family in reached:
                reached[family] = max(reached[family], float(gain))
        best = sorted(among, key=lambda family: -reached[family])[:number]
        return [family for family in among if family in best]

    def drop_families(self, families: Sequence[str]) -> None:
        """Forget the candidates of families that were not measured in every fold."""
        kept = [n for n, candidate in enumerate(self.candidates) if candidate[0].name.family not in families]
        self.candidates = [self.candidates[number] for number in kept]
        self._gains = self._gains[:, kept]

    def reject(self, candidates: Sequence[Candidate]) -> None:
        """Take candidates for clearly worse on a part of the queries that was measured elsewhere."""
        self._rejected_elsewhere |= set(candidates)

    def averages_of_the_best(self) -> list[Candidate]:
        """The best candidate of each family, two and three of them averaged."""
        ranked = self._ranked()
        least = ranked[self._unchanged] if self._unchanged is not None else 0.0
        best: dict[str, Candidate] = {}
        for number in np.argsort(-ranked, kind="stable"):
            if ranked[number] > least:
                best.setdefault(self.candidates[number][0].name.family, self.candidates[number])
        top = [candidate[0] for candidate in best.values()]
        return [tuple(top[:size]) for size in (2, 3) if len(top) >= size]

    def verdict(self, alpha: float, seed: int) -> Verdict:
        """Choose the best candidate that is not rejected, and test it."""
        ranked, rejected = self._ranked(), self._rejected()
        measured = self._counts.sum(axis=0) > 0
        weighted = self._weighted(self._gains)[:, measured]  # (C, Q); sums over the queries are gains
        p_values = sign_flip_p_values(weighted, seed)
        margin = self._against.margin
        shifted = weighted + margin * self._weighted(self._counts)[measured]  # what is not below 0 is not inferior
        num_seen, num_unseen = (self._counts > 0).sum(axis=1).tolist()
        seen_gains, unseen_gains = self._part_means(self._gains)
        order = self._ordered(ranked, weighted)
        results = [
            CandidateResult(
                name=" + ".join(map(str, self.candidates[number])),
                gain=float(weighted[number].sum()),
                gain_seen=None if num_seen == 0 else float(seen_gains[number]),
                gain_unseen=None if num_unseen == 0 else float(unseen_gains[number]),
                p_value=float(p_values[number]),
                rejected=bool(rejected[number]),
            )
            for number in order
        ]
        best = int(order[0])
        # As differences whose plain mean is the weighted gain.
        differences = weighted[best] * measured.sum()
        return Verdict(
            chosen=self.candidates[best],
            gate=gate(
                differences,
                float(p_values[best]),
                alpha=alpha,
                seed=seed,
                rejected=bool(rejected[best]),
                against=self._against.name,
                tolerated=Tolerated(margin, float(sign_flip_p_values(shifted, seed)[best])) if margin else None,
            ),
            candidates=results,
            base=float(self._weighted(self._base[:, None]).sum()),
            num_seen=num_seen,
            num_unseen=num_unseen,
            unseen_weight=float(self._weights()[1]),
        )

    def _ordered(self, ranked: NDArray[np.float64], weighted: NDArray[np.float64]) -> NDArray[np.int64]:
        """The candidates, best first: of those that gain alike, the one that does best where documents are new.

        Alike are gains within one standard error of the difference (Breiman, Friedman, Olshen & Stone 1984,
        "Classification and regression trees": the one-standard-error rule).
        """
        order = np.argsort(-ranked, kind="stable")
        if self._counts.sum(axis=1).min() < _MIN_PART or not np.isfinite(ranked[order[0]]):
            return order
        behind = weighted[order[0]] - weighted  # (C, Q), sums over the queries are differences in gain
        error = behind.std(axis=1, ddof=1) * math.sqrt(behind.shape[1])
        as_good = ranked > ranked[order[0]] - _BEHIND / 2
        alike = np.flatnonzero(as_good & (behind.sum(axis=1) <= error))
        chosen = alike[np.argmax(self._part_means(self._gains)[1][alike])]
        return np.concatenate([[chosen], order[order != chosen]])

    def _weights(self) -> NDArray[np.float64]:
        """Weights of the two parts; their natural shares if one is too small to speak for itself."""
        sizes = self._counts.sum(axis=1)
        if sizes.min() < _MIN_PART:
            return np.asarray(sizes / sizes.sum())
        return np.array([1 - self.unseen_weight, self.unseen_weight])

    def _weighted(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2, C, Q) sums -> (C, Q) so weighted that the sum over the queries is the weighted mean."""
        sizes = self._counts.sum(axis=1).clip(min=1)
        return np.asarray(np.tensordot(self._weights() / sizes, values, axes=1))

    def _part_means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2, C, Q) sums -> (2, C) means, 0 for a part without queries."""
        return np.asarray(values.sum(axis=2) / self._counts.sum(axis=1)[:, None].clip(min=1))

    def _rejected(self) -> NDArray[np.bool_]:
        """Candidates that are out: clearly worse on a part than what they are compared with, or than their start."""
        return self._worse_than(None) | self._worse_than_start()

    def _worse_than_start(self) -> NDArray[np.bool_]:
        rejected = np.array([candidate in self._rejected_elsewhere for candidate in self.candidates], dtype=bool)
        return rejected if self._unchanged is None else rejected | self._worse_than(self._unchanged)

    def _worse_than(self, start: int | None) -> NDArray[np.bool_]:
        """Candidates that lose on a part against one of them, or, of None, against the reference by the margin."""
        rejected = np.zeros(len(self.candidates), dtype=bool)
        dev = self._counts.sum(axis=0) * self._in_dev, self._gains.sum(axis=0) * self._in_dev
        for counts, gains in [*zip(self._counts, self._gains, strict=True), dev]:
            there = counts > 0
            if counts.sum() < _MIN_PART or there.sum() < 2:
                continue
            each, means = gains[:, there] / counts[there], gains.sum(axis=1) / counts.sum()
            if start is None:
                rejected |= clearly_worse(each, means + self._against.margin)
            else:
                rejected |= clearly_worse(each - each[start], means - means[start])
        return rejected

    @property
    def _unchanged(self) -> int | None:
        """Which of the candidates changes nothing."""
        unchanged = self._against.unchanged
        return None if unchanged is None else self.candidates.index(unchanged)

    def _ranked(self) -> NDArray[np.float64]:
        """Gains, of what is out behind all others; where only the start counts, the best of it can still be told."""
        gains = self._weighted(self._gains).sum(axis=1)
        if self._unchanged is None:
            return np.where(self._rejected(), -np.inf, gains)
        gains = np.where(self._worse_than(None), gains - _BEHIND, gains)
        return np.where(self._worse_than_start(), -np.inf, gains)


def clearly_worse(gains: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidates lose by more than 1.28 standard errors: (C,), of their (C, Q) gains, Q > 1, and (C,) means."""
    errors = gains.std(axis=1, ddof=1) / math.sqrt(gains.shape[1])
    return np.asarray(means < -_REJECTED_BEYOND * errors)
