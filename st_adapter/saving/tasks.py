"""Several adapters behind one model: each has the name of a task, by which a query says whose it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dropout
from torch import Tensor, nn

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.roles import prompt_of
from st_adapter.errors import InputError
from st_adapter.storage.adapters import check_task
from st_adapter.words import listed

# What encode_query and encode_document pass as `task`; one adapter is the route for queries.
QUERY_ROUTE, DOCUMENT_ROUTE = "query", "document"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
# Other names of documents; modalities, which a Router looks up among its routes where no task is given; and what
# Windows takes for a device, as tasks become folders.
_RESERVED = {"passage", "corpus", "text", "image", "audio", "video", "message"}
_DEVICES = re.compile(r"con|prn|aux|nul|com\d|lpt\d")

Given = TypeVar("Given")


def is_task(name: object) -> bool:
    """Whether an adapter of several can be called by a name."""
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and _DEVICES.fullmatch(name) is None
        and name not in {QUERY_ROUTE, DOCUMENT_ROUTE, *_RESERVED}
        # It holds the routes, and has no room for a second `items` or `train`.
        and not hasattr(nn.ModuleDict(), name)
    )


def check_tasks(names: Iterable[object], default_task: str | None) -> None:
    """Check the names of several adapters, and the one among them that ``encode_query`` shall use.

    Raises:
        ValueError: there is none, a name cannot be one, or the default is not among them.
    """
    names = list(names)
    if not names:
        raise InputError(
            "No adapter came, but at least one is expected, by the name of its task.",
            python='Pass them as {"legal": adapter, ...}, or a single adapter as it is.',
            flags="Name finished runs as legal=OUT1 support=OUT2.",
        )
    for name in names:
        if not is_task(name):
            raise ValueError(
                f"A task is called {str(name)[:80]!r}, but a name of lower-case letters, digits, '-' and '_' is "
                "expected that begins with a letter, has at most 64 characters, and means nothing else to Sentence "
                "Transformers or a file system, as query, document, passage, text, items or con do. Choose another."
            )
    if default_task is not None and default_task not in names:
        raise InputError(
            f"The default task is {default_task!r}, but the tasks are {listed(names)}.",
            python="Pass one of these as default_task, or none.",
            flags="Pass one of these with --default-task, or leave it out.",
        )


def routes_of(
    adapter: QueryAdapter | Mapping[str, QueryAdapter] | None, default_task: str | None = None
) -> dict[str, QueryAdapter | None]:
    """The routes of queries and their adapters: ``query`` for one adapter; for several, all tasks and ``query``.

    Args:
        adapter: one, several by their tasks, or None for no route at all.
        default_task: the task whose adapter ``encode_query`` uses, which leaves queries as they are if None.

    Raises:
        ValueError: see ``check_tasks``; or one of several is None, as where the base model is kept.
    """
    if not isinstance(adapter, Mapping):
        if default_task is not None:
            raise ValueError(
                f"default_task is {default_task!r}, but a single adapter has no task: encode_query uses it. Leave "
                'default_task out, or pass several adapters as {"legal": adapter, ...}.'
            )
        return {} if adapter is None else {QUERY_ROUTE: adapter}
    check_tasks(adapter, default_task)
    for task, each in adapter.items():
        if not isinstance(each, QueryAdapter):
            kept = (
                ": where the base model is kept there is none, and encode_query embeds as it does" if not each else ""
            )
            raise ValueError(
                f"For the task {task!r} came a {type(each).__name__}, but a QueryAdapter is expected{kept}. Leave that "
                "task out, or pass its adapter."
            )
    return {**adapter, QUERY_ROUTE: None if default_task is None else adapter[default_task]}


def check_saved_as(routes: Mapping[str, QueryAdapter | None], layout: str, *, onnx: bool) -> None:
    """Check that several adapters can be saved in a form: plain ``encode`` and ONNX files can be told no task.

    Raises:
        ValueError: they cannot.
    """
    if len(routes) < 2:
        return
    if onnx or layout == "twin":
        form = "ONNX files" if onnx else f"the layout {layout!r}"
        raise InputError(
            f"{form[0].upper()}{form[1:]} came with adapters for several tasks, but there a query has no way to say "
            "its task.",
            python="Save each adapter by itself in that form.",
            flags="Save each run by itself in that form.",
        )
    if layout == "query" and routes[QUERY_ROUTE] is None:
        raise ValueError(
            "The layout 'query' was asked for, in which plain encode() embeds queries, but there are adapters for "
            "several tasks and no default_task. Pass the task whose adapter plain encode() shall use."
        )


def by_route(
    given: Given | Mapping[str, Given] | None, routes: Iterable[str], default_task: str | None
) -> dict[str, Given | None]:
    """What came of each route, from what came for one adapter, or for several by their tasks.

    Raises:
        ValueError: it came for one where there are several, the other way round, or for a task that is not there.
    """
    routes = list(routes)
    several = routes != [QUERY_ROUTE]
    if given is None:
        return dict.fromkeys(routes)
    if isinstance(given, Mapping) != several or (isinstance(given, Mapping) and not set(given) <= set(routes)):
        came = f"records for {listed(given)}" if isinstance(given, Mapping) else "one record"
        tasks = listed(route for route in routes if route != QUERY_ROUTE)
        raise ValueError(
            f"training is {came}, but there {'are adapters for ' + tasks if several else 'is one adapter'}. Pass "
            + ('{"legal": record, ...}.' if several else "its record as it is.")
        )
    if not isinstance(given, Mapping):
        return {QUERY_ROUTE: given}
    return {route: given.get((default_task or "") if route == QUERY_ROUTE else route) for route in routes}


def called(task: str) -> str:
    """What an adapter is called in a message."""
    return "this adapter" if task == QUERY_ROUTE else f"the adapter for {task!r}"


def tasks_of(model: SentenceTransformer) -> list[str]:
    """The tasks of the adapters of a model; none if it has one adapter or no adapter."""
    return [name for name in _routes_in(model) if is_task(name)]


def encode_for(model: SentenceTransformer, task: str, texts: Sequence[str]) -> Tensor:
    """The (T, D) vectors of texts as queries of a task: with the query prompt, as ``encode_query`` has it."""
    prompt = prompt_of(model, "query")
    vectors: Tensor = model.encode(
        list(texts), task=task, prompt=prompt, convert_to_tensor=True, show_progress_bar=False
    )
    return vectors.clone()  # an inference tensor otherwise


def check_task_of(model: SentenceTransformer, task: str | None) -> None:
    """Check that one adapter of a model is meant, or its only one; see ``check_task``."""
    queries = list(_routes_in(model).get(QUERY_ROUTE, ()))
    check_task(task, tasks_of(model), has_default=not all(isinstance(module, Dropout) for module in queries))


def _routes_in(model: SentenceTransformer) -> Mapping[str, Iterable[nn.Module]]:
    last = list(model.children())[-1]
    return dict(last.sub_modules.items()) if isinstance(last, Router) else {}
