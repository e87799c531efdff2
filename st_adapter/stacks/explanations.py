"""The vectors that a model, and each usual mistake with it, gives for some texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module, Normalize

from st_adapter.embeddings.roles import Role, prompt_of
from st_adapter.saving.attach import detach
from st_adapter.saving.joined import parted
from st_adapter.saving.tasks import check_task_of, tasks_of

# What a text may have passed through: nothing but the base model, the adapter, the adapter twice, the adapter on
# vectors that the base model's last Normalize did not see, as servers do that skip it, or the adapter of another task.
Treatment = Literal["base", "adapted", "twice", "unnormalized", "other"]
Vectors = NDArray[np.float32]

_TREATMENTS: tuple[Treatment, ...] = get_args(Treatment)


class Candidate(NamedTuple):
    """Vectors that one explanation predicts, (T, D); of another task, which."""

    treatment: Treatment
    prompt: str
    vectors: Vectors
    task: str = ""

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"adapter of {self.task!r}" if self.task else self.treatment


class Explanations:
    """The vectors that a model, and each usual mistake with it, gives for some texts."""

    def __init__(self, model: SentenceTransformer, task: str | None = None) -> None:
        check_task_of(model, task)
        self.task = task
        self.dimension = int(model.get_embedding_dimension() or 0)
        # Sentence Transformers truncates behind the last module, so behind the adapter.
        joined = parted(model)
        self._queries = None if joined is None else joined.queries
        with model.truncate_embeddings(None):
            self.base, self._query_modules = detach(model, task) if joined is None else (joined.documents, [])
            # encode_query and the default task may have the same adapter.
            others = {other: detach(model, other)[1] for other in tasks_of(model) if other != task}
        self._others = {other: modules for other, modules in others.items() if modules != self._query_modules}
        self.adapts = bool(self._query_modules) or joined is not None
        # Only the last module: a Normalize further in is part of what the vectors mean.
        modules = list(self.base)
        self._unnormalized = (
            SentenceTransformer(modules=modules[:-1], device=str(model.device))
            if len(modules) > 1 and isinstance(modules[-1], Normalize) and joined is None
            else None
        )

    def candidates(self, role: Role, texts: list[str]) -> Iterator[Candidate]:
        """The right vectors first, then those of each mistake."""
        embeds = self._queries if self._queries is not None and role == "query" else self.base
        usual = [prompt or "" for prompt in self.base.prompts.values()]
        prompts = dict.fromkeys([prompt_of(embeds, role), "", prompt_of(self.base, role), *usual])
        first: Treatment = "adapted" if role == "query" and self.adapts else "base"
        treatments: list[Treatment] = [first, *(r for r in _TREATMENTS if r != first)]
        for prompt in prompts:
            base = self._embed(self.base, texts, prompt)
            vectors: dict[Treatment, torch.Tensor] = {"base": base}
            if self._queries is not None:
                vectors["adapted"] = self._embed(self._queries, texts, prompt)
            else:
                vectors["adapted"] = _adapted(base, self._query_modules)
                vectors["twice"] = _adapted(vectors["adapted"], self._query_modules)
            if self._unnormalized is not None:
                bare = self._embed(self._unnormalized, texts, prompt)
                vectors["unnormalized"] = _adapted(bare, self._query_modules)
            for treatment in treatments:
                if treatment in vectors and (self.adapts or treatment == "base"):
                    yield Candidate(treatment, prompt, self._kept(vectors[treatment]))
            for other, modules in self._others.items():
                yield Candidate("other", prompt, self._kept(_adapted(base, modules)), other)

    def _kept(self, vectors: torch.Tensor) -> Vectors:
        kept: Vectors = vectors[:, : self.dimension].float().cpu().numpy()
        return kept

    def _embed(self, model: SentenceTransformer, texts: list[str], prompt: str) -> torch.Tensor:
        vectors: torch.Tensor = model.encode(texts, prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
        return vectors


@torch.inference_mode()
def _adapted(vectors: torch.Tensor, query_modules: Iterable[Module]) -> torch.Tensor:
    features = {"sentence_embedding": vectors}
    for module in query_modules:
        features = module(features)
    return features["sentence_embedding"]


def distances_of(observed: Vectors, candidates: Sequence[Candidate]) -> list[float]:
    """For each explanation, the largest Euclidean distance of a row at unit length, on the dimensions there are."""
    kept = observed.shape[1]
    differences = [_unit(observed) - _unit(candidate.vectors[:, :kept]) for candidate in candidates]
    return [float(np.linalg.norm(difference, axis=1).max()) for difference in differences]


def cosines_of(observed: Vectors, candidates: Sequence[Candidate]) -> list[Vectors]:
    """For each explanation, the cosines of rows and texts, (T, T)."""
    unit = _unit(observed)
    return [unit @ _unit(candidate.vectors[:, : observed.shape[1]]).T for candidate in candidates]


def from_cosine(cosine: NDArray[Any]) -> NDArray[Any]:
    """The Euclidean distance of two vectors of length 1 from their cosine."""
    distance: NDArray[Any] = np.sqrt(np.clip(2 - 2 * cosine, 0, None))
    return distance


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit
