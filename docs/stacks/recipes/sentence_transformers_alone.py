# /// script
# requires-python = ">=3.10"
# dependencies = ["sentence-transformers"]
# ///
"""Sentence Transformers: embed queries with `encode_query` and documents with `encode_document`."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search


def embedders(model_path, query_model_path):
    model = SentenceTransformer(model_path)
    return model.encode_query, model.encode_document


def index(folder, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    np.savez(Path(folder) / "index.npz", ids=list(documents), vectors=vectors)


def search(folder, model_path, queries, k):
    stored = np.load(Path(folder) / "index.npz")
    vectors = SentenceTransformer(model_path).encode_query(queries)
    hits = semantic_search(vectors, stored["vectors"], top_k=k)
    return [[(str(stored["ids"][hit["corpus_id"]]), hit["score"]) for hit in row] for row in hits]


def stored_vectors(folder):
    stored = np.load(Path(folder) / "index.npz")
    return dict(zip(stored["ids"].tolist(), stored["vectors"], strict=True))
