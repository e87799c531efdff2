"""What must not matter does not, and what an adapter promises holds after training too."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from problems import corpus_of
from st_adapter import AdapterTrainer, AdapterTrainingArguments, QueryAdapter, RetrievalDataset, embed
from st_adapter.embeddings import search as retrieval
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import adapt
from st_adapter.fitting.closed_form import within_class_whitening
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.pairs import labelled_pairs

DIM = 8
KINDS = ["linear", "low_rank", "mlp"]
ACTIVATIONS = ["gelu", "relu", "silu"]


# Rounding may swap two documents whose scores agree to seven digits, once in a great many draws; so these do not vary.
few = settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
fewer = settings(few, max_examples=8)
seeds = st.integers(0, 2**20)


def problem(seed, num_queries=24, num_documents=20):
    """Queries that are their document turned and disturbed; graded judgements, some queries with several positives."""
    generator = torch.Generator().manual_seed(seed)
    documents = torch.nn.functional.normalize(torch.randn(num_documents, DIM, generator=generator))
    # Some documents are never a positive.
    first = torch.randint(0, num_documents - 5, (num_queries,), generator=generator)
    second = (first + torch.randint(1, num_documents - 5, (num_queries,), generator=generator)) % (num_documents - 5)
    turn = torch.linalg.matrix_exp(0.4 * torch.triu(torch.randn(DIM, DIM, generator=generator), 1))
    noise = 0.3 * torch.randn(num_queries, DIM, generator=generator)
    queries = torch.nn.functional.normalize(documents[first] @ turn + noise)
    qrels = {}
    for split, rows in {"train": range(16), "dev": range(16, num_queries)}.items():
        rows = torch.tensor(rows)
        more = rows[::3]
        pairs = torch.cat([rows, more]), torch.cat([first[rows], second[more]])
        qrels[split] = EmbeddedQrels(*pairs, torch.cat([torch.full((len(rows),), 2.0), torch.ones(len(more))]))
    return EmbeddedDataset([f"q{row}" for row in range(num_queries)], queries, corpus_of(documents), qrels, True)


def with_corpus(embedded, documents, place):
    """The same data set over other documents; ``place`` (N,) is where each old document lies now."""
    qrels = {name: split._replace(corpus_index=place[split.corpus_index]) for name, split in embedded.qrels.items()}
    ids = [f"e{row}" for row in range(len(documents))]
    return replace(embedded, corpus=MemoryCorpus(ids, documents), qrels=qrels)


def permuted(embedded, seed):
    order = torch.randperm(len(embedded.corpus), generator=torch.Generator().manual_seed(seed))
    return with_corpus(embedded, embedded.corpus.embeddings[order], order.argsort())


def duplicated(embedded, seed):
    """Some rows twice or more, before and after the row they repeat; a judgement may lie on any of them."""
    generator = torch.Generator().manual_seed(seed)
    num_documents = len(embedded.corpus)
    extra = torch.randint(0, num_documents, (num_documents,), generator=generator)
    rows = torch.cat([torch.arange(num_documents), extra])
    rows = rows[torch.randperm(len(rows), generator=generator)]
    place = torch.stack(
        [torch.multinomial((rows == row).float(), 1, generator=generator)[0] for row in range(num_documents)]
    )
    return with_corpus(embedded, embedded.corpus.embeddings[rows], place)


def rescaled(embedded, seed):
    """Every document with a length of its own, which the cosine does not see."""
    lengths = torch.rand(len(embedded.corpus), 1, generator=torch.Generator().manual_seed(seed)) * 4 + 0.2
    return replace(embedded, corpus=corpus_of(embedded.corpus.embeddings * lengths))


CHANGES = [permuted, duplicated, rescaled]


def whole_pool(**changes):
    """More negatives per step than documents, and all pairs in one batch, so that nothing is drawn at random."""
    rank = {"rank": 3} if changes.get("kind") == "low_rank" else {}
    return AdapterTrainingArguments(
        **{"num_negatives": 1000, "per_device_train_batch_size": 1000, "disable_tqdm": True, **rank, **changes}
    )


def trained(embedded, num_steps=6, adapter=None, **changes):
    """The (not averaged) adapter after some steps that are large enough to show."""
    fit = GradientFit(embedded["train"], whole_pool(**{"learning_rate": 0.03, "ema_decay": 0.0, **changes}), adapter)
    for _ in range(num_steps):
        fit.step()
    return fit.adapter


def project(adapter, x):
    with torch.no_grad():
        return adapter.project(x)


def matrix_of(adapter):
    """The matrix of a map that is linear without its rescaling, found by applying it to the unit vectors."""
    return project(adapter, torch.eye(adapter.input_dimension)).T


def random_matrix(seed, dim=DIM):
    return torch.eye(dim) + 0.5 * torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed))


# What must not matter


@pytest.mark.parametrize("change", CHANGES)
@few
@given(seed=seeds, ridge=st.floats(0.01, 10))
def test_the_corpus_as_it_lies_does_not_change_the_closed_form(change, seed, ridge):
    embedded = problem(seed)
    expected, found = (
        within_class_whitening(labelled_pairs(data["train"]), data.corpus, ridge)
        for data in (embedded, change(embedded, seed))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
@fewer
@given(seed=seeds)
def test_the_corpus_as_it_lies_does_not_change_training(change, seed):
    embedded = problem(seed)
    expected, found = (matrix_of(trained(data)) for data in (embedded, change(embedded, seed)))
    assert (expected - torch.eye(DIM)).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [permuted, rescaled])
@few
@given(seed=seeds)
def test_the_corpus_as_it_lies_does_not_change_the_evaluation(change, seed):
    embedded = problem(seed)
    adapter = QueryAdapter.from_matrix(random_matrix(seed))
    expected, found = (evaluate(data["dev"], adapter) for data in (embedded, change(embedded, seed)))
    for side in ("base", "adapted"):
        for name, values in getattr(expected, side).items():
            assert getattr(found, side)[name].tolist() == values.tolist(), (side, name)


def test_documents_given_twice_do_not_change_the_evaluation(tiny_model, tmp_path):
    texts = ["open a file", "close a file", "sort a list", "read a line", "return a number", "a string of words"]
    pairs = {"query": [f"how to {text}" for text in texts], "document": [f"{text} value" for text in texts]}
    unnamed = [{"_id": f"d{row}", "text": text} for row, text in enumerate(pairs["document"])]

    def evaluated(corpus, judged):
        folder = tmp_path / f"corpus-of-{len(corpus)}"
        (folder / "qrels").mkdir(parents=True)
        Dataset.from_list(corpus).to_json(folder / "corpus.jsonl")
        Dataset.from_dict({"_id": pairs["query"], "text": pairs["query"]}).to_json(folder / "queries.jsonl")
        rows = [f"{query}\t{corpus_id}\t1" for query, corpus_id in zip(pairs["query"], judged, strict=True)]
        for split in ("train", "dev", "test"):
            part = rows[:2] if split == "train" else rows[2:4] if split == "dev" else rows[4:]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *part]) + "\n")
        embedded = embed(tiny_model, RetrievalDataset.load(folder), cache_dir=tmp_path, show_progress_bar=False)
        return evaluate(embedded["test"], QueryAdapter.from_matrix(random_matrix(0, 32)))

    judged = [row["_id"] for row in unnamed]
    expected = evaluated(unnamed, judged)
    twice = [{"_id": f"copy-of-{row['_id']}", "text": row["text"]} for row in unnamed[::-1]] + unnamed
    found = evaluated(twice, [*judged[:4], *(f"copy-of-{corpus_id}" for corpus_id in judged[4:])])
    assert found.num_documents == expected.num_documents == 6
    assert {name: values.tolist() for name, values in found.adapted.items()} == {
        name: values.tolist() for name, values in expected.adapted.items()
    }


@few
@given(seed=seeds, batch_size=st.integers(1, 7), kind=st.sampled_from(KINDS))
def test_the_batch_size_does_not_change_the_evaluation(seed, batch_size, kind):
    split = problem(seed, num_queries=30)["dev"]
    adapter = QueryAdapter(DIM, kind, rank=3, hidden_dim=5)
    adapter.set_matrix(random_matrix(seed))
    expected = evaluate(split, adapter)
    parts = []
    for rows in torch.arange(len(split.query_ids)).split(batch_size):
        judged = torch.isin(split.qrels.query_index, rows)
        query_index, corpus_index, relevance = (part[judged] for part in split.qrels)
        parts.append(
            evaluate(
                replace(
                    split,
                    query_ids=[split.query_ids[row] for row in rows],
                    query_embeddings=split.query_embeddings[rows],
                    qrels=EmbeddedQrels(query_index - rows[0], corpus_index, relevance),
                ),
                adapter,
            )
        )
    assert [query_id for part in parts for query_id in part.query_ids] == expected.query_ids
    for name, values in expected.adapted.items():
        assert np.concatenate([part.adapted[name] for part in parts]).tolist() == values.tolist(), name


@few
@given(seed=seeds, block_documents=st.integers(1, 30), block_scores=st.integers(1, 300))
def test_the_block_size_of_the_search_does_not_change_the_evaluation(seed, block_documents, block_scores):
    split = duplicated(problem(seed), seed)["dev"]  # with ties, which blocks must not reorder
    adapter = QueryAdapter.from_matrix(random_matrix(seed))
    expected = evaluate(split, adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK_DOCUMENTS", block_documents)
        patch.setattr(retrieval, "_BLOCK_SCORES", block_scores)
        found = evaluate(split, adapter)
    for name, values in expected.adapted.items():
        assert found.adapted[name].tolist() == values.tolist(), name


# What the kinds of adapter can do


@few
@given(seed=seeds, dim=st.integers(1, 24))
def test_low_rank_at_full_rank_can_be_any_linear_map(seed, dim):
    matrix = random_matrix(seed, dim)
    adapter = QueryAdapter(dim, "low_rank", rank=dim)
    adapter.set_matrix(matrix)
    torch.testing.assert_close(matrix_of(adapter), matrix, rtol=0, atol=1e-5)


def test_low_rank_at_full_rank_can_be_what_linear_learned():
    embedded = problem(0)
    linear = trained(embedded)
    low_rank = QueryAdapter(DIM, "low_rank", rank=DIM)
    low_rank.set_matrix(matrix_of(linear))
    queries = embedded.query_embeddings
    torch.testing.assert_close(adapt(low_rank, queries), adapt(linear, queries), rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", ["identity", "closed_form"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_not_affine_after_training(activation, start):
    embedded = problem(0)
    adapter = QueryAdapter(DIM, "mlp", hidden_dim=2 * DIM, activation=activation, normalize=False)
    with torch.no_grad():
        adapter.down.copy_(torch.randn(adapter.down.shape, generator=torch.Generator().manual_seed(0)))
    if start == "closed_form":
        pairs = labelled_pairs(embedded["train"])
        adapter.set_matrix(within_class_whitening(pairs, embedded.corpus, 1.0))
    assert departure_from_affine(adapter, embedded) < 1e-5, "it starts as a linear map"
    adapter = trained(embedded, num_steps=30, adapter=adapter)
    assert departure_from_affine(adapter, embedded) > 0.02


def departure_from_affine(adapter, embedded):
    """How far the image of a midpoint lies from the midpoint of the images, at most."""
    left, right = embedded.query_embeddings[:12], embedded.query_embeddings[12:]
    midpoint = project(adapter, (left + right) / 2)
    return (midpoint - (project(adapter, left) + project(adapter, right)) / 2).abs().max().item()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "activation"), [("linear", "gelu"), ("low_rank", "gelu"), *(("mlp", a) for a in ACTIVATIONS)]
)
def test_folding_a_trained_adapter_equals_running_it(kind, activation, bias):
    embedded = problem(1)
    adapter = QueryAdapter(DIM, kind, rank=3, hidden_dim=7, activation=activation, bias=bias)
    adapter = trained(embedded, adapter=adapter)
    queries = embedded.query_embeddings
    running = adapt(adapter, queries)
    assert (running - queries).abs().max() > 0.05
    torch.testing.assert_close(adapt(adapter.fold(), queries), running, rtol=0, atol=1e-6)


# set_matrix and distance


@few
@given(seed=seeds, kind=st.sampled_from(KINDS), activation=st.sampled_from(ACTIVATIONS), bias=st.booleans())
def test_set_matrix_is_exact_with_room_for_it(seed, kind, activation, bias):
    """Whatever the adapter was before, and with hidden units to spare."""
    adapter = QueryAdapter(DIM, kind, rank=DIM, hidden_dim=2 * DIM + 3, activation=activation, bias=bias)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(1.0)
    matrix = random_matrix(seed)
    adapter.set_matrix(matrix)
    x = torch.randn(5, DIM, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(project(adapter, x), x @ matrix.T, rtol=0, atol=1e-5)


@few
@given(seed=seeds, rank=st.integers(1, DIM - 1), kind=st.sampled_from(["low_rank", "mlp"]), odd=st.booleans())
def test_set_matrix_without_room_is_the_best_approximation(seed, rank, kind, odd):
    """Eckart & Young 1936: the truncated singular value decomposition is the closest map of its rank."""
    matrix = random_matrix(seed)
    adapter = QueryAdapter(DIM, kind, rank=rank, hidden_dim=2 * rank + odd)
    adapter.set_matrix(matrix)
    left, singular, right = np.linalg.svd(matrix.double().numpy() - np.eye(DIM))
    best = np.eye(DIM) + left[:, :rank] * singular[:rank] @ right[:rank]
    np.testing.assert_allclose(matrix_of(adapter).numpy(), best, rtol=0, atol=1e-5)
    error = torch.linalg.matrix_norm(matrix_of(adapter) - matrix).item()
    assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-5)


@pytest.mark.parametrize("kind", ["linear", "low_rank"])
def test_distance_is_the_squared_frobenius_norm_of_the_change(kind):
    assert QueryAdapter(DIM, kind, rank=3).distance().item() == 0
    adapter = trained(problem(2), kind=kind)
    change = matrix_of(adapter) - torch.eye(DIM)
    assert change.norm() > 0.1
    assert adapter.distance().item() == pytest.approx(change.norm().item() ** 2, rel=1e-5)


# The kept best


class Snapshots(TrainerCallback):
    """Copies of the live weights at every evaluation, and the live adapter itself."""

    def __init__(self):
        self.weights = {}
        self.live = None

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.live = model
        self.weights[state.global_step] = copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_best_is_a_copy(kind):
    embedded = problem(3)
    # Steps far too large, so that the best step is not the last one; no average, so that it is one of the iterates.
    args = whole_pool(
        kind=kind, start="identity", learning_rate=0.3, ema_decay=0.0, early_stopping_patience=12, num_train_epochs=40
    )
    snapshots = Snapshots()
    trainer = AdapterTrainer(None, args, train_dataset=embedded, callbacks=[snapshots])
    trainer.train()
    best_step = trainer.state.best_global_step
    assert 0 < best_step < trainer.state.global_step, "training went on after the best step"
    kept = trainer.best_adapter.state_dict()
    for name, value in snapshots.weights[best_step].items():
        assert torch.equal(kept[name], value), name
    assert not all(torch.equal(kept[name], value) for name, value in snapshots.live.state_dict().items())

    before = adapt(trainer.best_adapter, embedded.query_embeddings)
    trained(embedded, adapter=snapshots.live)
    assert torch.equal(adapt(trainer.best_adapter, embedded.query_embeddings), before)
    assert evaluate(embedded["dev"], trainer.best_adapter).adapted_means["ndcg@10"] == trainer.state.best_metric


def test_the_given_starting_point_is_not_trained():
    embedded = problem(3)
    start = QueryAdapter(DIM)
    AdapterTrainer(None, whole_pool(num_train_epochs=2), train_dataset=embedded, adapter=start).train()
    assert torch.equal(start.transform(embedded.query_embeddings), embedded.query_embeddings)
