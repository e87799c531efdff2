"""Classes for stacks: what they say when their stack is missing. scripts/check_stacks.py uses them."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from st_adapter import QueryAdapter, save_pretrained


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("chroma", "chromadb", "chroma"),
        ("llama_index", "llama_index", "llama-index"),
        ("lancedb", "lancedb", "lancedb"),
    ],
)
def test_a_missing_stack_is_named_with_its_extra(module, package, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"st_adapter.stacks.{module}", raising=False)
    with pytest.raises(ImportError, match=rf'Run `pip install "st-adapter\[{extra}\]"`'):
        importlib.import_module(f"st_adapter.stacks.{module}")


@pytest.fixture
def chroma(monkeypatch):
    """st_adapter.stacks.chroma beside the few names of Chroma that it takes; check_stacks.py runs it with Chroma."""
    types, functions = ModuleType("chromadb.api.types"), ModuleType("chromadb.utils.embedding_functions")
    types.Documents = types.Embeddings = types.Space = list

    class EmbeddingFunction:
        def __class_getitem__(cls, item):
            return cls

    types.EmbeddingFunction = EmbeddingFunction
    functions.register_embedding_function = lambda function: function
    for module in (ModuleType("chromadb"), ModuleType("chromadb.api"), types, ModuleType("chromadb.utils"), functions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "st_adapter.stacks.chroma", raising=False)
    yield importlib.import_module("st_adapter.stacks.chroma")
    del sys.modules["st_adapter.stacks.chroma"]


def test_a_collection_compares_as_the_model_does(chroma, tiny_model, tmp_path):
    for similarity, space in (("cosine", "cosine"), ("dot", "ip")):
        tiny_model.similarity_fn_name = similarity
        tiny_model.save_pretrained(str(tmp_path / similarity))
        function = chroma.AdaptedEmbeddingFunction(str(tmp_path / similarity), device="cpu")
        assert function.default_space() == space
        assert space in function.supported_spaces()
    assert function.supported_spaces() == ["ip"]
    function(["a"])
    function.embed_query(["a"])
    assert chroma._model.cache_info().misses == 2  # one for each folder


def test_a_model_that_is_replaced_in_its_folder_is_opened_anew(chroma, tiny_model, tmp_path):
    folder = str(tmp_path / "model")
    save_pretrained(QueryAdapter.from_matrix(torch.eye(32)), tiny_model, folder)
    config = chroma.AdaptedEmbeddingFunction(folder, device="cpu").get_config()
    before = chroma.AdaptedEmbeddingFunction.build_from_config(config).embed_query(["a file"])
    save_pretrained(QueryAdapter.from_matrix(torch.eye(32).flip(0)), tiny_model, folder)
    after = chroma.AdaptedEmbeddingFunction.build_from_config(config).embed_query(["a file"])
    np.testing.assert_allclose(after[0], before[0][::-1], atol=1e-6)
