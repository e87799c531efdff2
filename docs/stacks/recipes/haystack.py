# /// script
# requires-python = ">=3.10"
# dependencies = ["haystack-ai", "sentence-transformers-haystack"]
# ///
"""Haystack: pass `task` and `prompt_name` in the `encode_kwargs` of the text embedder."""

from pathlib import Path

from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)


def text_embedder(model_path):
    return SentenceTransformersTextEmbedder(model=model_path, encode_kwargs={"task": "query", "prompt_name": "query"})


def document_embedder(model_path):
    return SentenceTransformersDocumentEmbedder(model=model_path, encode_kwargs={"prompt_name": "document"})


def embedders(model_path, query_model_path):
    queries, documents = text_embedder(model_path), document_embedder(model_path)

    def embed_documents(texts):
        embedded = documents.run(documents=[Document(content=text) for text in texts])
        return [document.embedding for document in embedded["documents"]]

    return lambda text: queries.run(text=text)["embedding"], embed_documents


def index(folder, base_model_path, documents):
    store = InMemoryDocumentStore()
    written = [Document(id=corpus_id, content=text) for corpus_id, text in documents.items()]
    store.write_documents(document_embedder(base_model_path).run(documents=written)["documents"])
    store.save_to_disk(str(Path(folder) / "store.json"))


def search(folder, model_path, queries, k):
    store = InMemoryDocumentStore.load_from_disk(str(Path(folder) / "store.json"))
    embedder = text_embedder(model_path)
    found = [store.embedding_retrieval(embedder.run(text=query)["embedding"], top_k=k) for query in queries]
    return [[(document.id, document.score) for document in row] for row in found]


def stored_vectors(folder):
    store = InMemoryDocumentStore.load_from_disk(str(Path(folder) / "store.json"))
    return {document.id: document.embedding for document in store.filter_documents()}
