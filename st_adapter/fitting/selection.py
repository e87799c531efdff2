"""Measure candidates on queries their fit did not see, choose the best one, and test it against the base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit, OwnCopies, place_in_group
from st_adapter.evaluation.statistics import Gate, gate, sign_flip_p_values

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
_BASE: Candidate = ()


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
        self.corpus = MemoryCorpus.of(split.corpus, split.query_embeddings.device)
        order = split.qrels.query_index.argsort(stable=True)
        self.rows, self.documents = split.qrels.query_index[order], split.qrels.corpus_index[order]
        self.relevance = split.qrels.relevance[order]
        self.copies = split.left_out
        self.one_each = len(self.rows) == len(split.query_ids)
        self.ideal = self._ideal()
        self.block = max(1, _BLOCK_SCORES // len(self.corpus))
        self._base: Tensor | None = None
        self._pools: dict[int, _Pool] = {}

    @property
    def base(self) -> Tensor:
        """nDCG@10 of the base model, (Q,)."""
        if self._base is None:
            self._base = self._measured([_BASE], {})[_BASE]
        return self._base

    def gains(self, candidates: Sequence[Candidate], matrices: dict[Source, Tensor]) -> dict[Candidate, Tensor]:
        """Gain over the base, (Q,), of every candidate whose sources were fitted."""
        possible = [c for c in candidates if all(part.source in matrices for part in c)]
        # The base's scores are there already: it is measured along.
        values = self._measured([*([_BASE] if self._base is None else []), *possible], matrices)
        self._base = values.pop(_BASE, self._base)
        return {candidate: ndcg - self.base for candidate, ndcg in values.items()}

    def _measured(self, candidates: Sequence[Candidate], matrices: dict[Source, Tensor]) -> dict[Candidate, Tensor]:
        """nDCG@10 of every candidate, (Q,)."""
        sources = list(dict.fromkeys(part.source for candidate in candidates for part in candidate))
        pooled = len(sources) > 0 and len(self.corpus) >= _POOL_FROM
        values: dict[Candidate, list[Tensor]] = {candidate: [] for candidate in candidates}
        for start in range(0, len(self.split.query_ids), self.block):
            scores = _Scores(self.split, self.corpus, self.copies, slice(start, start + self.block), matrices)
            if pooled and not (start in self._pools and self._pools[start].holds(sources)):
                pairs = self._pairs(start, scores.num_rows)
                scorings = {source: scores[source] for source in (None, *sources)}
                self._pools[start] = _Pool(scorings, self.rows[pairs] - start, self.documents[pairs])
            for candidate in candidates:
                if pooled:
                    values[candidate].append(self._pooled_ndcg(candidate, scores, self._pools[start], start))
                else:
                    values[candidate].append(self._ndcg(_mixed(candidate, scores), start))
        return {candidate: torch.cat(parts) for candidate, parts in values.items()}

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

    def _pooled_ndcg(self, candidate: Candidate, scores: _Scores, pool: _Pool, start: int) -> Tensor:
        """nDCG@10 of the queries of a block, counted where it can change."""
        pairs = self._pairs(start, scores.num_rows)
        rows = self.rows[pairs] - start
        best = _mixed(candidate, pool.scores).topk(min(_K, pool.size), dim=1).values  # (B, K)
        own = _mixed(candidate, pool.own)
        ranks = (best[rows] > own.unsqueeze(1)).sum(dim=1)
        unsure = (ranks < _K) & (own < _mixed(candidate, pool.thresholds)[rows])
        if unsure.any():
            again, place = rows[unsure].unique(return_inverse=True)
            every = _mixed(candidate, {source: scores[source][again] for source in _parts(candidate)})
            counted = [
                (every[one] > other.unsqueeze(1)).sum(dim=1)
                for one, other in zip(place.split(self.block), own[unsure].split(self.block), strict=True)
            ]
            ranks[unsure] = torch.cat(counted)
        return self._from_ranks(ranks, pairs, start, scores.num_rows)

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


class _Scores:
    """The scores (B, N) of the base, under None, and of sources on some queries of a split, computed when asked for.

    Own copies lie below all other documents.
    """

    def __init__(
        self,
        split: EmbeddedSplit,
        corpus: MemoryCorpus,
        copies: OwnCopies,
        rows: slice,
        matrices: Mapping[Source, Tensor],
    ) -> None:
        self._queries = split.comparable(split.query_embeddings[rows])
        self._corpus = corpus
        self._matrices = matrices
        self._known: dict[Source | None, Tensor] = {}
        self.num_rows = len(self._queries)
        here = (copies.query_index >= rows.start) & (copies.query_index < rows.stop)
        self._copies = copies.query_index[here] - rows.start, copies.corpus_index[here]

    def __getitem__(self, source: Source | None) -> Tensor:
        if source not in self._known:
            queries = self._queries if source is None else self._queries @ self._matrices[source].T
            scores = self._corpus.scores(queries)
            scores[self._copies] = _LOWEST
            self._known[source] = scores
        return self._known[source]


class _Pool:
    """The best documents of several scorings of the same queries, each once.

    Args:
        scorings: (B, N) scores each.
        rows: (P,) the queries of the relevant pairs.
        documents: (P,) their documents.

    Attributes:
        scores: for each scoring the (B, size) scores of the documents of the pool; the lowest score fills up.
        thresholds: for each scoring (B,) scores that no document outside of the pool exceeds.
        own: for each scoring the (P,) scores of the relevant pairs.
        size: how many documents the pool of a query has at most.
    """

    def __init__(self, scorings: Mapping[Source | None, Tensor], rows: Tensor, documents: Tensor) -> None:
        found = {source: _best(scores, _POOL_DEPTH) for source, scores in scorings.items()}
        pool = torch.cat([best for best, _ in found.values()], dim=1).sort(dim=1).values
        repeated = torch.zeros_like(pool, dtype=torch.bool)
        repeated[:, 1:] = pool[:, 1:] == pool[:, :-1]
        self.size = int((~repeated).sum(dim=1).max())
        order = repeated.long().sort(dim=1, stable=True).indices[:, : self.size]
        pool, repeated = pool.gather(1, order), repeated.gather(1, order)
        self.scores = {s: scores.gather(1, pool).masked_fill(repeated, _LOWEST) for s, scores in scorings.items()}
        self.thresholds = {source: threshold for source, (_, threshold) in found.items()}
        self.own = {source: scores[rows, documents] for source, scores in scorings.items()}

    def holds(self, sources: Sequence[Source]) -> bool:
        """Whether all of these scorings are among the pool's."""
        return all(source in self.scores for source in sources)


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


class _Scorings(Protocol):
    """The scores of the same pairs by the base, under None, and by sources."""

    def __getitem__(self, source: Source | None, /) -> Tensor: ...


def _parts(candidate: Candidate) -> list[Source | None]:
    """What a candidate's scores are mixed from."""
    return [None, *(part.source for part in candidate)]


def _mixed(candidate: Candidate, scores: _Scorings) -> Tensor:
    """A candidate's scores from those of its parts.

    Rounding keeps the order of sums of the same form, so what bounds the parts bounds the sum.
    """
    number = max(1, len(candidate))
    mixed = scores[None] * (1 - sum(part.share for part in candidate) / number)
    for part in candidate:
        mixed += scores[part.source] * (part.share / number)
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
