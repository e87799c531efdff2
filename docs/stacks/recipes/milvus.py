# /// script
# requires-python = ">=3.10"
# dependencies = ["pymilvus", "milvus-lite", "sentence-transformers"]
# ///
"""Milvus: search with `model.encode_query(...)`; the collection stays as it is."""

from pathlib import Path

from pymilvus import MilvusClient
from sentence_transformers import SentenceTransformer


def opened(folder):
    # Milvus Lite; a server is opened with its URL.
    return MilvusClient(str(Path(folder) / "milvus.db"))


def index(folder, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    client = opened(folder)
    client.create_collection(
        "documents", dimension=vectors.shape[1], id_type="string", max_length=200, metric_type="COSINE"
    )
    rows = [{"id": corpus_id, "vector": vector} for corpus_id, vector in zip(documents, vectors, strict=True)]
    client.insert("documents", rows)
    client.close()


def search(folder, model_path, queries, k):
    client = opened(folder)
    client.load_collection("documents")
    vectors = SentenceTransformer(model_path).encode_query(queries)
    found = client.search("documents", data=list(vectors), limit=k)
    client.close()
    return [[(hit["id"], hit["distance"]) for hit in hits] for hits in found]


def stored_vectors(folder):
    client = opened(folder)
    client.load_collection("documents")
    rows = client.query("documents", filter='id >= ""', output_fields=["id", "vector"], limit=10_000)
    client.close()
    return {row["id"]: row["vector"] for row in rows}
