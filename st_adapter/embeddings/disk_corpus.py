"""A folder of vectors as a corpus: streamed through memory in blocks, with the results of a search in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Similarity, comparable
from st_adapter.embeddings.search import TopK, merged, search
from st_adapter.stores.folder import VectorFolder


class DiskCorpus:
    """The documents of a folder of vectors, of which a block at a time lies in memory; the search is exact.

    Args:
        folder: what ``st-adapter embed`` wrote, opened.
        similarity: ``cosine`` or ``dot``, how the model compares a query with a document.

    Raises:
        ValueError: the folder holds queries, or nothing.
    """

    def __init__(self, folder: VectorFolder, similarity: Similarity) -> None:
        if folder.manifest.role != "document":
            raise ValueError(f"{folder.address} holds queries, but a corpus is of documents. Name their folder.")
        if not folder.count:
            raise ValueError(f"{folder.address} holds no vectors. Embed some documents to it.")
        self.folder = folder
        self.similarity = similarity

    def __repr__(self) -> str:
        return f"DiskCorpus({self.folder.address}: {len(self):,} documents, {self.dimension} dimensions)"

    @property
    def ids(self) -> Sequence[str]:
        """N ids, row by row."""
        return self.folder.ids

    @property
    def dimension(self) -> int:
        """D, the number of dimensions."""
        return self.folder.dimension

    @property
    def most_bytes(self) -> int:
        """Bytes that may lie in memory at once."""
        return self.folder.memory

    def __len__(self) -> int:
        return self.folder.count

    def rows(self, index: Tensor) -> Tensor:
        """The vectors (n, D) of (n,) int64 rows, of unit length if the similarity is the cosine."""
        return self._comparable(torch.from_numpy(self.folder.rows(index.cpu().numpy())).to(index.device))

    def search(self, query_embeddings: Tensor, k: int) -> TopK:
        """The k best documents of each of (Q, D) queries, as ``search`` finds them in memory.

        Raises:
            ValueError: k < 1, another dimension, or a vector on disk that is not finite.
        """
        if self.folder.ray_address is not None:
            from st_adapter.embeddings.ray_search import search_with_ray

            return search_with_ray(self, query_embeddings, k, self.folder.ray_address)
        return self.search_parts(query_embeddings, k, 0, len(self.folder.parts))

    def search_parts(self, query_embeddings: Tensor, k: int, first: int, last: int) -> TopK:
        """The same among the documents of the parts from ``first`` to before ``last``; indices are into the corpus."""
        found: list[TopK] = []
        for start, block in self._blocks(first, last, query_embeddings.device):
            best = search(query_embeddings, block, k)
            if not torch.isfinite(best.scores).all():
                raise ValueError(
                    f"{self.folder.address} holds vectors that are NaN or infinite among the documents {start:,} to "
                    f"{start + len(block):,}. Its files are damaged: embed again, to another folder."
                )
            found = [merged([*found, best._replace(indices=best.indices + start)], k)]
        return found[0]

    def _blocks(self, first: int, last: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """The first row and the (n, D) vectors of each block; a block is overwritten by the next one."""
        folder, start = self.folder, int(self.folder.starts[first])
        longest = max(part.count for part in folder.parts)
        block = torch.empty((max(longest, min(folder.block_rows, len(self))), self.dimension))
        filled = 0
        for part in folder.parts[first:last]:
            if filled + part.count > len(block):
                yield start, self._comparable(block[:filled].to(device))
                start, filled = start + filled, 0
            block[filled : filled + part.count].copy_(torch.from_numpy(part.vectors()))
            filled += part.count
        yield start, self._comparable(block[:filled].to(device))

    def _comparable(self, vectors: Tensor) -> Tensor:
        # As MemoryCorpus does: what has unit length up to rounding stays as it is.
        return vectors if self.folder.normalized else comparable(vectors, self.similarity)
