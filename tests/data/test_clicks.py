"""Click logs as judgements: by hand, and on logs with position bias whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from problems import qrels_of, rotated_problem
from st_adapter import evaluate, fit
from st_adapter.data.clicks import estimated_eta, wilson_lower
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.errors import InputError

# Two queries, five documents: 10 clicks of 50 impressions, a rate of .2 in all.
LOG = pd.DataFrame(
    {
        "query": ["a?", "a?", "a?", "b?", "b?"],
        "document": ["A", "B", "C", "A", "B"],
        "impressions": [10, 10, 10, 10, 10],
        "clicks": [6, 0, 2, 1, 1],
    }
)


def judged(source, **options):
    dataset = RetrievalDataset.load(source, cut_into=(), **options)
    queries = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    corpus = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    return {(queries[r["query_id"]], corpus[r["corpus_id"]]): r["relevance"] for r in dataset.qrels["all"]}


def notes_of(source, **options):
    return "\n".join(RetrievalDataset.load(source, cut_into=(), **options).notes)


def events(log):
    """A row per impression, the clicks first."""
    rows = log.loc[log.index.repeat(log["impressions"])].assign(impressions=1)
    number = rows.groupby(level=0).cumcount()
    return rows.assign(clicks=(number < rows["clicks"]).astype(int))


# --- by hand ---


@pytest.mark.parametrize("clicks,shown", [(0, 1), (1, 1), (3, 7), (10, 10), (1, 400)])
def test_wilson(clicks, shown):
    expected = binomtest(clicks, shown).proportion_ci(method="wilson").low
    assert wilson_lower(np.array([float(clicks)]), np.array([float(shown)]))[0] == pytest.approx(expected, abs=1e-6)
    assert wilson_lower(np.zeros(1), np.zeros(1))[0] == 0


def test_clicked_skipped_and_unsure():
    # The lower ends of 6, 2 and 1 clicks of 10 are .313, .057 and .018: one is above .2. B was never clicked for a?;
    # of b? nothing is clicked clearly more often than the rest, so it has no relevant document.
    assert judged(LOG) == {("a?", "A"): 31.0, ("a?", "B"): 0.0}
    notes = notes_of(LOG)
    assert (
        "Read as a click log (column 'clicks'): 10 clicks and 50 impressions of 5 pairs of query and document." in notes
    )
    assert "at least 20.0%, that of the whole log" in notes
    assert "): 1 pair. Shown and never clicked, so not relevant: 1 pair." in notes and "not judged: 3 pairs." in notes
    assert "1 query of the log without a relevant document left out." in notes
    assert "No ranks were given" in notes


def test_a_rate_that_is_asked_for():
    # From 2 percent on: 31, 6 and 2 (of .018), so all that was clicked.
    found = judged(LOG, relevant_from=2)
    assert found == {("a?", "A"): 31, ("a?", "B"): 0, ("a?", "C"): 6, ("b?", "A"): 2, ("b?", "B"): 2}
    with pytest.raises(InputError, match="clearly more often than in 50.00% .* Give a lower relevant_from") as caught:
        judged(LOG, relevant_from=50)
    assert "--relevant-from" in caught.value.for_command_line


def test_ranks_make_up_for_what_is_seen_less():
    # A at rank 1, B at rank 4: looked at 40 and 10 times, both clicked 8 times: rates of .2 and .8.
    log = pd.DataFrame({"query": "a?", "document": ["A", "B"], "impressions": 40, "clicks": 8, "position": [1, 4]})
    lower = binomtest(8, 10).proportion_ci(method="wilson").low
    assert judged(log) == {("a?", "B"): round(100 * lower)}  # 49; that of A is .105, below 16 of 50
    assert "with probability 1/r^1.00 (assumed, as too few" in notes_of(log)
    assert judged(log.assign(position=[0, 3])) == judged(log)  # counted from 0


def test_never_clicked_but_hardly_looked_at_is_not_judged():
    log = pd.concat([LOG[:2], LOG[1:2].assign(document="Z")]).assign(rank=[1, 1, 20])
    assert judged(log) == {("a?", "A"): 31.0, ("a?", "B"): 0.0}  # Z was looked at half a time


@settings(max_examples=8)
@given(order=st.permutations(range(50)), ranked=st.booleans())
def test_events_and_counts_are_one_log(order, ranked):
    log = LOG.assign(rank=[1, 2, 3, 1, 2]) if ranked else LOG
    assert judged(events(log).iloc[order]) == judged(log)


def test_events_with_a_rank_need_no_impressions():
    log = events(LOG.assign(rank=1)).drop(columns="impressions")
    assert judged(log.rename(columns={"clicks": "Clicked"})) == judged(LOG)
    assert judged(log.assign(clicks=log["clicks"].astype(bool))) == judged(LOG)


def test_a_log_by_id():
    corpus = pd.DataFrame({"id": ["A", "B", "C", "D"], "text": ["A", "B", "C", "D"]})
    log = LOG.rename(columns={"document": "doc_id", "impressions": "shown"})
    dataset = RetrievalDataset.load(log, corpus=corpus, cut_into=())
    assert judged(log, corpus=corpus) == judged(LOG) and len(dataset.corpus) == 4
    queries = pd.DataFrame({"id": [1, 2], "text": ["a?", "b?"]})
    by_id = log.assign(query_id=[1, 1, 1, 2, 2]).drop(columns="query")
    assert judged(by_id, corpus=corpus, queries=queries) == judged(LOG)


def test_documents_of_one_text_and_two_titles_are_two():
    log = pd.DataFrame(
        {
            "query": "a?",
            "title": ["Invoices", "Refunds"],
            "document": "See below.",
            "impressions": [100, 100],
            "clicks": [60, 0],
        }
    )
    lower = binomtest(60, 100).proportion_ci(method="wilson").low
    expected = {("a?", "Invoices See below."): round(100 * lower), ("a?", "Refunds See below."): 0.0}
    assert judged(log) == expected
    assert "60 clicks and 200 impressions of 2 pairs" in notes_of(log)


@pytest.mark.parametrize("blank", ["", None, float("nan")])
def test_a_blank_title_is_none(blank):
    log = LOG.assign(title=["", blank, blank, "T", blank])
    expected = {("a?", "A"): 31.0, ("a?", "B"): 0.0}
    assert judged(log) == expected
    corpus = log.rename(columns={"document": "text"}).assign(id=[f"d{row}" for row in range(5)])[
        ["id", "title", "text"]
    ]
    by_id = LOG.drop(columns="document").assign(doc_id=corpus["id"])
    dataset = RetrievalDataset.load(by_id, corpus=corpus, cut_into=())
    texts = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    assert sorted(texts.values()) == ["A", "B", "C", "T A"]
    assert {texts[row["corpus_id"]]: row["relevance"] for row in dataset.qrels["all"]} == {"A": 31.0, "B": 0.0}


def test_documents_with_vectors_stay_apart():
    log = pd.DataFrame({"query": "a?", "doc_id": ["x", "y"], "impressions": 100, "clicks": [60, 0]})
    corpus = pd.DataFrame({"id": ["x", "y"], "text": "the same", "embedding": [[1.0, 0.0], [0.0, 1.0]]})
    rows = RetrievalDataset.load(log, corpus=corpus, cut_into=()).qrels["all"]
    assert {row["corpus_id"]: row["relevance"] for row in rows} == {"x": 50.0, "y": 0.0}


@settings(max_examples=8)
@given(st.lists(st.sampled_from(["x", "y", "z"]), min_size=5, max_size=5))
def test_clicks_of_equal_texts_are_counted_together_whatever_their_ids(sessions):
    # Each row of the log is of a session of its own, and each document is there under two ids, 1 and "1".
    log = LOG.loc[LOG.index.repeat(LOG["impressions"])].assign(impressions=1)
    log["clicks"] = (log.groupby(level=0).cumcount() < log["clicks"]).astype(int)
    log["query_id"] = [f"{sessions[row % 5]}{row % 7}{query}" for row, query in enumerate(log["query"])]
    queries = log[["query_id", "query"]].drop_duplicates().rename(columns={"query_id": "id", "query": "text"})
    log["doc_id"] = [1 + "ABC".index(one) + 3 * (row % 2) for row, one in enumerate(log["document"])]
    log["doc_id"] = [one if row % 3 else str(one) for row, one in enumerate(log["doc_id"])]
    corpus = pd.DataFrame({"id": range(1, 7), "text": list("ABCABC")})
    log = log[["query_id", "doc_id", "impressions", "clicks"]]
    dataset = RetrievalDataset.load(log, queries=queries, corpus=corpus, cut_into=())
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    documents = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    rows = dataset.qrels["all"]
    assert {(texts[r["query_id"]], documents[r["corpus_id"]]): r["relevance"] for r in rows} == judged(LOG)


def test_a_rank_below_1_is_read_as_one_from_0_only_where_the_log_counts_so():
    log = pd.concat([LOG] * 30, ignore_index=True).assign(rank=[1, 2, 3, 1, 2] * 30)
    from_zero = log.assign(rank=log["rank"] - 1)
    assert judged(from_zero) == judged(log)
    assert "Ranks were read as counted from 0." in notes_of(from_zero) and "from 0" not in notes_of(log)
    # Not all pages are whole: of the first rank fewer are left than of the second.
    some = from_zero[(from_zero["rank"] > 0) | (from_zero.index % 2 == 0)]
    assert judged(some) == judged(some.assign(rank=some["rank"] + 1))
    for stray in (0, 0.5):
        with pytest.raises(ValueError, match=rf"1 row of the log with a rank below 1, .*: 'row 4: {stray:g}'"):
            judged(log.assign(rank=log["rank"].where(log.index != 4, stray).astype(float)))


def test_clicks_and_impressions_that_are_no_numbers_are_no_judgements():
    # So many different ones that they look like no labels.
    numbers = {"impressions": [f"{100 + row},0" for row in range(40)], "clicks": [f"{row},0" for row in range(40)]}
    log = pd.DataFrame({"query": "a?", "document": [f"D{row}" for row in range(40)], **numbers})
    with pytest.raises(ValueError, match="40 rows of the log.*'row 0: 0,0'"):
        judged(log)


def test_the_least_relevance_is_no_percentage_and_a_grade_at_once(tmp_path):
    LOG.to_csv(tmp_path / "train.csv", index=False)
    graded = pd.DataFrame({"query": ["a?", "b?"], "document": ["A", "B"], "score": [3, 1]})
    for split in ("dev", "test"):
        graded.to_csv(tmp_path / f"{split}.csv", index=False)
    assert RetrievalDataset.load(tmp_path).splits == ["train", "dev", "test"]
    with pytest.raises(
        InputError, match="which is a click rate in percent in one of the tables, a log, and a score in"
    ):
        RetrievalDataset.load(tmp_path, relevant_from=2)
    for least in (0, float("nan")):
        with pytest.raises(
            InputError, match=r"The least click rate that counts is (0|nan) %, but one counts only above"
        ):
            judged(LOG, relevant_from=least)


def test_unusual_names():
    log = LOG.rename(columns={"clicks": "nb_clics", "impressions": "vues"})
    with pytest.raises(InputError, match="no log|may say"):
        judged(log, columns={"clicks": "nb_clics"})
    assert judged(log, columns={"clicks": "nb_clics", "impressions": "vues"}) == judged(LOG)


def test_splits_of_a_log():
    log = pd.concat([LOG.assign(split="train"), LOG.assign(split="test", clicks=[0, 6, 2, 1, 1])])
    dataset = RetrievalDataset.load(log, cut_into=())
    assert dataset.num_queries == {"train": 1, "test": 1}


# --- what is no log ---


@pytest.mark.parametrize(
    "frame",
    [
        LOG.drop(columns="impressions"),
        LOG.drop(columns="impressions").assign(rank=[1, 2, 3, 1, 2]),  # counts of what?
        LOG.assign(score=[1, 0, 1, 1, 1]),
        LOG.assign(document=[["A"], ["B"], ["C"], ["A"], ["B"]]),
        LOG.assign(negative="N"),
    ],
)
def test_what_is_not_clearly_a_log_is_refused_by_its_column(frame):
    with pytest.raises(InputError, match="'clicks'.*not used, but may say what is relevant"):
        judged(frame)
    with pytest.raises(InputError, match="'clicks' was named, but the table is no log") as caught:
        judged(frame, columns={"clicks": "clicks"})
    assert "--clicks-column" in caught.value.for_command_line


def test_pairs_that_were_all_clicked_are_pairs():
    found = judged(LOG.assign(clicks=10))
    assert set(found.values()) == {1.0} and len(found) == 5


@pytest.mark.parametrize(
    "column,values,message",
    [
        ("clicks", [11, 0, 2, 1, 1], "1 row of the log with more clicks than impressions: 'row 0: 11 of 10'"),
        ("clicks", [6, -1, 2, 1, 1], "1 row of the log with no number from 0 on in column 'clicks': 'row 1: -1'"),
        ("impressions", [10, 10, None, 10, "many"], "2 rows .* column 'impressions': 'row 2: None', 'row 4: many'"),
        ("rank", [1, 2, 3, None, 2], "1 row .* in column 'rank': 'row 3: nan'"),
    ],
)
def test_damaged_logs(column, values, message):
    with pytest.raises(ValueError, match=message):
        judged(LOG.assign(**{column: pd.Series(values)}))


# --- position bias whose truth is known ---


@given(eta=st.floats(0.1, 2), rates=st.lists(st.floats(0.1, 1), min_size=2, max_size=5))
def test_eta_of_expected_clicks(eta, rates):
    ranks = np.tile([1.0, 2.0, 5.0, 10.0], len(rates))
    pairs = np.repeat(np.arange(len(rates)), 4)
    clicks = 1000 * np.repeat(rates, 4) * ranks**-eta
    found, error = estimated_eta(pairs, ranks, np.full(len(ranks), 1000.0), clicks)
    assert found == pytest.approx(eta, abs=1e-3) and error < 0.2


def test_nothing_tells_eta_where_each_document_keeps_its_rank():
    assert estimated_eta(np.array([0, 1]), np.array([1.0, 2.0]), np.full(2, 9.0), np.array([5.0, 1.0]))[1] == np.inf


ETA, SEEN_AND_WRONG = 1.0, 0.3


@pytest.fixture(scope="module")
def search():
    """Queries, documents and what is relevant, and sessions of a search whose users look at rank r in 1 of r cases.

    Who looks clicks what is relevant in 9 of 10 cases, and what is not in 3.
    """
    embedded, rng = rotated_problem(), np.random.default_rng(0)
    judgements = embedded.qrels.values()
    answers = {pair for j in judgements for pair in zip(j.query_index.tolist(), j.corpus_index.tolist(), strict=True)}
    scores = (embedded.query_embeddings @ embedded.corpus.embeddings.T).numpy()
    rows = []
    for query in range(192):  # those of train and dev
        for _ in range(40):
            shown = np.argsort(-(scores[query] + 0.15 * rng.normal(size=scores.shape[1])))[:10]
            for rank, document in enumerate(shown, 1):
                found = 0.9 if (query, int(document)) in answers else SEEN_AND_WRONG
                rows.append((f"q{query}", f"d{document}", rank, int(rng.random() < found * rank**-ETA)))
    return embedded, answers, pd.DataFrame(rows, columns=["query_id", "corpus_id", "rank", "clicked"])


def learned(search, log):
    """Of labels from a log: the share that is right, and nDCG@10 on true judgements of an adapter fitted to them."""
    embedded, answers, _ = search
    tables = {
        name: pd.DataFrame(
            {"id": [f"{name[0]}{n}" for n in range(number)], "text": [f"{name[0]}{n}" for n in range(number)]}
        )
        for name, number in (("queries", len(embedded.query_ids)), ("documents", len(embedded.corpus)))
    }
    parts = {"queries": tables["queries"], "corpus": tables["documents"], "qrels": log.assign(impressions=1)}
    dataset = RetrievalDataset.load(parts, cut_into=("train", "dev"))
    splits = {
        split: [(int(r["query_id"][1:]), int(r["corpus_id"][1:]), r["relevance"]) for r in rows]
        for split, rows in dataset.qrels.items()
    }
    positives = [(query, document) for rows in splits.values() for query, document, relevance in rows if relevance > 0]
    judged = {split: qrels_of(rows) for split, rows in splits.items()}
    given = replace(embedded, qrels={**judged, "test": embedded.qrels["test"]})
    adapted = evaluate(given["test"], fit(given, method="closed-form").adapter)
    return len(answers & set(positives)) / len(positives), adapted, dataset.notes


def test_with_propensities_labels_and_adapter_are_better(search):
    log = search[2]
    right, adapted, notes = learned(search, log)
    right_without, adapted_without, _ = learned(search, log.drop(columns="rank"))
    how = next(note for note in notes if note.startswith("Rank r"))
    assert "estimated from documents" in how
    assert float(how.split("1/r^")[1].split()[0]) == pytest.approx(ETA, abs=0.06)
    assert right > 1.5 * right_without
    gain, gain_without = (e.adapted_means["ndcg@10"] - e.base_means["ndcg@10"] for e in (adapted, adapted_without))
    assert gain > gain_without + 0.1 > 0.3
