"""Choose the candidate that gained most on queries its fit did not see, and test it against the base model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.evaluation.statistics import Gate, Tolerated, gate, sign_flip_p_values
from st_adapter.fitting.candidates import Candidate
from st_adapter.fitting.verdict import Against, AgainstDeployed, CandidateResult, Verdict

# A candidate that loses on either part by more than this many standard errors is out.
_REJECTED_BEYOND = 1.28
# More than gains can differ by.
_BEHIND = 10.0
# A part of fewer queries says nothing of its own.
_MIN_PART = 8
# Nor does one that fewer of the queries to come are expected to be of: on documents that were all asked for before,
# folds leave some queries without theirs, but what is fitted on all labels knows them.
_LEAST_WEIGHT = 0.05


class Scoreboard:
    """Gains of all candidates on all queries, seen and unseen apart.

    Args:
        candidates: what is measured.
        in_dev: (Q,) which of the labelled queries are of the dev split: a candidate that is clearly worse on these
            alone is out as well.
        unseen_weight: weight of the unseen part, 0-1.
        against: what the candidates are compared with; the base model if None.
        with_deployed: whether they are compared with the adapter in use as well.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        in_dev: NDArray[np.bool_],
        unseen_weight: float,
        against: Against | None = None,
        *,
        with_deployed: bool = False,
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
        self._deployed = np.zeros((2, num_queries)) if with_deployed else None  # NaN where it does not count

    def add(
        self,
        rows: Tensor,
        unseen: Tensor,
        base: Tensor,
        gains: dict[Candidate, Tensor],
        deployed: Tensor | None = None,
    ) -> None:
        """Enter what one fold measured.

        Args:
            rows: its queries.
            unseen: which of them are.
            base: nDCG@10 on them of what candidates are compared with.
            gains: of every candidate on them.
            deployed: gains of the adapter in use, NaN on queries that it was fitted on.
        """
        at = (unseen.cpu().numpy(), rows.cpu().numpy())
        self._counts[at] += 1
        self._base[at] += base.cpu().numpy()
        if self._deployed is not None and deployed is not None:
            self._deployed[at] += deployed.cpu().numpy()
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
            unseen_weight=float(self._weights(self._counts)[1]),
            against_deployed=self._second_gate(best, alpha, seed),
        )

    def _second_gate(self, best: int, alpha: float, seed: int) -> AgainstDeployed | None:
        """The best candidate against the adapter in use, and that against the base, on the same queries."""
        if self._deployed is None:
            return None
        counts, ahead, own = self._beside_deployed(self._deployed)

        def tested(gains: NDArray[np.float64], of: int, against: str) -> Gate:
            weighted = self._weighted(gains, counts)[:, counts.sum(axis=0) > 0]
            p_value = float(sign_flip_p_values(weighted, seed)[of])
            rejected = bool(self._worse_on_a_part(gains, counts)[of])
            differences = weighted[of] * weighted.shape[1]
            return gate(differences, p_value, alpha=alpha, seed=seed, rejected=rejected, against=against)

        return AgainstDeployed(tested(ahead, best, "the deployed adapter"), tested(own, 0, self._against.name))

    def _beside_deployed(
        self, deployed: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """On queries that the adapter in use was not fitted on: counts (2, Q), gains over it (2, C, Q), its own."""
        counts = self._counts * ~np.isnan(deployed)
        own = np.nan_to_num(deployed)[:, None]
        return counts, np.where(counts[:, None] > 0, self._gains - own, 0.0), own

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

    def _weights(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights of the two parts; their natural shares if one is too small to speak for itself."""
        sizes = counts.sum(axis=1)
        if sizes.min() < _MIN_PART:
            return np.asarray(sizes / sizes.sum())
        return np.array([1 - self.unseen_weight, self.unseen_weight])

    def _weighted(self, values: NDArray[np.float64], counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """(2, C, Q) sums -> (C, Q) so weighted that the sum over the queries counted is the weighted mean."""
        counts = self._counts if counts is None else counts
        return np.asarray(np.tensordot(self._weights(counts) / counts.sum(axis=1).clip(min=1), values, axes=1))

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
        if start is None:
            return self._worse_on_a_part(self._gains, self._counts, self._against.margin)
        return self._worse_on_a_part(self._gains - self._gains[:, start : start + 1], self._counts)

    def _worse_than_deployed(self) -> NDArray[np.bool_]:
        """Candidates that lose on a part against the adapter in use."""
        if self._deployed is None:
            return np.zeros(len(self.candidates), dtype=bool)
        counts, ahead, _ = self._beside_deployed(self._deployed)
        return self._worse_on_a_part(ahead, counts)

    def _worse_on_a_part(
        self, gains: NDArray[np.float64], counts: NDArray[np.float64], margin: float = 0.0
    ) -> NDArray[np.bool_]:
        """Which rows of (2, C, Q) sums of gains are clearly negative, beyond a margin, on a part or on dev: (C,)."""
        rejected = np.zeros(gains.shape[1], dtype=bool)
        dev = counts.sum(axis=0) * self._in_dev, gains.sum(axis=0) * self._in_dev
        weights = [1 - self.unseen_weight, self.unseen_weight, 1.0]
        for weight, count, part in zip(weights, [*counts, dev[0]], [*gains, dev[1]], strict=True):
            there = count > 0
            if weight < _LEAST_WEIGHT or count.sum() < _MIN_PART or there.sum() < 2:
                continue
            rejected |= clearly_worse(part[:, there] / count[there], part.sum(axis=1) / count.sum() + margin)
        return rejected

    @property
    def _unchanged(self) -> int | None:
        """Which of the candidates changes nothing."""
        unchanged = self._against.unchanged
        return None if unchanged is None else self.candidates.index(unchanged)

    def _ranked(self) -> NDArray[np.float64]:
        """Gains, of what is out behind all others; where only the start counts, the best of it can still be told."""
        gains = self._weighted(self._gains).sum(axis=1)
        gains = np.where(self._worse_than_deployed(), gains - _BEHIND, gains)
        if self._unchanged is None:
            return np.where(self._rejected(), -np.inf, gains)
        gains = np.where(self._worse_than(None), gains - _BEHIND, gains)
        return np.where(self._worse_than_start(), -np.inf, gains)


def clearly_worse(gains: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidates lose by more than 1.28 standard errors: (C,), of their (C, Q) gains, Q > 1, and (C,) means."""
    errors = gains.std(axis=1, ddof=1) / math.sqrt(gains.shape[1])
    return np.asarray(means < -_REJECTED_BEYOND * errors)
