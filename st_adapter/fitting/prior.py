"""What can be learned without labels: from queries that are portions of the documents, and from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.candidates import MapName
from st_adapter.fitting.closed_form import mix
from st_adapter.fitting.gradient import GradientFit

# Longer runs learn what portions of documents have in common and real queries have not.
_STEPS, _SHARE = 40, 0.5
# Where there are no labels, the pairs are the teacher's as well, and say less than its scores.
_WEIGHT_ALONE = 4.0
FROM_PSEUDO_QUERIES, FROM_TEACHER = MapName("pseudo-queries", "as it is"), MapName("teacher", "as it is")


class Start(NamedTuple):
    """What few labels start from.

    Attributes:
        maps: what was learned without labels, each a map (D, D).
        queries: queries without labels, each with one document, by which it is seen what leads astray.
    """

    maps: Mapping[MapName, Tensor]
    queries: EmbeddedSplit

    @classmethod
    def of(cls, pseudo_queries: EmbeddedSplit | None, soft_targets: SoftTargets | None, seed: int) -> Start | None:
        """Learn from pseudo-queries and from a teacher, as far as there are any; None without either."""
        maps, queries = {}, pseudo_queries
        if pseudo_queries is not None:
            maps[FROM_PSEUDO_QUERIES] = prior_of(pseudo_queries, seed)
        if soft_targets is not None:
            maps[FROM_TEACHER] = taught_map(soft_targets, seed)
            queries = queries or soft_targets.queries
        return None if queries is None else cls(maps, queries)


def prior_of(pseudo_queries: EmbeddedSplit, seed: int) -> Tensor:
    """The map (D, D) of a short run on pseudo-queries, shrunk half way to the identity.

    The queries of the inverse cloze task (Lee, Chang & Toutanova 2019, "Latent retrieval for weakly supervised open
    domain question answering") are portions of the documents that they are to find. Here they start a fit, or are all
    there is: the map is near the identity, and learns what distinguishes a short text from a long one.

    Args:
        pseudo_queries: portions of documents, each with the one document that it is of.
        seed: of the batches.
    """
    return mix(_short_run(pseudo_queries, None, seed), _SHARE)


def taught_map(soft_targets: SoftTargets, seed: int) -> Tensor:
    """The map (D, D) of a short run on what a teacher says, taken whole: the queries are like those to come.

    Each query is to order the scored documents as the teacher does, and, which counts little, to find the one that the
    teacher scores best among all documents.

    Args:
        soft_targets: what it says.
        seed: of the batches.
    """
    return _short_run(soft_targets.queries, replace(soft_targets, weight=_WEIGHT_ALONE), seed)


def _short_run(queries: EmbeddedSplit, soft_targets: SoftTargets | None, seed: int) -> Tensor:
    args = AdapterTrainingArguments(scale=20.0, unlabelled_weight=0.1, penalty=0.003, seed=seed)
    run = GradientFit(queries.in_memory(), args, soft_targets=soft_targets)
    for _ in range(_STEPS):
        run.step()
    return run.matrix
