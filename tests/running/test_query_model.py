"""Another query model on the index that is there, from the front door to the saved repository."""

import importlib.util
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import st_adapter
from problems import split_of, unit_rows
from st_adapter import QueryAdapter, RetrievalDataset, embed, from_pretrained
from st_adapter.cli import commands
from st_adapter.cli.entry import main
from st_adapter.cli.tables import print_result
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.function_encoder import FunctionEncoder
from st_adapter.embeddings.origin import name_of
from st_adapter.embeddings.static import distilled
from st_adapter.evaluation.comparison import compare
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.run_file import evaluate_run, read_run
from st_adapter.evidence.results import Results
from st_adapter.evidence.saved import evaluate_saved
from st_adapter.evidence.systems import (
    BRIDGE,
    RUN_FILE,
    STATUS_QUO,
    WITH_ADAPTER,
    WITH_LABELS,
    QuerySpeed,
    side_by_side,
)
from st_adapter.evidence.trec import write_trec
from st_adapter.fitting import auto, bridges
from st_adapter.fitting.bridges import fit_bridge
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.taught_bridge import taught_by_both
from st_adapter.running import bridging
from st_adapter.running.settings import RunOptions
from st_adapter.saving.alone import save_adapter
from st_adapter.saving.joined import parted
from st_adapter.saving.query_base import check_has_no_adapter

COLORS = "red green blue black white old new big small fast".split()
THINGS = "car house river book garden train window table clock ship bread stone".split()
QUIET = {"method": "closed-form", "show_progress_bar": False}


@pytest.fixture(scope="session")
def pairs():
    things = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    return pd.DataFrame(
        {
            "query": [f"where do i find the {thing}" for thing in things],
            "document": [f"{thing.split()[1]}: this one is {thing.split()[0]}" for thing in things],
        }
    )


@pytest.fixture(scope="session")
def dataset(pairs):
    return RetrievalDataset.load(pairs)


@pytest.fixture
def documents(tiny_prompt_model_path):
    """The model of the index, with prompts."""
    return SentenceTransformer(str(tiny_prompt_model_path), device="cpu")


@pytest.fixture(scope="session")
def trained_with(tiny_flat_model_path, tiny_prompt_model_path, dataset, tmp_path_factory):
    """A run whose query model passes because almost any loss is tolerated."""
    folder = tmp_path_factory.mktemp("run")
    model = SentenceTransformer(str(tiny_prompt_model_path), device="cpu")
    result = st_adapter.train(
        model,
        dataset,
        query_model=tiny_flat_model_path,
        output_dir=folder / "out",
        cache_dir=folder / "cache",
        options=RunOptions(non_inferior=0.95),
        **QUIET,
    )
    return result, model


def test_what_is_handed_over_opens_with_plain_sentence_transformers(trained_with, tiny_flat_model_path, dataset):
    result, documents = trained_with
    assert result.verdict.adopted
    saved = SentenceTransformer(str(result.model_dir), device="cpu")
    texts = dataset.query_texts[:5]
    np.testing.assert_array_equal(saved.encode_document(texts), documents.encode_document(texts))
    np.testing.assert_array_equal(saved.encode(texts), documents.encode(texts))
    np.testing.assert_allclose(saved.encode_query(texts), result.encode_query(texts).cpu(), atol=1e-6)
    ours = SentenceTransformer(str(tiny_flat_model_path), device="cpu").encode_query(texts, convert_to_tensor=True)
    expected = result.adapter.transform(result.base.bridge(ours.clone()))
    np.testing.assert_allclose(saved.encode_query(texts), expected.detach().numpy(), atol=1e-5)
    from_pretrained(result.model_dir)


def test_all_ways_to_search_stand_side_by_side(trained_with, dataset, tmp_path):
    result, documents = trained_with
    found = result.results.query_model
    systems = {system.name: system for system in found.systems["test"]}
    assert list(systems) == [STATUS_QUO, WITH_ADAPTER, BRIDGE, WITH_LABELS]
    assert systems[STATUS_QUO].compared is None
    assert systems[STATUS_QUO].means["ndcg@10"] == pytest.approx(result.evaluation.base_means["ndcg@10"])
    assert systems[WITH_LABELS].means["ndcg@10"] == pytest.approx(result.evaluation.adapted_means["ndcg@10"])
    cut = dataset.with_cut()
    status_quo = evaluate(embed(documents, cut, cache_dir=tmp_path, show_progress_bar=False)["test"])
    assert systems[STATUS_QUO].means["mrr@10"] == pytest.approx(status_quo.base_means["mrr@10"])
    assert found.reference == STATUS_QUO
    assert found.margin == 0.95
    assert found.speed.single > 0
    assert found.speed.batch > 0
    assert found.status_quo_speed is not None


def test_console_results_report_and_card_show_them(trained_with, tmp_path):
    result, _ = trained_with
    printed = str(result)
    assert "all ways to search, against the status quo" in printed
    assert "query model with labels" in printed
    assert "Bridge: " in printed
    read = Results.read(result.output_dir / "results.json")
    assert read.query_model == result.results.query_model
    page = result.report(tmp_path / "report.html").read_text()
    assert "All ways to search" in page
    assert "the bridge without labels" in page
    card = (result.model_dir / "README.md").read_text()
    assert "| the bridge without labels |" in card
    assert "Not worse than the status quo by more than .950" in card or "Better than the status quo" in card


def test_a_damaged_figure_of_them_is_refused(trained_with, tmp_path):
    result, _ = trained_with
    content = json.loads((result.output_dir / "results.json").read_text())
    content["query_model"]["systems"]["test"][1]["means"]["ndcg@10"] = 7.0
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="figures beyond 1"):
        Results.read(tmp_path / "results.json")


def test_a_saved_model_of_two_is_evaluated_against_its_status_quo(trained_with, dataset, tmp_path):
    result, _ = trained_with
    saved = SentenceTransformer(str(result.model_dir), device="cpu")
    (exact,) = evaluate_saved(
        saved, dataset, "test", run_dir=tmp_path / "runs", cache_dir=tmp_path, show_progress_bar=False
    )
    for side, means in (("base", exact.result.base_means), ("adapted", exact.result.adapted_means)):
        trained = getattr(result.evaluation, f"{side}_means")
        assert means["ndcg@10"] == pytest.approx(trained["ndcg@10"], abs=1e-6)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"qrels", "base.run", "adapted.run"}


def useless(path):
    """A query model that keeps two of its dimensions, so that it tells hardly any text from another."""
    model = SentenceTransformer(str(path), device="cpu")
    weight = torch.eye(32) * (torch.arange(32) < 2)
    model.append(Dense(32, 32, bias=False, activation_function=torch.nn.Identity(), init_weight=weight).eval())
    return model


def test_a_useless_query_model_is_refused_and_nothing_is_handed_over(
    documents, tiny_flat_model_path, dataset, tmp_path
):
    result = st_adapter.train(
        documents,
        dataset,
        query_model=useless(tiny_flat_model_path),
        output_dir=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        **QUIET,
    )
    assert not result.verdict.adopted
    assert result.adapter is None
    assert result.model is documents
    assert result.model_dir is None
    assert "nothing is handed over" in result.verdict.headline and result.verdict.headline in str(result)
    with pytest.raises(ValueError, match="The query model did not pass"):
        result.save_pretrained(tmp_path / "model")


def stored(pairs, documents):
    """The same data, whose documents are given as vectors, and whose model is not there any more."""
    vectors = documents.encode_document(pairs["document"].tolist())
    ids = [f"d{row}" for row in range(len(pairs))]
    labels = pd.DataFrame({"query": pairs["query"], "corpus_id": ids})
    corpus = pd.DataFrame({"id": ids, "text": pairs["document"], "embedding": list(vectors)})
    return RetrievalDataset.load(labels, corpus=corpus)


def test_the_model_of_stored_vectors_need_not_be_there(pairs, documents, tiny_flat_model_path, tmp_path, capsys):
    result = st_adapter.train(
        None,
        stored(pairs, documents),
        query_model=tiny_flat_model_path,
        output_dir=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        options=RunOptions(non_inferior=0.95),
        **QUIET,
    )
    found = result.results.query_model
    assert found.reference == BRIDGE
    assert found.bridge.num_queries == 0
    assert found.bridge.num_documents == 120
    assert [system.name for system in found.systems["test"]] == [BRIDGE, WITH_LABELS]
    assert any("was not checked whose vectors they are" in note for note in result.results.data.notes)
    model = from_pretrained(result.model_dir, device="cpu")
    texts = ["where do i find the red car"]
    np.testing.assert_allclose(model.encode(texts), result.encode_query(texts).cpu(), atol=1e-6)
    print_result(result)
    printed = capsys.readouterr().out
    assert "model.encode_query(queries)" in printed
    assert "encode_document" not in printed  # it would embed them as queries


def spied(monkeypatch):
    """What the bridges of the runs to come are fitted on: documents with texts, and all other arguments."""
    asked = []

    def fitted(queries, documents, **arguments):
        asked.append((documents, {"queries": queries, **arguments}))
        return fit_bridge(queries, documents, **arguments)

    monkeypatch.setattr(bridging, "fit_bridge", fitted)
    return asked


def test_a_bridge_is_chosen_on_documents_that_have_no_texts(
    pairs, documents, tiny_flat_model_path, tmp_path, monkeypatch
):
    vectors, ids = documents.encode_document(pairs["document"].tolist()), [f"d{row}" for row in range(len(pairs))]
    corpus = pd.DataFrame({"id": ids, "embedding": list(vectors)})
    data = RetrievalDataset.load(pd.DataFrame({"query": pairs["query"], "corpus_id": ids}), corpus=corpus)
    asked = spied(monkeypatch)
    result = st_adapter.train(documents, data, query_model=tiny_flat_model_path, cache_dir=tmp_path, **QUIET)
    assert result.results.query_model.bridge.num_documents == 0
    ((twins, arguments),) = asked
    assert twins is None
    in_order = arguments["ranked"] @ torch.from_numpy(vectors).T
    torch.testing.assert_close(in_order.max(dim=0).values, torch.ones(120))


def test_a_run_file_is_the_status_quo(pairs, documents, tiny_flat_model_path, dataset, tmp_path, monkeypatch):
    fits = []

    def fit(data, **kwargs):
        fits.append(kwargs["reference"])
        return auto.fit(data, **kwargs)

    monkeypatch.setattr("st_adapter.running.run.fit", fit)
    embedded = embed(documents, dataset, cache_dir=tmp_path, show_progress_bar=False)
    lines = []
    for split in ("train", "dev", "test"):
        write_trec(embedded[split], tmp_path / split)
        lines.append((tmp_path / split / "base.run").read_text())
    (tmp_path / "all.run").write_text("".join(lines))
    result = st_adapter.train(
        documents,
        dataset,
        query_model=tiny_flat_model_path,
        cache_dir=tmp_path / "cache",
        options=RunOptions(reference_run=tmp_path / "all.run"),
        **QUIET,
    )
    found = result.results.query_model
    assert (found.reference, found.reference_run) == (RUN_FILE, "all.run")
    assert "--reference-run all.run" in result.report(tmp_path / "report.html").read_text()
    by_name = {system.name: system for system in found.systems["test"]}
    # Whatever they are compared with, queries are learned from as the documents' own model embeds them besides.
    (reference,) = fits
    torch.testing.assert_close(reference.queries.query_embeddings, labelled_split(embedded).query_embeddings)
    # The run is that of the status quo itself.
    assert by_name[RUN_FILE].means == pytest.approx(by_name[STATUS_QUO].means, abs=1e-9)


def test_a_run_is_measured_by_hand(tmp_path):
    split = split_of(unit_rows(2, 8), unit_rows(4, 8, seed=1), [(0, 1, 1.0), (1, 3, 1.0)])
    (tmp_path / "a.run").write_text("q0 Q0 d2 1 0.9 x\nq0 Q0 d1 2 0.8 x\n\n")
    found = evaluate_run(split, read_run(tmp_path / "a.run"))
    np.testing.assert_allclose(found.base["ndcg@10"], [1 / np.log2(3), 0.0])
    np.testing.assert_allclose(found.base["mrr@10"], [0.5, 0.0])
    with pytest.raises(ValueError, match="names 1 documents that the corpus does not have, the first: \\['d9'\\]"):
        evaluate_run(split, {"q0": {"d9": 1.0}})
    with pytest.raises(ValueError, match="has none of the 2 queries"):
        evaluate_run(split, {"other": {"d1": 1.0}})
    (tmp_path / "b.run").write_text("q0 d2 0.9\n")
    with pytest.raises(ValueError, match="line 1, is 'q0 d2 0.9'"):
        read_run(tmp_path / "b.run")


def test_ways_are_compared_with_the_reference_by_hand():
    metrics = ("ndcg@10", "mrr@10", "recall@10")
    first, second = (
        dict.fromkeys(metrics, np.array(values)) for values in ([0.5, 0.5, 0.0, 1.0], [0.5, 0.9, 0.2, 1.0])
    )
    one, two = side_by_side("a", {"a": first, "b": second})
    assert one.compared is None
    assert two.means["ndcg@10"] == pytest.approx(0.65)
    assert two.compared.difference == pytest.approx(0.15)
    assert (two.compared.wins, two.compared.ties, two.compared.losses) == (2, 2, 0)


def test_a_comparison_has_the_same_p_beside_other_ways_as_by_itself():
    """Which queries the other metrics differ on decides which signs are drawn."""
    draws = np.random.default_rng(0)
    first = {name: draws.random(40) for name in ("ndcg@10", "mrr@10", "recall@10")}
    second = {**{name: draws.random(40) for name in first}, "ndcg@10": first["ndcg@10"] + draws.normal(0.01, 0.05, 40)}
    second["ndcg@10"][:15] = first["ndcg@10"][:15]
    beside = side_by_side("a", {"a": first, "b": second})[1].compared
    assert beside.p_value == compare(first, second)["ndcg@10"].p_value


def test_speed_counts_queries():
    asked = []
    speed = QuerySpeed.of(lambda texts: asked.append(len(texts)), ["a", "b", "c"])
    assert asked == [1] * 36 + [64, 64]
    assert speed.single > 0


def test_what_does_not_go_together_is_refused_before_anything_is_embedded(documents, tiny_flat_model_path, dataset):
    query_model = tiny_flat_model_path
    for options, arguments, message in (
        (RunOptions(non_inferior=0.01), {}, "there is no query model"),
        (RunOptions(), {"query_model": query_model, "method": "gradient"}, "is chosen among what fits in folds give"),
        (RunOptions(unlabelled_queries=["a"]), {}, "no teacher and no query model"),
        (
            RunOptions(without_labels=True, non_inferior=0.01),
            {"query_model": query_model},
            "without labels nothing is compared. Leave non_inferior or without_labels out",
        ),
        (RunOptions(non_inferior=1.5), {"query_model": query_model}, "non_inferior is 1.5"),
        (
            RunOptions(),
            {"query_model": query_model, "teacher": query_model},
            "A teacher and a query model came together",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            st_adapter.train(documents, dataset, options=options, show_progress_bar=False, **arguments)
    with pytest.raises(ValueError, match="There is no model"):
        st_adapter.train(None, dataset)
    for options in (RunOptions(without_labels=True), RunOptions(unlabelled_queries=["a"])):
        with pytest.raises(ValueError, match="learns from the model of the documents, which was not given"):
            st_adapter.train(None, dataset, query_model=query_model, options=options)
    with pytest.raises(ValueError, match="The documents have no vectors"):
        st_adapter.train(None, dataset, query_model=query_model, show_progress_bar=False)
    encoder = FunctionEncoder(len, len, name="x")
    with pytest.raises(ValueError, match="The query model is a FunctionEncoder"):
        st_adapter.train(documents, dataset, query_model=encoder)


def test_from_the_command_line(pairs, tiny_prompt_model_path, tiny_flat_model_path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs.to_csv("pairs.csv", index=False)
    words = ["train", "--model", str(tiny_prompt_model_path), "--query-model", str(tiny_flat_model_path)]
    words += ["--data", "pairs.csv", "--method", "closed-form", "--non-inferior", "0.95", "--device", "cpu"]
    assert main([*words, "--cache-dir", "cache", "--output-dir", "out", "--disable-tqdm"]) == 0
    printed = capsys.readouterr().out
    assert "all ways to search, against the status quo" in printed
    assert (tmp_path / "out" / "model" / "modules.json").is_file()
    assert main(["evaluate", "--model", "out", "--data", "pairs.csv", "--cache-dir", "cache", "--device", "cpu"]) == 0
    assert main(["push", "out", "user/name", "--adapter-only"]) == 2
    assert "has no adapter by itself" in capsys.readouterr().err
    assert main(["train", "--model", "none", "--data", "pairs.csv"]) == 2
    assert "--model none came without --query-model" in capsys.readouterr().err


def test_a_static_query_model_is_kept_and_taken_from_where_it_is_kept(documents, tiny_flat_model_path, tmp_path):
    place = tmp_path / "static" / model_fingerprint(documents)[:32]
    shutil.copytree(tiny_flat_model_path, place / f"static-{name_of(documents)}")
    kept = distilled(documents, tmp_path)
    right = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    np.testing.assert_array_equal(kept.encode(["the red car"]), right.encode(["the red car"]))
    assert name_of(kept).startswith("static-")


def test_a_static_query_model_is_fitted_to_the_texts_of_the_data(documents, dataset, tmp_path, monkeypatch):
    """What is saved looks up the fitted table, and finds what the documents' model finds better than the one before."""
    place = tmp_path / "static" / model_fingerprint(documents)[:32] / f"static-{name_of(documents)}"
    tokenizer = documents.tokenizer.backend_tokenizer
    old = torch.randn(tokenizer.get_vocab_size(), 16, generator=torch.Generator().manual_seed(0))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=old)]).save_pretrained(str(place))
    options = {"cache_dir": tmp_path, "options": RunOptions(non_inferior=0.95), **QUIET}
    asked, lessons = spied(monkeypatch), taught(monkeypatch)
    fitted = st_adapter.train(documents, dataset, query_model="static", **options)
    assert not lessons  # it has all it knows from the documents' model
    as_it_was = st_adapter.train(documents, dataset, query_model=str(place), **options)
    agreements = [result.results.query_model.bridge.agreement for result in (fitted, as_it_was)]
    assert agreements[0] > agreements[1] + 0.02
    # A fitted table stays a lookup.
    assert [(each["affine"], each["of_length"]) for _, each in asked] == [(True, True), (False, False)]
    saved = fitted.save_pretrained(tmp_path / "saved")
    assert "Dense" not in {type(module).__name__ for module in parted(fitted.model).queries}
    texts = dataset.query_texts[:20]
    reopened = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_allclose(reopened.encode_query(texts), fitted.model.encode_query(texts), atol=1e-6)
    np.testing.assert_array_equal(reopened.encode_document(texts), documents.encode_document(texts))
    (again,) = evaluate_saved(
        from_pretrained(saved), dataset, "test", cache_dir=tmp_path / "again", show_progress_bar=False
    )
    assert again.result.adapted_means["ndcg@10"] == pytest.approx(fitted.evaluation.adapted_means["ndcg@10"], abs=1e-6)


def taught(monkeypatch):
    """The documents that the bridges of the runs to come are taught on."""
    asked = []

    def found(bridge, queries, documents, **arguments):
        asked.append(documents)
        return taught_by_both(bridge, queries, documents, **arguments)

    monkeypatch.setattr(bridging, "taught_by_both", found)
    return asked


@pytest.mark.parametrize("few", [400, 95, 10])
def test_a_bridge_is_taught_where_there_are_few_labels(
    documents, dataset, tiny_flat_model_path, tmp_path, monkeypatch, few
):
    asked = taught(monkeypatch)
    monkeypatch.setattr(auto, "_FEW", few)
    result = st_adapter.train(documents, dataset, query_model=tiny_flat_model_path, cache_dir=tmp_path, **QUIET)
    assert len(asked) == (few == 400)  # the data have 95
    assert ("taught" in result.results.query_model.bridge.name) == (few == 400)


@pytest.mark.parametrize("units", [True, False])
def test_without_labels_the_taught_bridge_is_handed_over_and_nothing_is_tested(
    pairs, tiny_prompt_model_path, tiny_flat_model_path, tmp_path, capsys, monkeypatch, units
):
    monkeypatch.setattr(bridges, *(("_METHODS", ()) if units else ("_RIDGES_OF_UNITS", ())))
    corpus, log = tmp_path / "corpus.csv", tmp_path / "log.txt"
    pd.DataFrame({"text": pairs["document"]}).to_csv(corpus, index=False)
    log.write_text("\n".join(pairs["query"]))
    words = ["train", "--without-labels", "--model", str(tiny_prompt_model_path), "--corpus", str(corpus)]
    words += ["--query-model", str(tiny_flat_model_path), "--unlabelled-queries", str(log)]
    places = ["--output-dir", str(tmp_path / "out"), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    assert main([*words, *places]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Not tested" in printed
    assert "learned from 240 texts that both models embed without any label" in printed
    results = Results.read(tmp_path / "out" / "results.json")
    found = results.query_model.bridge
    assert found.name.endswith("taught by both models' rankings") and ("radial" in found.name) == units
    assert (found.num_queries, found.num_documents) == (120, 120)
    assert results.adopted and not results.verdict.tested and results.selection.num_texts == 240
    documents, ours = (
        SentenceTransformer(str(path), device="cpu") for path in (tiny_prompt_model_path, tiny_flat_model_path)
    )
    saved = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    texts = pairs["query"].tolist()[:20]
    np.testing.assert_array_equal(saved.encode_document(texts), documents.encode_document(texts))
    # A query is where both models have it more than where it was.
    by_both = [
        model.encode_query(texts) @ model.encode_document(pairs["document"].tolist()).T for model in (documents, ours)
    ]
    ranked = saved.encode_query(texts) @ documents.encode_document(pairs["document"].tolist()).T
    assert np.corrcoef(ranked.ravel(), sum(by_both).ravel())[0, 1] > 0.5
    np.testing.assert_allclose(np.linalg.norm(saved.encode_query(texts), axis=1), 1, atol=1e-5)
    card, page = (tmp_path / "out" / name for name in ("model/README.md", "report.html"))
    assert "texts that both models embed" in card.read_text()
    repeat = f"st-adapter train --model {tiny_prompt_model_path.name} --without-labels --corpus corpus.csv --seed 0"
    assert f"{repeat} --query-model {tiny_flat_model_path.name} --unlabelled-queries QUERIES" in page.read_text()


def test_judgements_take_no_part_without_labels_but_say_how_well_it_does(
    documents, dataset, tiny_flat_model_path, tmp_path
):
    options = RunOptions(without_labels=True)
    result = st_adapter.train(
        documents,
        dataset,
        query_model=tiny_flat_model_path,
        cache_dir=tmp_path,
        show_progress_bar=False,
        options=options,
    )
    assert result.results.fitted_on == [] and result.results.held_out == "test"
    assert "of test" in result.verdict.measured
    systems = {system.name: system.means["ndcg@10"] for system in result.results.query_model.systems["test"]}
    assert list(systems) == [STATUS_QUO, BRIDGE]
    assert systems[BRIDGE] == pytest.approx(result.evaluation.adapted_means["ndcg@10"])
    assert "Bridge: " in str(result)


def test_queries_without_labels_are_shown_to_a_bridge_unless_test_has_them(
    documents, dataset, tiny_flat_model_path, tmp_path, monkeypatch
):
    asked = spied(monkeypatch)
    cut = dataset.with_cut()
    hidden = set(cut.qrels["test"]["query_id"])
    tested = next(text for each, text in zip(cut.queries["id"], cut.query_texts, strict=True) if each in hidden)
    options = RunOptions(unlabelled_queries=["what is in the attic", tested.upper(), "who has the key"])
    st_adapter.train(documents, dataset, query_model=tiny_flat_model_path, cache_dir=tmp_path, options=options, **QUIET)
    ((_, arguments),) = asked
    queries = arguments["queries"]
    assert len(queries.ours) == len(queries.theirs) == 95 + 2
    ours = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    for model, vectors in ((ours, queries.ours), (documents, queries.theirs)):
        expected = model.encode_query(["what is in the attic", "who has the key"])
        np.testing.assert_allclose(vectors[-2:], expected, atol=1e-6)


@pytest.mark.parametrize("with_prompts", [True, False])
def test_a_bridge_is_taught_what_the_query_model_finds_among_documents(
    documents, pairs, dataset, tiny_flat_model_path, tmp_path, monkeypatch, with_prompts
):
    asked, other = taught(monkeypatch), SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    index, queries = (other, documents) if with_prompts else (documents, other)
    st_adapter.train(index, dataset, query_model=queries, cache_dir=tmp_path, **QUIET)
    (twins,) = asked
    vectors = torch.nn.functional.normalize(queries.encode_document(pairs["document"].tolist(), convert_to_tensor=True))
    assert len(twins.ours) == 120
    torch.testing.assert_close((twins.ours @ vectors.T).max(dim=1).values, torch.ones(120))
    as_queries = torch.nn.functional.normalize(queries.encode_query(pairs["document"].tolist(), convert_to_tensor=True))
    nearest = (twins.ours @ as_queries.T).max(dim=1).values
    assert bool((nearest < 0.9999).all()) == with_prompts


def test_a_plain_matrix_is_asked_for(documents, dataset, tiny_flat_model_path, tmp_path, monkeypatch):
    asked, options = spied(monkeypatch), {**QUIET, "method": "linear"}
    st_adapter.train(documents, dataset, query_model=tiny_flat_model_path, cache_dir=tmp_path, **options)
    assert [(each["affine"], each["of_length"]) for _, each in asked] == [(True, False)]  # it is no static table


def test_what_has_the_text_of_a_test_query_is_not_shown_to_a_bridge(documents, tiny_flat_model_path, tmp_path):
    """Neither a query of train that was dropped as a copy, nor one that no split has."""
    texts = ["where is it", "Any left", "WHERE  is it", "any left", "new"]
    queries = Dataset.from_dict({"id": list("abcde"), "text": texts})
    corpus = Dataset.from_dict({"id": ["x"], "text": ["it is here"]})
    splits = {"train": ["e"], "test": ["a", "d"]}
    qrels = {
        split: Dataset.from_dict({"query_id": ids, "corpus_id": ["x"] * len(ids), "relevance": [1.0] * len(ids)})
        for split, ids in splits.items()
    }
    dataset = RetrievalDataset(queries, corpus, qrels)
    embedded = embed(documents, dataset, cache_dir=tmp_path, show_progress_bar=False)
    shown = bridging._shown_to_bridge(embedded, dataset.query_texts)
    assert shown.tolist() == [False, False, False, False, True]


def test_a_query_model_is_opened_where_the_model_of_the_documents_is(
    documents, dataset, tiny_flat_model_path, monkeypatch
):
    def refuse(base, queries, **kwargs):
        raise RuntimeError(f"on {queries.device}")

    monkeypatch.setattr("st_adapter.running.run.query_model_base", refuse)
    # A device that there is everywhere, and that is nowhere the default.
    with pytest.raises(RuntimeError, match="on meta"):
        st_adapter.train(documents.to("meta"), dataset, query_model=tiny_flat_model_path)


@pytest.mark.skipif(importlib.util.find_spec("model2vec") is not None, reason="model2vec is installed")
def test_without_model2vec_it_is_said_what_to_install(documents, dataset, tmp_path):
    with pytest.raises(ImportError, match=r'pip install "st-adapter\[static\]"'):
        st_adapter.train(documents, dataset, query_model="static", cache_dir=tmp_path, show_progress_bar=False)


def test_a_static_query_model_needs_the_model_it_is_distilled_from(dataset):
    with pytest.raises(ValueError, match="'static' is distilled from the model of the documents"):
        st_adapter.train(None, dataset, query_model="static")


def test_what_says_how_a_model_is_opened_is_refused_where_there_is_none(pairs, tiny_flat_model_path, tmp_path, capsys):
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    words = [
        "train",
        "--model",
        "none",
        "--query-model",
        str(tiny_flat_model_path),
        "--data",
        str(tmp_path / "pairs.csv"),
    ]
    given = (
        ("--query-prompt", ""),
        ("--document-prompt", "d: "),
        ("--truncate-dim", "8"),
        ("--max-seq-length", "9"),
        ("--revision", "main"),
        ("--base-url", "http://localhost"),
        ("--trust-remote-code",),
    )
    for flag in given:
        assert main([*words, *flag]) == 2
        assert f"{flag[0]} says how --model is opened, but --model none" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file"),
        ("not a run\n", "line 1, is 'not a run'"),
        ("q900 Q0 d1 1 0.5 x\n", "has none of the queries of the data"),
        # A query that is missing would count as one that found nothing.
        ("q0 Q0 d1 1 0.5 x\n", r"has nothing for \d+ of the \d+ judged queries, the first: .* Name a run of all"),
        ("".join(f"q{number} Q0 d900 1 0.5 x\n" for number in range(200)), "names 1 documents that the corpus does"),
    ],
)
def test_a_run_file_is_read_before_anything_is_embedded(
    content, message, documents, dataset, tiny_flat_model_path, tmp_path
):
    if content is not None:
        (tmp_path / "some.run").write_text(content)
    options = RunOptions(reference_run=tmp_path / "some.run")
    how = {"query_model": tiny_flat_model_path, "cache_dir": tmp_path / "cache", "options": options, **QUIET}
    with pytest.raises(ValueError, match=message):
        st_adapter.train(documents, dataset, **how)
    assert not (tmp_path / "cache").exists()


def test_a_query_model_with_an_adapter_is_called_by_its_own_name(
    documents, dataset, tiny_flat_model_path, tmp_path, capsys
):
    base = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    adapted = st_adapter.attach(base, QueryAdapter(32))
    with pytest.raises(ValueError, match="The query model has an adapter or routes already.*as query_model"):
        st_adapter.train(documents, dataset, query_model=adapted, cache_dir=tmp_path, **QUIET)
    # It may have been fitted on the very queries that it would be measured on, though no module of it says so.
    twin = st_adapter.save_pretrained(base, QueryAdapter(32), tmp_path / "twin", layout="twin")
    with pytest.raises(ValueError, match="The query model has an adapter or routes already"):
        st_adapter.train(documents, dataset, query_model=twin, cache_dir=tmp_path, **QUIET)
    # What is taken out of a saved model is a model like any other, wherever it came from.
    saved = st_adapter.save_pretrained(base, QueryAdapter(32), tmp_path / "whole")
    check_has_no_adapter(st_adapter.detach(SentenceTransformer(str(saved), device="cpu"))[0])
    st_adapter.save_pretrained(base, QueryAdapter(32), tmp_path / "m")
    words = ["train", "--model", "not/opened/yet", "--query-model", str(tmp_path / "m"), "--data", "not/read/yet.csv"]
    assert main(words) == 2
    assert "Name the model that it was made from with --query-model" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query-model", "openai:foo"], "--query-model is openai:foo, an endpoint, but"),
        (["--query-model", "/nonexistent"], "--query-model is /nonexistent, but there is no such folder"),
        (["--query-model", "user/none"], "--query-model is user/none, but there is no such folder, and no such model"),
        (["--query-model", "empty"], "--query-model is the folder empty, which holds no model"),
        (["--query-model", "adapter"], "--query-model is adapter, which holds an adapter alone"),
        (["--query-model", "pairs.csv"], "--query-model is pairs.csv, a file, but"),
        (["--query-model", "MODEL", "--teacher", "any"], "Leave --teacher or --query-model out"),
        (["--query-model", "MODEL", "--method", "gradient"], "Leave --method gradient out"),
        (["--non-inferior", "0.1"], "Add --query-model, or leave --non-inferior out"),
        (["--query-model", "MODEL", "--non-inferior", "1"], "--non-inferior is 1.0, but has to be"),
        (["--query-model", "MODEL", "--reference-run", "no.run"], "no.run is no file of at most 1 GiB"),
        (["--query-model", "static", "--model", "none"], "Name that model with --model, or another one"),
        (["--seed", "-1"], "--seed is -1, but has to be"),
        (["--alpha", "2"], "--alpha is 2.0, but has to be"),
        (["--method", "gradient", "--rank", "4"], "--rank is 4, but only --kind low_rank has a use for it"),
    ],
)
def test_what_flags_alone_tell_is_said_before_anything_is_opened(
    words, message, tiny_flat_model_path, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pairs.csv").touch()
    save_adapter(QueryAdapter(32), tmp_path / "adapter")

    def opened(*_, **__):
        raise AssertionError("something was opened")

    for name in ("open_base_or_deployed", "load_for_training"):
        monkeypatch.setattr(commands, name, opened)
    model = ["--model", "any"] if "--model" not in words else []
    words = [str(tiny_flat_model_path) if word == "MODEL" else word for word in words]
    assert main(["train", *model, "--data", "pairs.csv", "--device", "cpu", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
