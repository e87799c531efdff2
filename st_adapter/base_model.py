"""Which base model an adapter belongs to: where it came from, and what shapes its vectors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.misc import ORIGINAL_TRANSFORMER_MODELS
from torch import Tensor

from st_adapter.errors import InputError
from st_adapter.storage import read_object

Role = Literal["query", "document"]

CHECK_TEXTS = [
    "How do I read a file line by line?",
    "Return the absolute value of a number.",
    "def area(radius): return math.pi * radius**2",
    "Größe, naïve, 東京, emoji 🙂",
    "A longer document of several sentences. Texts of different lengths share a batch, so the padding of the shorter "
    "ones is part of what is compared. The vectors must not depend on which copy of the model made them.",
]
# The class of another kind of model, or what its repository declares -> what it gives instead of one dense vector.
_OTHER_KINDS = {
    "CrossEncoder": "one score per query and document together",
    "SparseEncoder": "sparse vectors",
    "MultiVectorEncoder": "one vector per token",
    "ColBERT": "one vector per token",
}
_UNIT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class BaseModel:
    """What binds an adapter to the model it was trained on.

    Attributes:
        name: Hub id, or the name of the local folder (never its path, which would tell about a machine).
        revision: commit of the Hub repository; None for a local folder or if unknown.
        weights_sha256: hash of all weights, independent of their names and order; None if they cannot be read (ONNX
            and OpenVINO backends).
        dtype: dtype of the weights, such as ``float32``.
        dimension: D of the embeddings, truncated if the model truncates them.
        query_prompt: what ``encode_query`` puts before a text.
        normalized: whether the embeddings have unit length.
    """

    name: str
    revision: str | None
    weights_sha256: str | None
    dtype: str
    dimension: int
    query_prompt: str
    normalized: bool

    @classmethod
    def of(cls, model: SentenceTransformer, normalized: bool | None = None) -> BaseModel:
        """Describe a model in memory.

        Args:
            model: the model.
            normalized: whether its embeddings have unit length; a few short texts are embedded to see it if None.
        """
        origin = origin_of(model)
        if normalized is None:
            embeddings = model.encode(CHECK_TEXTS, convert_to_tensor=True, show_progress_bar=False)
            normalized = is_unit(embeddings, embeddings.dtype)
        return cls(
            name=origin.hub_id or Path(origin.path).name or "a model made in memory",
            revision=origin.revision,
            weights_sha256=weights_sha256(model),
            dtype=str(model.dtype or torch.float32).removeprefix("torch."),
            dimension=int(model.get_embedding_dimension()),
            query_prompt=prompt_of(model, "query"),
            normalized=normalized,
        )

    @classmethod
    def from_dict(cls, content: object) -> BaseModel:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        types: dict[str, Any] = {
            "name": str,
            "revision": (str, type(None)),
            "weights_sha256": (str, type(None)),
            "dtype": str,
            "dimension": int,
            "query_prompt": str,
            "normalized": bool,
        }
        if (
            not isinstance(content, dict)
            or set(content) != set(types)
            or not all(isinstance(content[name], types[name]) for name in types)
        ):
            raise ValueError(
                f"base_model is {str(content)[:200]}, but the fields {', '.join(types)} of a base model are expected. "
                "Save the adapter again."
            )
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        revision = f"revision {self.revision[:12]}, " if self.revision else ""
        weights = self.weights_sha256[:12] if self.weights_sha256 else "unknown"
        return (
            f"{self.name!r} ({revision}weights {weights}, {self.dtype}, {self.dimension} dimensions, "
            f"query prompt {self.query_prompt!r}, {'' if self.normalized else 'not '}normalized)"
        )

    def difference(self, other: BaseModel) -> str | None:
        """Why vectors of ``other`` are not those of this model, as a phrase; None if nothing speaks against it.

        Weights in another dtype cannot be compared by hash; the name decides then.
        """
        if self.dimension != other.dimension:
            return "the dimensions differ"
        if self.comparable(other):
            if self.weights_sha256 != other.weights_sha256:
                return "the weights differ"
        elif self.name.rpartition("/")[2] != other.name.rpartition("/")[2]:
            return "the names differ"
        if self.query_prompt != other.query_prompt:
            return "the query prompts differ"
        if self.normalized != other.normalized:
            return "only one of them normalizes"
        return None

    def comparable(self, other: BaseModel) -> bool:
        """Whether the two hashes of the weights can be compared."""
        return self.dtype == other.dtype and None not in (self.weights_sha256, other.weights_sha256)


def check_encoder(model: object) -> None:
    """Check that a model gives one dense vector per text and was made to.

    Sentence Transformers opens a cross-encoder, a sparse encoder or a model of several vectors per text as well: it
    leaves out what these have of their own and pools the rest by the mean, without saying more than a log line.

    Raises:
        ValueError: the model is of another kind, or was opened from the files of one.
    """
    kind = type(model).__name__ if not isinstance(model, SentenceTransformer) else _kind_of_files(model)
    if kind is None:
        return
    opened = isinstance(model, SentenceTransformer)
    given = f"The files of {_name_of(model)} are those of a {kind}" if opened else f"The model is a {kind}"
    gives = f", which gives {_OTHER_KINDS[kind]}" if kind in _OTHER_KINDS else ""
    raise InputError(
        f"{given}{gives}, but an adapter needs a SentenceTransformer that was trained to give one dense vector per "
        "text.",
        python="Load such a model with SentenceTransformer(...).",
        flags="Name such a model with --model.",
    )


def has_made_up_pooling(model: SentenceTransformer) -> bool:
    """Whether a model was opened from a plain transformer, to which Sentence Transformers added its own pooling."""
    return model.module_kwargs is not None and not model.module_kwargs


def _kind_of_files(model: SentenceTransformer) -> str | None:
    if not has_made_up_pooling(model):
        return None
    declared = _origin_object(model, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if declared != "SentenceTransformer":
        return str(declared)[:50]
    architecture = next(iter(getattr(model.transformers_model.config, "architectures", None) or []), "")
    if "ColBERT" in architecture:
        return "ColBERT"
    if architecture.endswith("ForSequenceClassification"):
        return "CrossEncoder"
    # Older sparse encoders declare nothing.
    if architecture.endswith("ForMaskedLM") and "splade" in _name_of(model).lower():
        return "SparseEncoder"
    return None


def _name_of(model: SentenceTransformer) -> str:
    origin = origin_of(model)
    return origin.hub_id or Path(origin.path).name or "the model"


def _origin_object(model: SentenceTransformer, name: str) -> dict[str, Any]:
    """A configuration among the files that a model was opened from; empty if there is none that can be read."""
    origin = origin_of(model)
    if origin.hub_id is not None and not Path(origin.path).is_dir():
        cache = os.getenv("SENTENCE_TRANSFORMERS_HOME")
        file = try_to_load_from_cache(origin.hub_id, name, cache_dir=cache, revision=origin.revision)
    else:
        file = str(Path(origin.path) / name)
    try:
        return read_object(Path(file)) if isinstance(file, str) else {}
    except ValueError:
        return {}


class Origin(NamedTuple):
    """Where a model in memory was loaded from.

    Attributes:
        path: what was given to load it, a folder or a Hub id; empty if the model does not remember.
        hub_id: ``user/name`` if it is on the Hub.
        revision: commit on the Hub, if known.
    """

    path: str
    hub_id: str | None
    revision: str | None


def origin_of(model: SentenceTransformer, base_model: str | Path | None = None) -> Origin:
    """Where a model came from: what is given, or else what the transformer inside says it was loaded from.

    A local copy of a model on the Hub is known by its Hub id if ``model.model_card_data.model_id`` says it.
    """
    card = model.model_card_data
    loaded_from = getattr(getattr(model.transformers_model, "config", None), "_name_or_path", "") or card.base_model
    path = str(base_model or loaded_from or "")
    if not path:
        return Origin("", None, None)
    if Path(path).is_dir():
        hub_id, revision = _cached_repository(Path(path))
        return Origin(path, hub_id or card.model_id, revision)
    if Path(path).is_absolute() or path.count("/") > 1 or "\\" in path or path.startswith("."):
        return Origin(path, None, None)  # a folder that is not there any more
    # Sentence Transformers' own short names, but for those of models that are older than it.
    whole = "/" in path or path.lower() in ORIGINAL_TRANSFORMER_MODELS
    hub_id = path if whole else f"{SentenceTransformer.default_huggingface_organization}/{path}"
    return Origin(path, hub_id, card.base_model_revision if card.base_model == hub_id else None)


def _cached_repository(folder: Path) -> tuple[str | None, str | None]:
    """Hub id and commit, if a folder is a snapshot in a Hub cache: ``models--user--name/snapshots/commit``."""
    parts = folder.resolve().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None, None
    return parts[-3].removeprefix("models--").replace("--", "/"), parts[-1]


def prompt_of(model: SentenceTransformer, role: Role) -> str:
    """The prompt that ``encode_query`` or ``encode_document`` puts before a text."""
    return prompt_for(role, model.prompts, model.default_prompt_name)


def prompt_for(role: Role, prompts: Mapping[str, str | None], default_prompt_name: str | None) -> str:
    """The same, of a model with these prompts."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    name = next((name for name in names if name in prompts), default_prompt_name)
    return prompts.get(name or "") or ""


def is_unit(embeddings: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether all rows of (B, D) have length 1, as exactly as the dtype in which they were computed allows."""
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1)
    return bool(((lengths - 1).abs() <= _UNIT_TOLERANCE.get(dtype or torch.float32, 1e-3)).all())


def weights_sha256(model: SentenceTransformer) -> str | None:
    """SHA-256 over the weights of a model, whatever releases of the libraries call them; None without torch weights."""
    if model.get_backend() != "torch":
        return None
    digests = sorted(_tensor_digest(hashlib.sha256(), parameter).hexdigest() for parameter in model.parameters())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def model_fingerprint(model: SentenceTransformer) -> str:
    """SHA-256 over everything of a model that shapes its vectors: weights, module configurations, tokenizer, lengths.

    Two models with the same fingerprint give the same vectors; where they were loaded from does not matter.

    Raises:
        ValueError: the model does not run on the torch backend, so its weights cannot be read.
    """
    if model.get_backend() != "torch":
        raise ValueError(
            f"This model runs on the {model.get_backend()!r} backend, whose weights cannot be read to tell its cached "
            "vectors from those of another model. Load it with backend='torch' for training."
        )
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} ".encode())
        _tensor_digest(digest, tensor)
    for module in model:
        digest.update(json_digest([type(module).__name__, _module_config(module)]).encode())
    return digest.hexdigest()


def json_digest(content: object) -> str:
    """SHA-256 over plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _tensor_digest(digest: Any, tensor: Tensor) -> Any:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest


def _module_config(module: Any) -> dict[str, Any]:
    config = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    if hasattr(module, "auto_model"):
        # Where the files lay and which version wrote them says nothing about the vectors.
        passing = ("_name_or_path", "transformers_version")
        backbone = module.auto_model.config.to_dict()
        config = {**config, "backbone": {k: v for k, v in backbone.items() if k not in passing}}
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        config["tokenizer"] = _tokenizer_config(tokenizer)
        config["max_seq_length"] = getattr(module, "max_seq_length", None)
    return config


def _tokenizer_config(tokenizer: Any) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sorted(tokenizer.get_vocab().items())
    # Truncation and padding hold what the last call asked for, so they change as the model is used.
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
