"""From the judgements of a split to batches of anchors, positives and negatives, without work per sample in Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit, place_in_group
from st_adapter.fitting.arguments import AdapterTrainingArguments

_NOBODY = -1
# A query with more documents than this is not what the others' memory is laid out for.
_MANY = 256
# Hits held at once while mining.
_BLOCK_HITS = 2**22


class Batch(NamedTuple):
    """What one training step sees: B (query, positive) pairs and M candidates that all of them share.

    Attributes:
        anchors: (B, D) query embeddings.
        anchor_scale: (B, 1) factor that turns products with a document into similarities of about unit size.
        positives: (B, D) document embeddings.
        candidates: (M, D) document embeddings.
        log_priors: (M,) logarithm of how many documents each candidate stands for.
        excluded: (B, M) bool, True where a candidate is no negative of the pair.
        weights: (B,) weight of each pair; their mean over the whole split is 1.
    """

    anchors: Tensor
    anchor_scale: Tensor
    positives: Tensor
    candidates: Tensor
    log_priors: Tensor
    excluded: Tensor
    weights: Tensor


class LabelledPairs(NamedTuple):
    """The relevant pairs of a split, ordered by query.

    Attributes:
        queries: (Q, D) embeddings of the queries with a relevant document.
        rows: (P,) int64, the query of each pair.
        documents: (P,) int64 into the corpus.
        weights: (P,) float32: each query counts alike, its positives by relevance; their mean is 1.
    """

    queries: Tensor
    rows: Tensor
    documents: Tensor
    weights: Tensor


def labelled_pairs(split: EmbeddedSplit) -> LabelledPairs:
    """Collect the relevant pairs of a split.

    Raises:
        ValueError: no query has a relevant document.
    """
    relevant = split.qrels.relevance > 0
    if not relevant.any():
        raise ValueError(
            f"The training split {split.name!r} has no relevant pair, so there is nothing to learn from. "
            "Check the relevance scores: > 0 is relevant."
        )
    query_index, order = split.qrels.query_index[relevant].sort(stable=True)
    relevance = split.qrels.relevance[relevant][order]
    queries, rows = query_index.unique_consecutive(return_inverse=True)
    share = relevance / torch.zeros(len(queries), device=rows.device).index_add_(0, rows, relevance)[rows]
    documents = split.qrels.corpus_index[relevant][order]
    return LabelledPairs(split.query_embeddings[queries], rows, documents, share * (len(share) / len(queries)))


class BatchSampler:
    """Draw batches of pairs, reshuffled each time all have been seen, with candidates from the chosen pool.

    Documents with the very same vector are one candidate, and none of them is ever a negative of a query that has one
    of them as a positive or as its own copy. Shapes do not change from batch to batch.

    Args:
        split: the training split.
        args: settings; ``negatives``, ``num_negatives``, ``unlabelled_weight``, ``per_device_train_batch_size`` and
            ``seed`` are read.

    Raises:
        ValueError: no query has a relevant document, or given negatives were asked for and there are none.
    """

    def __init__(self, split: EmbeddedSplit, args: AdapterTrainingArguments) -> None:
        self.args = args
        self.device = split.query_embeddings.device
        self.generator = torch.Generator().manual_seed(args.seed)
        self.corpus = MemoryCorpus.of(split.corpus, self.device)
        self.first = self.corpus.first_of_equal
        pairs = labelled_pairs(split)
        self.pairs = pairs._replace(documents=self.first[pairs.documents])
        self._scale = _similarity_scale(self.corpus, pairs.queries)
        self.batch_size = min(args.per_device_train_batch_size, len(pairs.rows))
        self._barred = _barred(split, self.pairs, self.first)
        labelled = self.pairs.documents.unique()
        rest = self.first == torch.arange(len(self.first), device=self.device)
        rest[labelled] = False
        self._shuffled = {
            "pairs": _Shuffled(torch.arange(len(pairs.rows))),
            "labelled": _Shuffled(labelled),
            "unlabelled": _Shuffled(rest.nonzero().squeeze(1) if args.negatives == "corpus" else labelled[:0]),
        }
        self._pair_rows = self.pairs.rows.cpu()
        self.given: Tensor | None = None  # (Q, negatives) further candidates of each query
        if args.negatives == "given":
            self.given = _given_negatives(split, self.first, args.seed)
        self._column = torch.full((len(self.corpus) + 1,), _NOBODY, device=self.device)

    @property
    def starts_epoch(self) -> bool:
        """Whether the next batch is the first of a new order."""
        return self._shuffled["pairs"].is_used_up(self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every pair has been seen once (the last incomplete batch is left to the next epoch)."""
        return max(1, len(self.pairs.rows) // self.batch_size)

    def mine(self, queries: Tensor) -> None:
        """Search the corpus with the adapted (Q, D) training queries and keep each one's hardest negatives.

        Documents scoring above 95 % of the query's best positive are taken for relevant ones without a judgement and
        left out (positive-aware mining: Moreira et al. 2024, https://arxiv.org/abs/2407.15831, TopK-PercPos).
        """
        best = (queries[self.pairs.rows] * self.corpus.rows(self.pairs.documents)).sum(dim=1)
        best = torch.full((len(queries),), -math.inf, device=self.device).scatter_reduce(
            0, self.pairs.rows, best, "amax"
        )
        self.given = torch.empty((len(queries), self.args.num_hard_negatives), dtype=torch.int64, device=self.device)
        for rows, depth in self._mining_plan():
            found = self.corpus.search(queries[rows], depth)
            documents = self.first[found.indices]
            kept = found.scores < 0.95 * best[rows].unsqueeze(1)
            kept &= ~self._barred.holds(rows.unsqueeze(1), documents)
            # A stable sort puts the kept documents first, hardest first.
            order = kept.long().sort(dim=1, descending=True, stable=True).indices[:, : self.args.num_hard_negatives]
            hardest = torch.where(kept.gather(1, order), documents.gather(1, order), _NOBODY)
            self.given[rows] = torch.nn.functional.pad(
                hardest, (0, self.args.num_hard_negatives - hardest.shape[1]), value=_NOBODY
            )

    def _mining_plan(self) -> Iterator[tuple[Tensor, int]]:
        """Blocks of queries, and how many documents to find for each, so that enough are left without the barred ones.

        Queries with very many positives are searched deeper than the others, and in smaller blocks.
        """
        counts = self._barred.counts
        band = (counts.clamp_min(1) / _MANY).log2().ceil().clamp_min(0)
        for number in band.unique():
            rows = (band == number).nonzero().squeeze(1)
            depth = min(self.args.num_hard_negatives + int(counts[rows].max()) + 16, len(self.corpus))
            for block in rows.split(max(1, _BLOCK_HITS // depth)):
                yield block.to(self.device), depth

    def next(self) -> Batch:
        """The next batch."""
        drawn = self._shuffled["pairs"].take(self.batch_size, self.generator)
        pairs = drawn.to(self.device)
        rows, documents = self.pairs.rows[pairs], self.pairs.documents[pairs]
        if self.args.negatives in ("corpus", "positives"):
            labelled, labelled_prior = self._sample(self._shuffled["labelled"], 1.0)
            rest, rest_prior = self._sample(self._shuffled["unlabelled"], self.args.unlabelled_weight)
            candidates, log_priors = torch.cat([labelled, rest]), torch.cat([labelled_prior, rest_prior])
        else:
            candidates = documents if self.given is None else torch.cat([documents, self.given[rows].flatten()])
            log_priors = torch.zeros(len(candidates), device=self.device)
            candidates = torch.where(_is_repeated(candidates), _NOBODY, candidates)
        excluded = self._is_barred(self._pair_rows[drawn], candidates) | (candidates == _NOBODY)
        return Batch(
            self.pairs.queries.index_select(0, rows),
            self._scale[rows],
            self.corpus.rows(documents),
            self.corpus.rows(candidates.clamp_min(0)),
            log_priors,
            excluded,
            self.pairs.weights[pairs],
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What ``load_state_dict`` needs to go on with the very same batches."""
        state = {"generator": self.generator.get_state()}
        for name, shuffled in self._shuffled.items():
            state |= {f"{name}.{key}": value for key, value in shuffled.state_dict().items()}
        return state if self.given is None else {**state, "given": self.given}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.generator.set_state(state["generator"])
        for name, shuffled in self._shuffled.items():
            shuffled.load_state_dict({key: state[f"{name}.{key}"] for key in ("order", "at")})
        if "given" in state:
            self.given = state["given"].to(self.device)

    def _sample(self, pool: _Shuffled, weight: float) -> tuple[Tensor, Tensor]:
        """Up to ``num_negatives`` documents of a pool, and the log of how many each stands for, times ``weight``."""
        size = min(len(pool.items), self.args.num_negatives)
        if size == 0 or weight == 0:
            return pool.items[:0], torch.zeros(0, device=self.device)
        prior = torch.full((size,), math.log(weight * len(pool.items) / size), device=self.device)
        return (pool.items if size == len(pool.items) else pool.take(size, self.generator)), prior

    def _is_barred(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """(B, M) bool: the candidate, all of them different, is barred for the query; rows on the CPU."""
        queries, place = rows.unique(return_inverse=True)
        entries, owner = (index.to(self.device) for index in self._barred.entries(queries))
        self._column[candidates] = torch.arange(len(candidates), device=self.device)
        columns = self._column[self._barred.documents.index_select(0, entries)]
        self._column[candidates] = _NOBODY
        mask = torch.zeros(len(queries), len(candidates) + 1, dtype=torch.bool, device=self.device)
        mask[owner, columns] = True  # nobody's column is the last
        return mask[:, :-1].index_select(0, place.to(self.device))


class _Barred:
    """The documents that are no negatives of each query, one after the other: memory for the pairs alone.

    Args:
        rows: (P,) queries.
        documents: (P,) their documents.
        num_queries: Q.
        num_documents: N.
    """

    def __init__(self, rows: Tensor, documents: Tensor, num_queries: int, num_documents: int) -> None:
        self._num_documents = num_documents
        self._keys = (rows * num_documents + documents).unique()  # sorted
        self.documents = self._keys % num_documents
        # On the CPU, where batches are drawn: no device is waited for to learn how many there are.
        self.counts = torch.bincount(self._keys // num_documents, minlength=num_queries).cpu()
        self._starts = self.counts.cumsum(0) - self.counts

    def entries(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The places in ``documents`` that belong to (U,) queries, and for each place which of these; on the CPU."""
        counts = self.counts[queries]
        owner = torch.arange(len(queries)).repeat_interleave(counts)
        shift = self._starts[queries] - (counts.cumsum(0) - counts)
        return torch.arange(len(owner)) + shift[owner], owner

    def holds(self, rows: Tensor, documents: Tensor) -> Tensor:
        """Whether each document is barred for the query beside it; shapes that broadcast."""
        wanted = rows * self._num_documents + documents
        place = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
        held: Tensor = self._keys[place] == wanted
        return held


class _Shuffled:
    """Items that are handed out in random order, each once before any comes again."""

    def __init__(self, items: Tensor) -> None:
        self.items = items
        self._order = torch.empty(0, dtype=torch.int64)
        self._at = 0

    def is_used_up(self, size: int) -> bool:
        """Whether the next ``size`` items start a new order (a rest too small for them is left out)."""
        return self._at + size > len(self._order)

    def take(self, size: int, generator: torch.Generator) -> Tensor:
        """The next ``size`` items, all different."""
        if self.is_used_up(size):
            self._order, self._at = torch.randperm(len(self.items), generator=generator), 0
        chosen = self._order[self._at : self._at + size]
        self._at += size
        return self.items.index_select(0, chosen.to(self.items.device))

    def state_dict(self) -> dict[str, Tensor]:
        return {"order": self._order, "at": torch.tensor(self._at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._order, self._at = state["order"], int(state["at"])


def _similarity_scale(corpus: MemoryCorpus, queries: Tensor) -> Tensor:
    """(Q, 1): 1 / |query| where the cosine counts; for dot products of any size one number for all queries."""
    lengths = queries.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if corpus.similarity == "dot":
        lengths = (lengths.mean() * corpus.embeddings.norm(dim=1).mean().clamp_min(1e-12)).expand_as(lengths)
    scale: Tensor = 1 / lengths
    return scale


def _barred(split: EmbeddedSplit, pairs: LabelledPairs, first: Tensor) -> _Barred:
    """The positives of each training query and its own copies."""
    row_of = _training_rows(split)
    copies = split.left_out
    rows = row_of[copies.query_index]
    trained = rows != _NOBODY
    return _Barred(
        torch.cat([pairs.rows, rows[trained]]),
        torch.cat([pairs.documents, first[copies.corpus_index[trained]]]),
        len(pairs.queries),
        len(first),
    )


def _training_rows(split: EmbeddedSplit) -> Tensor:
    """For each query of a split its row among those with a relevant document: (Q,) int64."""
    rows = torch.full((len(split.query_ids),), _NOBODY, device=split.qrels.query_index.device)
    trained = split.qrels.query_index[split.qrels.relevance > 0].unique()
    rows[trained] = torch.arange(len(trained), device=rows.device)
    return rows


def _is_repeated(candidates: Tensor) -> Tensor:
    """(M,) bool: the same candidate stands further left as well."""
    ordered, order = candidates.sort(stable=True)
    same = torch.zeros_like(candidates, dtype=torch.bool)
    same[order[1:]] = ordered[1:] == ordered[:-1]
    return same


def _given_negatives(split: EmbeddedSplit, first: Tensor, seed: int) -> Tensor:
    """The documents judged not relevant, by training query: (Q, most negatives); of very many some, by chance."""
    relevant = split.qrels.relevance > 0
    row_of = _training_rows(split)
    rows = row_of[split.qrels.query_index]
    judged = ~relevant & (rows != _NOBODY)
    if not judged.any():
        raise ValueError(
            f"negatives is 'given', but the split {split.name!r} has no document judged not relevant (a negative "
            "column, or a score of 0). Add some, or choose negatives='corpus'."
        )
    rows, order = rows[judged].sort(stable=True)
    documents = first[split.qrels.corpus_index[judged][order]]
    num_rows = int(row_of.max()) + 1
    if int(torch.bincount(rows).max()) > _MANY:
        shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
        rows, order = rows[shuffled].sort(stable=True)
        documents = documents[shuffled][order]
    place = place_in_group(rows, num_rows)
    kept = place < _MANY
    given = torch.full((num_rows, int(place[kept].max()) + 1), _NOBODY, device=rows.device)
    given[rows[kept], place[kept]] = documents[kept]
    return given
