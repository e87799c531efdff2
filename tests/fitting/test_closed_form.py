"""Closed forms against NumPy's own solvers and on problems with a known answer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import DIM, rotated_problem
from st_adapter.fitting.closed_form import mix, ridge_to_positives, within_class_whitening
from st_adapter.fitting.pairs import labelled_pairs


def as_numpy(pairs, corpus):
    queries = torch.nn.functional.normalize(pairs.queries)[pairs.rows].double().numpy()
    return queries, corpus[pairs.documents].double().numpy(), pairs.weights.double().numpy()


@given(st.integers(0, 1000), st.sampled_from([0.03, 1.0, 10.0]))
def test_whitening_is_the_scaled_inverse_of_the_regularised_scatter(seed, ridge):
    split = rotated_problem(seed)["train"]
    pairs = labelled_pairs(split)
    queries, documents, weights = as_numpy(pairs, split.corpus.embeddings)
    scatter = (
        sum(w * np.outer(d - q, d - q) for q, d, w in zip(queries, documents, weights, strict=True)) / weights.sum()
    )
    expected = np.linalg.inv(scatter + ridge * np.trace(scatter) / DIM * np.eye(DIM))
    distinct = torch.nn.functional.normalize(pairs.queries).double().numpy()
    expected /= np.linalg.norm(distinct @ expected.T, axis=1).mean()
    ours = within_class_whitening(pairs, split.corpus, ridge).double().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


@given(st.integers(0, 1000), st.sampled_from([0.03, 1.0, 10.0]))
def test_ridge_is_the_least_squares_solution_of_the_stacked_system(seed, ridge):
    split = rotated_problem(seed)["train"]
    pairs = labelled_pairs(split)
    queries, documents, weights = as_numpy(pairs, split.corpus.embeddings)
    root = np.sqrt(weights)[:, None]
    penalty = np.sqrt(ridge * (weights * (queries**2).sum(axis=1)).sum() / DIM)
    stacked = np.concatenate([root * queries, penalty * np.eye(DIM)])
    target = np.concatenate([root * documents, penalty * np.eye(DIM)])
    expected = np.linalg.lstsq(stacked, target, rcond=None)[0].T
    ours = ridge_to_positives(pairs, split.corpus, ridge)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_ridge_undoes_a_rotation():
    embedded = rotated_problem(noise=0.0)
    matrix = ridge_to_positives(labelled_pairs(embedded["train"]), embedded.corpus, 1e-4)
    adapted = embedded["test"].query_embeddings @ matrix.T
    answers = embedded.corpus.embeddings[embedded["test"].qrels.corpus_index]
    torch.testing.assert_close(adapted, answers, atol=0.01, rtol=0)


@pytest.mark.parametrize("solve", [within_class_whitening, ridge_to_positives])
def test_a_large_ridge_is_the_identity(solve):
    split = rotated_problem()["train"]
    matrix = solve(labelled_pairs(split), split.corpus, 1e6)
    torch.testing.assert_close(matrix / matrix[0, 0], torch.eye(DIM), atol=1e-4, rtol=0)


def test_mix_goes_from_the_identity_to_the_matrix():
    matrix = torch.randn(3, 3)
    assert torch.equal(mix(matrix, 0.0), torch.eye(3)) and torch.equal(mix(matrix, 1.0), matrix)
    torch.testing.assert_close(mix(matrix, 0.5), (matrix + torch.eye(3)) / 2)
