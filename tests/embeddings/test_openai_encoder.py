"""Vectors of an OpenAI-compatible endpoint, asked for by the real client, of a server that fails in planted ways."""

from __future__ import annotations

import contextlib
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from elsewhere import embed_by_api, started_elsewhere
from openai_double import DIMENSION, MODEL, OpenAIServer, vector
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.openai_encoder import OpenAIEncoder
from st_adapter.embeddings.probe_texts import CHECK_TEXTS

openai = pytest.importorskip("openai")
TEXTS = ["a red car", "the blue house of glass", "a red car", "x"]


@pytest.fixture(scope="module")
def running():
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    running.reset()
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return running


def encoder_of(server, **options):
    return OpenAIEncoder(MODEL, server.url, **options)


@pytest.fixture
def impatient():
    """Makes an encoder that sends nothing again unless told so."""
    with contextlib.ExitStack() as clients:

        def make(url, **options):
            settings = {"timeout": 0.5, "max_retries": 0, **options}
            client = clients.enter_context(openai.OpenAI(api_key="no-key", base_url=url, **settings))
            return OpenAIEncoder(MODEL, client=client)

        yield make


def pairs(number):
    documents = [f"document {'very ' * (row % 9)}number {row}" for row in range(number)]
    return pd.DataFrame({"query": [f"which {row}" for row in range(number)], "document": documents})


def test_vectors_are_the_server_s_in_the_order_of_the_texts(server):
    encoder = encoder_of(server, batch_size=3)
    ours = encoder.encode_document(TEXTS)
    assert ours.dtype == torch.float32 and ours.shape == (4, DIMENSION)
    np.testing.assert_array_equal(ours.numpy(), [vector(text) for text in TEXTS])
    assert [body["input"] for body, _ in server.requests] == [TEXTS[:3], TEXTS[3:]]
    assert {body["encoding_format"] for body, _ in server.requests} == {"base64"}
    assert (encoder.similarity, encoder.dimension) == ("cosine", DIMENSION)


# Some servers number what they give out of order, and some know no base64.
def test_numbers_out_of_order_are_put_into_order(server):
    def as_numbers(data):
        return [{**item, "embedding": item["embedding"]} for item in reversed(data)]

    server.failures.append(("change", as_numbers))
    np.testing.assert_array_equal(encoder_of(server).encode_query(TEXTS).numpy(), [vector(text) for text in TEXTS])
    plain = [{"index": place, "embedding": vector(text).tolist()} for place, text in enumerate(TEXTS)]
    server.failures.append(("body", {"data": plain}))
    np.testing.assert_array_equal(encoder_of(server).encode_query(TEXTS).numpy(), [vector(text) for text in TEXTS])


def test_prompts_go_before_texts_and_dimensions_are_asked_for(server):
    encoder = encoder_of(server, query_prompt="query: ", document_prompt="text: ", dimensions=8)
    np.testing.assert_array_equal(encoder.encode_query(["x"]).numpy(), [vector("query: x", 8)])
    np.testing.assert_array_equal(encoder.encode_document(["x"]).numpy(), [vector("text: x", 8)])
    assert encoder.identity.query_prompt == "query: "
    plain = encoder_of(server)
    assert plain.identity.difference(encoder_of(server).identity) is None
    assert plain.identity.difference(encoder.identity) == "the dimensions differ"
    keys = [each.cache_key(plain.identity, role) for each in (plain, encoder) for role in ("query", "document")]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("failures", [[429], [500, 503, 429]])
def test_what_fails_for_a_while_is_asked_for_again(server, failures):
    server.failures.extend(("status", status) for status in failures)
    started = time.monotonic()
    assert encoder_of(server).encode_query(["x"]).shape == (1, DIMENSION)
    assert len(server.requests) == len(failures) + 1 and server.answered["x"] == 1
    assert time.monotonic() - started >= 1  # what Retry-After says


def test_slow_answers_are_not_waited_for(server, impatient):
    server.failures.append(("wait", 5))
    started = time.monotonic()
    assert impatient(server.url, max_retries=1).encode_query(["x"]).shape == (1, DIMENSION)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (("status", 429), ConnectionError, "letters at http.*v1 answered 429: Not now. That was after 0 retries"),
        (("status", 500), ConnectionError, "answered 500: Not now. .* what was answered so far is kept"),
        (
            ("status", 400),
            ValueError,
            "asked for 2 texts at once, the longest of 9 characters. .* lower batch_size",
        ),
        (("wait", 5), ConnectionError, "cannot be reached, also after 0 retries: Request timed out"),
        (("change", lambda data: data[:1]), ValueError, "gave 1 vectors for 2 texts"),
        (
            ("change", lambda data: [{**each, "index": 0} for each in data]),
            ValueError,
            r"numbered its vectors \[0, 0\]",
        ),
        (
            ("change", lambda data: [{**each, "embedding": each["embedding"][:5]} for each in data]),
            ValueError,
            "gave vectors of 5 dimensions, but 24 are expected",
        ),
        (
            ("change", lambda data: [{**each, "embedding": each["embedding"][each["index"] :]} for each in data]),
            ValueError,
            r"gave arrays of the shapes \[\(23,\), \(24,\)\]",
        ),
        (
            ("change", lambda data: [data[0], {**data[1], "embedding": data[1]["embedding"] * np.nan}]),
            ValueError,
            r"NaN or infinite values for 1 of 2 texts, the first: .*b longer!",
        ),
        (("body", "hello"), ValueError, "gave no list of vectors: .* most end in /v1"),
        (("body", {"data": []}), ValueError, "gave no list of vectors"),
        (("body", {"data": [{"index": 0, "embedding": "no"}]}), ValueError, "gave no list of vectors"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_said(server, impatient, failure, error, message):
    encoder = impatient(server.url)
    encoder.encode_query(["x"])
    server.failures.append(failure)
    with pytest.raises(error, match=message):
        encoder.encode_query(["a", "b longer!"])


def test_dimensions_that_the_server_does_not_know_are_noticed(server):
    server.failures.append(("body", {"data": [{"index": 0, "embedding": vector("x").tolist()}]}))
    with pytest.raises(ValueError, match="gave vectors of 24 dimensions, but 8 are expected"):
        encoder_of(server, dimensions=8).encode_query(["x"])


def test_no_server_and_no_such_model(server, impatient, unused_port):
    with pytest.raises(ConnectionError, match="cannot be reached, also after 0 retries: .*refused") as caught:
        impatient(f"http://me:secret@127.0.0.1:{unused_port}/v1").encode_query(["x"])
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="answered 404: The model `other` does not exist"):
        OpenAIEncoder("other", server.url).encode_query(["x"])


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "euclidean"}, "similarity is 'euclidean'"),
        ({"batch_size": 0}, "batch_size is 0, but has to be a whole number of at least 1"),
        ({"dimensions": 0}, "dimensions is 0, but has to be at least 1"),
        ({"client": object()}, "Both base_url and client came"),
    ],
)
def test_settings_out_of_range(server, options, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(server, **options)


def test_the_hosted_api_wants_a_key(server):
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set, .* pass the base_url of a server of your own"):
        OpenAIEncoder(MODEL)


def test_without_the_client_the_error_names_the_extra(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r'pip install "st-adapter\[openai\]"'):
        encoder_of(server)


def test_a_key_is_sent_and_never_shown(server, monkeypatch):
    server.key = "right-key-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-0123456789")
    encoder = encoder_of(server)
    with pytest.raises(ValueError, match="401: Incorrect API key provided: .* OPENAI_API_KEY to a key") as caught:
        encoder.encode_query(["x"])
    assert "wrong-key" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__suppress_context__
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    encoder = encoder_of(server)
    assert encoder.encode_query(["x"]).shape == (1, DIMENSION)
    assert server.key not in repr(encoder) + str(encoder.identity) + encoder.cache_key(encoder.identity, "query")


def test_a_name_that_is_a_path_stays_where_it_is(server):
    encoder = encoder_of(server)
    encoder.encode_query = encoder.encode_document = lambda texts: torch.eye(len(texts))
    encoder.name = "/models/of/somebody/bge-small"
    assert encoder.identity.name == "bge-small"


def test_a_second_run_asks_for_fixed_texts_alone(server, tmp_path):
    dataset = RetrievalDataset.load(pairs(70))
    first = embed(encoder_of(server), dataset, cache_dir=tmp_path, show_progress_bar=False)
    texts = [*dataset.queries["text"], *dataset.corpus["text"]]
    assert all(server.answered[text] == 1 for text in texts) and len(server.answered) == 140 + len(CHECK_TEXTS)
    again = embed(encoder_of(server, batch_size=5), dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert torch.equal(again.query_embeddings, first.query_embeddings)
    assert all(server.answered[text] == 1 for text in texts)
    np.testing.assert_array_equal(first.corpus.embeddings.numpy(), [vector(text) for text in dataset.corpus["text"]])
    # What was written ahead is part of whole shards: one of the fixed texts, one of the data, for each role.
    assert len(list(tmp_path.rglob("*.arrow"))) == 4 and not list(tmp_path.rglob("*.part"))


def test_another_model_under_the_same_name_is_noticed(server, tmp_path):
    dataset = RetrievalDataset.load(pairs(20))
    embed(encoder_of(server), dataset, cache_dir=tmp_path, show_progress_bar=False)

    def turned(data):
        return [{**item, "embedding": item["embedding"][::-1]} for item in data]

    server.failures.extend([("change", turned)] * 20)
    with pytest.warns(UserWarning, match="vectors of another model that cannot be told from this one"):
        embedded = embed(encoder_of(server), dataset, cache_dir=tmp_path, show_progress_bar=False)
    np.testing.assert_array_equal(embedded.query_embeddings[0].numpy(), vector(dataset.queries["text"][0])[::-1])


# The server answers so many texts and then no more; what it has answered by then must be on disk.
@pytest.mark.parametrize("killed_after", [65, 125])
def test_a_killed_run_goes_on_without_asking_for_a_text_twice(server, killed_after, tmp_path):
    table = pairs(100)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    cache = tmp_path / "cache"
    server.hold_after = killed_after
    words = (server.url, MODEL, "some-key-0123456789", tmp_path / "pairs.csv", cache)
    process = started_elsewhere(embed_by_api, *words)
    try:
        assert server.held.wait(60)
    finally:
        process.kill()
        process.join()
    assert server.left.wait(60)
    server.hold_after = None
    texts = {*table["query"], *table["document"]}
    assert killed_after // 2 < len(texts & server.answered.keys()) < 200
    dataset = RetrievalDataset.load(table)
    embedded = embed(encoder_of(server, batch_size=10), dataset, cache_dir=cache, show_progress_bar=False)
    assert {text: server.answered[text] for text in texts if server.answered[text] != 1} == {}
    np.testing.assert_array_equal(embedded.corpus.embeddings.numpy(), [vector(text) for text in dataset.corpus["text"]])
    assert not [path for path in cache.rglob("*") if path.is_file() and b"some-key" in path.read_bytes()]
