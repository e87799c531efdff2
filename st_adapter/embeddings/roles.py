"""What a text is embedded as, and the prompt that goes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sentence_transformers import SentenceTransformer
from torch import Tensor

Role = Literal["query", "document"]


def encode_as(model: SentenceTransformer, role: Role, texts: Sequence[str], batch_size: int = 32) -> Tensor:
    """The (T, D) vectors of some texts in a role, in the model's dtype and on its device."""
    encode = model.encode_query if role == "query" else model.encode_document
    vectors: Tensor = encode(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
    return vectors.clone()  # encode returns inference tensors, which adapters on other devices cannot use


def prompt_of(model: SentenceTransformer, role: Role) -> str:
    """The prompt that ``encode_query`` or ``encode_document`` puts before a text."""
    return prompt_for(role, model.prompts, model.default_prompt_name)


def prompt_for(role: Role, prompts: Mapping[str, str | None], default_prompt_name: str | None) -> str:
    """The same, of a model with these prompts."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    name = next((name for name in names if name in prompts), default_prompt_name)
    return prompts.get(name or "") or ""
