# /// script
# requires-python = ">=3.10"
# dependencies = ["qdrant-client", "sentence-transformers"]
# ///
"""Qdrant: query with vectors of `model.encode_query(...)`; the collection stays as it is."""

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, QueryRequest, VectorParams
from sentence_transformers import SentenceTransformer


def index(folder, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    client = QdrantClient(path=folder)
    client.create_collection("documents", VectorParams(size=vectors.shape[1], distance=Distance.COSINE))
    client.upsert(
        "documents",
        [
            PointStruct(id=number, vector=vector.tolist(), payload={"corpus_id": corpus_id})
            for number, (corpus_id, vector) in enumerate(zip(documents, vectors, strict=True))
        ],
    )
    client.close()


def search(folder, model_path, queries, k):
    client = QdrantClient(path=folder)
    vectors = SentenceTransformer(model_path).encode_query(queries)
    requests = [QueryRequest(query=vector.tolist(), limit=k, with_payload=True) for vector in vectors]
    found = client.query_batch_points("documents", requests)
    client.close()
    return [[(point.payload["corpus_id"], point.score) for point in response.points] for response in found]


def stored_vectors(folder):
    client = QdrantClient(path=folder)
    points, _ = client.scroll("documents", limit=client.count("documents").count, with_vectors=True)
    client.close()
    return {point.payload["corpus_id"]: point.vector for point in points}
