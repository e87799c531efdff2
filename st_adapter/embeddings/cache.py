"""Vectors of texts, kept on disk by content, and checked against the model that asks for them."""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets import Sequence as SequenceFeature
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_adapter.choices import Precision
from st_adapter.embeddings.base_model import Role, embed_texts, relative_distances, same_within

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Texts a role that are embedded afresh to see that cached vectors are this model's; few side by side, so that the
# longest one does not make a large batch as long as itself.
_SAMPLE_TEXTS, _SAMPLE_BATCH = 32, 8


def sample_of_texts(texts: Iterable[str], size: int = _SAMPLE_TEXTS) -> list[str]:
    """Some of the texts, the longest first and the shortest among them, always the same ones; all if there are few."""
    by_length = sorted(dict.fromkeys(texts), key=len, reverse=True)
    if len(by_length) <= size:
        return by_length
    drawn = sorted(by_length[1:-1], key=_text_key)[: size - 2]
    return sorted([by_length[0], *drawn, by_length[-1]], key=len, reverse=True)


def cache_of_this_model(
    caches: Iterable[VectorCache], model: SentenceTransformer, role: Role, texts: list[str], precision: Precision
) -> VectorCache:
    """The first cache whose vectors are those that the model gives now, or that has none of these texts."""
    for cache in caches:
        sample = sample_of_texts(cache.known(texts))
        if not sample:
            return cache
        with autocast(model.device, precision):
            fresh = embed_texts(model, role, sample, _SAMPLE_BATCH).float().cpu().numpy()
        tolerance = same_within(DTYPES.get(precision, model.dtype))
        distance = float(relative_distances(cache.read(sample), fresh).max())
        if distance <= tolerance:
            return cache
        with autocast(model.device, precision):
            alone = embed_texts(model, role, sample, 1).float().cpu().numpy()
        if relative_distances(alone, fresh).max() > tolerance:
            warnings.warn(
                "This model gives a text another vector when other texts share its batch (padding on the left of a "
                "model that was not made for it does that), so whether cached vectors are its own cannot be checked.",
                stacklevel=4,
            )
            return cache
        warnings.warn(
            f"The cache holds vectors of another model that cannot be told from this one by its weights, settings and "
            f"code: of {len(sample)} {role} texts embedded again, one lies {distance:.2g} of its length apart. Its "
            f"vectors are not used; the texts are embedded anew.",
            stacklevel=4,
        )
    raise ValueError(
        "The cache holds vectors of a hundred models that look like this one, so it gives other vectors each time "
        "it is called. Make it deterministic: an adapter cannot be fitted to vectors that change."
    )


class VectorCache:
    """Vectors of one model and prompt in a folder of Arrow shards, found again by the SHA-256 of their text."""

    def __init__(self, folder: Path, dim: int, *, writable: bool = True) -> None:
        self.folder = folder
        self.dim = dim
        self.writable = writable
        self._shards: list[NDArray[np.float32]] = []
        self._where: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.arrow")):
            self._add(path)

    def known(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts with a vector, in order."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) in self._where]

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts without a vector, in order."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) not in self._where]

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The (T, D) vectors of texts that all have one."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            shard, index = self._where[_text_key(text)]
            vectors[row] = self._shards[shard][index]
        return vectors

    def write(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the (T, D) vectors of some texts in a new shard, whole or not at all."""
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            first = [texts[row][:60] for row in np.flatnonzero(bad)[:3]]
            raise ValueError(
                f"The base model gave NaN or infinite values for {int(bad.sum())} texts, the first: {first}. "
                "Check these texts and the model's weights; with fp16 try bf16 or fp32."
            )
        if not self.writable:
            self._keep([_text_key(text) for text in texts], vectors)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        unfinished, finished = self.folder / f"{name}.part", self.folder / f"{name}.arrow"
        features = Features({"key": Value("string"), "embedding": SequenceFeature(Value("float32"), length=self.dim)})
        try:
            with ArrowWriter(path=str(unfinished), features=features) as writer:
                writer.write_batch({"key": [_text_key(text) for text in texts], "embedding": vectors})
                writer.finalize()
            unfinished.replace(finished)
        finally:
            unfinished.unlink(missing_ok=True)
        self._add(finished)

    def _add(self, path: Path) -> None:
        try:
            table = Dataset.from_file(str(path)).data.table
            keys = table["key"].to_pylist()
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(keys), self.dim)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"The cached embeddings in {path} cannot be read as vectors of {self.dim} dimensions ({error}). "
                "Delete that file; its texts will be embedded again."
            ) from error
        self._keep(keys, vectors)

    def _keep(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._where.update((key, (len(self._shards), row)) for row, key in enumerate(keys))
        self._shards.append(vectors)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """The context in which a base model runs at a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
