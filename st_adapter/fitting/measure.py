"""nDCG@10 of many candidates on the same queries, without sorting the corpus for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit, place_in_group
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.fitting.candidates import BASE, Candidate, MapName, mixed, scorings_of
from st_adapter.fitting.maps import QueryMap

_K = 10  # the cut-off of nDCG
# Scores of one map held at once while measuring: 2**23 float32 are 32 MiB, and up to 20 maps are held together.
_BLOCK_SCORES = 2**23
# In a corpus of this size, candidates are compared on the best documents of each map; in a smaller one on all.
_POOL_FROM, _POOL_DEPTH, _GROUP = 4096, 32, 32
# Below every score, and finite, so that a share of 0 of it is 0.
_LOWEST = -1e30


class Measure:
    """nDCG@10 of many maps on the same queries, from the ranks of their relevant documents.

    A rank is one more than the number of documents that score higher, which needs no sorting; equal scores count in
    favour of base and candidate alike. A query's own copies do not count.

    In a large corpus most documents are out of every candidate's reach. A candidate's scores are a mean of the base's
    and its maps' scores, so a document outside of the best ones of each scores at most the mean of where these
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
        self.weights = self.corpus.stands_for
        self.ideal = self._ideal()
        self.block = max(1, _BLOCK_SCORES // len(self.corpus))
        self._base: Tensor | None = None
        self._pools: dict[int, _Pool] = {}

    @property
    def base(self) -> Tensor:
        """nDCG@10 of the base model, (Q,)."""
        if self._base is None:
            self._base = self._measured([BASE], {})[BASE]
        return self._base

    def gains(self, candidates: Sequence[Candidate], maps: Mapping[MapName, QueryMap]) -> dict[Candidate, Tensor]:
        """Gain over the base, (Q,), of every candidate whose maps were fitted."""
        possible = [c for c in candidates if all(shrunk.name in maps for shrunk in c)]
        # The base's scores are there already: it is measured along.
        values = self._measured([*([BASE] if self._base is None else []), *possible], maps)
        self._base = values.pop(BASE, self._base)
        return {candidate: ndcg - self.base for candidate, ndcg in values.items()}

    def _measured(self, candidates: Sequence[Candidate], maps: Mapping[MapName, QueryMap]) -> dict[Candidate, Tensor]:
        """nDCG@10 of every candidate, (Q,)."""
        names = list(dict.fromkeys(shrunk.name for candidate in candidates for shrunk in candidate))
        pooled = len(names) > 0 and len(self.corpus) >= _POOL_FROM
        values: dict[Candidate, list[Tensor]] = {candidate: [] for candidate in candidates}
        for start in range(0, len(self.split.query_ids), self.block):
            scores = _Scores(self.split, self.corpus, self.copies, slice(start, start + self.block), maps)
            if pooled and not (start in self._pools and self._pools[start].holds(names)):
                pairs = self._pairs(start, scores.num_rows)
                scorings = {name: scores[name] for name in (None, *names)}
                self._pools[start] = _Pool(scorings, self.rows[pairs] - start, self.documents[pairs])
            for candidate in candidates:
                if pooled:
                    values[candidate].append(self._pooled_ndcg(candidate, scores, self._pools[start], start))
                else:
                    values[candidate].append(self._ndcg(mixed(candidate, scores), start))
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
            ranks.append(self._number(every > own.unsqueeze(1)))
        return self._from_ranks(torch.cat(ranks) if ranks else self.rows[:0], every_pair, start, len(scores))

    def _pooled_ndcg(self, candidate: Candidate, scores: _Scores, pool: _Pool, start: int) -> Tensor:
        """nDCG@10 of the queries of a block, counted where it can change."""
        pairs = self._pairs(start, scores.num_rows)
        rows = self.rows[pairs] - start
        best, places = mixed(candidate, pool.scores).topk(min(_K, pool.size), dim=1)  # (B, K)
        own = mixed(candidate, pool.own)
        higher = best[rows] > own.unsqueeze(1)
        documents = None if self.weights is None else pool.documents.gather(1, places)[rows]
        ranks = self._number(higher, documents)
        unsure = (ranks < _K) & (own < mixed(candidate, pool.thresholds)[rows])
        if unsure.any():
            again, place = rows[unsure].unique(return_inverse=True)
            every = mixed(candidate, {name: scores[name][again] for name in scorings_of(candidate)})
            counted = [
                self._number(every[one] > other.unsqueeze(1))
                for one, other in zip(place.split(self.block), own[unsure].split(self.block), strict=True)
            ]
            ranks[unsure] = torch.cat(counted)
        return self._from_ranks(ranks, pairs, start, scores.num_rows)

    def _number(self, higher: Tensor, documents: Tensor | None = None) -> Tensor:
        """How many documents of the whole corpus the (P, M) marked ones stand for; all in order if not named."""
        if self.weights is None:
            return higher.sum(dim=1)
        return (higher * (self.weights if documents is None else self.weights[documents])).sum(dim=1)

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
    """The scores (B, N) of the base, under None, and of maps on some queries of a split, computed when asked for.

    Own copies lie below all other documents.
    """

    def __init__(
        self,
        split: EmbeddedSplit,
        corpus: MemoryCorpus,
        copies: OwnCopies,
        rows: slice,
        maps: Mapping[MapName, QueryMap],
    ) -> None:
        # As the base model gives them, which is what maps take; their lengths change no order.
        self._queries = split.query_embeddings[rows]
        self._corpus = corpus
        self._maps = maps
        self._known: dict[MapName | None, Tensor] = {}
        self.num_rows = len(self._queries)
        here = (copies.query_index >= rows.start) & (copies.query_index < rows.stop)
        self._copies = copies.query_index[here] - rows.start, copies.corpus_index[here]

    def __getitem__(self, name: MapName | None) -> Tensor:
        if name not in self._known:
            queries = self._queries if name is None else self._maps[name](self._queries)
            scores = self._corpus.scores(queries)
            scores[self._copies] = _LOWEST
            self._known[name] = scores
        return self._known[name]


class _Pool:
    """The best documents of several scorings of the same queries, each once.

    Args:
        scorings: (B, N) scores each.
        rows: (P,) the queries of the relevant pairs.
        documents: (P,) their documents.

    Attributes:
        documents: (B, size) which documents they are.
        scores: for each scoring their (B, size) scores; the lowest score fills up.
        thresholds: for each scoring (B,) scores that no document outside of the pool exceeds.
        own: for each scoring the (P,) scores of the relevant pairs.
        size: how many documents the pool of a query has at most.
    """

    def __init__(self, scorings: Mapping[MapName | None, Tensor], rows: Tensor, documents: Tensor) -> None:
        found = {name: _best(scores, _POOL_DEPTH) for name, scores in scorings.items()}
        pool = torch.cat([best for best, _ in found.values()], dim=1).sort(dim=1).values
        repeated = torch.zeros_like(pool, dtype=torch.bool)
        repeated[:, 1:] = pool[:, 1:] == pool[:, :-1]
        self.size = int((~repeated).sum(dim=1).max())
        order = repeated.long().sort(dim=1, stable=True).indices[:, : self.size]
        pool, repeated = pool.gather(1, order), repeated.gather(1, order)
        self.documents = pool
        self.scores = {name: scores.gather(1, pool).masked_fill(repeated, _LOWEST) for name, scores in scorings.items()}
        self.thresholds = {name: threshold for name, (_, threshold) in found.items()}
        self.own = {name: scores[rows, documents] for name, scores in scorings.items()}

    def holds(self, names: Sequence[MapName]) -> bool:
        """Whether all of these scorings are among the pool's."""
        return all(name in self.scores for name in names)


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
