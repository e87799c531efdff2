# /// script
# requires-python = ">=3.10"
# dependencies = ["pgvector", "psycopg[binary]", "sentence-transformers"]
# ///
"""pgvector: search with `model.encode_query(...)`; the table and its index stay as they are."""

import psycopg
from pgvector.psycopg import register_vector
from sentence_transformers import SentenceTransformer


def index(url, base_model_path, documents):
    vectors = SentenceTransformer(base_model_path).encode_document(list(documents.values()))
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(f"CREATE TABLE documents (id text PRIMARY KEY, embedding vector({vectors.shape[1]}))")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO documents VALUES (%s, %s)", zip(documents, vectors, strict=True))
        connection.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")


def search(url, model_path, queries, k):
    vectors = SentenceTransformer(model_path).encode_query(queries)
    nearest = "SELECT id, embedding <=> %(query)s FROM documents ORDER BY embedding <=> %(query)s LIMIT %(k)s"
    with psycopg.connect(url) as connection:
        register_vector(connection)
        return [connection.execute(nearest, {"query": vector, "k": k}).fetchall() for vector in vectors]


def stored_vectors(url):
    with psycopg.connect(url) as connection:
        register_vector(connection)
        rows = connection.execute("SELECT id, embedding FROM documents").fetchall()
    return {document_id: vector.to_numpy() for document_id, vector in rows}
