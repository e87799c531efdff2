"""The evaluator against Sentence Transformers' own, in its trainer, and in the model card."""

import csv
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evidence.evaluator import GradedRetrievalEvaluator
from st_adapter.saving.attach import attach

TEXTS = ["read a file", "open the file", "close the list", "sort a string", "return the value", "the number of lines"]
CORPUS = {f"d{number}": text for number, text in enumerate(TEXTS * 2)}  # every text twice: ties
CORPUS = {corpus_id: f"{text} {'again ' * (number // 6)}" for number, (corpus_id, text) in enumerate(CORPUS.items())}
QUERIES = {"q0": "how to read?", "q1": "what is a string", "q2": "how many lines", "q3": "not judged"}
QRELS = {"q2": {"d5": 3, "d11": 1, "d0": 0}, "q0": {"d0": 2, "d1": 1}, "q1": {"d3": 1}}


def binary_evaluator(**options):
    relevant = {q: {c for c, grade in judged.items() if grade > 0} for q, judged in QRELS.items()}
    return InformationRetrievalEvaluator(QUERIES, CORPUS, relevant, name="dev", **options)


def test_names_and_binary_figures_are_those_of_sentence_transformers(tiny_model, tmp_path):
    binary = {query_id: {c: min(grade, 1) for c, grade in judged.items()} for query_id, judged in QRELS.items()}
    ours = GradedRetrievalEvaluator(QUERIES, CORPUS, binary, name="dev")
    theirs = binary_evaluator()
    assert ours(tiny_model, str(tmp_path)) == pytest.approx(theirs(tiny_model, str(tmp_path)), abs=1e-9)
    assert ours.primary_metric == theirs.primary_metric == "dev_cosine_ndcg@10" and ours.greater_is_better
    rows = [list(csv.reader((tmp_path / one.csv_file).read_text().splitlines())) for one in (ours, theirs)]
    assert rows[0][0] == rows[1][0], "the same columns"
    assert [float(cell) for cell in rows[0][1]] == pytest.approx([float(cell) for cell in rows[1][1]], abs=1e-9)
    ours(tiny_model, str(tmp_path), epoch=2, steps=7)
    lines = (tmp_path / ours.csv_file).read_text().splitlines()
    assert len(lines) == 3 and lines[2].startswith("2,7,")


@pytest.fixture(scope="module")
def embedded_pair(tiny_model_path, tmp_path_factory):
    """A graded data set and its embeddings."""
    tables = {
        "corpus": [{"id": corpus_id, "text": text} for corpus_id, text in CORPUS.items()],
        "queries": [{"id": query_id, "text": text} for query_id, text in QUERIES.items()],
        "qrels": [
            {"query_id": q, "corpus_id": c, "score": grade, "split": split}
            for split in ("train", "dev", "test")
            for q, judged in QRELS.items()
            for c, grade in judged.items()
        ],
    }
    dataset = RetrievalDataset.load({name: Dataset.from_list(rows) for name, rows in tables.items()})
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    return dataset, embed(model, dataset, cache_dir=tmp_path_factory.mktemp("cache"), show_progress_bar=False)


def test_graded_figures_are_those_of_the_package_with_and_without_precomputed_documents(tiny_model, embedded_pair):
    dataset, embedded = embedded_pair
    adapter = QueryAdapter.from_matrix(torch.eye(32) + 0.2 * torch.randn(32, 32))
    adapted = attach(tiny_model, adapter)
    expected = evaluate(embedded["dev"], adapter)
    for options in ({}, {"embedded": embedded}):
        evaluator = GradedRetrievalEvaluator.from_dataset(dataset, "dev", **options)
        assert evaluator.query_ids == ["q0", "q1", "q2"], "q3 is not judged"
        for model, means in ((tiny_model, expected.base_means), (adapted, expected.adapted_means)):
            metrics = evaluator(model)
            assert metrics == pytest.approx({name: means[name.removeprefix("cosine_")] for name in metrics}, abs=1e-6)
        assert evaluator.primary_metric == "cosine_ndcg@10"
    assert expected.base_means["ndcg@10"] != expected.adapted_means["ndcg@10"]


def test_it_serves_the_trainer_and_the_model_card(tiny_model, embedded_pair, tmp_path):
    dataset, embedded = embedded_pair
    evaluator = GradedRetrievalEvaluator.from_dataset(dataset, "dev", embedded, name="dev")
    before = tiny_model.evaluate(evaluator)["dev_cosine_ndcg@10"]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        learning_rate=0.1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=tiny_model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": list(QUERIES.values()), "positive": TEXTS[:4]}),
        loss=MultipleNegativesRankingLoss(tiny_model),
        evaluator=evaluator,
    )
    trainer.train()
    logged = [
        entry["eval_dev_cosine_ndcg@10"] for entry in trainer.state.log_history if "eval_dev_cosine_ndcg@10" in entry
    ]
    assert len(logged) == 1 and logged[0] != before, "the queries' side has been trained"
    tiny_model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    metadata = card.split("---")[1]
    assert "model-index:" in metadata and "Ndcg@10" in metadata and "Graded Retrieval" in metadata
    assert "GradedRetrievalEvaluator" in card
    assert '"num_documents": 12' in card and f"{logged[0]:.4f}".rstrip("0") in card


def test_bad_input(tiny_model, embedded_pair):
    dataset, embedded = embedded_pair
    with pytest.raises(ValueError, match=r"None of the 1 queries of the qrels has a relevant document"):
        GradedRetrievalEvaluator(QUERIES, CORPUS, {"q0": {"d0": 0}})
    with pytest.raises(ValueError, match=r"1 query_ids of the qrels are not in the queries, the first: \['x'\]"):
        GradedRetrievalEvaluator(QUERIES, CORPUS, {"x": {"d0": 1}})
    with pytest.raises(ValueError, match=r"2 corpus_ids of the qrels are not in the corpus, the first: \['x', 'y'\]"):
        GradedRetrievalEvaluator(QUERIES, CORPUS, {"q0": {"x": 1, "y": 0}})
    with pytest.raises(ValueError, match=r"corpus_embeddings have 3 rows, but the corpus has 12 ids"):
        GradedRetrievalEvaluator(QUERIES, list(CORPUS), QRELS, corpus_embeddings=torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"ids alone and without corpus_embeddings"):
        GradedRetrievalEvaluator(QUERIES, list(CORPUS), QRELS)
    with pytest.raises(ValueError, match=r"query_embeddings have 32 dimensions, but corpus_embeddings have 4"):
        GradedRetrievalEvaluator(QUERIES, list(CORPUS), QRELS, corpus_embeddings=torch.ones(12, 4))(tiny_model)
    with pytest.raises(ValueError, match=r"There is no split 'holdout'"):
        GradedRetrievalEvaluator.from_dataset(dataset, "holdout")
    other = replace(embedded, corpus=replace(embedded.corpus, ids=embedded.corpus.ids[::-1]))
    with pytest.raises(ValueError, match=r"other ids or another order"):
        GradedRetrievalEvaluator.from_dataset(dataset, "dev", other)
    tiny_model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match=r"compares by 'euclidean'"):
        GradedRetrievalEvaluator(QUERIES, CORPUS, QRELS)(tiny_model)
