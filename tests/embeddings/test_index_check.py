"""Are stored vectors those of the model? Each planted fault is called by its name."""

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import checked_given
from st_adapter.embeddings.embedding import embed_texts
from st_adapter.embeddings.encoder import SentenceTransformerEncoder
from st_adapter.embeddings.index_check import compare_vectors
from st_adapter.errors import InputError

TEXTS = [f"{first} the {second} of a {third}" for first in ("open", "read", "sort", "close", "return") for second in
         ("file", "line", "list", "value", "number") for third in ("string", "document", "query")][:50]  # fmt: skip


@pytest.fixture(scope="module")
def model(tiny_flat_model_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    model.prompts = {"query": "what is ", "document": ""}
    return model


@pytest.fixture(scope="module")
def encoder(model):
    return SentenceTransformerEncoder(model)


@pytest.fixture(scope="module")
def stored(encoder):
    return encoder.encode_document(TEXTS).cpu().numpy()


FAULTS = {
    "same": lambda vectors: vectors + np.float32(1e-6),
    "rounded": lambda vectors: np.round(vectors * 90) / np.float32(90),
    "order": lambda vectors: np.roll(vectors, 7, axis=0),
    "truncated": lambda vectors: vectors[:, :24] / np.linalg.norm(vectors[:, :24], axis=1, keepdims=True),
    "other model": lambda vectors: np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32),
    "texts": lambda vectors: np.concatenate([np.roll(vectors[:20] * [[1] * 16 + [-1] * 16], 3, 1), vectors[20:]]),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_each_fault_has_its_name(cause, encoder, stored):
    found = compare_vectors(encoder, TEXTS, FAULTS[cause](stored).astype(np.float32))
    assert (found.cause, found.num_compared) == (cause, 50), found
    assert found.same == (cause in ("same", "rounded"))
    assert 0 <= found.median_distance <= found.largest_distance <= 2


def test_half_precision_is_the_same_model(encoder, stored):
    found = compare_vectors(encoder, TEXTS, stored.astype(np.float16).astype(np.float32))
    assert found.same and found.cause in ("same", "rounded")


def test_a_prompt_missing_and_a_prompt_too_much(model, encoder, stored):
    as_queries = encoder.encode_query(TEXTS).cpu().numpy()
    found = compare_vectors(encoder, TEXTS, as_queries)
    assert found.cause == "prompt" and not found.same and "with the prompt 'query' ('what is ')" in found.sentence
    found = compare_vectors(encoder, TEXTS, stored, role="query")
    assert found.cause == "prompt" and "without a prompt" in found.sentence and "--query-prompt" in found.sentence


def test_another_length_shows_in_the_long_texts(model, encoder):
    texts = [*TEXTS[:30], *(" ".join(TEXTS[n : n + 10]) for n in range(20))]
    length = model.max_seq_length
    model.max_seq_length = 16
    try:
        vectors = encoder.encode_document(texts).cpu().numpy()
    finally:
        model.max_seq_length = length
    found = compare_vectors(encoder, texts, vectors)
    assert found.cause == "length" and "--max-seq-length" in found.sentence


def test_a_length_that_hardly_any_text_keeps_to_is_found_by_trying(tiny_model):
    texts = [" ".join(TEXTS[n % 50 :] + TEXTS[: n % 50]) for n in range(50)]  # all longer than the model reads
    tiny_model.max_seq_length = 16
    vectors = _at_length(tiny_model, texts, 64)
    found = compare_vectors(SentenceTransformerEncoder(tiny_model), texts, vectors)
    assert (found.cause, found.same) == ("length", False) and "--max-seq-length 64" in found.sentence, found
    assert tiny_model.max_seq_length == 16, "the model is as it was"


def _at_length(model, texts, length):
    before, model.max_seq_length = model.max_seq_length, length
    try:
        return model.encode_document(texts)
    finally:
        model.max_seq_length = before


@pytest.mark.parametrize("prompt", ["passage: ", "search_document: "])
def test_usual_prompts_are_tried_though_the_model_names_none(prompt, tiny_model):
    tiny_model.prompts = {}
    vectors = tiny_model.encode(TEXTS, prompt=prompt)
    found = compare_vectors(SentenceTransformerEncoder(tiny_model), TEXTS, vectors)
    assert (found.cause, found.same) == ("prompt", False) and repr(prompt) in found.sentence, found


# One word of fifty moves a vector less than rounding may.
LONG = ["the " * 40 + text for text in TEXTS]


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_of_prompts_that_are_alike_the_right_one_is_named(name, tiny_flat_model_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    model.prompts = {"first": "a ", "second": "of ", "third": "read "}
    encoder = SentenceTransformerEncoder(model)
    vectors = model.encode(LONG, prompt_name=name)
    assert np.linalg.norm(vectors - encoder.encode_document(LONG).cpu().numpy(), axis=1).max() < 0.04
    found = compare_vectors(encoder, LONG, vectors)
    assert found.cause == "prompt" and not found.same and f"the prompt '{name}'" in found.sentence, found
    rounded = compare_vectors(encoder, LONG, np.round(encoder.encode_document(LONG).cpu().numpy() * 180) / 180)
    assert (rounded.cause, rounded.same) == ("rounded", True)


@pytest.mark.parametrize("prompts", [{}, {"query": "what is ", "document": ""}])
def test_a_few_texts_that_changed_are_no_other_prompt(prompts, tiny_model):
    tiny_model.prompts = prompts
    encoder = SentenceTransformerEncoder(tiny_model)
    vectors = encoder.encode_document(TEXTS).cpu().numpy()
    vectors[:3] = encoder.encode_document(["sort", "value", "how"]).cpu().numpy()
    found = compare_vectors(encoder, TEXTS, vectors)
    assert (found.cause, found.same) == ("texts", True) and found.sentence.startswith("3 of 50"), found


def test_another_real_model_of_as_many_dimensions(tiny_model, encoder):
    found = compare_vectors(encoder, TEXTS, tiny_model.encode_document(TEXTS))
    assert (found.cause, found.same) == ("other model", False)


def test_lengths_count_for_dot_products_only(model, encoder, stored, monkeypatch):
    assert compare_vectors(encoder, TEXTS, 3 * stored).same
    monkeypatch.setattr(model, "similarity_fn_name", "dot")
    found = compare_vectors(SentenceTransformerEncoder(model), TEXTS, 3 * stored)
    assert found.cause == "scaled" and not found.same and "3 times their length" in found.sentence


def test_input_that_does_not_fit(encoder, stored):
    with pytest.raises(ValueError, match="There are 50 texts and 49 vectors"):
        compare_vectors(encoder, TEXTS, stored[1:])


def data_with(vectors, **columns):
    corpus = pd.DataFrame({"id": [f"d{n}" for n in range(50)], "embedding": list(vectors), **columns})
    labels = pd.DataFrame({"query": [f"where is {text}" for text in TEXTS], "corpus_id": corpus["id"]})
    return RetrievalDataset.load(labels, corpus=corpus)


def test_a_data_set_is_checked_before_it_is_used(model, stored, tmp_path):
    def checked(dataset, **options):
        embedded = embed_texts(model, dataset, cache_dir=tmp_path, show_progress_bar=False)
        torch.testing.assert_close(embedded.corpus.embeddings, torch.from_numpy(dataset.corpus_embeddings))
        return checked_given(model, dataset, embedded, **options)

    good = checked(data_with(stored, text=TEXTS))
    assert good.notes[-1] == "Documents: 50 texts embedded again: the stored vectors are this model's."
    assert "it was not checked that they are this model's" in checked(data_with(stored)).notes[-1]
    wrong = data_with(np.roll(stored, 5, axis=0), text=TEXTS)
    with pytest.raises(
        InputError, match="of the documents cannot be used with this model. .* in another order"
    ) as raised:
        checked(wrong)
    assert "--allow-other-vectors" in raised.value.for_command_line
    assert "in another order" in checked(wrong, allow_other=True).notes[-1]
