"""Models that know better which document answers a query than the base model does, and may take longer to say so."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.util.file_io import load_file_path
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.embeddings.corpus import comparable
from st_adapter.embeddings.embedding import embed_role
from st_adapter.embeddings.encoder import SentenceTransformerEncoder
from st_adapter.embeddings.origin import name_of
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.soft_targets import check_scores
from st_adapter.errors import InputError, printable
from st_adapter.storage.reading import read_object

# Queries of which all documents are scored in one call, between two steps of the progress bar.
_QUERIES_AT_ONCE = 16

TeacherModel: TypeAlias = SentenceTransformer | CrossEncoder
"""What can be a teacher."""


class Teacher(Protocol):
    """Scores some documents for each query; only the order and the relative size of the scores of a query count.

    Attributes:
        name: Hub id or folder of the model.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Hub id or folder of the model."""

    @abstractmethod
    def scores(self, queries: Sequence[str], documents: Sequence[str], found: Tensor) -> Tensor:
        """The scores (Q, K), on the CPU, of the documents found for each query; higher is better.

        Args:
            queries: Q texts.
            documents: N texts.
            found: (Q, K) int64 into the documents.
        """


class CrossEncoderTeacher(Teacher):
    """A ``CrossEncoder`` that reads query and document together; its logits are the scores.

    Args:
        model: with one score per pair, on the device it shall run on.
        show_progress_bar: one bar.

    Raises:
        InputError: the model gives several scores per pair.
    """

    def __init__(self, model: CrossEncoder, *, show_progress_bar: bool = True) -> None:
        if model.num_labels != 1:
            raise InputError(
                f"The teacher {printable(name_of(model))} gives {model.num_labels} scores per query and document, but "
                "one is expected: how relevant the document is.",
                python="Load a CrossEncoder with num_labels=1.",
                flags="Name a reranker with --teacher.",
            )
        self._model = model
        self._show_progress_bar = show_progress_bar

    @property
    def name(self) -> str:
        """Hub id or folder of the model."""
        return name_of(self._model)

    def scores(self, queries: Sequence[str], documents: Sequence[str], found: Tensor) -> Tensor:
        """The logits (Q, K): what an activation function would squeeze together stays apart."""
        parts = []
        with tqdm(total=found.numel(), desc="Teaching", unit="pair", disable=not self._show_progress_bar) as progress:
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                rows = found[start : start + _QUERIES_AT_ONCE].tolist()
                pairs = [(queries[start + n], documents[each]) for n, row in enumerate(rows) for each in row]
                scores = self._model.predict(
                    pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
                )
                parts.append(scores.float().cpu().view(len(rows), -1))
                check_scores(parts[-1], self.name)
                progress.update(len(pairs))
        return torch.cat(parts)


class EmbeddingTeacher(Teacher):
    """A ``SentenceTransformer`` that is stronger than the base model; its similarity is the score.

    Args:
        model: on the device it shall run on.
        cache_dir: where its embeddings are cached; see ``embed``.
        show_progress_bar: bars for queries and documents.

    Raises:
        InputError: the model gives no dense vectors, or compares by a distance.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        show_progress_bar: bool = True,
    ) -> None:
        self._encoder = SentenceTransformerEncoder(model)
        self._cache_dir = cache_dir
        self._show_progress_bar = show_progress_bar

    @property
    def name(self) -> str:
        """Hub id or folder of the model."""
        return name_of(self._encoder.model)

    def scores(self, queries: Sequence[str], documents: Sequence[str], found: Tensor) -> Tensor:
        """The similarities (Q, K); of the documents those are embedded that were found."""
        needed, places = found.unique(return_inverse=True)
        asked = self._embedded("query", list(queries))
        answers = self._embedded("document", [documents[row] for row in needed.tolist()])
        return torch.stack([answers[row] @ query for query, row in zip(asked, places.cpu(), strict=True)])

    def _embedded(self, role: Role, texts: list[str]) -> Tensor:
        try:
            vectors = embed_role(self._encoder, role, texts, self._cache_dir, self._show_progress_bar).cpu()
        except InputError:
            raise
        except ValueError as error:
            raise ValueError(f"The teacher {printable(self.name)}: {error}") from error
        return comparable(vectors, self._encoder.similarity)


def open_teacher(
    teacher: TeacherModel | str | Path,
    *,
    device: torch.device | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress_bar: bool = True,
) -> Teacher:
    """A model, or the one that a Hub id or folder names, as a teacher.

    Args:
        teacher: a ``CrossEncoder`` or a ``SentenceTransformer``.
        device: where one that is opened here runs.
        cache_dir: where embeddings are cached.
        show_progress_bar: bars while it works.

    Raises:
        InputError: it is neither of the two, or its scores are of no use.

    Examples:
        >>> teacher = open_teacher(model, cache_dir="cache", show_progress_bar=False)
        >>> teacher.scores(["red car"], ["car", "house"], torch.tensor([[0, 1]])).shape
        torch.Size([1, 2])
    """
    model = _opened(teacher, device) if isinstance(teacher, str | Path) else teacher
    if isinstance(model, CrossEncoder):
        return CrossEncoderTeacher(model, show_progress_bar=show_progress_bar)
    if isinstance(model, SentenceTransformer):
        return EmbeddingTeacher(model, cache_dir=cache_dir, show_progress_bar=show_progress_bar)
    raise InputError(
        f"The teacher is of type {type(model).__name__}, but a CrossEncoder or a SentenceTransformer is expected.",
        python="Load one of these, or give the name of one.",
        flags="Name one of these with --teacher.",
    )


def _opened(name: str | Path, device: torch.device | str | None) -> TeacherModel:
    where = None if device is None else str(device)
    if name == "":
        raise InputError("The name of the teacher is empty.", python="Name one.", flags="Name one with --teacher.")
    try:
        if _is_cross_encoder(str(name)):
            return CrossEncoder(str(name), device=where)
        return SentenceTransformer(str(name), device=where)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"The teacher {printable(str(name))} cannot be opened ({reason}).",
            python="Give a CrossEncoder, a SentenceTransformer, or the Hub id or folder of one.",
            flags="Name the Hub id or folder of a CrossEncoder or SentenceTransformer with --teacher.",
        ) from error


def _is_cross_encoder(name: str) -> bool:
    """Whether the files of a model are those of a cross-encoder; older ones are plain classifiers of transformers."""
    declared = _object_of(name, "config_sentence_transformers.json").get("model_type")
    if declared is not None:
        return bool(declared == "CrossEncoder")
    architectures = _object_of(name, "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _object_of(name: str, file: str) -> dict[str, Any]:
    path = load_file_path(name, file)
    return {} if path is None else read_object(Path(path))
