"""A bridge that is taught what both models find: what it learns, and that no query is mapped by what it taught."""

import pytest
import torch

from problems import unit_rows
from st_adapter.fitting import bridges
from st_adapter.fitting.agreement import Agreement
from st_adapter.fitting.bridges import FittedBridge, Twins, fit_bridge
from st_adapter.fitting.taught_bridge import taught_by_both

normalize = torch.nn.functional.normalize


def stronger_model(num_queries=300, num_documents=400, seed=0):
    """Queries and documents by a model that knows what they mean, and by one that takes half of it for unimportant.

    Returns the two as twins, and the document that is meant by each query.
    """
    generator = torch.Generator().manual_seed(seed)
    world = torch.Generator().manual_seed(100)
    documents = torch.randn(num_documents, 16, generator=world)
    relevant = torch.randint(num_documents, (num_queries,), generator=generator)
    queries = documents[relevant] + 0.5 * torch.randn(num_queries, 16, generator=generator)
    mix = torch.randn(16, 12, generator=world)
    heard = queries * torch.linspace(0, 2, 16)
    return (
        Twins(normalize(queries), normalize(heard @ mix)),
        Twins(normalize(documents), normalize(documents @ mix)),
        relevant,
    )


def found_first(vectors, documents, relevant):
    return float(((vectors @ documents.theirs.T).argmax(dim=1) == relevant).float().mean())


def test_of_a_stronger_query_model_more_is_kept_than_the_other_models_vectors_say():
    queries, documents, relevant = stronger_model()
    found = fit_bridge(queries, documents, normalize=True)
    taught = taught_by_both(found, queries, documents)
    unseen, _, meant = stronger_model(seed=1)
    before, after = (found_first(each.bridge(unseen.ours), documents, meant) for each in (found, taught))
    assert after > before + 0.1
    assert after > found_first(unseen.theirs, documents, meant)
    held_out = found_first(taught.held_out, documents, relevant)
    assert held_out == pytest.approx(after, abs=0.1)
    assert taught.name == f"{found.name}, taught by both models' rankings"
    assert (taught.num_queries, taught.num_documents) == (300, 400)
    alike = Agreement(unseen.theirs, documents.theirs).of(taught.bridge(unseen.ours))
    assert taught.agreement == pytest.approx(alike, abs=0.1)
    torch.testing.assert_close(taught.held_out.norm(dim=1), torch.ones(300))


def with_units(queries, documents):
    """As ``fit_bridge`` makes it where it chooses radial basis functions."""
    candidate = bridges._Candidate("queries and documents", bridges._Method("units", 0.001))
    there = {"queries": queries, "documents": documents}
    (bridge,) = bridges._bridges(there, [candidate], bridges._Ends(True))
    folds = list(bridges.folds_of_texts(queries.ours, 0))
    mapped = bridges._mapped_by_others(there, folds, candidate, bridge, bridges._Ends(True))
    return FittedBridge(bridge, "radial basis functions", 300, 400, 1.0, mapped)


@pytest.mark.parametrize("kind", ["affine", "of length", "units"])
def test_the_map_of_queries_to_come_is_near_to_those_of_the_folds(kind):
    queries, documents, _ = stronger_model()
    if kind == "units":
        found = with_units(queries, documents)
    else:
        queries = queries._replace(ours=queries.ours * 3.0)
        found = fit_bridge(queries, documents, normalize=True, affine=True, of_length=kind == "of length")
    taught = taught_by_both(found, queries, documents)
    assert (taught.bridge.beside is not None) == (kind == "units")
    assert taught.bridge.of_length == (kind == "of length")
    cosines = (taught.bridge(queries.ours) * taught.held_out).sum(dim=1)
    assert cosines.mean() > 0.95


@pytest.mark.parametrize("length", [1.0, 6.0])
def test_it_is_as_long_as_the_bridge_whatever_the_length_of_the_documents(length):
    queries, documents, _ = stronger_model()
    queries, documents = (Twins(each.ours, each.theirs * length) for each in (queries, documents))
    found = fit_bridge(queries, documents, normalize=False)
    taught = taught_by_both(found, queries, documents)
    as_before, now = (each.bridge(queries.ours).norm(dim=1).mean() for each in (found, taught))
    assert now == pytest.approx(float(as_before), rel=0.5)
    assert taught.held_out.norm(dim=1).mean() == pytest.approx(float(now), rel=0.1)
    unit = stronger_model()
    plain = taught_by_both(fit_bridge(unit[0], unit[1], normalize=False), unit[0], unit[1])
    torch.testing.assert_close(taught.held_out / length, plain.held_out, rtol=1e-2, atol=1e-3)


def test_no_query_is_mapped_by_what_it_taught():
    queries, documents, _ = stronger_model()
    found = fit_bridge(queries, documents, normalize=True, affine=True)
    other = Twins(queries.ours, queries.theirs.clone())
    other.theirs[0] = -other.theirs[0]
    before, after = (taught_by_both(found, each, documents).mapped_by_others for each in (queries, other))
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)
    assert (before != after).any(dim=1).float().mean() > 0.5  # the other folds learned from it


def test_what_finds_nothing_more_is_left_out():
    queries, documents, _ = stronger_model()
    found = fit_bridge(queries, documents, normalize=True, affine=True)
    noise = Twins(unit_rows(300, 16, seed=5), queries.theirs), Twins(unit_rows(400, 16, seed=6), documents.theirs)
    assert taught_by_both(found, *noise) is None


@pytest.mark.parametrize("missing", ["queries", "documents"])
def test_without_queries_or_documents_nothing_is_taught(missing):
    queries, documents, _ = stronger_model()
    kept = torch.arange(400) < 49
    if missing == "documents":
        found = fit_bridge(queries, None, normalize=True)
        assert taught_by_both(found, queries, documents.subset(kept)) is None
    else:
        found = fit_bridge(None, documents, normalize=True)
        assert isinstance(found, FittedBridge)
        assert taught_by_both(found, queries, documents) is None
