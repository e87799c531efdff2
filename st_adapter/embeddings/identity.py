"""Which model an adapter belongs to: where it came from, and what shapes its vectors."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from torch import Tensor

from st_adapter.embeddings.fingerprint import model_fingerprint, tensor_digests
from st_adapter.embeddings.long_texts import token_limit
from st_adapter.embeddings.origin import origin_of
from st_adapter.embeddings.probe_texts import CHECK_TEXTS, fixed_texts
from st_adapter.embeddings.roles import encode_as, prompt_of
from st_adapter.embeddings.tolerance import is_normalized, relative_distances, same_within
from st_adapter.storage.records import built

_PROBE_NUMBERS = 32
UNKNOWN_MODEL = "the model of the stored vectors"


@dataclass(frozen=True)
class EncoderIdentity:
    """What binds an adapter to the model it was trained on.

    Attributes:
        name: Hub id, or the name of the local folder (never its path, which would tell about a machine).
        revision: commit of the Hub repository; None for a local folder or if unknown.
        weights_sha256: hash of all weights, independent of their names and order; None if they cannot be read (ONNX
            and OpenVINO backends).
        dtype: dtype of the weights, such as ``float32``.
        dimension: D of the embeddings, truncated if the model truncates them.
        query_prompt: what ``encode_query`` puts before a text.
        normalized: whether the embeddings have unit length.
        max_seq_length: tokens that the model reads; None if it has no limit, or in a description of version 0.1.
        fingerprint: of everything in memory (see ``model_fingerprint``) but prompts and truncation. Other releases of
            the libraries may give another one for the same model, so it tells models apart within one process, for the
            cache and for what is saved, and takes no part in ``difference``. None if it cannot be read.
        probes: what the model makes of some fixed texts, as queries and as documents, each vector projected to 32
            numbers; float32 in base64. None in a description of version 0.1.
    """

    name: str
    revision: str | None
    weights_sha256: str | None
    dtype: str
    dimension: int
    query_prompt: str
    normalized: bool
    max_seq_length: int | None = None
    fingerprint: str | None = field(default=None, repr=False)
    probes: str | None = field(default=None, repr=False)

    @classmethod
    def probed(cls, name: str, vectors: Tensor, dtype: torch.dtype | None = None) -> EncoderIdentity:
        """Describe an encoder by what it makes of the fixed texts alone: all that is known where there are no weights.

        Args:
            name: of the encoder.
            vectors: (2 T, D), of T ``fixed_texts`` as queries and then of the same as documents.
            dtype: in which they were computed; that of ``vectors`` if None.
        """
        dtype = dtype or vectors.dtype
        return cls(
            name=name,
            revision=None,
            weights_sha256=None,
            dtype=str(dtype).removeprefix("torch."),
            dimension=int(vectors.shape[1]),
            query_prompt="",
            normalized=is_normalized(vectors, dtype),
            probes=_encode_probes(vectors),
        )

    @classmethod
    def unknown(cls, dimension: int, normalized: bool) -> EncoderIdentity:
        """Describe the model of vectors that are there, while it is not."""
        return cls(UNKNOWN_MODEL, None, None, "float32", dimension, "", normalized)

    @classmethod
    def from_dict(cls, content: object) -> EncoderIdentity:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        names = {each.name: None for each in dataclasses.fields(cls)}
        try:
            if isinstance(content, dict) and not set(content) <= set(names):
                raise ValueError("It has other fields.")
            # Version 0.1 wrote the first seven alone.
            described: EncoderIdentity = built(cls, content)
        except ValueError as error:
            raise ValueError(
                f"base_model is {str(content)[:200]}, but the fields {', '.join(names)} of a base model are expected. "
                "Save the adapter again."
            ) from error
        described._probe_vectors()
        return described

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    def facts(self) -> dict[str, Any]:
        """The fields that a person reads; the others are for comparing."""
        return {name: value for name, value in self.to_dict().items() if name not in ("fingerprint", "probes")}

    def __str__(self) -> str:
        revision = f"revision {self.revision[:12]}, " if self.revision else ""
        weights = self.weights_sha256[:12] if self.weights_sha256 else "unknown"
        length = f"{self.max_seq_length} tokens, " if self.max_seq_length is not None else ""
        return (
            f"{self.name!r} ({revision}weights {weights}, {self.dtype}, {self.dimension} dimensions, {length}"
            f"query prompt {self.query_prompt!r}, {'' if self.normalized else 'not '}normalized)"
        )

    def difference(self, other: EncoderIdentity) -> str | None:
        """Why vectors of ``other`` are not those of this model, as a phrase; None if nothing speaks against it.

        Weights in another dtype cannot be compared by hash; what the models make of the same texts decides then, or
        the name, where a description of version 0.1 knows nothing else.
        """
        if self.dimension != other.dimension:
            return "the dimensions differ"
        probed = None not in (self.probes, other.probes)
        if self.comparable(other):
            if self.weights_sha256 != other.weights_sha256:
                return "the weights differ"
        elif not probed and self.name.rpartition("/")[2] != other.name.rpartition("/")[2]:
            return "the names differ"
        if self.query_prompt != other.query_prompt:
            return "the query prompts differ"
        if None not in (self.max_seq_length, other.max_seq_length) and self.max_seq_length != other.max_seq_length:
            return f"one reads {self.max_seq_length} tokens, the other {other.max_seq_length} (max_seq_length)"
        if probed:
            return self._probe_difference(other)
        if self.normalized != other.normalized:
            return "only one of them normalizes"
        return None

    def document_difference(self, other: EncoderIdentity) -> str | None:
        """The same for vectors of documents, in which the query prompt has no part."""
        ours, theirs = (replace(each, query_prompt="", probes=each._document_probes()) for each in (self, other))
        return ours.difference(theirs)

    def query_difference(self, query_embeddings: Tensor) -> str | None:
        """Why vectors of the check texts as queries are not those of this model, as a phrase; None if they are.

        Args:
            query_embeddings: (T, D), of ``CHECK_TEXTS``, by whatever is to be this model.
        """
        if int(query_embeddings.shape[1]) != self.dimension:
            return f"it gives {query_embeddings.shape[1]} dimensions"
        if self.probes is None:
            return None
        ours = self._probe_vectors()[: len(query_embeddings)]
        theirs = EncoderIdentity.probed(self.name, query_embeddings)._probe_vectors()
        distance = float(relative_distances(ours, theirs).max())
        if distance <= max(same_within(torch.float16), same_within(self._torch_dtype())):
            return None
        return f"the same queries get other vectors, up to {distance:.2g} of their length apart"

    def comparable(self, other: EncoderIdentity) -> bool:
        """Whether the two hashes of the weights can be compared."""
        return self.dtype == other.dtype and None not in (self.weights_sha256, other.weights_sha256)

    def _probe_difference(self, other: EncoderIdentity) -> str | None:
        ours, theirs = self._probe_vectors(), other._probe_vectors()
        if ours.shape != theirs.shape:
            return None  # of models with and without a limit of tokens, which were probed with other texts
        distance = float(relative_distances(ours, theirs).max())
        if not distance <= max(same_within(dtype) for dtype in (self._torch_dtype(), other._torch_dtype())):
            return (
                f"the same texts get other vectors, up to {distance:.2g} of their length apart, so pooling, tokenizer, "
                "document prompt or code differ"
            )
        return None

    def _document_probes(self) -> str | None:
        """The second half of the probes."""
        if self.probes is None:
            return None
        vectors = self._probe_vectors()
        return base64.b64encode(vectors[len(vectors) // 2 :].tobytes()).decode()

    def _torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype, None)
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def _probe_vectors(self) -> NDArray[np.float32]:
        try:
            numbers = np.frombuffer(base64.b64decode(self.probes or "", validate=True), dtype="<f4")
        except (binascii.Error, ValueError) as error:
            raise ValueError("The probes of base_model are not float32 in base64. Save the adapter again.") from error
        if len(numbers) % _PROBE_NUMBERS or not np.isfinite(numbers).all():
            raise ValueError(
                f"The probes of base_model are {len(numbers)} numbers, but finite ones are expected, {_PROBE_NUMBERS} "
                "for each text. Save the adapter again."
            )
        return np.asarray(numbers.reshape(-1, _PROBE_NUMBERS), dtype=np.float32)


# What was described once is described again only when it has changed: model -> state, some of its vectors, identity.
_described: WeakKeyDictionary[SentenceTransformer, tuple[object, list[Tensor], EncoderIdentity]] = WeakKeyDictionary()


def known_difference(one: EncoderIdentity | None, other: EncoderIdentity | None) -> str | None:
    """Why vectors of one are not those of the other, as ``difference``; None if one of the two is not known."""
    return None if one is None or other is None else one.difference(other)


def identity_of(model: SentenceTransformer) -> EncoderIdentity:
    """Describe a model in memory: the one answer to the question which model this is.

    Whatever can be read of the model is read anew each time. If all of it and half of the fixed texts' vectors are what
    they were the last time, so is the answer; the other half is embedded only where something has changed.

    Raises:
        ValueError: its weights are quantised, so that it cannot be told from others.
    """
    origin = origin_of(model)
    readable = model.get_backend() == "torch"
    digests = tensor_digests(model) if readable else {}
    fingerprint = model_fingerprint(model, digests) if readable else None
    passing = (dict(model.prompts), model.default_prompt_name, model.truncate_dim, model.device, model.dtype)
    state = (fingerprint, origin, *passing)
    # The long text by itself: in one batch, the short ones would be padded to its length.
    short, long = CHECK_TEXTS, fixed_texts(token_limit(model))[len(CHECK_TEXTS) :]
    seen = [encode_as(model, "query", short), encode_as(model, "document", long or short)]
    before = _described.get(model)
    if before is not None and readable and before[0] == state and all(map(torch.equal, before[1], seen)):
        return before[2]
    queries = [seen[0], *([encode_as(model, "query", long)] if long else [])]
    documents = [encode_as(model, "document", short), seen[1]] if long else [seen[1]]
    vectors = torch.cat(queries + documents)
    weights = sorted(digests[id(parameter)] for parameter in model.parameters()) if readable else []
    probed = EncoderIdentity.probed(origin.hub_id or Path(origin.path).name or "a model made in memory", vectors)
    identity = replace(
        probed,
        revision=origin.revision,
        weights_sha256=hashlib.sha256("".join(weights).encode()).hexdigest() if readable else None,
        dtype=str(model.dtype or torch.float32).removeprefix("torch."),
        query_prompt=prompt_of(model, "query"),
        # Where no probe has a token that the model knows, its last module has to tell.
        normalized=probed.normalized if vectors.any() else isinstance(model[-1], Normalize),
        max_seq_length=token_limit(model),
        fingerprint=fingerprint,
    )
    _described[model] = state, seen, identity
    return identity


def _encode_probes(vectors: Tensor) -> str:
    """Project (T, D) vectors with random signs (Achlioptas 2003, "Database-friendly random projections").

    Lengths and distances are kept to about an eighth, whatever D. The signs come from a hash, so they are the same
    with every release of every library.
    """
    dimension = int(vectors.shape[1])
    blocks = -(-dimension * _PROBE_NUMBERS // 256)
    bits = b"".join(hashlib.sha256(f"probe {number}".encode()).digest() for number in range(blocks))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=dimension * _PROBE_NUMBERS).reshape(dimension, -1)
    projected = vectors.double().cpu().numpy() @ (2.0 * signs - 1) / np.sqrt(_PROBE_NUMBERS)
    return base64.b64encode(np.nan_to_num(projected).astype("<f4").tobytes()).decode()
