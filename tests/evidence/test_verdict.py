"""One verdict: what gate and test split say together, and how many labels it takes to tell."""

import json
from dataclasses import replace

import numpy as np
import pytest

from problems import ROOT
from st_adapter.evaluation.comparison import compare
from st_adapter.evaluation.statistics import Gate, Interval, Tolerated, gate
from st_adapter.evidence.results import Results
from st_adapter.evidence.verdict import HeldOut, RunVerdict
from st_adapter.storage.records import built

NOISE = np.tile([-0.1, 0.1], 500)  # its standard deviation is .1
BETTER = gate(0.02 + NOISE[:400])


def measured(differences, split="test"):
    """What the queries of a split say, on which the base model has .5."""
    base = np.full(len(differences), 0.5)
    return HeldOut(split, compare({"ndcg@10": base}, {"ndcg@10": base + differences})["ndcg@10"])


def test_what_the_gate_found_and_the_test_split_confirms():
    verdict = RunVerdict.of(BETTER, 0.05, measured(0.03 + NOISE[:200]))
    assert (verdict.decision, verdict.adopted, verdict.num_more_labels) == ("deploy", True, None)
    assert verdict.sentence == (
        "Deploy. Better than the base model: +.020 nDCG@10 on 400 held-out queries, 95 % interval +.010 to +.030, "
        "p = 0.0002, the chance of such a gain by luck alone; the 200 queries of test, which had no part in that, "
        "confirm it: +.030 nDCG@10, from .500 to .530, 95 % interval +.016 to +.044."
    )


def test_a_test_split_too_small_for_the_gain_is_said_to_be():
    verdict = RunVerdict.of(BETTER, 0.05, measured(0.005 + NOISE[:100]))
    # ((1.960 + .842) / (.02 / .1)) ** 2 + 1.960 ** 2 / 2 = 198
    assert verdict.decision == "deploy"
    assert verdict.measured.startswith("the 100 queries of test alone do not show it: +.005 nDCG@10, from .500 to .505")
    assert verdict.measured.endswith(" (a gain of that size takes about 200 to show)")
    enough = RunVerdict.of(BETTER, 0.05, measured(0.005 + NOISE[:600]))
    assert enough.decision == "deploy"
    assert enough.measured.endswith(
        "(a gain of that size shows on about 200 four times in five, so it may be smaller here)"
    )


def test_a_loss_on_the_test_split_is_no_reason_to_deploy():
    verdict = RunVerdict.of(BETTER, 0.05, measured(-0.03 + NOISE[:200]))
    assert (verdict.decision, verdict.adopted) == ("do not deploy", True), "what chose the adapter is the gate alone"
    assert verdict.headline == "Do not deploy."
    assert "; but the 200 queries of test, which had no part in that, say the contrary: -.030" in verdict.sentence


@pytest.mark.parametrize(("number", "words"), [(19, "19 queries of test are"), (1, "1 query of test is")])
def test_few_queries_say_nothing_of_their_own(number, words):
    verdict = RunVerdict.of(BETTER, 0.05, measured(np.full(number, -0.2)))
    assert verdict.decision == "deploy"
    assert verdict.measured == f"the {words} too few to check that (-.200 on average)"


def test_too_few_labels_are_counted():
    verdict = RunVerdict.of(gate(0.01 + NOISE[:100]), 0.05)
    # One test: p alone is that of 1 standard error, .16, and so is p. ((1.645 + .842) / .1) ** 2 + 1.645 ** 2 / 2 - 100
    assert verdict.decision == "too little data to tell"
    assert verdict.num_more_labels == pytest.approx(520, abs=60)
    assert verdict.headline.startswith("Too little data to tell, the base model is kept: label about ")
    assert verdict.headline.endswith("0 more queries.")
    best_of_many = RunVerdict.of(gate(0.01 + NOISE[:100], p_value=0.6), 0.05)
    assert best_of_many.num_more_labels > verdict.num_more_labels


def test_a_gain_too_small_to_ever_show_is_not_waited_for():
    verdict = RunVerdict.of(gate(0.001 + NOISE), 0.05)
    assert verdict.decision == "do not deploy"
    assert verdict.reason.endswith("; so small a gain takes more than 10,000 queries to show")


@pytest.mark.parametrize("tested", [gate(NOISE[:100] - 0.01), gate(NOISE[:100] + 0.1, rejected=True)])
def test_no_gain_and_a_loss_on_a_part_are_no_matter_of_labels(tested):
    verdict = RunVerdict.of(tested, 0.05, kept="nothing is handed over")
    assert (verdict.decision, verdict.num_more_labels) == ("do not deploy", None)
    assert verdict.headline == "Do not deploy, nothing is handed over."


def test_an_interval_that_seems_to_say_otherwise_is_explained():
    one_sided = replace(BETTER, interval=Interval(-0.001, 0.04))
    assert "the test asks for a gain, at a level of 0.05; the interval looks at both sides" in str(
        RunVerdict.of(one_sided, 0.05)
    )
    best_of_many = gate(0.02 + NOISE[:200], p_value=0.2)
    assert best_of_many.interval.low > 0
    assert "p allows for its being the best of several candidates, the interval does not" in str(
        RunVerdict.of(best_of_many, 0.05)
    )


def test_what_is_tolerated_holds_for_the_test_split_as_well():
    tolerated = gate(NOISE[:400] - 0.001, tolerated=Tolerated(0.02, 0.001))
    assert tolerated.adopted
    for gain, decision, words in (
        (0.0, "deploy", "confirm it: .000"),
        (-0.015, "deploy", "alone do not show it: -.015"),
        (-0.05, "do not deploy", "say the contrary: -.050"),
    ):
        verdict = RunVerdict.of(tolerated, 0.05, measured(gain + NOISE[:200]))
        assert verdict.decision == decision and words in verdict.measured
    assert "the chance of doing as well by luck alone if it were worse by more;" in str(verdict)
    refused = RunVerdict.of(gate(NOISE[:40] - 0.001, tolerated=Tolerated(0.02, 0.12)), 0.05)
    assert refused.decision == "too little data to tell" and refused.num_more_labels > 100


@pytest.mark.parametrize(
    ("gain", "decision", "words"),
    [
        (0.03, "deploy", "confirm it: +.030"),
        (-0.005, "deploy", "alone do not show it: -.005"),
        (-0.03, "deploy", "but the 200 queries of test, which had no part in that, say the contrary: -.030"),
        (-0.3, "do not deploy", "say the contrary: -.300"),
    ],
)
def test_what_is_better_is_contradicted_by_a_loss_that_is_tolerated(gain, decision, words):
    better = gate(0.02 + NOISE[:400], tolerated=Tolerated(0.1, 0.0002))
    verdict = RunVerdict.of(better, 0.05, measured(gain + NOISE[:200]))
    assert verdict.decision == decision and words in verdict.measured
    assert "by luck alone;" in str(verdict), "the p-value is that of a gain, not of a loss beyond the margin"
    within = "interval -.044 to -.016, which is within the .100 that are tolerated"
    assert verdict.measured.endswith(within) == (gain == -0.03)


def test_without_labels_the_first_hundred_are_asked_for():
    reason = "It was learned from a teacher"
    verdict = RunVerdict.without_labels(reason)
    assert (verdict.decision, verdict.adopted, verdict.tested) == ("too little data to tell", True, False)
    assert str(verdict) == f"Not tested, too little data to tell: label about 100 queries. {reason}."
    few = RunVerdict.without_labels(reason, measured(np.full(16, 0.1)))
    assert str(few).endswith(f"{reason}; the 16 queries of test are too few to check that (+.100 on average).")


@pytest.mark.parametrize(
    ("gain", "decision", "num_more_labels"),
    # ((1.960 + .842) / .1) ** 2 + 1.960 ** 2 / 2 - 100 = 687
    [(0.03, "deploy", None), (-0.03, "do not deploy", None), (0.01, "too little data to tell", 687)],
)
def test_labelled_queries_judge_what_was_learned_without_labels(gain, decision, num_more_labels):
    verdict = RunVerdict.without_labels("It was learned from a teacher", measured(gain + NOISE[:100]))
    assert (verdict.decision, verdict.tested) == (decision, True)
    assert verdict.num_more_labels == pytest.approx(num_more_labels, abs=10)
    assert "; the 100 queries of test say: " in str(verdict)


def test_files_of_older_versions_are_read_and_judged():
    results = Results.read(ROOT / "tests" / "golden" / "v0.1.0" / "results.json")
    assert results.selection.gate.num_queries is None and results.verdict.decision == "deploy"
    content = json.loads((ROOT / "tests" / "golden" / "v0.1.0" / "results.json").read_text())["selection"]["gate"]
    failed = built(Gate, {**content, "adopted": False})
    assert RunVerdict.of(failed, 0.05).decision == "too little data to tell"
    assert (
        RunVerdict.of(failed, 0.05).headline == "Too little data to tell, the base model is kept: label more queries."
    )
    assert RunVerdict.of(replace(failed, gain=-0.01), 0.05).decision == "do not deploy"
