"""Corrections near training queries: against ridge regression by hand, and in the adapter that they become."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import corpus_of
from st_adapter.adapter import QueryAdapter
from st_adapter.fitting import local
from st_adapter.fitting.local import LocalFit
from st_adapter.fitting.maps import LocalUnits, QueryMap, as_adapter, averaged
from st_adapter.fitting.pairs import LabelledPairs

DIM = 8


def random_pairs(num_queries, num_documents=30, seed=0):
    """One document each, at random; and the documents."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.nn.functional.normalize(torch.randn(num_queries, DIM, generator=generator) + 0.3)
    corpus = corpus_of(torch.nn.functional.normalize(torch.randn(num_documents, DIM, generator=generator)))
    documents = torch.randint(0, num_documents, (num_queries,), generator=generator)
    return LabelledPairs(queries, torch.arange(num_queries), documents, torch.ones(num_queries)), corpus


@pytest.mark.parametrize(("threshold", "ridge"), [(0.2, 0.3), (0.5, 3.0)])
def test_it_is_ridge_regression_on_how_near_a_query_is_to_each_of_the_others(threshold, ridge):
    pairs, corpus = random_pairs(25)
    fitted = LocalFit(pairs, corpus).on(torch.eye(DIM), threshold, ridge, share=0.5)
    queries = pairs.queries.double().numpy()
    centred = queries - queries.mean(axis=0)
    radius = np.sqrt((centred**2).sum(axis=1).mean())
    cosines = centred / radius @ (centred / np.linalg.norm(centred, axis=1, keepdims=True)).T
    features = np.maximum((cosines - threshold) / (1 - threshold), 0)
    missing = corpus.embeddings[pairs.documents].double().numpy() - queries
    values = np.linalg.solve(features.T @ features + ridge * np.eye(25), features.T @ missing)
    np.testing.assert_allclose(fitted(pairs.queries).numpy(), queries + 0.5 * features @ values, atol=1e-5)


def test_a_query_far_from_all_others_is_left_where_it_is():
    pairs, corpus = random_pairs(25)
    fitted = LocalFit(pairs, corpus).on(torch.eye(DIM), 0.2, 0.3, share=1.0)
    mean = pairs.queries.mean(dim=0, keepdim=True)  # as far from every one of them as can be
    torch.testing.assert_close(fitted(mean), mean, atol=1e-6, rtol=0)
    assert (fitted(pairs.queries) - pairs.queries).norm(dim=1).min() > 0.1


def test_a_lonely_query_is_taken_its_part_of_the_way_to_its_document():
    # Two opposite queries: seen from their mean, neither is near the other, and each is at distance 1 of the mean.
    queries = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    documents = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    pairs = LabelledPairs(queries, torch.arange(2), torch.arange(2), torch.ones(2))
    fitted = LocalFit(pairs, corpus_of(documents)).on(torch.eye(2), 0.2, 0.25, share=1.0)
    # 1 / (1 + .25) = .8 of the way from (1, 0) to (0, 1)
    torch.testing.assert_close(fitted(queries[:1]), torch.tensor([[0.2, 0.8]]))


@given(st.floats(0.1, 10.0))
def test_the_scale_of_the_linear_map_does_not_matter(factor):
    pairs, corpus = random_pairs(20)
    matrix = torch.eye(DIM) + 0.2 * torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1))
    one, other = (LocalFit(pairs, corpus).on(scale * matrix, 0.3, 0.3, share=1.0) for scale in (1.0, factor))
    torch.testing.assert_close(one(pairs.queries), other(pairs.queries), atol=1e-4, rtol=1e-4)


def test_of_many_queries_a_part_are_keys(monkeypatch):
    monkeypatch.setattr(local, "_MAX_KEYS", 10)
    pairs, corpus = random_pairs(25)
    fitted = LocalFit(pairs, corpus).on(torch.eye(DIM), 0.2, 0.3, share=1.0)
    assert fitted.units is not None and fitted.units.keys.shape == (10, DIM)
    wanted = corpus.rows(pairs.documents)
    assert (fitted(pairs.queries) - wanted).norm() < 0.9 * (pairs.queries - wanted).norm()


def random_map(seed, num_units):
    generator = torch.Generator().manual_seed(seed)
    units = LocalUnits(*(torch.randn(*shape, generator=generator) for shape in ((num_units, DIM), (num_units,))),
                       torch.randn(DIM, num_units, generator=generator))  # fmt: skip
    return QueryMap(torch.eye(DIM) + 0.3 * torch.randn(DIM, DIM, generator=generator), units if num_units else None)


@pytest.mark.parametrize("num_units", [(0, 0), (5, 0), (5, 7)])
def test_an_average_is_the_mean_of_what_its_maps_give(num_units):
    maps = [random_map(seed, number) for seed, number in enumerate(num_units)]
    queries = torch.randn(6, DIM, generator=torch.Generator().manual_seed(9))
    together = averaged(maps, [0.25, 1.0])
    expected = (0.75 * queries + 0.25 * maps[0](queries) + maps[1](queries)) / 2
    torch.testing.assert_close(together(queries), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_units", [0, 5])
def test_the_adapter_of_a_map_folds_into_stock_modules(num_units):
    fitted = random_map(0, num_units)
    adapter = as_adapter(fitted, normalized=False)
    assert isinstance(adapter, QueryAdapter) and adapter.kind == ("mlp" if num_units else "linear")
    queries = torch.randn(6, DIM, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(adapter.transform(queries), fitted(queries), atol=1e-5, rtol=1e-5)
    features = {"sentence_embedding": queries}
    for module in adapter.fold():
        features = module(features)
    torch.testing.assert_close(features["sentence_embedding"], fitted(queries), atol=1e-5, rtol=1e-5)
