"""What the vectors of one side of a stack show, in words: what is wrong and which setting mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from st_adapter.embeddings.roles import Role
from st_adapter.stacks.explanations import (
    Candidate,
    Explanations,
    Treatment,
    Vectors,
    cosines_of,
    distances_of,
    from_cosine,
)

# Below this, two vectors of unit length differ by rounding alone.
_ROUNDING = 1e-4
_PLURAL = {"query": "queries", "document": "documents"}
# Where another model embeds queries than documents.
_OPEN_WHOLE: dict[Role, str] = {
    "query": "embed queries with encode_query() of the saved model, or with its revision 'query', not with the query "
    "model that it was made from",
    "document": "embed documents with encode_document(), or with plain encode() of the default revision, without "
    "task='query' and not with revision 'query': what is in the index stays as it is",
}
FUNCTION = {"query": "embed_query", "document": "embed_documents"}


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


class Side(NamedTuple):
    """What was found out about queries or documents.

    Attributes:
        treatment: the one that explains the vectors; None if none does.
        distance: see ``StackCheck``.
        problems: all of this side.
        treatment_problem: the one among them that is about the treatment.
        notes: what could not be told.
    """

    treatment: Treatment | None
    distance: float | None
    problems: list[StackProblem]
    treatment_problem: StackProblem | None
    notes: list[str]


def look(role: Role, rows: list[Vectors], texts: list[str], explanations: Explanations, tolerance: float) -> Side:
    """Find the explanation of one side's vectors."""
    unusable = _unusable(role, rows, texts, explanations)
    if unusable is not None:
        return Side(None, None, [unusable], None, [])
    observed = np.stack(rows)  # (T, d)
    candidates = list(explanations.candidates(role, texts, observed.shape[1]))
    distances = distances_of(observed, candidates)
    distance = float(distances[0])
    problems = []
    if min(distances) > tolerance:
        order = _order(observed, candidates, tolerance)
        if order is None:
            problem = _unexplained(role, observed, candidates, int(np.argmin(distances)), tolerance)
            return Side(None, distance, [problem], None, [])
        problems.append(_order_problem(role, order))
        # What else is wrong shows once the texts are in the order of the vectors.
        candidates = [candidate._replace(vectors=candidate.vectors[order]) for candidate in candidates]
        distances = distances_of(observed, candidates)
    # Among explanations that fit equally well, up to rounding, the one with the least wrong comes first.
    best = next(i for i, value in enumerate(distances) if value <= 2 * min(distances) + _ROUNDING)
    right, found = candidates[0], candidates[best]
    treatment_problem = None if found.treatment == right.treatment else _told(role, found, explanations)
    # Another model has prompts of its own: none of them is wrong beside that.
    same_model = treatment_problem is None or not explanations.two
    others = [
        _prompt_problem(role, found.prompt, right.prompt) if found.prompt != right.prompt and same_model else None,
        _size_problem(role, observed, found.vectors, tolerance),
    ]
    problems += [problem for problem in (treatment_problem, *others) if problem is not None]
    notes = []
    alternative = next(
        (i for i, c in enumerate(candidates) if c.treatment != right.treatment and c.prompt == right.prompt), 0
    )
    if best == 0 and alternative and distances[alternative] <= 2 * distances[0] + _ROUNDING:
        notes.append(
            f"with and without the adapter, the {_PLURAL[role]} are too close to each other to tell which were returned"
        )
    return Side(found.treatment, distance, problems, treatment_problem, notes)


def problems_of_both(queries: Side, documents: Side) -> tuple[StackProblem, ...]:
    """The problems of both sides; where the two models are swapped, that is one problem and not two."""
    problems = (*queries.problems, *documents.problems)
    # Without an adapter there is no such treatment.
    if queries.treatment != "base" or documents.treatment != "adapted":
        return problems
    swapped = StackProblem(
        "both",
        "the models for queries and for documents are swapped",
        "give the model for queries (task='query', encode_query() or revision 'query') to the query embedder, and the "
        "one for documents (plain encode(), encode_document() or the default revision) to the document embedder",
    )
    both = (queries.treatment_problem, documents.treatment_problem)
    return (swapped, *(problem for problem in problems if problem not in both))


def _unusable(role: Role, rows: list[Vectors], texts: list[str], explanations: Explanations) -> StackProblem | None:
    """What keeps vectors from being compared at all."""
    function, plural, dimension = FUNCTION[role], _PLURAL[role], explanations.dimension
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
    if shapes[0][0] > dimension and shapes[0][0] in explanations.unmapped_dimensions:
        return StackProblem(
            role,
            f"vectors of {plural} have the {shapes[0][0]} dimensions of the query model alone, those of the index "
            f"{dimension}",
            _OPEN_WHOLE[role],
        )
    if shapes[0][0] > dimension:
        return StackProblem(
            role,
            f"vectors of {plural} have {shapes[0][0]} dimensions, the model's have {dimension}",
            "open the same model in the stack and here, with the same truncate_dim",
        )
    return None


def _order(observed: Vectors, candidates: list[Candidate], tolerance: float) -> list[int] | None:
    """For each row, the text whose vector it is, if one explanation has one for all rows."""
    for similarities in cosines_of(observed, candidates):
        if (from_cosine(similarities.max(axis=1)) <= tolerance).all():
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
    role: Role, observed: Vectors, candidates: list[Candidate], nearest: int, tolerance: float
) -> StackProblem:
    """What is wrong with vectors that no single explanation fits, row by row."""
    plural = _PLURAL[role]
    matrices = cosines_of(observed, candidates)
    fits = [from_cosine(np.diagonal(similarities)) <= tolerance for similarities in matrices]
    if np.any(fits, axis=0).all():
        kinds = [candidates[int(column.argmax())].name for column in np.stack(fits, axis=1)]
        return StackProblem(
            role,
            f"{plural} are not embedded alike: {', '.join(kinds)}, row by row",
            "empty the stack's cache of vectors, and open one model for all of them",
        )
    closest = candidates[nearest]
    cosine = float(np.diagonal(matrices[nearest]).min())
    return StackProblem(
        role,
        f"vectors of {plural} are none that this model can give (nearest: {closest.name}, cosine {cosine:.3f})",
        "open the same base model here and in the stack, with its own weights, pooling and max_seq_length; if the "
        "vectors are quantised, allow a larger tolerance",
    )


def _told(role: Role, found: Candidate, explanations: Explanations) -> StackProblem:
    if explanations.two or found.treatment == "unmapped":
        return _problem_of_two(role, found.treatment)
    return _treatment_problem(role, found, explanations.task)


def _treatment_problem(role: Role, found: Candidate, task: str | None) -> StackProblem:
    plural, treatment = _PLURAL[role], found.treatment
    if treatment == "other":
        return StackProblem(
            role,
            f"{plural} pass through the adapter of the task {found.task!r}",
            f"pass task={task!r} with prompt_name='query'"
            if role == "query" and task
            else f"embed them with encode_{role}(), without task={found.task!r}",
        )
    if treatment == "twice":
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
    if treatment == "base":
        return StackProblem(
            role,
            "queries do not pass through the adapter: they are the base model's vectors",
            "your stack embeds queries with plain encode(): call encode_query(), pass task='query' with "
            "prompt_name='query', or load revision 'query' for queries"
            if task is None
            else f"your stack embeds queries without their task: pass task={task!r} with prompt_name='query'",
        )
    return StackProblem(
        role,
        "queries pass through the adapter without the Normalize that belongs before it",
        "your server skips that module: run the model with sentence-transformers",
    )


def _problem_of_two(role: Role, treatment: Treatment) -> StackProblem:
    """What is wrong where one model embeds queries and another one documents."""
    plural = _PLURAL[role]
    if treatment == "base":
        return StackProblem(
            role,
            "queries are embedded by the model of the documents, not by the query model",
            "your stack embeds queries with plain encode(): call encode_query(), pass task='query' with "
            "prompt_name='query', or load revision 'query' for queries",
        )
    if role == "document":
        return StackProblem(role, "documents are embedded by the query model", _OPEN_WHOLE[role])
    if treatment == "unmapped":
        return StackProblem(
            role,
            f"{plural} are the query model's own vectors, without the Dense that belongs behind it",
            _OPEN_WHOLE[role],
        )
    return StackProblem(
        role,
        f"{plural} pass through the Dense behind the query model without the Normalize that belongs before it",
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
