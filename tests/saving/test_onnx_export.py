from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling, StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from problems import trained
from st_adapter import QueryAdapter, attach, detach, from_pretrained, save_pretrained
from st_adapter.saving import export_onnx
from st_adapter.saving import onnx_export as onnx_export_module
from st_adapter.saving.folder import read_saved
from st_adapter.saving.onnx_export import _examples, _warn_if_different

LOW_RANK = {"kind": "low_rank", "rank": 4, "bias": True}
MLP = {"kind": "mlp", "hidden_dim": 16, "bias": True, "activation": "silu"}
TEXTS = ["open a file", "x" * 200, "what?", "read the line number of a list", "a"]
BATCHES = {"one": TEXTS[:1], "one word": ["a"], "five, padded": TEXTS, "cut at 64 tokens": ["open the file " * 40]}


class Export(NamedTuple):
    model: SentenceTransformer  # opened from folder by stock Sentence Transformers
    folder: Path
    written: list[Path]


def cut(model: SentenceTransformer, num_layers: int) -> SentenceTransformer:
    """The exporter's time grows with the layers; with none, token embeddings and pooling are left."""
    model[0].model.encoder.layer = model[0].model.encoder.layer[:num_layers]
    model[0].model.config.num_hidden_layers = num_layers
    return model


def make_adapter(dimension: int = 32, **arguments: Any) -> QueryAdapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trained(QueryAdapter(dimension, **arguments), scale=0.2)


def run(file: Path, model: SentenceTransformer, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a client gets: a vector for each token (B, T, D), one for each text (B, D), and its own attention mask."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    features = {
        name: value.numpy() for name, value in model.preprocess(texts).items() if isinstance(value, torch.Tensor)
    }
    assert [output.name for output in session.get_outputs()] == [
        "last_hidden_state" if file.name == "model.onnx" else "token_embeddings",
        "sentence_embedding",
    ]
    tokens, vectors = session.run(None, {value.name: features[value.name] for value in session.get_inputs()})
    return tokens, vectors, features["attention_mask"]


def mean(tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.stack([row[kept == 1].mean(axis=0) for row, kept in zip(tokens, mask, strict=True)])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def base(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A base model of one layer with an onnx/model.onnx of its own; do not write into it."""
    folder = tmp_path_factory.mktemp("onnx") / "base"
    cut(SentenceTransformer(str(tiny_model_path), device="cpu"), 1).save_pretrained(str(folder))
    model = SentenceTransformer(str(folder), device="cpu")
    return Export(model, folder, export_onnx(model, folder))


@pytest.fixture(scope="module")
def beside_base(base: Export, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Saved from that base, so that the file for documents is there already."""
    folder = save_pretrained(base.model, make_adapter(**LOW_RANK), tmp_path_factory.mktemp("onnx") / "adapted")
    model = SentenceTransformer(str(folder), device="cpu")
    return Export(model, folder, export_onnx(model, folder))


@pytest.fixture(scope="module")
def on_request(tiny_flat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Saved from a base without such a file, with both files asked for."""
    base = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    saved = save_pretrained(base, make_adapter(**MLP), tmp_path_factory.mktemp("onnx") / "adapted", onnx=True)
    model = from_pretrained(saved, device="cpu")
    np.testing.assert_array_equal(model.encode_document(TEXTS), base.encode_document(TEXTS))
    return Export(model, saved, sorted((saved / "onnx").iterdir()))


@pytest.fixture(params=["beside_base", "on_request"])
def adapted(request: pytest.FixtureRequest) -> Export:
    export: Export = request.getfixturevalue(request.param)
    return export


def test_files_on_request_are_part_of_the_saved_model(on_request: Export) -> None:
    files = {"onnx/model.onnx", "onnx/model_query.onnx"}
    assert {path.relative_to(on_request.folder).as_posix() for path in on_request.written} == files
    assert files <= set(read_saved(on_request.folder).files)


@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES)
def test_every_pooling_of_the_query_file_gives_encode_query(adapted: Export, texts: list[str]) -> None:
    expected = adapted.model.encode_query(texts)
    assert np.abs(expected - adapted.model.encode_document(texts)).max() > 0.05
    tokens, vectors, mask = run(adapted.folder / "onnx/model_query.onnx", adapted.model, texts)
    assert tokens.shape == (*mask.shape, 32)
    assert_close(vectors, expected)
    assert_close(unit(mean(tokens, mask)), expected)
    assert_close(tokens[:, 0], expected)
    other_mask = np.random.default_rng(0).integers(0, 2, mask.shape)
    other_mask[:, -1] = 1
    assert_close(mean(tokens, other_mask), expected)


@pytest.mark.parametrize("texts", BATCHES.values(), ids=BATCHES)
def test_the_document_file_gives_encode_document(base: Export, texts: list[str]) -> None:
    tokens, vectors, mask = run(base.folder / "onnx/model.onnx", base.model, texts)
    token_embeddings = base.model.encode(texts, output_value="token_embeddings")
    for row, kept, expected in zip(tokens, mask, token_embeddings, strict=True):
        assert_close(row[kept == 1], expected.numpy())
    assert_close(unit(mean(tokens, mask)), base.model.encode_document(texts))
    assert_close(vectors, base.model.encode_document(texts))


def test_only_documents_of_a_model_without_an_adapter(base: Export) -> None:
    assert base.written == [base.folder / "onnx/model.onnx"]
    assert list((base.folder / "onnx").iterdir()) == base.written


def test_a_file_of_the_base_stays_and_the_repository_opens_as_before(beside_base: Export, base: Export) -> None:
    assert beside_base.written == [beside_base.folder / "onnx/model_query.onnx"]
    assert digest(beside_base.folder / "onnx/model.onnx") == digest(base.folder / "onnx/model.onnx")
    assert {path.name for path in beside_base.folder.parent.iterdir()} == {"adapted"}
    opened = SentenceTransformer(str(beside_base.folder), device="cpu")
    np.testing.assert_array_equal(opened.encode_query(TEXTS), beside_base.model.encode_query(TEXTS))
    np.testing.assert_array_equal(opened.encode_document(TEXTS), base.model.encode_document(TEXTS))


def test_the_client_puts_the_prompt_before_the_text(adapted: Export) -> None:
    adapted.model.prompts["query"] = "query: "
    try:
        expected = adapted.model.encode_query(TEXTS)
    finally:
        adapted.model.prompts["query"] = ""
    file = adapted.folder / "onnx/model_query.onnx"
    assert_close(run(file, adapted.model, [f"query: {text}" for text in TEXTS])[1], expected)
    assert np.abs(run(file, adapted.model, TEXTS)[1] - expected).max() > 0.05


def test_one_file_of_free_batch_and_length_that_says_nothing_of_this_machine(adapted: Export) -> None:
    file = adapted.folder / "onnx/model_query.onnx"
    proto = onnx.load(file, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert {opset.domain: opset.version for opset in proto.opset_import} == {"": 18}
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*proto.graph.input, *proto.graph.output]
    }
    assert shapes == {
        "input_ids": ["batch", "sequence"],
        "token_type_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "token_embeddings": ["batch", "sequence", 32],
        "sentence_embedding": ["batch", 32],
    }
    for trace in (b".py", str(Path.home()).encode(), sys.prefix.encode()):
        assert trace not in file.read_bytes()


def test_half_precision_and_first_token_pooling(tiny_model: SentenceTransformer, tmp_path: Path) -> None:
    cut(tiny_model.bfloat16(), 0)[1] = Pooling(32, "cls")
    assert export_onnx(tiny_model, tmp_path / "new") == [tmp_path / "new/onnx/model.onnx"]
    assert tiny_model.dtype == torch.bfloat16
    expected = tiny_model.float().encode_document(TEXTS)
    tokens, vectors, _ = run(tmp_path / "new/onnx/model.onnx", tiny_model, TEXTS)
    assert_close(unit(tokens[:, 0]), expected)
    assert_close(vectors, expected)


def assert_modules_go_on(model: SentenceTransformer, folder: Path) -> None:
    """As in Sentence Transformers' ONNX backend; scripts/check_onnx_backend.py runs the backend itself."""
    tokens, _, mask = run(folder / "onnx/model.onnx", model, TEXTS)
    for encode, task in ((model.encode_document, "document"), (model.encode_query, "query")):
        features: dict[str, Any] = {"token_embeddings": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
        with torch.no_grad():
            for module in list(model)[1:]:
                features = module(features, **({"task": task} if isinstance(module, Router) else {}))
        assert_close(features["sentence_embedding"].numpy(), encode(TEXTS))


def test_the_modules_of_the_model_go_on_where_the_base_file_ends(on_request: Export) -> None:
    assert_modules_go_on(on_request.model, on_request.folder)
    base, _ = detach(on_request.model)
    _warn_if_different(on_request.folder / "onnx/model.onnx", _examples(base, base.encode_document))


def test_a_base_whose_vectors_no_client_can_pool(tiny_model: SentenceTransformer, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [cut(tiny_model, 0)[0], Pooling(32, ("max", "lasttoken")), Dense(64, 16)]
    base = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="dot")
    model = attach(base, make_adapter(16, normalize=False))
    model.truncate_dim = 8
    names = ("model", "model_document", "model_query")
    assert export_onnx(model, tmp_path) == [tmp_path / f"onnx/{name}.onnx" for name in names]
    assert model.truncate_dim == 8
    model.truncate_dim = None  # the files have all 16
    assert_modules_go_on(model, tmp_path)
    for name, expected in (
        ("model_document", model.encode_document(TEXTS)),
        ("model_query", model.encode_query(TEXTS)),
    ):
        tokens, vectors, mask = run(tmp_path / f"onnx/{name}.onnx", model, TEXTS)
        for found in (vectors, tokens[:, 0], mean(tokens, mask)):
            assert_close(found, expected)
    # What version 0.1.0 wrote where more than pooling and normalizing follows the transformer.
    (tmp_path / "onnx/model_document.onnx").replace(tmp_path / "onnx/model.onnx")
    with pytest.warns(UserWarning, match="gives documents that differ"):
        _warn_if_different(tmp_path / "onnx/model.onnx", _examples(base, base.encode_document))


# Refusals


class Stateful(Module):
    """Gives other vectors at every call, which a file cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        features["sentence_embedding"] = features["sentence_embedding"].roll(self.calls, dims=1)
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


class Branching(Stateful):
    """Does what depends on the values, which the exporter cannot follow."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        if features["sentence_embedding"].sum() > 0:
            features["sentence_embedding"] = -features["sentence_embedding"]
        return features


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Stateful(),
            r"model.onnx gives vectors that differ from the model's by up to \d.\de[+-]\d\d, but at most 1e-05",
        ),
        (Branching(), "could not convert BertModel to ONNX: .*or use this model with sentence-transformers"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing_behind(
    tiny_model: SentenceTransformer, tmp_path: Path, module: Module, message: str
) -> None:
    cut(tiny_model, 0).append(module)
    (tmp_path / "new/onnx").mkdir(parents=True)
    (tmp_path / "new/onnx/model_query.onnx").write_bytes(b"of an earlier export")
    with pytest.raises(ValueError, match=message):
        export_onnx(attach(tiny_model, make_adapter()), tmp_path / "new")
    assert files(tmp_path) == {"new/onnx/model_query.onnx"}
    assert (tmp_path / "new/onnx/model_query.onnx").read_bytes() == b"of an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_file_of_another_model_is_kept_with_a_warning(
    tiny_model: SentenceTransformer, base: Export, tmp_path: Path
) -> None:
    (tmp_path / "onnx").mkdir()
    file = shutil.copy(base.folder / "onnx/model.onnx", tmp_path / "onnx/model.onnx")
    with pytest.warns(UserWarning, match="is kept as it is, but gives documents that differ .* if it is of another"):
        assert export_onnx(tiny_model, tmp_path) == []
    assert digest(file) == digest(base.folder / "onnx/model.onnx")
    assert export_onnx(base.model, tmp_path) == []


def test_queries_of_another_model_are_not_left_beside_new_documents(base: Export, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model_query.onnx").write_bytes(b"of an earlier export")
    with pytest.raises(ValueError, match="has no adapter and would leave the vectors of another one there"):
        export_onnx(base.model, tmp_path)
    assert files(tmp_path) == {"onnx/model_query.onnx"}
    (tmp_path / "onnx/model_query.onnx").rename(tmp_path / "onnx/model_document.onnx")
    with pytest.raises(ValueError, match="needs none and would leave the vectors of another one there"):
        export_onnx(base.model, tmp_path)
    assert files(tmp_path) == {"onnx/model_document.onnx"}


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(
    tiny_model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf'{missing} is missing. Run `pip install "st-adapter\[onnx\]"`'):
        export_onnx(tiny_model, tmp_path)


def static_model() -> SentenceTransformer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, np.eye(2, dtype=np.float32))], device="cpu")


def with_prompt_left_out(model: SentenceTransformer) -> SentenceTransformer:
    model[1].include_prompt = False
    model.prompts["query"] = "query: "
    return model


def with_backend(model: SentenceTransformer) -> SentenceTransformer:
    model.backend = "openvino"
    return model


def with_attention(model: SentenceTransformer) -> SentenceTransformer:
    model[0].model.config._attn_implementation = "flash_attention_2"
    return model


def with_router(model: SentenceTransformer) -> SentenceTransformer:
    model.append(Router({"query": [Normalize()], "document": [Dropout(0.1)]}, default_route="document"))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model[0], "The model is a Transformer, but a SentenceTransformer is expected"),
        (lambda model: static_model(), "starts with StaticEmbedding, but .* expects a Transformer"),
        (with_prompt_left_out, r"leaves its prompts \['query'\] out of the pooling"),
        (with_backend, "runs on the backend 'openvino', but"),
        (with_attention, "attn_implementation='flash_attention_2', but the export expects 'sdpa' or 'eager'"),
        (with_router, "detach expects one Router at the end"),
    ],
)
def test_models_that_cannot_be_exported(
    tiny_model: SentenceTransformer, tmp_path: Path, make: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(make(tiny_model), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_one_file_cannot_hold(
    tiny_model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_weights = sum(parameter.numel() for parameter in tiny_model.half().parameters())
    monkeypatch.setattr(onnx_export_module, "_MAX_WEIGHT_BYTES", 4 * num_weights)
    with pytest.raises(ValueError, match="GB of weights in float32, but one ONNX file holds less than"):
        export_onnx(tiny_model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["new", "new/onnx"])
def test_a_file_where_a_folder_is_expected(tiny_model: SentenceTransformer, tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("not a folder")
    with pytest.raises(ValueError, match=f"{file} is a file, but a folder is expected"):
        export_onnx(tiny_model, tmp_path / "new")
