# /// script
# requires-python = ">=3.10"
# dependencies = ["st-adapter[chroma]", "chromadb"]
# ///
"""Chroma, new collections: create them with `AdaptedEmbeddingFunction`, and `query_texts` is adapted."""

import chromadb

from st_adapter.stacks.chroma import AdaptedEmbeddingFunction


def embedders(model_path, query_model_path):
    function = AdaptedEmbeddingFunction(model_path)
    return function.embed_query, function


def index(folder, base_model_path, documents):
    collection = chromadb.PersistentClient(folder).create_collection(
        "documents", embedding_function=AdaptedEmbeddingFunction(base_model_path)
    )
    collection.add(ids=list(documents), documents=list(documents.values()))


def search(folder, model_path, queries, k):
    collection = chromadb.PersistentClient(folder).get_collection("documents")
    # Once, after training: from then on, whoever opens the collection searches with the adapter.
    collection.modify(configuration={"embedding_function": AdaptedEmbeddingFunction(model_path)})
    collection = chromadb.PersistentClient(folder).get_collection("documents")
    found = collection.query(query_texts=queries, n_results=k)
    return [list(zip(ids, row, strict=True)) for ids, row in zip(found["ids"], found["distances"], strict=True)]


def stored_vectors(folder):
    found = chromadb.PersistentClient(folder).get_collection("documents").get(include=["embeddings"])
    return dict(zip(found["ids"], found["embeddings"], strict=True))
