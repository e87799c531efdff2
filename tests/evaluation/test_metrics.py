"""Metrics against hand-worked numbers, ir_measures and Sentence Transformers' own evaluator."""

import math
import tracemalloc

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from st_adapter.evaluation.metrics import ranking_metrics, run_metrics


def test_hand_worked_graded_ranking():
    # Retrieved: grade 0, 3, unjudged, 1; judged: 3, 1, 2 and a 0.
    metrics = ranking_metrics(np.array([[0.0, 3.0, 0.0, 1.0]]), np.array([[3.0, 1.0, 2.0, 0.0]]), ks=[1, 2, 4])
    dcg = 3 / math.log2(3) + 1 / math.log2(5)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg@4"][0] == pytest.approx(dcg / ideal, abs=1e-12)
    assert metrics["ndcg@1"][0] == 0
    assert metrics["mrr@1"][0] == 0 and metrics["mrr@4"][0] == 1 / 2
    assert metrics["accuracy@1"][0] == 0 and metrics["accuracy@2"][0] == 1
    assert metrics["recall@2"][0] == pytest.approx(1 / 3) and metrics["recall@4"][0] == pytest.approx(2 / 3)
    assert metrics["precision@4"][0] == 2 / 4
    assert metrics["map@4"][0] == pytest.approx((1 / 2 + 2 / 4) / 3)  # two of three relevant ones found, at 2 and 4


def test_a_query_without_a_relevant_document_scores_zero():
    metrics = ranking_metrics(np.array([[0.0, 0.0]]), np.array([[0.0, -1.0]]), ks=[2])
    assert {name: float(values[0]) for name, values in metrics.items()} == dict.fromkeys(metrics, 0.0)


@st.composite
def graded_runs(draw, max_grade):
    """Random qrels and runs; scores are few integers, so ties abound."""
    documents = [f"d{number}" for number in range(draw(st.integers(1, 12)))]
    qrels, run = {}, {}
    for query_id in [f"q{number}" for number in range(draw(st.integers(1, 4)))]:
        judged = draw(st.lists(st.sampled_from(documents), min_size=1, unique=True))
        qrels[query_id] = {corpus_id: draw(st.integers(0, max_grade)) for corpus_id in judged}
        qrels[query_id][judged[0]] = max(1, qrels[query_id][judged[0]])
        retrieved = draw(st.lists(st.sampled_from(documents), min_size=1, unique=True))
        run[query_id] = {corpus_id: float(draw(st.integers(0, 3))) for corpus_id in retrieved}
    return qrels, run


def without_ties(run):
    """The same ranking with distinct scores, since trec_eval breaks ties by document id instead of by order."""
    ranked = {query_id: sorted(scores, key=lambda c, s=scores: -s[c]) for query_id, scores in run.items()}
    return {query_id: {c: float(-rank) for rank, c in enumerate(ids)} for query_id, ids in ranked.items()}


@given(graded_runs(max_grade=3))
def test_equal_to_ir_measures_on_graded_runs_with_ties(sample):
    qrels, run = sample
    names = {"ndcg": nDCG, "mrr": RR, "accuracy": Success, "recall": R, "precision": P, "map": AP}
    ours = run_metrics(qrels, run, ks=[1, 3, 10])
    theirs = {name: {measure @ k: f"{name}@{k}" for k in (1, 3, 10)} for name, measure in names.items()}
    expected = {key: name for group in theirs.values() for key, name in group.items()}
    values = list(ir_measures.iter_calc(list(expected), qrels, without_ties(run)))
    assert len(values) == len(expected) * len(qrels)
    for value in values:
        assert ours[expected[value.measure]][value.query_id] == pytest.approx(value.value, abs=1e-9)


@given(graded_runs(max_grade=1))
def test_equal_to_sentence_transformers_on_binary_runs(sample):
    qrels, run = sample
    relevant = {q: {c for c, grade in grades.items() if grade > 0} for q, grades in qrels.items()}
    documents = {c for grades in [*qrels.values(), *run.values()] for c in grades}
    ks = [1, 3, 12]
    evaluator = InformationRetrievalEvaluator(
        queries={q: q for q in qrels},
        corpus={c: c for c in documents},
        relevant_docs=relevant,
        mrr_at_k=ks,
        ndcg_at_k=ks,
        accuracy_at_k=ks,
        precision_recall_at_k=ks,
        map_at_k=[12],  # its MAP@k divides by k if fewer than all relevant documents fit; at 12 they always do
    )
    ranked = without_ties(run)
    hits = [[{"corpus_id": c, "score": s} for c, s in ranked[q].items()] for q in evaluator.queries_ids]
    theirs = evaluator.compute_metrics(hits)
    ours = {name: np.mean(list(values.values())) for name, values in run_metrics(qrels, run, ks).items()}
    for name in ("ndcg", "mrr", "accuracy", "precision", "recall"):
        for k in ks:
            assert ours[f"{name}@{k}"] == pytest.approx(float(theirs[f"{name}@k"][k]), abs=1e-9)
    assert ours["map@12"] == pytest.approx(float(theirs["map@k"][12]), abs=1e-9)


@given(graded_runs(max_grade=3))
def test_every_metric_is_a_fraction_and_grows_with_k_where_it_must(sample):
    qrels, run = sample
    metrics = run_metrics(qrels, run, ks=[1, 3, 10])
    assert all(0 <= value <= 1 for values in metrics.values() for value in values.values())
    for name in ("mrr", "accuracy", "recall", "map"):
        for query_id in qrels:
            assert metrics[f"{name}@1"][query_id] <= metrics[f"{name}@3"][query_id] <= metrics[f"{name}@10"][query_id]


def test_a_judged_query_that_retrieved_nothing_counts_as_zero():
    assert run_metrics({"q": {"a": 1}, "r": {"a": 1}}, {"q": {"a": 1.0}}, ks=[1])["ndcg@1"] == {"q": 1.0, "r": 0.0}


def test_bad_input():
    with pytest.raises(ValueError, match=r"qrels is empty"):
        run_metrics({}, {})
    with pytest.raises(ValueError, match=r"2 queries of the run have no judgements, the first: \['x', 'y'\]"):
        run_metrics({"q": {"a": 1}}, {"x": {}, "y": {}})
    with pytest.raises(ValueError, match=r"relevance has 1 queries, but judged_relevance has 2"):
        ranking_metrics(np.zeros((1, 1)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"Cut-offs must be at least 1"):
        ranking_metrics(np.zeros((1, 1)), np.zeros((1, 1)), ks=[0])


judged_rows = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]), min_size=9, max_size=9), min_size=1)


@given(judged_rows, st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_the_best_gains_and_their_number_are_enough(rows, ks):
    judged = np.array(rows)
    gains = np.roll(judged, 1, axis=1)[:, :6]
    best = -np.sort(-judged, axis=1)[:, : max(ks)]
    whole = ranking_metrics(gains, judged, ks)
    for name, values in ranking_metrics(gains, best, ks, num_relevant=(judged > 0).sum(axis=1)).items():
        np.testing.assert_array_equal(values, whole[name])


def test_one_query_of_many_judgements_makes_no_other_row_longer():
    qrels = {f"q{n}": {"d0": 1.0} for n in range(3000)}
    qrels["many"] = {f"d{n}": float(n % 4) for n in range(100_000)}
    run = {"many": {f"d{n}": -float(n) for n in range(100_000)}, "q7": {"d1": 2.0, "d0": 1.0}}
    tracemalloc.start()
    metrics = run_metrics(qrels, run, ks=[10, 100])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, "3,001 rows of 100,000 numbers are 2.4 GB"
    assert metrics["recall@100"]["many"] == pytest.approx(75 / 75_000) and metrics["mrr@10"]["q7"] == 0.5
