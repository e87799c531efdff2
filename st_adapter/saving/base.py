"""A base model as a run sees it: what embeds, and what is kept of it with an adapter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder, is_encoder
from st_adapter.embeddings.roles import Role, encode_as
from st_adapter.errors import InputError
from st_adapter.saving.alone import check_adapter_target, push_adapter, save_adapter
from st_adapter.saving.attach import attach, check_base
from st_adapter.saving.onnx_export import check_dependencies, check_exportable
from st_adapter.saving.push import push_to_hub
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.save import check_target, save_pretrained


@dataclass(frozen=True)
class Kept:
    """What is kept beside an adapter.

    Attributes:
        training: for the model card.
        check_texts: some texts of the data, on which a saved model is compared with the one in memory.
    """

    training: TrainingRecord
    check_texts: Mapping[Role, Sequence[str]]


class Base(Protocol):
    """What adapters are fitted for. A Sentence Transformers model is saved with its adapter; of all else, the adapter.

    Attributes:
        encoder: what embeds, as ``embed`` takes it.
        model: what an adapter can be attached to; None if there is no such model.
        device: where it works.
        num_bytes: what saving it takes at least.
    """

    @property
    @abstractmethod
    def encoder(self) -> SentenceTransformer | Encoder:
        """What embeds."""

    @property
    def model(self) -> SentenceTransformer | None:
        """What an adapter can be attached to."""
        return None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it works."""

    @property
    def num_bytes(self) -> int:
        """What saving it takes at least."""
        return 0

    @abstractmethod
    def check(self, *, onnx: bool = False) -> None:
        """Check, before any text is embedded, that an adapter can be fitted for it, and saved as ONNX if so asked."""

    @abstractmethod
    def check_target(self, target: Path) -> None:
        """Check that what is kept can be saved to a folder."""

    @abstractmethod
    def adapted(self, adapter: QueryAdapter | None) -> SentenceTransformer | None:
        """The model with the adapter on its queries; None if there is no such model."""

    @abstractmethod
    def encode_query(self, adapter: QueryAdapter | None, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as queries, with an adapter if there is one."""

    @abstractmethod
    def save(self, adapter: QueryAdapter | None, target: str | Path, kept: Kept, **options: Any) -> Path:
        """Write what is kept to a folder."""

    @abstractmethod
    def push(self, adapter: QueryAdapter, repo_id: str, kept: Kept, **options: Any) -> str:
        """Upload what is kept; the address of the commit."""


@dataclass(frozen=True)
class ModelBase(Base):
    """A Sentence Transformers model.

    Attributes:
        base: the model.
        base_model: Hub id or folder that it came from, if it no longer knows.
        embedded_by: how it is run; the usual way if None.
    """

    base: SentenceTransformer
    base_model: str | Path | None = None
    embedded_by: SentenceTransformerEncoder | None = None

    @property
    def encoder(self) -> SentenceTransformer | Encoder:
        """The model, or how it is run."""
        return self.embedded_by or self.base

    @property
    def model(self) -> SentenceTransformer:
        """The model."""
        return self.base

    @property
    def device(self) -> torch.device:
        """The model's."""
        return torch.device(self.base.device)

    @property
    def num_bytes(self) -> int:
        """What the weights need."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.base.parameters())

    def check(self, *, onnx: bool = False) -> None:
        """See ``check_base``, ``check_dependencies`` and ``check_exportable``."""
        check_base(self.base)
        if onnx:
            check_dependencies()
            check_exportable(self.base)

    def check_target(self, target: Path) -> None:
        """See ``save.check_target``."""
        check_target(self.base, target, self.base_model)

    def adapted(self, adapter: QueryAdapter | None) -> SentenceTransformer:
        """The model with the adapter attached, or as it was."""
        return self.base if adapter is None else attach(self.base, adapter)

    def encode_query(self, adapter: QueryAdapter | None, texts: Sequence[str]) -> Tensor:
        """By the model with the adapter attached."""
        return encode_as(self.adapted(adapter), "query", texts).float()

    def save(self, adapter: QueryAdapter | None, target: str | Path, kept: Kept, **options: Any) -> Path:
        """See ``save_pretrained``."""
        return save_pretrained(self.base, adapter, target, **self._arguments(kept), **options)

    def push(self, adapter: QueryAdapter, repo_id: str, kept: Kept, **options: Any) -> str:
        """See ``push_to_hub``."""
        return push_to_hub(self.base, adapter, repo_id, **self._arguments(kept), **options)

    def _arguments(self, kept: Kept) -> dict[str, Any]:
        return {"base_model": self.base_model, "training": kept.training, "check_texts": kept.check_texts}


@dataclass(frozen=True)
class EncoderBase(Base):
    """An encoder that is no Sentence Transformers model: its adapter is kept alone.

    Attributes:
        given: the encoder.
    """

    given: Encoder

    @property
    def encoder(self) -> Encoder:
        """What was given."""
        return self.given

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return self.given.device

    def check(self, *, onnx: bool = False) -> None:
        """Refuse what takes a model.

        Raises:
            ValueError: it is to be saved as ONNX.
        """
        if onnx:
            raise InputError(
                "The base is no Sentence Transformers model, so the adapter is saved alone, and there is no model to "
                "write as ONNX.",
                python="Leave onnx out.",
                flags="Leave --onnx out.",
            )

    def check_target(self, target: Path) -> None:
        """See ``alone.check_adapter_target``."""
        check_adapter_target(target)

    def adapted(self, adapter: QueryAdapter | None) -> None:
        """There is no such model."""

    def encode_query(self, adapter: QueryAdapter | None, texts: Sequence[str]) -> Tensor:
        """By the encoder, and then by the adapter."""
        vectors = self.given.encode_query(texts)
        return vectors if adapter is None else adapter.transform(vectors)

    def save(self, adapter: QueryAdapter | None, target: str | Path, kept: Kept, **options: Any) -> Path:
        """See ``save_adapter``.

        Raises:
            ValueError: there is no adapter.
        """
        if adapter is None:
            raise ValueError(
                "The base model is kept, so there is no adapter to save. Go on with the query embeddings as they are."
            )
        return save_adapter(adapter, target, training=kept.training, **options)

    def push(self, adapter: QueryAdapter, repo_id: str, kept: Kept, **options: Any) -> str:
        """See ``push_adapter``."""
        return push_adapter(adapter, repo_id, training=kept.training, **options)


def base_of(model: SentenceTransformer | Encoder, base_model: str | Path | None = None) -> Base:
    """The base that a model or encoder is.

    Args:
        model: what embeds; what is neither is refused by ``check``.
        base_model: where a model came from, if it no longer knows.
    """
    if isinstance(model, SentenceTransformerEncoder):
        return ModelBase(model.model, base_model, model)
    return EncoderBase(model) if is_encoder(model) else ModelBase(model, base_model)
