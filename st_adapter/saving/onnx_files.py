"""One ONNX file: written by torch.onnx, run with onnxruntime, and compared with the model's own vectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from onnx import GraphProto

BASE_FILE = "model.onnx"
DOCUMENT_FILE = "model_document.onnx"
QUERY_FILE = "model_query.onnx"
ONNX_FILES = (BASE_FILE, DOCUMENT_FILE, QUERY_FILE)
# Sentence Transformers' ONNX backend asks for the first by name and puts the model's own pooling, later modules and
# adapter on it. Finished vectors go by the second, which the other clients take as well, so that it refuses them.
TOKENS, FINISHED = "last_hidden_state", "token_embeddings"
_VECTORS = "sentence_embedding"
# The one that torch.onnx writes by itself, without a version converter.
_OPSET = 18
TOLERANCE = 1e-5


class Example(NamedTuple):
    """A batch of texts and what a file shall give for it."""

    inputs: dict[str, NDArray[np.int64]]  # name -> (B, T)
    tokens: NDArray[np.float32]  # (B, T, D), what a file shall give where the attention mask is 1
    vectors: NDArray[np.float32]  # (B, D), the model's own


class _Pipeline(nn.Module):
    """The modules as a function of tensors: ``input_names`` in order -> a vector for each token, sentence_embedding."""

    def __init__(self, modules: Sequence[nn.Module], input_names: Sequence[str], finished: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(modules)
        self.input_names = list(input_names)
        self.finished = finished

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        transformer, *others = self.stages
        features: dict[str, Any] = transformer(dict(zip(self.input_names, inputs, strict=True)))
        tokens: Tensor = features["token_embeddings"]  # (B, T, D), before later modules replace it
        for stage in others:
            features = stage(features)
        vectors: Tensor = features[_VECTORS]  # (B, D)
        if self.finished:
            return vectors.unsqueeze(1).expand(-1, inputs[0].shape[1], -1), vectors  # (B, T, D)
        return tokens, vectors


def write_onnx(path: Path, modules: Sequence[nn.Module], examples: Sequence[Example], tokens_name: str) -> None:
    """Write one file and compare what it gives with the examples.

    Args:
        path: of the file.
        modules: of the model, the transformer first.
        examples: what the file shall give.
        tokens_name: ``TOKENS`` for the transformer's own token vectors, ``FINISHED`` for finished vectors.

    Raises:
        ValueError: PyTorch cannot convert the modules, or the file gives other vectors.
    """
    inputs = examples[0].inputs
    pipeline = _Pipeline(modules, list(inputs), finished=tokens_name == FINISHED).eval()
    try:
        with _quiet_exporter(), torch.no_grad():
            # Not the older exporter, dynamo=False: it is deprecated, and what it traces keeps the branches that the
            # example took, where torch.export makes sure that they hold for all B and T.
            program = torch.onnx.export(
                pipeline,
                tuple(torch.from_numpy(value) for value in inputs.values()),
                input_names=list(inputs),
                output_names=[tokens_name, _VECTORS],
                dynamic_shapes=(({0: "batch", 1: "sequence"},) * len(inputs),),  # one argument, *inputs
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(
            f"PyTorch {torch.__version__} could not convert {type(modules[0].model).__name__} to ONNX: {cause} "
            "Try another version of torch and transformers, or use this model with sentence-transformers."
        ) from error
    assert program is not None  # None is what the older exporter returns
    proto = program.model_proto
    _clear_metadata(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    difference = difference_of(path, examples)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{path.name} gives vectors that differ from the model's by up to {difference:.1e}, but at most "
            f"{TOLERANCE:.0e} is expected. It was removed; use this model with sentence-transformers."
        )


def difference_of(path: Path, examples: Sequence[Example]) -> float:
    """The largest difference between what a file gives, for tokens and as vectors, and what it shall give.

    Absolute for numbers up to 1, relative to the largest of them beyond; infinite if the shapes differ.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    input_names = {value.name for value in session.get_inputs()}
    output_names = [value.name for value in session.get_outputs()]
    differences = [0.0]
    for inputs, tokens, vectors in examples:
        if not input_names <= inputs.keys():
            return float("inf")
        outputs = session.run(output_names, {name: inputs[name] for name in input_names})
        compared = [(out, vectors) for name, out in zip(output_names, outputs, strict=True) if name == _VECTORS]
        if outputs[0].ndim == 3:
            if outputs[0].shape != tokens.shape:
                return float("inf")
            kept = inputs["attention_mask"] == 1  # what a transformer gives for padding is never used
            compared.append((outputs[0][kept], tokens[kept]))
        for found, expected in compared:
            if found.shape != expected.shape:
                return float("inf")
            size = max(1.0, float(np.abs(expected).max()))
            differences.append(float(np.abs(found.astype(np.float32) - expected).max()) / size)
    return float(np.max(differences))  # not max(), for which no NaN is larger than 0


def _clear_metadata(graph: GraphProto) -> None:
    """Take out the exporter's notes: stack traces with paths of this machine, about 2 kB for each node."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the branch or body of an If or a Loop
                _clear_metadata(attribute.g)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on its own deprecations and on torchvision; what it writes is checked anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
