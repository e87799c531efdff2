"""What is known about an adapter and its base model -> README.md, with metadata that the Hub accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load
from sentence_transformers import SentenceTransformerModelCardData

from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.errors import printable, without_secrets
from st_adapter.saving.layouts import Layout
from st_adapter.saving.record import TABLE_METRICS, SplitScores, TrainingRecord
from st_adapter.words import documents_searched

_TEMPLATE = Path(__file__).with_name("card_template.md")
# What a derived model takes over from its base's card.
_INHERITED = ("language", "license", "license_name", "license_link")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class QueryModelCard(NamedTuple):
    """What a card says of the model that embeds queries in place of the base model.

    Attributes:
        identity: which one it is.
        license: as its own card names it; empty if it names none.
        half: whether it is a static table that is stored in half precision.
    """

    identity: EncoderIdentity
    license: str
    half: bool = False

    @classmethod
    def of(cls, identity: EncoderIdentity | None, license_name: str, half: bool) -> QueryModelCard | None:
        """None where there is no such model."""
        return None if identity is None else cls(identity, license_name, half)

    @property
    def link(self) -> str:
        """Its name, linked to if it is on the Hub."""
        return _link(self.identity.name)


def base_metadata(folder: Path) -> dict[str, Any]:
    """What a derived model takes over from the card in the base model's folder: language and license."""
    card = folder / "README.md"
    try:
        found = metadata_load(card) if card.is_file() else None
    except (ValueError, yaml.YAMLError):  # somebody else's card: without metadata that can be read, there is none
        found = None
    return {name: found[name] for name in _INHERITED if found and found.get(name)}


def model_card(
    title: str,
    base_model: EncoderIdentity,
    *,
    layout: Layout = "document",
    inherited: Mapping[str, Any] | None = None,
    training: TrainingRecord | None = None,
    remote_code: bool = False,
    onnx_files: Sequence[str] = (),
    queries: QueryModelCard | None = None,
) -> str:
    """The README.md of a whole adapted model.

    Args:
        title: Hub id, or name of the folder.
        base_model: the base; one with a slash in its name is on the Hub, and linked to.
        layout: the model's.
        inherited: metadata taken over from the base's card.
        training: what is known about the training.
        remote_code: whether the base model comes with code of its own.
        onnx_files: names of the ONNX files among ``model.onnx``, ``model_document.onnx`` and ``model_query.onnx``.
        queries: the model that embeds queries, if it is not the base model.
    """
    if queries is not None and layout == "twin":
        inherited = {"license": queries.license} if queries.license else None
    data = card_metadata(title, base_model, inherited, training, "sentence-transformers")
    if queries is not None:
        models = [each.name for each in (base_model, queries.identity) if "/" in each.name]
        data.base_model = models or None
        vars(data).pop("base_model_relation", None)
    values = {
        "queries": queries,
        "license": (inherited or {}).get("license", ""),
        "layout": layout,
        "remote_code": remote_code,
        "onnx_files": onnx_files,
        "hub_id": title if "/" in title else "",
    }
    return filled(data, title, base_model, training, **values)


def adapter_card(
    title: str, config: Mapping[str, Any], base_model: EncoderIdentity | None, training: TrainingRecord | None = None
) -> str:
    """The README.md of an adapter alone.

    Args:
        title: Hub id, or name of the folder.
        config: the adapter's configuration.
        base_model: what it is bound to.
        training: what is known about the training.
    """
    return filled(
        card_metadata(title, base_model, None, training, "st-adapter"), title, base_model, training, config=config
    )


def filled(
    data: ModelCardData,
    title: str,
    base_model: EncoderIdentity | None,
    training: TrainingRecord | None,
    template: Path = _TEMPLATE,
    **values: Any,
) -> str:
    """The text that a template makes of what is known."""
    functions: dict[str, Any] = {"inline": _inline, "code": _code, "quoted": json.dumps, "searched": documents_searched}
    name = "" if base_model is None else base_model.name
    link = _link(name)
    card = ModelCard.from_template(
        data,
        template_path=str(template),
        title=title,
        base=link if name else "its base model",
        base_model=base_model,
        training=training,
        facts=[] if training is None else facts_of(training),
        table_metrics=TABLE_METRICS,
        **functions,
        **values,
    )
    return without_secrets(str(card))


def _link(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if "/" in name and _HUB_ID.fullmatch(name) else _code(name)


def card_metadata(
    title: str,
    base_model: EncoderIdentity | None,
    inherited: Mapping[str, Any] | None,
    training: TrainingRecord | None,
    library_name: str,
) -> ModelCardData:
    """The head of a card: where it comes from, and its figures for the Hub's model-index."""
    defaults = SentenceTransformerModelCardData(local_files_only=True)
    # Without weights there was no model of theirs, only what something else made of texts.
    theirs = base_model is None or base_model.weights_sha256 is not None
    metadata: dict[str, Any] = {
        **(inherited or {}),
        "library_name": library_name,
        "pipeline_tag": defaults.pipeline_tag,
        "tags": [*(defaults.tags if theirs else ()), "st-adapter", "query-adapter"],
    }
    if base_model is not None and "/" in base_model.name:
        metadata |= {"base_model": base_model.name, "base_model_relation": "adapter"}
    if training is not None and training.dataset_id:
        metadata["datasets"] = [training.dataset_id]
    if training is not None and training.scores is not None:
        metadata |= {"model_name": title, "eval_results": eval_results(training, training.scores)}
    return ModelCardData(**metadata)


def eval_results(training: TrainingRecord, scores: SplitScores) -> list[EvalResult]:
    """For the Hub's model-index, in the words of Sentence Transformers' own cards."""
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type=training.dataset_id or "unknown",
            dataset_name=training.data or "Unknown",
            dataset_split=scores.split,
            metric_type=f"{scores.similarity}_{name}",
            metric_name=f"{scores.similarity} {name}".title(),
            metric_value=scores.adapted[name],
        )
        for name in TABLE_METRICS
        if name in scores.adapted
    ]


def facts_of(training: TrainingRecord) -> list[str]:
    """How an adapter came about, one line each."""
    facts = []
    if training.data:
        name = _inline(training.data)
        if _HUB_ID.fullmatch(training.dataset_id):
            name = f"[{name}](https://huggingface.co/datasets/{training.dataset_id})"
        size = documents_searched(training.num_documents, training.corpus_is_labelled_only)
        sizes = [size] if training.num_documents else []
        sizes += [f"{number:,} {_inline(split)} queries" for split, number in training.num_queries.items()]
        facts.append(f"Data: {name}" + (f" ({', '.join(sizes)})" if sizes else ""))
    if training.fitted_on:
        facts.append(f"Fitted on: {', '.join(map(_inline, training.fitted_on))}")
    if training.method:
        facts.append(
            f"Method: {_inline(training.method)}" + (f"; chosen: {_inline(training.chosen)}" if training.chosen else "")
        )
    if training.reason:
        facts.append(f"Verdict: {_inline(training.reason)}")
    if training.seed is not None:
        facts.append(f"Seed: {training.seed}")
    if training.split_by == "document":
        facts.append("Splits: all queries of a document on one side")
    if training.arguments:
        facts.append("Arguments: " + ", ".join(_code(f"{name}={value}") for name, value in training.arguments.items()))
    if training.opened_with:
        settings = ", ".join(_code(f"{name}={value}") for name, value in training.opened_with.items())
        facts.append(f"Base model opened with: {settings}")
    if training.script:
        facts.append(f"Made by: {_code(training.script)}")
    return facts


def _inline(text: str) -> str:
    """A text from outside on one line, so that it cannot make headings or tables of its own."""
    text = printable(re.sub(r"\s+", " ", text))
    return text.replace("|", "\\|").replace("<", "&lt;").strip()


def _code(text: str) -> str:
    """A name from outside as code; within code a backtick would end it."""
    text = printable(re.sub(r"\s+", " ", text)).strip()
    return f"`{text.replace('`', chr(39))}`"
