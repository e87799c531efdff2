# /// script
# requires-python = ">=3.10"
# dependencies = ["opensearch-py-ml", "accelerate", "mdutils", "transformers<5", "sentence-transformers"]
# ///
"""OpenSearch, models in the cluster: export two with `save_as_pt`, the one for queries from branch `query`."""

import tempfile
import zipfile

import torch
from opensearch_py_ml.ml_models import SentenceTransformerModel
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer


def exported(path):
    # The zip file that is uploaded. opensearch-py-ml 1.3 needs transformers 4, and two packages that it does not name.
    folder = tempfile.mkdtemp()
    exporter = SentenceTransformerModel(model_id=path, folder_path=folder, overwrite=True)
    return exporter.save_as_pt(["an example"], model_id=path, model_name="model.pt", zip_file_name="model.zip")


def embedder(path, prompt):
    # What the cluster does with it, which knows no prompts: the text comes with it.
    with zipfile.ZipFile(exported(path)) as content:
        tokenizer = Tokenizer.from_str(content.read("tokenizer.json").decode("utf-8"))
        with content.open("model.pt") as stream:
            model = torch.jit.load(stream)

    def embed(text):
        tokens = tokenizer.encode(prompt + text)
        features = {"input_ids": torch.tensor([tokens.ids]), "attention_mask": torch.tensor([tokens.attention_mask])}
        return model(features)["sentence_embedding"][0].detach().numpy()

    return lambda texts: [embed(text) for text in texts]


def embedders(model_path, query_model_path):
    prompts = SentenceTransformer(model_path).prompts
    return (embedder(query_model_path, prompts.get("query", "")), embedder(model_path, prompts.get("document", "")))
