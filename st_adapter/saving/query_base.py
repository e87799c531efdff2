"""Two models as a run sees them: one whose queries are to find what the other one has embedded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.bridge import Bridge
from st_adapter.embeddings.corpus import Similarity
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.roles import encode_as
from st_adapter.embeddings.static import distilled, is_static
from st_adapter.errors import InputError
from st_adapter.saving.attach import whole_dimension
from st_adapter.saving.base import Base, Kept, ModelBase
from st_adapter.saving.deployed import embeds_queries_alone
from st_adapter.saving.joined import check_joinable
from st_adapter.saving.joined_files import JoinedModel, save_joined
from st_adapter.saving.push import push_folder

# The name of a query model that is distilled from the documents' model.
STATIC = "static"


@dataclass(frozen=True)
class Index:
    """What is known of the documents' vectors.

    Attributes:
        identity: of the model that they are of.
        similarity: ``cosine`` or ``dot``.
    """

    identity: EncoderIdentity
    similarity: Similarity


@dataclass(frozen=True)
class QueryModelBase(Base):
    """A query model for an index of another model.

    Attributes:
        status_quo: what the index was made with, and embeds queries today; None if it is not there.
        queries: the query model.
        bridge: between the two, once it is fitted.
        index: what is known of the documents' vectors, likewise.
        to_measure: whether the query model is a distilled table that is yet to be fitted to the data.
    """

    status_quo: Base | None
    queries: ModelBase
    bridge: Bridge | None = None
    index: Index | None = None
    to_measure: bool = False

    @property
    def documents(self) -> ModelBase | None:
        """What embeds documents in what is saved: of an encoder that is no Sentence Transformers model, nothing."""
        return self.status_quo if isinstance(self.status_quo, ModelBase) else None

    @property
    def encoder(self) -> SentenceTransformer | Encoder:
        """How the query model is run."""
        return self.queries.encoder

    @property
    def model(self) -> SentenceTransformer:
        """The query model."""
        return self.queries.model

    @property
    def device(self) -> torch.device:
        """The query model's."""
        return self.queries.device

    @property
    def num_bytes(self) -> int:
        """What the weights of both need."""
        return self.queries.num_bytes + (0 if self.documents is None else self.documents.num_bytes)

    def check(self, *, onnx: bool = False) -> None:
        """See ``check_joinable``.

        Raises:
            ValueError: they cannot be saved as one, or the query model not as ONNX.
        """
        self.queries.check(onnx=onnx)
        if self.status_quo is not None:
            self.status_quo.check()
        check_joinable(None if self.documents is None else self.documents.model, self.queries.model)

    def check_target(self, target: Path) -> None:
        """See ``save.check_target``, of both."""
        for side in filter(None, (self.documents, self.queries)):
            side.check_target(target)

    def adapted(self, adapter: QueryAdapter | None) -> SentenceTransformer | None:
        """Both in one, or the query model's part alone; without an adapter the documents' model as it was."""
        if adapter is None:
            return None if self.documents is None else self.documents.model
        return self._joined(adapter).in_memory()

    def encode_query(self, adapter: QueryAdapter | None, texts: Sequence[str]) -> Tensor:
        """By the query model, bridge and adapter; without an adapter by the documents' model.

        Raises:
            ValueError: there is neither.
        """
        model = self.adapted(adapter)
        if model is None:
            raise ValueError("Nothing was handed over, and the model of the documents is not there to embed queries.")
        return encode_as(model, "query", texts).float()

    def save(self, adapter: QueryAdapter | None, target: str | Path, kept: Kept, **options: Any) -> Path:
        """See ``save_joined``.

        Raises:
            ValueError: nothing was handed over.
        """
        if adapter is None:
            raise ValueError(
                "The query model did not pass, so there is nothing to save. Go on with the queries of the model that "
                "the documents were embedded with."
            )
        joined = self._joined(adapter)
        return save_joined(joined, target, training=kept.training, check_texts=kept.check_texts, **options)

    def push(self, adapter: QueryAdapter, repo_id: str, kept: Kept, *, onnx: bool = False, **options: Any) -> str:
        """Save and upload it; see ``save_joined`` and ``push_folder``."""
        with TemporaryDirectory() as folder:
            saved = self.save(adapter, Path(folder) / "model", kept, onnx=onnx, title=repo_id)
            return push_folder(saved, repo_id, **options)

    def with_bridge(self, bridge: Bridge, index: Index) -> QueryModelBase:
        """The same, once the bridge is fitted."""
        return replace(self, bridge=bridge, index=index)

    def takes_map(self, dimension: int) -> bool:
        """Whether a matrix to the documents' D dimensions can become part of the query model, which is a static table.

        One of more dimensions would be larger than table and matrix.
        """
        return is_static(self.model) and int(self.model.get_embedding_dimension() or 0) >= self._in_front(dimension)

    def _in_front(self, dimension: int) -> int:
        """The documents' dimensions where Sentence Transformers has yet to truncate them, behind the last module."""
        if self.documents is None:
            return dimension
        return whole_dimension(self.documents.model) or dimension

    def _joined(self, adapter: QueryAdapter) -> JoinedModel:
        if self.bridge is None or self.index is None:
            raise ValueError("There is no bridge between the two models yet. Fit one first, as train() does.")
        dimension = self._in_front(self.bridge.output_dimension)
        bridge, behind = self.bridge.padded(dimension), adapter.padded(dimension)
        return JoinedModel(
            documents=None if self.documents is None else self.documents.model,
            queries=self.queries.model,
            query_modules=[module.to(self.model.dtype or torch.float32) for module in bridge.fold(behind)],
            index=self.index.identity,
            similarity=self.index.similarity,
            sources=(None if self.documents is None else self.documents.base_model, self.queries.base_model),
        )


def static_query_model(documents: Base | None, cache_dir: str | os.PathLike[str] | None) -> SentenceTransformer:
    """The query model that ``static`` names; see ``distilled``.

    Raises:
        ValueError: there is no Sentence Transformers model to distil it from.
    """
    if not isinstance(documents, ModelBase):
        raise nothing_to_distil()
    return distilled(documents.model, cache_dir)


def nothing_to_distil() -> InputError:
    """There is no Sentence Transformers model that ``static`` could be distilled from."""
    return InputError(
        f"The query model {STATIC!r} is distilled from the model of the documents, which has to be there, as a "
        "Sentence Transformers model.",
        python="Pass that model first, or another query_model.",
        flags="Name that model with --model, or another one with --query-model.",
    )


def query_model_base(status_quo: Base | None, queries: Base, *, to_measure: bool = False) -> QueryModelBase:
    """The base of two models.

    Args:
        status_quo: what the index was made with; of an encoder that is no Sentence Transformers model nothing is saved.
        queries: the query model.
        to_measure: whether it is that of ``static_query_model``, whose table is yet to be fitted to the data.

    Raises:
        ValueError: the query model is no Sentence Transformers model, or has an adapter already.
    """
    if not isinstance(queries, ModelBase):
        raise InputError(
            f"The query model is a {type(queries.encoder).__name__}, but what is saved is made of its modules.",
            python="Pass a SentenceTransformer, a Hub id or a folder as query_model.",
            flags="Name a Sentence Transformers model with --query-model.",
        )
    check_has_no_adapter(queries.model)
    return QueryModelBase(status_quo, queries, to_measure=to_measure)


def check_has_no_adapter(query_model: SentenceTransformer) -> None:
    """Raise InputError if a query model has an adapter, or routes, already.

    What the adapter was fitted on may be what the new one is measured on.
    """
    routed = any(isinstance(module, Router | QueryAdapter) for module in query_model.modules())
    if routed or embeds_queries_alone(query_model):
        raise InputError(
            "The query model has an adapter or routes already, but queries go through one model and one adapter.",
            python="Pass the model that it was made from as query_model.",
            flags="Name the model that it was made from with --query-model.",
        )
