"""Which base model an adapter belongs to: where it came from, and what shapes its vectors."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.util.misc import ORIGINAL_TRANSFORMER_MODELS
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from st_adapter.embeddings.fingerprint import model_fingerprint, tensor_digests
from st_adapter.errors import InputError
from st_adapter.storage.reading import read_object

Role = Literal["query", "document"]

CHECK_TEXTS = [
    "How do I read a file line by line?",
    "Return the absolute value of a number.",
    "def area(radius): return math.pi * radius**2",
    "Größe, naïve, 東京, emoji 🙂",
    "A longer document of several sentences. Texts of different lengths share a batch, so the padding of the shorter "
    "ones is part of what is compared. The vectors must not depend on which copy of the model made them.",
]
# Longer than what most models read, with another beginning than end: what is cut off, and where, shows in its vector.
_LONG_TEXT = " ".join(f"{word} {number}" for number in range(120) for word in ("line", "read", "value", "東", "open"))
_TEXTS_AT_ONCE = 1024
# The class of another kind of model, or what its repository declares -> what it gives instead of one dense vector.
_OTHER_KINDS = {
    "CrossEncoder": "one score per query and document together",
    "SparseEncoder": "sparse vectors",
    "MultiVectorEncoder": "one vector per token",
    "ColBERT": "one vector per token",
}
_UNIT_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# How far vectors of one model lie apart, in their length, when other hardware, releases or neighbours in the batch
# round them another way.
_SAME_WITHIN = {torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 0.15}
_PROBE_NUMBERS = 32


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
        max_seq_length: tokens that the model reads; None if it has no limit, or in a description of version 0.1.
        fingerprint: of everything in memory (see ``model_fingerprint``) but prompts and truncation. Other releases of
            the libraries may give another one for the same model, so it tells models apart within one process, for the
            cache and for what is saved, and takes no part in ``difference``. None if it cannot be read.
        probes: what the model makes of some fixed texts, as queries and as documents, each vector projected to 32
            numbers; float32 in base64. None in a description of version 0.1.
    """

    name: str
    revision: str | None
    weights_sha256: str | None
    dtype: str
    dimension: int
    query_prompt: str
    normalized: bool
    max_seq_length: int | None = None
    fingerprint: str | None = None
    probes: str | None = None

    @classmethod
    def of(cls, model: SentenceTransformer) -> BaseModel:
        """Describe a model in memory: the one answer to the question which model this is.

        The weights are read once, and a few texts are embedded.

        Raises:
            ValueError: its weights are quantised, so that it cannot be told from others.
        """
        origin = origin_of(model)
        readable = model.get_backend() == "torch"
        digests = tensor_digests(model) if readable else {}
        fingerprint = model_fingerprint(model, digests) if readable else None
        weights = sorted(digests[id(parameter)] for parameter in model.parameters()) if readable else []
        vectors = torch.cat([embed_texts(model, role, fixed_texts(model)) for role in get_args(Role)])
        return cls(
            name=origin.hub_id or Path(origin.path).name or "a model made in memory",
            revision=origin.revision,
            weights_sha256=hashlib.sha256("".join(weights).encode()).hexdigest() if readable else None,
            dtype=str(model.dtype or torch.float32).removeprefix("torch."),
            dimension=int(vectors.shape[1]),
            query_prompt=prompt_of(model, "query"),
            # Where no probe has a token that the model knows, its last module has to tell.
            normalized=is_unit(vectors, vectors.dtype) if vectors.any() else isinstance(model[-1], Normalize),
            max_seq_length=_whole(model.max_seq_length),
            fingerprint=fingerprint,
            probes=_encode_probes(vectors),
        )

    @classmethod
    def from_dict(cls, content: object) -> BaseModel:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: a field is missing, unknown, or of another type.
        """
        maybe_text, whole = (str, type(None)), (int, type(None))
        first: dict[str, Any] = {
            "name": str,
            "revision": maybe_text,
            "weights_sha256": maybe_text,
            "dtype": str,
            "dimension": int,
            "query_prompt": str,
            "normalized": bool,
        }
        # Version 0.1 wrote the first seven alone.
        types = {**first, "max_seq_length": whole, "fingerprint": maybe_text, "probes": maybe_text}
        if (
            not isinstance(content, dict)
            or not set(first) <= set(content) <= set(types)
            or not all(isinstance(value, types[name]) for name, value in content.items())
            or any(isinstance(content.get(name), bool) for name in ("dimension", "max_seq_length"))
        ):
            raise ValueError(
                f"base_model is {str(content)[:200]}, but the fields {', '.join(types)} of a base model are expected. "
                "Save the adapter again."
            )
        described = cls(**content)
        described._probe_vectors()
        return described

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    def facts(self) -> dict[str, Any]:
        """The fields that a person reads; the others are for comparing."""
        return {name: value for name, value in self.to_dict().items() if name not in ("fingerprint", "probes")}

    def __str__(self) -> str:
        revision = f"revision {self.revision[:12]}, " if self.revision else ""
        weights = self.weights_sha256[:12] if self.weights_sha256 else "unknown"
        length = f"{self.max_seq_length} tokens, " if self.max_seq_length is not None else ""
        return (
            f"{self.name!r} ({revision}weights {weights}, {self.dtype}, {self.dimension} dimensions, {length}"
            f"query prompt {self.query_prompt!r}, {'' if self.normalized else 'not '}normalized)"
        )

    def difference(self, other: BaseModel) -> str | None:
        """Why vectors of ``other`` are not those of this model, as a phrase; None if nothing speaks against it.

        Weights in another dtype cannot be compared by hash; what the models make of the same texts decides then, or
        the name, where a description of version 0.1 knows nothing else.
        """
        if self.dimension != other.dimension:
            return "the dimensions differ"
        probed = None not in (self.probes, other.probes)
        if self.comparable(other):
            if self.weights_sha256 != other.weights_sha256:
                return "the weights differ"
        elif not probed and self.name.rpartition("/")[2] != other.name.rpartition("/")[2]:
            return "the names differ"
        if self.query_prompt != other.query_prompt:
            return "the query prompts differ"
        if None not in (self.max_seq_length, other.max_seq_length) and self.max_seq_length != other.max_seq_length:
            return f"one reads {self.max_seq_length} tokens, the other {other.max_seq_length} (max_seq_length)"
        if probed:
            return self._probe_difference(other)
        if self.normalized != other.normalized:
            return "only one of them normalizes"
        return None

    def comparable(self, other: BaseModel) -> bool:
        """Whether the two hashes of the weights can be compared."""
        return self.dtype == other.dtype and None not in (self.weights_sha256, other.weights_sha256)

    def _probe_difference(self, other: BaseModel) -> str | None:
        ours, theirs = self._probe_vectors(), other._probe_vectors()
        if ours.shape != theirs.shape:
            return None  # of models with and without a limit of tokens, which were probed with other texts
        distance = float(relative_distances(ours, theirs).max())
        if not distance <= max(_SAME_WITHIN[dtype] for dtype in (self._torch_dtype(), other._torch_dtype())):
            return (
                f"the same texts get other vectors, up to {distance:.2g} of their length apart, so pooling, tokenizer, "
                "document prompt or code differ"
            )
        return None

    def _torch_dtype(self) -> torch.dtype:
        return next((dtype for dtype in _SAME_WITHIN if str(dtype) == f"torch.{self.dtype}"), torch.float32)

    def _probe_vectors(self) -> NDArray[np.float32]:
        try:
            numbers = np.frombuffer(base64.b64decode(self.probes or "", validate=True), dtype="<f4")
        except (binascii.Error, ValueError) as error:
            raise ValueError("The probes of base_model are not float32 in base64. Save the adapter again.") from error
        if len(numbers) % _PROBE_NUMBERS or not np.isfinite(numbers).all():
            raise ValueError(
                f"The probes of base_model are {len(numbers)} numbers, but finite ones are expected, {_PROBE_NUMBERS} "
                "for each text. Save the adapter again."
            )
        return np.asarray(numbers.reshape(-1, _PROBE_NUMBERS), dtype=np.float32)


def embed_texts(model: SentenceTransformer, role: Role, texts: Sequence[str], batch_size: int = 32) -> Tensor:
    """The (T, D) vectors of some texts in a role, in the model's dtype and on its device."""
    encode = model.encode_query if role == "query" else model.encode_document
    vectors: Tensor = encode(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
    return vectors.clone()  # encode returns inference tensors, which adapters on other devices cannot use


def relative_distances(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the rows of two (T, D) matrices lie apart, in the length of the longer one: (T,), 0 to 2."""
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    apart = np.linalg.norm(first - second, axis=1)
    return np.asarray(np.divide(apart, lengths, out=np.zeros_like(apart), where=lengths > 0))


def same_within(dtype: torch.dtype | None) -> float:
    """How far two vectors of one text by one model may lie apart, in their length, if computed in this dtype."""
    return _SAME_WITHIN.get(dtype or torch.float32, _SAME_WITHIN[torch.float32])


def fixed_texts(model: SentenceTransformer) -> list[str]:
    """The texts by which models are compared whatever the data: short ones, and one longer than the model reads."""
    # Without a limit, a long text shows nothing more, and some models fail on what is longer than they can read.
    return [*CHECK_TEXTS, _LONG_TEXT] if _whole(model.max_seq_length) is not None else CHECK_TEXTS


def _encode_probes(vectors: Tensor) -> str:
    """Project (T, D) vectors with random signs (Achlioptas 2003, "Database-friendly random projections").

    Lengths and distances are kept to about an eighth, whatever D. The signs come from a hash, so they are the same
    with every release of every library.
    """
    dimension = int(vectors.shape[1])
    blocks = -(-dimension * _PROBE_NUMBERS // 256)
    bits = b"".join(hashlib.sha256(f"probe {number}".encode()).digest() for number in range(blocks))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=dimension * _PROBE_NUMBERS).reshape(dimension, -1)
    projected = vectors.double().cpu().numpy() @ (2.0 * signs - 1) / np.sqrt(_PROBE_NUMBERS)
    return base64.b64encode(np.nan_to_num(projected).astype("<f4").tobytes()).decode()


def _whole(length: object) -> int | None:
    """A number of tokens, if there is a limit: tokenizers without one say 10^30."""
    return int(length) if isinstance(length, int | float) and 0 < length < 2**31 else None


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


def count_long_texts(model: SentenceTransformer, texts: Iterable[str], role: Role) -> int | None:
    """How many distinct texts have more tokens than the model reads, its prompt and special tokens included.

    Args:
        model: the base model.
        texts: as they are embedded, without prompt.
        role: whose prompt is put before them.

    Returns:
        Their number; None for a model that reads texts of any length, or whose tokenizer is none of `transformers`.
    """
    tokenizer, limit = getattr(model, "tokenizer", None), model.max_seq_length
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or limit is None or not math.isfinite(limit):
        return None
    prompt = prompt_of(model, role)
    # A token holds a byte at least, so short texts need not be taken apart.
    room = limit - tokenizer.num_special_tokens_to_add()
    long = [text for text in dict.fromkeys(prompt + text for text in texts) if len(text.encode()) > room]
    count = 0
    for start in range(0, len(long), _TEXTS_AT_ONCE):
        batch = long[start : start + _TEXTS_AT_ONCE]
        encoded = tokenizer(batch, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        count += sum(len(tokens) > limit for tokens in encoded["input_ids"])
    return count


def is_unit(embeddings: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether all rows of (B, D) have length 1, as exactly as the dtype in which they were computed allows.

    A row of zeros, such as that of a text without a token, has no direction to normalize and says nothing.
    """
    lengths = torch.linalg.vector_norm(embeddings.float(), dim=1)
    off = (lengths - 1).abs() > _UNIT_TOLERANCE.get(dtype or torch.float32, 1e-3)
    return bool((lengths > 0).any()) and not bool((off & (lengths > 0)).any())
