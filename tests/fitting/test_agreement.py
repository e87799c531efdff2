"""How alike rankings are: against a slow loop, and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from problems import unit_rows
from st_adapter.fitting.agreement import Agreement


def slowly(ours, theirs, documents, depth=10):
    """Average overlap of one query after the other, with sets."""
    total = 0.0
    for mine, right in zip(ours, theirs, strict=True):
        first, second = (
            torch.cosine_similarity(query, documents, dim=1).argsort(descending=True) for query in (mine, right)
        )
        depths = range(1, min(depth, len(documents)) + 1)
        total += sum(len({*first[:d].tolist()} & {*second[:d].tolist()}) / d for d in depths) / len(depths)
    return total / len(ours)


@given(seed=st.integers(0, 99), num_documents=st.integers(1, 30), num_queries=st.integers(1, 5))
def test_it_is_the_mean_of_shares_that_a_slow_loop_counts(seed, num_documents, num_queries):
    documents = unit_rows(num_documents, 6, seed) * 3.0
    theirs, ours = unit_rows(num_queries, 6, seed + 100), unit_rows(num_queries, 6, seed + 200) * 0.1
    assert Agreement(theirs, documents).of(ours) == pytest.approx(slowly(ours, theirs, documents), abs=1e-6)


def test_what_is_found_first_counts_more_than_what_is_found_later():
    documents = torch.eye(12)
    theirs = torch.arange(12.0, 0.0, -1.0).unsqueeze(0)
    ends = {(0, 1): "first two", (8, 9): "ninth and tenth"}
    values = []
    for one, other in ends:
        swapped = theirs.clone()
        swapped[0, [one, other]] = theirs[0, [other, one]]
        values.append(Agreement(theirs, documents).of(swapped))
    assert Agreement(theirs, documents).of(theirs) == 1.0
    # Swapping ranks d and d + 1 takes 1 of d documents away at depth d, and nothing elsewhere.
    assert values == pytest.approx([1 - 1 / 10, 1 - 1 / 9 / 10])
