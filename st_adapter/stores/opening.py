"""From the address of a vector database to the opened store."""

from __future__ import annotations

from importlib import import_module

from st_adapter.stores.store import Address, Store

_FIELDS = ("id", "vector", "text")
# Scheme -> module, class and the options that it heeds; a client is imported when its store is opened.
_STORES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "chroma": ("chroma", "ChromaStore", ()),
    "qdrant": ("qdrant", "QdrantStore", _FIELDS),
    "lancedb": ("lancedb", "LanceStore", _FIELDS),
    "postgresql": ("postgres", "PostgresStore", _FIELDS),
    "postgres": ("postgres", "PostgresStore", _FIELDS),
    "milvus": ("milvus", "MilvusStore", _FIELDS),
    "faiss": ("faiss", "FaissStore", ("ids",)),
    "elasticsearch": ("elasticsearch", "ElasticsearchStore", _FIELDS),
    "opensearch": ("opensearch", "OpenSearchStore", _FIELDS),
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
            ``id``, ``vector`` and ``text``, where they are not the usual ones: of FAISS the file of ``ids``, of Chroma
            nothing.

    Raises:
        ValueError: the scheme, the place, the collection, a field or an option does not exist.
        ConnectionError: a server cannot be reached.
        ImportError: the store's client is not installed.

    Examples:
        >>> import faiss, numpy
        >>> index = faiss.IndexFlatIP(2)
        >>> index.add(numpy.eye(2, dtype="float32"))
        >>> faiss.write_index(index, "docs.faiss")
        >>> numpy.savetxt("ids.txt", ["first", "second"], fmt="%s")
        >>> store = open_store("faiss:docs.faiss#?ids=ids.txt")
        >>> store.count, store.fetch(["second"]).vectors.tolist()
        (2, [[0.0, 1.0]])
    """
    parsed = Address.parse(address)
    if parsed.scheme not in _STORES:
        raise ValueError(f"There is no store {parsed.scheme!r}. Choose from {', '.join(sorted(_STORES))}.")
    module, name, options = _STORES[parsed.scheme]
    parsed.check_options(options)
    store: Store = getattr(import_module(f"st_adapter.stores.{module}"), name)(parsed)
    return store
