"""A saved model against what is deployed: paired over the same queries, whatever the other one is, or refused."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
import torch
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, attach, cli, detach, save_adapter, save_pretrained
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.splits import UNCUT
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.statistics import gate
from st_adapter.evidence.against import compare_saved
from st_adapter.evidence.saved import evaluate_saved
from st_adapter.saving.record import TrainingRecord

COLORS = ["red", "green", "blue", "black", "white", "yellow"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden"]
KINDS = [(color, thing) for color in COLORS for thing in THINGS]
PAIRS = pd.DataFrame(
    {
        "question": [f"where is the {color} {thing}" for color, thing in KINDS],
        "passage": [f"{thing} : this {thing} has the color {color}" for color, thing in KINDS],
    }
)


def adapter_of(seed):
    """An adapter that moves queries somewhere."""
    generator = torch.Generator().manual_seed(seed)
    return QueryAdapter.from_matrix(torch.eye(32) + 0.4 * torch.randn(32, 32, generator=generator))


@pytest.fixture(scope="module")
def base(tiny_model_path):
    return SentenceTransformer(str(tiny_model_path), device="cpu")


@pytest.fixture(scope="module")
def places(base, tiny_model_path, tmp_path_factory):
    """A folder with fresh data, two saved models, an adapter alone, and a cache."""
    folder = tmp_path_factory.mktemp("against")
    PAIRS.to_csv(folder / "fresh.csv", index=False)
    save_pretrained(base, adapter_of(1), folder / "new" / "model")
    save_pretrained(base, adapter_of(2), folder / "old" / "model")
    save_adapter(adapter_of(2), folder / "alone")
    return folder


@pytest.fixture(scope="module")
def dataset():
    return RetrievalDataset.load(PAIRS, cut_into=())


@pytest.fixture(scope="module")
def expected(base, dataset, places):
    """nDCG@10 per query of base, new and old, each evaluated by itself."""
    embedded = embed(base, dataset, cache_dir=places / "cache", show_progress_bar=False)
    new, old = (evaluate(embedded, adapter_of(seed)) for seed in (1, 2))
    return {"base": new.base["ndcg@10"], "new": new.adapted["ndcg@10"], "old": old.adapted["ndcg@10"]}


def compared(places, dataset, new, old, **options):
    options = {"cache_dir": places / "cache", "show_progress_bar": False, **options}
    return compare_saved(new, old, dataset, **options)


def opened(folder):
    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("form", ["a saved model", "an adapter alone", "in memory", "the base model"])
def test_both_sides_are_what_each_is_by_itself(form, places, dataset, base, expected):
    old = {
        "a saved model": lambda: opened(places / "old" / "model"),
        "an adapter alone": lambda: QueryAdapter.from_pretrained(places / "alone"),
        "in memory": lambda: attach(base, adapter_of(2)),
        "the base model": lambda: base,
    }[form]()
    found = compared(places, dataset, opened(places / "new" / "model"), old, indexes=["truncate:16"], name="it")
    exact, truncated = found.evaluations
    theirs = expected["base" if form == "the base model" else "old"]
    np.testing.assert_allclose(exact.result.adapted["ndcg@10"], expected["new"], atol=1e-6)
    np.testing.assert_allclose(exact.result.base["ndcg@10"], theirs, atol=1e-6)
    assert truncated.index == "truncate:16" and truncated.base_recall < 1
    difference = expected["new"] - theirs
    assert found.verdict.reason.startswith(gate(difference, against="it").reason[:-1])
    assert [example.difference for example in found.changes.gains][:3] == pytest.approx(
        np.sort(difference[difference > 1e-9])[::-1][:3].tolist(), abs=1e-6
    )
    assert [example.difference for example in found.changes.losses][:3] == pytest.approx(
        np.sort(difference[difference < -1e-9])[:3].tolist(), abs=1e-6
    )


def test_against_its_own_base_model_it_is_what_evaluate_says(places, dataset, base, tmp_path):
    new = opened(places / "new" / "model")
    found = compared(places, dataset, new, base, run_dir=tmp_path / "runs")
    (alone,) = evaluate_saved(new, dataset, cache_dir=places / "cache", show_progress_bar=False)
    assert found.evaluations[0].result.comparisons == alone.result.comparisons
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"qrels", "base.run", "adapted.run"}


def test_a_truncated_model_is_measured_as_sentence_transformers_runs_it(places, dataset, base):
    """It truncates behind the adapter, which reads all dimensions."""
    new, old = (
        SentenceTransformer(str(places / name / "model"), truncate_dim=6, device="cpu") for name in ("new", "old")
    )
    qrels = {
        q: {d: 1} for q, d in zip(*(dataset.judgements(UNCUT)[name] for name in ("query_id", "corpus_id")), strict=True)
    }

    def by_stock(model):
        scores = model.similarity(
            model.encode_query(dataset.query_texts), model.encode_document(dataset.document_texts)
        )
        run = {
            query_id: dict(zip(dataset.corpus["id"], row, strict=True))
            for query_id, row in zip(dataset.queries["id"], scores.tolist(), strict=True)
        }
        found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
        return [found[query_id]["ndcg_cut_10"] for query_id in dataset.queries["id"]]

    options = {"cache_dir": places / "cache", "show_progress_bar": False}
    found = evaluate_saved(new, dataset, **options)[0].result
    np.testing.assert_allclose(found.adapted["ndcg@10"], by_stock(new), atol=1e-6)
    against = compared(places, dataset, new, old).evaluations[0].result
    np.testing.assert_allclose(against.adapted["ndcg@10"], by_stock(new), atol=1e-6)
    np.testing.assert_allclose(against.base["ndcg@10"], by_stock(old), atol=1e-6)


def test_truncated_query_vectors_are_too_little_for_an_adapter_that_reads_all(places, dataset):
    new = SentenceTransformer(str(places / "new" / "model"), truncate_dim=6, device="cpu")
    queries, documents = (
        pd.DataFrame({"id": [f"{n}" for n in range(48)], "embedding": list(vectors)})
        for vectors in (new.encode(dataset.query_texts), new.encode_document(dataset.document_texts))
    )
    qrels = pd.DataFrame({"query_id": queries["id"], "corpus_id": documents["id"]})
    given = RetrievalDataset.load({"queries": queries, "corpus": documents, "qrels": qrels}, cut_into=())
    with pytest.raises(ValueError, match="came as vectors of 6 dimensions, but the adapter reads all 32"):
        evaluate_saved(new, given, cache_dir=places / "cache", show_progress_bar=False)


def test_a_model_in_half_precision_is_measured(places, dataset):
    new = SentenceTransformer(str(places / "new" / "model"), device="cpu", model_kwargs={"dtype": torch.float16})
    found = evaluate_saved(new, dataset, cache_dir=places / "cache", show_progress_bar=False)[0].result
    embedded = embed(detach(new)[0], dataset, cache_dir=places / "cache", show_progress_bar=False)
    right = evaluate(embedded, lambda queries: new.encode_query(dataset.query_texts))
    np.testing.assert_allclose(found.adapted["ndcg@10"], right.adapted["ndcg@10"], atol=1e-6)
    assert len(set(found.adapted["ndcg@10"].tolist())) > 3


def test_queries_that_came_as_vectors_are_mapped_by_both(base, dataset, places, expected):
    queries, documents = (
        pd.DataFrame({"id": [f"{n}" for n in range(48)], "embedding": list(vectors)})
        for vectors in (base.encode_query(dataset.query_texts), base.encode_document(dataset.document_texts))
    )
    qrels = pd.DataFrame({"query_id": queries["id"], "corpus_id": documents["id"]})
    tables = {"queries": queries, "corpus": documents, "qrels": qrels}
    given = RetrievalDataset.load(tables, cut_into=())
    found = compared(places, given, attach(base, adapter_of(1)), adapter_of(2))
    np.testing.assert_allclose(found.evaluations[0].result.base["ndcg@10"], expected["old"], atol=1e-6)
    base.prompts["query"] = "another "
    try:
        with pytest.raises(ValueError, match="The queries came as vectors, which are of one model"):
            compared(places, given, opened(places / "new" / "model"), attach(base, adapter_of(2)))
    finally:
        base.prompts["query"] = ""


def test_models_of_other_documents_are_refused_before_anything_is_embedded(
    places, dataset, base, tiny_flat_model_path, tmp_path
):
    other = opened(tiny_flat_model_path)
    for old in (other, attach(other, adapter_of(2))):
        with pytest.raises(ValueError, match=r"The documents of it have other vectors \(the weights differ"):
            compared(places, dataset, opened(places / "new" / "model"), old, name="it", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_documents_of_the_data_are_compared_as_well(places, dataset, base, monkeypatch):
    """What the identity does not show, the vectors of the data's documents do."""
    prompted = opened(places / "old" / "model")
    prompted.prompts["document"] = "this is quite another text than that "
    monkeypatch.setattr("st_adapter.evidence.against.check_same_documents", lambda *_: None)
    with pytest.raises(ValueError, match="The documents of the other model have other vectors"):
        compared(places, dataset, opened(places / "new" / "model"), prompted)


def test_a_model_that_embeds_queries_alone_is_not_measured_with_documents_of_its_own(
    base, places, dataset, tmp_path, capsys
):
    """Of a twin both sides would be the same, and neither of them the base model."""
    twin = save_pretrained(base, adapter_of(1), tmp_path / "twin", layout="twin")
    message = r"twin embeds queries alone \(layout 'twin'\); the documents that they find are embedded by"
    with pytest.raises(ValueError, match=message):
        evaluate_saved(opened(twin), dataset, cache_dir=tmp_path / "cache", show_progress_bar=False)
    assert not (tmp_path / "cache").exists()
    assert run(places, "--model", twin, "--data", places / "fresh.csv") == 2
    assert "Name the model of both if there is one" in " ".join(capsys.readouterr().err.split())


def test_models_that_compare_by_other_similarities_do_not_rank_alike(
    tiny_unnormalized_model_path, dataset, base, tmp_path
):
    by_dot, by_cosine = (
        SentenceTransformer(str(tiny_unnormalized_model_path), device="cpu", similarity_fn_name=name)
        for name in ("dot", "cosine")
    )
    as_long = QueryAdapter(32, normalize=False)
    with pytest.raises(ValueError, match="The similarity of it is 'cosine', and that of this model 'dot'"):
        compared(tmp_path, dataset, attach(by_dot, as_long), attach(by_cosine, as_long), name="it")
    # Of vectors of unit length both are the same.
    other = copy.copy(base)
    other.similarity_fn_name = "dot"
    compared(tmp_path, dataset, attach(base, adapter_of(1)), attach(other, adapter_of(2)))


def run(places, *words):
    output = places / "found.json"
    output.unlink(missing_ok=True)
    words = [
        "evaluate",
        *([] if "--model" in words else ["--model", places / "new"]),
        *words,
        "--output",
        output,
        "--cache-dir",
        places / "cache",
    ]
    status = cli.main([str(word) for word in words])
    return json.loads(output.read_text()) if status == 0 else status


def test_from_the_command_line(places, expected, capsys, dataset):
    found = run(places, "--against", places / "old", "--data", places / "fresh.csv")
    assert (found["split"], found["num_queries"], found["against"]) == ("all", 48, str(places / "old"))
    np.testing.assert_allclose(found["per_query"]["base"]["ndcg@10"], expected["old"], atol=1e-6)
    assert found["verdict"]["decision"] in ("deploy", "do not deploy", "too little data to tell")
    assert found["examples"]["gains"] and found["examples"]["losses"]
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(found["verdict"]["sentence"].split()) in printed
    assert "│ metric │ old │ new │" in " ".join(printed.replace("┃", "│").split()) or "old ┃ new" in printed
    alone = run(places, "--against", places / "alone", "--data", places / "fresh.csv")
    assert alone["comparisons"] == found["comparisons"]
    assert "against" not in run(places, "--data", places / "fresh.csv")


def test_all_splits_are_used_if_asked_for(places, capsys):
    folder = places / "splits"
    folder.mkdir()
    for name, rows in (("train", PAIRS[:20]), ("dev", PAIRS[20:30]), ("test", PAIRS[30:])):
        rows.to_csv(folder / f"{name}.csv", index=False)
    found = run(places, "--against", places / "old", "--data", folder, "--split", "all")
    assert (found["split"], found["num_queries"]) == ("all", 48)
    assert "The 48 queries of all splits are used." in " ".join(capsys.readouterr().out.split())
    assert run(places, "--against", places / "old", "--data", folder)["num_queries"] == 18
    assert "The 18 queries of the split 'test' are used." in " ".join(capsys.readouterr().out.split())


def test_figures_of_queries_that_it_was_fitted_on_are_called_so_and_judge_nothing(base, places, capsys, tmp_path):
    known = TrainingRecord(data="known.csv", seed=0, fitted_on=["train", "dev"])
    save_pretrained(base, adapter_of(1), tmp_path / "new" / "model", training=known)
    PAIRS.to_csv(tmp_path / "known.csv", index=False)
    words = ["--model", tmp_path / "new", "--against", places / "old", "--data", tmp_path / "known.csv"]
    found = run(places, *words)
    said = " ".join(capsys.readouterr().out.split())
    assert found["split"] == "test" and found["num_queries"] < 48 and "verdict" in found
    assert "trained on data called 'known.csv', so they are cut as they were then." in said
    assert "If these are others, --split all uses every one." in said
    found = run(places, *words, "--split", "all")
    said = " ".join(capsys.readouterr().out.split())
    assert (found["split"], found["num_queries"]) == ("all", 48) and "verdict" not in found
    assert (
        "note: The adapter was fitted on the splits 'train', 'dev': of these queries the figures say how well" in said
    )
    assert "No verdict: the new one was fitted on some of these queries." in said
    assert set(found["comparisons"]) == {"all", "seen", "unseen"}
    # The other one may have been fitted on them as well.
    run(places, "--against", tmp_path / "new", "--data", tmp_path / "known.csv", "--split", "all")
    assert "new was fitted on data of the same name, so that it may know some" in " ".join(
        capsys.readouterr().out.split()
    )


def test_what_cannot_be_compared_is_refused_in_the_words_of_the_command_line(places, tiny_flat_model_path, capsys):
    assert run(places, "--against", tiny_flat_model_path, "--data", places / "fresh.csv") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "have other vectors (the weights differ" in said and "flags such as --truncate-dim open both" in said
    assert run(places, "--against", places / "nowhere", "--data", places / "fresh.csv") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"--against is {places / 'nowhere'}, but there is no such folder" in said
