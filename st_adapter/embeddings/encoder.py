"""What turns texts into vectors, as the cache and all behind it see it: a model in memory is one way of several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.choices import Precision
from st_adapter.embeddings.corpus import Similarity
from st_adapter.embeddings.fingerprint import json_digest
from st_adapter.embeddings.identity import EncoderIdentity, identity_of
from st_adapter.embeddings.long_texts import are_cut
from st_adapter.embeddings.model_kind import check_encoder
from st_adapter.embeddings.origin import name_of
from st_adapter.embeddings.roles import Role, encode_as, prompt_of
from st_adapter.errors import InputError, check_at_least_one

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder(Protocol):
    """One vector per text, in two roles: ``embed`` and its cache ask for nothing else of a model.

    Four members say all that is needed; the others have a default for whoever derives a class from this one.

    Attributes:
        identity: which encoder this is; ``EncoderIdentity.probed`` makes one of a name and the vectors of the fixed
            texts, where there are no weights. Asked for anew in each run, because an encoder may change.
        similarity: ``cosine`` or ``dot``, how a query is compared with a document.
        dimension: D of the vectors.
        device: where the vectors lie, and where adapters are fitted to them.
        dtype: in which they are computed: how exactly two runs agree depends on it.
        texts_per_answer: how many texts one call is to get, where answers take time or money: each is then on disk
            before the next is asked for. None for a model in memory.
        compared_on: the texts on which cached vectors are compared with fresh ones; None for a sample of the data, or
            of fixed texts where the cache has none of the data.

    Examples:
        >>> from st_adapter.embeddings.probe_texts import CHECK_TEXTS
        >>> class Letters(Encoder):
        ...     similarity = "dot"
        ...     def encode_query(self, texts):
        ...         return torch.tensor([[text.count("a"), text.count("b")] for text in texts]).float()
        ...     encode_document = encode_query
        ...     @property
        ...     def identity(self):
        ...         return EncoderIdentity.probed("letters", self.encode_query(CHECK_TEXTS))
        >>> Letters().dimension, Letters().identity.normalized
        (2, False)
    """

    @property
    @abstractmethod
    def identity(self) -> EncoderIdentity:
        """Which encoder this is."""

    @property
    @abstractmethod
    def similarity(self) -> Similarity:
        """How a query is compared with a document."""

    @abstractmethod
    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as queries."""

    @abstractmethod
    def encode_document(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as documents."""

    @property
    def dimension(self) -> int:
        """D of the vectors."""
        return self.identity.dimension

    @property
    def device(self) -> torch.device:
        """Where the vectors lie."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """In which the vectors are computed."""
        return torch.float32

    @property
    def texts_per_answer(self) -> int | None:
        """How many texts one call is to get, if each answer is to be kept at once."""
        return None

    @property
    def compared_on(self) -> Sequence[str] | None:
        """The texts on which cached vectors are compared with fresh ones, if not on a sample of the data."""
        return None

    def prompt(self, role: Role) -> str:
        """What is put before each text of a role, as far as it is known."""
        return ""

    def cache_key(self, identity: EncoderIdentity, role: Role) -> str:
        """A hash of all that can be read of what shapes the vectors of a role; what cannot, a sample of them shows.

        Args:
            identity: of this encoder as it is now.
            role: of the texts.
        """
        read = [] if identity.fingerprint is None else [identity.fingerprint]
        return json_digest([identity.name, identity.revision, identity.dimension, role, *read])

    def are_cut(self, texts: Sequence[str], role: Role) -> list[bool] | None:
        """Which texts are longer than what is read of them; None if all are read to the end, or if nothing tells."""
        return None


def is_encoder(model: SentenceTransformer | Encoder) -> TypeGuard[Encoder]:
    """Whether something is an ``Encoder``; all else is taken for a model, and refused by what is made for models."""
    return not isinstance(model, SentenceTransformer) and hasattr(type(model), "cache_key")


def check_batch_size(batch_size: int) -> None:
    """Raise InputError if it is no whole number of at least 1."""
    check_at_least_one("batch_size", batch_size, flag="--embedding-batch-size")


class SentenceTransformerEncoder(Encoder):
    """A Sentence Transformers model with the way it is run.

    Args:
        model: on the torch backend, on the device it shall run on.
        batch_size: texts per forward pass, >= 1.
        precision: ``bf16`` or ``fp16`` run the model under autocast (GPUs); vectors are float32 all the same.

    Raises:
        ValueError: the model is a cross-encoder or sparse, compares by Euclidean or Manhattan distance, or runs on a
            backend whose weights cannot be read.
    """

    def __init__(self, model: SentenceTransformer, *, batch_size: int = 32, precision: Precision = "fp32") -> None:
        check_encoder(model)
        if model.get_backend() != "torch":
            raise ValueError(
                f"This model runs on the {model.get_backend()!r} backend, whose weights cannot be read to tell its "
                "cached vectors from those of another model. Load it with backend='torch' for training."
            )
        check_batch_size(batch_size)
        self.model = model
        self.batch_size = batch_size
        self.precision = precision
        _ = self.similarity  # one that no adapter can serve is refused here

    def __repr__(self) -> str:
        return (
            f"SentenceTransformerEncoder({name_of(self.model)!r}, {self.model.get_embedding_dimension()} dimensions, "
            f"{self.similarity}, {self.precision}, batches of {self.batch_size} on {self.device})"
        )

    @property
    def identity(self) -> EncoderIdentity:
        """The model's; see ``identity_of``."""
        return identity_of(self.model)

    @property
    def similarity(self) -> Similarity:
        """The model's own."""
        name = str(getattr(self.model.similarity_fn_name, "value", self.model.similarity_fn_name))
        if name not in ("cosine", "dot"):
            raise InputError(
                f"This model compares by {name!r}, but an adapter needs a similarity that is linear in the query: "
                "cosine or dot. If your index compares that way,",
                python="load the model with similarity_fn_name='cosine' or 'dot'.",
                flags='write "similarity_fn_name": "cosine" or "dot" in its config_sentence_transformers.json.',
            )
        return "cosine" if name == "cosine" else "dot"

    @property
    def device(self) -> torch.device:
        """The model's."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """That of the precision, or else of the weights."""
        return _DTYPES.get(self.precision, self.model.dtype or torch.float32)

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of the model's ``encode_query``."""
        return self._encode(texts, "query")

    def encode_document(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of the model's ``encode_document``."""
        return self._encode(texts, "document")

    def prompt(self, role: Role) -> str:
        """The model's own, or the one that was set."""
        return prompt_of(self.model, role)

    def cache_key(self, identity: EncoderIdentity, role: Role) -> str:
        """By everything in memory, the role, its prompt, the precision and the dimension."""
        return json_digest([identity.fingerprint, role, self.prompt(role), self.precision, identity.dimension])

    def are_cut(self, texts: Sequence[str], role: Role) -> list[bool] | None:
        """Which texts have more tokens than ``max_seq_length``, prompt and special tokens included."""
        return are_cut(self.model, texts, role)

    def _encode(self, texts: Sequence[str], role: Role) -> Tensor:
        with self._autocast():
            return encode_as(self.model, role, texts, self.batch_size).float()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])


def encode(encoder: Encoder, role: Role, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
    """The (T, D) vectors of texts in a role, asked for ``at_once`` texts at a time."""
    ask = encoder.encode_query if role == "query" else encoder.encode_document
    parts = [ask(texts[start : start + at_once]).cpu().numpy() for start in range(0, len(texts), at_once)]
    return np.concatenate(parts)
