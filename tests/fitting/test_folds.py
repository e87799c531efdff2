"""Folds against a slow reading of what they promise."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import corpus_of, dataset_of
from st_adapter.fitting.folds import asked_once_share, cross_fit_folds, labelled_split, shown_by_dev, unasked_share


def judged(train, dev, num_queries=40, num_documents=25):
    """Judgements as {(query, document): grade} a split; embeddings do not matter here."""
    rows = torch.randn(num_queries + num_documents, 8, generator=torch.Generator().manual_seed(0))
    return dataset_of(rows[:num_queries], rows[num_queries:], {"train": train, "dev": dev}, normalized=False)


@st.composite
def datasets_with_labels(draw):
    drawn = draw(st.dictionaries(st.tuples(st.integers(0, 39), st.integers(0, 24)), st.sampled_from([0, 1, 2])))
    train = {(q, d): grade for (q, d), grade in drawn.items() if q % 4} | {(1, 0): 1, (2, 0): 2, (3, 5): 1}
    dev = {(q, d): grade for (q, d), grade in drawn.items() if q % 4 == 0} | {(0, 5): 1, (4, 6): 1}
    return judged(train, dev)


@settings(max_examples=60)
@given(datasets_with_labels(), st.sampled_from([0.3, 0.6, 1.0]), st.integers(0, 2**31))
def test_no_fold_measures_what_it_trained_on_and_unseen_means_unseen(dataset, unseen_weight, seed):
    labelled = labelled_split(dataset)
    documents = {row: set() for row in range(len(labelled.query_ids))}
    for query, document, _ in zip(*(part.tolist() for part in labelled.qrels), strict=True):
        documents[query].add(document)
    measured = torch.zeros(len(documents), dtype=torch.int64)
    folds = list(cross_fit_folds(labelled, unseen_weight, torch.Generator().manual_seed(seed)))
    for fold in folds:
        assert not (fold.train & fold.measured).any()
        measured += fold.measured
        known = set().union(*(documents[row] for row in fold.train.nonzero().squeeze(1).tolist()))
        for row in fold.measured.nonzero().squeeze(1).tolist():
            assert bool(fold.unseen[row]) == (not documents[row] & known)
            if unseen_weight == 1.0 and len(documents[row]) == 1:
                assert fold.unseen[row], "every document is held out in its fold"
    assert (measured <= 3).all(), "few labels: three rounds, each query once a round"


def test_the_unseen_queries_come_near_their_weight():
    # 1,000 queries, each for one of 100 documents: without holding documents out all of them would be seen.
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(0, 100, (1000,), generator=generator).tolist()
    train = {(query, document): 1 for query, document in enumerate(answers) if query % 5}
    dev = {(query, document): 1 for query, document in enumerate(answers) if query % 5 == 0}
    labelled = labelled_split(judged(train, dev, 1000, 100))
    folds = list(cross_fit_folds(labelled, 0.3, generator))
    assert len(folds) == 3 and sum(int(fold.measured.sum()) for fold in folds) == 1000
    assert sum(int((fold.unseen & fold.measured).sum()) for fold in folds) == pytest.approx(300, abs=120)


def test_dev_shows_the_share_of_queries_whose_documents_train_never_asked_for():
    train = {(1, 0): 1, (2, 1): 0, (3, 2): 1}
    dev = {(4, 0): 1, (5, 1): 1, (6, 2): 1, (6, 9): 1, (7, 9): 1, (8, 0): 0, (8, 9): 2}
    # Seen: 4 (by 0) and 6 (by 2). Unseen: 5 (1 was judged not relevant), 7, and 8 (its judgement of 0 is no positive).
    shown = shown_by_dev(judged(train, dev))
    assert shown.unseen == pytest.approx(3 / 5)
    # The usual tables: 3 of 5 is .147 to .947.
    assert (shown.at_least, shown.at_most) == pytest.approx((0.147, 0.947), abs=0.001)
    assert shown.query_ids == {"q4", "q5", "q6", "q7", "q8"}


def test_queries_whose_documents_nobody_else_asks_for_are_counted():
    # d0 is asked for by two queries, d1, d2 and d3 by one each; the third query has one of either kind.
    labelled = labelled_split(judged({(0, 0): 1, (1, 0): 1, (2, 0): 1, (2, 1): 1, (3, 2): 1}, {(4, 3): 1}))
    assert asked_once_share(labelled) == pytest.approx(2 / 5)


def test_unasked_documents_are_counted_with_what_they_stand_for():
    labelled = labelled_split(judged({(1, 0): 1, (2, 3): 1}, {(3, 3): 1}))
    assert unasked_share(labelled) == pytest.approx(1 - 2 / len(labelled.corpus))
    weights = torch.full((len(labelled.corpus),), 10.0)
    weights[[0, 3]] = 1.0
    weighted = replace(labelled, corpus=replace(labelled.corpus, stands_for=weights))
    assert unasked_share(weighted) == pytest.approx(1 - 2 / (2 + 10 * (len(labelled.corpus) - 2)))


def test_a_pair_judged_in_both_splits_counts_once_with_its_higher_grade():
    labelled = labelled_split(judged({(1, 0): 1, (2, 3): 0}, {(1, 0): 3, (4, 3): 1}))
    pairs = zip(*(part.tolist() for part in labelled.qrels), strict=True)
    assert {(labelled.query_ids[q], d, r) for q, d, r in pairs} == {("q1", 0, 3.0), ("q4", 3, 1.0)}


def test_nothing_relevant_is_an_error():
    with pytest.raises(ValueError, match=r"The split 'dev' has no relevant pair"):
        labelled_split(judged({(1, 0): 1}, {(2, 0): 0}))


def test_copies_of_a_query_share_a_fold():
    # Queries 2n and 2n + 1 are the same text but for case, say: equal vectors up to rounding.
    generator = torch.Generator().manual_seed(0)
    half = torch.nn.functional.normalize(torch.randn(100, 16, generator=generator))
    queries = half.repeat_interleave(2, dim=0) + 1e-7 * torch.randn(200, 16, generator=generator)
    dataset = judged({(q, q % 25): 1 for q in range(150)}, {(q, q % 25): 1 for q in range(150, 200)}, 200)
    labelled = replace(labelled_split(dataset), query_embeddings=queries, corpus=corpus_of(torch.eye(25, 16) + 1))
    for fold in cross_fit_folds(labelled, 0.3, generator):
        assert torch.equal(fold.measured[0::2], fold.measured[1::2])
        assert not (fold.train[0::2] & fold.measured[1::2]).any()
