"""What is learned from a teacher: a part of batch and loss, a start for few labels, and a run beside the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from problems import DIM, rotated_problem, split_of, unit_rows, with_wrong_labels
from st_adapter.embeddings.soft_targets import SoftTargets, Teaching
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting import auto
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import fit
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.maps import QueryMap, as_adapter
from st_adapter.fitting.portfolio import Portfolio, effort_for
from st_adapter.fitting.prior import taught_map
from st_adapter.fitting.selection import Scoreboard


def rotation_of(embedded):
    """Of the problem: the turn between its documents and the queries that ask for them."""
    train = embedded.qrels["train"]
    documents, queries = embedded.corpus.embeddings[train.corpus_index], embedded.query_embeddings[train.query_index]
    return torch.linalg.lstsq(documents, queries).solution


TRUTH, NOTHING, LIES = 1.0, 0.0, -1.0


def taught(embedded, says=TRUTH, *, number=200, seed=0):
    """New queries of the same problem, and what somebody who knows the answers says of twenty documents each."""
    generator = torch.Generator().manual_seed(seed)
    documents, turned = embedded.corpus.embeddings, rotation_of(embedded)
    answers = torch.randint(0, len(documents), (number,), generator=generator)
    queries = documents[answers] @ turned + 0.05 * torch.randn(number, DIM, generator=generator)
    queries = torch.nn.functional.normalize(queries)
    found = embedded.corpus.search(queries, 20).indices
    true = torch.einsum("qd,qkd->qk", documents[answers], documents[found])
    scores = says * true if says else torch.randn(true.shape, generator=generator)
    return SoftTargets.of(queries, (embedded.corpus, found), scores, Teaching("somebody", number, 0, 20))


def gain(embedded, adapter):
    return evaluate(embedded["test"], adapter).compare("ndcg@10").difference


def few_of(embedded, number):
    """The first labelled queries only."""
    qrels = {split: embedded.qrels[split] for split in ("train", "dev")}
    qrels = {split: type(each)(*(part[:number] for part in each)) for split, each in qrels.items()}
    return replace(embedded, qrels={**embedded.qrels, **qrels})


def test_the_teacher_enters_the_loss_of_a_batch_as_a_slow_loop_says():
    queries, documents = unit_rows(6, 8), unit_rows(12, 8, seed=1)
    split = split_of(queries, documents, [(row, row, 1.0) for row in range(6)])
    found = torch.arange(12).view(4, 3)
    soft = SoftTargets.of(
        2 * unit_rows(4, 8, seed=2), (split.corpus, found), unit_rows(4, 3, seed=3), Teaching("somebody", 4, 0, 3)
    )
    soft = replace(soft, weight=0.7)
    args = AdapterTrainingArguments(scale=5.0, penalty=0.0)
    alone, both = GradientFit(split, args), GradientFit(split, args, soft_targets=soft)
    matrix = both.adapter.project(torch.eye(8)).detach().T.double()
    expected = torch.zeros(8, 8, dtype=torch.float64)
    value = 0.0
    for row in range(4):
        query = torch.nn.functional.normalize(soft.queries.query_embeddings[row], dim=0).double()
        candidates, wanted = documents[found[row]].double(), soft.targets[row].double()
        shares = (5.0 * candidates @ matrix @ query).softmax(dim=0)
        value += 0.7 / 4 * float((wanted * (wanted / shares).log()).sum())
        expected += 0.7 / 4 * 5.0 * torch.outer(candidates.T @ (shares - wanted), query)
    losses = {}
    for name, run in (("alone", alone), ("both", both)):
        loss = run._batch_loss(run.sampler.next())
        loss.backward()
        losses[name] = loss.item()
    assert losses["both"] - losses["alone"] == pytest.approx(value, rel=1e-3)
    # Both start at the same map, so what is left of the gradient is the teacher's.
    (one,), (other,) = ([p.grad for p in run.adapter.parameters() if p.grad is not None] for run in (alone, both))
    torch.testing.assert_close(other - one, expected.float(), rtol=1e-3, atol=1e-5)


def test_who_knows_the_truth_teaches_it_without_any_label():
    embedded = rotated_problem()
    learned, mistaught = (taught_map(taught(embedded, says), seed=0) for says in (TRUTH, LIES))
    gains = [gain(embedded, as_adapter(QueryMap(each), normalized=True)) for each in (learned, mistaught)]
    assert gains[0] > 0.1 and gains[1] < 0
    torch.testing.assert_close(learned, taught_map(taught(embedded), seed=0))


def test_few_labels_start_from_a_teacher():
    embedded = few_of(rotated_problem(noise=0.15), 20)
    started = fit(embedded, soft_targets=taught(embedded))
    names = [candidate.name for candidate in started.verdict.candidates]
    assert len(names) == 3 and all(name.startswith("teacher, as it is") for name in names)
    assert started.adopted and gain(embedded, started.adapter) > 0.1


def test_beside_pseudo_queries_a_teacher_is_one_more_start():
    embedded = few_of(rotated_problem(noise=0.15), 20)
    soft = taught(embedded)
    pseudo_queries = replace(soft.queries, name="pseudo-queries")
    both = fit(embedded, soft_targets=soft, pseudo_queries=pseudo_queries).verdict
    starts = {candidate.name.partition(",")[0] for candidate in both.candidates}
    assert starts == {"teacher", "pseudo-queries"} and 6 <= len(both.candidates) <= 7


@pytest.mark.parametrize("seed", range(5))
def test_who_knows_nothing_is_refused_where_there_is_nothing_to_learn(seed):
    problem = rotated_problem(seed)
    embedded = with_wrong_labels(few_of(problem, 30), seed)
    assert not fit(embedded, soft_targets=taught(problem, NOTHING, seed=seed), seed=seed).adopted


def test_what_leads_astray_where_nobody_asked_is_out_whoever_says_so(monkeypatch):
    embedded = few_of(rotated_problem(noise=0.15), 20)
    soft, pseudo_queries = taught(embedded, LIES), replace(taught(embedded).queries, name="pseudo-queries")
    rejected = {}
    for tolerated in (0.01, 1.0):
        monkeypatch.setattr(auto, "_TOLERATED", tolerated)
        # As if the labels had nothing against it.
        monkeypatch.setattr(Scoreboard, "_rejected", lambda board: np.array(
            [candidate in board._rejected_elsewhere for candidate in board.candidates]
        ))  # fmt: skip
        verdict = fit(embedded, soft_targets=soft, pseudo_queries=pseudo_queries).verdict
        rejected[tolerated] = {candidate.name for candidate in verdict.candidates if candidate.rejected}
    assert rejected[0.01] == {"teacher, as it is, share 1"} and not rejected[1.0]


def test_with_many_labels_one_more_run_learns_from_both(monkeypatch):
    monkeypatch.setattr(auto, "_FEW", 10)
    embedded = few_of(rotated_problem(noise=0.2), 40)
    soft = taught(embedded)
    effort = effort_for(embedded["train"].num_pairs)
    for method in ("auto", "linear"):
        more = set(Portfolio(method, effort, soft_targets=soft).runs) - set(effort.runs)
        assert len(more) == 1 and more.pop().endswith(", with teacher")
    found = fit(embedded, soft_targets=soft, method="linear")
    # Forty labels say less than two hundred answers.
    assert found.adopted and "with teacher" in found.chosen and gain(embedded, found.adapter) > 0.1


def test_a_method_without_runs_refuses_a_teacher():
    embedded = rotated_problem()
    with pytest.raises(InputError, match="'closed-form' learns from labels alone"):
        fit(embedded, soft_targets=taught(embedded), method="closed-form")
