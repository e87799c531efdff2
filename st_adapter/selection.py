"""Measure candidates on queries their fit did not see, choose the best one, and test it against the base model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.embeddings import EmbeddedSplit, place_in_group
from st_adapter.statistics import Gate, gate, sign_flip_p_values

_K = 10  # the cut-off of nDCG
# A candidate that loses on either part by more than this many standard errors is out.
_REJECTED_BEYOND = 1.28
# A part of fewer queries says nothing of its own.
_MIN_PART = 8
# Scores of one source held at once while measuring: 2**23 float32 are 32 MiB, and up to 20 sources are held together.
_BLOCK_SCORES = 2**23
# In a corpus of this size, candidates are compared on the best documents of each source; in a smaller one on all.
_POOL_FROM, _POOL_DEPTH, _GROUP = 4096, 32, 32
# Below every score, and finite, so that a share of 0 of it is 0.
_LOWEST = -1e30


class Source(NamedTuple):
    """A linear map that was fitted in every fold.

    Attributes:
        family: what was fitted; of a family the best member may enter an average.
        detail: the member, such as ``ridge 1`` or ``160 steps``.
    """

    family: str
    detail: str

    def __str__(self) -> str:
        return f"{self.family}, {self.detail}"


class Part(NamedTuple):
    """One source, shrunk towards the identity: ``(1 - share) I + share W``."""

    source: Source
    share: float

    def __str__(self) -> str:
        return f"{self.source}, share {self.share:g}"


Candidate = tuple[Part, ...]
"""The parts whose maps are averaged; usually one."""


@dataclass(frozen=True)
class CandidateResult:
    """What a candidate did on queries that its fit had not seen; gains are nDCG@10 above the base model's.

    Attributes:
        name: what it is.
        gain: weighted mean of the two parts.
        gain_seen: on queries whose documents were positives of some training query; NaN if there were none.
        gain_unseen: on queries none of whose documents was.
        p_value: that it is no better than the base, one-sided, adjusted for the number of candidates tested.
        rejected: whether it was clearly worse on one of the parts.
    """

    name: str
    gain: float
    gain_seen: float
    gain_unseen: float
    p_value: float
    rejected: bool


class Measure:
    """nDCG@10 of many maps on the same queries, from the ranks of their relevant documents.

    A rank is one more than the number of documents that score higher, which needs no sorting; equal scores count in
    favour of base and candidate alike. A query's own copies do not count.

    In a large corpus most documents are out of every candidate's reach. A candidate's scores are a mean of the base's
    and its sources' scores, so a document outside of the best ones of each scores at most the mean of where these
    leave off: the threshold algorithm of Fagin, Lotem & Naor 2003 ("Optimal aggregation algorithms for middleware").
    Counting among the best is therefore exact where a relevant document lies above that threshold, or below ten others;
    the few candidates and queries left are counted over all documents, with the same scores.
    """

    def __init__(self, split: EmbeddedSplit) -> None:
        self.split = split
        order = split.qrels.query_index.argsort(stable=True)
        self.rows, self.documents = split.qrels.query_index[order], split.qrels.corpus_index[order]
        self.relevance = split.qrels.relevance[order]
        self.copies = split.left_out
        self.one_each = len(self.rows) == len(split.query_ids)
        self.ideal = self._ideal()
        self.block = max(1, _BLOCK_SCORES // len(split.corpus_ids))
        self.base = torch.cat([self._ndcg(base, start) for start, _, base in self._blocks()])

    def gains(self, candidates: Sequence[Candidate], matrices: dict[Source, Tensor]) -> dict[Candidate, Tensor]:
        """Gain over the base, (Q,), of every candidate whose sources were fitted."""
        possible = [c for c in candidates if all(part.source in matrices for part in c)]
        sources = list(dict.fromkeys(part.source for candidate in possible for part in candidate))
        values: dict[Candidate, list[Tensor]] = {candidate: [] for candidate in possible}
        pooled = len(self.split.corpus_ids) >= _POOL_FROM
        for start, queries, base in self._blocks():
            # Scores are linear in the map, so shrunk and averaged maps need no product of their own.
            scores = {s: self._scores(queries @ matrices[s].T, start) for s in sources}
            pool = _Pool([base, *scores.values()]) if pooled and possible else None
            for candidate in possible:
                if pool is None:
                    ndcg = self._ndcg(_mixed(candidate, base, scores), start)
                else:
                    ndcg = self._pooled_ndcg(candidate, base, scores, pool, start)
                values[candidate].append(ndcg)
        return {candidate: torch.cat(parts) - self.base for candidate, parts in values.items()}

    def _blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First row, queries and base scores of blocks that fit into memory."""
        for start in range(0, len(self.split.query_ids), self.block):
            queries = self.split.query_embeddings[start : start + self.block]
            if self.split.similarity == "cosine":
                queries = torch.nn.functional.normalize(queries)
            yield start, queries, self._scores(queries, start)

    def _scores(self, queries: Tensor, start: int) -> Tensor:
        """The scores (B, N) of all documents for the queries of a block; own copies lie below all others."""
        scores = queries @ self.split.corpus_embeddings.T
        here = (self.copies.query_index >= start) & (self.copies.query_index < start + len(queries))
        scores[self.copies.query_index[here] - start, self.copies.corpus_index[here]] = _LOWEST
        return scores

    def _pairs(self, start: int, num_rows: int) -> slice:
        """The relevant pairs of the queries of a block."""
        bounds = torch.tensor([start, start + num_rows], device=self.rows.device)
        return slice(*torch.searchsorted(self.rows, bounds).tolist())

    def _ndcg(self, scores: Tensor, start: int) -> Tensor:
        """nDCG@10 of the queries of a block, counted over all documents."""
        every_pair = self._pairs(start, len(scores))
        first, last = every_pair.start, every_pair.stop
        ranks = []
        for low in range(first, last, self.block):
            pairs = slice(low, min(low + self.block, last))
            rows = self.rows[pairs] - start
            own = scores[rows, self.documents[pairs]]
            # With one relevant document a query, the rows follow each other and need not be copied.
            every = scores[low - first : low - first + len(rows)] if self.one_each else scores[rows]
            ranks.append((every > own.unsqueeze(1)).sum(dim=1))
        return self._from_ranks(torch.cat(ranks) if ranks else self.rows[:0], every_pair, start, len(scores))

    def _pooled_ndcg(
        self, candidate: Candidate, base: Tensor, scores: dict[Source, Tensor], pool: _Pool, start: int
    ) -> Tensor:
        """nDCG@10 of the queries of a block, counted where it can change."""
        pairs = self._pairs(start, len(base))
        rows, documents = self.rows[pairs] - start, self.documents[pairs]

        def among(values: list[Tensor]) -> Tensor:
            return _mixed(candidate, values[0], dict(zip(scores, values[1:], strict=True)))

        best = among(pool.scores).topk(min(_K, pool.size), dim=1).values  # (B, K)
        own = _mixed(candidate, base[rows, documents], {s: values[rows, documents] for s, values in scores.items()})
        ranks = (best[rows] > own.unsqueeze(1)).sum(dim=1)
        unsure = (ranks < _K) & (own < among(pool.thresholds)[rows])
        if unsure.any():
            again, place = rows[unsure].unique(return_inverse=True)
            every = _mixed(candidate, base[again], {s: values[again] for s, values in scores.items()})
            for low in range(0, len(place), self.block):
                part = slice(low, low + self.block)
                counted = (every[place[part]] > own[unsure][part].unsqueeze(1)).sum(dim=1)
                ranks[unsure.nonzero().squeeze(1)[part]] = counted
        return self._from_ranks(ranks, pairs, start, len(base))

    def _from_ranks(self, ranks: Tensor, pairs: slice, start: int, num_rows: int) -> Tensor:
        """nDCG@10 from the ranks, from 0, of the relevant pairs of a block."""
        gain = torch.where(ranks < _K, self.relevance[pairs] / torch.log2(ranks + 2.0), 0.0)
        dcg = torch.zeros(num_rows, device=ranks.device).index_add_(0, self.rows[pairs] - start, gain)
        return dcg / self.ideal[start : start + num_rows]

    def _ideal(self) -> Tensor:
        order = self.relevance.argsort(descending=True, stable=True)
        order = order[self.rows[order].argsort(stable=True)]
        place = place_in_group(self.rows[order], len(self.split.query_ids))
        gain = torch.where(place < _K, self.relevance[order] / torch.log2(place + 2.0), 0.0)
        return torch.zeros(len(self.split.query_ids), device=order.device).index_add_(0, self.rows[order], gain)


class _Pool:
    """The best documents of several scorings of the same queries, each once.

    Args:
        scorings: (B, N) scores each.

    Attributes:
        scores: for each scoring the (B, P) scores of the documents of the pool; the lowest score fills up.
        thresholds: for each scoring (B,) scores that no document outside of the pool exceeds.
        size: P.
    """

    def __init__(self, scorings: Sequence[Tensor]) -> None:
        best, thresholds = zip(*(_best(scores, _POOL_DEPTH) for scores in scorings), strict=True)
        documents = torch.cat(best, dim=1).sort(dim=1).values
        repeated = torch.zeros_like(documents, dtype=torch.bool)
        repeated[:, 1:] = documents[:, 1:] == documents[:, :-1]
        self.size = int((~repeated).sum(dim=1).max())
        order = repeated.long().sort(dim=1, stable=True).indices[:, : self.size]
        documents, repeated = documents.gather(1, order), repeated.gather(1, order)
        self.scores = [scores.gather(1, documents).masked_fill(repeated, _LOWEST) for scores in scorings]
        self.thresholds = list(thresholds)


def _best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Which documents (B, M) score best, in no order, and a score (B,) that no other one exceeds."""
    num_rows, num_documents = scores.shape
    num_groups = num_documents // _GROUP
    grouped = scores[:, : num_groups * _GROUP].view(num_rows, _GROUP, num_groups)
    # The best documents lie in the groups with the best maxima: sorting these is quicker than sorting the documents.
    groups = grouped.amax(dim=1).topk(number, dim=1).indices  # (B, M)
    inside = (groups.unsqueeze(1) + num_groups * torch.arange(_GROUP, device=scores.device).unsqueeze(1)).flatten(1)
    rest = torch.arange(num_groups * _GROUP, num_documents, device=scores.device).expand(num_rows, -1)
    documents = torch.cat([inside, rest], dim=1)
    found = scores.gather(1, documents).topk(number, dim=1)
    return documents.gather(1, found.indices), found.values[:, -1]


def _mixed(candidate: Candidate, base: Tensor, scores: Mapping[Source, Tensor]) -> Tensor:
    """The candidate's scores from the base's and its sources' scores of the same pairs.

    Rounding keeps the order of sums of the same form, so what bounds the parts bounds the sum.
    """
    mixed = base * (1 - sum(part.share for part in candidate) / len(candidate))
    for part in candidate:
        mixed += scores[part.source] * (part.share / len(candidate))
    return mixed


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


class Scoreboard:
    """Gains of all candidates on all queries, seen and unseen apart."""

    def __init__(self, candidates: list[Candidate], num_queries: int, unseen_weight: float) -> None:
        self.candidates = candidates
        self.unseen_weight = unseen_weight
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
            family = candidate[0].source.family
            if family in reached:
                reached[family] = max(reached[family], float(gain))
        best = sorted(among, key=lambda family: -reached[family])[:number]
        return [family for family in among if family in best]

    def drop_families(self, families: Sequence[str]) -> None:
        """Forget the candidates of families that were not measured in every fold."""
        kept = [n for n, candidate in enumerate(self.candidates) if candidate[0].source.family not in families]
        self.candidates = [self.candidates[number] for number in kept]
        self._gains = self._gains[:, kept]

    def averages_of_the_best(self) -> list[Candidate]:
        """The best candidate of each family, two and three of them averaged."""
        ranked = self._ranked()
        best: dict[str, Candidate] = {}
        for number in np.argsort(-ranked, kind="stable"):
            if ranked[number] > 0:
                best.setdefault(self.candidates[number][0].source.family, self.candidates[number])
        top = [candidate[0] for candidate in best.values()]
        return [tuple(top[:size]) for size in (2, 3) if len(top) >= size]

    def verdict(self, alpha: float, seed: int) -> Verdict:
        """Choose the best candidate that is not rejected, and test it."""
        ranked, rejected = self._ranked(), self._rejected()
        measured = self._counts.sum(axis=0) > 0
        weighted = self._weighted(self._gains)[:, measured]  # (C, Q); sums over the queries are gains
        p_values = sign_flip_p_values(weighted, seed)
        seen_gains, unseen_gains = self._part_means(self._gains)
        order = np.argsort(-ranked, kind="stable")
        results = [
            CandidateResult(
                name=" + ".join(map(str, self.candidates[number])),
                gain=float(weighted[number].sum()),
                gain_seen=float(seen_gains[number]),
                gain_unseen=float(unseen_gains[number]),
                p_value=float(p_values[number]),
                rejected=bool(rejected[number]),
            )
            for number in order
        ]
        best = int(order[0])
        # As differences whose plain mean is the weighted gain.
        differences = weighted[best] * measured.sum()
        num_seen, num_unseen = (self._counts > 0).sum(axis=1).tolist()
        return Verdict(
            chosen=self.candidates[best],
            gate=gate(differences, float(p_values[best]), alpha=alpha, seed=seed, rejected=bool(rejected[best])),
            candidates=results,
            base=float(self._weighted(self._base[:, None]).sum()),
            num_seen=num_seen,
            num_unseen=num_unseen,
            unseen_weight=float(self._weights()[1]),
        )

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
        """(2, C, Q) sums -> (2, C) means, NaN for a part without queries."""
        sizes = self._counts.sum(axis=1)[:, None]
        return np.asarray(np.where(sizes > 0, values.sum(axis=2) / sizes.clip(min=1), np.nan))

    def _rejected(self) -> NDArray[np.bool_]:
        rejected = np.zeros(len(self.candidates), dtype=bool)
        for counts, gains in zip(self._counts, self._gains, strict=True):
            there = counts > 0
            if counts.sum() >= _MIN_PART and there.sum() > 1:
                each = gains[:, there] / counts[there]
                error = each.std(axis=1, ddof=1) / math.sqrt(there.sum())
                rejected |= gains.sum(axis=1) / counts.sum() < -_REJECTED_BEYOND * error
        return rejected

    def _ranked(self) -> NDArray[np.float64]:
        return np.where(self._rejected(), -np.inf, self._weighted(self._gains).sum(axis=1))
