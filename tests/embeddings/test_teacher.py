"""Teachers: what they are opened from, what they are asked, and what becomes of their scores."""

import math
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoTokenizer, BertForSequenceClassification

from problems import corpus_of, unit_rows
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.unlabelled import documents_alone, queries_alone
from st_adapter.embeddings import teaching
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.embedding import as_encoder
from st_adapter.embeddings.soft_targets import SoftTargets, Teaching
from st_adapter.embeddings.teacher import CrossEncoderTeacher, EmbeddingTeacher, Teacher, open_teacher
from st_adapter.embeddings.teaching import School, ask_teacher
from st_adapter.errors import InputError

SOMEBODY = Teaching("somebody", 1, 1, 2)
NOTES = [f"thing {number} of {word}. It is {number % 7}." for number in range(30) for word in ("file", "list")]


class Inverted(Teacher):
    """Scores a document by its number, and remembers what it was asked."""

    name = "inverted"

    def scores(self, queries, documents, found):
        self.queries = queries
        return -found.float()


def notes(queries=()):
    """Sixty documents, thirty labelled queries, and those given without labels."""
    labelled = [f"where is {number}" for number in range(30)]
    return RetrievalDataset.load(
        {
            "corpus": pd.DataFrame({"id": [f"d{row}" for row in range(60)], "text": NOTES}),
            "queries": pd.DataFrame({"id": [f"q{row}" for row in range(30 + len(queries))],
                                     "text": [*labelled, *queries]}),
            "qrels": pd.DataFrame({"query_id": [f"q{row}" for row in range(30)],
                                   "corpus_id": [f"d{row}" for row in range(30)], "score": 1}),
        }
    )  # fmt: skip


def test_scores_become_distributions_without_zero_and_unit():
    scores = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    queries, corpus = unit_rows(2, 4), corpus_of(unit_rows(3, 4, seed=1))
    found = torch.tensor([[2, 0], [1, 2]])
    soft = SoftTargets.of(queries, (corpus, found), scores, SOMEBODY)
    # Variances 1 and 0, their mean .5; differences are divided by half its root: 2 / (.5 * .7071) = 5.657
    assert soft.targets[0, 1].item() == pytest.approx(1 / (1 + math.exp(-2 / (0.5 * math.sqrt(0.5)))), rel=1e-6)
    assert soft.targets[1].tolist() == [0.5, 0.5]
    torch.testing.assert_close(soft.targets, SoftTargets.of(queries, (corpus, found), 7 * scores - 3, SOMEBODY).targets)
    assert soft.queries.qrels.corpus_index.tolist() == [0, 1], (
        "the document that scores best, as its place in the corpus"
    )
    with pytest.raises(ValueError, match="somebody gave scores that are NaN"):
        SoftTargets.of(queries, (corpus, found), scores / 0, SOMEBODY)


def test_a_teacher_of_one_opinion_on_everything_teaches_nothing():
    soft = SoftTargets.of(
        unit_rows(2, 4), (corpus_of(unit_rows(3, 4)), torch.zeros(2, 2).long()), torch.ones(2, 2), SOMEBODY
    )
    assert soft.targets.tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize("given", [str, CrossEncoder], ids=["folder", "model"])
def test_a_cross_encoder_gives_its_logits_in_place(tiny_cross_encoder_path, given):
    teacher = open_teacher(given(str(tiny_cross_encoder_path)), device="cpu", show_progress_bar=False)
    assert isinstance(teacher, CrossEncoderTeacher) and teacher.name == tiny_cross_encoder_path.name
    found = torch.tensor([[3, 0, 1], [2, 2, 4]] * 10)
    scores = teacher.scores([f"where is {n}" for n in range(20)], NOTES, found)
    model = BertForSequenceClassification.from_pretrained(tiny_cross_encoder_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_cross_encoder_path)
    for row, column in ((0, 0), (1, 2), (19, 1)):
        with torch.no_grad():
            logit = model(**tokenizer(f"where is {row}", NOTES[int(found[row, column])], return_tensors="pt")).logits
        assert scores[row, column].item() == pytest.approx(logit.item(), abs=1e-4)


def test_a_saved_cross_encoder_is_told_from_an_embedding_model(tiny_cross_encoder_path, tiny_model_path, tmp_path):
    CrossEncoder(str(tiny_cross_encoder_path), device="cpu").save_pretrained(str(tmp_path / "saved"))
    assert isinstance(open_teacher(tmp_path / "saved", device="cpu"), CrossEncoderTeacher)
    assert isinstance(open_teacher(tiny_model_path, device="cpu"), EmbeddingTeacher)


@pytest.mark.parametrize("kind", ["tiny_model_path", "tiny_dot_model_path", "tiny_prompt_model_path"])
def test_an_embedding_model_gives_its_own_similarity(kind, request, tmp_path):
    model = SentenceTransformer(str(request.getfixturevalue(kind)), device="cpu")
    found = torch.tensor([[3, 0], [2, 3]])
    scores = open_teacher(model, cache_dir=tmp_path, show_progress_bar=False).scores(["what", "how"], NOTES, found)
    expected = model.similarity(model.encode_query(["what", "how"]), model.encode_document(NOTES[:4]))
    torch.testing.assert_close(scores, expected.gather(1, found), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (3, "is of type int, but a CrossEncoder or a SentenceTransformer is expected"),
        ("no/such-model", "The teacher no/such-model cannot be opened"),
        ("openai:text-embedding-3", "The teacher openai:text-embedding-3 cannot be opened"),
    ],
)
def test_what_is_no_teacher_is_refused(teacher, message):
    with pytest.raises(InputError, match=message):
        open_teacher(teacher, device="cpu")


def test_a_classifier_of_several_classes_is_refused(tiny_cross_encoder_path, tmp_path):
    BertForSequenceClassification.from_pretrained(
        tiny_cross_encoder_path, num_labels=3, ignore_mismatched_sizes=True
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_cross_encoder_path).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="gives 3 scores per query and document"):
        open_teacher(tmp_path, device="cpu")


def test_only_queries_without_labels_are_asked_about_and_no_copy_of_a_labelled_one(tiny_model, tmp_path, monkeypatch):
    own = [f"my own {number} {word}" for number in range(20) for word in ("car", "house")]
    dataset = notes([*own, "WHERE  is 3"])
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    teacher = Inverted()
    log = ["how to open the log", "where is 7", " my own 1 car "]
    soft = ask_teacher(
        School(teacher, log), as_encoder(tiny_model), (dataset, embedded), cache_dir=tmp_path,
        threshold=0.9999, show_progress_bar=False,
    )  # fmt: skip
    users, portions = teacher.queries[:41], teacher.queries[41:]
    assert set(users) == {*own, "how to open the log"}
    assert portions and set(portions) <= {text.partition(" It")[0] for text in NOTES}
    assert soft.teaching == Teaching("inverted", 41, len(portions), 30, num_alike=2)
    assert soft.teaching.sentence.endswith(" 2 queries left out: like ones with labels.")
    assert soft.documents.shape == soft.targets.shape == (41 + len(portions), 30)
    # Those are the base model's best documents, and the best to the teacher is the first of them in the corpus.
    best = embedded.corpus.search(torch.nn.functional.normalize(soft.queries.query_embeddings), 30).indices
    assert torch.equal(soft.documents, best)
    assert torch.equal(soft.queries.qrels.corpus_index, best.min(dim=1).values)
    np.testing.assert_allclose(soft.queries.query_embeddings[5], tiny_model.encode_query(users[5]), atol=1e-5)


def test_paraphrases_and_texts_of_labelled_queries_are_not_asked_about(tiny_model, tmp_path):
    dataset = notes([f"my own {number} car" for number in range(60)])
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    # As if the last ten were paraphrases of the first ten, which have labels.
    vectors = embedded.query_embeddings.clone()
    vectors[:10] = torch.from_numpy(tiny_model.encode_query([f"my own {number} car" for number in range(50, 60)]))
    teacher = Inverted()
    embedded = replace(embedded, query_embeddings=vectors)
    ask_teacher(
        School(teacher, ["Where is  3"]), as_encoder(tiny_model), (dataset, embedded), cache_dir=tmp_path,
        threshold=0.9999, show_progress_bar=False,
    )  # fmt: skip
    assert {f"my own {number} car" for number in range(50)} == {q for q in teacher.queries if q.startswith("my own")}
    assert "Where is  3" not in teacher.queries, "the text of a labelled query, though its vector is another one here"


def test_who_gave_no_numbers_is_named(tiny_model, tiny_model_path, tiny_cross_encoder_path, tmp_path):
    dataset = notes([f"my own {number} car" for number in range(60)])
    how = {"cache_dir": tmp_path / "base", "show_progress_bar": False}
    data = dataset, embed(tiny_model, dataset, **how)
    stronger = SentenceTransformer(str(tiny_model_path), device="cpu")
    judge = CrossEncoder(str(tiny_cross_encoder_path), device="cpu")
    for model in (stronger, judge):
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    asked, predict = [], judge.predict
    judge.predict = lambda pairs, **options: asked.append(len(pairs)) or predict(pairs, **options)
    for model in (stronger, judge):
        school = School(open_teacher(model, cache_dir=tmp_path / "teacher", show_progress_bar=False))
        with pytest.raises(ValueError, match="^The teacher .*(NaN or infinite)"):
            ask_teacher(school, as_encoder(tiny_model), data, threshold=0.9999, **how)
    assert len(asked) == 1, "what is no number is seen before the next are asked"


def test_copies_of_labelled_queries_do_not_take_the_places_of_others(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(teaching, "_MAX_QUERIES", 60)
    dataset = notes([f"my own {number} car" for number in range(40)])
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    log = [f"where {blanks}is {row}" for blanks in (" ", "  ", "   ", "    ") for row in range(30)]
    soft = ask_teacher(
        School(Inverted(), log), as_encoder(tiny_model), (dataset, embedded), cache_dir=tmp_path,
        threshold=0.9999, show_progress_bar=False,
    )  # fmt: skip
    assert (soft.teaching.num_queries, soft.teaching.num_alike) == (40, 120)


def test_too_few_queries_are_refused(tiny_model, tmp_path):
    dataset = notes()
    short = replace(dataset, corpus=dataset.corpus.map(lambda row: {"text": row["text"][:5]}))
    embedded = embed(tiny_model, short, cache_dir=tmp_path, show_progress_bar=False)
    with pytest.raises(InputError, match=r"there are 1 that are no copy .* takes 50"):
        ask_teacher(
            School(Inverted(), ["hello"]), as_encoder(tiny_model), (short, embedded), cache_dir=tmp_path,
            show_progress_bar=False,
        )  # fmt: skip


def test_queries_are_read_from_texts_lines_and_tables(tmp_path):
    lines = tmp_path / "log.txt"
    lines.write_text("how to fit\n\n  how to save \nhow to fit\n", encoding="utf-8")
    frame = pd.DataFrame({"clicks": [1, 2, 3], "Query": ["how to fit", "how to save", None]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    pd.DataFrame({"whatever": ["how to fit", "how to save"]}).to_parquet(tmp_path / "log.parquet")
    for source in (
        lines,
        str(lines),
        frame,
        tmp_path / "log.csv",
        tmp_path / "log.parquet",
        ["how to fit ", "how to save"],
        pd.Series(["how to fit", "how to save"], index=[7, 3]),
        np.array(["how to fit", "how to save"]),
        pd.DataFrame({"query": ["how to fit", "how to save"], "text": ["a document", "another one"]}),
        pd.DataFrame({"_id": ["1", "2"], "title": ["", "x"], "text": ["how to fit", "how to save"]}),
    ):
        assert queries_alone(source) == ["how to fit", "how to save"]
    lines.write_bytes("a\x0b b\u2028c\r\nd\x85e".encode())
    assert queries_alone(lines) == ["a\x0b b\u2028c", "d\x85e"], "a line ends where the file says so"


def test_of_a_whole_data_set_one_side_is_read(tmp_path):
    corpus = pd.DataFrame({"_id": ["d1", "d2"], "title": "", "text": ["A document. It is one.", "Another document."]})
    queries = pd.DataFrame({"_id": ["q1", "q2"], "text": ["a query", "another query"]})
    corpus.to_json(tmp_path / "corpus.jsonl", orient="records", lines=True)
    queries.to_json(tmp_path / "queries.jsonl", orient="records", lines=True)
    (tmp_path / "qrels").mkdir()
    judged = pd.DataFrame({"query-id": ["q1"], "corpus-id": ["d1"], "score": [1]})
    judged.to_csv(tmp_path / "qrels" / "test.tsv", sep="\t", index=False)
    assert queries_alone(tmp_path) == ["a query", "another query"]
    assert documents_alone(tmp_path).num_documents == 2
    (tmp_path / "queries.jsonl").rename(tmp_path / "apart.jsonl")
    (tmp_path / "qrels.tsv").write_bytes((tmp_path / "qrels" / "test.tsv").read_bytes())
    (tmp_path / "apart.jsonl").rename(tmp_path.parent / "apart.jsonl")
    assert documents_alone(tmp_path).num_documents == 2, "judgements beside them are no documents"
    shutil.copy(tmp_path / "corpus.jsonl", tmp_path / "corpus.json")
    with pytest.raises(ValueError, match="are the same part twice"):
        documents_alone(tmp_path)
    (tmp_path / "corpus.json").unlink()
    (tmp_path.parent / "apart.jsonl").rename(tmp_path / "queries.jsonl")
    datasets.Dataset.from_pandas(corpus).save_to_disk(str(tmp_path / "saved"))
    assert documents_alone(tmp_path / "saved").num_documents == 2
    labels = pd.DataFrame({"query": ["a query", "one more"], "doc_id": ["d1", "d2"]})
    assert RetrievalDataset.load(labels, corpus=tmp_path, cut_into=()).num_documents == 2
    by_id = pd.DataFrame({"query_id": ["q1"], "doc_id": ["d1"]})
    dataset = RetrievalDataset.load(by_id, queries=tmp_path, corpus=tmp_path, cut_into=())
    assert (dataset.num_documents, len(dataset.queries)) == (2, 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([" "], "there is no text"),
        (["a", 3], "1 of the queries without labels are no texts, the first: 3"),
        (["a", "how to \ud83d sort"], "1 queries without labels hold half a character"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "No query column was found in the queries without labels"),
        ("nowhere.txt", "'nowhere.txt' is no file or folder here"),
    ],
)
def test_what_holds_no_queries_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        queries_alone(source)
