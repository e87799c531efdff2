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
    for pair in zip(ours, theirs, strict=True):
        first, second = ((documents @ query).argsort(descending=True).tolist() for query in pair)
        depths = range(1, min(depth, len(documents)) + 1)
        total += sum(len({*first[:d]} & {*second[:d]}) / d for d in depths) / len(depths)
    return total / len(ours)


@given(seed=st.integers(0, 99), num_documents=st.integers(1, 30), num_queries=st.integers(1, 5))
def test_it_is_the_mean_of_shares_that_a_slow_loop_counts(seed, num_documents, num_queries):
    # Documents of other lengths are other documents, where the similarity is the dot product.
    documents = unit_rows(num_documents, 6, seed) * torch.linspace(0.5, 4.0, num_documents).unsqueeze(1)
    theirs, ours = unit_rows(num_queries, 6, seed + 100), unit_rows(num_queries, 6, seed + 200) * 0.1
    assert Agreement(theirs, documents).of(ours) == pytest.approx(slowly(ours, theirs, documents), abs=1e-6)


# Swapping ranks d and d + 1 takes 1 of d documents away at depth d, and nothing elsewhere.
@pytest.mark.parametrize(("ranks", "expected"), [((1, 2), 1 - 1 / 10), ((9, 10), 1 - 1 / 9 / 10)])
def test_what_is_found_first_counts_more_than_what_is_found_later(ranks, expected):
    theirs = torch.arange(12.0, 0.0, -1.0).unsqueeze(0)
    swapped = theirs.clone()
    places = [rank - 1 for rank in ranks]
    swapped[0, places] = theirs[0, places[::-1]]
    agreement = Agreement(theirs, torch.eye(12))
    assert (agreement.of(theirs), agreement.of(swapped)) == (1.0, pytest.approx(expected))
