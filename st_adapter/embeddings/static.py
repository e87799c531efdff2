"""A static query model made to measure: a table of token vectors, distilled from the documents' own model."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor

from st_adapter.embeddings.embedding import cache_folder
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.origin import name_of, origin_of, remember_origin
from st_adapter.storage.writing import folder_written_whole


def distilled(model: SentenceTransformer, cache_dir: str | os.PathLike[str] | None = None) -> SentenceTransformer:
    """A table of B's token vectors that stands for a model B: no transformer at query time, and no download.

    Each token of the vocabulary is embedded once, by model2vec (Tulkens & van Dongen 2024, "Model2Vec: fast
    state-of-the-art static embeddings"), through Sentence Transformers' own ``StaticEmbedding.from_distillation``. A
    run then fits the table to how the model embeds texts of the data.

    Args:
        model: opened from a folder or the Hub.
        cache_dir: the table is kept there, as embeddings are; ``st_adapter`` in ``HF_HOME`` if None.

    Raises:
        ImportError: model2vec is not installed.
        ValueError: the model exists in memory only.
    """
    name = f"static-{name_of(model).rpartition('/')[2]}"
    folder = cache_folder(cache_dir) / "static" / model_fingerprint(model)[:32] / name
    if not (folder / "modules.json").is_file():
        _write(_distilled_table(model), folder)
    return _opened(folder, model)


def with_table(
    static: SentenceTransformer, table: Tensor, cache_dir: str | os.PathLike[str] | None = None
) -> SentenceTransformer:
    """The same static model with another (V, D) table of its V tokens, which is kept like that of ``distilled``."""
    weights = table.detach().float().cpu().contiguous()
    content = hashlib.sha256(weights.numpy().tobytes() + model_fingerprint(static).encode()).hexdigest()
    folder = cache_folder(cache_dir) / "static" / content[:32] / name_of(static).rpartition("/")[2]
    if not (folder / "modules.json").is_file():
        _write(StaticEmbedding(static[0].tokenizer, embedding_weights=weights), folder)
    return _opened(folder, static)


def is_static(model: SentenceTransformer) -> bool:
    """Whether a model is a table of token vectors and nothing else."""
    return len(model) == 1 and isinstance(model[0], StaticEmbedding)


def _opened(folder: Path, beside: SentenceTransformer) -> SentenceTransformer:
    made = SentenceTransformer(str(folder), device=str(beside.device))
    remember_origin(made, folder)
    return made


def _write(table: StaticEmbedding, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(folder) as unfinished:
        SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(unfinished), create_model_card=False)


def _distilled_table(model: SentenceTransformer) -> StaticEmbedding:
    path = origin_of(model).path
    if not path:
        raise ValueError(
            "A static query model is distilled from the files of a model, and this one exists in memory only. Save it "
            "with model.save_pretrained(FOLDER), and open it from there."
        )
    if importlib.util.find_spec("model2vec") is None:
        raise ImportError(
            'A static query model needs model2vec, which is not installed. Run `pip install "st-adapter[static]"`.'
        )
    dimension = int(model.get_embedding_dimension() or 0)
    return StaticEmbedding.from_distillation(path, device=str(model.device), pca_dims=dimension)
