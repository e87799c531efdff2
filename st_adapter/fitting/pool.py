"""What a fit sees of a corpus that is too large for it: a part that stands for the whole."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Corpus, MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies

# Larger corpora are not seen whole: the time of a fit would grow with them, and what is learned would not change.
MAX_DOCUMENTS = 200_000
_DEPTH, _SAMPLE = 100, 50_000
_QUERIES_AT_ONCE = 1024


def seen_by_fit(split: EmbeddedSplit, seed: int = 0) -> EmbeddedSplit:
    """A split with its documents in memory, or of a large corpus the part that a fit needs; see ``pooled``."""
    if len(split.corpus) <= MAX_DOCUMENTS:
        return split.in_memory()
    return pooled(split, seed, _DEPTH, _SAMPLE)


def pooled(split: EmbeddedSplit, seed: int = 0, depth: int = _DEPTH, sample: int = _SAMPLE) -> EmbeddedSplit:
    """A split over the documents that matter to its queries, and a sample that stands for all others.

    Of the corpus are kept: all judged documents, the queries' own copies, what the base model finds for each query, and
    of the rest a uniform sample without replacement. A document of the sample stands for as many as it was drawn from
    (the Horvitz-Thompson estimator, 1952): in the softmax over the corpus, and where documents above a relevant one are
    counted.

    Args:
        split: queries with the whole corpus.
        seed: of the sample.
        depth: documents that the corpus's own search finds for each query, >= 1.
        sample: documents of the rest, >= 1.
    """
    corpus, device = split.corpus, split.query_embeddings.device
    found = [
        corpus.search(queries, min(depth, len(corpus))).indices.flatten()
        for queries in split.comparable(split.query_embeddings).split(_QUERIES_AT_ONCE)
    ]
    named = torch.cat([*found, split.qrels.corpus_index, split.left_out.corpus_index])
    known = named[named >= 0].unique()
    rest = torch.ones(len(corpus), dtype=torch.bool, device=device)
    rest[known] = False
    others = rest.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = others[torch.randperm(len(others), generator=generator)[:sample].to(device)]
    documents, order = torch.cat([known, drawn]).sort()
    weights = torch.ones(len(documents), device=device)
    weights[len(known) :] = len(others) / max(1, len(drawn))
    memory = _in_memory(corpus, documents, weights[order])
    copies = split.own_copies if split.own_copies is None else _kept(split.own_copies, documents)
    judged = torch.searchsorted(documents, split.qrels.corpus_index)
    return replace(split, corpus=memory, qrels=split.qrels._replace(corpus_index=judged), own_copies=copies)


def _in_memory(corpus: Corpus, documents: Tensor, weights: Tensor) -> MemoryCorpus:
    ids = [corpus.ids[row] for row in documents.tolist()]
    return MemoryCorpus(ids, corpus.rows(documents), corpus.similarity, weights)


def _kept(copies: OwnCopies, documents: Tensor) -> OwnCopies:
    """The own copies among the (M,) documents of the pool, sorted, as indices into these."""
    there = torch.isin(copies.corpus_index, documents)
    return OwnCopies(copies.query_index[there], torch.searchsorted(documents, copies.corpus_index[there]))
