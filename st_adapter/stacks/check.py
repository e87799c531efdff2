"""Does a retrieval stack put the adapter on queries and leave documents alone? Its vectors tell."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from st_adapter.saving.attach import detach

Embed = Callable[[Any], Any]
Role = Literal["query", "document"]
# What a text may have passed through: nothing but the base model, the adapter, the adapter twice, or the adapter on
# vectors that the base model's last Normalize did not see, as servers do that skip it.
Route = Literal["base", "adapted", "twice", "unnormalized"]
Vectors = NDArray[np.float32]

_ROUTES: tuple[Route, ...] = ("base", "adapted", "twice", "unnormalized")
QUERIES = (
    "How do I read a file line by line?",
    "absolute value of a number",
    "what is the capital of France",
    "Größe, naïve, 東京",
    "sort a list of names without regard to upper and lower case",
)
DOCUMENTS = (
    "Return the absolute value of a number.",
    "Paris is the capital and the largest city of France.",
    "def area(radius): return math.pi * radius**2",
    "A longer document of several sentences. Texts of different lengths share a batch, so the padding of the shorter "
    "ones must not matter. Neither must the order.",
    "Größe, naïve, 東京",
)
# Below this, two vectors of unit length differ by rounding alone.
_ROUNDING = 1e-4
_PLURAL = {"query": "queries", "document": "documents"}
_FUNCTION = {"query": "embed_query", "document": "embed_documents"}


@dataclass(frozen=True)
class StackProblem:
    """One thing that is wrong with a stack.

    Attributes:
        side: whose vectors are wrong.
        found: what the vectors show.
        remedy: which setting mends it.
    """

    side: Literal["query", "document", "both"]
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}: {self.remedy}"


@dataclass(frozen=True)
class StackCheck:
    """What ``check_stack`` found; ``print`` it for a summary.

    Attributes:
        problems: what is wrong; empty if nothing is.
        notes: what could not be told.
        num_queries: how many queries were embedded.
        num_documents: how many documents were embedded.
        dimension: D of the model's embeddings.
        query_distance: largest Euclidean distance between a query vector of the stack and the right one, both at unit
            length, 0 to 2; None if the two cannot be compared.
        document_distance: the same for documents.
        tolerance: largest distance that counts as equal.
    """

    problems: tuple[StackProblem, ...]
    notes: tuple[str, ...]
    num_queries: int
    num_documents: int
    dimension: int
    query_distance: float | None
    document_distance: float | None
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def summary(self) -> str:
        """Several lines: the verdict, the distances, each problem with its remedy, and the notes."""
        count = len(self.problems)
        verdict = "ok" if self.ok else f"{count} problem{'s' if count > 1 else ''}"
        lines = [f"Stack check: {verdict}"]
        for name, number, distance in (
            ("queries", self.num_queries, self.query_distance),
            ("documents", self.num_documents, self.document_distance),
        ):
            measured = "not comparable" if distance is None else f"{distance:.1e} (allowed {self.tolerance:g})"
            lines.append(f"  {name}: {number} texts, largest distance to the right vector {measured}")
        for problem in self.problems:
            lines += [f"  wrong: {problem.found}", f"    mend it: {problem.remedy}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.summary()


def check_stack(
    embed_query: Embed,
    embed_documents: Embed,
    model: SentenceTransformer | str | Path,
    *,
    queries: Sequence[str] = QUERIES,
    documents: Sequence[str] = DOCUMENTS,
    tolerance: float = 0.02,
) -> StackCheck:
    """Check with a few texts that a stack embeds queries with the adapter and documents with the base model alone.

    The stack's vectors are compared with those that ``model`` gives, and, if they differ, with those that each usual
    mistake gives: no adapter, adapter on documents, adapter twice, a prompt missing or too much, missing normalisation,
    truncation, another order. What matches names the mistake.

    Args:
        embed_query: The stack's function for queries. It is called with a list of texts and returns one vector for
            each (array, tensor or nested list); a function of one text that returns one vector will do as well.
        embed_documents: The same for documents.
        model: What ``save_pretrained`` or ``attach`` made: a folder, a Hub id or the model in memory.
        queries: At least two different texts.
        documents: At least two different texts.
        tolerance: Largest Euclidean distance, at unit length, at which two vectors count as equal. The default leaves
            room for fp16 and bf16; int8 vectors need about 0.05. Smaller adapters are recognised all the same, as the
            nearest of all explanations wins.

    Returns:
        A result whose ``problems`` are empty if nothing is wrong.

    Raises:
        ValueError: a function fails, whatever it is called with; fewer than two different texts; ``model`` is not made
            by this package.

    Example:
        >>> from st_adapter import attach
        >>> adapted = attach(model, adapter)
        >>> check_stack(adapted.encode_query, adapted.encode_document, adapted).ok
        True
    """
    for role, texts in (("query", queries), ("document", documents)):
        if isinstance(texts, str) or len(set(texts)) < 2 or len(set(texts)) < len(texts):
            raise ValueError(
                f"The {role} texts are {list(texts)[:3]!r}, but at least two, all different, are expected: an order or "
                "a constant could not be seen with fewer."
            )
    opened = model if isinstance(model, SentenceTransformer) else SentenceTransformer(str(model))
    explanations = _Explanations(opened)
    query_side = _look("query", _call(embed_query, queries, "query"), list(queries), explanations, tolerance)
    document_side = _look(
        "document", _call(embed_documents, documents, "document"), list(documents), explanations, tolerance
    )
    problems = [*query_side.problems, *document_side.problems]
    if query_side.route == "base" and document_side.route == "adapted" and explanations.adapts:
        swapped = StackProblem(
            "both",
            "the models for queries and for documents are swapped",
            "give the adapted model (task='query', encode_query() or revision 'query') to the query embedder, and the "
            "base model (plain encode(), encode_document() or the default revision) to the document embedder",
        )
        problems = [swapped, *(p for p in problems if p not in (query_side.route_problem, document_side.route_problem))]
    notes = [] if explanations.adapts else ["the model has no adapter, so its queries are the base model's"]
    return StackCheck(
        problems=tuple(problems),
        notes=(*notes, *query_side.notes, *document_side.notes),
        num_queries=len(queries),
        num_documents=len(documents),
        dimension=explanations.dimension,
        query_distance=query_side.distance,
        document_distance=document_side.distance,
        tolerance=tolerance,
    )


def load_function(path: str) -> Embed:
    """Import ``package.module:function``; the current folder is searched first.

    Raises:
        ValueError: it is not of this form, cannot be found, or cannot be called.
    """
    module_name, colon, attributes = path.partition(":")
    if not (module_name and colon and attributes):
        raise ValueError(f"The function is given as {path!r}, but the form package.module:function is expected.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path!r} cannot be imported: {error}. Start in the folder that {module_name.split('.')[0]!r} lies in, or "
            "install it."
        ) from error
    finally:
        sys.path.remove(here)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ValueError(f"{path!r} cannot be found: {found!r} has no {attribute!r}.")
        found = getattr(found, attribute)
    if not callable(found):
        raise ValueError(f"{path!r} is a {type(found).__name__}, but a function of a list of texts is expected.")
    return found  # type: ignore[no-any-return]


class _Candidate(NamedTuple):
    """Vectors that one explanation predicts, (T, D)."""

    route: Route
    prompt: str
    vectors: Vectors


class _Side(NamedTuple):
    """What was found out about queries or documents."""

    route: Route | None
    distance: float | None
    problems: list[StackProblem]
    route_problem: StackProblem | None
    notes: list[str]


class _Explanations:
    """The vectors that a model, and each usual mistake with it, gives for some texts."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.dimension = int(model.get_embedding_dimension() or 0)
        # Sentence Transformers truncates behind the last module, so behind the adapter.
        with model.truncate_embeddings(None):
            self.base, self._query_modules = detach(model)
        self.adapts = bool(self._query_modules)
        # Only the last module: a Normalize further in is part of what the vectors mean.
        modules = list(self.base)
        self._unnormalized = (
            SentenceTransformer(modules=modules[:-1], device=str(model.device))
            if len(modules) > 1 and isinstance(modules[-1], Normalize)
            else None
        )

    def prompt(self, role: Role) -> str:
        """What ``encode_query`` or ``encode_document`` puts before a text."""
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        name = next((name for name in names if name in self.base.prompts), self.base.default_prompt_name)
        return self.base.prompts.get(name) or ""

    def candidates(self, role: Role, texts: list[str]) -> Iterator[_Candidate]:
        """The right vectors first, then those of each mistake."""
        prompts = dict.fromkeys([self.prompt(role), "", *(prompt or "" for prompt in self.base.prompts.values())])
        first: Route = "adapted" if role == "query" and self.adapts else "base"
        routes: list[Route] = [first, *(r for r in _ROUTES if r != first)]
        for prompt in prompts:
            base = self._embed(self.base, texts, prompt)
            vectors: dict[Route, torch.Tensor] = {"base": base, "adapted": self._adapt(base)}
            vectors["twice"] = self._adapt(vectors["adapted"])
            if self._unnormalized is not None:
                vectors["unnormalized"] = self._adapt(self._embed(self._unnormalized, texts, prompt))
            for route in routes:
                if route in vectors and (self.adapts or route == "base"):
                    kept = vectors[route][:, : self.dimension]
                    yield _Candidate(route, prompt, kept.float().cpu().numpy())

    def _embed(self, model: SentenceTransformer, texts: list[str], prompt: str) -> torch.Tensor:
        vectors: torch.Tensor = model.encode(texts, prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
        return vectors

    @torch.inference_mode()
    def _adapt(self, vectors: torch.Tensor) -> torch.Tensor:
        features = {"sentence_embedding": vectors}
        for module in self._query_modules:
            features = module(features)
        return features["sentence_embedding"]


def _call(embed: Embed, texts: Sequence[str], role: Role) -> list[Vectors]:
    """One vector per text, from a function of a list or of a single text."""
    # The function is the user's, so any error may come: that of the list is shown if single texts do no better.
    try:
        returned = _as_rows(embed(list(texts)))
    except Exception as of_list:
        try:
            return [_one_row(embed(text)) for text in texts]
        except Exception as of_text:
            raise ValueError(
                f"{_FUNCTION[role]} failed for a list of {len(texts)} texts ({type(of_list).__name__}: {of_list}) and "
                f"for a single text ({type(of_text).__name__}: {of_text}). Pass a function of a list of texts that "
                "returns one vector for each."
            ) from of_list
    if len(returned) == 1 or all(row.ndim == 0 for row in returned):
        # A function of one text that took the list for a text.
        return [_one_row(embed(text)) for text in texts]
    return returned


def _as_rows(returned: Any) -> list[Vectors]:
    if isinstance(returned, torch.Tensor):
        returned = returned.detach().float().cpu().numpy()
    return [
        np.asarray(row.detach().float().cpu() if isinstance(row, torch.Tensor) else row, dtype=np.float32)
        for row in returned
    ]


def _one_row(returned: Any) -> Vectors:
    rows = _as_rows(returned)
    return rows[0] if len(rows) == 1 and rows[0].ndim == 1 else np.stack(rows)


def _look(role: Role, rows: list[Vectors], texts: list[str], explanations: _Explanations, tolerance: float) -> _Side:
    """Find the explanation of one side's vectors."""
    unusable = _unusable(role, rows, texts, explanations.dimension)
    if unusable is not None:
        return _Side(None, None, [unusable], None, [])
    observed = np.stack(rows)  # (T, d)
    candidates = list(explanations.candidates(role, texts))
    distances = _distances(observed, candidates)
    distance = float(distances[0])
    problems = []
    if min(distances) > tolerance:
        order = _order(observed, candidates, tolerance)
        if order is None:
            problem = _unexplained(role, observed, candidates, int(np.argmin(distances)), tolerance)
            return _Side(None, distance, [problem], None, [])
        problems.append(_order_problem(role, order))
        # What else is wrong shows once the texts are in the order of the vectors.
        candidates = [candidate._replace(vectors=candidate.vectors[order]) for candidate in candidates]
        distances = _distances(observed, candidates)
    # Among explanations that fit equally well, up to rounding, the one with the least wrong comes first.
    best = next(i for i, value in enumerate(distances) if value <= 2 * min(distances) + _ROUNDING)
    right, found = candidates[0], candidates[best]
    route_problem = _route_problem(role, found.route) if found.route != right.route else None
    others = [
        _prompt_problem(role, found.prompt, right.prompt) if found.prompt != right.prompt else None,
        _size_problem(role, observed, found.vectors, tolerance),
    ]
    problems += [problem for problem in (route_problem, *others) if problem is not None]
    notes = []
    alternative = next((i for i, c in enumerate(candidates) if c.route != right.route and c.prompt == right.prompt), 0)
    if best == 0 and alternative and distances[alternative] <= 2 * distances[0] + _ROUNDING:
        notes.append(
            f"with and without the adapter, the {_PLURAL[role]} are too close to each other to tell which were returned"
        )
    return _Side(found.route, distance, problems, route_problem, notes)


def _unusable(role: Role, rows: list[Vectors], texts: list[str], dimension: int) -> StackProblem | None:
    """What keeps vectors from being compared at all."""
    function, plural = _FUNCTION[role], _PLURAL[role]
    if len(rows) != len(texts):
        return StackProblem(
            role,
            f"{function} returned {len(rows)} vectors for {len(texts)} {plural}",
            "return one vector for each text, in the same order, without leaving out duplicates or empty texts",
        )
    shapes = sorted({row.shape for row in rows})
    if len(shapes) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
        return StackProblem(
            role,
            f"{function} returned arrays of shape {', '.join(map(str, shapes))}",
            f"return one vector of {dimension} numbers for each text: sentence embeddings, not token embeddings",
        )
    bad = [number for number, row in enumerate(rows) if not np.isfinite(row).all() or not row.any()]
    if bad:
        return StackProblem(
            role,
            f"{len(bad)} of {len(rows)} vectors of {plural} have NaN, infinite or only zero values (first: {bad[0]})",
            "embed in float32 or bfloat16 (fp16 overflows in some models), and look for a failed request",
        )
    if shapes[0][0] > dimension:
        return StackProblem(
            role,
            f"vectors of {plural} have {shapes[0][0]} dimensions, the model's have {dimension}",
            "open the same model in the stack and here, with the same truncate_dim",
        )
    return None


def _order(observed: Vectors, candidates: list[_Candidate], tolerance: float) -> list[int] | None:
    """For each row, the text whose vector it is, if one explanation has one for all rows."""
    for similarities in _similarities(observed, candidates):
        if (_from_cosine(similarities.max(axis=1)) <= tolerance).all():
            order: list[int] = similarities.argmax(axis=1).tolist()
            return order
    return None


def _order_problem(role: Role, order: list[int]) -> StackProblem:
    plural = _PLURAL[role]
    if len(set(order)) == len(order):
        return StackProblem(
            role,
            f"vectors of {plural} come in another order than the texts (the order is {order})",
            "return them in the order of the texts: undo the sorting by length, or sort by index",
        )
    return StackProblem(
        role,
        f"different {plural} get the same vector (row by row, they belong to the texts {order})",
        "look for a cache whose key is not the whole text, or for a loop that embeds one text repeatedly",
    )


def _unexplained(
    role: Role, observed: Vectors, candidates: list[_Candidate], nearest: int, tolerance: float
) -> StackProblem:
    """What is wrong with vectors that no single explanation fits, row by row."""
    plural = _PLURAL[role]
    matrices = _similarities(observed, candidates)
    fits = [_from_cosine(np.diagonal(similarities)) <= tolerance for similarities in matrices]
    if np.any(fits, axis=0).all():
        kinds = [candidates[int(column.argmax())].route for column in np.stack(fits, axis=1)]
        return StackProblem(
            role,
            f"{plural} are not embedded alike: {', '.join(kinds)}, row by row",
            "empty the stack's cache of vectors, and open one model for all of them",
        )
    closest = candidates[nearest]
    cosine = float(np.diagonal(matrices[nearest]).min())
    return StackProblem(
        role,
        f"vectors of {plural} are none that this model can give (nearest: {closest.route}, cosine {cosine:.3f})",
        "open the same base model here and in the stack, with its own weights, pooling and max_seq_length; if the "
        "vectors are quantised, allow a larger tolerance",
    )


def _route_problem(role: Role, route: Route) -> StackProblem:
    plural = _PLURAL[role]
    if route == "twice":
        return StackProblem(
            role,
            f"{plural} pass through the adapter twice",
            "apply it once: open the saved model, or put the adapter on the base model's vectors, not both",
        )
    if role == "document":
        return StackProblem(
            role,
            "documents pass through the adapter",
            "embed documents with encode_document(), or with plain encode() of the default revision, without "
            "task='query' and not with revision 'query'",
        )
    if route == "base":
        return StackProblem(
            role,
            "queries do not pass through the adapter: they are the base model's vectors",
            "your stack embeds queries with plain encode(): call encode_query(), pass task='query' with "
            "prompt_name='query', or load revision 'query' for queries",
        )
    return StackProblem(
        role,
        "queries pass through the adapter without the Normalize that belongs before it",
        "your server skips that module: run the model with sentence-transformers",
    )


def _prompt_problem(role: Role, found: str, right: str) -> StackProblem:
    with_found = f"with the prompt {found!r}" if found else "without a prompt"
    with_right = f"with {right!r}" if right else "without one"
    remedy = f"pass prompt_name={role!r}, or call encode_{role}()" if right else "remove the prompt or instruction"
    return StackProblem(
        role, f"{_PLURAL[role]} are embedded {with_found}, but the model embeds them {with_right}", remedy
    )


def _size_problem(role: Role, observed: Vectors, expected: Vectors, tolerance: float) -> StackProblem | None:
    """Truncation, or another length than that of the vectors they are otherwise equal to."""
    plural = _PLURAL[role]
    if observed.shape[1] < expected.shape[1]:
        return StackProblem(
            role,
            f"vectors of {plural} are truncated to {observed.shape[1]} of {expected.shape[1]} dimensions",
            "remove truncate_dim or the dimension setting of your stack; if the index is truncated on purpose, check "
            "with a model opened with the same truncate_dim",
        )
    lengths, right = np.linalg.norm(observed, axis=1), np.linalg.norm(expected, axis=1)
    if (np.abs(lengths / right - 1) <= tolerance).all():
        return None
    found = f"vectors of {plural} have lengths {lengths.min():.4g} to {lengths.max():.4g}"
    if (np.abs(right - 1) <= tolerance).all():
        return StackProblem(
            role,
            f"{found} instead of 1: they are not normalised",
            "keep the model's own Normalize module, or pass normalize_embeddings=True",
        )
    return StackProblem(
        role,
        f"{found}, the model's have {right.min():.4g} to {right.max():.4g}",
        "leave the lengths as the model gives them: normalize_embeddings=False",
    )


def _distances(observed: Vectors, candidates: Sequence[_Candidate]) -> list[float]:
    """For each explanation, the largest Euclidean distance of a row at unit length, on the dimensions there are."""
    kept = observed.shape[1]
    differences = [_unit(observed) - _unit(candidate.vectors[:, :kept]) for candidate in candidates]
    return [float(np.linalg.norm(difference, axis=1).max()) for difference in differences]


def _similarities(observed: Vectors, candidates: Sequence[_Candidate]) -> list[Vectors]:
    """For each explanation, the cosines of rows and texts, (T, T)."""
    unit = _unit(observed)
    return [unit @ _unit(candidate.vectors[:, : observed.shape[1]]).T for candidate in candidates]


def _from_cosine(cosine: NDArray[Any]) -> NDArray[Any]:
    distance: NDArray[Any] = np.sqrt(np.clip(2 - 2 * cosine, 0, None))
    return distance


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit
