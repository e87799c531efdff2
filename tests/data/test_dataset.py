import hashlib
import json
import os
import re
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_adapter.data.dataset import RetrievalDataset

# Three pairs in three splits: the least that loads without a cut.
PAIRS = pd.DataFrame({"query": ["a?", "b?", "c?"], "document": ["A", "B", "C"], "split": ["train", "dev", "test"]})
THREE = {split: PAIRS[PAIRS["split"] == split][["query", "document"]] for split in ("train", "dev", "test")}


def judged(dataset, split):
    """What a split says, by text: {(query text, document text): relevance}. Ids are the loader's own business."""
    queries = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    corpus = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    return {(queries[row["query_id"]], corpus[row["corpus_id"]]): row["relevance"] for row in dataset.qrels[split]}


LABELLED_ONLY = "The corpus is the labelled documents only: pairs name no others to search among."


def noted(dataset):
    """The notes apart from the one that every data set of pairs has."""
    return tuple(note for note in dataset.notes if note != LABELLED_ONLY)


def split_of(dataset):
    """Query text -> the one split that judges it."""
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    found = {}
    for split, rows in dataset.qrels.items():
        for query_id in set(rows["query_id"]):
            assert texts[query_id] not in found
            found[texts[query_id]] = split
    return found


def beir(queries=None, corpus=None, qrels=None):
    return {
        "queries": pd.DataFrame(queries or {"id": ["1", "2", "3"], "text": ["a?", "b?", "c?"]}),
        "corpus": pd.DataFrame(corpus or {"id": ["x", "y", "z"], "text": ["A", "B", "C"]}),
        "qrels": pd.DataFrame(
            qrels
            or {
                "query_id": ["1", "2", "3"],
                "corpus_id": ["x", "y", "z"],
                "score": [1, 2, 3],
                "split": ["train", "dev", "test"],
            }
        ),
    }


def assert_three(dataset):
    assert dataset.splits == ["train", "dev", "test"]
    assert judged(dataset, "train") == {("a?", "A"): 1.0}
    assert judged(dataset, "dev") == {("b?", "B"): 1.0}
    assert judged(dataset, "test") == {("c?", "C"): 1.0}


# --- pairs: every form they come in ---


@pytest.mark.parametrize(
    "source",
    [
        PAIRS,
        datasets.Dataset.from_pandas(PAIRS),
        datasets.Dataset.from_pandas(PAIRS).with_format("numpy"),
        THREE,
        datasets.DatasetDict(
            {name: datasets.Dataset.from_pandas(rows, preserve_index=False) for name, rows in THREE.items()}
        ),
        PAIRS.set_index(pd.Index([7, 7, 9])),
    ],
    ids=["frame", "dataset", "formatted dataset", "mapping", "dataset dict", "odd index"],
)
def test_pairs_in_memory(source):
    dataset = RetrievalDataset.load(source)
    assert_three(dataset)
    assert dataset.name == ""
    assert dataset.queries.features == {"id": datasets.Value("string"), "text": datasets.Value("string")}
    assert dataset.corpus.features == dataset.queries.features
    assert dataset.qrels["dev"].features["relevance"] == datasets.Value("float64")
    assert dataset.qrels["dev"].column_names == ["query_id", "corpus_id", "relevance"]


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "json": lambda frame, path: frame.to_json(path, orient="records"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path, index=False),
    "jsonl.gz": lambda frame, path: frame.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_pairs_from_one_file(tmp_path, suffix):
    path = tmp_path / f"pairs.{suffix}"
    WRITERS[suffix](PAIRS, path)
    dataset = RetrievalDataset.load(path)
    assert_three(dataset)
    assert dataset.name == f"pairs.{suffix}"
    assert_three(RetrievalDataset.load(str(path)))


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("dev", ["dev", "validation", "valid", "val", "VAL"])
def test_folder_with_one_file_per_split(tmp_path, suffix, dev):
    for name, split in (("train", "train"), (dev, "dev"), ("test", "test")):
        WRITERS[suffix](THREE[split], tmp_path / f"{name}.{suffix}")
    dataset = RetrievalDataset.load(tmp_path)
    assert_three(dataset)
    assert dataset.name == tmp_path.name
    assert noted(dataset) == ()


def test_numbered_shards_are_one_split_and_strange_files_are_noted(tmp_path):
    THREE["train"].to_parquet(tmp_path / "train-00000-of-00002.parquet")
    pd.DataFrame({"query": ["d?"], "document": ["D"]}).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    THREE["dev"].to_csv(tmp_path / "dev.csv", index=False)
    THREE["test"].to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "stats.json").write_text("{}")
    (tmp_path / "SOURCE.md").write_text("Prose is no data.")
    dataset = RetrievalDataset.load(tmp_path)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("d?", "D"): 1.0}
    assert noted(dataset) == ("Files left unread: 'stats.json'.",)


def test_folder_with_a_single_file(tmp_path):
    PAIRS.to_csv(tmp_path / "faq.csv", index=False)
    assert_three(RetrievalDataset.load(tmp_path))


def test_json_lines_in_a_json_file(tmp_path):
    PAIRS.to_json(tmp_path / "pairs.json", orient="records", lines=True)
    assert_three(RetrievalDataset.load(tmp_path / "pairs.json"))


@pytest.mark.parametrize("with_splits", [True, False])
def test_what_save_to_disk_wrote(tmp_path, with_splits):
    data = datasets.Dataset.from_pandas(PAIRS)
    (datasets.DatasetDict({"train": data}) if with_splits else data).save_to_disk(tmp_path / "saved")
    assert_three(RetrievalDataset.load(tmp_path / "saved"))


def test_csv_cells_are_read_as_they_are_written(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(
        b'\xef\xbb\xbfquery,document,split\n007,"NA",train\nnull,"two\nlines, one cell",dev\nNaN,1.50,test\n'
    )
    dataset = RetrievalDataset.load(tmp_path / "pairs.csv")
    assert dataset.queries["text"][:] == ["007", "null", "NaN"]
    assert dataset.corpus["text"][:] == ["NA", "two\nlines, one cell", "1.50"]


def test_json_strings_that_look_like_numbers_or_dates_stay_strings(tmp_path):
    cells = [("007", "2020-01-01", "train"), ("1e3", "2020-01-02", "dev"), ("5", "2020-01-03", "test")]
    rows = [{"query": query, "document": document, "split": split} for query, document, split in cells]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    for name in ("pairs.jsonl", "pairs.json"):
        dataset = RetrievalDataset.load(tmp_path / name)
        assert dataset.queries["text"][:] == ["007", "1e3", "5"]
        assert dataset.corpus["text"][:] == ["2020-01-01", "2020-01-02", "2020-01-03"]


# --- columns ---


@pytest.mark.parametrize("query", ["query", "question", "anchor", "claim", "title", "Question", " QUERY "])
@pytest.mark.parametrize(
    "document", ["positive", "document", "chunk", "passage", "context", "answer", "text", "Answer", "positives"]
)
def test_usual_column_names_need_no_flags(query, document):
    assert_three(RetrievalDataset.load(PAIRS.rename(columns={"query": query, "document": document})))


def test_unusual_names_are_mapped_and_other_columns_are_noted():
    frame = PAIRS.rename(columns={"query": "utterance", "document": "kb entry", "split": "fold"}).assign(author="me")
    mapping = {"query": "utterance", "document": "kb entry", "split": "fold"}
    dataset = RetrievalDataset.load(frame, columns=mapping)
    assert_three(dataset)
    assert noted(dataset) == ("Columns left unused: 'author'.",)


def test_a_mapping_goes_before_usual_names():
    frame = PAIRS.assign(question=["x?", "y?", "z?"])
    dataset = RetrievalDataset.load(frame, columns={"query": "question"})
    assert dataset.queries["text"][:] == ["x?", "y?", "z?"]
    assert noted(dataset) == ("Columns left unused: 'query'.",)


def test_likelier_name_wins_and_the_other_is_noted():
    dataset = RetrievalDataset.load(PAIRS.assign(answer="short"))
    assert_three(dataset)
    assert noted(dataset) == ("Columns left unused: 'answer'.",)


def test_title_is_joined_to_the_document():
    dataset = RetrievalDataset.load(PAIRS.assign(title=["One", "", None]))
    assert dataset.corpus["text"][:] == ["One A", "B", "C"]
    assert noted(dataset) == ("Column 'title' was put before the text of its document.",)


def test_negatives_are_judged_zero_and_grades_are_kept():
    frame = PAIRS.assign(negative=["B", "N", None], score=[1, 2.5, 3])
    dataset = RetrievalDataset.load(frame)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "B"): 0.0}
    assert judged(dataset, "dev") == {("b?", "B"): 2.5, ("b?", "N"): 0.0}
    assert judged(dataset, "test") == {("c?", "C"): 3.0}
    assert sorted(dataset.corpus["text"]) == ["A", "B", "C", "N"]


def test_numbered_columns_and_lists_are_several():
    frame = PAIRS.assign(negative_1=["n1", "n3", "n5"], negative_2=["n2", "n4", ""])
    dataset = RetrievalDataset.load(frame)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "n1"): 0.0, ("a?", "n2"): 0.0}
    assert judged(dataset, "test") == {("c?", "C"): 1.0, ("c?", "n5"): 0.0}

    lists = datasets.Dataset.from_dict(
        {
            "query": ["a?", "b?", "c?"],
            "positives": [["A", "A2"], ["B"], ["C"]],
            "negatives": [["n1"], [], ["n2", "n3"]],
            "split": ["train", "dev", "test"],
        }
    )
    dataset = RetrievalDataset.load(lists)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "A2"): 1.0, ("a?", "n1"): 0.0}
    assert judged(dataset, "dev") == {("b?", "B"): 1.0}
    assert judged(dataset, "test") == {("c?", "C"): 1.0, ("c?", "n2"): 0.0, ("c?", "n3"): 0.0}


def test_lists_of_documents_may_have_lists_of_labels():
    frame = pd.DataFrame({"query": ["a?", "b?", "c?"], "docs": [["A", "N"], ["B", "C"], ["C"]]})
    frame = frame.assign(labels=[[1, 0], [2, 3], [1]], split=["train", "dev", "test"])
    dataset = RetrievalDataset.load(frame)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "N"): 0.0}
    assert judged(dataset, "dev") == {("b?", "B"): 2.0, ("b?", "C"): 3.0}
    with pytest.raises(ValueError, match="row 0 has 2 documents but 1 scores"):
        RetrievalDataset.load(frame.assign(labels=[[1], [2, 3], [1]]))


# --- identical texts ---


def test_identical_texts_are_one_and_every_positive_is_kept():
    frame = pd.DataFrame(
        {
            "query": ["a?", "a?", "a?", "other?", "b?", "c?"],
            "document": ["A", "A2", "A", "A", "B", "C"],
            "score": [1, 2, 3, 1, 1, 1],
            "split": ["train"] * 4 + ["dev", "test"],
        }
    )
    dataset = RetrievalDataset.load(frame)
    assert dataset.queries["text"][:] == ["a?", "other?", "b?", "c?"]
    assert dataset.corpus["text"][:] == ["A", "A2", "B", "C"]
    assert judged(dataset, "train") == {("a?", "A"): 3.0, ("a?", "A2"): 2.0, ("other?", "A"): 1.0}
    assert noted(dataset) == (
        "2 queries with exactly the text of an earlier one merged into it.",
        "2 documents with exactly the text of an earlier one merged into it.",
        "1 repeated judgement of the same query and document merged; the highest was kept.",
    )


def test_identical_documents_of_a_corpus_take_the_first_id():
    parts = beir(corpus={"id": ["x", "y", "z", "x"], "text": ["A", "A", "A ", "A"]})
    dataset = RetrievalDataset.load(parts)
    assert dataset.corpus["id"][:] == ["x", "z"]  # a space is a difference
    assert dataset.qrels["dev"]["corpus_id"][:] == ["x"]
    assert noted(dataset) == (
        "1 repeated row of the documents read once.",
        "1 document with exactly the text of an earlier one merged into it.",
    )


# --- BEIR ---


def test_beir_in_memory():
    dataset = RetrievalDataset.load(beir())
    assert dataset.queries["id"][:] == ["1", "2", "3"]
    assert dataset.corpus["id"][:] == ["x", "y", "z"]
    assert judged(dataset, "test") == {("c?", "C"): 3.0}


def test_folder_of_parquet_with_a_split_column(tmp_path):
    for name, frame in beir().items():
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
    (tmp_path / "stats.json").write_text('{"name": "x"}')
    dataset = RetrievalDataset.load(tmp_path)
    assert dataset.splits == ["train", "dev", "test"]
    assert judged(dataset, "train") == {("a?", "A"): 1.0}
    assert judged(dataset, "test") == {("c?", "C"): 3.0}
    assert noted(dataset) == ("Files left unread: 'stats.json'.",)


def write_beir_files(folder, dev="dev"):
    """The files as BEIR's own archives hold them."""
    corpus = [("10", "Title", "A"), ("11", "", "B"), ("12", "Only a title", "")]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "title": t, "text": x, "metadata": {"url": i}}) + "\n" for i, t, x in corpus)
    )
    queries = [("1", "a?"), ("2", "b?"), ("3", "c?"), ("4", "nobody judged me?")]
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": x}) + "\n" for i, x in queries))
    (folder / "qrels").mkdir()
    for split, query_id, corpus_id in (("train", 1, 10), (dev, 2, 11), ("test", 3, 12)):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{query_id}\t{corpus_id}\t2\n")


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_folder_of_jsonl_with_one_tsv_of_qrels_per_split(tmp_path, dev):
    write_beir_files(tmp_path, dev)
    dataset = RetrievalDataset.load(tmp_path)
    assert dataset.splits == ["train", "dev", "test"]
    assert dataset.corpus["text"][:] == ["Title A", "B", "Only a title"]
    assert dataset.corpus["id"][:] == ["10", "11", "12"]
    assert judged(dataset, "dev") == {("b?", "B"): 2.0}
    assert dataset.queries["id"][:] == ["1", "2", "3", "4"]
    assert noted(dataset) == (
        "Columns left unused in corpus: 'metadata'.",
        "1 query without judgements in any split kept; only a teacher learns from such queries.",
    )


def test_ids_match_whether_they_are_numbers_or_strings(tmp_path):
    parts = beir(queries={"_id": [1, 2, 3], "text": ["a?", "b?", "c?"]})
    parts["qrels"]["query_id"] = [1.0, 2.0, 3.0]
    for name, frame in parts.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
    assert RetrievalDataset.load(tmp_path).qrels["train"]["query_id"][:] == ["1"]


def test_beir_columns_are_mapped():
    parts = beir()
    parts["corpus"] = parts["corpus"].rename(columns={"text": "inhalt"})
    parts["qrels"] = parts["qrels"].rename(columns={"score": "grade"})
    dataset = RetrievalDataset.load(parts, columns={"text": "inhalt", "score": "grade"})
    assert judged(dataset, "test") == {("c?", "C"): 3.0}


def test_qrels_without_scores_count_one():
    parts = beir()
    del parts["qrels"]["score"]
    assert judged(RetrievalDataset.load(parts), "test") == {("c?", "C"): 1.0}


# --- the Hub, through a clone of what lies there: the same calls of load_dataset, without the network ---


def clone(folder, configs):
    """Write parquet files and the card that says which configuration they are."""
    lines = ["---", "configs:"]
    for config, tables in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, frame in tables.items():
            file = folder / config / f"{split}.parquet"
            file.parent.mkdir(exist_ok=True, parents=True)
            frame.to_parquet(file, index=False)
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A data set", ""]))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def mteb_tables():
    corpus = pd.DataFrame({"_id": ["x", "y", "z"], "title": ["T", "", ""], "text": ["A", "B", "C"]})
    queries = pd.DataFrame({"_id": ["1", "2", "3"], "text": ["a?", "b?", "c?"]})
    qrels = {
        split: pd.DataFrame({"query-id": [q], "corpus-id": [d], "score": [1.0]})
        for split, q, d in (("train", "1", "x"), ("validation", "2", "y"), ("test", "3", "z"))
    }
    return corpus, queries, qrels


@pytest.mark.parametrize("name_of_qrels", ["default", "qrels"])
def test_hub_data_set_in_beir_form(tmp_path, hub_cache, name_of_qrels):
    corpus, queries, qrels = mteb_tables()
    clone(tmp_path / "set", {"corpus": {"corpus": corpus}, "queries": {"queries": queries}, name_of_qrels: qrels})
    dataset = RetrievalDataset.load(tmp_path / "set")
    assert dataset.splits == ["train", "dev", "test"]
    assert judged(dataset, "train") == {("a?", "T A"): 1.0}
    assert judged(dataset, "dev") == {("b?", "B"): 1.0}


def test_hub_data_set_whose_qrels_lie_next_door(tmp_path, hub_cache):
    corpus, queries, qrels = mteb_tables()
    clone(tmp_path / "scifact", {"corpus": {"corpus": corpus}, "queries": {"queries": queries}})
    clone(tmp_path / "scifact-qrels", {"default": qrels})
    assert judged(RetrievalDataset.load(tmp_path / "scifact"), "dev") == {("b?", "B"): 1.0}


def test_hub_data_set_of_pairs(tmp_path, hub_cache):
    clone(tmp_path / "pairs", {"pair": THREE})
    assert_three(RetrievalDataset.load(tmp_path / "pairs"))
    clone(tmp_path / "several", {"pair": THREE, "triplet": THREE})
    with pytest.raises(ValueError, match=r"configurations 'pair', 'triplet'.*Choose one: .*load_dataset\("):
        RetrievalDataset.load(tmp_path / "several")


@pytest.mark.parametrize("name", ["org/nowhere", "nowhere"])
def test_neither_here_nor_on_the_hub(name, hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"'{name}' is no file or folder here, and the Hub gave no data set"):
        RetrievalDataset.load(name)


# --- splits ---


def many(number=200, query="How does thing {} work?"):
    return pd.DataFrame(
        {"query": [query.format(n) for n in range(number)], "document": [f"D{n}" for n in range(number)]}
    )


def expected_split(text, seed):
    """The definition, written out once more: sha256 of seed and normalised text as a fraction, cut at .7 and .8."""
    share = int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:16], 16) / 16**16
    return "train" if share < 0.7 else "dev" if share < 0.8 else "test"


@pytest.mark.parametrize("seed", [0, 7])
def test_without_splits_queries_are_cut_by_the_hash(seed):
    dataset = RetrievalDataset.load(many(), seed=seed)
    assert dataset.splits == ["train", "dev", "test"]
    assert split_of(dataset) == {
        q: expected_split(f"how does thing {n} work?", seed) for n, q in enumerate(many()["query"])
    }
    note = f"No splits were given; queries were cut 70/10/20 into train, dev and test by a hash (seed {seed})."
    assert noted(dataset) == (note,)


def test_shares_are_about_70_10_20():
    dataset = RetrievalDataset.load(many(4000))
    sizes = [len(dataset.qrels[split]) / 4000 for split in dataset.splits]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.03)  # four standard errors of the widest


def test_a_lone_train_split_is_cut_too():
    dataset = RetrievalDataset.load({"train": many()})
    assert split_of(dataset) == split_of(RetrievalDataset.load(many()))
    assert noted(dataset)[0].startswith("Only a train split was given; queries were cut 70/10/20")


def test_more_data_and_another_order_move_no_query():
    few, all_of_them = split_of(RetrievalDataset.load(many(100))), split_of(RetrievalDataset.load(many(200)[::-1]))
    assert few.items() <= all_of_them.items()


# Characters whose case can be changed and changed back; Unicode has a handful (dotless i) that have no way back.
cased = st.characters(categories=["L", "N"]).filter(
    lambda c: c.upper().casefold() == c.lower().casefold() == c.casefold()
)
words = st.lists(st.text(cased, min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(variants=st.lists(words, min_size=1, max_size=5, unique_by=tuple), seed=st.integers(0, 2**63))
def test_duplicates_and_variants_never_land_on_two_sides(variants, seed):
    groups = [[" ".join(w), " ".join(w).upper(), "  ".join(w).lower() + "\n", "\u3000".join(w)] for w in variants]
    queries = [text for group in groups for text in group] * 2
    frame = pd.DataFrame({"query": queries, "document": [f"D{n}" for n in range(len(queries))]})
    splits = split_of(RetrievalDataset.load(pd.concat([frame, many(120)]), seed=seed))
    for group in groups:
        assert len({splits[text] for text in group}) == 1
    assert split_of(RetrievalDataset.load(pd.concat([many(120), frame]), seed=seed)) == splits


@pytest.mark.parametrize(
    "one,other", [("ﬁle", "FILE"), ("Straße", "STRASSE"), ("ΐ", "Ϊ́"), ("Ａ１", "a1"), ("é", "e\u0301")]
)
def test_variants_of_unicode_are_one_query_to_the_split(one, other):
    for seed in range(6):
        frame = pd.concat([pd.DataFrame({"query": [one, other], "document": ["X", "Y"]}), many(120)])
        splits = split_of(RetrievalDataset.load(frame, seed=seed))
        assert splits[one] == splits[other]


def test_seeds_give_different_splits():
    assert split_of(RetrievalDataset.load(many(), seed=0)) != split_of(RetrievalDataset.load(many(), seed=1))


def test_a_missing_dev_is_carved_from_train():
    dataset = RetrievalDataset.load({"train": many(2000), "test": many(50, "Test {}?").assign(document="T")})
    assert dataset.splits == ["train", "dev", "test"]
    splits = split_of(dataset)
    assert {q for q in splits if splits[q] == "test"} == set(many(50, "Test {}?")["query"])
    number = len(dataset.qrels["dev"])
    assert number / 2000 == pytest.approx(0.15, abs=0.03)
    assert dataset.notes[-1] == f"No dev split was given; {number} queries of train became it, by a hash."


def test_train_and_dev_without_test():
    dataset = RetrievalDataset.load({"train": THREE["train"], "valid": THREE["dev"]})
    assert dataset.splits == ["train", "dev"]
    assert noted(dataset) == ("No test split was given, so there is none.",)


def test_other_splits_are_kept_behind_the_usual_ones():
    dataset = RetrievalDataset.load({"hard": pd.DataFrame({"query": ["h?"], "document": ["H"]}), **THREE})
    assert dataset.splits == ["train", "dev", "test", "hard"]


def test_queries_in_two_given_splits_are_kept_and_counted():
    both = {**THREE, "test": pd.DataFrame({"query": ["c?", "a?", " A?"], "document": ["C", "X", "Y"]})}
    dataset = RetrievalDataset.load(both)
    assert judged(dataset, "train") == {("a?", "A"): 1.0}
    assert judged(dataset, "test") == {("c?", "C"): 1.0, ("a?", "X"): 1.0, (" A?", "Y"): 1.0}
    assert noted(dataset) == (
        "1 query with exactly the text of an earlier one merged into it.",
        "1 query text stands in both 'train' and 'test' (apart from case and spacing); kept in both.",
    )


# --- splits by document ---


def shared_documents(number=300, per_document=3):
    frame = many(number)
    return frame.assign(document=[f"D{n // per_document}" for n in range(number)])


def sides_of_documents(dataset):
    """Document text -> the splits in which it is relevant."""
    sides = {}
    for split in dataset.splits:
        for (_, document), relevance in judged(dataset, split).items():
            if relevance > 0:
                sides.setdefault(document, set()).add(split)
    return sides


def test_split_by_document_keeps_the_queries_of_a_document_on_one_side():
    assert any(len(sides) > 1 for sides in sides_of_documents(RetrievalDataset.load(shared_documents())).values())
    loaded = RetrievalDataset.load(shared_documents(), split_by="document")
    assert loaded.qrels == {} and len(loaded.uncut) == 300 and loaded.splits == ["train", "dev", "test"]
    assert loaded.split_to_evaluate() == "test"
    with pytest.raises(ValueError, match="split 'dev' is still to be cut by document.*Cut it first"):
        loaded.judgements("dev")
    dataset = loaded.with_cut()
    assert {len(sides) for sides in sides_of_documents(dataset).values()} == {1}
    assert len(split_of(dataset)) == 300 and dataset.splits == ["train", "dev", "test"]
    assert dataset.notes[-1] == (
        "No splits were given; queries were cut 70/10/20 into train, dev and test by a hash (seed 0), with all queries "
        "of one document on one side."
    )
    assert dataset.cut.by == "document" and dataset.cut.splits == ("train", "dev", "test")
    again = RetrievalDataset.load(shared_documents()[::-1], split_by="document").with_cut()
    assert split_of(again) == split_of(dataset)


def test_negatives_hold_nothing_together():
    frame = many().assign(negative="D0")
    assert split_of(RetrievalDataset.load(frame[1:], split_by="document").with_cut()) == split_of(
        RetrievalDataset.load(frame[1:])
    )


def test_a_carved_dev_is_cut_by_document_and_test_stays():
    source = {"train": shared_documents(), "test": many(20, "Test {}?").assign(document="D1")}
    loaded = RetrievalDataset.load(source, split_by="document")
    assert list(loaded.qrels) == ["test"] and loaded.splits == ["train", "dev", "test"]
    dataset = loaded.with_cut()
    sides = sides_of_documents(dataset)
    assert sides.pop("D1") == {"test", *(["train"] if "train" in sides_of_documents(dataset)["D1"] else ["dev"])}
    assert {len(found) for found in sides.values()} == {1}
    assert len(judged(dataset, "test")) == 20 and dataset.cut.splits == ("train", "dev")
    number = len(dataset.qrels["dev"])
    note = f"No dev split was given; {number} queries of train became it, by a hash, with all queries of one document"
    assert dataset.notes[-1].startswith(note)


def test_one_giant_group_is_cut_and_noted():
    frame = pd.DataFrame({"query": [f"Query {n}?" for n in range(200)], "document": [f"D{n // 4}" for n in range(200)]})
    bridges = pd.DataFrame({"query": [f"Query {n}?" for n in range(0, 196, 4)]})
    bridges["document"] = [f"D{n // 4 + 1}" for n in range(0, 196, 4)]
    dataset = RetrievalDataset.load(pd.concat([frame, bridges]), split_by="document").with_cut()
    assert dataset.splits == ["train", "dev", "test"]
    assert dataset.notes[-1] == (
        "1 group of queries that hangs together by documents (200 of 200 queries) too large for one side; cut further, "
        "no more than needed. What then stands on two sides is a leak, and counted as one."
    )


def test_given_splits_stay_whatever_was_asked():
    dataset = RetrievalDataset.load(PAIRS.assign(document="A"), split_by="document")
    assert split_of(dataset) == split_of(RetrievalDataset.load(PAIRS))
    assert dataset.cut is None
    assert dataset.notes[-1] == "All splits were given and stay as they are, whatever documents their queries share."
    assert dataset.with_cut() is dataset


def test_a_cut_keeps_groups_together_and_everything_else_in_place():
    dataset = RetrievalDataset.load(many(), split_by="document")
    ids = dict(zip(dataset.queries["text"], dataset.queries["id"], strict=True))
    before = split_of(dataset.with_cut())
    assert before == split_of(RetrievalDataset.load(many()))
    group = [next(text for text in before if before[text] == split) for split in ("train", "dev", "test")]
    after = split_of(dataset.with_cut([[ids[text] for text in group]]))
    assert len({after[text] for text in group}) == 1
    assert {text for text in before if before[text] != after[text]} <= set(group)


def test_a_data_set_prints_its_splits():
    splits = [expected_split(f"how does thing {n} work?", 3) for n in range(200)]
    assert str(RetrievalDataset.load(many(), seed=3)).splitlines() == [
        "Data in memory: 200 documents, the labelled ones only",
        *(f"  {s}: {splits.count(s)} queries, {splits.count(s)} relevant pairs" for s in ("train", "dev", "test")),
    ]
    uncut = RetrievalDataset.load({"train": many(), "test": many(1, "Test {}?")}, split_by="document")
    assert str(uncut).splitlines()[1:] == [
        "  test: 1 query, 1 relevant pair",
        "  to be cut: 200 queries, 200 relevant pairs",
    ]
    assert uncut.num_queries == {"test": 1, "to be cut": 200}


def test_the_name_of_a_data_set_holds_no_password(tmp_path):
    dataset = RetrievalDataset.load(PAIRS)
    named = replace(dataset, name="https://me:hunter2@data.example/pairs.csv?token=abcdef")
    assert named.name == "https://***@data.example/pairs.csv?token=***" and "hunter2" not in str(named)
    PAIRS.to_csv(tmp_path / "token hf_abcdefghijk.csv", index=False)
    assert RetrievalDataset.load(tmp_path / "token hf_abcdefghijk.csv").name == "token ***.csv"
    with pytest.raises(ValueError, match="no file or folder") as caught:
        RetrievalDataset.load("https://me:hunter2@data.example/pairs.csv")
    assert "hunter2" not in str(caught.value)


# --- bad input ---


def refused(source, match, **options):
    with pytest.raises(ValueError, match=match):
        RetrievalDataset.load(source, **options)


def test_no_such_file(tmp_path):
    missing = tmp_path / "no" / "pairs.csv"
    refused(missing, re.escape(f"no file or folder {str(missing)!r}"))
    refused("pairs.csv", f"no file or folder 'pairs.csv'.*{re.escape(repr(os.getcwd()))}")  # noqa: PTH109


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "pairs.doc").write_text("x")
    refused(tmp_path / "pairs.doc", r"pairs\.doc' is not a file that can be read here\. Expected one of: \.csv, \.tsv")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_broken_file(tmp_path, suffix):
    (tmp_path / f"pairs.{suffix}").write_text("{oh no")
    refused(tmp_path / f"pairs.{suffix}", rf"pairs\.{suffix}' cannot be read as {suffix}: .+\. Mend or convert")


def test_file_that_is_not_utf8(tmp_path):
    (tmp_path / "pairs.csv").write_bytes(b"query,document\ncaf\xe9,x\n")
    refused(tmp_path / "pairs.csv", r"pairs\.csv' cannot be read as csv: .*utf-8")


def test_folder_without_data(tmp_path):
    refused(tmp_path, r"holds nothing\. Expected one file of pairs, one per split")
    PAIRS.to_csv(tmp_path / "one.csv")
    PAIRS.to_csv(tmp_path / "two.csv")
    refused(tmp_path, r"holds 'one\.csv', 'two\.csv'\. Expected one file of pairs")


def test_one_part_in_two_files(tmp_path):
    PAIRS.to_csv(tmp_path / "train.csv", index=False)
    PAIRS.to_json(tmp_path / "train.json", orient="records")
    refused(tmp_path, r"holds 'train\.csv', 'train\.json', which are the same part twice\. Keep one")


def test_beir_folder_with_no_qrels_or_two(tmp_path):
    write_beir_files(tmp_path)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\t10\t1\n")
    refused(tmp_path, "both a file and a folder of qrels. Keep one")
    (tmp_path / "qrels.tsv").unlink()
    for file in (tmp_path / "qrels").iterdir():
        file.unlink()
    refused(tmp_path, r"holds a corpus and queries, but no qrels\. Add qrels\.tsv")


def test_beir_mapping_without_qrels():
    refused({k: v for k, v in beir().items() if k != "qrels"}, "parts 'queries', 'corpus', but no 'qrels'. Add")


def test_unknown_type():
    refused({"a", "b"}, r"of type set, but expected a datasets\.Dataset.*Dataset\.from_list")
    refused({}, "holds no table at all")


def test_unknown_columns():
    frame = PAIRS.rename(columns={"query": "utterance"})
    message = (
        r"No query column was found\. Found the columns 'utterance', 'document', 'split'; "
        r"looked for query, question, anchor, .*\. Name yours with columns=\{'query': 'your_column'\}"
    )
    refused(frame, message)
    refused({**THREE, "test": frame[["utterance", "document"]]}, "No query column was found in split 'test'")
    refused(beir(corpus={"nr": [1], "text": ["A"]}), "No id column was found in corpus. Found the columns 'nr', 'text'")
    refused(beir(qrels={"query_id": ["1"], "score": [1]}), "No corpus_id column was found in qrels")


def test_mapping_that_cannot_be_used():
    refused(PAIRS, "maps 'query' to 'nope', which is not there. Found the columns 'query'", columns={"query": "nope"})
    refused(PAIRS, "maps the role 'queri', but this data has the roles 'query', 'document'", columns={"queri": "query"})
    refused(beir(), "maps the role 'document', but this data has the roles 'id', 'text'", columns={"document": "text"})
    mixed = {**THREE, "test": THREE["test"].assign(grade=1)}
    refused(mixed, "No score column was found in split 'train'.*looked for 'grade'", columns={"score": "grade"})


def test_empty_split(tmp_path):
    refused(PAIRS[:0], "The data set is empty: a table with no rows")
    refused({**THREE, "dev": PAIRS[:0]}, "'dev' is empty: a table with no rows")
    refused({**beir(), "corpus": pd.DataFrame({"id": [], "text": []})}, "'corpus' is empty")
    refused({**beir(), "qrels": {"train": beir()["qrels"], "test": beir()["qrels"][:0]}}, "'test' is empty")
    (tmp_path / "pairs.csv").write_text("")
    refused(tmp_path / "pairs.csv", "The data set is empty")


def test_unknown_ids_in_qrels():
    ids = [f"q{n}" for n in range(5)]
    qrels = {"query_id": ids, "corpus_id": ["x"] * 5, "score": [1] * 5}
    refused(
        beir(qrels=qrels), r"5 query_ids of the qrels not in the queries: 'q0', 'q1', 'q2', \.\.\.\. Expected.*'1', '2'"
    )
    qrels = {"query_id": ["1", "2"], "corpus_id": ["x", "w"], "score": [1, 1]}
    refused(beir(qrels=qrels), "1 corpus_id of the qrels not in the corpus: 'w'. Expected.*'x', 'y', 'z'")


@pytest.mark.parametrize("bad", ["", "  \n", None, float("nan"), 3, ["nested"]])
def test_empty_or_non_string_texts(bad):
    frame = pd.DataFrame({"query": ["a?", bad, "c?"], "document": ["A", "B", "C"]}, dtype=object)
    if not isinstance(bad, list):
        refused(frame, "1 queries have an empty text or none that is a string: 'row 1'. Expected some text in each")
    bad_in_document = frame.assign(query="a?", document=["A", "B", [bad] if isinstance(bad, list) else bad])
    refused(bad_in_document, "1 documents have an empty text or none that is a string: 'row 2'")
    texts = pd.Series(["A", bad, "C"], dtype=object)
    refused(beir(corpus={"id": ["x", "y", "z"], "text": texts}), "1 documents have an empty text .*: 'y'")
    refused(beir(queries={"id": ["1", "2", "3"], "text": texts}), "1 queries have an empty text .*: '2'")


def test_first_three_of_many_are_named():
    frame = pd.DataFrame({"query": [""] * 5, "document": ["A"] * 5})
    refused({**THREE, "train": frame}, r"5 queries .*: 'train row 0', 'train row 1', 'train row 2', \.\.\.\. Expected")


def test_query_without_positive():
    frame = PAIRS.assign(score=[0, 1, 1])
    refused(
        frame, r"1 query of split 'train' without any relevant document \(relevance above 0\): 'q0: a\?'\. Expected"
    )
    parts = beir()
    parts["qrels"]["score"] = [1, -1, 1]
    refused(parts, r"1 query of split 'dev' without any relevant document .*: '2: b\?'")


def test_duplicate_ids_with_different_texts():
    refused(
        beir(corpus={"id": ["x", "y", "x", "y", "z"], "text": ["A", "B", "C", "D", "E"]}),
        "2 document ids given to several different texts: 'x', 'y'. Expected one text per id",
    )
    refused(beir(queries={"id": ["1", "2", "3", "1"], "text": ["a?", "b?", "c?", "d?"]}), "1 query id given to several")


def test_missing_ids():
    refused(beir(corpus={"id": ["x", None, "z"], "text": ["A", "B", "C"]}), "1 id missing in corpus: 'row 1'")
    qrels = {"query_id": ["1", ""], "corpus_id": ["x", "y"]}
    refused(beir(qrels=qrels), "1 id missing in qrels: 'row 1'. Every row needs one")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "high", ""])
def test_scores_that_are_no_finite_number(bad):
    message = r"1 judgement NaN, infinite, missing or no number: 'row 1 = .*'\. Expected a number in each row"
    refused(PAIRS.assign(score=pd.Series([1, bad, 1], dtype=object)), message)
    parts = beir()
    parts["qrels"]["score"] = pd.Series([1, bad, 1], dtype=object)
    refused(parts, message)


def test_scores_written_as_text_are_read(tmp_path):
    PAIRS.assign(score=[1, 0.5, 2]).to_csv(tmp_path / "pairs.csv", index=False)
    assert judged(RetrievalDataset.load(tmp_path / "pairs.csv"), "dev") == {("b?", "B"): 0.5}


def test_unknown_split_by():
    refused(PAIRS, "split_by is 'chunk'. Expected one of 'query', 'document'", split_by="chunk")


def test_no_train_split():
    refused(
        {"test": THREE["test"]}, "There is no train split; found 'test'. Expected train.*Name the split to learn from"
    )
    refused({"dev": THREE["dev"], "test": THREE["test"]}, "There is no train split; found 'dev', 'test'")


def test_rows_without_the_name_of_a_split():
    refused(PAIRS.assign(split=["train", "", "test"]), "Some rows name a split and some do not")
    refused(PAIRS.assign(split=["train", None, "test"]), "A row is in the split (None|nan). Expected a name")


def test_too_few_queries_to_cut():
    frame = pd.DataFrame({"query": ["a?"], "document": ["A"]})
    refused(frame, "1 query cut 70/10/20 with seed 0 left .* without any.*Give more data, another seed, or splits")
    refused(
        {"train": frame, "test": frame},
        "1 query cut 85/15 with seed 0 left 'dev' without any. Expected queries in each of train and dev",
    )


def test_arrays_are_lists_too():
    frame = PAIRS.assign(document=pd.Series([np.array(["A", "A2"], dtype=object), "B", ("C",)], dtype=object))
    dataset = RetrievalDataset.load(frame)
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "A2"): 1.0}
    assert judged(dataset, "test") == {("c?", "C"): 1.0}


# --- other words for the splits, and what is used for nothing ---


@pytest.mark.parametrize("train", ["training", "Train", "train_dataset"])
@pytest.mark.parametrize("dev", ["eval", "evaluation", "development", "devel", "validate"])
@pytest.mark.parametrize("test", ["tests", "testing", "TEST"])
def test_other_words_for_the_splits(train, dev, test):
    assert_three(RetrievalDataset.load({train: THREE["train"], dev: THREE["dev"], test: THREE["test"]}))
    names = {"train": train, "dev": dev, "test": test}
    assert_three(RetrievalDataset.load(PAIRS.assign(split=PAIRS["split"].map(names))))


def test_files_named_in_other_words(tmp_path):
    for name, split in (("training", "train"), ("eval-pairs", "dev"), ("tests", "test")):
        THREE[split].to_csv(tmp_path / f"{name}.csv", index=False)
    assert_three(RetrievalDataset.load(tmp_path))


def test_two_splits_for_one_purpose_are_not_merged():
    refused(
        {"train": THREE["train"], "dev": THREE["dev"], "eval": THREE["test"]},
        "splits 'dev', 'eval' all read as 'dev'. Expected one split for each purpose. Rename the others",
    )
    cased = PAIRS.assign(split=["train", "dev", "Dev"])
    assert RetrievalDataset.load(cased).splits == ["train", "dev"]


def test_a_split_that_is_used_for_nothing_is_announced():
    dataset = RetrievalDataset.load({**THREE, "hard": pd.DataFrame({"query": ["h?"], "document": ["H"]})})
    assert noted(dataset) == ("Split 'hard' is used for nothing but to be evaluated on when asked.",)


def test_cut_into_train_and_dev_sets_no_test_split_aside():
    dataset = RetrievalDataset.load(many(2000), cut_into=("train", "dev"))
    assert dataset.splits == ["train", "dev"] and len(split_of(dataset)) == 2000
    assert len(dataset.qrels["dev"]) / 2000 == pytest.approx(0.15, abs=0.03)
    grouped = RetrievalDataset.load(many(2000), cut_into=("train", "dev"), split_by="document").with_cut()
    assert grouped.splits == ["train", "dev"] and split_of(grouped) == split_of(dataset)
    refused(many(), r"cut_into is \('dev',\). Expected one of", cut_into=("dev",))


def test_nothing_is_cut_to_evaluate_on_all():
    dataset = RetrievalDataset.load(many(), cut_into=())
    assert dataset.splits == ["all"] and dataset.cut is None and len(dataset.qrels["all"]) == 200
    assert noted(dataset) == ("No splits were given; nothing was cut: 200 queries in all.",)
    assert dataset.split_to_evaluate() == "all"
    alone = RetrievalDataset.load({"test": THREE["test"]}, cut_into=())
    assert alone.splits == ["test"] and alone.split_to_evaluate() == "test"
    two = RetrievalDataset.load({"train": THREE["train"], "dev": THREE["dev"]}, cut_into=())
    assert two.splits == ["train", "dev"] and two.split_to_evaluate("dev") == "dev"
    with pytest.raises(ValueError, match="No split was named, and there is no test split; the data have"):
        two.split_to_evaluate()


# --- texts that are none ---


def test_unjudged_texts_that_are_empty_are_left_out_and_counted():
    parts = beir(
        queries={"id": ["1", "2", "3", "4"], "text": ["a?", "b?", "c?", " "]},
        corpus={"id": ["x", "y", "z", "u", "v"], "text": ["A", "B", "C", "", None]},
    )
    dataset = RetrievalDataset.load(parts)
    assert dataset.corpus["id"][:] == ["x", "y", "z"] and dataset.queries["id"][:] == ["1", "2", "3"]
    assert dataset.notes == (
        "1 query without text that nothing judges left out.",
        "2 documents without text that nothing judges left out.",
    )
    refused(beir(corpus={"id": ["x", "y", "z", "u"], "text": ["A", "B", "C", 3]}), "1 documents .* string: 'u'")


WRITTEN_LISTS = ["['a', 'b']", '["a", "b"]']
OTHER_LISTS = ["['a' 'b']", "{'text': 'a'}", "array(['a'], dtype=object)", "['a', 1]", "['a', ..., 'b']"]


@pytest.mark.parametrize("cell", WRITTEN_LISTS + OTHER_LISTS)
def test_lists_written_as_text_are_refused(cell):
    refused(many().assign(query=cell), r"Column 'query' holds lists")
    refused(beir(corpus={"id": ["x", "y", "z"], "text": [cell] * 3}), "Column 'text' in corpus holds lists")


@pytest.mark.parametrize("cell", OTHER_LISTS)
def test_what_is_no_whole_list_of_texts_is_refused(cell):
    refused(many().assign(document=cell), r"Column 'document' holds lists or objects written as text in 200 of 200")


@pytest.mark.parametrize("cell", WRITTEN_LISTS)
def test_whole_lists_of_texts_are_read(cell):
    dataset = RetrievalDataset.load(PAIRS.assign(document=cell))
    assert judged(dataset, "dev") == {("b?", "a"): 1.0, ("b?", "b"): 1.0}
    assert "Column 'document' holds lists written as text; they were read as lists." in dataset.notes


def test_a_few_lists_may_be_code_and_are_counted():
    dataset = RetrievalDataset.load(PAIRS.assign(document=["['a', 'b']", "[x for x in y]", "C"]))
    assert noted(dataset) == (
        "1 cell of column 'document' read as text though written like a list, such as \"['a', 'b']\".",
    )


@pytest.mark.parametrize("cell", [{"url": "x"}, [["A"]], [{"url": "x"}]])
def test_nested_cells_are_refused_by_column(cell):
    refused(
        many().assign(document=[cell] * 200), "200 documents .* in each cell of 'document'. The first is a (dict|list)"
    )


def test_passages_of_title_and_text(tmp_path):
    rows = [
        {
            "question": query,
            "answers": ["short"],
            "positive_ctxs": [{"title": "T", "text": document, "score": 7.5}],
            "negative_ctxs": [{"title": "", "text": "N"}],
            "hard_negative_ctxs": [{"title": "", "text": "H"}],
            "split": split,
        }
        for query, document, split in PAIRS.itertuples(index=False)
    ]
    (tmp_path / "dpr.json").write_text(json.dumps(rows))
    for source in (tmp_path / "dpr.json", datasets.Dataset.from_list(rows)):
        dataset = RetrievalDataset.load(source)
        assert judged(dataset, "train") == {("a?", "T A"): 1.0, ("a?", "N"): 0.0, ("a?", "H"): 0.0}


@pytest.mark.parametrize("wrap", [list, set, lambda ids: dict.fromkeys(ids, 1)])
def test_dictionaries_of_ids(wrap, tmp_path):
    parts = {
        "queries": {"1": "a?", "2": "b?", "3": "c?"},
        "corpus": {"x": "A", "y": {"title": "T", "text": "B"}, "z": "C"},
        "relevant_docs": {"1": wrap(["x", "y"]), "2": wrap(["y"]), "3": wrap(["z"])},
    }
    dataset = RetrievalDataset.load(parts, cut_into=())
    assert judged(dataset, "all") == {(q, d): 1.0 for q, d in (("a?", "A"), ("a?", "T B"), ("b?", "T B"), ("c?", "C"))}
    refused({**parts, "relevant_docs": {"1": "x"}}, "judgements of query '1' are 'x', a str. Expected the ids")
    by_split = {"train": {"1": wrap(["x", "y"])}, "dev": {"2": wrap(["y"])}, "test": {"3": wrap(["z"])}}
    dataset = RetrievalDataset.load({**parts, "relevant_docs": by_split})
    assert judged(dataset, "train") == {("a?", "A"): 1.0, ("a?", "T B"): 1.0}
    assert judged(dataset, "dev") == {("b?", "T B"): 1.0} and judged(dataset, "test") == {("c?", "C"): 1.0}


def test_what_llama_index_saves(tmp_path):
    for split, number in (("train", 0), ("val", 1)):
        content = {
            "queries": {f"q{number}": f"Question {number}?"},
            "corpus": {f"n{number}": f"Node {number}", f"m{number}": f"Nobody asks {number}"},
            "relevant_docs": {f"q{number}": [f"n{number}"]},
            "mode": "text",
        }
        (tmp_path / f"{split}_dataset.json").write_text(json.dumps(content))
    alone = RetrievalDataset.load(tmp_path / "val_dataset.json", cut_into=())
    assert alone.name == "val_dataset.json" and judged(alone, "all") == {("Question 1?", "Node 1"): 1.0}
    dataset = RetrievalDataset.load(tmp_path)
    assert judged(dataset, "dev") == {("Question 1?", "Node 1"): 1.0} and len(dataset.corpus) == 4


def test_half_a_character_is_refused(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "a\\ud800b", "document": "A"}')
    refused(tmp_path / "pairs.jsonl", "1 queries hold half a character .*: 'row 0'. Expected whole characters")
    refused(
        PAIRS.assign(document=pd.Series(["A", "B", "\udc00"], dtype=object)),
        "1 documents hold half a character .*: 'row 2'",
    )
    ids = pd.Series(["x", "y", "z\ud800"], dtype=object)
    refused(beir(corpus={"id": ids, "text": ["A", "B", "C"]}), "1 ids in corpus hold half")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "frame"])
def test_two_columns_of_one_name(tmp_path, suffix):
    frame = pd.concat([PAIRS, PAIRS[["document"]]], axis=1)
    path = tmp_path / f"pairs.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        path.write_text('{"query": "a?", "document": "A", "document": "B"}')
    elif suffix == "parquet":
        table = pa.table([pa.array(["a?"]), pa.array(["A"]), pa.array(["B"])], names=["query", "document", "document"])
        pq.write_table(table, path)
    refused(frame if suffix == "frame" else path, "(several columns called|an object has) 'document'")


def test_two_columns_told_apart_by_case_alone():
    frame = PAIRS.assign(Query=["x", "y", "z"])
    refused(frame, "columns 'query', 'Query' have the same name apart from case and spacing.*ignore_columns")
    assert_three(RetrievalDataset.load(frame, columns={"query": "query"}))
    assert_three(RetrievalDataset.load(frame, ignore_columns=["Query"]))
    refused(PAIRS, "columns to ignore are not all there: no 'x'. Found", ignore_columns=["x"])
    refused(PAIRS, "ignore_columns is the string 'split'", ignore_columns="split")


def test_pairs_say_that_the_corpus_is_the_labelled_documents_only():
    dataset = RetrievalDataset.load(PAIRS)
    assert dataset.corpus_is_labelled_only and LABELLED_ONLY in dataset.notes
    assert not RetrievalDataset.load(beir()).corpus_is_labelled_only


def test_a_corpus_of_one_document_is_announced():
    note = "The corpus holds 1 document, so every ranking is right: there is nothing to learn or to measure."
    assert note in RetrievalDataset.load(PAIRS.assign(document="A")).notes
