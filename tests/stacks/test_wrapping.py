"""What a stack embeds with, wrapped: real classes of the stacks around a toy model, queries adapted, documents not."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
import torch

from openai_double import DIMENSION, vector
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.saving.alone import save_adapter
from st_adapter.stacks import wrap

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
QUERY = "query: where is the car"
DOCUMENTS = ["the car is here", "a house", "the car is here"]


def numbers(text, seed=""):
    return [float(number) for number in vector(seed + text).astype(np.float64)]


@pytest.fixture(scope="module")
def adapter():
    """One that turns each vector somewhere else, bound to the toy model."""
    given = torch.tensor([numbers(text) for text in CHECK_TEXTS * 2])
    turn = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0)))[0]
    return QueryAdapter.from_matrix(turn, base_model=EncoderIdentity.probed("toy", given))


@pytest.fixture(scope="module")
def expected(adapter):
    """Of the query: what the matrix itself makes of its vector."""
    matrix = np.eye(DIMENSION) + adapter.delta.detach().numpy().astype(np.float64)
    return matrix @ np.array(numbers(QUERY))


def of_langchain(seed=""):
    embeddings = pytest.importorskip("langchain_core.embeddings")

    class Toy(embeddings.Embeddings):
        def embed_query(self, text):
            return numbers(text, seed)

        def embed_documents(self, texts):
            return [numbers(text, seed) for text in texts]

    return Toy()


def of_llama_index(seed="", **options):
    embeddings = pytest.importorskip("llama_index.core.embeddings")

    class Toy(embeddings.BaseEmbedding):
        def _get_query_embedding(self, query):
            return numbers(query, seed)

        async def _aget_query_embedding(self, query):
            return numbers(query, seed)

        def _get_text_embedding(self, text):
            return numbers(text, seed)

    return Toy(model_name="toy", embed_batch_size=2, **options)


def of_haystack(seed=""):
    haystack = pytest.importorskip("haystack")

    @haystack.component
    class Toy:
        def __init__(self):
            self.ready = False

        def warm_up(self):
            self.ready = True

        @haystack.component.output_types(embedding=list[float], meta=dict)
        def run(self, text: str):
            assert self.ready
            return {"embedding": numbers(text, seed), "meta": {"model": "toy"}}

    return Toy()


def of_chroma(seed=""):
    types = pytest.importorskip("chromadb.api.types")

    class Toy(types.EmbeddingFunction[types.Documents]):
        def __init__(self):
            pass

        def __call__(self, input):
            return [np.array(numbers(text, seed), dtype=np.float32) for text in input]

        @staticmethod
        def name():
            return "toy"

        def get_config(self):
            return {"seed": seed}

        @staticmethod
        def build_from_config(config):
            return of_chroma(config["seed"])

    return Toy()


STACKS = [of_langchain, of_llama_index, of_haystack, of_chroma]


def assert_close(ours, expected):
    np.testing.assert_allclose(np.asarray(ours, dtype=np.float64), expected, atol=1e-6)
    assert np.abs(np.asarray(ours) - numbers(QUERY)).max() > 0.1


def test_langchain(adapter, expected):
    plain = of_langchain()
    from langchain_core.vectorstores import InMemoryVectorStore

    wrapped = wrap(plain, adapter)
    assert_close(wrapped.embed_query(QUERY), expected)
    assert_close(asyncio.run(wrapped.aembed_query(QUERY)), expected)
    assert wrapped.embed_documents(DOCUMENTS) == plain.embed_documents(DOCUMENTS)
    assert asyncio.run(wrapped.aembed_documents(DOCUMENTS)) == plain.embed_documents(DOCUMENTS)
    store = InMemoryVectorStore(wrapped)
    store.add_texts(DOCUMENTS[:2])
    [(_, score)] = store.similarity_search_with_score(QUERY, k=1)
    assert score == pytest.approx(max(expected @ np.array(numbers(text)) for text in DOCUMENTS), abs=1e-6)


def test_llama_index(adapter, expected):
    plain = of_llama_index()
    wrapped = wrap(plain, adapter)
    assert_close(wrapped.get_query_embedding(QUERY), expected)
    assert_close(asyncio.run(wrapped.aget_query_embedding(QUERY)), expected)
    assert_close(wrapped.get_agg_embedding_from_queries([QUERY, QUERY]), expected)
    assert wrapped.get_text_embedding_batch(DOCUMENTS) == plain.get_text_embedding_batch(DOCUMENTS)
    assert wrapped.get_text_embedding(DOCUMENTS[0]) == plain.get_text_embedding(DOCUMENTS[0])
    assert asyncio.run(wrapped.aget_text_embedding_batch(DOCUMENTS)) == plain.get_text_embedding_batch(DOCUMENTS)
    assert asyncio.run(wrapped.aget_text_embedding(DOCUMENTS[1])) == plain.get_text_embedding(DOCUMENTS[1])
    assert (wrapped.model_name, wrapped.embed_batch_size) == ("toy", 2)


# Its cache knows a text, not whether it is a query.
def test_no_adapted_vector_gets_into_a_cache_of_llama_index(adapter, expected):
    kvstore = pytest.importorskip("llama_index.core.storage.kvstore")
    plain = of_llama_index(embeddings_cache=kvstore.SimpleKVStore())
    wrapped = wrap(plain, adapter)
    for _ in range(2):
        assert_close(wrapped.get_query_embedding(QUERY), expected)
        assert wrapped.get_text_embedding(QUERY) == plain.get_text_embedding(QUERY) == numbers(QUERY)


def test_haystack(adapter, expected):
    plain = of_haystack()
    wrapped = wrap(plain, adapter)
    answer = wrapped.run(text=QUERY)
    assert_close(answer["embedding"], expected)
    assert answer["meta"] == {"model": "toy"}
    assert_close(asyncio.run(wrapped.run_async(text=QUERY))["embedding"], expected)


def test_haystack_in_a_pipeline(adapter):
    haystack = pytest.importorskip("haystack")
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents([haystack.Document(content=text, embedding=numbers(text)) for text in DOCUMENTS[:2]])
    pipeline = haystack.Pipeline()
    # On its own a component may be in one pipeline, so the plain one is another.
    pipeline.add_component("embedder", wrap(of_haystack(), adapter))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    adapted = wrap(of_haystack(), adapter).run(text=QUERY)["embedding"]
    expected = sorted(DOCUMENTS[:2], key=lambda text: -np.dot(adapted, numbers(text)))
    assert [document.content for document in found] == expected


def test_what_embeds_documents_in_haystack_is_left_alone(adapter):
    haystack = pytest.importorskip("haystack")

    @haystack.component
    class OfDocuments:
        @haystack.component.output_types(documents=list)
        def run(self, documents: list):
            return {"documents": documents}

    with pytest.raises(ValueError, match="OfDocuments embeds no text .* leave this one as it is"):
        wrap(OfDocuments(), adapter)


def test_chroma(adapter, expected):
    plain = of_chroma()
    wrapped = wrap(plain, adapter)
    [ours] = wrapped.embed_query([QUERY])
    assert_close(ours, expected)
    for theirs, own in zip(wrapped(DOCUMENTS), plain(DOCUMENTS), strict=True):
        assert theirs.dtype == own.dtype and np.array_equal(theirs, own)


def test_a_collection_of_chroma_that_exists_is_searched_with_the_adapter(adapter, expected):
    chromadb = pytest.importorskip("chromadb")
    client = chromadb.EphemeralClient()
    plain = of_chroma()
    before = client.create_collection("wrapped", embedding_function=plain, configuration={"hnsw": {"space": "ip"}})
    before.add(ids=["0", "1"], documents=DOCUMENTS[:2])
    stored = before.get(include=["embeddings"])["embeddings"]
    collection = client.get_collection("wrapped", embedding_function=wrap(plain, adapter))
    [distances] = collection.query(query_texts=[QUERY], n_results=2)["distances"]
    by_hand = sorted(1 - expected @ np.array(numbers(text)) for text in DOCUMENTS[:2])
    np.testing.assert_allclose(distances, by_hand, atol=1e-5)
    assert np.array_equal(collection.get(include=["embeddings"])["embeddings"], stored)
    made = client.create_collection("made", embedding_function=wrap(plain, adapter))
    assert made.configuration_json["embedding_function"]["name"] == "toy"
    client.delete_collection("wrapped")
    client.delete_collection("made")


@pytest.mark.parametrize("of_stack", STACKS)
def test_another_model_is_refused(of_stack, adapter, tmp_path):
    other = of_stack("another ")
    with pytest.raises(ValueError, match="belongs to the base model 'toy' .* the same queries get other vectors"):
        wrap(other, save_adapter(adapter, tmp_path / "adapter"))
    with pytest.raises(ValueError, match="belongs to the base model 'toy'"):
        wrap(other, tmp_path)  # an output folder
    wrap(other, adapter, allow_other_base=True)
    wrap(other, QueryAdapter(DIMENSION))  # of which nobody knows what it belongs to
    with pytest.raises(ValueError, match="it gives 24 dimensions"):
        wrap(other, QueryAdapter(2, base_model=EncoderIdentity.probed("toy", torch.eye(2))))


def test_what_is_of_no_stack_is_refused(adapter):
    with pytest.raises(ValueError, match="is a builtins.dict, but LangChain's Embeddings, .* is expected"):
        wrap({}, adapter)
