# /// script
# requires-python = ">=3.10"
# dependencies = ["fastembed"]
# ///
"""fastembed (Qdrant): register the two ONNX files as two models, `onnx/model_query.onnx` for queries."""

import json
from pathlib import Path

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType


def opened(onnx_model_path, file):
    name = f"{onnx_model_path}/{file}"
    config = json.loads((Path(onnx_model_path) / "config.json").read_text(encoding="utf-8"))
    TextEmbedding.add_custom_model(
        name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=config["hidden_size"],
        model_file=file,
    )
    opened_model = TextEmbedding(name, specific_model_path=onnx_model_path)
    # Longer texts are cut where the base model cuts them: at the tokenizer's length, which fastembed reads, or here.
    settings = json.loads((Path(onnx_model_path) / "sentence_bert_config.json").read_text(encoding="utf-8"))
    if "max_seq_length" in settings:
        opened_model.model.tokenizer.enable_truncation(settings["max_seq_length"])
    return opened_model


def embedders(onnx_model_path):
    queries = opened(onnx_model_path, "onnx/model_query.onnx")
    # What a base model does beyond pooling and normalizing is in a file of its own.
    finished = Path(onnx_model_path) / "onnx" / "model_document.onnx"
    documents = opened(onnx_model_path, "onnx/model_document.onnx" if finished.is_file() else "onnx/model.onnx")
    # fastembed puts no prompt before a text.
    settings = Path(onnx_model_path) / "config_sentence_transformers.json"
    prompts = json.loads(settings.read_text(encoding="utf-8"))["prompts"]
    return (
        lambda texts: list(queries.embed([prompts["query"] + text for text in texts])),
        lambda texts: list(documents.embed([prompts["document"] + text for text in texts])),
    )
