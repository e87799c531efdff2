"""Elasticsearch and OpenSearch through their real clients, against a double of the servers."""

import base64
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from lucene_double.server import LuceneServer
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.stores import open_store

N, DIM = 150, 8
IDS = [f"d{number}" for number in range(N)]
TEXTS = [f"the text of {number}" for number in range(N)]
SECRET = "a-very-secret-key"


def unit_vectors():
    vectors = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit_vectors()
QUERIES = torch.nn.functional.normalize(torch.randn(20, DIM, generator=torch.Generator().manual_seed(1)))

ELASTIC = {"type": "dense_vector", "dims": DIM, "index": True, "similarity": "cosine"}
KNN = {
    "type": "knn_vector",
    "dimension": DIM,
    "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
}
# Who serves, since when, and how the vectors are mapped.
SERVERS = {
    "elasticsearch-9.1": ("elasticsearch", "9.1.4", "default", ELASTIC),
    "elasticsearch-9.2": ("elasticsearch", "9.2.0", "default", ELASTIC),
    "elasticsearch-serverless": ("elasticsearch", "9.5.0", "serverless", ELASTIC),
    "opensearch": ("opensearch", "3.2.0", "default", KNN),
}


def index(field, vectors=VECTORS, **settings):
    keyword = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    parts = {"properties": {"source_id": keyword, "number": {"type": "long"}, "words": {"type": "text"}}}
    nested = {"type": "nested", "properties": {"vector": field}}
    properties = {"vector": field, "text": {"type": "text"}, "metadata": parts, "parts": nested}
    documents = {
        one: {
            "vector": vector.tolist(),
            "text": text,
            "metadata": {"source_id": f"source {one}", "number": row, "words": one},
        }
        for row, (one, vector, text) in enumerate(zip(IDS, vectors, TEXTS, strict=True))
    }
    documents["no-vector"] = {"text": "a document without a vector"}
    return {"settings": settings, "mappings": {"properties": properties}, "documents": documents}


@pytest.fixture(scope="module")
def running():
    """Kind, version and flavor -> a server, started when it is asked for first."""
    started = {}
    with ExitStack() as stack:

        def server(*what):
            pytest.importorskip({"opensearch": "opensearchpy"}.get(what[0], what[0]))
            if what not in started:
                started[what] = stack.enter_context(LuceneServer(*what))
            started[what].reset()
            return started[what]

        yield server


@pytest.fixture(params=SERVERS)
def server(request, running, monkeypatch):
    for name in ("ELASTIC_API_KEY", "OPENSEARCH_USER", "OPENSEARCH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    *what, field = SERVERS[request.param]
    server = running(*what)
    server.field, server.address = field, f"{server.kind}:{server.url}#docs"
    server.indices["docs"] = index(field)
    return server


@pytest.fixture
def store(server):
    store = open_store(server.address)
    yield store
    store.close()


def test_everything_comes_back_once(store, server):
    assert (store.count, store.dimension, store.metric) == (N, DIM, "cosine")
    found = {}
    for rows in store.iterate(batch_size=64):
        assert len(rows.ids) <= 64 and rows.vectors.dtype == np.float32
        assert not set(rows.ids) & set(found)
        found.update(zip(rows.ids, zip(rows.vectors, rows.texts, strict=True), strict=True))
    assert sorted(found) == sorted(IDS) and sorted(store.ids()) == sorted(IDS)
    for row, one in enumerate(IDS):
        np.testing.assert_allclose(found[one][0], VECTORS[row], atol=1e-6)
        assert found[one][1] == TEXTS[row]
    assert server.num_open == 0, "what was opened for reading is closed"


def test_some_come_in_the_order_asked_for(store, monkeypatch):
    rows = store.fetch(["d7", "d3", "d149", "d7"])
    assert rows.ids == ["d7", "d3", "d149", "d7"]
    np.testing.assert_allclose(rows.vectors, VECTORS[[7, 3, 149, 7]], atol=1e-6)
    monkeypatch.setattr("st_adapter.stores.lucene._PAGE", 64)
    assert store.fetch(IDS * 2).ids == IDS * 2, "more than one request fetches"


def test_ids_that_are_not_there_are_counted_and_named(store):
    with pytest.raises(ValueError, match=r"no document for 4 of 5 ids, the first: \['x', \"it's\", 'no-vector'\]"):
        store.fetch(["d1", "x", "it's", "no-vector", "z"])


def test_a_search_finds_what_exact_search_finds(store):
    corpus = StoreCorpus(store, "cosine")
    found, exact = corpus.search(QUERIES, 5), MemoryCorpus(IDS, torch.from_numpy(VECTORS)).search(QUERIES, 5)
    names = [[corpus.ids[row] for row in line] for line in found.indices.tolist()]
    assert names == [[IDS[row] for row in line] for line in exact.indices.tolist()]
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    rows = torch.tensor([4, 0, 4])
    expected = torch.from_numpy(VECTORS)[[IDS.index(corpus.ids[row]) for row in rows.tolist()]]
    torch.testing.assert_close(corpus.rows(rows), expected)
    everything = corpus.search(QUERIES, 1000).indices
    assert everything.shape == (20, N) and (everything >= 0).all()


def test_more_than_a_server_gives_is_not_asked_for(store):
    assert len(store.search(VECTORS[:1], 20_000).ids[0]) == N
    assert len(list(store.iterate(batch_size=20_000))) == 1


MEASURES = [
    ("elasticsearch", {"similarity": "dot_product"}, {}, "dot"),
    ("elasticsearch", {"similarity": "max_inner_product"}, {}, "dot"),
    ("elasticsearch", {"similarity": "l2_norm"}, {}, "euclidean"),
    ("elasticsearch", {}, {}, "cosine"),
    ("opensearch", {"method": {"space_type": "innerproduct"}}, {}, "dot"),
    ("opensearch", {"space_type": "l2"}, {}, "euclidean"),
    ("opensearch", {"space_type": "cosinesimil"}, {}, "cosine"),
    ("opensearch", {}, {}, "euclidean"),
    ("opensearch", {"method": {"name": "hnsw"}}, {"index.knn.space_type": "cosinesimil"}, "cosine"),
]


@pytest.mark.parametrize(("kind", "measure", "settings", "metric"), MEASURES)
def test_each_measure_ranks_as_it_is_called(kind, measure, settings, metric, running):
    base = (
        {"type": "dense_vector", "dims": DIM} if kind == "elasticsearch" else {"type": "knn_vector", "dimension": DIM}
    )
    lengths = np.ones(N) if measure == {"similarity": "dot_product"} else np.linspace(0.5, 2, N)
    vectors = (VECTORS * lengths[:, None]).astype(np.float32)
    queries = 3 * QUERIES.numpy()
    oracle = {
        "cosine": queries @ VECTORS.T,
        "dot": queries @ vectors.T,
        "euclidean": -np.linalg.norm(queries[:, None] - vectors[None], axis=2),
    }[metric]
    server = running(*SERVERS["elasticsearch-9.2" if kind == "elasticsearch" else "opensearch"][:3])
    server.indices["docs"] = index({**base, **measure}, vectors, **settings)
    store = open_store(f"{kind}:{server.url}#docs")
    assert store.metric == metric
    found = store.search(queries, 7)
    store.close()
    assert found.ids == [[IDS[row] for row in line[:7]] for line in np.argsort(-oracle, axis=1)]


def test_nothing_but_reading_is_asked_for(store, server):
    corpus = StoreCorpus(store, "cosine")
    corpus.rows(torch.arange(len(corpus))), corpus.search(torch.eye(DIM), 3), corpus.texts(torch.arange(3))
    list(store.iterate())
    common = {"GET _mapping", "POST _count", "POST _search"}
    expected = {
        "elasticsearch": common | {"GET /", "POST _pit", "DELETE _pit"},
        "opensearch": common | {"POST _search/scroll", "DELETE _search/scroll"},
    }
    assert server.reads == expected[server.kind]


def test_ids_of_a_field(server):
    store = open_store(server.address + "?id=metadata.source_id&text=metadata.words")
    assert sorted(store.ids()) == sorted(f"source {one}" for one in IDS)
    rows = store.fetch(["source d3", "source d1"])
    np.testing.assert_allclose(rows.vectors, VECTORS[[3, 1]], atol=1e-6)
    assert (rows.ids, rows.texts) == (["source d3", "source d1"], ["d3", "d1"])
    assert store.search(VECTORS[5:6], 1).ids == [["source d5"]]
    store.close()
    store = open_store(server.address + "?id=metadata.number")
    assert store.fetch(["12", "3"]).ids == ["12", "3"]
    store.close()


def test_a_field_that_cannot_be_an_id(server):
    with pytest.raises(ValueError, match=r"cuts the values of 'metadata.words' into words.*field of type keyword"):
        open_store(server.address + "?id=metadata.words")
    del server.indices["docs"]["documents"]["d4"]["metadata"]
    store = open_store(server.address + "?id=metadata.number")
    with pytest.raises(ValueError, match=r"the document 'd4' with None in its field 'metadata.number', where one id"):
        store.ids()
    store.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?text=body", r"has no field 'body', only \['vector', 'text', 'metadata.source_id'"),
        ("?id=uuid", r"has no field 'uuid', only \['vector'.*with \?id=FIELD"),
        ("?vector=text", r"has no searchable field of float vectors 'text', only \['vector'\]"),
    ],
)
def test_fields_that_are_not_there(options, words, server):
    with pytest.raises(ValueError, match=words):
        open_store(server.address + options)


@pytest.mark.parametrize(
    ("elastic", "opensearch"),
    [
        ({"element_type": "byte"}, {"data_type": "byte"}),
        ({"index": False}, {"data_type": "binary"}),
        ({"type": "rank_vectors"}, {"type": "float"}),
    ],
)
def test_vectors_that_are_rounded_or_cannot_be_searched(elastic, opensearch, server):
    server.indices["docs"] = index(server.field | (elastic if server.kind == "elasticsearch" else opensearch))
    with pytest.raises(ValueError, match=r"has no searchable field of float vectors\. Name another"):
        open_store(server.address)


def test_a_measure_that_no_model_has(running):
    server = running(*SERVERS["opensearch"][:3])
    server.indices["docs"] = index({"type": "knn_vector", "dimension": DIM, "space_type": "l1"})
    store = open_store(f"opensearch:{server.url}#docs")
    with pytest.raises(ValueError, match="compares by l1, but an adapter needs cosinesimil, innerproduct, l2"):
        assert store.metric
    store.close()


def test_indices_that_are_not_there(server):
    server.indices[".system"] = index(server.field)
    place = server.address.partition("#")[0]
    for name in ("nope", "nope*"):
        with pytest.raises(ValueError, match=r"has no index 'nope\*?', only \['docs'\]. Name one of these after the #"):
            open_store(f"{place}#{name}")


def test_an_alias_names_one_index(server):
    server.indices["docs-2"] = index(server.field)
    server.aliases |= {"both": ["docs", "docs-2"], "one": ["docs-2"]}
    place = server.address.partition("#")[0]
    store = open_store(f"{place}#one")
    assert store.fetch(["d1"]).ids == ["d1"]
    store.close()
    with pytest.raises(ValueError, match=r"names 2 indices, the first: \['docs', 'docs-2'\]. Name one of them"):
        open_store(f"{place}#both")


def test_an_index_that_is_written_to_while_it_is_read(server):
    store, documents = open_store(server.address), server.indices["docs"]["documents"]
    reading = store.iterate(batch_size=50)
    read = list(next(reading).ids)
    for one in IDS[60:100]:
        del documents[one]
    read += [one for rows in reading for one in rows.ids]
    assert sorted(read) == sorted(IDS), "what is read is the state of one moment"
    assert store.count == N - 40
    with pytest.raises(ValueError, match=r"no document for 40 of 150 ids"):
        store.fetch(IDS)
    count = store._client.count
    store._client.count = lambda **given: {"count": count(**given)["count"] + 1}
    with pytest.raises(ValueError, match=r"held 111 documents when reading began and 110 were read, so it was changed"):
        store.ids()
    store.close()


def test_a_reading_that_was_left_too_long(server):
    store = open_store(server.address)
    reading = store.iterate(batch_size=50)
    next(reading)
    server.forget_contexts()
    with pytest.raises(ConnectionError, match=r"cannot be read: .*search_context_missing_exception"):
        next(reading)
    store.close()


def test_a_part_of_the_documents_is_not_taken_for_all(store, server):
    server.failing_shards = 1
    for asked in (store.ids, lambda: store.fetch(["d1"]), lambda: store.search(VECTORS[:1], 3), lambda: store.count):
        with pytest.raises(
            ConnectionError, match=r"answered in part: 1 shards failed, not out of time. Run again when"
        ):
            asked()


@pytest.mark.parametrize("mapping", [{"enabled": False}, {"excludes": ["vector"]}])
def test_vectors_that_are_not_kept(mapping, server):
    server.indices["docs"]["mappings"]["_source"] = mapping
    store = open_store(server.address)
    with pytest.raises(
        ValueError, match=r"does not give the vector of 'd1' out as numbers: the index keeps no _source"
    ):
        store.fetch(["d1"])
    store.close()


def test_vectors_in_base64(server):
    for source in server.indices["docs"]["documents"].values():
        if "vector" in source:
            source["vector"] = base64.b64encode(np.asarray(source["vector"], ">f4").tobytes()).decode()
    store = open_store(server.address)
    with pytest.raises(ValueError, match=r"as they were sent, in base64. Make an index that keeps them as numbers"):
        store.fetch(["d1"])
    store.close()


def test_key_or_password_come_from_the_environment_and_are_never_shown(server, monkeypatch):
    basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
    server.authorization = f"ApiKey {SECRET}" if server.kind == "elasticsearch" else f"Basic {basic}"
    names = ["ELASTIC_API_KEY"] if server.kind == "elasticsearch" else ["OPENSEARCH_USER", "OPENSEARCH_PASSWORD"]
    for name in names:
        monkeypatch.setenv(name, "me" if name == "OPENSEARCH_USER" else SECRET)
    store = open_store(server.address)
    assert store.fetch(["d1"]).ids == ["d1"] and SECRET not in store.address
    store.close()
    monkeypatch.setenv(names[-1], f"wrong-{SECRET}")
    with pytest.raises(ConnectionError, match=r"cannot be read: .*unable to authenticate with .*\*\*\*") as raised:
        open_store(server.address)
    assert SECRET not in str(raised.value)
    with pytest.raises(ValueError, match=r"names a user, but user, password and key are taken from the env") as raised:
        open_store(server.address.replace("http://", f"http://me:{SECRET}@"))
    assert SECRET not in str(raised.value)


def test_a_server_of_another_major_version(running):
    server = running("elasticsearch", "7.17.0", "default")
    server.indices["docs"] = index(ELASTIC)
    with pytest.raises(ConnectionError, match=r"media_type_header_exception.*client and server are of one major"):
        open_store(f"elasticsearch:{server.url}#docs")


@pytest.mark.parametrize(("kind", "module"), [("elasticsearch", "elasticsearch"), ("opensearch", "opensearchpy")])
def test_places_that_lead_nowhere(kind, module, monkeypatch, tmp_path):
    pytest.importorskip(module)
    with pytest.raises(ConnectionError, match=rf"{kind}:http://127.0.0.1:1#docs cannot be read: .*Start the server"):
        open_store(f"{kind}:http://127.0.0.1:1#docs")
    with pytest.raises(ValueError, match=rf"{kind}:folder is no server. Give its URL, like http://localhost:9200"):
        open_store(f"{kind}:folder#docs")
    with pytest.raises(ValueError, match="names no collection"):
        open_store(f"{kind}:http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'st-adapter\[{kind}\]'"):
        open_store(f"{kind}:{tmp_path}#docs")
