"""Every mistake that a stack can make is planted once and found; what is right is left alone."""

import functools
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, attach, check_stack, cli, save_pretrained
from st_adapter.stacks.check import DOCUMENTS, QUERIES, load_function


def adapter_with(scale, dimension=32, **kwargs):
    adapter = QueryAdapter(dimension, **kwargs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return adapter


@pytest.fixture(scope="module")
def base(tiny_prompt_model_path):
    return SentenceTransformer(str(tiny_prompt_model_path), device="cpu")


@pytest.fixture(scope="module")
def adapter():
    return adapter_with(0.1)


@pytest.fixture(scope="module")
def model(base, adapter):
    return attach(base, adapter)


@pytest.fixture(scope="module")
def saved(base, adapter, tmp_path_factory):
    return save_pretrained(base, adapter, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def embed(base, adapter, model, tiny_unnormalized_model_path):
    """Each way of embedding, right or wrong, by name."""
    other = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu")
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)

    def twice(texts):
        return adapter.transform(torch.from_numpy(model.encode_query(texts))).detach()

    def unnormalized(texts):
        dense = model[-1].sub_modules["query"][0]
        with torch.inference_mode():
            vectors = {"sentence_embedding": base.encode_query(texts, convert_to_tensor=True)}
            return dense(vectors)["sentence_embedding"].numpy()

    def with_nan(texts):
        vectors = model.encode_query(texts)
        vectors[1, 3] = np.nan
        return vectors

    return {
        "query": model.encode_query,
        "document": model.encode_document,
        "plain": functools.partial(model.encode, prompt_name="query"),
        "adapted document": functools.partial(model.encode, task="query", prompt_name="document"),
        "twice": twice,
        "other model": other.encode,
        "unnormalized query": unnormalized,
        "unnormalized document": lambda texts: 3.0 * model.encode_document(texts),
        "truncated query": lambda texts: model.encode_query(texts, truncate_dim=16),
        "truncated document": lambda texts: model.encode_document(texts, truncate_dim=16, normalize_embeddings=True),
        "query without prompt": functools.partial(model.encode, task="query"),
        "document without prompt": model.encode,
        "document with the query's prompt": functools.partial(model.encode, prompt_name="query"),
        "reversed": lambda texts: model.encode_query(texts)[::-1],
        "sorted": lambda texts: model.encode_document(sorted(texts)),
        "sorted and adapted": lambda texts: model.encode(sorted(texts), task="query", prompt_name="document"),
        "constant": lambda texts: model.encode_query([texts[0]] * len(texts)),
        "mixed": lambda texts: np.vstack([base.encode_query(texts[:2]), model.encode_query(texts[2:])]),
        "NaN": with_nan,
        "zero": lambda texts: np.zeros((len(texts), 32), dtype=np.float32),
        "too few": lambda texts: model.encode_query(texts[1:]),
        "tokens": lambda texts: np.ones((len(texts), 7, 32)),
        "too wide": lambda texts: np.ones((len(texts), 33)),
    }


RIGHT_QUERY, RIGHT_DOCUMENT = "query", "document"
PLANTED = [
    (
        "plain",
        RIGHT_DOCUMENT,
        ["queries do not pass through the adapter"],
        "plain encode.*task='query'.*revision 'query'",
    ),
    (RIGHT_QUERY, "adapted document", ["documents pass through the adapter"], r"encode_document\(\)"),
    ("twice", RIGHT_DOCUMENT, ["queries pass through the adapter twice"], "apply it once"),
    ("other model", RIGHT_DOCUMENT, ["vectors of queries are none that this model can give"], "same base model"),
    (RIGHT_QUERY, "other model", ["vectors of documents are none that this model can give"], "same base model"),
    ("unnormalized query", RIGHT_DOCUMENT, ["not normalised"], "normalize_embeddings=True"),
    (RIGHT_QUERY, "unnormalized document", ["3 to 3 instead of 1: they are not normalised"], "Normalize module"),
    ("truncated query", RIGHT_DOCUMENT, ["queries are truncated to 16 of 32"], "truncate_dim"),
    (RIGHT_QUERY, "truncated document", ["documents are truncated to 16 of 32"], "truncate_dim"),
    (
        "plain",
        "adapted document",
        ["the models for queries and for documents are swapped"],
        "give the model for queries",
    ),
    (
        "query without prompt",
        RIGHT_DOCUMENT,
        ["queries are embedded without a prompt, .* with 'query: '"],
        "prompt_name",
    ),
    (RIGHT_QUERY, "document without prompt", ["documents are embedded without a prompt"], "prompt_name='document'"),
    (
        RIGHT_QUERY,
        "document with the query's prompt",
        ["documents are embedded with the prompt 'query: '"],
        "encode_doc",
    ),
    (
        "document",
        "document",
        ["queries do not pass", "queries are embedded with the prompt 'document: '"],
        "encode_query",
    ),
    (
        "query",
        "query",
        ["documents pass through", "documents are embedded with the prompt 'query: '"],
        "encode_document",
    ),
    (
        "document",
        "query",
        ["swapped", "queries are embedded with the prompt 'doc", "documents are embedded with the prompt 'query"],
        "give the model for queries",
    ),
    ("reversed", RIGHT_DOCUMENT, [r"another order than the texts .*\[4, 3, 2, 1, 0\]"], "sort by index"),
    (RIGHT_QUERY, "sorted", ["documents come in another order"], "sorting by length"),
    (RIGHT_QUERY, "sorted and adapted", ["another order", "documents pass through the adapter"], "sorting by length"),
    ("constant", RIGHT_DOCUMENT, ["different queries get the same vector"], "cache"),
    ("mixed", RIGHT_DOCUMENT, ["not embedded alike: base, base, adapted, adapted, adapted"], "empty the stack's cache"),
    ("NaN", RIGHT_DOCUMENT, [r"1 of 5 vectors of queries have NaN.*\(first: 1\)"], "float32"),
    (RIGHT_QUERY, "zero", ["5 of 5 vectors of documents have NaN, infinite or only zero"], "failed request"),
    ("too few", RIGHT_DOCUMENT, ["embed_query returned 4 vectors for 5 queries"], "one vector for each text"),
    (RIGHT_QUERY, "tokens", [r"embed_documents returned arrays of shape \(7, 32\)"], "sentence embeddings"),
    ("too wide", RIGHT_DOCUMENT, ["have 33 dimensions, the model's have 32"], "same model"),
]


@pytest.mark.parametrize(("query", "document", "found", "remedy"), PLANTED)
def test_a_planted_mistake_is_named(query, document, found, remedy, embed, model):
    check = check_stack(model, embed[query], embed[document])
    assert not check.ok
    assert len(check.problems) == len(found)
    for problem, pattern in zip(check.problems, found, strict=True):
        pytest.raises(ValueError, _raise, problem.found).match(pattern)
    pytest.raises(ValueError, _raise, check.problems[0].remedy).match(remedy)
    assert all(problem.found in check.summary() and problem.remedy in check.summary() for problem in check.problems)


def _raise(message):
    raise ValueError(message)


@pytest.mark.parametrize("form", ["array", "tensor", "lists", "list of tensors", "one text", "one text in a batch"])
def test_a_right_stack_has_no_problem(form, model, saved):
    def returned(encode, texts):
        return {
            "array": lambda: encode(texts),
            "tensor": lambda: encode(texts, convert_to_tensor=True).to(torch.bfloat16),
            "lists": lambda: encode(texts).tolist(),
            "list of tensors": lambda: list(encode(texts, convert_to_tensor=True)),
            "one text": lambda: encode(texts.replace("\n", " ")),
            "one text in a batch": lambda: encode([texts + ""]),
        }[form]()

    check = check_stack(saved, *(functools.partial(returned, f) for f in (model.encode_query, model.encode_document)))
    assert check.ok
    assert check.summary().startswith("Stack check: ok\n")
    assert max(check.query_distance, check.document_distance) < (0.01 if form == "tensor" else 1e-6)


def test_an_output_folder_is_its_model_and_a_tolerance_is_a_distance(model, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "out" / "model")
    assert check_stack(tmp_path / "out", model.encode_query, model.encode_document).ok
    for tolerance in (float("nan"), -1):
        with pytest.raises(ValueError, match="tolerance is .*, but has to be a distance from 0 to 2"):
            check_stack(saved, model.encode_query, model.encode_document, tolerance=tolerance)


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.sampled_from(["fp16", "int8"]))
def test_rounded_vectors_are_recognised(base, adapter, model, seed, precision):
    queries, documents = (list(texts) for texts in (QUERIES, DOCUMENTS))
    vectors = {"right": model.encode_query(queries), "wrong": base.encode_query(queries)}
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, size=vectors["right"].shape)

    def rounded(name):
        rows = vectors[name] + (1e-3 if precision == "fp16" else np.abs(vectors[name]).max() / 127) * noise
        return lambda texts: rows

    tolerance = 0.02 if precision == "fp16" else 0.05
    assert check_stack(model, rounded("right"), model.encode_document, tolerance=tolerance).ok
    wrong = check_stack(model, rounded("wrong"), model.encode_document, tolerance=tolerance)
    assert [problem.found for problem in wrong.problems] == [
        "queries do not pass through the adapter: they are the base model's vectors"
    ]


def test_an_adapter_smaller_than_the_tolerance_is_still_told_apart(base):
    model = attach(base, adapter_with(5e-4))
    assert check_stack(model, model.encode_query, model.encode_document).ok
    check = check_stack(model, functools.partial(model.encode, prompt_name="query"), model.encode_document)
    assert check.query_distance < check.tolerance
    assert [problem.side for problem in check.problems] == ["query"]


def test_what_cannot_be_told_is_said(base, saved):
    untrained = attach(base, QueryAdapter(32))
    check = check_stack(untrained, untrained.encode_query, untrained.encode_document)
    assert check.ok
    assert "too close to each other to tell which were returned" in check.notes[0]
    assert f"note: {check.notes[0]}" in check.summary()
    bare = check_stack(base, base.encode_query, base.encode_document)
    assert bare.ok
    assert bare.notes == ("the model has no adapter, so its queries are the base model's",)


def test_a_base_model_of_other_lengths(tiny_unnormalized_model_path):
    base = SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu")
    model = attach(base, adapter_with(0.1, normalize=False))
    assert check_stack(model, model.encode_query, model.encode_document).ok
    check = check_stack(model, model.encode_query, functools.partial(model.encode_document, normalize_embeddings=True))
    assert "documents have lengths 1 to 1, the model's have" in check.problems[0].found
    assert "normalize_embeddings=False" in check.problems[0].remedy


def test_an_adapter_that_a_server_applies_before_normalising(tiny_model_path):
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    adapter = adapter_with(0.3, kind="mlp")
    model = attach(base, adapter)
    raw = SentenceTransformer(modules=list(base)[:-1], device="cpu")

    def skipping(texts):
        features = {"sentence_embedding": raw.encode(texts, convert_to_tensor=True)}
        with torch.inference_mode():
            for module in model[-1].sub_modules["query"]:
                features = module(features)
        return features["sentence_embedding"]

    check = check_stack(model, skipping, model.encode_document)
    assert [problem.found for problem in check.problems] == [
        "queries pass through the adapter without the Normalize that belongs before it"
    ]


def test_a_truncated_model_expects_truncated_vectors(saved):
    model = SentenceTransformer(str(saved), device="cpu", truncate_dim=16)
    assert check_stack(model, model.encode_query, model.encode_document).ok
    full = SentenceTransformer(str(saved), device="cpu")
    check = check_stack(model, full.encode_query, model.encode_document)
    assert [p.found for p in check.problems] == ["vectors of queries have 32 dimensions, the model's have 16"]


def test_a_function_that_fails(model):
    def fails(texts):
        raise RuntimeError("no such server")

    message = r"embed_query failed for a list of 5 texts \(RuntimeError: no such server\) and for a single text"
    with pytest.raises(ValueError, match=message):
        check_stack(model, fails, model.encode_document)


def test_the_model_comes_first(model):
    for arguments in (
        (model.encode_query, model.encode_document, model),
        (model.encode_query, model.encode_document, "folder"),
        (model, model.encode_query, model),
    ):
        with pytest.raises(ValueError, match=r"Pass check_stack\(model, embed_query, embed_documents\)"):
            check_stack(*arguments)


def test_a_check_prints_as_its_summary(model):
    check = check_stack(model, model.encode_query, model.encode_document)
    assert str(check) == repr(check) == check.summary()
    assert check.summary().startswith("Stack check: ok\n")


@pytest.mark.parametrize("texts", ["one text", ["one"], ["same", "same", "other"]])
def test_texts_that_show_nothing(texts, model):
    with pytest.raises(ValueError, match="but at least two, all different, are expected"):
        check_stack(model, model.encode_query, model.encode_document, documents=texts)


# The command line


@pytest.fixture
def application(saved, tmp_path, monkeypatch):
    (tmp_path / "my_app.py").write_text(
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({str(saved)!r}, device='cpu')\n"
        "class Right:\n"
        "    query = staticmethod(lambda texts: model.encode_query(texts))\n"
        "    document = staticmethod(lambda texts: model.encode_document(texts))\n"
        "number = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_app", None)


def test_the_command_says_what_is_wrong(application, saved, capsys):
    right = ["my_app:Right.query", "my_app:Right.document"]
    assert cli.main(["check", *right, "--model", str(saved)]) == 0
    assert "Stack check: ok" in capsys.readouterr().out
    assert cli.main(["check", *right[::-1], "--model", str(saved), "--tolerance", "0.01"]) == 4
    printed = capsys.readouterr().out
    assert "Stack check: 3 problems" in printed
    assert "wrong: the models for queries and for documents are swapped\n" in printed
    assert "(allowed 0.01)" in printed


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_app", "the form package.module:function is expected"),
        ("no_such_app:embed", "No module named 'no_such_app'. Start in the folder that 'no_such_app' lies in"),
        ("my_app:wrong.query", "has no 'wrong'"),
        ("my_app:number", "is a int, but a function of a list of texts is expected"),
    ],
)
def test_a_function_that_cannot_be_found(path, message, application, saved, capsys):
    before = list(sys.path)
    with pytest.raises(ValueError, match=message):
        load_function(path)
    assert sys.path == before
    assert cli.main(["check", path, path, "--model", str(saved)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
