"""Cut the labelled queries into folds that show both documents asked for before and documents that are new."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.fitting.pairs import LabelledPairs, labelled_pairs

LABELLED_SPLITS = ("train", "dev")
"""What a fit learns from and chooses by."""
# Fits on few labels gain much from each of them, so that few are left out at a time.
NUM_FOLDS, NUM_FOLDS_OF_FEW = 3, 10
# With fewer labelled queries the folds are drawn again, up to three times, so that each is measured more than once.
_REPEAT_BELOW, _MAX_REPEATS = 400, 3
# Measuring more queries than this would cost time and no longer change a choice (standard error about .007).
_MAX_MEASURED = 3000
# Unit vectors nearer than this are the same text to the model; batches alone shift a vector by about 1e-7.
_COPY_DISTANCE = 1e-3
_COMPARED_NEIGHBOURS = 32
# This share of the queries to come may be about documents that no training query asks for, as far as there are such
# documents: a user's dev split understates it.
_MIN_UNSEEN = 0.3


class Fold(NamedTuple):
    """One way to leave queries out; (Q,) bool each.

    Attributes:
        train: queries to fit on.
        measured: queries to measure on, none of them in ``train``.
        unseen: queries none of whose documents is a positive of a query in ``train``.
    """

    train: Tensor
    measured: Tensor
    unseen: Tensor

    def training(self, learned: EmbeddedSplit) -> EmbeddedSplit:
        """What is fitted on of all that is learned from: the Q queries, or these once more behind them."""
        return learned.subset(self.train.repeat(len(learned.query_ids) // len(self.train)))


def draw_labels(embedded: EmbeddedDataset, numbers: Mapping[str, int], seed: int) -> EmbeddedDataset:
    """Keep a random subset of the queries of some splits; the other splits stay whole.

    Args:
        embedded: the data set.
        numbers: split -> queries to keep; a split with fewer keeps them all.
        seed: a larger draw with the same seed contains every smaller one, whatever the other numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    qrels = dict(embedded.qrels)
    for split, number in numbers.items():
        rows = embedded.qrels[split].query_index
        queries = rows.unique().cpu()
        drawn = queries[torch.randperm(len(queries), generator=generator)[:number]].to(rows.device)
        kept = torch.isin(rows, drawn)
        qrels[split] = EmbeddedQrels(*(part[kept] for part in embedded.qrels[split]))
    return replace(embedded, qrels=qrels)


def labelled_split(embedded: EmbeddedDataset, splits: Sequence[str] = LABELLED_SPLITS) -> EmbeddedSplit:
    """The relevant pairs of some splits as one split, each pair once."""
    if not isinstance(embedded, EmbeddedDataset):
        raise ValueError(
            f"An EmbeddedDataset is expected, but a {type(embedded).__name__} came. Pass what embed() gave."
        )
    for split in splits:
        if not bool((embedded[split].qrels.relevance > 0).any()):
            raise ValueError(f"The split {split!r} has no relevant pair. Check the relevance scores: > 0 is relevant.")
    parts = [EmbeddedQrels(*(part[q.relevance > 0] for part in q)) for q in (embedded.qrels[split] for split in splits)]
    query_index, corpus_index, relevance = (torch.cat(columns) for columns in zip(*parts, strict=True))
    keys = query_index * len(embedded.corpus) + corpus_index
    distinct, group = keys.unique(return_inverse=True)
    relevance = torch.zeros(len(distinct), device=keys.device).scatter_reduce(0, group, relevance, "amax")
    merged = EmbeddedQrels(distinct // len(embedded.corpus), distinct % len(embedded.corpus), relevance)
    return replace(embedded, qrels={"labelled": merged})["labelled"]


class ShownByDev(NamedTuple):
    """What the dev split says about the queries to come.

    Attributes:
        unseen: share of its queries none of whose documents is a positive in train, 0-1.
        at_least: lower end of the 95 % interval of that share.
        at_most: its upper end.
        query_ids: its queries with a relevant document.
    """

    unseen: float
    at_least: float
    at_most: float
    query_ids: frozenset[str]


def shown_by_dev(embedded: EmbeddedDataset) -> ShownByDev:
    """Look at how many dev queries ask for documents that no training query asks for.

    The interval is the exact one of Clopper & Pearson 1934 ("The use of confidence or fiducial limits illustrated in
    the case of the binomial").
    """
    train, dev = embedded["train"].qrels, embedded["dev"].qrels
    relevant = dev.relevance > 0
    seen = torch.isin(dev.corpus_index[relevant], train.corpus_index[train.relevance > 0])
    queries, rows = dev.query_index[relevant].unique(return_inverse=True)
    hits = torch.zeros(len(queries), device=seen.device).index_add_(0, rows, seen.float())
    interval = binomtest(int((hits == 0).sum()), len(queries)).proportion_ci(0.95)
    ids = embedded["dev"].query_ids
    share = float((hits == 0).float().mean())
    judged = frozenset(ids[row] for row in queries.tolist())
    return ShownByDev(share, float(interval.low), float(interval.high), judged)


def asked_once_share(labelled: EmbeddedSplit) -> float:
    """Share of the queries none of whose documents another query asks for, 0-1."""
    return float(_asked_once(labelled_pairs(labelled), len(labelled.query_ids)).float().mean())


def _asked_once(pairs: LabelledPairs, num_queries: int) -> Tensor:
    """(Q,) bool: queries none of whose documents another one asks for."""
    _, of_pair, counts = pairs.documents.unique(return_inverse=True, return_counts=True)
    lonely = torch.ones(num_queries, dtype=torch.bool, device=pairs.rows.device)
    lonely[pairs.rows[counts[of_pair] > 1]] = False
    return lonely


def unasked_share(labelled: EmbeddedSplit) -> float:
    """Share of the documents that no labelled query asks for, 0-1."""
    corpus = MemoryCorpus.of(labelled.corpus, labelled.query_embeddings.device)
    asked = labelled_pairs(labelled).documents.unique()
    if corpus.stands_for is None:
        return 1 - len(asked) / len(corpus)
    return 1 - float(corpus.stands_for[asked].sum() / corpus.stands_for.sum())


def expected_unseen(labelled: EmbeddedSplit, dev: ShownByDev) -> float:
    """The share of queries to come that is expected to ask for new documents."""
    # All labelled queries together tell it better than those of dev, unless these were chosen otherwise.
    shown = asked_once_share(labelled)
    shown = shown if dev.at_least <= shown <= dev.at_most else dev.unseen
    return max(shown, min(_MIN_UNSEEN, unasked_share(labelled)))


def folds_of(labelled: EmbeddedSplit, unseen_share: float, num_folds: int, seed: int) -> list[Fold]:
    """The folds of ``cross_fit_folds``, of which there is at least one.

    Raises:
        ValueError: the queries cannot be cut.
    """
    folds = list(cross_fit_folds(labelled, unseen_share, torch.Generator().manual_seed(seed), num_folds))
    if not folds:
        raise ValueError(
            f"The {len(labelled.query_ids)} labelled queries cannot be cut into a part to fit on and a part to "
            "measure: they are one query to the model, or too few. Add labelled queries."
        )
    return folds


def cross_fit_folds(
    labelled: EmbeddedSplit, unseen_share: float, generator: torch.Generator, num_folds: int = NUM_FOLDS
) -> Iterator[Fold]:
    """Cut the queries into folds; as many documents are held out whole as give the unseen queries their share.

    A query that touches a document held out in its fold leaves the training side, whatever its own fold: so one giant
    component of the query-document graph is no obstacle.
    """
    num_queries, device = len(labelled.query_ids), labelled.query_embeddings.device
    pairs = labelled_pairs(labelled)
    group = near_copies(labelled.query_embeddings)
    documents, of_pair = pairs.documents.unique(return_inverse=True)
    unseen_anyway = float(_asked_once(pairs, num_queries).float().mean())
    held_share = max(0.0, min(1.0, (unseen_share - unseen_anyway) / max(1e-6, 1 - unseen_anyway)))

    def shuffled(size: int) -> Tensor:
        return torch.randperm(size, generator=generator).to(device)

    num_repeats = 1 if num_queries >= _REPEAT_BELOW else min(_MAX_REPEATS, math.ceil(_REPEAT_BELOW / num_queries))
    for _ in range(num_repeats):
        order = shuffled(len(of_pair))
        main_document = torch.zeros(num_queries, dtype=torch.int64, device=device)
        main_document[pairs.rows[order]] = of_pair[order]
        held = torch.rand(len(documents), generator=generator).to(device) < held_share
        fold_of_document = shuffled(len(documents)) % num_folds
        fold = torch.where(held[main_document], fold_of_document[main_document], shuffled(num_queries) % num_folds)
        # A query whose copy was trained on would be measured on what was learned by heart.
        fold = fold[group]
        chance = min(1.0, _MAX_MEASURED / num_queries)
        for number in range(num_folds):
            train = fold != number
            train[pairs.rows[held[of_pair] & (fold_of_document[of_pair] == number)]] = False
            known = torch.zeros(len(documents), dtype=torch.bool, device=device)
            known[of_pair[train[pairs.rows]]] = True
            unseen = torch.ones(num_queries, dtype=torch.bool, device=device)
            unseen[pairs.rows[known[of_pair]]] = False
            measured = (fold == number) & (torch.rand(num_queries, generator=generator) < chance).to(device)
            if train.any() and measured.any():
                yield Fold(train, measured, unseen)


def near_copies(query_embeddings: Tensor) -> Tensor:
    """For each query the first one with the same vector up to rounding, such as one that differs in case: (Q,) int64.

    Copies lie side by side when all queries are sorted by their product with a random direction, so each is compared
    with its neighbours there and not with every other one.
    """
    queries = torch.nn.functional.normalize(query_embeddings)
    direction = torch.randn(queries.shape[1], generator=torch.Generator().manual_seed(0)).to(queries.device)
    order = (queries @ direction).argsort(stable=True)
    ordered = queries[order]
    first = torch.arange(len(queries), device=queries.device)
    for distance in range(1, min(_COMPARED_NEIGHBOURS, len(queries) - 1) + 1):
        same = (ordered[distance:] - ordered[:-distance]).norm(dim=1) < _COPY_DISTANCE
        one, other = order[:-distance][same], order[distance:][same]
        lower, higher = torch.minimum(one, other), torch.maximum(one, other)
        first.scatter_reduce_(0, higher, first[lower], "amin")
    while not torch.equal(first, first[first]):  # follow chains of copies to their first member
        first = first[first]
    return first
