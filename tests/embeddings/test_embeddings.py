"""Embeddings against stock encode; the cache against changed models, killed runs and broken files."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module

from problems import corpus_of, qrels_of, split_of
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings import cache
from st_adapter.embeddings import embedding as embeddings
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.embeddings.probe_texts import sample_of_texts

WORDS = ["red", "green", "blue", "round", "square", "old", "new", "fast", "slow", "warm"]


def make_dataset(num_documents=12):
    texts = [
        f"{WORDS[i % 10]} {WORDS[(i * 7 + 3) % 10]} {WORDS[(i // 3) % 10]} number {i}" for i in range(num_documents)
    ]
    queries = [f"which one is {text}" for text in texts[:6]]
    return RetrievalDataset(
        queries=Dataset.from_dict({"id": [f"q{i}" for i in range(6)], "text": queries}),
        corpus=Dataset.from_dict({"id": [f"d{i}" for i in range(num_documents)], "text": texts}),
        qrels={
            "train": Dataset.from_dict(
                {"query_id": ["q3", "q0", "q0"], "corpus_id": ["d3", "d0", "d5"], "relevance": [1.0, 2.0, 0.0]}
            ),
            "dev": Dataset.from_dict({"query_id": ["q4"], "corpus_id": ["d4"], "relevance": [1.0]}),
        },
    )


def filling(monkeypatch):
    """Count the texts that are embedded for the cache."""
    seen = []
    fill = embeddings._fill
    monkeypatch.setattr(embeddings, "_fill", lambda *arguments: seen.extend(arguments[3]) or fill(*arguments))
    return seen


def test_equal_to_stock_encoding_with_prompts(tiny_prompt_model_path, tmp_path):
    model = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    dataset = make_dataset()
    embedded = embed(model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    queries = model.encode_query(list(dataset.queries["text"]), convert_to_tensor=True)
    documents = model.encode_document(list(dataset.corpus["text"]), convert_to_tensor=True)
    torch.testing.assert_close(embedded.query_embeddings, queries, atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded.corpus.embeddings, documents, atol=1e-6, rtol=0)
    assert embedded.similarity == "cosine" and embedded.normalized
    plain = model.encode(list(dataset.queries["text"]), convert_to_tensor=True)
    assert (embedded.query_embeddings - plain).abs().max() > 1e-3, "the query prompt must reach the model"


def test_a_split_holds_its_own_queries_and_the_whole_corpus(tiny_model, tmp_path):
    embedded = embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    train = embedded["train"]
    assert train.query_ids == ["q0", "q3"] and train.num_pairs == 2
    pairs = zip(*(part.tolist() for part in train.qrels), strict=True)
    assert {(train.query_ids[q], train.corpus.ids[c], r) for q, c, r in pairs} == {
        ("q3", "d3", 1.0),
        ("q0", "d0", 2.0),
        ("q0", "d5", 0.0),
    }
    assert torch.equal(train.query_embeddings, embedded.query_embeddings[[0, 3]])
    assert train.corpus is embedded["dev"].corpus is embedded.corpus
    with pytest.raises(ValueError, match=r"There is no split 'test'; this data set has \['train', 'dev'\]"):
        embedded["test"]


def test_a_second_run_embeds_nothing(tiny_model, tmp_path, monkeypatch):
    first = embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    seen = filling(monkeypatch)
    again = embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    assert seen == []
    assert torch.equal(first.query_embeddings, again.query_embeddings)
    assert torch.equal(first.corpus.embeddings, again.corpus.embeddings)


def test_only_new_texts_are_embedded_and_each_distinct_text_once(tiny_model, tmp_path, monkeypatch):
    embed(tiny_model, make_dataset(10), cache_dir=tmp_path, show_progress_bar=False)
    seen = filling(monkeypatch)
    embed(tiny_model, make_dataset(12), cache_dir=tmp_path, show_progress_bar=False)
    assert sorted(seen) == sorted(make_dataset(12).corpus["text"][10:])


def test_a_killed_run_goes_on_after_its_last_finished_shard(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_SHARD_TEXTS", 4)
    monkeypatch.setattr(embeddings, "_CHUNK_TEXTS", 2)
    dataset = make_dataset()
    documents = set(dataset.corpus["text"])
    encode = type(tiny_model).encode_document
    calls = []

    def killed(self, texts, **kwargs):
        calls.extend(texts[:1] if texts[0] in documents else [])
        if len(calls) == 4:  # two chunks make a shard: the second shard is half done
            raise KeyboardInterrupt
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(type(tiny_model), "encode_document", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    monkeypatch.setattr(type(tiny_model), "encode_document", encode)
    seen = filling(monkeypatch)
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert len(seen) == 12 - 4, "the queries and the first shard of four documents were finished"
    documents = tiny_model.encode_document(list(dataset.corpus["text"]), convert_to_tensor=True)
    torch.testing.assert_close(embedded.corpus.embeddings, documents, atol=1e-6, rtol=0)
    assert not list(tmp_path.rglob("*.part"))


def reads_backwards(monkeypatch, model):
    """A change that nothing shows but the vectors: a method of the library does something else for this model."""
    encode = SentenceTransformer.encode_document

    def patched(self, texts, *args, **kwargs):
        return encode(self, [text[::-1] for text in texts] if self is model else texts, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode_document", patched)


def test_vectors_of_a_model_that_only_looks_the_same_are_not_used(tiny_model, tmp_path, monkeypatch):
    dataset = make_dataset()
    first = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    with monkeypatch.context() as patch:
        reads_backwards(patch, tiny_model)
        with pytest.warns(UserWarning, match=r"vectors of another model .* of 12 document texts embedded again"):
            other = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
        expected = tiny_model.encode_document(list(dataset.corpus["text"]), convert_to_tensor=True)
        torch.testing.assert_close(other.corpus.embeddings, expected, atol=1e-6, rtol=0)
        assert torch.equal(other.query_embeddings, first.query_embeddings)
        seen = filling(patch)
        with pytest.warns(UserWarning, match="vectors of another model"):
            embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
        assert seen == [], "each of the two has a place of its own"
    seen = filling(monkeypatch)
    again = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert seen == [] and torch.equal(again.corpus.embeddings, first.corpus.embeddings)


def test_a_model_whose_vectors_depend_on_their_company_keeps_its_cache_and_says_so(tiny_model, tmp_path, monkeypatch):
    tiny_model.tokenizer.padding_side = "left"
    embed(tiny_model, make_dataset(40), cache_dir=tmp_path, show_progress_bar=False)
    seen = filling(monkeypatch)
    with pytest.warns(UserWarning, match="another vector when other texts share its batch"):
        embed(tiny_model, make_dataset(40), cache_dir=tmp_path, show_progress_bar=False)
    assert seen == []


def test_a_text_has_one_vector_in_each_role(tiny_model, tmp_path):
    """A base that reads ``task`` embeds a text in one way as a query and in another as a document."""
    shifts = {"query": 1, "document": 2}

    class Task(Module):
        config_keys: list = []
        forward_kwargs = {"task"}

        def forward(self, features, task=None, **kwargs):
            features["sentence_embedding"] = features["sentence_embedding"].roll(shifts[task], dims=1)
            return features

        def save(self, output_path, *args, **kwargs):
            pass

    model = SentenceTransformer(modules=[*tiny_model, Task()], device="cpu")
    dataset = make_dataset()
    texts = {"id": [f"s{i}" for i in range(6)], "text": list(dataset.queries["text"])}
    dataset = replace(dataset, corpus=concatenate_datasets([dataset.corpus, Dataset.from_dict(texts)]))
    embedded = embed(model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    queries = model.encode_query(list(dataset.queries["text"]), convert_to_tensor=True)
    documents = model.encode_document(list(dataset.corpus["text"]), convert_to_tensor=True)
    torch.testing.assert_close(embedded.query_embeddings, queries, atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded.corpus.embeddings, documents, atol=1e-6, rtol=0)
    assert (queries - documents[-6:]).abs().max() > 0.1


def test_a_backend_whose_weights_cannot_be_read_is_refused(tiny_model, tmp_path):
    tiny_model.backend = "onnx"
    with pytest.raises(ValueError, match="runs on the 'onnx' backend.*backend='torch'"):
        embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)


def test_a_sample_holds_the_longest_and_the_shortest_text():
    texts = [f"text {'x' * (number % 7)} {number}" for number in range(100)]
    longest, shortest = max(texts, key=len), min(texts, key=len)
    sample = sample_of_texts([*texts, *texts], 8)
    assert len(set(sample)) == len(sample) == 8 and sample[0] == longest and len(sample[-1]) == len(shortest)
    assert sample == sample_of_texts(texts, 8)
    assert sample_of_texts(["b", "aa", "b"], 8) == ["aa", "b"] and sample_of_texts([], 8) == []


def changed_weight(model):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3


def changed_length(model):
    model.max_seq_length = 3


def changed_prompt(model):
    model.prompts = {"query": "find: ", "document": "text: "}


def changed_dtype(model):
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [changed_weight, changed_length, changed_prompt, changed_dtype])
def test_a_changed_model_never_meets_an_old_vector(tiny_model, tmp_path, monkeypatch, change):
    dataset = make_dataset()
    embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    change(tiny_model)
    seen = filling(monkeypatch)
    embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert len(seen) == len(dataset.queries) + len(dataset.corpus)


def test_the_fingerprint_does_not_depend_on_where_a_model_lies(tiny_model_path, tiny_model, tmp_path):
    tiny_model.save(str(tmp_path / "copy"), create_model_card=False)
    elsewhere = SentenceTransformer(str(tmp_path / "copy"), device="cpu")
    assert model_fingerprint(elsewhere) == model_fingerprint(tiny_model)
    changed = copy.deepcopy(tiny_model)
    changed_weight(changed)
    assert model_fingerprint(changed) != model_fingerprint(tiny_model)


def test_vectors_that_are_not_unit_are_normalised_on_the_corpus_side_only(tiny_unnormalized_model_path, tmp_path):
    model = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu")
    dataset = make_dataset()
    embedded = embed(model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert not embedded.normalized
    torch.testing.assert_close(embedded.corpus.embeddings.norm(dim=1), torch.ones(len(dataset.corpus)))
    queries = model.encode_query(list(dataset.queries["text"]), convert_to_tensor=True)
    torch.testing.assert_close(embedded.query_embeddings, queries, atol=1e-5, rtol=1e-5)


def test_bf16_on_request(tiny_model, tmp_path):
    dataset = make_dataset()
    full = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    half = embed(tiny_model, dataset, cache_dir=tmp_path, precision="bf16", show_progress_bar=False)
    assert half.corpus.embeddings.dtype == torch.float32
    difference = (full.corpus.embeddings - half.corpus.embeddings).abs().max()
    assert 0 < difference < 0.05


def test_an_unreadable_shard_is_named(tiny_model, tmp_path):
    embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    shard = next(tmp_path.rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{shard.name} cannot be read as vectors of \d+ dimensions"):
        embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)


def test_a_cache_of_another_dimension_is_refused(tiny_model, tmp_path):
    embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    folder = next(tmp_path.rglob("*.arrow")).parent
    with pytest.raises(ValueError, match=r"cannot be read as vectors of 7 dimensions"):
        cache.VectorCache(folder, 7)


def test_nan_from_the_model_is_reported_and_not_cached(tiny_model, tmp_path):
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"NaN or infinite values for 6 texts, the first: \['which one is"):
        embed(tiny_model, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    assert not list(tmp_path.rglob("*.arrow"))


def test_distances_are_refused(tiny_model, tmp_path):
    tiny_model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match=r"compares by 'euclidean'"):
        embed(tiny_model, make_dataset(), cache_dir=tmp_path)


def test_truncated_vectors_are_those_of_the_model_and_share_no_cache_with_whole_ones(tiny_model_path, tmp_path):
    whole = SentenceTransformer(str(tiny_model_path), device="cpu")
    truncated = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=8)
    dataset = make_dataset()
    assert embed(whole, dataset, cache_dir=tmp_path)["train"].dimension == 32
    embedded = embed(truncated, dataset, cache_dir=tmp_path)
    torch.testing.assert_close(
        embedded.query_embeddings, truncated.encode_query(list(dataset.queries["text"]), convert_to_tensor=True)
    )
    assert embedded["train"].dimension == 8 and not embedded.normalized
    assert embedded.base_model == identity_of(truncated)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(
        ValueError, match=r"2 rows of corpus_embeddings hold NaN or infinite values, the first: \['d0', 'd2'\]"
    ):
        split_of(torch.eye(3), torch.from_numpy(np.diag([np.nan, 1, np.inf]).astype(np.float32)))
    with pytest.raises(ValueError, match=r"have 2 dimensions, but corpus_embeddings have 3"):
        split_of(torch.eye(2), torch.eye(3))
    with pytest.raises(ValueError, match=r"point to corpus rows outside 0..1"):
        split_of(torch.eye(2), torch.eye(2), [(0, 2, 1.0)])
    with pytest.raises(ValueError, match=r"query_embeddings have shape \(4,\), but there are 4 ids"):
        split_of(torch.ones(4), torch.eye(2))


def dataset_of(**changes):
    fields = {
        "query_ids": ["q0", "q1"],
        "query_embeddings": torch.eye(2),
        "corpus": corpus_of(torch.ones(3, 2)),
        "qrels": {"dev": qrels_of([(1, 2, 1.0)])},
        "normalized": True,
    }
    return EmbeddedDataset(**{**fields, **changes})


def test_a_data_set_is_looked_at_when_it_is_made():
    assert dataset_of()["dev"].query_ids == ["q1"]

    def judged(query, document, relevance):
        return {"qrels": {"dev": EmbeddedQrels(*(torch.tensor(one) for one in (query, document, relevance)))}}

    for changes, message in (
        ({"query_embeddings": torch.ones(1, 2)}, r"query_embeddings have shape \(1, 2\), but there are 2 ids"),
        ({"corpus": corpus_of(torch.ones(3, 4))}, r"have 2 dimensions, but corpus_embeddings have 4"),
        (judged([2], [0], [1.0]), r"judgements of 'dev' point to query rows outside 0..1"),
        (judged([0], [-1], [1.0]), r"judgements of 'dev' point to corpus rows outside 0..2"),
        (judged([0, 1], [0], [1.0]), r"of the shapes \[\(2,\), \(1,\), \(1,\)\]"),
        (judged([0], [0], [torch.inf]), r"a relevance that is NaN or infinite"),
        ({"own_copies": OwnCopies(torch.tensor([0]), torch.tensor([3]))}, r"own copies point to corpus rows outside"),
        (
            {"own_copies": OwnCopies(torch.tensor([0]), torch.tensor([1, 2]))},
            r"indices of the shapes \(1,\) and \(2,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            dataset_of(**changes)
