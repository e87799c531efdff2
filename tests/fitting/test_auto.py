"""The whole fit on problems whose answer is known."""

from dataclasses import replace

import pytest
import torch

from problems import DIM, rotated_problem, with_wrong_labels
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import portfolio
from st_adapter.fitting.auto import fit
from st_adapter.fitting.portfolio import effort_for


@pytest.mark.parametrize(("method", "chosen"), [("auto", "softmax"), ("closed-form", "ridge to positives")])
def test_a_useful_adapter_is_found_and_its_gain_estimated(method, chosen):
    embedded = rotated_problem(noise=0.15)
    result = fit(embedded, method=method)
    assert result.adopted and result.verdict.gate.p_value <= 0.05
    test = evaluate(embedded["test"], result.adapter)
    gain = test.adapted_means["ndcg@10"] - test.base_means["ndcg@10"]
    assert gain > 0.05
    assert gain == pytest.approx(result.verdict.gate.gain, abs=0.15)
    assert result.chosen.startswith(chosen)


@pytest.mark.parametrize("seed", range(5))
def test_labels_without_meaning_leave_the_base_model_in_place(seed):
    result = fit(with_wrong_labels(rotated_problem(seed), seed), seed=seed)
    assert not result.adopted and result.adapter is None
    best, gate = result.verdict.candidates[0], result.verdict.gate
    expected = "Clearly worse" if best.rejected else "Not better" if gate.gain <= 0 else "Not surely better"
    assert gate.reason.startswith(f"{expected} than the base model")


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
    queries = embedded.query_embeddings
    assert first.adopted and torch.equal(first.adapter.transform(queries), again.adapter.transform(queries))
    # As text, because a part without queries has no gain, and NaN is not NaN.
    assert str(first.verdict.candidates) == str(again.verdict.candidates)
    assert not torch.equal(first.adapter.transform(queries), other.adapter.transform(queries))


def test_the_number_of_threads_is_put_back_and_changes_nothing():
    embedded = rotated_problem(noise=0.3)
    before = torch.get_num_threads()
    try:
        mapped = []
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            mapped.append(fit(embedded).adapter.transform(embedded.query_embeddings))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*mapped, atol=1e-5, rtol=0)


def test_a_missing_split_is_named():
    embedded = rotated_problem()
    with pytest.raises(ValueError, match=r"There is no split 'dev'; this data set has \['train'\]"):
        fit(replace(embedded, qrels={"train": embedded.qrels["train"]}))


def test_one_query_is_too_few_to_leave_any_out():
    embedded = rotated_problem()
    same = embedded.query_embeddings[:1].expand(240, DIM).clone()
    with pytest.raises(ValueError, match=r"The 192 labelled queries cannot be cut into a part to fit on"):
        fit(replace(embedded, query_embeddings=same))


def test_many_pairs_are_learned_from_for_longer_and_held_back_less(monkeypatch):
    monkeypatch.setattr(portfolio, "_MANY", 100)
    monkeypatch.setattr(portfolio, "_EFFORT_OF_MANY", portfolio._EFFORT_OF_MANY._replace(checkpoints=(10, 60)))
    embedded = rotated_problem(noise=0.15)
    of_many, of_few = (effort_for(num_pairs) for num_pairs in (100, 99))
    assert max(of_many.checkpoints) > max(of_few.checkpoints) and of_many.kept_runs < of_few.kept_runs
    assert min(run.penalty for run in of_many.runs.values()) < min(run.penalty for run in of_few.runs.values())
    iterates, fitted = portfolio._iterates, []
    monkeypatch.setattr(
        portfolio, "_iterates", lambda runs, steps: fitted.append((len(runs), *steps)) or iterates(runs, steps)
    )
    result = fit(embedded)
    assert fitted[0] == (len(of_many.runs), 10)
    assert fitted[1] == (3 * of_many.kept_runs, 10, 60)  # a first round of three folds
    assert result.adopted and any("60 steps" in each.name for each in result.verdict.candidates)
    test = evaluate(embedded["test"], result.adapter)
    assert test.adapted_means["ndcg@10"] > test.base_means["ndcg@10"] + 0.05


@pytest.mark.parametrize("method", ["nonsense", "Linear", "gradient"])
def test_a_method_that_is_none_of_a_fit_is_refused(method):
    with pytest.raises(
        ValueError, match=f"method is '{method}', but one of .'auto', 'linear', 'closed-form'. is expected"
    ):
        fit(rotated_problem(), method=method)
