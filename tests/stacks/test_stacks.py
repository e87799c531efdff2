"""Classes for stacks, in the stacks themselves: what the base model embedded is searched with the adapter."""

import asyncio
import importlib
import sys

import numpy as np
import pytest
import run_recipe
import torch
from sentence_transformers import SentenceTransformer

from problems import ROOT
from st_adapter import QueryAdapter, save_pretrained
from st_adapter.stacks.check import DOCUMENTS, QUERIES

# Module of ours -> package, extra, recipe.
STACKS = {
    "chroma": ("chromadb", "chroma", "chroma_embedding_function"),
    "lancedb": ("lancedb", "lancedb", "lancedb_embedding_function"),
    "llama_index": ("llama_index", "llama-index", "llama_index_embedding"),
}


@pytest.mark.parametrize("module", STACKS)
def test_a_missing_stack_is_named_with_its_extra(module, monkeypatch):
    package, extra, _ = STACKS[module]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"st_adapter.stacks.{module}", raising=False)
    with pytest.raises(ImportError, match=rf'Run `pip install "st-adapter\[{extra}\]"`'):
        importlib.import_module(f"st_adapter.stacks.{module}")


@pytest.fixture(autouse=True)
def on_the_cpu_and_unheard(monkeypatch):
    monkeypatch.setenv("ANONYMIZED_TELEMETRY", "False")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def saved(tiny_model_path, tmp_path_factory):
    """A model whose adapter turns queries round."""
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save_pretrained(base, QueryAdapter.from_matrix(torch.eye(32).flip(0)), folder)


@pytest.fixture(params=STACKS)
def recipe(request):
    package, _, name = STACKS[request.param]
    pytest.importorskip(package)
    return run_recipe.load(ROOT / "docs" / "stacks" / "recipes" / f"{name}.py")


def test_queries_are_embedded_with_the_adapter_and_documents_without(recipe, saved, tiny_model):
    models = {"saved": {"model_path": str(saved), "query_model_path": str(saved)}}
    vectors, _ = run_recipe.embed(recipe, {"models": models, "queries": list(QUERIES), "documents": list(DOCUMENTS)})
    np.testing.assert_allclose(vectors["saved.queries"], tiny_model.encode_query(list(QUERIES))[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(vectors["saved.documents"], tiny_model.encode_document(list(DOCUMENTS)), atol=1e-6)


def test_a_store_of_the_base_model_is_searched_with_the_adapter(recipe, saved, tiny_model, tiny_model_path, tmp_path):
    documents = {f"d{number}": text for number, text in enumerate(dict.fromkeys(DOCUMENTS))}
    embeddings = tiny_model.encode_document(list(documents.values()))
    store = str(tmp_path / "store")
    recipe.index(store, str(tiny_model_path), documents)
    found = {
        name: [[corpus_id for corpus_id, _ in hits] for hits in recipe.search(store, str(path), list(QUERIES), 3)]
        for name, path in (("base", tiny_model_path), ("adapted", saved))
    }
    stored = recipe.stored_vectors(store)
    np.testing.assert_allclose([stored[corpus_id] for corpus_id in documents], embeddings, atol=1e-6)
    queries = tiny_model.encode_query(list(QUERIES))
    for name, expected in (("base", queries), ("adapted", queries[:, ::-1])):
        best = np.argsort(-(expected @ embeddings.T), axis=1)[:, :3]
        assert found[name] == [[f"d{row}" for row in rows] for rows in best.tolist()]
    assert found["base"] != found["adapted"]


# Chroma


@pytest.fixture
def chroma():
    pytest.importorskip("chromadb")
    module = importlib.import_module("st_adapter.stacks.chroma")
    module._model.cache_clear()
    return module


def test_a_collection_compares_as_the_model_does(chroma, tiny_model_path, tiny_dot_model_path):
    for path, space in ((tiny_model_path, "cosine"), (tiny_dot_model_path, "ip")):
        function = chroma.AdaptedEmbeddingFunction(str(path), device="cpu")
        assert function.default_space() == space
        assert space in function.supported_spaces()
    assert function.supported_spaces() == ["ip"]
    function(["a"])
    function.embed_query(["a"])
    assert chroma._model.cache_info().misses == 2  # one for each folder


def test_a_collection_of_dot_products_ranks_by_them(chroma, tiny_dot_model_path, tmp_path):
    chromadb = importlib.import_module("chromadb")
    model = SentenceTransformer(str(tiny_dot_model_path), device="cpu")
    collection = chromadb.PersistentClient(str(tmp_path)).create_collection(
        "documents", embedding_function=chroma.AdaptedEmbeddingFunction(str(tiny_dot_model_path), device="cpu")
    )
    collection.add(ids=[str(row) for row in range(len(DOCUMENTS))], documents=list(DOCUMENTS))
    scores = model.encode_query(list(QUERIES)) @ model.encode_document(list(DOCUMENTS)).T
    found = collection.query(query_texts=list(QUERIES), n_results=1)["distances"]
    np.testing.assert_allclose([1 - row[0] for row in found], scores.max(axis=1), rtol=1e-4)


def test_a_model_that_is_replaced_in_its_folder_is_opened_anew(chroma, tiny_model, tmp_path):
    folder = str(tmp_path / "model")
    save_pretrained(tiny_model, QueryAdapter.from_matrix(torch.eye(32)), folder)
    config = chroma.AdaptedEmbeddingFunction(folder, device="cpu").get_config()
    before = chroma.AdaptedEmbeddingFunction.build_from_config(config).embed_query(["a file"])
    save_pretrained(tiny_model, QueryAdapter.from_matrix(torch.eye(32).flip(0)), folder)
    after = chroma.AdaptedEmbeddingFunction.build_from_config(config).embed_query(["a file"])
    np.testing.assert_allclose(after[0], before[0][::-1], atol=1e-6)


def test_arguments_that_chroma_cannot_keep_are_refused(chroma):
    with pytest.raises(ValueError, match=r"The arguments \['prompts'\] are not all plain values"):
        chroma.AdaptedEmbeddingFunction("model", prompts={1, 2})


# LanceDB and LlamaIndex


def test_lancedb_warns_of_vectors_that_its_distance_ranks_otherwise(tiny_dot_model_path):
    pytest.importorskip("lancedb")
    function = importlib.import_module("st_adapter.stacks.lancedb").AdaptedEmbeddings.create(
        name=str(tiny_dot_model_path), device="cpu"
    )
    with pytest.warns(UserWarning, match=r"not of length 1 and it compares by 'dot'.*\.distance_type\('dot'\)"):
        assert function.ndims() == 32


def test_llama_index_warns_of_dot_products_and_embeds_while_others_wait(tiny_dot_model_path, saved, tiny_model):
    pytest.importorskip("llama_index")
    embedding = importlib.import_module("st_adapter.stacks.llama_index").AdaptedEmbedding
    with pytest.warns(UserWarning, match="compares by dot product, but LlamaIndex's own vector store compares by cos"):
        embedding(str(tiny_dot_model_path), device="cpu")
    opened = embedding(str(saved), device="cpu")
    query, text = asyncio.run(_both(opened, "a file"))
    np.testing.assert_allclose(query, tiny_model.encode_query("a file")[::-1], atol=1e-6)
    np.testing.assert_allclose(text, tiny_model.encode_document("a file"), atol=1e-6)


async def _both(embedding, text):
    return await embedding.aget_query_embedding(text), await embedding.aget_text_embedding(text)
