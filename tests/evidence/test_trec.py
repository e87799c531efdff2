"""Written runs read and measured by ir_measures and pytrec_eval: equal to ours, per query, ties included."""

from dataclasses import replace

import ir_measures
import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from problems import split_of
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evidence.trec import strictly_descending, write_trec

KS = (1, 3, 10, 100)
MEASURES = {
    measure @ k: f"{name}@{k}"
    for measure, name in (
        (nDCG, "ndcg"),
        (RR, "mrr"),
        (Success, "accuracy"),
        (R, "recall"),
        (P, "precision"),
        (AP, "map"),
    )
    for k in KS
}


def split_with_ties(seed, num_documents, max_grade):
    """Few distinct documents, so that most scores are shared; some queries find nothing, one has nothing relevant."""
    generator = torch.Generator().manual_seed(seed)
    documents = torch.nn.functional.normalize(torch.randn(4, 6, generator=generator))
    documents = documents[torch.randint(0, 4, (num_documents,), generator=generator)]
    pairs = (torch.rand(6, num_documents, generator=generator) < 0.3).nonzero()
    grades = torch.randint(0, max_grade + 1, (len(pairs),), generator=generator).float()
    # Every query but the last has a relevant document.
    sure = torch.stack([torch.arange(5), torch.randint(0, num_documents, (5,), generator=generator)], dim=1)
    kept = (pairs[:, 0] < 5) & ~(pairs.unsqueeze(1) == sure).all(dim=2).any(dim=1)
    last = torch.tensor([[5, 0]])
    judged = torch.cat([pairs[kept], sure, last]).T.tolist()
    grades = torch.cat([grades[kept], torch.full((5,), float(max_grade)), torch.zeros(1)])
    queries = torch.nn.functional.normalize(torch.randn(6, 6, generator=generator))
    return split_of(queries, documents, [*zip(*judged, grades.tolist(), strict=True)])


def read(path):
    """The lines of a file as columns."""
    return [line.split() for line in path.read_text().splitlines()]


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 7, 150]), st.sampled_from([1, 3]))
def test_other_tools_measure_the_same_on_the_written_runs(tmp_path_factory, seed, num_documents, max_grade):
    folder = tmp_path_factory.mktemp("trec")
    split = split_with_ties(seed, num_documents, max_grade)
    adapter = QueryAdapter.from_matrix(
        torch.eye(6) + 0.5 * torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    )
    result = evaluate(split, adapter, ks=KS)
    assert [path.name for path in write_trec(split, folder, adapter)] == ["qrels", "base.run", "adapted.run"]
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels")))
    for name, side in (("base.run", result.base), ("adapted.run", result.adapted)):
        run = list(ir_measures.read_trec_run(str(folder / name)))
        values = list(ir_measures.iter_calc(list(MEASURES), qrels, run))
        assert len(values) == 5 * len(MEASURES), "the query without a relevant document is in no file"
        for value in values:
            ours = side[MEASURES[value.measure]][result.query_ids.index(value.query_id)]
            assert ours == pytest.approx(value.value, abs=1e-9)

        with (folder / "qrels").open() as file:
            evaluator = pytrec_eval.RelevanceEvaluator(
                pytrec_eval.parse_qrel(file), {"ndcg_cut.10", "recall.10", "map"}
            )
        with (folder / name).open() as file:
            theirs = evaluator.evaluate(pytrec_eval.parse_run(file))
        for row, query_id in enumerate(result.query_ids):
            assert side["ndcg@10"][row] == pytest.approx(theirs[query_id]["ndcg_cut_10"], abs=1e-9)
            assert side["recall@10"][row] == pytest.approx(theirs[query_id]["recall_10"], abs=1e-9)
            if num_documents <= 100:  # trec_eval's map has no cut-off
                assert side["map@100"][row] == pytest.approx(theirs[query_id]["map"], abs=1e-9)


def test_the_files_are_in_trec_form(tmp_path):
    split = split_with_ties(3, 7, 3)
    (tmp_path / "runs").mkdir()
    paths = write_trec(split, tmp_path / "runs", k=3)
    assert [path.name for path in paths] == ["qrels", "base.run"]
    run = read(tmp_path / "runs" / "base.run")
    assert [row[0] for row in run] == [f"q{n}" for n in range(5) for _ in range(3)]
    assert {row[1] for row in run} == {"Q0"} and [row[3] for row in run] == ["1", "2", "3"] * 5
    assert {row[5] for row in run} == {"base"}
    for start in range(0, 15, 3):
        scores = [np.float32(row[4]) for row in run[start : start + 3]]
        assert scores[0] > scores[1] > scores[2], "no tie is left to break"
    judged = {(row[0], row[2]): float(row[3]) for row in read(tmp_path / "runs" / "qrels")}
    expected = {
        (split.query_ids[q], split.corpus.ids[d]): grade
        for q, d, grade in zip(*(part.tolist() for part in split.qrels), strict=True)
        if q < 5
    }
    assert judged == expected
    write_trec(split, tmp_path / "runs", QueryAdapter(6), k=2)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["adapted.run", "base.run", "qrels"]
    assert len(read(tmp_path / "runs" / "base.run")) == 10, "replaced"


@given(st.lists(st.lists(st.sampled_from([0.5, 0.5, -0.5, 0.25, 0.0]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_equal_scores_are_lowered_and_nothing_else(rows):
    scores = -np.sort(-np.array(rows, dtype=np.float32), axis=1)
    lowered = strictly_descending(scores)
    assert (np.diff(lowered) < 0).all() and lowered.dtype == np.float32
    np.testing.assert_allclose(lowered, scores, atol=1e-6)
    distinct = np.unique(scores[0])[::-1][None]
    assert (strictly_descending(distinct) == distinct).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": ["a b", "c\t", "", "d", "e", "f"]}, r"3 query ids hold white space or are empty.*'a b'"),
        (
            {"corpus": MemoryCorpus(["x", "y z"], torch.eye(2, 6))},
            r"1 corpus ids hold white space or are empty, the first: \['y z'\]",
        ),
        ({"relevance": 0.5}, r"judgements have a relevance that is no whole number, the first: \[0.5"),
        ({"relevance": 0.0}, r"No query of the split 'test' has a relevant document"),
    ],
)
def test_what_trec_form_cannot_hold_is_refused_and_nothing_is_written(tmp_path, change, message):
    split = split_with_ties(0, 2, 1)
    if "relevance" in change:
        relevance = torch.full_like(split.qrels.relevance, change.pop("relevance"))
        change = {"qrels": split.qrels._replace(relevance=relevance)}
    with pytest.raises(ValueError, match=message):
        write_trec(replace(split, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_failure_leaves_the_files_of_before(tmp_path, monkeypatch):
    split = split_with_ties(0, 7, 1)
    write_trec(split, tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def fails(*arguments):
        yield "half\n"
        raise OSError("disk full")

    monkeypatch.setattr("st_adapter.evidence.trec._run_lines", fails)
    with pytest.raises(OSError, match="disk full"):
        write_trec(split, tmp_path, QueryAdapter(6))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
