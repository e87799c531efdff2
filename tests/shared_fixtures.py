"""Fixtures for all tests and docstrings' examples: tiny random models, and a Hub."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
import string
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import torch
from hypothesis import settings
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertForSequenceClassification, BertModel

import st_adapter
from hub_double.client import HubClient
from hub_double.server import HubServer
from st_adapter import EmbeddedDataset, QueryAdapter, RetrievalDataset, embed
from st_adapter.fitting import portfolio
from st_adapter.saving import save

pytest.register_assert_rewrite("problems")
# No test asserts a time. The same examples are tried every time; `--hypothesis-profile=default` draws new ones.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebooks first: the longest test of all, started last, would keep one worker alone waiting for it."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


def pytest_collection_finish() -> None:
    """Saving collects garbage; what the libraries hold since they were imported is never any, and takes a while."""
    gc.collect()
    gc.freeze()


_WORDS = "the a of in file read line number list string return sort open close value query document how what".split()
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


def _write_bert(folder: Path, num_layers: int = 2) -> None:
    """A BERT of few layers, 32 dimensions and random weights; its WordPiece knows some words and all ASCII letters."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_CHARACTERS, *(f"##{c}" for c in _CHARACTERS)]
    vocabulary += [word for word in _WORDS if word not in vocabulary]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        # Far above the usual 0.02: texts that share most of their letters still get clearly different embeddings.
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer_config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")


def _save_model(folder: Path, bert: Path, *, normalize: bool = True, **options: Any) -> Path:
    modules = [Transformer(str(bert)), Pooling(32, "mean"), *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def _bert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    _write_bert(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory, _bert_path: Path) -> Path:
    """Folder of a model of 32 dimensions and 64 tokens: BERT, mean pooling, Normalize. Do not write into it."""
    return _save_model(tmp_path_factory.mktemp("models") / "tiny", _bert_path)


@pytest.fixture(scope="session")
def tiny_flat_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without layers, only token embeddings and pooling: the time of an ONNX export grows with the layers."""
    folder = tmp_path_factory.mktemp("models")
    _write_bert(folder / "bert", num_layers=0)
    return _save_model(folder / "tiny-flat", folder / "bert")


@pytest.fixture(scope="session")
def tiny_prompt_model_path(tmp_path_factory: pytest.TempPathFactory, _bert_path: Path) -> Path:
    """The same with the prompts "query: " and "document: "."""
    prompts = {"query": "query: ", "document": "document: "}
    return _save_model(tmp_path_factory.mktemp("models") / "tiny-prompt", _bert_path, prompts=prompts)


@pytest.fixture(scope="session")
def tiny_unnormalized_model_path(tmp_path_factory: pytest.TempPathFactory, _bert_path: Path) -> Path:
    """The same without Normalize: vectors of length other than 1."""
    return _save_model(tmp_path_factory.mktemp("models") / "tiny-unnormalized", _bert_path, normalize=False)


@pytest.fixture(scope="session")
def tiny_dot_model_path(tmp_path_factory: pytest.TempPathFactory, _bert_path: Path) -> Path:
    """The same without Normalize, compared by dot product."""
    folder = tmp_path_factory.mktemp("models") / "tiny-dot"
    return _save_model(folder, _bert_path, normalize=False, similarity_fn_name="dot")


@pytest.fixture(scope="session")
def tiny_cross_encoder_path(tmp_path_factory: pytest.TempPathFactory, _bert_path: Path) -> Path:
    """Folder of a cross-encoder: a BERT of random weights that gives one score, in the form of plain transformers."""
    folder = tmp_path_factory.mktemp("models") / "tiny-cross-encoder"
    config = BertConfig.from_pretrained(_bert_path, num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(_bert_path / name, folder)
    return folder


@pytest.fixture
def tiny_model(tiny_model_path: Path) -> SentenceTransformer:
    """A fresh model from ``tiny_model_path`` on the CPU, free to be changed."""
    return SentenceTransformer(str(tiny_model_path), device="cpu")


@pytest.fixture(scope="session", autouse=True)
def whole_effort() -> Iterator[portfolio.Effort]:
    """What a fit tries; in tests its gradient runs take few steps, which is enough for tiny problems."""
    whole = portfolio._EFFORT
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(portfolio, "_EFFORT", whole._replace(checkpoints=(10, 30)))
        yield whole


@pytest.fixture(scope="session", autouse=True)
def _saved_in_no_time() -> Iterator[None]:
    """What takes most of the time of saving a tiny model, done once or not at all.

    Each card compiles the same template, and garbage is collected among all that the tests hold, for Windows's sake.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jinja2.Environment, "compile", functools.cache(jinja2.Environment.compile))
        if os.name != "nt":
            patched.setattr(save, "gc", types.SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="session")
def _hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def hub_server(_hub_server: HubServer) -> HubServer:
    """A Hub without repositories, of the users and tokens in hub_double/server.py. Tests of a module share it."""
    _hub_server.reset()
    return _hub_server


@pytest.fixture(scope="session")
def hub_client(_hub_server: HubServer) -> Iterator[HubClient]:
    """A process, the same for all tests, in which the real client uses ``hub_server``; each run has an empty cache."""
    with HubClient(_hub_server.url) as client:
        yield client


@pytest.fixture(scope="session")
def _example_data(tiny_flat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    things = [
        f"{word} {thing}" for word in ("red", "blue", "old", "new") for thing in ("car", "house", "river", "book")
    ]
    pairs = {"query": [f"where is the {thing}" for thing in things], "document": [f"{thing}, here" for thing in things]}
    dataset = RetrievalDataset.load(pd.DataFrame(pairs))
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    cache = tmp_path_factory.mktemp("cache")
    embedded: EmbeddedDataset = embed(model, dataset, cache_dir=cache, show_progress_bar=False)
    return {"dataset": dataset, "embedded": embedded}


@pytest.fixture(autouse=True)
def _names_of_examples(request: pytest.FixtureRequest) -> None:
    """What the examples in docstrings start from, each in a folder of its own; docs/api/index.md says what it is."""
    if isinstance(request.node, pytest.DoctestItem):
        names = request.getfixturevalue("doctest_namespace")
        names.update(request.getfixturevalue("_example_data"))
        if any("model" in example.source for example in request.node.dtest.examples):
            names["model"] = SentenceTransformer(str(request.getfixturevalue("tiny_flat_model_path")), device="cpu")
        names.update(adapter=QueryAdapter(32), st_adapter=st_adapter)
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
