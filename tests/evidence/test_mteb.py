"""A saved model measured by mteb itself, against our own evaluation of its adapter."""

import sys

import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evidence.mteb import mteb_task
from st_adapter.saving.save import save_pretrained


def colours(score=1.0):
    rows = [
        {"query": f"where is the {colour} {thing}", "document": f"{thing} : it has the colour {colour}", "score": score}
        for colour in ("red", "green", "blue", "black", "white")
        for thing in ("car", "house", "river", "mountain", "book", "table")
    ]
    rows[0]["score"], rows[1]["score"] = 3 * score, 2 * score
    return RetrievalDataset.load(pd.DataFrame(rows))


# mteb 2.26 calls functions that it or Sentence Transformers 6 has renamed.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mteb_measures_base_and_adapted_as_we_do(tiny_model, tmp_path):
    mteb = pytest.importorskip("mteb")
    dataset = colours()
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path / "cache", show_progress_bar=False)
    adapter = QueryAdapter.from_matrix(
        torch.eye(32) + 0.2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    )
    expected = evaluate(embedded["test"], adapter)
    task = mteb_task(dataset, name="Colours")
    for chosen, means in ((adapter, expected.adapted_means), (None, expected.base_means)):
        folder = tmp_path / ("base" if chosen is None else "adapted")
        save_pretrained(tiny_model, chosen, folder)
        model = SentenceTransformer(str(folder), device="cpu")
        results = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
        (result,) = results.task_results
        scores = result.scores["test"][0]
        assert result.task_name == "Colours" and scores["main_score"] == scores["ndcg_at_10"]
        for ours, theirs in (("ndcg@10", "ndcg_at_10"), ("map@100", "map_at_100"), ("recall@10", "recall_at_10")):
            assert scores[theirs] == pytest.approx(means[ours], abs=1e-5), "mteb rounds to five places"
    assert abs(expected.adapted_means["ndcg@10"] - expected.base_means["ndcg@10"]) > 0.01


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_other_data_are_another_revision_and_bad_input_is_refused():
    pytest.importorskip("mteb")
    revisions = {mteb_task(colours(score)).metadata.revision for score in (1.0, 2.0, 1.0)}
    assert len(revisions) == 2
    assert mteb_task(colours()).metadata.name == "retrieval"
    with pytest.raises(ValueError, match=r"There is no split 'holdout'"):
        mteb_task(colours(), "holdout")
    with pytest.raises(ValueError, match=r"no whole number, the first: \[0.5"):
        mteb_task(colours(0.5))


def test_without_mteb_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.abstasks.retrieval", None)
    with pytest.raises(ImportError, match=r"pip install 'st-adapter\[mteb\]'"):
        mteb_task(colours())
