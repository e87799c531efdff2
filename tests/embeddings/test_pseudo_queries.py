"""Portions of documents, embedded as queries; and a run on few labels, which starts from them."""

import pandas as pd
import torch

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings import embedding
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.embedding import embed_pseudo_queries
from st_adapter.running.run import train


def few_pairs():
    """Sixty pairs whose documents have two sentences."""
    rows = [
        {
            "query": f"where is thing {number} of {number % 7}",
            "document": f"Thing {number} is here. It is {number % 7}.",
        }
        for number in range(60)
    ]
    return RetrievalDataset.load(pd.DataFrame(rows))


def test_each_asks_for_the_document_that_it_is_of_and_is_embedded_as_a_query(tiny_model, tmp_path):
    dataset = few_pairs()
    tiny_model.prompts["query"] = "query: "
    try:
        embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
        made = embed_pseudo_queries(tiny_model, dataset, embedded, cache_dir=tmp_path, show_progress_bar=False)
        assert made is not None and made.num_pairs == 60
        documents = dataset.document_texts
        for row in (0, 31):
            document = documents[int(made.qrels.corpus_index[row])]
            expected = tiny_model.encode_query([document.partition(" It")[0]], convert_to_tensor=True)
            torch.testing.assert_close(made.query_embeddings[row], expected[0].clone(), atol=1e-5, rtol=0)
    finally:
        tiny_model.prompts.pop("query")


def test_a_run_on_few_labels_says_what_it_started_from(tiny_model, tmp_path):
    result = train(tiny_model, few_pairs(), cache_dir=tmp_path, show_progress_bar=False)
    selection = result.results.selection
    assert len(selection.candidates) == 3 and selection.candidates[0].name.startswith("pseudo-queries")
    usual = train(tiny_model, few_pairs(), method="closed-form", cache_dir=tmp_path, show_progress_bar=False)
    assert len(usual.results.selection.candidates) > 3


def test_too_few_documents_tell_nothing(tiny_model, tmp_path, monkeypatch):
    dataset = few_pairs()
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    monkeypatch.setattr(embedding, "MIN_PSEUDO_QUERIES", 61)
    assert embed_pseudo_queries(tiny_model, dataset, embedded, cache_dir=tmp_path, show_progress_bar=False) is None
