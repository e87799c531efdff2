"""What a fit is compared with besides the queries it was given, or in their place: how well something else finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.measure import Measure
from st_adapter.fitting.pool import seen_by_fit


class Reference(NamedTuple):
    """Something else that finds documents for the same queries.

    Attributes:
        name: of it, in a sentence.
        ndcg: labelled query -> nDCG@10.
        margin: how much worse than it, in nDCG@10, still passes; 0: only what is better does.
        queries: the labelled queries as the documents' own model embeds them, if what is fitted comes from another one;
            see ``learned_from``.
    """

    name: str
    ndcg: Mapping[str, float]
    margin: float = 0.0
    queries: EmbeddedSplit | None = None

    def of(self, split: EmbeddedSplit) -> Tensor:
        """nDCG@10 of the queries of a split, (Q,) float32, on their device.

        Raises:
            ValueError: a query is missing.
        """
        missing = [query_id for query_id in split.query_ids if query_id not in self.ndcg]
        if missing:
            raise ValueError(
                f"{self.name[:1].upper()}{self.name[1:]} has nothing for {len(missing)} of the {len(split.query_ids)} "
                f"labelled queries, the first: {missing[:3]}. Give it for all of them."
            )
        values = [self.ndcg[query_id] for query_id in split.query_ids]
        return torch.tensor(values, device=split.query_embeddings.device)


def learned_from(split: EmbeddedSplit, reference: Reference | None) -> EmbeddedSplit:
    """The queries of a split, and once more as the model of the documents embeds them, with the same judgements.

    A bridge leads near the vectors of that model, but not quite there, and elsewhere for the queries to come. From both
    forms of a query a fit learns what does not depend on where the bridge was off.

    Args:
        split: labelled queries, as a bridge maps them or not.
        reference: without queries of its own, the split is all that there is.
    """
    if reference is None or reference.queries is None:
        return split
    row_of = {query_id: row for row, query_id in enumerate(reference.queries.query_ids)}
    rows = [row_of[query_id] for query_id in split.query_ids]
    there = replace(split, query_embeddings=reference.queries.query_embeddings[rows])
    further = len(rows)
    pairs, copies = split.qrels, (split.left_out, there.left_out)
    return replace(
        split,
        query_ids=[*split.query_ids, *split.query_ids],
        query_embeddings=torch.cat([split.query_embeddings, there.query_embeddings]),
        qrels=EmbeddedQrels(
            torch.cat([pairs.query_index, pairs.query_index + further]),
            *(torch.cat([each, each]) for each in (pairs.corpus_index, pairs.relevance)),
        ),
        own_copies=OwnCopies(
            torch.cat([copies[0].query_index, copies[1].query_index + further]),
            torch.cat([each.corpus_index for each in copies]),
        ),
    )


class DeployedAdapter(NamedTuple):
    """The adapter in use: what is fitted now takes its place only if it is better than that as well.

    Attributes:
        adapter: it; nothing of it is fitted here.
        known: labelled queries that it was fitted on. What is fitted now has not seen them where it is measured, so on
            these the two cannot be compared.
        caution: why it looks better than it is, in a sentence, where it cannot be helped.
    """

    adapter: QueryAdapter
    known: Collection[str] = frozenset()
    caution: str = ""

    def gains(self, split: EmbeddedSplit, base: Tensor) -> Tensor:
        """What it gains on the queries of a split, (Q,) in nDCG@10; NaN on those that it knows.

        Args:
            split: Q queries.
            base: (Q,) nDCG@10 of the base model on them.
        """
        with torch.no_grad():
            mapped = self.adapter.to(split.query_embeddings.device).transform(split.query_embeddings)
        found = Measure(replace(split, query_embeddings=mapped)).base
        known = torch.tensor([query_id in self.known for query_id in split.query_ids], device=found.device)
        return (found - base).masked_fill(known, torch.nan)


class Hurdle(NamedTuple):
    """What the best candidate has to pass.

    Attributes:
        alpha: level of the test, 0 < alpha < 1.
        reference: what it is compared with, if not the queries that were given, as they are.
        deployed: what it is compared with besides.
    """

    alpha: float
    reference: Reference | None = None
    deployed: DeployedAdapter | None = None


def found_by(embedded: EmbeddedDataset, seed: int = 0) -> dict[str, float]:
    """nDCG@10 of the labelled queries, by id, with the vectors that a data set has for them.

    Args:
        embedded: with the splits ``train`` and ``dev``.
        seed: of the part of a very large corpus that is looked at; see ``pooled``.
    """
    labelled = seen_by_fit(labelled_split(embedded), seed)
    return dict(zip(labelled.query_ids, Measure(labelled).base.tolist(), strict=True))
