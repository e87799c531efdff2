"""The query model's part of a model of two, alone: for who only queries, in other clients or on a small device."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor, nn

from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import encode_as
from st_adapter.saving.model_files import read_modules
from st_adapter.storage.tensors import tensor_infos
from st_adapter.storage.writing import write_json

_WEIGHTS = "model.safetensors"
_WHOLE_TABLE = "embedding.weight"  # as Sentence Transformers names it
# As model2vec names a table and a factor for each of its rows. Since 6.2 Sentence Transformers multiplies the two in
# float32, so that vectors are of that precision though the table is stored in half of it; before, it takes the table
# alone, and works in float16.
_TABLE, _FACTORS = "embeddings", "weights"
_MAX_LOSS = 1e-3  # in cosine


def transformer_to_top(folder: Path) -> None:
    """Put the files of a ``Transformer`` where those look for them who know no ``modules.json``, as for ONNX files.

    Any other first module stays in its folder: at the top releases before 5 take it for a ``Transformer``.
    """
    entries = read_modules(folder)
    place = folder / entries[0]["path"]
    if place == folder or entries[0]["type"].rpartition(".")[2] != "Transformer":
        return
    for path in sorted(place.iterdir()):
        path.rename(folder / path.name)
    place.rmdir()
    entries[0]["path"] = ""
    write_json(folder / "modules.json", entries)


def write_table(place: Path, table: Tensor) -> None:
    """Put another table in the place of a static table's own, in its module's folder."""
    file = place / _WEIGHTS
    mode = file.stat().st_mode
    save_file({_WHOLE_TABLE: table.detach().contiguous()}, file)
    # safetensors makes files for the owner's eyes only.
    file.chmod(mode)


def halve_table(folder: Path) -> None:
    """Store a static table in half precision, if the vectors of queries stay the same up to 1e-3 in cosine.

    Anything but a table is left as it is.
    """
    entry = read_modules(folder)[0]
    file = folder / entry["path"] / _WEIGHTS
    if not _is_static(entry["type"]) or _is_half(file):
        return
    before, mode, whole = _queries(folder), file.stat().st_mode, file.with_name("whole.safetensors")
    table = StaticEmbedding.load(str(file.parent)).embedding.weight.detach().half()
    file.rename(whole)
    save_file({_TABLE: table.contiguous(), _FACTORS: torch.ones(len(table))}, file)
    file.chmod(mode)
    kept = nn.functional.cosine_similarity(before, _queries(folder))[before.any(dim=1)]
    if table.isfinite().all() and bool((kept >= 1 - _MAX_LOSS).all()):
        whole.unlink()
        return
    whole.replace(file)
    warnings.warn(
        f"The static table stays in full precision: in half of it queries would change by {1 - kept.min():.1e} in "
        f"cosine, more than {_MAX_LOSS:g}.",
        stacklevel=2,
    )


def has_half_table(folder: Path) -> bool:
    """Whether a model's folder starts with a static table in half precision."""
    entry = read_modules(folder)[0]
    return _is_static(entry["type"]) and _is_half(folder / entry["path"] / _WEIGHTS)


def _is_static(type_: str) -> bool:
    return type_.rpartition(".")[2] == "StaticEmbedding"


def _is_half(file: Path) -> bool:
    return file.is_file() and any(info.dtype == torch.float16 for info in tensor_infos(file).values())


def _queries(folder: Path) -> Tensor:
    """(T, D) float32 of some fixed texts, as stock Sentence Transformers embeds them."""
    with torch.random.fork_rng(devices=[]):
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return encode_as(model, "query", CHECK_TEXTS).float()
