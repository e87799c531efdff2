"""From the judgements of a split to batches of anchors, positives and negatives, without work per sample in Python."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.negatives import barred_documents, given_negatives
from st_adapter.fitting.pairs import NOBODY, labelled_pairs

# Queries of a teacher in each batch, with some thirty documents each.
_SOFT_BATCH = 64


class SoftBatch(NamedTuple):
    """What one training step sees of a teacher: S queries without labels, each with K documents of its own.

    Attributes:
        anchors: (S, D) query embeddings.
        anchor_scale: (S, 1) as in ``Batch``.
        documents: (S, K, D) document embeddings.
        targets: (S, K) how likely each is to the teacher; each row sums to 1.
        weight: how much they count beside the pairs, which count 1.
    """

    anchors: Tensor
    anchor_scale: Tensor
    documents: Tensor
    targets: Tensor
    weight: float


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
        soft: what a teacher says of other queries; None without one.
    """

    anchors: Tensor
    anchor_scale: Tensor
    positives: Tensor
    candidates: Tensor
    log_priors: Tensor
    excluded: Tensor
    weights: Tensor
    soft: SoftBatch | None = None


class Drawn(NamedTuple):
    """Which pairs and documents a step sees, on the CPU.

    Attributes:
        pairs: (B,) int64 into the pairs of the sampler.
        labelled: documents that are a positive of some training query, int64 into the corpus.
        unlabelled: other documents, likewise.
    """

    pairs: Tensor
    labelled: Tensor
    unlabelled: Tensor


class BatchSampler:
    """Draw batches of pairs, reshuffled each time all have been seen, with candidates from the chosen pool.

    Documents with the very same vector are one candidate, and none of them is ever a negative of a query that has one
    of them as a positive or as its own copy. Shapes do not change from batch to batch.

    Args:
        split: the training split.
        args: settings; ``negatives``, ``num_negatives``, ``unlabelled_weight``, ``per_device_train_batch_size`` and
            ``seed`` are read.
        soft_targets: what a teacher says of queries without labels, some of them in each batch.

    Raises:
        ValueError: no query has a relevant document, or given negatives were asked for and there are none.
    """

    def __init__(
        self, split: EmbeddedSplit, args: AdapterTrainingArguments, soft_targets: SoftTargets | None = None
    ) -> None:
        self.args = args
        self.device = split.query_embeddings.device
        self.generator = torch.Generator().manual_seed(args.seed)
        self.corpus = MemoryCorpus.of(split.corpus, self.device)
        self.first = self.corpus.first_of_equal
        pairs = labelled_pairs(split)
        self.pairs = pairs._replace(documents=self.first[pairs.documents])
        self.scale = _similarity_scale(self.corpus, pairs.queries)
        self.batch_size = min(args.per_device_train_batch_size, len(pairs.rows))
        self.barred = barred_documents(split, self.pairs, self.first)
        labelled = self.pairs.documents.unique()
        rest = self.first == torch.arange(len(self.first), device=self.device)
        rest[labelled] = False
        # On the CPU, so that no device is waited for.
        self._shuffled = {
            "pairs": _Shuffled(torch.arange(len(pairs.rows))),
            "labelled": _Shuffled(labelled.cpu()),
            "unlabelled": _Shuffled(rest.nonzero().squeeze(1).cpu()),
        }
        self._pair_rows = self.pairs.rows.cpu()
        self._log_priors = self.log_priors(args.unlabelled_weight).to(self.device)
        # (Q, negatives) further candidates of each query
        self.given = given_negatives(split, self.first, args.seed) if args.negatives == "given" else None
        self._soft = None if soft_targets is None else _SoftSampler(soft_targets)
        self._column = torch.full((len(self.corpus) + 1,), NOBODY, device=self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every pair has been seen once (the last incomplete batch is left to the next epoch)."""
        return max(1, len(self.pairs.rows) // self.batch_size)

    def next(self) -> Batch:
        """The next batch."""
        return self.batch(self.draw())

    def draw(self) -> Drawn:
        """What the next batch is made of."""
        pairs = self._shuffled["pairs"].take(self.batch_size, self.generator)
        corpus, weight = self.args.negatives == "corpus", self.args.unlabelled_weight
        return Drawn(
            pairs,
            self._sample(self._shuffled["labelled"] if corpus else _NONE),
            self._sample(self._shuffled["unlabelled"] if corpus and weight > 0 else _NONE),
        )

    def batch(self, drawn: Drawn) -> Batch:
        """The batch itself."""
        pairs = drawn.pairs.to(self.device)
        rows, documents = self.pairs.rows[pairs], self.pairs.documents[pairs]
        if self.given is None:
            candidates = torch.cat([drawn.labelled, drawn.unlabelled]).to(self.device)
            log_priors = self._log_priors
            if self.corpus.stands_for is not None:
                log_priors = log_priors + self.corpus.stands_for[candidates].log()
        else:
            candidates = torch.cat([documents, self.given[rows].flatten()])
            log_priors = torch.zeros(len(candidates), device=self.device)
            candidates = torch.where(_is_repeated(candidates), NOBODY, candidates)
        excluded = self._is_barred(self._pair_rows[drawn.pairs], candidates) | (candidates == NOBODY)
        return Batch(
            self.pairs.queries.index_select(0, rows),
            self.scale[rows],
            self.corpus.rows(documents),
            self.corpus.rows(candidates.clamp_min(0)),
            log_priors,
            excluded,
            self.pairs.weights[pairs],
            None if self._soft is None else self._soft.next(self.generator),
        )

    def log_priors(self, unlabelled_weight: float) -> Tensor:
        """(M,) logarithm of how many documents of its kind each candidate stands for, times their weight."""
        parts = []
        for kind, weight in (("labelled", 1.0), ("unlabelled", unlabelled_weight)):
            available = len(self._shuffled[kind].items) if weight > 0 else 0
            drawn = min(available, self.args.num_negatives)
            parts.append(torch.full((drawn,), math.log(weight * available / drawn) if drawn else 0.0))
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Tensor]:
        """What ``load_state_dict`` needs to go on with the very same batches."""
        state = {"generator": self.generator.get_state()}
        for name, shuffled in self._shuffled.items():
            state |= {f"{name}.{key}": value for key, value in shuffled.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.generator.set_state(state["generator"])
        for name, shuffled in self._shuffled.items():
            shuffled.load_state_dict({key: state[f"{name}.{key}"] for key in ("order", "at")})

    def _sample(self, pool: _Shuffled) -> Tensor:
        """Up to ``num_negatives`` documents of a pool."""
        size = min(len(pool.items), self.args.num_negatives)
        return pool.items if size == len(pool.items) else pool.take(size, self.generator)

    def _is_barred(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """(B, M) bool: the candidate, all of them different, is barred for the query; rows on the CPU."""
        queries, place = rows.unique(return_inverse=True)
        entries, owner = (index.to(self.device) for index in self.barred.entries(queries))
        self._column[candidates] = torch.arange(len(candidates), device=self.device)
        columns = self._column[self.barred.documents.index_select(0, entries)]
        self._column[candidates] = NOBODY
        mask = torch.zeros(len(queries), len(candidates) + 1, dtype=torch.bool, device=self.device)
        mask[owner, columns] = True  # nobody's column is the last
        return mask[:, :-1].index_select(0, place.to(self.device))


class _SoftSampler:
    """Draw queries of a teacher, reshuffled each time all have been seen."""

    def __init__(self, soft_targets: SoftTargets) -> None:
        self._soft_targets = soft_targets
        queries = soft_targets.queries
        corpus = MemoryCorpus.of(queries.corpus, queries.query_embeddings.device)
        self._scale = _similarity_scale(corpus, queries.query_embeddings)
        self._order = _Shuffled(torch.arange(len(queries.query_ids)))

    def next(self, generator: torch.Generator) -> SoftBatch:
        soft_targets, queries = self._soft_targets, self._soft_targets.queries
        size = min(_SOFT_BATCH, len(queries.query_ids))
        rows = self._order.take(size, generator).to(queries.query_embeddings.device)
        documents = soft_targets.documents[rows]
        return SoftBatch(
            queries.query_embeddings.index_select(0, rows),
            self._scale[rows],
            queries.corpus.rows(documents.flatten()).view(*documents.shape, -1),
            soft_targets.targets[rows],
            soft_targets.weight,
        )


class _Shuffled:
    """Items that are handed out in random order, each once before any comes again."""

    def __init__(self, items: Tensor) -> None:
        self.items = items
        self._order = torch.empty(0, dtype=torch.int64)
        self._at = 0

    def take(self, size: int, generator: torch.Generator) -> Tensor:
        """The next ``size`` items, all different; a rest too small for them is left out."""
        if self._at + size > len(self._order):
            self._order, self._at = torch.randperm(len(self.items), generator=generator), 0
        chosen = self._order[self._at : self._at + size]
        self._at += size
        return self.items.index_select(0, chosen)

    def state_dict(self) -> dict[str, Tensor]:
        return {"order": self._order, "at": torch.tensor(self._at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._order, self._at = state["order"], int(state["at"])


_NONE = _Shuffled(torch.empty(0, dtype=torch.int64))


def _similarity_scale(corpus: MemoryCorpus, queries: Tensor) -> Tensor:
    """(Q, 1): 1 / |query| where the cosine counts; for dot products of any size one number for all queries."""
    lengths = queries.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if corpus.similarity == "dot":
        lengths = (lengths.mean() * corpus.embeddings.norm(dim=1).mean().clamp_min(1e-12)).expand_as(lengths)
    scale: Tensor = 1 / lengths
    return scale


def _is_repeated(candidates: Tensor) -> Tensor:
    """(M,) bool: the same candidate stands further left as well."""
    ordered, order = candidates.sort(stable=True)
    same = torch.zeros_like(candidates, dtype=torch.bool)
    same[order[1:]] = ordered[1:] == ordered[:-1]
    return same
