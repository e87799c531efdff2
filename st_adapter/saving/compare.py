"""Comparing what was written with what is in memory, by settings, hashes and vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.long_texts import token_limit
from st_adapter.embeddings.probe_texts import fixed_texts
from st_adapter.embeddings.roles import Role, encode_as
from st_adapter.saving.attach import Routes, detach, route_modules
from st_adapter.saving.base_files import without_progress_bars
from st_adapter.saving.layouts import Layout, add_router, write_max_seq_length
from st_adapter.saving.tasks import QUERY_ROUTE, encode_for
from st_adapter.storage.reading import read_object
from st_adapter.storage.writing import write_json

_QUERY_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Settings of a model in memory that its configuration file can carry without touching anything else.
_SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_METHODS = ("encode_query", "encode_document", "encode")


class Compared(NamedTuple):
    """The base model in memory and what it makes of the texts that a saved one is compared on."""

    model: SentenceTransformer
    identity: EncoderIdentity
    texts: dict[Role, list[str]]
    vectors: dict[str, Tensor]  # encode_query, encode_document, encode -> (T, D)

    @classmethod
    def of(
        cls, model: SentenceTransformer, identity: EncoderIdentity, check_texts: Mapping[Role, Sequence[str]]
    ) -> Compared:
        """Embed the fixed texts and those given, in both roles."""
        texts: dict[Role, list[str]] = {
            role: list(dict.fromkeys([*fixed_texts(token_limit(model)), *check_texts.get(role, ())]))
            for role in get_args(Role)
        }
        return cls(model, identity, texts, {name: encoded(model, name, texts) for name in _METHODS})


def add_adapters(folder: Path, compared: Compared, routes: Routes) -> str | None:
    """Add the adapters to a base model's folder, open the result, and compare it with what is in memory.

    Settings that the model has in memory only are carried over.

    Returns:
        What the base model in the folder does otherwise than the one in memory; None if nothing.

    Raises:
        ValueError: it is an adapter whose results differ.
    """
    model = compared.model
    if routes:
        add_router(folder, route_modules(model, routes))
    saved = reopened(folder, model)
    if _carry_over_settings(folder, model, saved):
        saved = reopened(folder, model)
    problem = _base_difference(compared, saved, with_queries=routes.get(QUERY_ROUTE) is None)
    if problem is None:
        check_layout(saved, compared, routes, "document")
    return problem


def _carry_over_settings(folder: Path, model: SentenceTransformer, saved: SentenceTransformer) -> bool:
    """Write down what was set in memory and a configuration file can carry; whether there was any of it."""
    changed = {name: getattr(model, name) for name in _SETTINGS if getattr(model, name) != getattr(saved, name)}
    if changed:
        file = folder / "config_sentence_transformers.json"
        write_json(file, {**(read_object(file) if file.is_file() else {}), **changed})
    other_length = model.max_seq_length != saved.max_seq_length and isinstance(model[0], Transformer)
    if other_length:
        write_max_seq_length(folder, model.max_seq_length)
    return bool(changed) or other_length


def _base_difference(compared: Compared, saved: SentenceTransformer, *, with_queries: bool) -> str | None:
    """What the base model in a saved one does otherwise than the one in memory; None if nothing."""
    model = compared.model
    for name in (*_SETTINGS, "max_seq_length"):
        before, after = getattr(model, name), getattr(saved, name)
        if before != after:
            return f"The base model in memory has {name}={before!r}, but its files have {after!r}"
    base, _ = detach(saved)
    for name in ("encode_document", "encode", *(["encode_query"] if with_queries else [])):
        before, after = compared.vectors[name], encoded(saved, name, compared.texts)
        if not torch.equal(before, after):
            difference = largest_difference(before, after)
            return f"{name} of the base model in memory differs from its files by up to {difference:.1e}"
    if compared.identity.fingerprint is not None and compared.identity.fingerprint != model_fingerprint(base):
        return "The base model in memory has other weights, settings, tokenizer or code than its files"
    return None


def check_layout(saved: SentenceTransformer, compared: Compared, routes: Routes, layout: Layout) -> None:
    """Check that whatever of a saved model embeds queries gives what the adapters make of the base model's."""
    texts: dict[Role, list[str]] = {**compared.texts, "document": compared.texts["query"]}
    for route, adapter in routes.items():
        if adapter is None:
            continue
        if route != QUERY_ROUTE:
            _check_queries(f"task={route!r}", encode_for(saved, route, texts["query"]), compared, adapter)
            continue
        for name in ("encode_query", *(["encode"] if layout != "document" else [])):
            _check_queries(name, encoded(saved, name, texts), compared, adapter)
    if layout == "query":
        check_documents(saved, "encode_document", compared, "the base model in memory")


def _check_queries(name: str, found: Tensor, compared: Compared, adapter: QueryAdapter) -> None:
    base = compared.vectors["encode_query"]
    with torch.no_grad():
        expected = adapter.transform(base.to(next(adapter.parameters()).device)).cpu().float()
    check_queries(
        f"{name} of the saved model differs from the adapter on the base model in memory",
        found,
        expected,
        compared.model.dtype,
        "The adapter's weights may be too large to be exact: train it with a lower learning rate or a higher penalty.",
    )


def check_documents(saved: SentenceTransformer, name: str, compared: Compared, whose: str) -> None:
    """Check that a method of a saved model embeds documents bit for bit as it did."""
    before, after = compared.vectors[name], encoded(saved, name, compared.texts)
    if not torch.equal(before, after):
        raise ValueError(
            f"{name} of the saved model differs from {whose} by up to {largest_difference(before, after):.1e}, but the "
            "same vectors are expected. Report this."
        )


def check_queries(what: str, found: Tensor, expected: Tensor, dtype: torch.dtype | None, advice: str) -> None:
    """Check that (T, D) query vectors are those expected, as exactly as the model's dtype allows."""
    tolerance, difference = query_tolerance(dtype), largest_difference(expected, found.cpu())
    if not difference <= tolerance * max(1.0, expected.abs().max().item()):
        raise ValueError(f"{what} by up to {difference:.1e}, but at most {tolerance:.0e} is expected. {advice}")


def reopened(folder: Path, model: SentenceTransformer, *, as_named: bool = False) -> SentenceTransformer:
    """Open a saved folder with plain Sentence Transformers, in the way that the model in memory was opened.

    Args:
        folder: what was written.
        model: in memory.
        as_named: in the precision that the files name, as who opens it in no special way.
    """
    config = getattr(model.transformers_model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    # Neither is recorded in the files, so the model in memory may have been loaded with another choice.
    choices = {"dtype": None if as_named else model.dtype, "attn_implementation": attention}
    # Modules draw random weights before they take the saved ones; a training run that saves goes on as if it had not.
    with without_progress_bars(), torch.random.fork_rng(devices=[]):
        return SentenceTransformer(
            str(folder),
            device=str(model.device),
            backend=model.get_backend(),
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            model_kwargs={name: choice for name, choice in choices.items() if choice is not None}
            if config is not None and model.get_backend() == "torch"
            else None,
        )


def encoded(model: SentenceTransformer, name: str, texts: Mapping[Role, Sequence[str]]) -> Tensor:
    """What a method makes of the texts of its role; plain ``encode`` of those of documents."""
    role: Role = "query" if name == "encode_query" else "document"
    if name != "encode":
        return encode_as(model, role, texts[role])
    embeddings: Tensor = model.encode(list(texts["document"]), convert_to_tensor=True, show_progress_bar=False)
    return embeddings.clone()  # an inference tensor otherwise


def query_tolerance(dtype: torch.dtype | None) -> float:
    """How far numbers of a query may lie from the right ones, in the largest of them."""
    return _QUERY_TOLERANCE.get(dtype or torch.float32, _QUERY_TOLERANCE[torch.float32])


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest difference of two numbers of the same place."""
    return (first.float() - second.float()).abs().max().item() if first.shape == second.shape else float("inf")
