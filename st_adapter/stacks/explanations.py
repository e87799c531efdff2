"""The vectors that a model, and each usual mistake with it, gives for some texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize

from st_adapter.embeddings.roles import Role, prompt_of
from st_adapter.evaluation.hits import adapt
from st_adapter.saving.attach import detach, with_modules
from st_adapter.saving.joined import parted
from st_adapter.saving.tasks import check_task_of, tasks_of

# What a text may have passed through: nothing but the base model, the adapter, the adapter twice, the adapter on
# vectors that the base model's last Normalize did not see, as servers do that skip it, or the adapter of another task.
# Of two models "base" is that of the documents, "adapted" the query model with the map behind it, and "unmapped" the
# query model alone.
Treatment = Literal["base", "adapted", "twice", "unnormalized", "unmapped", "other"]
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
    """The vectors that a model, and each usual mistake with it, gives for some texts.

    Attributes:
        task: of the queries, where there are adapters for several.
        dimension: D of the model's vectors.
        two: whether another model embeds queries than documents.
        unmapped_dimensions: of the query model's own vectors, in front of the map.

    Args:
        model: the saved model.
        task: whose adapter is the right one, of several.
        for_queries_alone: whether it embeds no documents.
    """

    def __init__(self, model: SentenceTransformer, task: str | None = None, *, for_queries_alone: bool = False) -> None:
        check_task_of(model, task)
        self.task = task
        self.dimension = int(model.get_embedding_dimension() or 0)
        # Sentence Transformers truncates behind the last module, so behind the adapter.
        with model.truncate_embeddings(None):
            joined = parted(model)
            self.base, self._query_modules = detach(model, task) if joined is None else (joined.documents, [])
            # encode_query and the default task may have the same adapter.
            others = {other: detach(model, other)[1] for other in tasks_of(model) if other != task}
        self._others = {other: modules for other, modules in others.items() if modules != self._query_modules}
        self._queries = None if joined is None else joined.queries
        self.two = joined is not None
        self.adapts = bool(self._query_modules) or self.two
        with_map = model if for_queries_alone else self._queries
        self._unmapped = [] if with_map is None else _in_front_of_maps(with_map)
        self.unmapped_dimensions = {int(each.get_embedding_dimension() or 0) for each in self._unmapped}
        self._unnormalized = _without_normalize(self.base if joined is None else joined.queries, only_last=not self.two)

    def candidates(self, role: Role, texts: list[str], dimension: int) -> Iterator[Candidate]:
        """The right vectors first, then those of each mistake.

        Args:
            role: of the texts.
            texts: what was embedded.
            dimension: of the vectors that were observed; the query model's own have another one than the documents'.
        """
        embeds = self._queries if self._queries is not None and role == "query" else self.base
        usual = [prompt or "" for prompt in self.base.prompts.values()]
        prompts = dict.fromkeys([prompt_of(embeds, role), "", prompt_of(self.base, role), *usual])
        first: Treatment = "adapted" if role == "query" and self.adapts else "base"
        treatments: list[Treatment] = [first, *(r for r in _TREATMENTS if r != first)]
        for prompt in prompts:
            vectors = self._of_one(texts, prompt) if self._queries is None else self._of_two(texts, prompt)
            for treatment in treatments:
                if treatment in vectors and (self.adapts or treatment == "base"):
                    yield Candidate(treatment, prompt, self._kept(vectors[treatment]))
            for model in self._unmapped:
                if model.get_embedding_dimension() == dimension:
                    yield Candidate("unmapped", prompt, self._embed(model, texts, prompt).float().cpu().numpy())
            for other, modules in self._others.items():
                yield Candidate("other", prompt, self._kept(adapt(modules, vectors["base"])), other)

    def _kept(self, vectors: torch.Tensor) -> Vectors:
        kept: Vectors = vectors[:, : self.dimension].float().cpu().numpy()
        return kept

    def _of_one(self, texts: list[str], prompt: str) -> Mapping[Treatment, torch.Tensor]:
        base = self._embed(self.base, texts, prompt)
        adapted = adapt(self._query_modules, base)
        vectors: dict[Treatment, torch.Tensor] = {
            "base": base,
            "adapted": adapted,
            "twice": adapt(self._query_modules, adapted),
        }
        if self._unnormalized is not None:
            bare = self._embed(self._unnormalized, texts, prompt)
            vectors["unnormalized"] = adapt(self._query_modules, bare)
        return vectors

    def _of_two(self, texts: list[str], prompt: str) -> Mapping[Treatment, torch.Tensor]:
        models: dict[Treatment, SentenceTransformer | None] = {
            "base": self.base,
            "adapted": self._queries,
            "unnormalized": self._unnormalized,
        }
        return {name: self._embed(model, texts, prompt) for name, model in models.items() if model is not None}

    def _embed(self, model: SentenceTransformer, texts: list[str], prompt: str) -> torch.Tensor:
        vectors: torch.Tensor = model.encode(texts, prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
        return vectors


def _in_front_of_maps(queries: SentenceTransformer) -> list[SentenceTransformer]:
    """A query model as it is in front of each place where a map may begin, which starts with these two modules."""
    children = list(queries.named_children())
    kinds = [type(module) for _, module in children]
    places = [at for at in range(1, len(kinds)) if kinds[at : at + 2] == [Normalize, Dense]]
    return [with_modules(queries, children[:at]) for at in places]


def _without_normalize(model: SentenceTransformer, *, only_last: bool) -> SentenceTransformer | None:
    """The model as servers run it that skip such a module; None where there is none.

    Args:
        model: the model.
        only_last: only the last module, since a Normalize further in is part of what the vectors mean.
    """
    children = list(model.named_children())
    last = len(children) - 1
    kept = [
        each for at, each in enumerate(children) if not isinstance(each[1], Normalize) or (only_last and at != last)
    ]
    return with_modules(model, kept) if kept and len(kept) < len(children) else None


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
