"""What a GPU does is what a CPU does: skipped where there is none."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from problems import rotated_problem, written_vectors
from st_adapter.embeddings.checked_embedding import compare_sample, embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.function_encoder import FunctionEncoder
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import fit
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.prior import prior_of
from st_adapter.fitting.stacked import Run, can_be_stacked, stacked_iterates
from st_adapter.stores.folder import VectorFolder
from st_adapter.trainer import AdapterTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = "cuda:0"
# Products there are of TF32, with 10 bits.
ROUNDING = {"rtol": 0, "atol": 3e-3}


@pytest.mark.parametrize("method", ["auto", "linear", "closed-form"])
def test_a_fit_gains_there_what_it_gains_on_a_cpu(method):
    embedded = rotated_problem(noise=0.15)
    there, here = fit(embedded.to(CUDA), method=method), fit(embedded, method=method)
    assert there.adopted and there.verdict.gate.gain == pytest.approx(here.verdict.gate.gain, abs=0.02)
    on_gpu = evaluate(embedded.to(CUDA)["test"], there.adapter).adapted_means["ndcg@10"]
    on_cpu = evaluate(embedded["test"], there.adapter.to("cpu")).adapted_means["ndcg@10"]
    assert on_gpu == pytest.approx(on_cpu, abs=0.01)


def test_runs_recorded_as_a_graph_are_those_of_a_cpu():
    train = rotated_problem(noise=0.15)["train"]
    args = AdapterTrainingArguments(per_device_train_batch_size=32, num_negatives=20)
    there = Run(rotated_problem(noise=0.15).to(CUDA)["train"], args)
    assert can_be_stacked([there])
    run = GradientFit(train, args)
    (iterates,) = stacked_iterates([there], [170])  # more steps than are drawn at once
    for _ in range(170):
        run.step()
    torch.testing.assert_close(iterates[0].cpu(), run.averaged.project(torch.eye(train.dimension)).T, **ROUNDING)


def test_vectors_that_came_with_the_data_are_compared_there():
    texts = ["a red car", "a blue house", "green books", "an old shoe"]

    def count(given):
        return [[text.count(letter) for letter in "aeou"] for text in given]

    encoder = FunctionEncoder(count, count, name="letters")
    vectors = np.array(count(texts), dtype=np.float32)
    corpus = MemoryCorpus(texts, torch.from_numpy(vectors).to(CUDA))
    assert compare_sample(encoder, "document", texts, vectors, corpus).cause == "same"
    assert compare_sample(encoder, "document", texts[1:] + texts[:1], corpus.embeddings, corpus).cause == "order"


def test_a_corpus_on_disk_is_searched_there_in_blocks(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn((700, 24), generator=generator))
    monkeypatch.setattr(VectorFolder, "block_rows", 150)
    corpus = DiskCorpus(written_vectors(tmp_path / "v", vectors.numpy(), [100] * 7, normalized=True), "cosine")
    queries = torch.nn.functional.normalize(torch.randn((30, 24), generator=generator))
    there, here = corpus.search(queries.to(CUDA), 10), MemoryCorpus(corpus.ids, vectors).search(queries, 10)
    assert there.scores.device == torch.device(CUDA)
    assert torch.equal(there.indices.cpu(), here.indices)
    torch.testing.assert_close(there.scores.cpu(), here.scores)


def test_pseudo_queries_give_there_the_map_that_they_give_on_a_cpu():
    here, there = rotated_problem(noise=0.15)["train"], rotated_problem(noise=0.15).to(CUDA)["train"]
    torch.testing.assert_close(prior_of(there, seed=0).cpu(), prior_of(here, seed=0), **ROUNDING)


# Of PyTorch's own, where it compiles.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("torch_compile", [False, True])
def test_a_trainer_works_there(tmp_path, torch_compile):
    embedded = rotated_problem()
    arguments = AdapterTrainingArguments(
        str(tmp_path), start="identity", learning_rate=0.02, torch_compile=torch_compile, disable_tqdm=True
    )
    trainer = AdapterTrainer(None, arguments, train_dataset=embedded.to(CUDA))
    trainer.train()
    result = evaluate(embedded["test"], trainer.best_adapter.to("cpu"))
    assert result.adapted_means["ndcg@10"] > result.base_means["ndcg@10"] + 0.1


def test_a_model_on_a_gpu_embeds_what_it_embeds_on_a_cpu(tiny_model_path, _example_data):
    here, there = (
        embed(
            SentenceTransformer(str(tiny_model_path), device=device), _example_data["dataset"], show_progress_bar=False
        )
        for device in ("cpu", CUDA)
    )
    torch.testing.assert_close(there.query_embeddings.cpu(), here.query_embeddings, rtol=0, atol=1e-4)
