"""Exact search of a folder of vectors by the machines of a Ray cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.ray_cluster import ray_cluster
from st_adapter.embeddings.search import TopK, merged
from st_adapter.stores.folder import VectorFolder


def search_with_ray(corpus: DiskCorpus, query_embeddings: Tensor, k: int, address: str) -> TopK:
    """The k best documents of each of (Q, D) queries, equal to ``corpus.search_parts`` over all parts.

    Each task searches some consecutive parts, with the memory of the folder; as many tasks as there are CPUs.

    Args:
        corpus: its folder is seen by all machines under its path.
        query_embeddings: (Q, D), as ``Corpus.search`` takes them.
        k: k >= 1.
        address: of the cluster, or ``local``.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no such cluster.
        ValueError: a machine does not see the folder, or a vector on disk is not finite.
    """
    with ray_cluster(address) as ray:
        number = min(int(ray.cluster_resources().get("CPU", 1)), len(corpus.folder.parts))
        borders = np.linspace(0, len(corpus.folder.parts), number + 1).astype(int).tolist()
        queries = ray.put(query_embeddings.cpu().numpy())
        where = (str(corpus.folder.folder.absolute()), corpus.folder.memory, corpus.similarity)
        search = ray.remote(num_cpus=1)(_searched)
        found = ray.get(
            [search.remote(where, queries, k, *span) for span in zip(borders[:-1], borders[1:], strict=True)]
        )
    device = query_embeddings.device
    parts = [TopK(*(torch.from_numpy(array.copy()).to(device) for array in each)) for each in found]
    return merged(parts, k)


def _searched(where: tuple[str, int, Any], queries: Any, k: int, first: int, last: int) -> tuple[Any, Any]:
    """What one task finds, as arrays."""
    folder, memory, similarity = where
    corpus = DiskCorpus(VectorFolder(folder, memory=memory), similarity)
    found = corpus.search_parts(torch.from_numpy(np.array(queries)), k, first, last)
    return found.scores.numpy(), found.indices.numpy()
