"""Queries that stand in the corpus: left out everywhere unless judged relevant, against slow loops and pytrec_eval."""

import json
import math
from dataclasses import asdict, replace

import pandas as pd
import pytest
import pytrec_eval
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from problems import corpus_of, qrels_of, split_of
from st_adapter import cli
from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.judgements import own_copies
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import search_split
from st_adapter.evidence.changes import largest_changes
from st_adapter.evidence.evaluator import GradedRetrievalEvaluator
from st_adapter.evidence.index_evaluation import evaluate_indexes
from st_adapter.evidence.indexes import build_index
from st_adapter.evidence.mteb import mteb_task
from st_adapter.evidence.trec import write_trec
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import fit
from st_adapter.fitting.sampling import BatchSampler
from st_adapter.saving.card import model_card
from st_adapter.saving.record import SplitScores, TrainingRecord
from st_adapter.saving.save import save_pretrained
from st_adapter.storage.records import built

MEASURES = {"ndcg@10": "ndcg_cut_10", "map@100": "map_cut_100", "recall@10": "recall_10", "precision@5": "P_5"}


# --- finding them ---


texts = st.lists(
    st.sampled_from(["a b", "A  b", " a\tB ", "a-b", "ＡＢ", "ab", "straße", "STRASSE", "İ", "i̇"]), max_size=6
)


@given(texts, texts)
def test_copies_are_found_as_a_slow_comparison_finds_them(queries, corpus):
    def same(one, other):
        fold = {"ＡＢ": "ab", "STRASSE": "strasse", "straße": "strasse", "İ": "i̇"}
        return fold.get(one, " ".join(one.lower().split())) == fold.get(other, " ".join(other.lower().split()))

    expected = [(q, d) for q, query in enumerate(queries) for d, text in enumerate(corpus) if same(query, text)]
    assert list(zip(*own_copies(queries, corpus), strict=True)) == expected


def question_tables():
    """Duplicate questions: every query is a document too, and another question is what it asks for."""
    subjects = ("red car", "green house", "blue river", "black mountain", "white book")
    questions = [f"where is the {subject} number {n}" for subject in subjects for n in range(6)]
    answers = [f"{question} !" for question in questions]
    corpus = [{"id": f"c{n}", "text": text} for n, text in enumerate([*answers, *(q.upper() for q in questions)])]
    corpus += [{"id": "c60", "text": "  " + questions[2]}]  # a second copy of q2
    qrels = [{"query_id": f"q{n}", "corpus_id": f"c{n}", "score": 1} for n in range(30)]
    qrels += [{"query_id": "q0", "corpus_id": "c30", "score": 2}]  # judged relevant: it stays
    qrels += [{"query_id": "q1", "corpus_id": "c31", "score": 0}]  # judged not relevant: it goes
    splits = ["train"] * 10 + ["dev"] * 8 + ["test"] * 12
    split_of = {f"q{n}": split for n, split in enumerate(reversed(splits))}
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_list([{"id": f"q{n}", "text": text} for n, text in enumerate(questions)]),
        "qrels": Dataset.from_list([{**row, "split": split_of[row["query_id"]]} for row in qrels]),
    }


def questions():
    return RetrievalDataset.load(question_tables())


def left_out_ids(dataset):
    """By hand: query -> the ids of its copies that are not judged relevant."""
    ids = {f"q{n}": {f"c{30 + n}"} for n in range(30)}
    return {**ids, "q0": set(), "q2": {"c32", "c60"}}


def test_loading_says_how_many():
    notes = [note for note in questions().notes if "stands in the corpus" in note or "stand in the corpus" in note]
    assert notes == [
        "29 queries stand in the corpus as documents too (apart from case and spacing); such a copy is left out of the "
        "query's hits and negatives, unless it is judged relevant."
    ]
    one = {"question": ["A?", "B?", "C?"], "answer": ["x", "a?", "z"], "split": ["train", "dev", "test"]}
    assert any(
        note.startswith("1 query stands in the corpus") for note in RetrievalDataset.load(pd.DataFrame(one)).notes
    )
    relevant = {**one, "answer": ["a?", "y", "z"]}
    assert not any("in the corpus" in note for note in RetrievalDataset.load(pd.DataFrame(relevant)).notes)


@pytest.fixture(scope="module")
def prompt_model(tiny_prompt_model_path):
    """Prompts give a query's own copy another vector, so only the texts tell."""
    return SentenceTransformer(str(tiny_prompt_model_path), device="cpu")


@pytest.fixture(scope="module")
def embedded(prompt_model, tmp_path_factory):
    return embed(prompt_model, questions(), cache_dir=tmp_path_factory.mktemp("cache"), show_progress_bar=False)


def named(split):
    found = {query_id: set() for query_id in split.query_ids}
    for query, document in zip(*(part.tolist() for part in split.left_out), strict=True):
        found[split.query_ids[query]].add(split.corpus.ids[document])
    return found


def test_splits_subsets_and_moves_keep_them(embedded):
    expected = left_out_ids(questions())
    for data in (embedded, embedded.to("cpu"), replace(embedded, normalized=False)):
        for name in ("train", "dev", "test"):
            split = data[name]
            assert named(split) == {query_id: expected[query_id] for query_id in split.query_ids}
            kept = torch.arange(len(split.query_ids)) % 3 != 0
            part = split.subset(kept)
            assert part.query_ids and named(part) == {query_id: expected[query_id] for query_id in part.query_ids}


def named_split(queries, documents, ids, corpus_ids, similarity="cosine", copies=None, judged=((0, 0, 1.0),)):
    split = split_of(queries, documents, judged, own_copies=copies)
    return replace(split, query_ids=ids, corpus=MemoryCorpus(corpus_ids, documents, similarity))


def test_without_texts_the_id_and_the_vector_tell():
    queries = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    documents = torch.tensor([[1.0, 0.0], [6.0, 8.0], [0.0, 2.0], [0.6, 0.80001]])
    ids = ["1", "2", "3"]
    for similarity, expected in (
        ("cosine", {"1": {"d"}, "2": set(), "3": {"3"}}),
        ("dot", {"1": set(), "2": set(), "3": {"3"}}),
    ):
        # "2" has the vector of "d1" under another id, and "1" another vector under its own.
        split = named_split(queries, documents, ids, ["x", "2", "3", "1"], similarity, judged=((1, 0, 1.0),))
        assert {q: {c.replace("1", "d") for c in found} for q, found in named(split).items()} == expected
    assert named(named_split(queries, documents, ids, ["x", "2", "3", "1"], judged=((2, 2, 1.0),)))["3"] == set()


def test_texts_overrule_ids_and_vectors():
    queries = torch.eye(2)
    nothing = OwnCopies(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert named(named_split(queries, queries, ["1", "2"], ["1", "2"], copies=nothing)) == {"1": set(), "2": set()}
    given = OwnCopies(torch.tensor([1]), torch.tensor([0]))
    assert named(named_split(queries, queries, ["1", "2"], ["1", "2"], copies=given)) == {"1": set(), "2": {"1"}}


# --- searching ---


@st.composite
def splits_with_copies(draw):
    """Few documents, integer vectors so that scores tie, several copies a query, some of them judged."""
    num_queries, num_documents = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    numbers = st.integers(-2, 2)

    def matrix(rows):
        return torch.tensor(draw(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=rows, max_size=rows)))

    pairs = st.tuples(st.integers(0, num_queries - 1), st.integers(0, num_documents - 1))
    copies = sorted(draw(st.sets(pairs, max_size=10)))
    judged = draw(st.dictionaries(pairs, st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=8))
    return named_split(
        matrix(num_queries).float() + 0.25,
        matrix(num_documents).float() + 0.5,
        [f"q{n}" for n in range(num_queries)],
        [f"d{n}" for n in range(num_documents)],
        draw(st.sampled_from(["cosine", "dot"])),
        OwnCopies(*torch.tensor(copies, dtype=torch.int64).reshape(-1, 2).unbind(1)),
        tuple((q, d, grade) for (q, d), grade in judged.items()),
    )


def slow_rankings(split, queries):
    """Every document but the copies, best first, equal scores in corpus order."""
    if split.similarity == "cosine":
        queries = torch.nn.functional.normalize(queries)
    scores = (queries.double() @ split.corpus.embeddings.double().T).float().tolist()
    relevant = {(q, d) for q, d, grade in zip(*(part.tolist() for part in split.qrels), strict=True) if grade > 0}
    copies = {pair for pair in zip(*(part.tolist() for part in split.own_copies), strict=True) if pair not in relevant}
    return [
        [d for d in sorted(range(len(row)), key=lambda d, row=row: (-row[d], d)) if (q, d) not in copies]
        for q, row in enumerate(scores)
    ]


@settings(max_examples=150)
@given(splits_with_copies(), st.integers(1, 9))
def test_hits_are_those_of_a_slow_search_without_the_copies(split, k):
    found = search_split(split, split.query_embeddings, k)
    for row, expected in enumerate(slow_rankings(split, split.query_embeddings)):
        indices = found.indices[row].tolist()
        hits = [document for document in indices if document >= 0]
        assert hits == expected[:k] and indices == hits + [-1] * (len(indices) - len(hits))
        assert found.scores[row, len(hits) :].eq(-math.inf).all()
    plain = search_split(
        replace(split, own_copies=OwnCopies(*torch.zeros(2, 0, dtype=torch.int64))), split.query_embeddings, k
    )
    untouched = [row for row in range(len(split.query_ids)) if row not in split.left_out.query_index]
    width = min(found.indices.shape[1], plain.indices.shape[1])
    assert torch.equal(found.indices[untouched, :width], plain.indices[untouched, :width])
    assert torch.equal(found.scores[untouched, :width], plain.scores[untouched, :width])


@settings(max_examples=60)
@given(splits_with_copies())
def test_metrics_are_those_of_trec_eval_on_the_run_without_copies(split):
    if not (split.qrels.relevance > 0).any():
        with pytest.raises(ValueError, match="has a relevant document"):
            evaluate(split)
        return
    matrix = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, -1.0]])
    result = evaluate(split, QueryAdapter.from_matrix(matrix, normalize=False), ks=[1, 5, 10, 100])
    for side, queries in ((result.base, split.query_embeddings), (result.adapted, split.query_embeddings @ matrix.T)):
        run = {
            split.query_ids[row]: {split.corpus.ids[d]: float(-rank) for rank, d in enumerate(ranking)}
            for row, ranking in enumerate(slow_rankings(split, queries))
        }
        assert_equals_trec_eval(side, result.query_ids, split, run)
    left_out = {split.query_ids[row] for row in split.left_out.query_index.tolist()}
    assert result.num_own_copies == len(left_out & set(result.query_ids))


def assert_equals_trec_eval(ours, query_ids, split, run):
    qrels = {}
    for query, document, grade in zip(*(part.tolist() for part in split.qrels), strict=True):
        qrels.setdefault(split.query_ids[query], {})[split.corpus.ids[document]] = round(grade)
    measures = {"ndcg_cut.10", "map_cut.100", "recall.10", "P.5"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    for name, theirs in MEASURES.items():
        # A query for which nothing is left to be retrieved is missing there.
        values = [expected.get(query_id, {}).get(theirs, 0.0) for query_id in query_ids]
        assert ours[name].tolist() == pytest.approx(values, abs=1e-9)


def test_a_corpus_of_nothing_but_the_own_copy():
    split = named_split(
        torch.ones(2, 2), torch.ones(1, 2), ["a", "b"], ["d"], copies=OwnCopies(*torch.zeros(2, 1).long())
    )
    split = replace(split, qrels=EmbeddedQrels(torch.tensor([1]), torch.tensor([0]), torch.tensor([1.0])))
    found = search_split(split, split.query_embeddings, 3)
    assert found.indices.tolist() == [[-1], [0]]
    assert evaluate(split).base["ndcg@10"].tolist() == [1.0]
    only = split.subset(torch.tensor([True, False]))
    assert search_split(only, only.query_embeddings, 3).indices.tolist() == [[-1]]


# --- what is built on it ---


def trec_run(path):
    run = {}
    for line in path.read_text().splitlines():
        query_id, _, corpus_id, _, score, _ = line.split()
        run.setdefault(query_id, {})[corpus_id] = float(score)
    return run


def test_files_and_evaluators_agree_with_trec_eval(prompt_model, embedded, tmp_path):
    dataset, split = questions(), embedded["test"]
    adapter = QueryAdapter.from_matrix(
        torch.eye(32) + 0.2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    )
    result = evaluate(split, adapter)
    assert result.num_own_copies == 11, "12 test queries, of which q0's copy is relevant"
    write_trec(split, tmp_path, adapter)
    expected = left_out_ids(dataset)
    for name, side in (("base.run", result.base), ("adapted.run", result.adapted)):
        run = trec_run(tmp_path / name)
        assert all(not expected[query_id] & set(hits) for query_id, hits in run.items())
        assert "c30" in run["q0"] and all(len(run[q]) == 61 - len(expected[q]) for q in run)
        assert_equals_trec_eval(side, result.query_ids, split, run)
    counted = replace(split, own_copies=OwnCopies(*torch.zeros(2, 0, dtype=torch.int64)))
    assert evaluate(counted).base_means["ndcg@10"] < result.base_means["ndcg@10"] - 0.01
    whole = GradedRetrievalEvaluator.from_dataset(dataset, "test")
    assert whole(prompt_model)["cosine_ndcg@10"] == pytest.approx(result.base_means["ndcg@10"], abs=1e-6)
    given = GradedRetrievalEvaluator.from_dataset(dataset, "test", embedded)
    assert given(prompt_model)["cosine_ndcg@10"] == pytest.approx(result.base_means["ndcg@10"], abs=1e-6)


def test_an_evaluator_of_ids_alone_goes_by_id_and_vector(tiny_model):
    queries = {"1": "read a file", "2": "close the list"}
    corpus = {"1": "read a file", "2": "sort a string", "3": "open the file", "4": "the value"}
    qrels = {"1": {"3": 1}, "2": {"2": 1}}
    vectors = tiny_model.encode_document(list(corpus.values()), convert_to_tensor=True)
    by_ids = GradedRetrievalEvaluator(queries, list(corpus), qrels, corpus_embeddings=vectors)
    by_texts = GradedRetrievalEvaluator(queries, corpus, qrels)
    without = GradedRetrievalEvaluator(queries, {c: text for c, text in corpus.items() if c != "1"}, {"1": {"3": 1}})
    assert by_ids(tiny_model) == by_texts(tiny_model)
    alone = GradedRetrievalEvaluator(queries, corpus, {"1": {"3": 1}})
    assert alone(tiny_model)["cosine_mrr@10"] == without(tiny_model)["cosine_mrr@10"]


def test_indexes_leave_them_out_too(embedded):
    split = embedded["test"]
    expected = left_out_ids(questions())
    exact, *others = evaluate_indexes(split, None, ["int8", "binary:61", "truncate:32"])
    assert others[1].base_recall <= 1 and others[2].base_recall == 1.0 == exact.base_recall
    assert others[2].result.base_means == exact.result.base_means
    for name in ("int8", "binary:61", "binary:5", "truncate:16"):
        found = search_split(split, split.query_embeddings, 10, build_index(split.corpus, name))
        for query_id, row in zip(split.query_ids, found.indices.tolist(), strict=True):
            assert not expected[query_id] & {split.corpus.ids[document] for document in row if document >= 0}


def test_examples_neither_show_nor_count_them():
    # Two dimensions. The query's copy scores 1, its document .6; the adapter turns the query towards its document,
    # past 119 others that lie between the two.
    angles = torch.tensor([0.0, math.acos(0.6), *torch.linspace(0.3, 0.8, 119).tolist()])
    documents = torch.stack([angles.cos(), angles.sin()], dim=1)
    ids = ["copy", "right", *(f"d{n}" for n in range(119))]
    # Another query, found at once and left as it is by the adapter's turn, stands before it.
    copies = OwnCopies(torch.tensor([1]), torch.tensor([0]))
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    split = named_split(queries, documents, ["other", "q"], ids, copies=copies, judged=((0, 0, 1.0), (1, 1, 1.0)))
    dataset = RetrievalDataset(
        Dataset.from_dict({"id": ["other", "q"], "text": ["another", "the question"]}),
        Dataset.from_dict({"id": ids, "text": ["the question", "the answer", *(f"number {n}" for n in range(119))]}),
        {},
    )
    turned = QueryAdapter.from_matrix(torch.tensor([[0.6, -0.8], [0.8, 0.6]]))
    (example,) = largest_changes(dataset, split, evaluate(split, turned), turned).gains
    assert (example.base_rank, example.adapted_rank) == (120, 1)
    assert example.base_top == "number 0" and example.adapted_top == "the answer"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mteb_leaves_them_out(prompt_model, embedded, tmp_path):
    mteb = pytest.importorskip("mteb")
    save_pretrained(prompt_model, None, tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    results = mteb.evaluate(model, mteb_task(questions(), name="Questions"), cache=None, show_progress_bar=False)
    scores = results.task_results[0].scores["test"][0]
    means = evaluate(embedded["test"]).base_means
    for ours, theirs in (("ndcg@10", "ndcg_at_10"), ("map@100", "map_at_100"), ("recall@10", "recall_at_10")):
        assert scores[theirs] == pytest.approx(means[ours], abs=1e-5), "mteb rounds to five places"


# --- learning ---


@settings(max_examples=60)
@given(splits_with_copies(), st.sampled_from(["corpus", "given"]))
def test_no_copy_is_ever_a_negative(split, negatives):
    # Rows tell the document they come from, but for the last two, which are one vector.
    documents = torch.arange(1.0, len(split.corpus) + 1)
    if len(documents) > 1:
        documents[-1] = documents[-2]
    queries = torch.arange(1.0, len(split.query_ids) + 1) / 10
    split = replace(
        split,
        query_embeddings=torch.stack([queries.cos(), queries.sin()], dim=1),
        corpus=corpus_of(torch.stack([documents.cos(), documents.sin()], dim=1), split.similarity),
    )
    few = {"num_negatives": 3} if negatives == "corpus" else {}
    arguments = AdapterTrainingArguments(negatives=negatives, per_device_train_batch_size=3, **few)
    try:
        sampler = BatchSampler(split, arguments)
    except ValueError:
        return  # nothing relevant, or nothing given
    vectors = {
        (q, tuple(split.corpus.embeddings[d].tolist()))
        for q, d in zip(*(part.tolist() for part in split.own_copies), strict=True)
    }
    for _ in range(3):
        batch = sampler.next()
        for anchor, excluded in zip(batch.anchors, batch.excluded, strict=True):
            query = int((split.query_embeddings - anchor).abs().sum(dim=1).argmin())
            kept = {(query, tuple(c.tolist())) for c, out in zip(batch.candidates, excluded, strict=True) if not out}
            assert not kept & vectors


def test_a_document_with_the_vector_of_a_copy_is_no_negative_either():
    # The candidate that stands for both is the first, and the copy is the second of the two.
    documents = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    copies = OwnCopies(torch.tensor([0]), torch.tensor([2]))
    split = named_split(torch.tensor([[0.6, 0.8]]), documents, ["q"], ["a", "b", "c", "d"], copies=copies)
    batch = BatchSampler(split, AdapterTrainingArguments()).next()
    kept = batch.candidates[~batch.excluded[0]]
    assert kept.tolist() == [[-1.0, 0.0]]


def test_what_only_pushes_copies_away_is_not_adopted():
    # Documents that the base finds at once, and the queries themselves in the same index: nothing is to be gained.
    generator = torch.Generator().manual_seed(0)
    documents = torch.nn.functional.normalize(torch.randn(200, 32, generator=generator))
    noise = torch.zeros(200, 32)
    noise[:, :6] = 0.15 * torch.randn(200, 6, generator=generator)
    queries = torch.nn.functional.normalize(documents + noise)
    rows = torch.randperm(200, generator=generator)
    pairs = [(row, row, 1.0) for row in rows.tolist()]
    qrels = {
        split: qrels_of(part)
        for split, part in (("train", pairs[:120]), ("dev", pairs[120:150]), ("test", pairs[150:]))
    }
    ids = [f"q{n}" for n in range(200)]
    corpus = MemoryCorpus([*(f"d{n}" for n in range(200)), *ids], torch.cat([documents, queries]))
    embedded = EmbeddedDataset(ids, queries, corpus, qrels, True)
    assert evaluate(embedded["test"]).base_means["ndcg@10"] == 1.0
    assert not fit(embedded, method="closed-form").adopted


# --- telling ---


def test_the_card_says_how_many_and_old_records_open(embedded):
    scores = SplitScores("test", 12, 61, "cosine", {"ndcg@10": 0.5}, {"ndcg@10": 0.6}, {}, num_own_copies=11)
    record = TrainingRecord(scores=scores)
    card = model_card("name", embedded.base_model, training=record)
    assert "Queries that are documents too: 11; no hit of theirs is their own copy." in card
    old = asdict(record)
    del old["scores"]["num_own_copies"]
    assert built(TrainingRecord, old, "it").scores.num_own_copies == 0
    without = model_card("name", embedded.base_model, training=built(TrainingRecord, old, "it"))
    assert "documents too" not in without


def test_a_run_says_it_in_what_it_prints_in_its_results_and_in_its_card(tiny_prompt_model_path, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, table in question_tables().items():
        table.to_parquet(folder / f"{name}.parquet")
    model, out = str(tiny_prompt_model_path), tmp_path / "out"
    status = cli.main(
        ["train", "--model", model, "--data", str(folder), "--output-dir", str(out), "--method", "closed-form"]
        + ["--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    )
    assert status in (0, 3), "3: the base model is kept"
    printed = " ".join(capsys.readouterr().out.split())
    assert "29 queries stand in the corpus as documents too" in printed
    assert "11 queries stand in the corpus as documents too; left out of their own hits." in printed
    results = json.loads((out / "results.json").read_text())
    assert results["test"]["num_own_copies"] == 11 and results["dev"]["num_own_copies"] == 8
    card = (out / "model" / "README.md").read_text()
    assert "Queries that are documents too: 11; no hit of theirs is their own copy." in card
    page = " ".join((out / "report.html").read_text().split())
    assert "11 queries stand in the corpus as documents too; left out of their own hits." in page


def test_a_search_takes_a_vector_for_each_query():
    split = named_split(torch.eye(2), torch.eye(2), ["a", "b"], ["c", "d"])
    with pytest.raises(ValueError, match=r"There are 1 query vectors, but the split 'test' has 2 queries"):
        search_split(split, torch.ones(1, 2), 1)
