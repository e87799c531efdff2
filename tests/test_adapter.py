from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from torch import Tensor
from transformers import BertConfig, BertModel

from problems import KINDS, apply, trained, unit_rows
from st_adapter.adapter import Activation, Kind, QueryAdapter
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.evaluation.hits import adapt
from st_adapter.saving.alone import save_adapter

GOLDEN = Path(__file__).parent / "golden"
ACTIVATIONS = get_args(Activation)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_untrained_adapter_is_the_identity_bit_for_bit(kind: Kind, bias: bool, normalize: bool) -> None:
    adapter = QueryAdapter(32, kind=kind, bias=bias, normalize=normalize)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([1.0, 1.0, 17.0, 1e-3, 0.0])
    embeddings = unit_rows(5, 32) * lengths[:, None]
    assert torch.equal(adapter.transform(embeddings), embeddings)
    half = torch.randn(5, 32, generator=generator).half()
    assert adapter.transform(half).dtype == torch.float16
    assert torch.equal(adapter.transform(half), half)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_adapter_is_not_the_identity_and_keeps_the_length(kind: Kind) -> None:
    embeddings = unit_rows(6, 32) * torch.arange(1.0, 7.0)[:, None]
    adapted = trained(QueryAdapter(32, kind=kind, bias=True)).transform(embeddings)
    assert (adapted - embeddings).abs().max() > 0.05
    torch.testing.assert_close(adapted.norm(dim=1), torch.arange(1.0, 7.0))


def test_hand_worked_map_of_each_kind() -> None:
    x = torch.tensor([[3.0, 4.0]])
    linear = QueryAdapter(2, kind="linear", normalize=False)
    low_rank = QueryAdapter(2, kind="low_rank", rank=1, normalize=False)
    mlp = QueryAdapter(2, kind="mlp", hidden_dim=2, activation="relu", bias=True, normalize=False)
    with torch.no_grad():
        linear.delta.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        low_rank.down.copy_(torch.tensor([[1.0, 1.0]]))
        low_rank.up.copy_(torch.tensor([[2.0], [-1.0]]))
        mlp.down.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        mlp.up.copy_(torch.tensor([[1.0, 5.0], [2.0, 5.0]]))
        mlp.hidden_bias.copy_(torch.tensor([1.0, 1.0]))
        mlp.output_bias.copy_(torch.tensor([10.0, 0.0]))
    assert linear.transform(x).tolist() == [[7.0, 4.0]]  # (3 + 4, 4)
    assert low_rank.transform(x).tolist() == [[17.0, -3.0]]  # 3 + 4 = 7; (3 + 2 * 7, 4 - 7)
    # hidden: relu(3 + 1) = 4, relu(-3 + 1) = 0; (3 + 4 + 10, 4 + 2 * 4 + 0)
    assert mlp.transform(x).tolist() == [[17.0, 12.0]]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    normalize=st.booleans(),
    dimension=st.integers(2, 48),
    scale=st.floats(0.0, 0.3),
    seed=st.integers(0, 2**20),
)
def test_folded_modules_equal_transform(
    kind: Kind, activation: Activation, bias: bool, normalize: bool, dimension: int, scale: float, seed: int
) -> None:
    adapter = QueryAdapter(
        dimension,
        kind,
        rank=max(1, dimension // 3),
        hidden_dim=24,
        activation=activation,
        bias=bias,
        normalize=normalize,
    )
    trained(adapter, scale / dimension**0.5, seed)
    embeddings = unit_rows(7, dimension, seed)
    modules = adapter.fold()
    with torch.no_grad():
        torch.testing.assert_close(apply(modules, embeddings), adapter.transform(embeddings), rtol=0, atol=1e-6)
    assert [type(module) for module in modules] == [Dense] * (2 if kind == "mlp" else 1) + [Normalize] * normalize
    assert all(dense.bias == bias for dense in modules if isinstance(dense, Dense))
    assert not any(module.training for module in modules)


def test_folding_is_a_copy_and_leaves_the_random_state() -> None:
    adapter = trained(QueryAdapter(8, "mlp", hidden_dim=4))
    state = torch.get_rng_state()
    modules = adapter.fold()
    assert torch.equal(torch.get_rng_state(), state)
    before = apply(modules, unit_rows(3, 8))
    trained(adapter, seed=1)
    assert torch.equal(apply(modules, unit_rows(3, 8)), before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_mlp_is_not_affine(kind: Kind, activation: Activation) -> None:
    adapter = trained(QueryAdapter(16, kind, rank=4, activation=activation, bias=True, normalize=False), scale=0.5)
    a, b = unit_rows(2, 16).split(1)
    with torch.no_grad():
        midpoint, mean = adapter.transform((a + b) / 2), (adapter.transform(a) + adapter.transform(b)) / 2
    difference = (midpoint - mean).abs().max().item()
    assert difference > 1e-2 if kind == "mlp" else difference < 1e-5


@pytest.mark.parametrize("normalize", [True, False])
def test_low_rank_at_full_rank_equals_any_linear(normalize: bool) -> None:
    linear = trained(QueryAdapter(16, "linear", normalize=normalize), scale=1.0)
    low_rank = QueryAdapter(16, "low_rank", rank=16, normalize=normalize)
    with torch.no_grad():
        low_rank.down.copy_(torch.eye(16))
        low_rank.up.copy_(linear.delta)
        torch.testing.assert_close(low_rank.transform(unit_rows(5, 16)), linear.transform(unit_rows(5, 16)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_matrix(dtype: torch.dtype) -> None:
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    adapter = QueryAdapter.from_matrix(matrix, normalize=False)
    expected = unit_rows(5, 16) @ matrix.float().T
    torch.testing.assert_close(adapter.transform(unit_rows(5, 16)), expected, rtol=0, atol=1e-5)
    assert QueryAdapter.from_matrix(matrix).normalize


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_stay_zero_and_give_finite_gradients(kind: Kind) -> None:
    adapter = QueryAdapter(8, kind, rank=2)
    adapted = adapter.transform(torch.zeros(3, 8))
    adapted.sum().backward()
    assert torch.equal(adapted, torch.zeros(3, 8))
    assert all(torch.isfinite(parameter.grad).all() for parameter in adapter.parameters())


def test_forward_acts_on_queries_only() -> None:
    adapter = trained(QueryAdapter(8))
    embeddings = unit_rows(2, 8)
    for task in (None, "document", "other"):
        assert adapter({"sentence_embedding": embeddings}, task=task)["sentence_embedding"] is embeddings
    adapted = adapter({"sentence_embedding": embeddings}, task="query")["sentence_embedding"]
    assert torch.equal(adapted, adapter.transform(embeddings))


@pytest.mark.parametrize("kind", KINDS)
def test_deepcopy_is_independent(kind: Kind) -> None:
    adapter = trained(QueryAdapter(8, kind, rank=2, bias=True))
    kept = copy.deepcopy(adapter)
    before = adapter.transform(unit_rows(3, 8))
    trained(adapter, seed=1)
    assert torch.equal(kept.transform(unit_rows(3, 8)), before)
    assert kept.get_config_dict() == adapter.get_config_dict()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: Kind, bias: bool, tmp_path: Path) -> None:
    adapter = trained(QueryAdapter(8, kind, rank=3, hidden_dim=5, activation="silu", bias=bias, normalize=False))
    adapter.save(str(tmp_path))
    loaded = QueryAdapter.load(str(tmp_path))
    assert loaded.get_config_dict() == adapter.get_config_dict()
    assert torch.equal(loaded.transform(unit_rows(3, 8)), adapter.transform(unit_rows(3, 8)))


def test_works_as_an_appended_module(tiny_model: SentenceTransformer, tmp_path: Path) -> None:
    texts = ["open a file", "read the line number"]
    queries, documents = tiny_model.encode_query(texts, convert_to_tensor=True), tiny_model.encode_document(texts)
    adapter = trained(QueryAdapter(32, "mlp"))
    tiny_model.append(adapter)
    tiny_model.save(str(tmp_path))
    opened = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert isinstance(opened[-1], QueryAdapter)
    assert opened.get_embedding_dimension() == 32
    for model in (tiny_model, opened):
        assert torch.equal(model.encode_query(texts, convert_to_tensor=True), adapter.transform(queries.clone()))
        assert (model.encode_document(texts) == documents).all()
        assert (model.encode(texts) == documents).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_dimension": 0}, "embedding_dimension is 0, but a whole number of at least 1 is expected"),
        ({"embedding_dimension": 8.0}, "embedding_dimension is 8.0, but a whole number"),
        ({"embedding_dimension": True}, "embedding_dimension is True, but a whole number"),
        ({"kind": "cubic"}, r"kind is 'cubic', but one of \('linear', 'low_rank', 'mlp'\) is expected"),
        ({"activation": "tanh"}, "activation is 'tanh', but one of"),
        ({"bias": 1}, "bias is 1, but one of"),
        ({"normalize": "no"}, "normalize is 'no', but one of"),
        ({"kind": "low_rank", "rank": 0}, "rank is 0, but a whole number"),
        ({"kind": "low_rank", "rank": 9}, "rank is 9, but a low_rank adapter of 8 dimensions expects .* at most 8"),
        ({"kind": "mlp", "hidden_dim": -1}, "hidden_dim is -1, but a whole number"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryAdapter(**{"embedding_dimension": 8, **arguments})


@pytest.mark.parametrize(
    "embeddings", [torch.zeros(2, 7), torch.zeros(8), torch.zeros(1, 2, 8), torch.zeros(2, 8, dtype=torch.int64)]
)
def test_bad_embeddings(embeddings: Tensor) -> None:
    with pytest.raises(ValueError, match=r"this adapter expects floating point of shape \(B, 8\)"):
        QueryAdapter(8).transform(embeddings)


def test_features_without_a_pooled_embedding() -> None:
    with pytest.raises(ValueError, match=r"keys \['token_embeddings'\], but an adapter expects 'sentence_embedding'"):
        QueryAdapter(8)({"token_embeddings": torch.zeros(1, 2, 8)}, task="query")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(2, 3), r"shape \(2, 3\), but a linear adapter expects a square one"),
        (torch.zeros(0, 0), r"shape \(0, 0\), but a linear adapter expects a square one"),
        (torch.zeros(2, 2, dtype=torch.int64), "matrix is torch.int64, but a linear adapter expects floating point"),
        (torch.full((2, 2), torch.nan), "matrix has 4 NaN or infinite values of 4"),
    ],
)
def test_bad_matrix(matrix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryAdapter.from_matrix(matrix)


def test_fold_refuses_diverged_weights() -> None:
    adapter = QueryAdapter(4)
    with torch.no_grad():
        adapter.delta[1, 2] = torch.nan
    with pytest.raises(ValueError, match="the adapter's delta has 1 NaN or infinite values of 16"):
        adapter.fold()


def test_pickles_are_neither_written_nor_read(tmp_path: Path) -> None:
    adapter = QueryAdapter(4)
    with pytest.raises(ValueError, match="safe_serialization is False, but an adapter is only saved as safetensors"):
        adapter.save(str(tmp_path), safe_serialization=False)
    adapter.save_config(str(tmp_path))
    adapter.save_torch_weights(str(tmp_path), safe_serialization=False)
    assert (tmp_path / "pytorch_model.bin").exists()
    with pytest.raises(ValueError, match="is missing, but expected; weights are read from safetensors files"):
        QueryAdapter.load(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 2}, r"has down of shape \(3, 8\), but \(2, 8\) is expected"),
        ({"kind": "linear"}, r"has the weights \['down', 'up'\], but \['delta'\] are expected"),
        ({"extra": 1}, "but an adapter's configuration expects exactly"),
        ({"kind": "cubic"}, "kind is 'cubic', but one of"),
    ],
)
def test_load_refuses_another_configuration(change: dict[str, object], message: str, tmp_path: Path) -> None:
    QueryAdapter(8, "low_rank", rank=3).save(str(tmp_path))
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        QueryAdapter.load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("[1]", "holds a list, but a JSON object"), ("{}", "no keys")]
)
def test_load_refuses_a_broken_configuration(content: str, message: str, tmp_path: Path) -> None:
    QueryAdapter(8).save(str(tmp_path))
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        QueryAdapter.load(str(tmp_path))


def test_load_refuses_other_weights(tmp_path: Path) -> None:
    QueryAdapter(4).save(str(tmp_path))
    weights_file = tmp_path / "model.safetensors"
    delta = load_file(weights_file)["delta"]
    for bad, message in [
        ({"delta": delta.double()}, "has delta in a dtype that is none of torch.float32"),
        ({"delta": delta + torch.inf}, "delta has 16 NaN or infinite values of 16"),
        ({"delta": delta, "more": delta.clone()}, r"has the weights \['delta', 'more'\], but"),
        ({"other": delta}, r"has the weights \['other'\], but \['delta'\] are expected"),
    ]:
        save_file(bad, weights_file)
        with pytest.raises(ValueError, match=message):
            QueryAdapter.load(str(tmp_path))
    weights_file.write_bytes(weights_file.read_bytes()[:40])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        QueryAdapter.load(str(tmp_path))


def test_a_model_of_others_is_not_replaced(tmp_path: Path) -> None:
    BertModel(BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=0, vocab_size=5)).save_pretrained(
        tmp_path
    )
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="holds something else than an adapter"):
        save_adapter(QueryAdapter(4), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    saved = save_adapter(QueryAdapter(4), tmp_path / "adapter")
    assert save_adapter(QueryAdapter(4, "low_rank", rank=2), tmp_path / "adapter") == saved
    assert QueryAdapter.from_pretrained(saved).kind == "low_rank"


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    adapter = trained(QueryAdapter(4)).to(torch.bfloat16)
    adapter.save(str(tmp_path))
    loaded = QueryAdapter.load(str(tmp_path))
    assert loaded.delta.dtype == torch.float32
    assert torch.equal(loaded.delta, adapter.delta.float())


def test_an_adapter_prints_in_a_line() -> None:
    identity = EncoderIdentity("org/model", None, None, "float32", 8, "", True)
    adapter = QueryAdapter(8, kind="low_rank", rank=2, base_model=identity)
    assert str(adapter) == "QueryAdapter(low_rank, rank 2, 8 -> 8 dimensions, 32 parameters, bound to 'org/model')"
    assert str(QueryAdapter(8)) == "QueryAdapter(linear, 8 -> 8 dimensions, 64 parameters, bound to no model)"
    mlp = QueryAdapter(8, kind="mlp", hidden_dim=4, bias=True)
    assert str(mlp) == "QueryAdapter(mlp, 4 hidden units, 8 -> 8 dimensions, 76 parameters, bound to no model)"


def test_the_two_dimensions_are_one_number_in_a_file() -> None:
    """As version 0.1.0 wrote it and reads it."""
    golden = json.loads((GOLDEN / "v0.1.0" / "adapter-alone" / "config.json").read_text(encoding="utf-8"))
    adapter = QueryAdapter(**golden)
    assert adapter.input_dimension == adapter.output_dimension == golden["embedding_dimension"] == 32
    assert list(adapter.get_config_dict()) == list(golden)


def test_a_list_of_vectors_is_taken_as_an_array():
    adapter, vectors = QueryAdapter.from_matrix(torch.eye(3).roll(1, 0)), [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]
    np.testing.assert_array_equal(adapter.transform(vectors), adapter.transform(np.array(vectors)))
    with pytest.raises(ValueError, match=r"query_embeddings have shape \(2,\)"):
        adapter.transform([1.0, 2.0])


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_tensors_of_inference_mode_are_taken_as_any_others(kind):
    adapter = QueryAdapter(4, kind, rank=2)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    plain = unit_rows(5, 4)
    with torch.inference_mode():
        given = plain.clone()  # as model.encode_query(..., convert_to_tensor=True) gives them
    adapted = adapter.transform(given)
    assert torch.equal(adapted, adapter.transform(plain)) and adapted.requires_grad
    adapted.sum().backward()
    assert all(parameter.grad.any() for parameter in adapter.parameters())
    with torch.inference_mode():
        assert torch.equal(adapter.transform(given), adapted)
    assert torch.equal(adapt(adapter, given), adapted)
