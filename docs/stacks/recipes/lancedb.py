# /// script
# requires-python = ">=3.10"
# dependencies = ["lancedb", "sentence-transformers"]
# ///
"""LanceDB: search with `model.encode_query(...)`; `table.search(text)` would embed the query as a document."""

import lancedb
from sentence_transformers import SentenceTransformer


def index(folder, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    rows = [
        {"id": corpus_id, "text": text, "vector": vector}
        for (corpus_id, text), vector in zip(documents.items(), vectors, strict=True)
    ]
    lancedb.connect(folder).create_table("documents", rows)


def search(folder, model_path, queries, k):
    table = lancedb.connect(folder).open_table("documents")
    vectors = SentenceTransformer(model_path).encode_query(queries)
    found = [table.search(vector).distance_type("cosine").limit(k).to_list() for vector in vectors]
    return [[(row["id"], row["_distance"]) for row in rows] for rows in found]


def stored_vectors(folder):
    rows = lancedb.connect(folder).open_table("documents").to_arrow().to_pylist()
    return {row["id"]: row["vector"] for row in rows}
