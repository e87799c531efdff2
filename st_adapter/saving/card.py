"""What is known about an adapter and its base model -> README.md, with metadata that the Hub accepts."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub import EvalResult, ModelCardData, metadata_load
from sentence_transformers import SentenceTransformerModelCardData

from st_adapter import __version__
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.errors import printable, without_secrets
from st_adapter.storage.reading import checked
from st_adapter.words import documents_searched

Layout = Literal["document", "query", "twin"]
"""What plain ``encode`` gives: documents; queries; or queries from a model without a Router, for older software."""

TABLE_METRICS = ("ndcg@10", "mrr@10", "accuracy@10", "recall@10", "precision@10", "map@100")

# What a derived model takes over from its base's card.
_INHERITED = ("language", "license", "license_name", "license_link")
_NOT_A_RECORD = "The training record is not one"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_VERSIONS = ("sentence-transformers", "transformers", "torch", "datasets")


@dataclass(frozen=True)
class SplitScores:
    """Base against adapted on one split that the adapter was not fitted on.

    Attributes:
        split: its name.
        num_queries: how many queries were measured.
        num_documents: N, size of the corpus searched.
        similarity: ``cosine`` or ``dot``.
        base: metric -> mean of the base model, a fraction 0-1.
        adapted: the same of the adapted model.
        intervals: metric -> ends of the 95 % interval of adapted minus base.
        summary: the comparison in one sentence; empty if there is none.
        num_own_copies: queries that stand in the corpus themselves and whose own copy was left out of their hits.
    """

    split: str
    num_queries: int
    num_documents: int
    similarity: str
    base: dict[str, float]
    adapted: dict[str, float]
    intervals: dict[str, list[float]]
    summary: str = ""
    num_own_copies: int = 0

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SplitScores:
        """Rebuild from a mapping of the fields.

        Raises:
            ValueError: a field is missing or of another type, or the metrics of the two sides are not the same.
        """
        scores = cls(**_fields_of(cls, content))
        if set(scores.base) != set(scores.adapted):
            raise ValueError(f"{_NOT_A_RECORD}: base and adapted have other metrics. Save the model again.")
        if any(len(ends) != 2 for ends in scores.intervals.values()):
            raise ValueError(f"{_NOT_A_RECORD}: an interval has not two ends. Save the model again.")
        return scores


@dataclass(frozen=True)
class TrainingRecord:
    """How an adapter came about and what it does; what is unknown stays empty and is left out of a card.

    Attributes:
        data: name of the data set.
        dataset_id: its id on the Hub, if it is there.
        num_documents: N, size of the corpus.
        corpus_is_labelled_only: whether the corpus is just the documents of the pairs.
        num_queries: split -> number of its queries.
        method: ``auto``, ``closed-form`` or ``gradient``.
        chosen: the candidate that was chosen.
        reason: why it is given out, or why the base model is kept, with the figures.
        seed: of the whole run.
        split_by: what was kept on one side when the splits were cut.
        paraphrase_threshold: cosine from which two queries count as paraphrases.
        fitted_on: the splits it was fitted on.
        arguments: settings of a gradient run.
        scores: held-out figures.
        script: the script that made the model.
        opened_with: settings of the base model that its own files do not say, such as ``truncate_dim``.
        versions: package -> version at training time.
    """

    data: str = ""
    dataset_id: str = ""
    num_documents: int = 0
    corpus_is_labelled_only: bool = False
    num_queries: dict[str, int] = field(default_factory=dict)
    method: str = ""
    chosen: str = ""
    reason: str = ""
    seed: int | None = None
    split_by: Literal["query", "document"] = "query"
    paraphrase_threshold: float | None = None
    fitted_on: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    scores: SplitScores | None = None
    script: str = ""
    opened_with: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainingRecord:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        known = _fields_of(cls, content)
        if known.get("scores") is not None:
            known["scores"] = SplitScores.from_dict(known["scores"])
        return cls(**known)


def _fields_of(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass in a file, once each is of its type; dataclasses in it are still plain objects."""
    hints = get_type_hints(kind)
    required = {
        each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
    } - set(content)
    unknown = set(content) - set(hints)
    if required or unknown:
        problem = f"it has no {', '.join(sorted(required)[:3])}." if required else f"{sorted(unknown)[:3]} are unknown."
        raise ValueError(f"{_NOT_A_RECORD}: {problem} Save the model again.")
    for name, value in content.items():
        try:
            checked(value, _as_plain(hints[name]), name)
        except ValueError as error:
            raise ValueError(f"{_NOT_A_RECORD}: {error} Save the model again.") from error
    return dict(content)


def _as_plain(hint: Any) -> Any:
    """A type as JSON carries it: a dataclass is an object."""
    if is_dataclass(hint):
        return dict[str, Any]
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_as_plain(each) for each in arguments)]  # noqa: UP007  (made of a list)
    return hint


def installed_versions() -> dict[str, str]:
    """Python and the packages that the vectors depend on -> version."""
    packages = {name: version(name) for name in _VERSIONS}
    return {"python": platform.python_version(), "st-adapter": __version__, **packages}


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
    on_hub: bool,
    inherited: Mapping[str, Any] | None = None,
    training: TrainingRecord | None = None,
    remote_code: bool = False,
    onnx_files: Sequence[str] = (),
) -> str:
    """The README.md of a whole adapted model.

    Args:
        title: Hub id, or name of the folder.
        base_model: the base.
        layout: the model's.
        on_hub: whether its name is a Hub id, which a card may link to.
        inherited: metadata taken over from the base's card.
        training: what is known about the training.
        remote_code: whether the base model comes with code of its own.
        onnx_files: names of the ONNX files among ``model.onnx``, ``model_document.onnx`` and ``model_query.onnx``.
    """
    base = _link(base_model, on_hub)
    pushed = "/" in title
    name = json.dumps(title) + (f", revision={json.dumps(layout)}" if pushed and layout != "document" else "")
    name += ", trust_remote_code=True" if remote_code else ""
    code = f"""from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name})
query_embeddings = model.encode_query(["a question"])"""
    if layout != "twin":
        code += """
document_embeddings = model.encode_document(["a document"])
scores = model.similarity(query_embeddings, document_embeddings)"""
    parts = [
        f"# {_inline(title)}",
        f"A Sentence Transformers model that embeds documents exactly as {base} does, and queries with a small adapter "
        "on top. An index built with the base model stays valid.",
        f"```python\n{code}\n```",
        *([_REMOTE_CODE] if remote_code else []),
        _usage(layout, title if pushed else ""),
        *([_onnx_usage(onnx_files)] if onnx_files else []),
        *_training_parts(training),
    ]
    front = _front_matter(title, base_model, on_hub, inherited, training, "sentence-transformers")
    return without_secrets(front + "\n\n".join(parts) + "\n")


_REMOTE_CODE = (
    "The base model comes with code of its own, which runs when this model is opened: read it, and pass "
    "`trust_remote_code=True` if you trust it."
)


def _onnx_usage(files: Sequence[str]) -> str:
    """Which ONNX file is for which client."""
    documents = "model_document.onnx" if "model_document.onnx" in files else "model.onnx"
    sentences = ['ONNX: `SentenceTransformer(..., backend="onnx")` takes `onnx/model.onnx` for both sides.']
    if "model_query.onnx" in files:
        sentences.append(
            "Clients that only pool (transformers.js, fastembed, Vespa) take `onnx/model_query.onnx` for queries and "
            f"`onnx/{documents}` for documents; in Sentence Transformers these finished vectors would be wrong."
            if documents != "model.onnx"
            else "Clients that only pool (transformers.js, fastembed, Vespa) take `onnx/model_query.onnx` for queries, "
            f"whose finished vectors would be wrong in Sentence Transformers, and `onnx/{documents}` for documents."
        )
    return " ".join(sentences)


def _usage(layout: Layout, hub_id: str) -> str:
    """Which method gives what; ``hub_id`` is empty for a model that is not on the Hub."""
    if layout == "twin":
        return "This one is for queries alone: every method applies the adapter. The base model embeds the documents."
    if layout == "query":
        return (
            "Plain `encode` and `encode_query` give query embeddings, `encode_document` gives those of documents. "
            "This is for software that has a model of its own for queries and only calls plain `encode`."
        )
    branch = (
        " For software that can only call plain `encode`, the branch `query` holds the same model with queries as the "
        f'default: `SentenceTransformer({json.dumps(hub_id)}, revision="query")`.'
    )
    return (
        'Embed queries with `encode_query` or `encode(..., task="query")`: plain `encode` gives document embeddings, '
        f'and `prompt_name="query"` does not reach the adapter.{branch if hub_id else ""}'
    )


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
    on_hub = base_model is not None and "/" in base_model.name
    base = _link(base_model, on_hub) if base_model is not None else "its base model"
    name = base_model.name if base_model is not None else "the base model"
    revision = f", revision={json.dumps(base_model.revision)}" if base_model is not None and base_model.revision else ""
    code = f"""from sentence_transformers import SentenceTransformer
from st_adapter import QueryAdapter, attach

base = SentenceTransformer({json.dumps(name)}{revision})
model = attach(base, QueryAdapter.from_pretrained({json.dumps(title)}))
query_embeddings = model.encode_query(["a question"])
document_embeddings = model.encode_document(["a document"])"""
    kind = str(config["kind"]).replace("_", "-")
    parts = [
        f"# {_inline(title)}",
        f"A {kind} adapter of {config['embedding_dimension']} dimensions for the query embeddings of {base}. Documents "
        "are embedded by the base model alone, so an index built with it stays valid.",
        f"```python\n{code}\n```",
        *(
            [f"It is bound to {_inline(str(base_model))}; `attach` refuses any other base model."]
            if base_model is not None
            else []
        ),
        *_training_parts(training),
    ]
    front = _front_matter(title, base_model, on_hub, None, training, "st-adapter")
    return without_secrets(front + "\n\n".join(parts) + "\n")


def _link(base_model: EncoderIdentity, on_hub: bool) -> str:
    if on_hub and _HUB_ID.fullmatch(base_model.name):
        return f"[{base_model.name}](https://huggingface.co/{base_model.name})"
    return _code(base_model.name)


def _front_matter(
    title: str,
    base_model: EncoderIdentity | None,
    on_hub: bool,
    inherited: Mapping[str, Any] | None,
    training: TrainingRecord | None,
    library_name: str,
) -> str:
    defaults = SentenceTransformerModelCardData(local_files_only=True)
    metadata: dict[str, Any] = {
        **(inherited or {}),
        "library_name": library_name,
        "pipeline_tag": defaults.pipeline_tag,
        "tags": [*defaults.tags, "st-adapter", "query-adapter"],
    }
    if base_model is not None and on_hub:
        metadata |= {"base_model": base_model.name, "base_model_relation": "adapter"}
    if training is not None and training.dataset_id:
        metadata["datasets"] = [training.dataset_id]
    if training is not None and training.scores is not None:
        metadata |= {"model_name": title, "eval_results": _eval_results(training, training.scores)}
    return f"---\n{ModelCardData(**metadata).to_yaml()}\n---\n\n"


def _eval_results(training: TrainingRecord, scores: SplitScores) -> list[EvalResult]:
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


def _training_parts(training: TrainingRecord | None) -> list[str]:
    if training is None:
        return []
    parts = []
    if training.scores is not None:
        parts += ["## Does it help?", _score_table(training.scores, training.corpus_is_labelled_only)]
        if training.scores.summary:
            parts.append(_inline(training.scores.summary))
    facts = _facts(training)
    if facts:
        parts += ["## Data and settings", "\n".join(f"- {fact}" for fact in facts)]
    parts += ["## What was not tested", _limits(training)]
    if training.versions:
        parts += [
            "## Versions",
            ", ".join(f"{_inline(name)} {_inline(number)}" for name, number in training.versions.items()) + ".",
        ]
    return parts


def _score_table(scores: SplitScores, labelled_only: bool) -> str:
    rows = [
        f"| {_inline(name)} | {scores.base[name]:.4f} | {scores.adapted[name]:.4f} | "
        f"{scores.adapted[name] - scores.base[name]:+.4f} | {_interval(scores.intervals.get(name))} |"
        for name in TABLE_METRICS
        if name in scores.base
    ]
    head = (
        f"On the {scores.num_queries:,} queries of the split {_code(scores.split)}, which nothing was fitted on or "
        f"chosen by, against {documents_searched(scores.num_documents, labelled_only)}; exact search."
    )
    if scores.num_own_copies:
        head += f" Queries that are documents too: {scores.num_own_copies:,}; no hit of theirs is their own copy."
    table = ["| metric | base model | with adapter | difference | 95 % interval |", "|---|---:|---:|---:|---:|", *rows]
    return head + "\n\n" + "\n".join(table)


def _interval(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval is not None else "–"


def _facts(training: TrainingRecord) -> list[str]:
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
        facts.append(f"Why: {_inline(training.reason)}")
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


def _limits(training: TrainingRecord) -> str:
    data = _inline(training.data) or "the data it was trained on"
    measured = "" if training.scores is not None else " No held-out split was measured."
    return (
        f"Queries, documents and languages unlike those of {data}, texts longer than the base model reads, and "
        f"approximate or quantized indexes.{measured} Documents are embedded by the base model: what it does not "
        "understand of a document, an adapter for queries cannot mend."
    )


def _inline(text: str) -> str:
    """A text from outside on one line, so that it cannot make headings or tables of its own."""
    text = printable(re.sub(r"\s+", " ", text))
    return text.replace("|", "\\|").replace("<", "&lt;").strip()


def _code(text: str) -> str:
    """A name from outside as code; within code a backtick would end it."""
    text = printable(re.sub(r"\s+", " ", text)).strip()
    return f"`{text.replace('`', chr(39))}`"
