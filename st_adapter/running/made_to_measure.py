"""A static query model made to measure: a distilled table, fitted to how the documents' model embeds texts."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.long_texts import token_limit
from st_adapter.embeddings.static import with_table
from st_adapter.fitting.token_table import MAX_TEXTS, MIN_TEXTS, Sample, fit_token_table, token_shares
from st_adapter.running.preparing import Data
from st_adapter.running.settings import Settings
from st_adapter.saving.base import ModelBase
from st_adapter.saving.query_base import QueryModelBase


class SampledDocuments(NamedTuple):
    """Some documents.

    Attributes:
        vectors: (N, D), as the index compares them.
        rows: (M,) which of them have texts.
        texts: these M texts.
    """

    vectors: Tensor
    rows: Tensor
    texts: list[str]

    @property
    def with_texts(self) -> Tensor:
        """The vectors (M, D) of those that have texts."""
        return self.vectors[self.rows]


class MadeToMeasure(NamedTuple):
    """A query model whose table was fitted, and what it was fitted on.

    What comes after it has to see texts as it will embed those to come, so not as it embeds the ones it was fitted on.

    Attributes:
        base: both models.
        rows: the queries that the table was fitted on.
        queries: (R, D), these, each as the table would give it had it been fitted on all others.
        documents: (N, D), likewise the first N of the sampled documents.
    """

    base: QueryModelBase
    rows: Tensor
    queries: Tensor
    documents: Tensor


def made_to_measure(
    base: QueryModelBase, status_quo: Data, shown: Tensor, documents: SampledDocuments, settings: Settings
) -> MadeToMeasure | None:
    """Fit the table of a static query model; None where there are too few texts.

    Args:
        base: both models; the query model is a table of the tokens of the documents' model.
        status_quo: the data with the queries of the documents' model.
        shown: (Q,) bool, which queries may be learned from.
        documents: some documents.
        settings: of the run.
    """
    static, theirs = base.queries.model, base.documents
    assert theirs is not None  # see static_query_model
    tokenizer, old = static[0].tokenizer, static[0].embedding.weight.detach()
    # Tokens that the model does not read say nothing about its vectors.
    read = token_limit(theirs.model)
    vectors = status_quo.embedded.query_embeddings
    there = shown.nonzero().squeeze(1)
    drawn = torch.randperm(len(there), generator=torch.Generator().manual_seed(settings.seed))[:MAX_TEXTS]
    rows = there[drawn.to(there.device)]
    texts = status_quo.texts.query_texts or []
    given = [
        ([texts[row] for row in rows.tolist()], vectors[rows]),
        (documents.texts[:MAX_TEXTS], documents.with_texts[:MAX_TEXTS]),
    ]
    kinds = [number for number, (words, _) in enumerate(given) if len(words) >= MIN_TEXTS]
    if not kinds:
        return None
    samples = [Sample(token_shares(tokenizer, given[kind][0], len(old), read), given[kind][1]) for kind in kinds]
    fitted = fit_token_table(old.to(vectors.device), samples, documents.vectors[:MAX_TEXTS])
    held_out = dict(zip(kinds, fitted.held_out, strict=True))
    return MadeToMeasure(
        replace(base, queries=ModelBase(with_table(static, fitted.table, settings.cache_dir)), to_measure=False),
        rows[: len(held_out.get(0, ()))],
        held_out.get(0, vectors[:0]),
        held_out.get(1, vectors[:0]),
    )
