"""Vectors of texts, kept on disk by content, and checked against the encoder that asks for them."""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value
from datasets import Sequence as SequenceFeature
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray

from st_adapter.embeddings.encoder import Encoder, encode
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.probe_texts import CHECK_TEXTS, sample_of_texts, text_key
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.tolerance import relative_distances, same_within

# Few side by side, so that the longest one does not make a large batch as long as itself.
_SAMPLE_BATCH = 8
_MOST_FOLDERS = 100


class VectorCache:
    """Vectors of one encoder and role in a folder of Arrow shards, found again by the SHA-256 of their text.

    A shard tells of each text whether its end is not read, where the encoder knows; those of version 0.1 do not.

    Args:
        folder: of the shards; it need not be there yet.
        dimension: D of the vectors.
        writable: whether what is new is kept on disk.
        fixed: texts whose vectors are kept beside those of the data, and say whose they are.
    """

    def __init__(self, folder: Path, dimension: int, *, writable: bool = True, fixed: Sequence[str] = ()) -> None:
        self.folder = folder
        self.dimension = dimension
        self.writable = writable
        self.fixed = fixed
        self._shards: list[NDArray[np.float32]] = []
        self._where: dict[str, tuple[int, int]] = {}
        self._cut: dict[str, bool] = {}
        self._ahead: list[Path] = []
        for path in sorted(folder.glob("*.arrow")):
            self._add(path)

    def __repr__(self) -> str:
        return f"VectorCache({len(self._where):,} texts, {self.dimension} dimensions, {str(self.folder)!r})"

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        identity: EncoderIdentity,
        role: Role,
        texts: Sequence[str],
        store: Path,
        *,
        writable: bool = True,
    ) -> VectorCache:
        """The cache in a store whose vectors are those that the encoder gives now, or that has none of these texts.

        Args:
            encoder: gives the vectors that are missing.
            identity: of this encoder as it is now.
            role: of the texts.
            texts: what is to be embedded; a sample of those with a vector is embedded afresh and compared, or the texts
                that the encoder names. Where none has one, fixed texts are, unless the key tells all of the encoder.
            store: the folder of all caches.
            writable: whether what is new is kept on disk.

        Raises:
            ValueError: a cached file cannot be read, or the encoder gives other vectors each time.
        """
        key = encoder.cache_key(identity, role)[:32]
        fixed = encoder.compared_on or (CHECK_TEXTS if identity.fingerprint is None else ())
        # Of encoders that nothing tells apart but their vectors, each has its own folder.
        for number in range(1, _MOST_FOLDERS):
            folder = store / "embeddings" / (key if number == 1 else f"{key}-{number}")
            cache = cls(folder, identity.dimension, writable=writable, fixed=fixed)
            if cache._is_of(encoder, role, texts):
                return cache
        raise ValueError(
            "The cache holds vectors of a hundred models that look like this one, so it gives other vectors each time "
            "it is called. Make it deterministic: an adapter cannot be fitted to vectors that change."
        )

    def known(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts with a vector, in order."""
        return [text for text in dict.fromkeys(texts) if text_key(text) in self._where]

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts without a vector, in order."""
        return [text for text in dict.fromkeys(texts) if text_key(text) not in self._where]

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The (T, D) vectors of texts that all have one."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            shard, index = self._where[text_key(text)]
            vectors[row] = self._shards[shard][index]
        return vectors

    def cut(self, texts: Iterable[str]) -> dict[str, bool]:
        """Of the texts of which it was written down, whether their end is not read."""
        keys = {text: text_key(text) for text in dict.fromkeys(texts)}
        return {text: self._cut[key] for text, key in keys.items() if key in self._cut}

    def write(self, texts: Sequence[str], vectors: NDArray[np.float32], cut: Sequence[bool] | None = None) -> None:
        """Keep the (T, D) vectors of T texts in a new shard, whole or not at all, and which of them are cut.

        What was written ahead is removed: it is part of what is written now.
        """
        check_finite(texts, vectors)
        if not self.writable:
            self._keep([text_key(text) for text in texts], vectors, cut)
            return
        self._add(self._write_shard(texts, vectors, cut))
        for path in self._ahead:
            # Windows removes no file that another run has opened; twice there, a vector is as good as once.
            with contextlib.suppress(OSError):
                path.unlink()
        self._ahead.clear()

    def write_ahead(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors on disk in case that the run does not live to ``write`` them with others."""
        check_finite(texts, vectors)
        if self.writable:
            self._ahead.append(self._write_shard(texts, vectors, None))

    def _write_shard(self, texts: Sequence[str], vectors: NDArray[np.float32], cut: Sequence[bool] | None) -> Path:
        keys = [text_key(text) for text in texts]
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        unfinished, finished = self.folder / f"{name}.part", self.folder / f"{name}.arrow"
        vector = SequenceFeature(Value("float32"), length=self.dimension)
        known_cut = {} if cut is None else {"cut": list(cut)}
        features = Features({"key": Value("string"), "embedding": vector, **dict.fromkeys(known_cut, Value("bool"))})
        try:
            with ArrowWriter(path=str(unfinished), features=features) as writer:
                writer.write_batch({"key": keys, "embedding": vectors, **known_cut})
                writer.finalize()
            unfinished.replace(finished)
        finally:
            unfinished.unlink(missing_ok=True)
        return finished

    def _add(self, path: Path) -> None:
        try:
            table = Dataset.from_file(str(path)).data.table
            keys = table["key"].to_pylist()
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(keys), self.dimension)
            cut = table["cut"].to_pylist() if "cut" in table.column_names else None
        except FileNotFoundError:
            return  # written ahead by another run, which has just written it with others
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"The cached embeddings in {path} cannot be read as vectors of {self.dimension} dimensions ({error}). "
                "Delete that file; its texts will be embedded again."
            ) from error
        self._keep(keys, vectors, cut)

    def _keep(self, keys: Sequence[str], vectors: NDArray[np.float32], cut: Sequence[bool] | None) -> None:
        self._where.update((key, (len(self._shards), row)) for row, key in enumerate(keys))
        self._shards.append(vectors)
        self._cut.update(zip(keys, cut or (), strict=False))

    def _is_of(self, encoder: Encoder, role: Role, texts: Iterable[str]) -> bool:
        """Whether a sample of the texts has the vectors that the encoder gives now; a warning if not."""
        sample = sample_of_texts(self.known(texts)) if encoder.compared_on is None else []
        sample = sample or self.known(self.fixed)
        if not sample:
            # Without the fixed texts, nothing says whose the vectors of other texts are.
            return not (self.fixed and self._where)
        fresh = encode(encoder, role, sample, _SAMPLE_BATCH)
        tolerance = same_within(encoder.dtype)
        distance = float(relative_distances(self.read(sample), fresh).max())
        if distance <= tolerance:
            return True
        if relative_distances(encode(encoder, role, sample, 1), fresh).max() > tolerance:
            warnings.warn(
                "This model gives a text another vector when other texts share its batch (padding on the left of a "
                "model that was not made for it does that), so whether cached vectors are its own cannot be checked.",
                stacklevel=6,
            )
            return True
        warnings.warn(
            f"The cache holds vectors of another model that cannot be told from this one by its weights, settings and "
            f"code: of {len(sample)} {role} texts embedded again, one lies {distance:.2g} of its length apart. Its "
            f"vectors are not used; the texts are embedded anew.",
            stacklevel=6,
        )
        return False


def check_finite(texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Raise ValueError if a vector is not finite; its text is named."""
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        first = [texts[row][:60] for row in np.flatnonzero(bad)[:3]]
        raise ValueError(
            f"The model gave NaN or infinite values for {int(bad.sum())} texts, the first: {first}. "
            "Check these texts and the model's weights; with fp16 try bf16 or fp32."
        )
