"""Model -> ONNX files: the base's for Sentence Transformers, finished vectors for transformers.js, fastembed, Vespa.

All files take what the tokenizer gives, int64 (B, T) with B and T free: ``input_ids``, ``attention_mask`` and, where it
has them, ``token_type_ids``. All give two outputs in float32, one for each token (B, T, D) and ``sentence_embedding``
(B, D):

- ``model.onnx`` has ``last_hidden_state``, what the base's transformer gives, like a base model's own export. It is
  for ``SentenceTransformer(..., backend="onnx")``, which puts pooling, later modules and the adapter on it, and,
  where nothing but mean or first-token pooling and normalizing follows, for documents in transformers.js,
  fastembed and Vespa.
- ``model_query.onnx`` has ``token_embeddings``, the finished vector of ``encode_query`` repeated at every token:
  mean pooling under any mask and taking the first token both return it. It is for those three alone: Sentence
  Transformers would put the adapter on it once more, finds no ``last_hidden_state`` in it, and fails.
- ``model_document.onnx``, written where more than pooling and normalizing follows the base's transformer, is the
  same of ``encode_document``: those three take it for documents instead of ``model.onnx``.

Prompts, ``max_seq_length`` and ``truncate_dim`` are not in the files. A client puts the prompt before the text, cuts
the tokens, and cuts the vector, as it has to with any ONNX file.
"""

from __future__ import annotations

import copy
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from st_adapter.saving.attach import detach, with_modules
from st_adapter.saving.onnx_files import (
    BASE_FILE,
    DOCUMENT_FILE,
    FINISHED,
    QUERY_FILE,
    TOKENS,
    TOLERANCE,
    Example,
    difference_of,
    write_onnx,
)
from st_adapter.saving.tasks import tasks_of
from st_adapter.words import listed

# A protocol buffer, which an .onnx file is, ends at 2 GiB, and the graph needs some of it.
_MAX_WEIGHT_BYTES = 2_000_000_000
# Of different lengths, so that a batch of them is padded.
_CHECK_TEXTS = [
    "How do I read a file line by line?",
    "open",
    "Größe, naïve, 東京, emoji 🙂",
    "def area(radius): return math.pi * radius**2  # and a remark that makes this the longest of all these texts",
]


def export_onnx(model: SentenceTransformer, output_dir: str | Path) -> list[Path]:
    """Write ``onnx/model.onnx`` for documents and ``onnx/model_query.onnx`` for adapted queries.

    Where more than pooling and normalizing follows the base's transformer, ``onnx/model_document.onnx`` too, for
    clients that only pool. The module ``st_adapter.saving.onnx_export`` says which client takes which file.

    An ``onnx/model.onnx`` that is already there is taken for the base model's own and stays byte for byte. The new
    files are run with onnxruntime and compared with ``model`` before they are moved to their place.

    Args:
        model: What ``attach`` returned, a repository of ``save_pretrained`` opened with ``SentenceTransformer``, or a
            base model without an adapter, of which only documents are written. It is left as it is. A model in half
            precision is exported in float32, and compared in float32.
        output_dir: A repository's folder, or a new one.

    Returns:
        The files written, as absolute paths, documents first.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: the model does not start with a text transformer in PyTorch, pools without its prompt, has 2 GB of
            weights or more or a ``Router`` of another making, or PyTorch's exporter cannot convert it; the files give
            other vectors than the model; ``output_dir`` is a file or holds the vectors of another model.
        OSError: the files cannot be written, for instance because the disk is full.

    Examples:
        >>> [path.name for path in export_onnx(st_adapter.attach(model, adapter), "exported")]
        ['model.onnx', 'model_query.onnx']
    """
    check_dependencies()
    check_exportable(model)
    folder = Path(output_dir).resolve() / "onnx"
    _check_folder(folder)
    model = _for_export(model)
    base, query_modules = detach(model)
    finished: dict[str, list[nn.Module]] = {} if _pooled_by_clients(base) else {DOCUMENT_FILE: list(base)}
    finished |= {QUERY_FILE: [*base, *query_modules]} if query_modules else {}
    _check_nothing_stale(folder, finished)
    return _written(folder, base, model, finished)


def export_queries(model: SentenceTransformer, num_modules: int, output_dir: Path) -> list[Path]:
    """Write ``onnx/model.onnx`` and ``onnx/model_query.onnx`` of a query model with what maps its vectors behind it.

    Args:
        model: all of it, as ``query_side`` makes it.
        num_modules: how many modules, from the first, are the query model's own.
        output_dir: the folder of its first module, where its tokenizer lies.

    Raises:
        ImportError: as ``export_onnx``.
        ValueError: as ``export_onnx``.
    """
    check_dependencies()
    check_exportable(model)
    model = _for_export(model)
    own = with_modules(model, list(model.named_children())[:num_modules])
    return _written(output_dir.resolve() / "onnx", own, model, {QUERY_FILE: list(model)})


def _for_export(model: SentenceTransformer) -> SentenceTransformer:
    # A copy, since it is moved and cast. Half precision would be slow or unknown on most of the clients' CPUs.
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    model.truncate_dim = None
    return model


def _written(
    folder: Path, base: SentenceTransformer, model: SentenceTransformer, finished: Mapping[str, list[nn.Module]]
) -> list[Path]:
    """Write the file of the base, and those of finished vectors of the modules that are named by file."""
    # Beside the repository and not in it: what a killed process leaves behind is not uploaded with it.
    temporary = folder.parent.parent / f".{folder.parent.name}.onnx-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        documents = _examples(base, base.encode_document)
        if (folder / BASE_FILE).exists():
            _warn_if_different(folder / BASE_FILE, documents)
        else:
            write_onnx(temporary / BASE_FILE, list(base), documents, TOKENS)
        for name, modules in finished.items():
            vectors = documents if name == DOCUMENT_FILE else _examples(base, model.encode_query)
            write_onnx(temporary / name, modules, [_repeated(example) for example in vectors], FINISHED)
        folder.mkdir(parents=True, exist_ok=True)
        return [path.replace(folder / path.name) for path in sorted(temporary.iterdir())]
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_dependencies() -> None:
    """Raise an ImportError that says what to install, if the packages that exporting needs are not there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Exporting to ONNX needs onnx, onnxscript and onnxruntime, but {error.name or error} is missing. "
            'Run `pip install "st-adapter[onnx]"`.'
        ) from error


def check_exportable(model: SentenceTransformer) -> None:
    """Raise the ValueError of ``export_onnx`` for a model that no ONNX file can stand for."""
    if not isinstance(model, SentenceTransformer):
        raise ValueError(
            f"The model is a {type(model).__name__}, but a SentenceTransformer is expected. "
            "Load it with SentenceTransformer(...)."
        )
    if tasks_of(model):
        raise ValueError(
            f"The model has adapters for the tasks {listed(tasks_of(model))}, but to an ONNX file no task can be told. "
            "Take it apart with detach(model), attach one adapter, and export that."
        )
    if model.get_backend() != "torch":
        raise ValueError(
            f"The model runs on the backend {model.get_backend()!r}, but only one of PyTorch can be exported. "
            "Load it with SentenceTransformer(..., backend='torch')."
        )
    first = next(iter(model), None)
    # A transformer whose text does not pass through forward() to one vector per token is one of images or audio.
    if (
        not isinstance(first, Transformer)
        or first.modality_config.get("text", {}).get("method") != "forward"
        or first.module_output_name != "token_embeddings"
    ):
        raise ValueError(
            f"The model starts with {type(first).__name__}, but an ONNX file for text clients expects a Transformer "
            "that gives one vector per token. Such a model cannot be exported; use it with sentence-transformers."
        )
    attention = getattr(first.model.config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager", None):
        raise ValueError(
            f"The model was loaded with attn_implementation={attention!r}, but the export expects 'sdpa' or 'eager'. "
            "Load it with SentenceTransformer(..., model_kwargs={'attn_implementation': 'sdpa'})."
        )
    prompts = sorted(name for name, prompt in model.prompts.items() if prompt)
    if prompts and any(isinstance(module, Pooling) and not module.include_prompt for module in model):
        raise ValueError(
            f"The model leaves its prompts {prompts} out of the pooling, but an ONNX file does not see where a prompt "
            "ends. Such a model cannot be exported; use it with sentence-transformers."
        )
    weight_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    if weight_bytes >= _MAX_WEIGHT_BYTES:
        raise ValueError(
            f"The model has {weight_bytes / 1e9:.2f} GB of weights in float32, but one ONNX file holds less than "
            f"{_MAX_WEIGHT_BYTES / 1e9:.2f} GB. Serve this model with sentence-transformers, or take a smaller base."
        )


def _check_folder(folder: Path) -> None:
    for path in (folder.parent, folder):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, but a folder is expected. Choose another output_dir.")


def _check_nothing_stale(folder: Path, finished: Collection[str]) -> None:
    for name, missing in ((DOCUMENT_FILE, "needs none"), (QUERY_FILE, "has no adapter")):
        if name not in finished and (folder / name).exists():
            raise ValueError(
                f"{folder / name} exists, but this model {missing} and would leave the vectors of another one there. "
                "Delete that file, or choose another output_dir."
            )


def _pooled_by_clients(base: SentenceTransformer) -> bool:
    """Whether clients that pool and normalize, and do no more, get the base's vector from its transformer."""
    _, *modules = base
    pooling = modules[0] if modules else None
    return (
        isinstance(pooling, Pooling)
        and pooling.pooling_mode in ("mean", "cls")
        and all(isinstance(module, Normalize) for module in modules[1:])
    )


def _examples(base: SentenceTransformer, encode: Callable[..., Any]) -> list[Example]:
    """A padded batch and a single text: a file that took their number or length for a constant fails on one."""
    examples = []
    for texts in (_CHECK_TEXTS, _CHECK_TEXTS[:1]):
        vectors = encode(texts, prompt="", show_progress_bar=False)
        features = base.preprocess(texts)
        inputs = {
            name: value.numpy() for name, value in features.items() if isinstance(value, Tensor) and value.ndim == 2
        }
        with torch.inference_mode():
            tokens = base[0](features)["token_embeddings"].numpy()
        examples.append(Example(inputs, tokens, vectors))
    return examples


def _repeated(example: Example) -> Example:
    """The same, with the finished vector at every token."""
    batch, length = example.inputs["attention_mask"].shape
    tokens = np.broadcast_to(example.vectors[:, None], (batch, length, example.vectors.shape[1]))
    return example._replace(tokens=tokens)


def _warn_if_different(path: Path, documents: Sequence[Example]) -> None:
    difference = difference_of(path, documents)
    if not difference <= TOLERANCE:
        warnings.warn(
            f"{path} is kept as it is, but gives documents that differ from the base model's by up to "
            f"{difference:.1e}. If it is the base model's own file, quantized or in half precision, that is its price; "
            "if it is of another model, delete it and export again.",
            stacklevel=3,
        )
