"""Data as other tools write them, read without a word about their columns."""

import csv
import gzip
import io
import json
import sys

import datasets
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langsmith.schemas import Example
from sentence_transformers import InputExample

from st_adapter.data.dataset import RetrievalDataset

PAIRS = pd.DataFrame({"query": ["a?", "b?", "c?"], "document": ["A", "B", "C"], "split": ["train", "dev", "test"]})
ABC = {("a?", "A"): 1.0, ("b?", "B"): 1.0, ("c?", "C"): 1.0}


def judged(source, **options):
    """What the splits of a source say, by text."""
    dataset = RetrievalDataset.load(source, cut_into=(), **options)
    queries = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    corpus = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    rows = [row for rows in dataset.qrels.values() for row in rows]
    return {(queries[row["query_id"]], corpus[row["corpus_id"]]): row["relevance"] for row in rows}


def notes_of(source):
    return RetrievalDataset.load(source, cut_into=()).notes


def refused(source, match, error=ValueError):
    with pytest.raises(error, match=match):
        RetrievalDataset.load(source, cut_into=())


# --- files of tables ---


def write_polars(frame, path):
    polars.from_pandas(frame).write_ipc(path)


def write_stream(frame, path):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)


@pytest.mark.parametrize(
    "name,write",
    [
        ("pairs.feather", lambda frame, path: frame.to_feather(path)),
        ("pairs.arrow", write_polars),
        ("pairs.ipc", write_polars),
        ("pairs.arrow", write_stream),
    ],
    ids=["pandas feather", "polars arrow", "polars ipc", "stream"],
)
def test_arrow_files(tmp_path, name, write):
    write(PAIRS, tmp_path / name)
    dataset = RetrievalDataset.load(tmp_path / name)
    assert dataset.splits == ["train", "dev", "test"] and judged(tmp_path / name) == ABC
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / name, f"{name}' cannot be read as .+ Mend or convert the file")


def test_two_columns_of_one_name_in_arrow(tmp_path):
    table = pa.table([pa.array(["a?"]), pa.array(["A"]), pa.array(["B"])], names=["query", "document", "document"])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as written:
        written.write_table(table)
    refused(tmp_path / "x.arrow", "several columns called 'document'")


def test_a_sheet(tmp_path):
    pytest.importorskip("openpyxl")
    PAIRS.assign(note=[None, 1, None]).to_excel(tmp_path / "pairs.xlsx", index=False)
    assert judged(tmp_path / "pairs.xlsx") == ABC
    assert RetrievalDataset.load(tmp_path / "pairs.xlsx").name == "pairs.xlsx"
    PAIRS.to_excel(tmp_path / "indexed.xlsx")  # with pandas' index, whose column has no name
    assert judged(tmp_path / "indexed.xlsx") == ABC
    (tmp_path / "pairs.xlsx").write_bytes((tmp_path / "pairs.xlsx").read_bytes()[:2000])
    refused(tmp_path / "pairs.xlsx", "pairs.xlsx' cannot be read as xlsx: it is damaged, or of another kind")


def test_sheets(tmp_path):
    pytest.importorskip("openpyxl")

    def written(**sheets):
        with pd.ExcelWriter(tmp_path / "book.xlsx") as book:
            for name, frame in sheets.items():
                frame.to_excel(book, sheet_name=name, index=False)
        return tmp_path / "book.xlsx"

    of_split = {name: PAIRS[PAIRS["split"] == name][["query", "document"]] for name in ("train", "dev", "test")}
    dataset = RetrievalDataset.load(written(**of_split))
    assert dataset.num_queries == {"train": 1, "dev": 1, "test": 1}
    book = written(**of_split)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.xlsx").write_bytes(book.read_bytes())
    refused(tmp_path / "folder", "train.xlsx' holds several splits. Give its own path")
    qrels = pd.DataFrame({"query_id": [1], "corpus_id": [7], "score": [1]})
    beir = {
        "queries": pd.DataFrame({"id": [1], "text": ["a?"]}),
        "corpus": pd.DataFrame({"id": [7, 8], "text": ["A", "B"]}),
    }
    assert judged(written(**beir, qrels=qrels)) == {("a?", "A"): 1.0}
    refused(written(Table1=PAIRS, Notes=PAIRS), "sheets 'Table1', 'Notes'. Expected one, one per split")
    refused(written(Sheet=pd.concat([PAIRS, PAIRS[["query"]]], axis=1)), "several columns called 'query'")


def test_sheets_without_openpyxl(tmp_path, monkeypatch):
    (tmp_path / "pairs.xlsx").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    refused(tmp_path / "pairs.xlsx", r"need openpyxl. Run `pip install \"st-adapter\[excel\]\"`", ImportError)


# --- objects ---


def test_tables_that_speak_arrow(tmp_path):
    frame = polars.from_pandas(PAIRS)
    assert judged(frame) == judged(frame.to_arrow()) == judged({"train": frame}) == ABC
    several = frame.with_columns(document=polars.Series([["A", "X"], ["B"], ["C"]]))
    several.write_ipc(tmp_path / "pairs.arrow")
    assert judged(several) == judged(tmp_path / "pairs.arrow") == {**ABC, ("a?", "X"): 1.0}
    refused(frame.lazy(), "of type LazyFrame, but expected")


def test_lists_of_dicts():
    rows = PAIRS.to_dict("records")
    assert judged(rows) == judged(tuple(rows)) == judged({"train": rows}) == ABC
    assert judged([*rows, {"query": "d?", "document": ["D", "A"], "split": "test"}])[("d?", "A")] == 1
    refused([*rows, "x"], "list in which 'row 3' are of type str. Expected a dict with named values")
    refused([], "The data set is empty")


def test_input_examples():
    pairs = [InputExample(texts=[q, d]) for q, d in ABC]
    assert judged(pairs) == judged([InputExample(texts=[q, d], label=1) for q, d in ABC]) == ABC
    triplets = [InputExample(texts=[q, d, "N", "M"]) for q, d in ABC]
    assert judged(triplets)[("b?", "N")] == judged(triplets)[("b?", "M")] == 0
    labelled = [*pairs, InputExample(texts=["a?", "B"], label=0.0)]
    labelled = [InputExample(texts=e.texts, label=1.0 - (e.texts == ["a?", "B"])) for e in labelled]
    assert judged(labelled) == {**ABC, ("a?", "B"): 0.0}
    refused([*pairs, *triplets], "The InputExamples have 2, 4 texts. Expected as many in each")
    refused([InputExample(texts=["a?"])], "The InputExamples have 1 texts")


# --- Ragas ---

CONTEXTS = [["A, 'a'", 'two "lines"\n'], ["B"], ["C"]]
IN_CONTEXTS = {(q, c): 1.0 for (q, _), contexts in zip(ABC, CONTEXTS, strict=True) for c in contexts}
RAGAS = [
    {"user_input": q, "reference_contexts": contexts, "reference": f"It is {d}.", "synthesizer_name": "single_hop"}
    for (q, d), contexts in zip(ABC, CONTEXTS, strict=True)
]
OLD_RAGAS = [
    {
        "question": q,
        "contexts": contexts,
        "ground_truth": f"It is {d}.",
        "evolution_type": "simple",
        "metadata": [{"source": "x.md"}],
        "episode_done": True,
    }
    for (q, d), contexts in zip(ABC, CONTEXTS, strict=True)
]


# Testset.to_csv is csv.DictWriter over to_list(), to_jsonl a json.dumps a line; TestDataset had to_pandas() alone.
@pytest.mark.parametrize("rows", [RAGAS, OLD_RAGAS], ids=["new", "old"])
def test_ragas(tmp_path, rows):
    with (tmp_path / "testset.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "testset.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "testset.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        assert judged(tmp_path / f"testset.{suffix}") == IN_CONTEXTS
    assert judged(pd.DataFrame(rows)) == judged(datasets.Dataset.from_list(rows)) == IN_CONTEXTS


texts = st.text(st.sampled_from("ab \"'\\,[]\n\té"), min_size=1, max_size=6).filter(lambda text: text.strip())


@settings(max_examples=25)
@given(
    cells=st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=4),
    dump=st.sampled_from([str, json.dumps]),
)
def test_lists_in_csv_are_read_as_they_were_written(cells, dump):
    rows = pd.DataFrame({"query": [f"{n}?" for n in range(len(cells))], "contexts": [dump(cell) for cell in cells]})
    read = pd.read_csv(io.StringIO(rows.to_csv(index=False)))
    assert judged(read) == {(f"{n}?", text): 1.0 for n, cell in enumerate(cells) for text in cell}


# --- LangSmith, Langfuse, LlamaIndex ---


def langsmith_examples():
    return [
        Example(
            id=f"00000000-0000-0000-0000-00000000000{n}",
            inputs={"question": q},
            outputs={"answer": f"It is {d}.", "documents": [{"page_content": d, "metadata": {}, "type": "Document"}]},
            metadata={"dataset_split": ["base"]},
        )
        for n, (q, d) in enumerate(ABC)
    ]


def test_langsmith(tmp_path):
    lines = [example.model_dump_json() for example in langsmith_examples()]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    (tmp_path / "examples.json").write_text(f"[{','.join(lines)}]")
    pd.DataFrame(
        {side: [json.dumps(json.loads(line)[side]) for line in lines] for side in ("inputs", "outputs")}
    ).to_csv(tmp_path / "examples.csv", index=False)
    for suffix in ("jsonl", "json", "csv"):
        assert judged(tmp_path / f"examples.{suffix}") == ABC
    note = "Columns 'inputs', 'outputs' hold objects; their values were read as columns."
    assert note in notes_of(tmp_path / "examples.jsonl")
    (tmp_path / "examples.jsonl").write_text("\n".join([*lines, '{"inputs": "d?", "outputs": {"documents": ["D"]}}']))
    refused(tmp_path / "examples.jsonl", "Column 'inputs' holds objects, but not in 1 row: 'row 3'")


@pytest.mark.parametrize("spelt", ["expectedOutput", "expected_output"])
@pytest.mark.parametrize("nested", [True, False])
def test_langfuse(tmp_path, spelt, nested):
    items = [
        {
            "id": f"i{n}",
            "input": {"query": q} if nested else q,
            spelt: {"contexts": [d]} if nested else d,
            "metadata": None,
            "status": "ACTIVE",
            "datasetName": "golden",
        }
        for n, (q, d) in enumerate(ABC)
    ]
    (tmp_path / "items.json").write_text(json.dumps(items))
    (tmp_path / "answer.json").write_text(json.dumps({"data": items, "meta": {"page": 1}}))
    cells = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in item.items()} for item in items]
    pd.DataFrame(cells).to_csv(tmp_path / "items.csv", index=False)
    for name in ("items.json", "answer.json", "items.csv"):
        assert judged(tmp_path / name) == ABC
    assert judged([*items, {"id": "x", "input": '{"a": no json', spelt: "X"}] if not nested else items)[("a?", "A")]


def test_rows_beside_other_values(tmp_path):
    # LlamaIndex's LabelledRagDataset.save_json.
    rows = [
        {
            "query": q,
            "query_by": {"model_name": "", "type": "ai"},
            "reference_contexts": [d],
            "reference_answer": f"It is {d}.",
            "reference_answer_by": {"model_name": "", "type": "ai"},
        }
        for q, d in ABC
    ]
    (tmp_path / "rag_dataset.json").write_text(json.dumps({"examples": rows}))
    assert judged(tmp_path / "rag_dataset.json") == ABC


# --- SQuAD, DPR, MS MARCO ---


def squad(version="v2.0"):
    def asked(question, impossible=False):
        answers = [] if impossible else [{"text": "x", "answer_start": 0}]
        return {"question": question, "id": question, "answers": answers, "is_impossible": impossible}

    paragraphs = [
        {"context": "A", "qas": [asked("a?"), asked("none?", True)]},
        {"context": "B", "qas": [asked("b?"), asked("c?")]},
        {"context": "Nobody asks", "qas": []},
    ]
    return {"version": version, "data": [{"title": "T", "paragraphs": paragraphs}]}


def test_squad(tmp_path):
    (tmp_path / "train-v2.0.json").write_text(json.dumps(squad()))
    dataset = RetrievalDataset.load(tmp_path / "train-v2.0.json", cut_into=())
    assert judged(tmp_path / "train-v2.0.json") == {("a?", "T A"): 1, ("b?", "T B"): 1, ("c?", "T B"): 1}
    assert len(dataset.corpus) == 3 and not dataset.corpus_is_labelled_only
    assert "1 question without an answer in its paragraph left out." in dataset.notes
    broken = squad()
    del broken["data"][0]["paragraphs"][1]["qas"][0]["question"]
    (tmp_path / "x.json").write_text(json.dumps(broken))
    refused(tmp_path / "x.json", "SQuAD's form is not whole .KeyError: 'question'.*Expected data > paragraphs")


def test_flat_squad():
    rows = [
        {
            "id": q,
            "title": "T",
            "context": d,
            "question": q,
            "answers": {"text": ["x"] if d != "C" else [], "answer_start": [0] if d != "C" else []},
        }
        for q, d in ABC
    ]
    for source in (rows, datasets.Dataset.from_list(rows)):
        assert judged(source) == {("a?", "T A"): 1.0, ("b?", "T B"): 1.0}
        assert "1 question without an answer in its paragraph left out." in notes_of(source)


def test_dpr_leaves_out_questions_without_a_passage(tmp_path):
    def passages(*of):
        return [{"title": "T", "text": text, "score": 9.5, "passage_id": text} for text in of]

    rows = [
        {
            "dataset": "nq",
            "question": q,
            "answers": ["x"],
            "positive_ctxs": passages(*d) if q != "b?" else [],
            "negative_ctxs": [],
            "hard_negative_ctxs": passages("N"),
        }
        for q, d in ABC
    ]
    (tmp_path / "nq-dev.json").write_text(json.dumps(rows, indent=4))
    found = {("a?", "T A"): 1.0, ("a?", "T N"): 0.0, ("c?", "T C"): 1.0, ("c?", "T N"): 0.0}
    assert judged(tmp_path / "nq-dev.json") == found
    assert "1 query without a relevant document left out of all splits." in notes_of(tmp_path / "nq-dev.json")


def test_ms_marco_folder(tmp_path):
    (tmp_path / "collection.tsv").write_text('0\tA "quoted\n1\tB\n2\tC\n3\tNobody asks\n')
    (tmp_path / "queries.train.tsv").write_text("10\ta?\n11\tunjudged?\n")
    (tmp_path / "queries.dev.tsv").write_text("20\tb?\n21\tc?\n")
    (tmp_path / "qrels.train.tsv").write_text("10\t0\t0\t1\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("20 0 1 1\n")
    dataset = RetrievalDataset.load(tmp_path)
    assert dataset.num_queries == {"train": 1, "dev": 1} and len(dataset.corpus) == 4
    assert judged(tmp_path) == {("a?", 'A "quoted'): 1.0, ("b?", "B"): 1.0}
    (tmp_path / "collection.tsv.gz").write_bytes(gzip.compress((tmp_path / "collection.tsv").read_bytes()))
    (tmp_path / "collection.tsv").unlink()
    assert judged(tmp_path) == {("a?", 'A "quoted'): 1.0, ("b?", "B"): 1.0}
    (tmp_path / "qrels.dev.tsv").write_text("20\t0\t1\t1\n21\t0\t2\t1\n")
    (tmp_path / "top1000.dev.tsv").write_text("20\t1\tb?\tB\n")
    dataset = RetrievalDataset.load(tmp_path)
    assert dataset.num_queries == {"train": 1, "dev": 2, "dev.small": 1}
    assert "Files left unread: 'top1000.dev.tsv'." in dataset.notes
    (tmp_path / "qrels.train.tsv").write_text("10\t0\t0\n")
    refused(tmp_path, r"qrels.train.tsv' cannot be read as a file of MS MARCO: line 1 has 3 fields, but expected 4")


def test_ms_marco_triples(tmp_path):
    path = tmp_path / "triples.train.small.tsv"
    path.write_text('a?\tA\tN\nb?\tB "b\tN\n')
    assert judged(path) == {("a?", "A"): 1.0, ("a?", "N"): 0.0, ("b?", 'B "b'): 1.0, ("b?", "N"): 0.0}
    path.write_text("query\tpositive\tnegative\na?\tA\tN\n")
    assert judged(path) == {("a?", "A"): 1.0, ("a?", "N"): 0.0}
    path.write_text("a?\tA\tN\nb?\tB\n")
    refused(path, "line 2 has 2 fields, but expected 3")


def test_numpy_cells_are_no_objects_of_examples():
    frame = pd.DataFrame({"input": ["a?", "b?"], "output": [np.array(["A"]), np.array(["B"])]})
    assert judged(frame) == {("a?", "A"): 1.0, ("b?", "B"): 1.0}
