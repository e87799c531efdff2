from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from st_adapter.base_model import BaseModel, count_long_texts, origin_of, prompt_for, weights_sha256

BASE = BaseModel("org/model", "a" * 40, "b" * 64, "float32", 384, "", True)


def test_a_model_is_described(tiny_prompt_model_path: Path) -> None:
    model = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    described = BaseModel.of(model)
    assert replace(described, weights_sha256=None) == BaseModel(
        "tiny-prompt", None, None, "float32", 32, "query: ", normalized=True
    )
    assert BaseModel.from_dict(described.to_dict()) == described
    assert str(tiny_prompt_model_path.parent) not in str(described)


def test_what_shapes_the_vectors_is_seen(tiny_model: SentenceTransformer, tiny_unnormalized_model_path: Path) -> None:
    described = BaseModel.of(tiny_model)
    assert described.difference(BaseModel.of(copy.deepcopy(tiny_model))) is None
    other = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu")
    assert described.difference(BaseModel.of(other)) == "only one of them normalizes"
    tiny_model.truncate_dim = 8
    assert described.difference(BaseModel.of(tiny_model)) == "the dimensions differ"
    tiny_model.truncate_dim = None
    tiny_model.prompts["query"] = "q: "
    assert described.difference(BaseModel.of(tiny_model)) == "the query prompts differ"
    with torch.no_grad():
        next(tiny_model.parameters())[0, 0] += 1e-3
    assert described.difference(BaseModel.of(tiny_model)) == "the weights differ"


def test_the_hash_depends_on_values_alone(tiny_model: SentenceTransformer) -> None:
    before = weights_sha256(tiny_model)
    tiny_model[0].other_name = tiny_model[0]._modules.pop("auto_model", None) or tiny_model[0]._modules.popitem()[1]
    assert weights_sha256(tiny_model) == before
    assert weights_sha256(tiny_model.bfloat16()) != before


def test_weights_in_another_dtype_are_told_by_name() -> None:
    half = replace(BASE, dtype="float16", weights_sha256="c" * 64)
    assert not BASE.comparable(half)
    assert BASE.difference(half) is None
    assert BASE.difference(replace(half, name="elsewhere/model")) is None
    assert BASE.difference(replace(half, name="org/other")) == "the names differ"


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {**BASE.to_dict(), "more": 1},
        {**BASE.to_dict(), "dimension": "384"},
        {**BASE.to_dict(), "name": None},
    ],
)
def test_what_is_no_description_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="but the fields name, revision, .* of a base model are expected"):
        BaseModel.from_dict(content)


def test_a_snapshot_in_a_hub_cache_is_known_by_its_hub_id(tiny_model_path: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(tiny_model_path, tmp_path / "models--org--tiny-model" / "snapshots" / commit)
    model = SentenceTransformer(str(snapshot), device="cpu")
    assert origin_of(model)[1:] == ("org/tiny-model", commit)


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({}, None, "", ""),
        ({"query": "q: ", "document": "d: "}, None, "q: ", "d: "),
        ({"query": "q: ", "passage": "p: "}, None, "q: ", "p: "),
        ({"other": "o: "}, "other", "o: ", "o: "),
        ({"query": None, "document": ""}, "query", "", ""),
    ],
)
def test_prompts_are_those_that_sentence_transformers_uses(
    prompts: dict, default: str | None, query: str, document: str, tiny_model: SentenceTransformer
) -> None:
    assert prompt_for("query", prompts, default) == query
    assert prompt_for("document", prompts, default) == document
    tiny_model.prompts, tiny_model.default_prompt_name = prompts, default
    assert (tiny_model.encode_query("x") == tiny_model.encode("x", prompt=query)).all()
    assert (tiny_model.encode_document("x") == tiny_model.encode("x", prompt=document)).all()


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_long_texts_are_counted_with_prompt_and_special_tokens(tiny_model, prompt):
    tiny_model.prompts = {"query": prompt, "document": ""}
    texts = ["file " * number for number in range(50, 70)] + ["x" * number for number in range(50, 70)] + ["file " * 69]
    # The slow way: every distinct text with its prompt, special tokens included.
    slow = {text for text in texts if len(tiny_model.tokenizer(prompt + text, verbose=False)["input_ids"]) > 64}
    assert 0 < len(slow) < len(texts)
    assert count_long_texts(tiny_model, texts, "query") == len(slow)
    assert count_long_texts(tiny_model, ["short"], "query") == 0


def test_a_model_that_reads_everything_has_no_long_texts():
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    assert count_long_texts(model, ["a " * 10_000], "document") is None
