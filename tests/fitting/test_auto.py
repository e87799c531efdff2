"""The whole fit on problems whose answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import DIM, rotated_problem
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import portfolio
from st_adapter.fitting.auto import fit


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    """Tiny problems need few steps."""
    monkeypatch.setattr(portfolio, "_CHECKPOINTS", (10, 30))


def with_wrong_labels(embedded, seed=0):
    """The same data with documents dealt out to the queries at random."""
    generator = torch.Generator().manual_seed(seed)
    qrels = {
        split: judged._replace(
            corpus_index=judged.corpus_index[torch.randperm(len(judged.corpus_index), generator=generator)]
        )
        for split, judged in embedded.qrels.items()
    }
    return replace(embedded, qrels=qrels)


@pytest.mark.parametrize("method", ["auto", "closed-form"])
def test_a_useful_adapter_is_found_and_its_gain_estimated(method):
    embedded = rotated_problem(noise=0.15)
    result = fit(embedded, method=method)
    assert result.adopted and result.verdict.gate.p_value <= 0.05
    test = evaluate(embedded["test"], result.adapter)
    gain = test.adapted_means["ndcg@10"] - test.base_means["ndcg@10"]
    assert gain > 0.05
    assert gain == pytest.approx(result.verdict.gate.gain, abs=0.15)
    assert result.chosen.startswith(("closed form", "ridge to positives")) or method == "auto"
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("seed", range(5))
def test_labels_without_meaning_leave_the_base_model_in_place(seed):
    result = fit(with_wrong_labels(rotated_problem(seed), seed), seed=seed)
    assert not result.adopted and result.adapter is None
    assert "better than the base model" in result.verdict.gate.reason or "worse" in result.verdict.gate.reason


def test_a_model_at_its_ceiling_is_left_alone():
    embedded = rotated_problem()
    documents = embedded.corpus.embeddings
    answers = torch.cat([embedded.qrels[split].corpus_index for split in ("train", "dev", "test")])
    result = fit(replace(embedded, query_embeddings=documents[answers]))
    assert not result.adopted and result.verdict.base == 1


@pytest.mark.parametrize("num_labels", [2, 5, 30])
def test_few_labels_are_no_error(num_labels):
    embedded = rotated_problem()
    qrels = {split: type(q)(*(part[:num_labels] for part in q)) for split, q in embedded.qrels.items()}
    result = fit(replace(embedded, qrels=qrels))
    assert result.verdict.num_seen + result.verdict.num_unseen >= num_labels


def test_seeds_repeat_a_fit_and_the_test_split_is_never_looked_at():
    embedded = rotated_problem(noise=0.3)
    blind = replace(embedded, qrels={split: embedded.qrels[split] for split in ("train", "dev")})
    first, again, other = fit(embedded, seed=3), fit(blind, seed=3), fit(embedded, seed=4)
    assert first.adopted and torch.equal(first.adapter.delta, again.adapter.delta)
    assert first.verdict.candidates == again.verdict.candidates or np.isnan(first.verdict.candidates[0].gain_seen)
    assert not torch.equal(first.adapter.delta, other.adapter.delta)


def test_the_number_of_threads_is_put_back_and_changes_nothing():
    embedded = rotated_problem(noise=0.3)
    before = torch.get_num_threads()
    try:
        deltas = []
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            deltas.append(fit(embedded).adapter.delta)
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*deltas, atol=1e-5, rtol=0)


def test_a_missing_split_is_named():
    embedded = rotated_problem()
    with pytest.raises(ValueError, match=r"There is no split 'dev'; this data set has \['train'\]"):
        fit(replace(embedded, qrels={"train": embedded.qrels["train"]}))


def test_one_query_is_too_few_to_leave_any_out():
    embedded = rotated_problem()
    same = embedded.query_embeddings[:1].expand(240, DIM).clone()
    with pytest.raises(ValueError, match=r"The 192 labelled queries cannot be cut into a part to fit on"):
        fit(replace(embedded, query_embeddings=same))
