import csv
import gzip
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.text_files import read_delimited

cells = st.text(st.sampled_from("ab \"'\\\t\n,;é"), min_size=1, max_size=8).filter(lambda text: text.strip())


# With a tab and a line break in one field, a quoted table may be one of raw lines as well, and is read as that.
cells = cells.filter(lambda text: not ("\t" in text and "\n" in text))


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6), quoting=st.sampled_from([0, 1, 2]))
@pytest.mark.parametrize("separator", [",", "\t"])
def test_what_pandas_writes_is_read_back(separator, rows, quoting):
    written = pd.DataFrame(rows, columns=["query", "document"]).to_csv(index=False, sep=separator, quoting=quoting)
    assert read_delimited(written, separator).frame.to_numpy().tolist() == [list(row) for row in rows]


raw_cells = st.text(st.sampled_from("ab \"'\\,é"), min_size=1, max_size=8).filter(lambda text: text.strip())


@given(rows=st.lists(st.tuples(raw_cells, raw_cells), min_size=1, max_size=6))
def test_a_tsv_without_quoting_is_what_split_gives(rows):
    # One field that cannot be quoting shows that none of them is.
    rows = [('"to be" meaning', "x"), *rows]
    text = "query\tdocument\n" + "".join(f"{query}\t{document}\n" for query, document in rows)
    frame = read_delimited(text, "\t").frame
    assert frame.to_numpy().tolist() == [line.split("\t") for line in text.split("\n")[1:-1]]


def test_quotation_marks_that_open_in_one_row_and_close_in_another_are_text():
    rows = [['"open', "a"], ["b", "c"], ['close"', "d"]]
    text = "query\tdocument\n" + "".join("\t".join(row) + "\n" for row in rows)
    assert read_delimited(text, "\t").frame.to_numpy().tolist() == rows
    assert len(list(csv.reader(text.splitlines(keepends=True), delimiter="\t"))) == 2  # one row of several, by the book


@pytest.mark.parametrize(
    "text,message",
    [
        ("query,document\na,b\nc,d,e\n", "line 3 has 3 fields, but the first line names 2 columns"),
        ('query,document\n\na,"he said \\"no\\""\n', "row that starts in line 3 do not match.*escaped by backslashes"),
        ('query,document\na,b\n"c,d\n', "row that starts in line 3 do not match. A field that starts"),
        ("query\tdocument\na\tb\tc\n", "line 2 has 3 fields.*separated by tabs"),
    ],
)
def test_rows_that_do_not_fit_are_named_by_their_line(tmp_path, text, message):
    path = tmp_path / ("pairs.tsv" if "\t" in text else "pairs.csv")
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        RetrievalDataset.load(path)


def test_a_separator_at_the_end_of_lines_makes_no_column():
    for header in ("query,document", "query,document,"):
        frame = read_delimited(f"{header}\r\na,b,\r\n", ",").frame
        assert (list(frame.columns), frame.to_numpy().tolist()) == (["query", "document"], [["a", "b"]])


def test_short_rows_are_counted():
    table = read_delimited("query,document,title\na,b\nc,d,e\n", ",")
    assert table.frame["title"].tolist() == [None, "e"]
    assert table.notes == ("1 row has fewer fields than the first line, as line 2; the others count as empty.",)


PAIRS = pd.DataFrame({"query": ["a?", "b?", "c?"], "document": ["A", "B", "é"], "split": ["train", "dev", "test"]})


@pytest.mark.parametrize(
    "name,content,note",
    [
        ("a.csv", PAIRS.to_csv(index=False, sep=";").encode(), "a.csv: Fields are separated by semicolons, as"),
        ("a.csv", PAIRS.to_csv(index=False, sep="\t").encode(), "a.csv: Fields are separated by tabs, as"),
        ("a.csv", PAIRS.to_csv(index=False).encode("utf-16"), "a.csv: Read as UTF-16"),
        ("a.jsonl", PAIRS.to_json(orient="records", lines=True).encode("utf-16"), "a.jsonl: Read as UTF-16"),
        ("a.json", b"\xef\xbb\xbf" + PAIRS.to_json(orient="records").encode(), ""),
        ("a.jsonl", b"\xef\xbb\xbf" + PAIRS.to_json(orient="records", lines=True).encode(), ""),
        ("a.tsv", b"\xef\xbb\xbf" + PAIRS.to_csv(index=False, sep="\t").encode(), ""),
        ("a.tsv.gz", gzip.compress(PAIRS.to_csv(index=False, sep="\t").encode(), mtime=0), ""),
    ],
)
def test_other_separators_and_encodings(tmp_path, name, content, note):
    (tmp_path / name).write_bytes(content)
    dataset = RetrievalDataset.load(tmp_path / name)
    assert list(dataset.corpus["text"]) == ["A", "B", "é"]
    assert dataset.notes[0].startswith(note)
    assert len(dataset.notes) == 1 + bool(note)


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("a.csv", "query,document\ncafé,x\n".encode("latin-1"), r"line 2 is not utf-8 \(byte 0xe9\).*iconv"),
        ("a.csv", PAIRS.to_csv(index=False).encode("utf-16-le"), "NUL characters.*UTF-16 without a byte order mark"),
        ("a.csv.gz", b"query,document\na,b\n", "Not a gzipped file"),
        ("a.jsonl", b'{"query": "a", "query": "b", "document": "c"}', "line 1: an object has 'query' twice"),
        ("a.jsonl", b'{"query": "a", "document": "c"}\n["a", "b"]', "row 1 is a list. Expected one object"),
        ("a.jsonl", b'{"query": "a", "document": "c"}\n{"query', "line 2: "),
        ("a.json", b"3", "it holds a int"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' cannot be read as .*{message}"):
        RetrievalDataset.load(tmp_path / name)


def test_whole_numbers_stay_whole_where_some_rows_have_none(tmp_path):
    rows = [{"id": 2**60 + 1, "text": "a?"}, {"id": "x", "text": "b?"}, {"text": "c?"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="1 id missing in queries"):
        corpus = pd.DataFrame({"id": ["d"], "text": ["D"]})
        frame = pd.DataFrame(rows, dtype=object)
        RetrievalDataset.load({"queries": frame, "corpus": corpus, "qrels": {str(2**60 + 1): ["d"]}})
    frame = pd.DataFrame(rows[:2], dtype=object)
    loaded = RetrievalDataset.load(
        {"queries": frame, "corpus": corpus, "qrels": {2**60 + 1: ["d"], "x": ["d"]}}, cut_into=()
    )
    assert list(loaded.qrels["all"]["query_id"]) == [str(2**60 + 1), "x"]
