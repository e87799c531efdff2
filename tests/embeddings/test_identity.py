from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from st_adapter.embeddings.fingerprint import tensor_digests
from st_adapter.embeddings.identity import EncoderIdentity, identity_of
from st_adapter.embeddings.long_texts import are_cut
from st_adapter.embeddings.origin import origin_of
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import prompt_for
from st_adapter.embeddings.tolerance import is_normalized

BASE = EncoderIdentity("org/model", "a" * 40, "b" * 64, "float32", 384, "", True)


def test_a_model_is_described(tiny_prompt_model_path: Path) -> None:
    model = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    described = identity_of(model)
    assert replace(described, weights_sha256=None, fingerprint=None, probes=None) == EncoderIdentity(
        "tiny-prompt", None, None, "float32", 32, "query: ", normalized=True, max_seq_length=64
    )
    assert EncoderIdentity.from_dict(described.to_dict()) == described
    assert str(tiny_prompt_model_path.parent) not in str(described)
    assert len(str(described)) < 200 and described.probes not in repr(described)


def test_what_shapes_the_vectors_is_seen(tiny_model: SentenceTransformer, tiny_unnormalized_model_path: Path) -> None:
    described = identity_of(tiny_model)
    assert described.difference(identity_of(copy.deepcopy(tiny_model))) is None
    other = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu")
    assert "the same texts get other vectors" in (described.difference(identity_of(other)) or "")
    of_old = replace(described, probes=None, fingerprint=None)
    assert of_old.difference(identity_of(other)) == "only one of them normalizes"
    tiny_model.truncate_dim = 8
    assert described.difference(identity_of(tiny_model)) == "the dimensions differ"
    tiny_model.truncate_dim = None
    tiny_model.prompts["query"] = "q: "
    assert described.difference(identity_of(tiny_model)) == "the query prompts differ"
    with torch.no_grad():
        next(tiny_model.parameters())[0, 0] += 1e-3
    assert described.difference(identity_of(tiny_model)) == "the weights differ"


def test_the_hash_depends_on_values_alone(tiny_model: SentenceTransformer) -> None:
    before = identity_of(tiny_model).weights_sha256
    digests = [tensor_digests(tiny_model)[id(parameter)] for parameter in reversed(list(tiny_model.parameters()))]
    assert before == sha256("".join(sorted(digests)).encode()).hexdigest()
    assert identity_of(tiny_model.bfloat16()).weights_sha256 != before


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
        {**BASE.to_dict(), "dimension": True},
        {**BASE.to_dict(), "max_seq_length": 1.5},
    ],
)
def test_what_is_no_description_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="but the fields name, revision, .* of a base model are expected"):
        EncoderIdentity.from_dict(content)


@pytest.mark.parametrize("probes", ["not base64!", "AAAA", "AADAfw==" * 32])
def test_probes_that_are_none_are_refused(probes: str) -> None:
    with pytest.raises(ValueError, match="The probes of base_model are"):
        EncoderIdentity.from_dict({**BASE.to_dict(), "probes": probes})


def test_a_description_of_version_0_1_is_read() -> None:
    first = {name: value for name, value in BASE.to_dict().items() if value is not None}
    assert set(first) == {*BASE.facts()} - {"max_seq_length"}
    assert EncoderIdentity.from_dict(first) == BASE


def cls_pooling(model: SentenceTransformer) -> None:
    model[1] = Pooling(32, "cls")


def shorter(model: SentenceTransformer) -> None:
    model.max_seq_length = 8


def cut_on_the_left(model: SentenceTransformer) -> None:
    model.tokenizer.truncation_side = "left"


def with_a_hook(model: SentenceTransformer) -> None:
    model[1].register_forward_hook(lambda module, args, output: {**output, "sentence_embedding": args[0]["x"] * 2})
    model[0].register_forward_hook(
        lambda module, args, output: {**output, "x": torch.ones(len(output["input_ids"]), 32)}
    )


@pytest.mark.parametrize("change", [cls_pooling, shorter, cut_on_the_left, with_a_hook])
def test_the_same_weights_used_in_another_way_are_another_model(change, tiny_model: SentenceTransformer) -> None:
    described = identity_of(tiny_model)
    change(tiny_model)
    other = identity_of(tiny_model)
    assert other.weights_sha256 == described.weights_sha256
    assert described.difference(other) and other.difference(described)


def test_the_same_model_in_another_dtype_is_known_by_what_it_does(tiny_model: SentenceTransformer) -> None:
    described = identity_of(tiny_model)
    half = replace(identity_of(tiny_model.bfloat16()), name="another name")
    assert not described.comparable(half)
    assert described.difference(half) is None
    tiny_model[1] = Pooling(32, "cls")
    assert described.difference(identity_of(tiny_model)) is not None


def test_probes_keep_distances(tiny_model: SentenceTransformer) -> None:
    """What 32 numbers a text say of the distance of two models' vectors, against the vectors themselves."""
    before, vectors = identity_of(tiny_model), tiny_model.encode(CHECK_TEXTS, convert_to_tensor=True)
    tiny_model[1] = Pooling(32, "cls")
    after, others = identity_of(tiny_model), tiny_model.encode(CHECK_TEXTS, convert_to_tensor=True)
    distances = (vectors - others).norm(dim=1)
    projected = torch.from_numpy(before._probe_vectors() - after._probe_vectors())[: len(CHECK_TEXTS)].norm(dim=1)
    assert (projected / distances - 1).abs().max() < 0.5


def patched(monkeypatch, model):
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, *args, **kwargs: -encode(self, *args, **kwargs))


def written_behind_the_back(monkeypatch, model):
    """Without a trace in the tensor's version counter; the row of a character that no fixed text has."""
    row = model.tokenizer.convert_tokens_to_ids("|")
    model[0].model.embeddings.word_embeddings.weight.data[row] += 1


def moved_away(monkeypatch, model):
    model[0].model.config._name_or_path = "elsewhere/model"


@pytest.mark.parametrize("change", [patched, written_behind_the_back, moved_away])
def test_a_model_is_described_again_only_after_a_change(change, tiny_model, monkeypatch):
    before = identity_of(tiny_model)
    probed = []
    of_vectors = EncoderIdentity.probed
    monkeypatch.setattr(EncoderIdentity, "probed", lambda *args: probed.append(args) or of_vectors(*args))
    assert identity_of(tiny_model) is before and not probed
    change(monkeypatch, tiny_model)
    after = identity_of(tiny_model)
    assert len(probed) == 1 and after != before
    assert identity_of(tiny_model) is after


def test_a_text_without_tokens_does_not_make_a_model_unnormalized() -> None:
    unit = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))
    assert is_normalized(torch.cat([unit, torch.zeros(1, 8)]), torch.float32)
    assert not is_normalized(torch.cat([unit, torch.full((1, 8), 1e-3)]), torch.float32)
    assert not is_normalized(torch.zeros(2, 8), torch.float32)


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
    cut = are_cut(tiny_model, texts, "query")
    assert {text for text, is_cut in zip(texts, cut, strict=True) if is_cut} == slow
    assert are_cut(tiny_model, ["short"], "query") == [False] and are_cut(tiny_model, [], "query") == []


def test_a_model_that_reads_everything_has_no_long_texts():
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    assert are_cut(model, ["a " * 10_000], "document") is None
