"""What a Space shows, read from its folder with stock Sentence Transformers.

Imports nothing of the package but ``explorer``: a Space holds a copy of this file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.evidence.explorer import KnownQuery, Material

CONTENT_FILE, VECTORS_FILE, MODEL_FOLDER = "explore.json", "documents.safetensors", "model"
EMBEDDINGS = "embeddings"


def published(folder: Path) -> Material:
    """Read what ``write_space`` wrote.

    Args:
        folder: that of the Space.
    """
    content: dict[str, Any] = json.loads((folder / CONTENT_FILE).read_text(encoding="utf-8"))
    embeddings = load_file(folder / VECTORS_FILE)[EMBEDDINGS]
    model = SentenceTransformer(str(folder / MODEL_FOLDER), device="cpu")
    texts: list[str | None] = content["texts"]

    def encode(text: str) -> tuple[Tensor, Tensor]:
        # Plain encode() takes the route of documents, so that with the base model's prompt it is the base model.
        base = model.encode(text, prompt=content["query_prompt"], convert_to_tensor=True, show_progress_bar=False)
        adapted = model.encode_query(text, convert_to_tensor=True, show_progress_bar=False)
        both = torch.stack([base, adapted]).float()
        both = torch.nn.functional.normalize(both) if content["similarity"] == "cosine" else both
        return both[0], both[1]

    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, rows = (queries @ embeddings.T).topk(min(k, len(embeddings)), dim=1)
        rows, order = rows.sort(dim=1)
        # Equal scores keep the order of the documents.
        scores, best = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        return scores, rows.gather(1, best)

    def texts_of(rows: Sequence[int]) -> list[str | None]:
        return [texts[row] for row in rows]

    return Material(
        title=content["title"],
        facts=content["facts"],
        ids=content["ids"],
        queries=[_query(query) for query in content["queries"]],
        seen=frozenset(content["seen"]),
        encode=encode,
        search=search,
        texts=texts_of,
    )


def _query(content: dict[str, Any]) -> KnownQuery:
    relevance = {int(row): float(judged) for row, judged in content["relevance"].items()}
    return KnownQuery(**{**content, "relevance": relevance})
