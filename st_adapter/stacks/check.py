"""Does a retrieval stack put the adapter on queries and leave documents alone? Its vectors tell."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from st_adapter.embeddings.origin import origin_object, remember_origin
from st_adapter.embeddings.roles import Role
from st_adapter.errors import setting_error
from st_adapter.evidence.output_folder import model_path
from st_adapter.saving.folder import CONFIG_FILE_NAME
from st_adapter.stacks.diagnosis import FUNCTION, Side, StackProblem, look, problems_of_both
from st_adapter.stacks.explanations import Explanations, Vectors

Embed = Callable[[Any], Any]
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


@dataclass(frozen=True)
class StackCheck:
    """What ``check_stack`` found; it prints as its summary.

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

    def __repr__(self) -> str:
        return self.summary()


def check_stack(
    model: SentenceTransformer | str | Path,
    embed_query: Embed,
    embed_documents: Embed,
    *,
    task: str | None = None,
    queries: Sequence[str] = QUERIES,
    documents: Sequence[str] = DOCUMENTS,
    tolerance: float = 0.02,
) -> StackCheck:
    """Check with a few texts that a stack embeds queries with the adapter and documents with the base model alone.

    The stack's vectors are compared with those that ``model`` gives, and, if they differ, with those that each usual
    mistake gives: no adapter, adapter on documents, adapter twice, a prompt missing or too much, missing normalisation,
    truncation, another order; of two models, one in the other's place. What matches names the mistake. Of a model that
    is for queries alone only these are checked, with a note.

    Args:
        model: What ``save_pretrained`` or ``attach`` made: a folder, also the output folder of ``train``, a Hub id or
            the model in memory. Of a model without an adapter a note says so.
        embed_query: The stack's function for queries. It is called with a list of texts and returns one vector for
            each (array, tensor or nested list); a function of one text that returns one vector will do as well.
        embed_documents: The same for documents.
        task: Whose adapter the queries shall pass through, of a model with adapters for several tasks.
        queries: At least two different texts.
        documents: At least two different texts.
        tolerance: Largest Euclidean distance, at unit length, at which two vectors count as equal. The default suits
            fp16 and bf16; int8 needs about 0.05. Smaller adapters are recognised all the same: the nearest wins.

    Raises:
        ValueError: a function fails whatever it gets; fewer than two different texts; ``tolerance`` is no distance;
            ``model`` has adapters for several tasks and none of them is meant.

    Examples:
        >>> adapted = st_adapter.attach(model, adapter)
        >>> check_stack(adapted, adapted.encode_query, adapted.encode_document).ok
        True
    """
    _check_arguments(model, embed_query, embed_documents, tolerance)
    _check_several("query", queries)
    _check_several("document", documents)
    opened = _opened(model)
    if origin_object(opened, CONFIG_FILE_NAME).get("layout") == "twin":
        return _checked_alone(opened, embed_query, queries, tolerance)
    explanations = Explanations(opened, task)
    query_side = _look("query", embed_query, queries, explanations, tolerance)
    document_side = _look("document", embed_documents, documents, explanations, tolerance)
    notes = () if explanations.adapts else ("the model has no adapter, so its queries are the base model's",)
    return StackCheck(
        problems=problems_of_both(query_side, document_side),
        notes=(*notes, *query_side.notes, *document_side.notes),
        num_queries=len(queries),
        num_documents=len(documents),
        dimension=explanations.dimension,
        query_distance=query_side.distance,
        document_distance=document_side.distance,
        tolerance=tolerance,
    )


def _opened(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    if isinstance(model, SentenceTransformer):
        return model
    place = model_path(str(model))
    opened = SentenceTransformer(place)
    remember_origin(opened, place)
    return opened


def _look(role: Role, embed: Embed, texts: Sequence[str], explanations: Explanations, tolerance: float) -> Side:
    return look(role, _call(embed, texts, role), list(texts), explanations, tolerance)


def _checked_alone(
    model: SentenceTransformer, embed_query: Embed, queries: Sequence[str], tolerance: float
) -> StackCheck:
    explanations = Explanations(model, for_queries_alone=True)
    # Every method of it embeds queries, so that they are what its base model, which is all of it, gives.
    side = _look("query", embed_query, queries, explanations, tolerance)
    return StackCheck(
        problems=tuple(side.problems),
        notes=("the model is for queries alone, so documents are not checked", *side.notes),
        num_queries=len(queries),
        num_documents=0,
        dimension=explanations.dimension,
        query_distance=side.distance,
        document_distance=None,
        tolerance=tolerance,
    )


def _check_arguments(model: object, embed_query: object, embed_documents: object, tolerance: float) -> None:
    if not 0 <= tolerance <= 2:
        raise setting_error("tolerance", tolerance, "a distance from 0 to 2")
    functions = all(
        callable(each) and not isinstance(each, SentenceTransformer) for each in (embed_query, embed_documents)
    )
    if isinstance(model, SentenceTransformer | str | Path) and functions:
        return
    came = ", ".join(type(each).__name__ for each in (model, embed_query, embed_documents))
    raise ValueError(
        f"check_stack was given {came}, but the model (or its folder or Hub id) is expected first, then the stack's "
        "functions for queries and for documents. Pass check_stack(model, embed_query, embed_documents)."
    )


def _check_several(role: Role, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or len(set(texts)) < 2 or len(set(texts)) < len(texts):
        raise ValueError(
            f"The {role} texts are {list(texts)[:3]!r}, but at least two, all different, are expected: an order or "
            "a constant could not be seen with fewer."
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
                f"{FUNCTION[role]} failed for a list of {len(texts)} texts ({type(of_list).__name__}: {of_list}) and "
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
