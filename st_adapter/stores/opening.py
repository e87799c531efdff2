"""From the address of a vector database to the opened store."""

from __future__ import annotations

from importlib import import_module

from st_adapter.stores.store import Address, Store

# Scheme -> module and class; a client is imported when its store is opened.
_STORES = {
    "chroma": ("chroma", "ChromaStore"),
    "qdrant": ("qdrant", "QdrantStore"),
    "lancedb": ("lancedb", "LanceStore"),
    "postgresql": ("postgres", "PostgresStore"),
    "postgres": ("postgres", "PostgresStore"),
    "milvus": ("milvus", "MilvusStore"),
    "faiss": ("faiss", "FaissStore"),
    "elasticsearch": ("elasticsearch", "ElasticsearchStore"),
    "opensearch": ("opensearch", "OpenSearchStore"),
}


def is_address(text: str) -> bool:
    """Whether a text is the address of a vector store, and no path or Hub id."""
    return text.partition(":")[0] in _STORES and ":" in text


def open_store(address: str) -> Store:
    """Open a collection of a vector database for reading.

    Args:
        address: ``chroma:FOLDER#COLLECTION``, ``qdrant:URL#COLLECTION``, ``lancedb:FOLDER#TABLE``,
            ``postgresql://USER@HOST/DATABASE#TABLE``, ``milvus:FILE#COLLECTION``, ``faiss:FILE``,
            ``elasticsearch:URL#INDEX`` or ``opensearch:URL#INDEX``; options after a ``?`` name the fields that hold
            ``id``, ``vector`` and ``text``, where they are not the usual ones.

    Raises:
        ValueError: the scheme, the place, the collection or a field does not exist.
        ConnectionError: a server cannot be reached.
        ImportError: the store's client is not installed.
    """
    parsed = Address.parse(address)
    if parsed.scheme not in _STORES:
        raise ValueError(f"There is no store {parsed.scheme!r}. Choose from {', '.join(sorted(_STORES))}.")
    module, name = _STORES[parsed.scheme]
    store: Store = getattr(import_module(f"st_adapter.stores.{module}"), name)(parsed)
    return store
