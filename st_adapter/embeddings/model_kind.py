"""Whether a model gives one dense vector per text, and was made to."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer

from st_adapter.embeddings.origin import name_of, origin_object
from st_adapter.errors import InputError

# The class of another kind of model, or what its repository declares -> what it gives instead of one dense vector.
_OTHER_KINDS = {
    "CrossEncoder": "one score per query and document together",
    "SparseEncoder": "sparse vectors",
    "MultiVectorEncoder": "one vector per token",
    "ColBERT": "one vector per token",
}


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
    given = f"The files of {name_of(model)} are those of a {kind}" if opened else f"The model is a {kind}"
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
    declared = origin_object(model, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if declared != "SentenceTransformer":
        return str(declared)[:50]
    architecture = next(iter(getattr(model.transformers_model.config, "architectures", None) or []), "")
    if "ColBERT" in architecture:
        return "ColBERT"
    if architecture.endswith("ForSequenceClassification"):
        return "CrossEncoder"
    # Older sparse encoders declare nothing.
    if architecture.endswith("ForMaskedLM") and "splade" in name_of(model).lower():
        return "SparseEncoder"
    return None
