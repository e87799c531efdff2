"""Two models in one: queries by one of them through a bridge, documents by the other as it is; in memory, and apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Router
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling, StaticEmbedding
from torch import nn

from st_adapter.embeddings.origin import name_of
from st_adapter.embeddings.roles import prompt_for, prompt_of
from st_adapter.embeddings.static import is_static
from st_adapter.errors import InputError
from st_adapter.saving.attach import detach, tells_queries_from_texts, with_modules

# The prompt that the documents' model has for queries, kept under this name, so that the two can be told apart again.
STATUS_QUO_PROMPT = "status_quo_query"
# The prompt of plain encode(), where the documents' model has its query prompt there.
_PLAIN_PROMPT = "plain"


class Joined(NamedTuple):
    """A model of two, taken apart.

    Attributes:
        documents: the model that embeds documents, and whose queries were the status quo.
        queries: the query model with bridge and adapter behind it; each of its methods embeds queries for the index.
    """

    documents: SentenceTransformer
    queries: SentenceTransformer


def join(documents: SentenceTransformer, queries: SentenceTransformer, route: Sequence[Module]) -> SentenceTransformer:
    """One model in memory: ``encode_query`` is of the query model, ``encode_document`` and ``encode`` of the other.

    Args:
        documents: the model of the index; the result shares its modules.
        queries: the query model, whose prompts are kept.
        route: its modules and those that map its vectors into the space of the documents; see ``query_route``.
    """
    router = Router(
        # The first route is the one that is asked for tokenizer and dimension.
        sub_modules={"document": list(documents), "query": list(route)},
        default_route="document",
        allow_empty_key=True,
    )
    joined = with_modules(documents, [("0", router.eval())])
    joined.prompts, joined.default_prompt_name = joined_prompts(documents, queries)
    return joined


def query_route(queries: SentenceTransformer, query_modules: Sequence[Module]) -> list[Module]:
    """The query model's modules with what maps its vectors behind them; see ``Bridge.fold``.

    A matrix right behind a static table becomes part of a new table: the mean of mapped token vectors is the mapped
    mean. Of a text without a token the mean is zero, to which no bias is added then.
    """
    first, *rest = query_modules
    if not is_static(queries) or not isinstance(first, Dense) or not isinstance(first.activation_function, nn.Identity):
        return [*queries, *query_modules]
    with torch.no_grad():
        table = first.linear(queries[0].embedding.weight.to(first.linear.weight)).to(queries[0].embedding.weight)
    return [StaticEmbedding(queries[0].tokenizer, embedding_weights=table).eval(), *rest]


def query_side(queries: SentenceTransformer, route: Sequence[Module], similarity: str) -> SentenceTransformer:
    """The query model with what maps its vectors behind it, alone: every method of it embeds queries for the index."""
    names = [name for name, _ in queries.named_children()]
    names += map(str, range(len(names), len(route)))
    alone = with_modules(queries, list(zip(names, route, strict=True)))
    prompt = prompt_of(queries, "query")
    alone.prompts = {**queries.prompts, "query": prompt, "document": prompt}
    alone.default_prompt_name = "query" if prompt else None
    alone.similarity_fn_name = similarity
    return alone


def joined_prompts(documents: SentenceTransformer, queries: SentenceTransformer) -> tuple[dict[str, str], str | None]:
    """Prompts, and the name of that of plain ``encode``, with which each method puts first what its own model does."""
    prompts, default = dict(documents.prompts), documents.default_prompt_name
    for_documents, of_queries = prompt_of(documents, "document"), prompt_of(documents, "query")
    if default == "query":
        prompts[_PLAIN_PROMPT], default = of_queries, _PLAIN_PROMPT
    prompts |= {STATUS_QUO_PROMPT: of_queries} if of_queries else {}
    prompts["query"] = prompt_of(queries, "query")
    if prompt_for("document", prompts, default) != for_documents or not any(prompts.values()):
        prompts["document"] = for_documents
    return prompts, default


def is_joined(model: SentenceTransformer) -> bool:
    """Whether a model is one of two, of ``join`` or opened from what was saved of it."""
    children = list(model.children())
    if len(children) != 1 or not isinstance(children[0], Router):
        return False
    routes = children[0].sub_modules
    return set(routes) == {"query", "document"} and not isinstance(routes["document"][0], Dropout)


def parted(model: SentenceTransformer) -> Joined | None:
    """Take a model of two apart; None if it is none."""
    if not is_joined(model):
        return None
    routes = model[0].sub_modules
    documents, queries = (
        with_modules(model, [(str(n), module) for n, module in enumerate(routes[name])])
        for name in ("document", "query")
    )
    query_prompt = model.prompts.get("query") or ""
    documents.prompts["query"] = documents.prompts.pop(STATUS_QUO_PROMPT, "")
    queries.prompts = {"query": query_prompt, "document": query_prompt}
    queries.default_prompt_name = "query" if query_prompt else None
    return Joined(documents, queries)


def documents_model(model: SentenceTransformer) -> SentenceTransformer:
    """What embeds the documents of a model that was saved here: its base model, or one of two."""
    joined = parted(model)
    return detach(model)[0] if joined is None else joined.documents


def check_joinable(documents: SentenceTransformer | None, queries: SentenceTransformer) -> None:
    """Check, before any text is embedded, that two models can be saved as one; None: the query model alone.

    Raises:
        ValueError: one of them has code of its own, tells queries from documents in its modules, or leaves prompts out
            of the pooling; the query model is truncated; or they work in different places or not in float32.
    """
    if queries.truncate_dim is not None:
        raise InputError(
            f"The query model {name_of(queries)} truncates its embeddings to {queries.truncate_dim} dimensions, but "
            "the map into the documents' space is to make the best of all of them.",
            python="Open it without truncate_dim.",
            flags="Take truncate_dim out of its config_sentence_transformers.json.",
        )
    for name, model in (("query model", queries), ("model of the documents", documents)):
        if model is None:
            continue
        # Sentence Transformers brings modules to the precision of the first one, but not those within a Router.
        if documents is not None and model.dtype not in (None, torch.float32):
            raise ValueError(
                f"The {name} {name_of(model)} was opened in {model.dtype}, but a model of two opens in float32 alone. "
                "Open both in float32; what comes of them can be brought to half precision with `.half()`."
            )
        if model.trust_remote_code or any(not type(m).__module__.startswith("sentence_transformers.") for m in model):
            raise ValueError(
                f"The {name} {name_of(model)} comes with code of its own, and two models are saved as one only if both "
                "are made of modules of Sentence Transformers. Take another model."
            )
        if tells_queries_from_texts(model):
            raise ValueError(
                f"Modules of the {name} {name_of(model)} read `task` themselves, so that it cannot be one of two "
                "between which `task` decides. Take another model."
            )
        prompted = any(isinstance(module, Pooling) and not module.include_prompt for module in model)
        if prompted and any(model.prompts.values()):
            raise ValueError(
                f"The {name} {name_of(model)} leaves its prompts out of the pooling, and where a prompt ends is told "
                "of one tokenizer only in a model of two. Take another model, or its prompts away."
            )
    if documents is not None and documents.device != queries.device:
        raise ValueError(
            f"The query model is on {queries.device}, the model of the documents on {documents.device}. Open both in "
            "the same place."
        )
