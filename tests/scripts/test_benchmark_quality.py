"""The numbers of the quality benchmarks by hand: interval, seen and unseen queries, and the draw of labels."""

import benchmark_label_curve as label_curve
import benchmark_quality as quality
import numpy as np
import pytest
import torch

from problems import dataset_of
from st_adapter.evaluation.seen import seen_documents, seen_queries


def embedded_dataset(num_queries, num_documents, qrels):
    return dataset_of(torch.eye(num_queries, 8), torch.eye(num_documents, 8), qrels)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_is_that_of_the_resampled_mean_difference(sign):
    base = np.full(12, 0.5)
    adapted = base + sign * np.array([0.0, 0.36] + 10 * [0.0])
    part = quality.compare_part(base, adapted)
    # Of 12 draws, k hit the query that changed, k ~ Bin(12, 1/12): P(0) = .352, P(k >= 4) = .0138, P(k >= 5) = .0019.
    # Student's 2.201 for 11 degrees of freedom times sqrt(12 / 11) is 2.299, beyond which the normal has .0108. So the
    # interval ends at k = 0 and k = 4, that is at 0 and 4/12 of .36.
    assert part["interval"] == pytest.approx(sorted([0.0, sign * 0.12]))
    assert part["gain"] == pytest.approx(sign * 0.03) and part["mean"] == pytest.approx(0.5 + sign * 0.03)
    assert (part["wins"], part["losses"]) == ((1, 0) if sign > 0 else (0, 1))
    assert part["p_value"] == 1.0, "one query says nothing"


def test_a_query_is_seen_if_a_document_relevant_to_it_was_relevant_in_train_or_dev():
    embedded = embedded_dataset(
        8,
        4,
        {
            "train": [(0, 0, 1), (0, 2, 0)],  # document 2 is judged not relevant
            "dev": [(1, 1, 2)],
            "test": [
                (3, 0, 1),  # relevant in train
                (4, 1, 1),  # relevant in dev
                (5, 2, 1),  # only judged in train
                (6, 3, 1),  # nowhere, and ...
                (6, 0, 0),  # ... not relevant to this query
                (7, 3, 2),  # nowhere, but ...
                (7, 0, 1),  # ... one of two in train
            ],
        },
    )
    seen = seen_queries(embedded["test"], seen_documents(embedded, ["train", "dev"]))
    assert seen.tolist() == [True, True, False, False, True]

    base, adapted = np.array([0.2, 0.4, 0.6, 0.8, 0.0]), np.array([0.3, 0.6, 0.6, 0.4, 0.6])
    compared = quality.compare(base, adapted, seen)
    assert (compared["num_queries"], compared["gain"]) == (5, 0.1)  # (.1 + .2 + 0 - .4 + .6) / 5
    assert (compared["seen"]["num_queries"], compared["seen"]["gain"]) == (3, 0.3)  # (.1 + .2 + .6) / 3
    assert (compared["unseen"]["num_queries"], compared["unseen"]["gain"]) == (2, -0.2)  # (0 - .4) / 2
    assert quality.compare(base, adapted, np.ones(5, dtype=bool))["unseen"] is None


def test_the_mean_of_runs_counts_those_significantly_below():
    base = np.full(3, 0.5)
    values = [base + 0.3, base - 0.1, base]
    seen = np.ones(3, dtype=bool)
    runs = [{**quality.compare(base, value, seen), "seconds": 1.0} for value in values]
    whole = quality.summary(runs, base, values, seen)
    assert (whole["num_significantly_above"], whole["num_significantly_below"], whole["num_runs"]) == (1, 1, 3)
    assert (whole["gain"], whole["lowest_gain"]) == (0.06667, -0.1)  # (.3 - .1 + 0) / 3


def test_a_draw_of_labels_keeps_the_share_of_dev_and_grows():
    qrels = {
        "train": [(query, query % 5, 1) for query in range(60)] + [(query, 7, 1) for query in range(60)],
        "dev": [(query, 6, 1) for query in range(60, 80)],
        "test": [(query, 6, 1) for query in range(80, 90)],
    }
    embedded = embedded_dataset(90, 8, qrels)
    small, large, again = (label_curve.draw_share(embedded, size, seed) for size, seed in ((8, 0), (40, 0), (8, 1)))
    for split, num_small, num_large in (("train", 6, 30), ("dev", 2, 10)):  # 60 to 20 in all
        assert (len(small[split].query_ids), len(large[split].query_ids)) == (num_small, num_large)
        assert set(small[split].query_ids) < set(large[split].query_ids)
        assert small[split].query_ids != again[split].query_ids
    assert len(small.qrels["train"].query_index) == 12  # both documents of each query
    assert small.qrels["test"] is embedded.qrels["test"]
