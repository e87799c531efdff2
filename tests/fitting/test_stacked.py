"""Runs that are stacked against the same runs one by one."""

from dataclasses import replace

import pytest
import torch

from problems import DIM, random_split, rotated_problem
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.fitting import stacked
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.stacked import Run, can_be_stacked, stacked_iterates


def one_by_one(run, checkpoints):
    fit, iterates = GradientFit(run.split, run.args), []
    for step in range(1, max(checkpoints) + 1):
        fit.step()
        if step in checkpoints:
            iterates.append(fit.averaged.project(torch.eye(run.split.dimension)).T.detach().clone())
    return iterates


def assert_equal(runs, checkpoints):
    for run, of_run in zip(runs, stacked_iterates(runs, checkpoints), strict=True):
        for iterate, expected in zip(of_run, one_by_one(run, checkpoints), strict=True):
            torch.testing.assert_close(iterate, expected, rtol=0, atol=1e-5)


def test_stacked_runs_are_what_each_is_alone(monkeypatch):
    monkeypatch.setattr(stacked, "_DRAWN", 7)  # so that batches are drawn again
    embedded = rotated_problem(noise=0.15)
    args = AdapterTrainingArguments(per_device_train_batch_size=64, num_negatives=30, seed=3)
    train, dev = embedded["train"], embedded["dev"]  # of 144 and 48 pairs: their batches are of two sizes
    runs = [
        Run(train, args),
        Run(train, replace(args, unlabelled_weight=0.0, penalty=0.01)),
        Run(dev, replace(args, scale=50.0, seed=4)),
        Run(train, replace(args, unlabelled_weight=1.0, penalty=0.001)),
    ]
    assert_equal(runs, [5, 20])


@pytest.mark.parametrize("seed", range(3))
def test_several_positives_equal_documents_and_documents_that_stand_for_others(seed):
    split = random_split(seed)
    corpus = split.corpus
    weights = torch.arange(1.0, len(corpus) + 1)
    for each in (split, replace(split, corpus=MemoryCorpus(corpus.ids, corpus.embeddings, "cosine", weights))):
        args = AdapterTrainingArguments(per_device_train_batch_size=4, num_negatives=6)
        assert_equal([Run(each, args), Run(each, replace(args, penalty=0.1))], [12])


def test_a_cpu_stacks_nothing():
    run = Run(rotated_problem()["train"], AdapterTrainingArguments())
    assert run.split.dimension == DIM and not can_be_stacked([run])
