"""One identity of a model: what changes its vectors changes it, what does not leaves it alone."""

from __future__ import annotations

import copy
import functools
import types

import check_identity as script
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.identity import identity_of


@pytest.fixture(autouse=True)
def unpatched(monkeypatch):
    # The script patches the library for a change that nothing shows; the patch goes with the test.
    monkeypatch.setattr(SentenceTransformer, "preprocess", SentenceTransformer.preprocess)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_every_change_of_the_script_is_noticed(tmp_path):
    """Without the cache, which the script itself goes through: each change has another fingerprint or key."""
    missed = []
    for number, change in enumerate(script.changes()):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = change.make(folder)
        before = identity_of(model)
        after = identity_of(change.apply(model, folder) or model)
        if change.shows == "key" and before == after:
            missed.append(change.name)
        if change.bound and before.difference(after) is None:
            missed.append(f"{change.name} (binding)")
    assert len(script.changes()) > 45 and not missed


@pytest.mark.parametrize("number", range(9))
def test_what_changes_no_vector_changes_no_fingerprint(number, tmp_path):
    _, make, apply = script.CONTROLS[number]
    model = make(tmp_path)
    before = model_fingerprint(model)
    assert model_fingerprint(apply(model, tmp_path) or model) == before
    assert len(script.CONTROLS) == 9


def test_a_cached_vector_of_another_model_is_never_returned():
    """The whole way through the cache, for one change of each kind; the script goes it for all of them."""
    names = ("truncation side in memory", "file of a foreign module", "a hook", "weights of one role")
    names += ("a method of the library",)
    chosen = [change for change in script.changes() if change.name in names]
    assert len(chosen) == len(names)
    for change in chosen:
        row = script.checked(change)
        assert row["largest_difference"] < script.TOLERANCE < row["effect"], row
        assert row["seen_by"] == row["expected"], row


def test_a_word_of_a_whitespace_tokenizer_counts(tmp_path):
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).numpy()

    def model(words):
        tokenizer = WhitespaceTokenizer(words, stop_words=set())
        return SentenceTransformer(modules=[WordEmbeddings(tokenizer, weights), Pooling(8, "mean")], device="cpu")

    first = model_fingerprint(model(["a", "b", "c", "d"]))
    assert first == model_fingerprint(model(["a", "b", "c", "d"]))
    assert first != model_fingerprint(model(["a", "b", "d", "c"]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_refused_in_words(tiny_model):
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"has \d+ quantised modules .* before quantize_dynamic"):
        identity_of(quantised)


class Held(Module):
    """A module that holds whatever the tests put into it."""

    config_keys: list[str] = []

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, features, **kwargs):
        return features

    def save(self, output_path, *args, **kwargs):
        pass


def power(value, exponent=2):
    return value**exponent


def loop():
    items: list = [1]
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        ([1, [2, (3,)]], [1, [2, (4,)]]),
        (b"x", b"y"),
        (functools.partial(power, exponent=2), functools.partial(power, exponent=3)),
        (lambda x: x + 1, lambda x: x + 2),
        (torch.float32, torch.float16),
        (types.SimpleNamespace(x=1), [types.SimpleNamespace(x=1)]),
        (loop(), [*loop(), 1]),
        (float("nan"), float("inf")),
        (None, 0),
    ],
)
def test_what_a_module_holds_counts_by_its_content(one, other, tiny_model):
    def of(held):
        return model_fingerprint(SentenceTransformer(modules=[*tiny_model, Held(held)], device="cpu"))

    assert of(one) == of(copy.deepcopy(one)) == of(one)
    assert of(one) != of(other)
