# /// script
# requires-python = ">=3.10"
# dependencies = ["faiss-cpu", "sentence-transformers"]
# ///
"""FAISS: search with `model.encode_query(...)`; the index that was built with the base model stays as it is."""

import json
from pathlib import Path

import faiss
from sentence_transformers import SentenceTransformer


def index(folder, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    built = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    built.add(vectors)
    faiss.write_index(built, str(Path(folder) / "index.faiss"))
    (Path(folder) / "ids.json").write_text(json.dumps(list(documents)), encoding="utf-8")


def opened(folder):
    ids = json.loads((Path(folder) / "ids.json").read_text(encoding="utf-8"))
    return faiss.read_index(str(Path(folder) / "index.faiss")), ids


def search(folder, model_path, queries, k):
    built, ids = opened(folder)
    scores, rows = built.search(SentenceTransformer(model_path).encode_query(queries), k)
    return [[(ids[row], score) for row, score in zip(*hits, strict=True)] for hits in zip(rows, scores, strict=True)]


def stored_vectors(folder):
    built, ids = opened(folder)
    return dict(zip(ids, built.reconstruct_n(0, built.ntotal), strict=True))
