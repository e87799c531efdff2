"""A bridge between two models: the maps against other libraries, the choice, and what it becomes in a saved model."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from problems import apply, make_adapter, trained, unit_rows
from st_adapter import QueryAdapter
from st_adapter import bridge as bridge_module
from st_adapter.bridge import Bridge, RadialUnits
from st_adapter.fitting import bridges
from st_adapter.fitting.agreement import Agreement
from st_adapter.fitting.bridges import Twins, fit_bridge
from st_adapter.fitting.closed_form import procrustes, ridge_between
from st_adapter.fitting.local import LocalUnits
from st_adapter.fitting.maps import QueryMap, as_adapter


def two_models(num_texts=300, ours=12, theirs=16, seed=0, noise=0.0):
    """The same texts by two models that are linear functions of the same meaning, and of nothing else but noise."""
    generator = torch.Generator().manual_seed(seed)
    meaning = torch.randn(num_texts, 10, generator=generator)
    x = meaning @ torch.randn(10, ours, generator=generator) + noise * torch.randn(num_texts, ours, generator=generator)
    y = meaning @ torch.randn(10, theirs, generator=generator) + 2.0
    return Twins(torch.nn.functional.normalize(x), torch.nn.functional.normalize(y))


def centred(rows):
    return rows - rows.mean(dim=0)


def test_procrustes_is_that_of_scipy():
    x, y = (centred(unit_rows(300, 16, seed).double()) for seed in (0, 1))
    rotation, scale = orthogonal_procrustes(x.numpy(), y.numpy())
    expected = rotation.T * scale / float(x.square().sum())  # the best scale is the sum of singular values over |x|^2
    np.testing.assert_allclose(procrustes(x.T @ x, y.T @ x).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("ours", [12, 20])
def test_procrustes_between_other_dimensions_keeps_angles_in_the_smaller_space(ours):
    x, y = centred(unit_rows(300, ours).double()), centred(unit_rows(300, 16, seed=1).double())
    matrix = procrustes(x.T @ x, y.T @ x)
    gram = (matrix @ matrix.T if ours > 16 else matrix.T @ matrix).numpy()
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(len(gram)), atol=1e-9)


def test_ridge_is_least_squares_with_rows_for_the_penalty():
    twins = two_models(noise=0.1)
    x, y = centred(twins.ours.double()), centred(twins.theirs.double())
    penalty = 0.3 * float((x.T @ x).trace()) / 12
    rows = np.vstack([x.numpy(), np.sqrt(penalty) * np.eye(12)])
    expected = np.linalg.lstsq(rows, np.vstack([y.numpy(), np.zeros((12, 16))]), rcond=None)[0].T
    np.testing.assert_allclose(ridge_between(x.T @ x, y.T @ x, 0.3).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kinds", ["queries", "documents", "queries and documents"])
def test_texts_find_themselves_in_the_other_models_space(kinds):
    twins = two_models(noise=0.02)
    half = torch.arange(300) % 2 == 0
    queries = twins.subset(half) if "queries" in kinds else None
    documents = twins.subset(~half) if "documents" in kinds else None
    found = fit_bridge(queries, documents, normalize=True)
    unseen = two_models(num_texts=300, noise=0.02).subset(half if queries is None else ~half)
    ranks = (found.bridge(unseen.ours) @ unseen.theirs.T).argmax(dim=1)
    assert (ranks == torch.arange(150)).float().mean() > 0.95
    assert found.agreement > 0.7
    assert found.agreement == pytest.approx(Agreement(unseen.theirs, None).of(found.bridge(unseen.ours)), abs=0.1)
    torch.testing.assert_close(found.bridge(unseen.ours).norm(dim=1), torch.ones(150))
    assert found.name.endswith(f"on {kinds}") or kinds == "queries and documents"
    assert (found.num_queries, found.num_documents) != (0, 0)


def test_a_rotation_is_found_from_few_texts_and_ridge_from_many_that_no_rotation_maps():
    few = unit_rows(60, 32)
    assert fit_bridge(Twins(few, few.flip(1)), None, normalize=True).name.startswith("Procrustes")
    many = two_models(num_texts=2000)
    assert "ridge" in fit_bridge(many, None, normalize=True).name


def bent_models(num_texts, seed):
    """Two models of the same meaning, of which one has its coordinates and the other their squares and products."""
    meaning = unit_rows(num_texts, 4, seed)
    products = torch.einsum("ti,tj->tij", meaning, meaning).flatten(1)
    return Twins(meaning, torch.nn.functional.normalize(products - 0.25 * torch.eye(4).flatten() + 0.3))


def test_what_no_matrix_maps_is_mapped_by_how_near_a_text_is_to_others():
    twins, unseen = bent_models(800, seed=0), bent_models(300, seed=1)
    found, affine = (fit_bridge(twins, None, normalize=True, affine=affine) for affine in (False, True))
    assert found.name.endswith("of radial basis functions on queries") and "radial" not in affine.name
    right, rough = (Agreement(unseen.theirs, None).of(each.bridge(unseen.ours)) for each in (found, affine))
    assert right > 0.9 > 0.1 > rough
    assert found.agreement == pytest.approx(right, abs=0.05)


def test_radial_basis_functions_are_those_of_their_formula():
    normalize = torch.nn.functional.normalize
    centres, directions = (normalize(unit_rows(number, 12, number).double()) for number in (7, 5))
    distances = np.linalg.norm(directions.numpy()[:, None] - centres.numpy()[None], axis=2)
    expected = np.log1p(np.exp(-0.7 * distances**2))
    np.testing.assert_allclose(RadialUnits(centres, 0.7)(directions).numpy(), expected, atol=1e-12)


def test_their_weights_are_least_squares_with_rows_for_the_penalty():
    twins = two_models(noise=0.1)
    (bridge,) = bridges._bridges(
        {"queries": twins}, [bridges._Candidate("queries", bridges._Method("units", 0.1))], bridges._Ends(False)
    )
    assert bridge.units is not None
    x, y = bridge.units(twins.ours).double().numpy(), twins.theirs.double().numpy()
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    penalty = 0.1 * ((x - x_mean) ** 2).sum() / 300
    rows = np.vstack([x - x_mean, np.sqrt(penalty) * np.eye(300)])
    solved = np.linalg.lstsq(rows, np.vstack([y - y_mean, np.zeros((300, 16))]), rcond=None)[0]
    expected = (x - x_mean) @ solved + y_mean
    np.testing.assert_allclose(bridge(twins.ours).numpy(), expected, atol=1e-4)


def test_of_very_many_texts_some_are_fitted_on(monkeypatch):
    twins, unseen = bent_models(800, seed=0), bent_models(300, seed=1)
    monkeypatch.setattr(bridges, "_MAX_IN_UNITS", 400)
    found = fit_bridge(twins, None, normalize=True)
    assert "radial" in found.name and len(found.bridge.units.centres) == found.num_queries == 400
    assert Agreement(unseen.theirs, None).of(found.bridge(unseen.ours)) > 0.9


@pytest.mark.parametrize(
    ("queries", "documents", "expected"), [(5000, 5000, (2048, 2048)), (100, 5000, (100, 3996)), (30, 20, (30, 20))]
)
def test_there_are_units_around_queries_and_documents_alike(queries, documents, expected):
    used = [
        Twins(unit_rows(number, 8, seed), unit_rows(number, 4, seed)) for seed, number in ((0, queries), (1, documents))
    ]
    units = bridges._units_of(used)
    there = [set(map(tuple, twins.ours.tolist())) for twins in used]
    centres = [tuple(row) for row in units.centres.tolist()]
    assert len(set(centres)) == len(centres)
    assert tuple(sum(row in kind for row in centres) for kind in there) == expected


@pytest.mark.parametrize("normalize", [True, False])
def test_a_map_of_vectors_of_any_length_is_one_of_each_token(normalize):
    """The mean of mapped rows is the mapped mean, so that a table can take the map in."""
    twins = two_models(noise=0.1)
    found = fit_bridge(Twins(3 * twins.ours, twins.theirs), None, normalize=normalize, affine=True, of_length=True)
    assert Agreement(twins.theirs, None).of(found.bridge(3 * twins.ours)) > 0.7
    rows = torch.randn(100, 3, 12, generator=torch.Generator().manual_seed(0))
    means = (rows @ found.bridge.matrix.T + found.bridge.bias).mean(dim=1)
    expected = torch.nn.functional.normalize(means) if normalize else means
    torch.testing.assert_close(found.bridge(rows.mean(dim=1)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_that_are_right_already_are_taken_as_they_are(normalize):
    """A map from few texts would only add its own noise."""
    right = 2 * unit_rows(120, 64)
    ours = right + 1.5 * unit_rows(120, 64, seed=1)
    found = fit_bridge(Twins(ours[:60], right[:60]), Twins(ours[60:], right[60:]), normalize=normalize)
    assert (found.name, found.num_queries, found.num_documents) == ("no map, vectors as they are", 0, 0)
    expected = torch.nn.functional.normalize(ours) * (1 if normalize else 2)
    torch.testing.assert_close(found.bridge(ours), expected)
    torch.testing.assert_close(found.held_out, expected[:60])
    of_length = fit_bridge(Twins(ours, right), None, normalize=normalize, affine=True, of_length=True)
    assert of_length.name == found.name
    torch.testing.assert_close(of_length.bridge(ours), torch.nn.functional.normalize(ours) if normalize else ours)


def test_where_nothing_can_be_told_apart_a_map_is_fitted():
    """Any query finds the only document first."""
    right = unit_rows(300, 16)
    found = fit_bridge(Twins(right.flip(1), right), None, ranked=right[:1], normalize=True)
    assert found.agreement == 1.0
    torch.testing.assert_close(found.bridge(right.flip(1)), right, rtol=0, atol=0.02)


@pytest.mark.parametrize("with_texts", [True, False])
def test_agreement_is_that_of_held_out_queries_on_the_documents(with_texts):
    twins = two_models(num_texts=400, ours=20, theirs=16, noise=0.5)
    queries, documents = (twins.subset((torch.arange(400) < 200) == first) for first in (True, False))
    ranked = None if with_texts else documents.theirs
    found = fit_bridge(queries, documents if with_texts else None, ranked=ranked, normalize=True)
    # Folds are equally large, so that the mean of theirs is that of all.
    assert found.agreement == pytest.approx(Agreement(queries.theirs, documents.theirs).of(found.held_out), abs=1e-6)
    assert found.agreement > 0.2


def test_too_few_texts_are_refused():
    twins = two_models(num_texts=49)
    with pytest.raises(ValueError, match="Fewer than 50 texts are embedded by both models"):
        fit_bridge(twins, None, normalize=True)


def test_held_out_queries_are_mapped_by_bridges_that_did_not_see_them():
    # Nothing connects the two sides, so that whatever a bridge finds, it has learned by heart.
    noise = Twins(unit_rows(120, 40), unit_rows(120, 40, seed=1))
    found = fit_bridge(noise, None, normalize=True)
    by_heart = (found.bridge(noise.ours) * noise.theirs).sum(dim=1).mean()
    held_out = (found.held_out * noise.theirs).sum(dim=1).mean()
    assert by_heart > 0.3
    assert abs(held_out) < 0.1
    assert fit_bridge(None, two_models(), normalize=True).held_out is None


def test_the_length_of_our_vectors_plays_no_part():
    twins = two_models()
    longer = Twins(3 * twins.ours, twins.theirs)
    first, second = (fit_bridge(each, None, normalize=True).bridge for each in (twins, longer))
    torch.testing.assert_close(first(twins.ours), second(longer.ours))


# In a saved model

BRIDGE = Bridge(torch.randn(32, 12, generator=torch.Generator().manual_seed(1)), torch.full((32,), 0.1), True)
UNITS = RadialUnits(unit_rows(40, 12, seed=2), 0.8)


BESIDE = unit_rows(32, 12, seed=3)


@pytest.mark.parametrize(
    ("units", "of_length", "beside"),
    [(None, False, None), (UNITS, False, None), (UNITS, False, BESIDE), (None, True, None)],
)
@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
@pytest.mark.parametrize("normalize", [True, False])
def test_folded_it_is_bridge_and_adapter(kind, normalize, units, of_length, beside):
    adapter = make_adapter(kind, normalize=normalize)
    matrix = BRIDGE.matrix if units is None else torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    bridge = Bridge(matrix, BRIDGE.bias, normalize, units, of_length, beside)
    queries = 3 * unit_rows(20, 12)
    modules = bridge.fold(adapter)
    torch.testing.assert_close(apply(modules, queries), adapter.transform(bridge(queries)), atol=1e-5, rtol=1e-4)
    names = [type(module).__name__ for module in modules]
    first = ["Dense"] if of_length else ["Normalize", "Dense"]
    assert names[: len(first)] == first
    assert names.count("Dense") == (3 if kind == "mlp" else 1) + (units is not None)
    assert bridge.input_dimension == 12 and bridge.padded(40).input_dimension == 12
    torch.testing.assert_close(bridge.padded(40)(queries)[:, :32], bridge(queries))


def test_what_is_beside_units_is_added_to_what_they_give():
    directions = unit_rows(5, 12)
    matrix = torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    bridge = Bridge(matrix, BRIDGE.bias, False, UNITS, beside=BESIDE)
    expected = UNITS(directions).numpy() @ matrix.numpy().T + directions.numpy() @ BESIDE.numpy().T + 0.1
    np.testing.assert_allclose(bridge(3 * directions).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("units", "beside"), [(None, BESIDE), (UNITS, BESIDE.T)])
def test_what_is_beside_units_needs_some_and_their_shape(units, beside):
    with pytest.raises(ValueError, match=r"beside its units, but one of \(32, 12\) is expected"):
        Bridge(BRIDGE.matrix if units is None else torch.randn(32, 40), BRIDGE.bias, True, units, beside=beside)


def test_corrections_near_known_queries_see_vectors_of_unit_length():
    keys = unit_rows(3, 32)
    units = LocalUnits(keys, torch.full((3,), 0.1), 0.5 * unit_rows(3, 32, seed=1).T)
    adapter = as_adapter(QueryMap(torch.eye(32), units), normalized=True)
    queries = unit_rows(20, 12)
    expected = adapter.transform(BRIDGE(queries))
    torch.testing.assert_close(apply(BRIDGE.fold(adapter), queries), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, BRIDGE(queries), atol=1e-2)  # they do something


def test_a_bias_of_the_adapter_keeps_the_length_between():
    adapter = trained(QueryAdapter(32, bias=True))
    queries = unit_rows(20, 12)
    expected = adapter.transform(BRIDGE(queries))
    torch.testing.assert_close(apply(BRIDGE.fold(adapter), queries), expected, atol=1e-5, rtol=1e-4)


def test_padded_it_gives_zeros_behind():
    queries = unit_rows(5, 12)
    padded = BRIDGE.padded(40)(queries)
    torch.testing.assert_close(padded[:, :32], BRIDGE(queries))
    assert not padded[:, 32:].any()


@pytest.mark.parametrize(
    ("matrix", "bias", "message"),
    [
        (torch.eye(3), torch.zeros(2), r"matrix of shape \(3, 3\) and a bias of \(2,\)"),
        (torch.eye(3) / 0, torch.zeros(3), "The bridge's matrix has 9 NaN or infinite values"),
    ],
)
def test_what_is_no_map_is_refused(matrix, bias, message):
    with pytest.raises(ValueError, match=message):
        Bridge(matrix, bias, True)


def test_units_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"matrix of shape \(32, 12\) and 40 units, but a column for each"):
        Bridge(BRIDGE.matrix, BRIDGE.bias, True, UNITS)
    with pytest.raises(ValueError, match="The bridge's centres has 480 NaN or infinite values"):
        Bridge(torch.zeros(32, 40), BRIDGE.bias, True, RadialUnits(UNITS.centres / 0, 1.0))
    with pytest.raises(ValueError, match="has units and is one of vectors of any length"):
        Bridge(torch.zeros(32, 40), BRIDGE.bias, True, UNITS, of_length=True)
    assert fit_bridge(bent_models(800, seed=0), None, normalize=True, of_length=True).bridge.units is None


@pytest.mark.parametrize("units", [None, UNITS], ids=["affine", "units"])
def test_many_queries_are_mapped_in_blocks(units, monkeypatch):
    bridge = Bridge(torch.randn(32, 12 if units is None else 40), BRIDGE.bias, True, units)
    queries = unit_rows(20, 12)
    at_once = bridge(queries)
    monkeypatch.setattr(bridge_module, "_BLOCK_ROWS", 7)
    torch.testing.assert_close(bridge(queries), at_once)
    assert bridge(queries[:0]).shape == (0, 32)


def test_copies_of_a_text_are_held_out_together():
    """Nothing connects the two sides, so that whoever saw a copy would know what no other text tells."""
    noise = Twins(unit_rows(200, 40).repeat(2, 1), unit_rows(200, 40, seed=1).repeat(2, 1))
    found = fit_bridge(noise, None, normalize=True)
    assert abs((found.held_out * noise.theirs).sum(dim=1).mean()) < 0.1
    one = Twins(unit_rows(1, 40).repeat(60, 1), unit_rows(60, 40))
    found = fit_bridge(one, None, normalize=True)
    torch.testing.assert_close(found.held_out, found.bridge(one.ours))


def test_vectors_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 32\), but this bridge expects \(B, 12\)"):
        BRIDGE(unit_rows(5, 32))
