"""Models that compare by dot product: lengths of vectors count, in every room from sampling to the saved model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from problems import corpus_of, rotated_problem
from st_adapter import QueryAdapter, attach, save_pretrained
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import fit
from st_adapter.fitting.gradient import GradientFit
from st_adapter.trainer import AdapterTrainer


def dot_problem(longer=1.0, similarity="dot"):
    """The rotated problem with vectors of many lengths, all ``longer`` times as long; one relevant document a query."""
    embedded = rotated_problem()
    generator = torch.Generator().manual_seed(1)
    queries, documents = (
        longer * (0.5 + torch.rand(len(rows), 1, generator=generator)) * rows
        for rows in (embedded.query_embeddings, embedded.corpus.embeddings)
    )
    return replace(embedded, query_embeddings=queries, corpus=corpus_of(documents, similarity), normalized=False)


def slow_ndcg(split, queries):
    """Mean nDCG@10 where each query has one relevant document: 1 / log2(1 + rank), and 0 beyond rank 10."""
    scores = queries.double().numpy() @ split.corpus.embeddings.double().numpy().T
    ranks = [1 + (row > row[answer]).sum() for row, answer in zip(scores, split.qrels.corpus_index, strict=True)]
    return np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks])


def assert_better_by_dot_product(adapter, split):
    assert not adapter.normalize
    result = evaluate(split, adapter)
    queries = split.query_embeddings
    with torch.no_grad():
        adapted = adapter.transform(queries)
    assert result.base_means["ndcg@10"] == pytest.approx(slow_ndcg(split, queries), abs=1e-9)
    assert result.adapted_means["ndcg@10"] == pytest.approx(slow_ndcg(split, adapted), abs=1e-9)
    assert result.adapted_means["ndcg@10"] > result.base_means["ndcg@10"] + 0.1


def test_the_problem_is_another_one_by_cosine():
    split = dot_problem()["test"]
    cosine = evaluate(dot_problem(similarity="cosine")["test"]).base_means["ndcg@10"]
    assert abs(evaluate(split).base_means["ndcg@10"] - cosine) > 0.01


@pytest.mark.parametrize("method", ["auto", "closed-form"])
def test_a_fit(method):
    embedded = dot_problem()
    result = fit(embedded, method=method)
    assert result.adopted
    assert_better_by_dot_product(result.adapter, embedded["test"])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_trainer(kind):
    embedded = dot_problem()
    args = AdapterTrainingArguments(
        kind=kind, start="identity", learning_rate=0.02, num_train_epochs=30, disable_tqdm=True
    )
    trainer = AdapterTrainer(None, args, train_dataset=embedded)
    trainer.train()
    assert_better_by_dot_product(trainer.best_adapter, embedded["test"])


def test_losses_do_not_depend_on_how_long_all_vectors_are():
    losses = []
    for longer in (1.0, 8.0):
        gradient = GradientFit(dot_problem(longer)["train"], AdapterTrainingArguments(disable_tqdm=True))
        losses.append([float(gradient.step()) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture
def dot_model(tiny_dot_model_path):
    return SentenceTransformer(str(tiny_dot_model_path), device="cpu")


def table(**columns):
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


@pytest.fixture
def dataset():
    ids = [str(number) for number in range(16)]
    words = [
        f"{color} {thing}" for color in ("red", "blue", "old", "new") for thing in ("car", "road", "river", "book")
    ]
    documents = (f"{word[::-1]} {'very ' * (number % 5)}here" for number, word in enumerate(words))
    return RetrievalDataset(
        table(id=ids, text=(f"where is the {word}" for word in words)),
        table(id=ids, text=documents),
        {
            split: table(query_id=ids[first::2], corpus_id=ids[first::2], relevance=[1.0] * 8)
            for first, split in enumerate(("train", "dev"))
        },
    )


def measured_by_sentence_transformers(model, dataset):
    queries, corpus = (dict(zip(each["id"], each["text"], strict=True)) for each in (dataset.queries, dataset.corpus))
    dev = dataset.qrels["dev"]["query_id"]
    evaluator = InformationRetrievalEvaluator({q: queries[q] for q in dev}, corpus, {q: {q} for q in dev})
    return evaluator(model)["dot_ndcg@10"]


def test_the_trainer_measures_as_sentence_transformers_does(dot_model, dataset, tmp_path):
    embedded = embed(dot_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert embedded.similarity == "dot" and not embedded.normalized
    args = AdapterTrainingArguments(start="identity", num_train_epochs=3, disable_tqdm=True)
    trainer = AdapterTrainer(dot_model, args, train_dataset=embedded)
    base = measured_by_sentence_transformers(dot_model, dataset)
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(base, abs=1e-6)
    trainer.train()
    adapted = measured_by_sentence_transformers(attach(dot_model, trainer.adapter), dataset)
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(adapted, abs=1e-6)


@pytest.mark.parametrize("layout", ["document", "query", "twin"])
def test_what_is_saved_compares_by_dot_product_and_measures_the_same(layout, dot_model, dataset, tmp_path):
    matrix = torch.eye(32) + 0.3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    adapter = QueryAdapter.from_matrix(matrix, normalize=False)
    saved = save_pretrained(dot_model, adapter, tmp_path / "saved", layout=layout)
    opened = SentenceTransformer(str(saved), device="cpu")
    assert opened.similarity_fn_name == "dot"
    texts = dataset.queries["text"][:]
    np.testing.assert_allclose(opened.encode_query(texts), dot_model.encode_query(texts) @ matrix.numpy().T, rtol=1e-4)
    if layout != "twin":
        embedded = embed(dot_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
        expected = evaluate(embedded["dev"], adapter).adapted_means["ndcg@10"]
        assert measured_by_sentence_transformers(opened, dataset) == pytest.approx(expected, abs=1e-6)
