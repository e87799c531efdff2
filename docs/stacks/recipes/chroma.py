# /// script
# requires-python = ">=3.10"
# dependencies = ["chromadb", "sentence-transformers"]
# ///
"""Chroma: query with `query_embeddings=model.encode_query(...)`; `query_texts` would embed them as documents."""

import chromadb
from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction
from sentence_transformers import SentenceTransformer


def index(folder, base_model_path, documents):
    collection = chromadb.PersistentClient(folder).create_collection(
        "documents", embedding_function=SentenceTransformerEmbeddingFunction(base_model_path)
    )
    collection.add(ids=list(documents), documents=list(documents.values()))


def search(folder, model_path, queries, k):
    collection = chromadb.PersistentClient(folder).get_collection("documents")
    model = SentenceTransformer(model_path)
    found = collection.query(query_embeddings=model.encode_query(queries), n_results=k)
    return [list(zip(ids, row, strict=True)) for ids, row in zip(found["ids"], found["distances"], strict=True)]


def stored_vectors(folder):
    found = chromadb.PersistentClient(folder).get_collection("documents").get(include=["embeddings"])
    return dict(zip(found["ids"], found["embeddings"], strict=True))
