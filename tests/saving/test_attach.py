from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import Dropout

from problems import KINDS, TEXTS, apply, assert_adapted, make_adapter, names
from st_adapter.adapter import Kind, QueryAdapter
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.attach import attach, detach
from st_adapter.saving.onnx_export import export_onnx
from st_adapter.saving.push import push_to_hub
from st_adapter.saving.save import save_pretrained


def test_the_fixtures_tell_texts_apart(tiny_model: SentenceTransformer) -> None:
    embeddings = tiny_model.encode(TEXTS, convert_to_tensor=True)
    similarities = embeddings @ embeddings.T
    assert similarities.fill_diagonal_(-1.0).max() < 0.99


# attach and detach


def test_the_model_comes_first(tiny_model: SentenceTransformer, tmp_path: Path) -> None:
    adapter = make_adapter()
    for call in (
        lambda: attach(adapter, tiny_model),
        lambda: save_pretrained(adapter, tiny_model, tmp_path / "saved"),
        lambda: save_pretrained(None, tiny_model, tmp_path / "saved"),
        lambda: push_to_hub(adapter, tiny_model, "user/name"),
    ):
        with pytest.raises(
            ValueError, match="but a SentenceTransformer and a QueryAdapter are expected. Pass the model"
        ):
            call()
    with pytest.raises(ValueError, match="The model is a str, but a SentenceTransformer is expected"):
        export_onnx(str(tmp_path), tiny_model)
    assert names(tmp_path) == []


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_attach_adapts_queries_alone(tiny_model: SentenceTransformer, kind: Kind, bias: bool) -> None:
    adapter = make_adapter(kind, bias=bias)
    attached = attach(tiny_model, adapter)
    assert_adapted(attached, tiny_model, adapter)
    assert np.abs(attached.encode_query(TEXTS) - tiny_model.encode_query(TEXTS)).max() > 0.05
    assert isinstance(attached[-1], Router)
    assert attached.get_embedding_dimension() == 32
    assert attached.max_seq_length == tiny_model.max_seq_length


def test_attach_leaves_the_base_model_and_shares_its_weights(tiny_model: SentenceTransformer) -> None:
    attached = attach(tiny_model, make_adapter())
    assert len(tiny_model) == 3
    assert attached[0] is tiny_model[0]
    assert attached.prompts == tiny_model.prompts
    assert attached.prompts is not tiny_model.prompts
    assert attached.model_card_data.model is attached
    assert tiny_model.model_card_data.model is tiny_model


def test_attach_an_untrained_adapter_changes_no_query(tiny_model: SentenceTransformer) -> None:
    attached = attach(tiny_model, QueryAdapter(32))
    np.testing.assert_allclose(attached.encode_query(TEXTS), tiny_model.encode_query(TEXTS), rtol=0, atol=1e-7)


def test_attach_follows_the_dtype_of_the_model(tiny_model: SentenceTransformer) -> None:
    tiny_model.bfloat16()
    adapter = make_adapter()
    queries = attach(tiny_model, adapter).encode_query(TEXTS, convert_to_tensor=True)
    assert queries.dtype == torch.bfloat16
    base = tiny_model.encode_query(TEXTS, convert_to_tensor=True).clone()
    torch.testing.assert_close(queries, adapter.transform(base), rtol=0, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_detach_undoes_attach(tiny_model: SentenceTransformer, kind: Kind) -> None:
    attached = attach(tiny_model, make_adapter(kind))
    base, query_modules = detach(attached)
    assert [type(module) for module in base] == [type(module) for module in tiny_model]
    np.testing.assert_array_equal(base.encode_query(TEXTS), tiny_model.encode_query(TEXTS))
    queries = torch.from_numpy(base.encode_query(TEXTS))
    np.testing.assert_array_equal(apply(query_modules, queries).detach().numpy(), attached.encode_query(TEXTS))
    assert len(attached) == 4


def test_detach_a_model_without_a_router(tiny_model: SentenceTransformer) -> None:
    base, query_modules = detach(tiny_model)
    assert query_modules == []
    assert len(base) == 3


@pytest.mark.parametrize(
    ("routes", "default"),
    [
        ({"query": [Normalize()], "document": [Normalize()]}, "document"),
        ({"query": [Normalize()], "document": [Dropout(0.1)]}, "document"),
        ({"query": [Normalize()], "document": [Dropout(0.0)], "image": [Normalize()]}, "document"),
    ],
)
def test_detach_refuses_other_routers(tiny_model: SentenceTransformer, routes: dict, default: str) -> None:
    tiny_model.append(Router(routes, default_route=default))
    with pytest.raises(ValueError, match="detach expects one Router at the end that leaves documents untouched"):
        detach(tiny_model)


# The base model an adapter is bound to


def test_an_adapter_is_refused_by_another_base_model(tiny_model: SentenceTransformer) -> None:
    adapter = make_adapter()
    adapter.base_model = identity_of(tiny_model)
    attach(tiny_model, adapter)
    with torch.no_grad():
        next(tiny_model.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match="belongs to the base model 'tiny' .*: the weights differ"):
        attach(tiny_model, adapter)
    assert isinstance(attach(tiny_model, adapter, allow_other_base=True)[-1], Router)


def test_the_same_base_model_in_another_dtype_is_told_by_its_name(tiny_model: SentenceTransformer) -> None:
    adapter = make_adapter()
    adapter.base_model = replace(identity_of(tiny_model), probes=None)  # as version 0.1 wrote it
    tiny_model.bfloat16()
    with pytest.warns(UserWarning, match="trained on 'tiny' in float32, and this model's weights are in bfloat16"):
        attach(tiny_model, adapter)
