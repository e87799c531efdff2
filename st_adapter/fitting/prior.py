"""What can be learned without labels: a map from queries that are portions of the documents themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.closed_form import mix
from st_adapter.fitting.gradient import GradientFit

# Longer runs learn what portions of documents have in common and real queries have not.
_STEPS, _SHARE = 40, 0.5


class Start(NamedTuple):
    """What few labels start from.

    Attributes:
        prior: the map (D, D) that the pseudo-queries give.
        pseudo_queries: portions of documents, each with the one document that it is of.
    """

    prior: Tensor
    pseudo_queries: EmbeddedSplit


def prior_of(pseudo_queries: EmbeddedSplit, seed: int) -> Tensor:
    """The map (D, D) of a short run on pseudo-queries, shrunk half way to the identity.

    The queries of the inverse cloze task (Lee, Chang & Toutanova 2019, "Latent retrieval for weakly supervised open
    domain question answering") are portions of the documents that they are to find. Here they start a fit, or are all
    there is: the map is near the identity, and learns what distinguishes a short text from a long one.

    Args:
        pseudo_queries: portions of documents, each with the one document that it is of.
        seed: of the batches.
    """
    args = AdapterTrainingArguments(scale=20.0, unlabelled_weight=0.1, penalty=0.003, seed=seed)
    run = GradientFit(pseudo_queries.in_memory(), args)
    for _ in range(_STEPS):
        run.step()
    identity = torch.eye(pseudo_queries.dimension, device=pseudo_queries.query_embeddings.device)
    with torch.no_grad():
        return mix(run.averaged.project(identity).T.clone(), _SHARE)
