"""Read MS MARCO's files, which name no columns: a folder of collection, queries and qrels, or a file of triples.

Craswell et al. 2021, "MS MARCO: Benchmarking ranking models in the large-data regime"; https://microsoft.github.io/msmarco
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from st_adapter.data.tables import Tables, usual_split
from st_adapter.data.text_files import decoded
from st_adapter.words import listed

_PARTS = ("collection", "queries", "qrels")
_TRIPLES = ("query", "positive", "negative")
_JUDGED = ("query_id", "iteration", "corpus_id", "score")  # TREC's four fields


def is_ms_marco(files: Mapping[str, Sequence[Path]]) -> bool:
    """Whether the files of a folder, by their stems, are MS MARCO's: collection.tsv, queries.*.tsv and qrels.*.tsv."""
    return set(_PARTS) <= set(files) and all(".tsv" in path.suffixes for part in _PARTS for path in files[part])


def read_ms_marco(folder: Path, files: Mapping[str, Sequence[Path]]) -> Tables:
    """Read collection.tsv (id, passage), queries.SPLIT.tsv (id, query) and qrels.SPLIT.tsv (query, 0, passage, grade).

    Args:
        folder: where they lie.
        files: all readable files of the folder by stem; .gz is read as well.

    Raises:
        ValueError: a line has more or fewer fields, or a file is damaged.
    """
    texts = {}
    for name, part in (("queries", "queries"), ("corpus", "collection")):
        rows = [row for path in files[part] for row in _rows(path, ("id", "text"))]
        texts[name] = pd.DataFrame(rows, columns=["id", "text"], dtype=object)
    named = [".".join(path.name.removesuffix(".gz").split(".")[1:-1]) for path in files["qrels"]]
    firsts = Counter(usual_split(name.split(".")[0]) for name in named)
    qrels = {}
    for name, path in zip(named, files["qrels"], strict=True):
        # dev.small is the dev split, unless the whole of it lies there too.
        first = usual_split(name.split(".")[0])
        judged = pd.DataFrame(_rows(path, _JUDGED), columns=list(_JUDGED), dtype=object)
        qrels[first if first is not None and firsts[first] < 2 else name] = judged.drop(columns="iteration")
    unread = sorted(path.name for stem, paths in files.items() if stem not in _PARTS for path in paths)
    notes = ["Read as MS MARCO's files, whose columns have no names."]
    notes += [f"Files left unread: {listed(unread)}."] if unread else []
    return Tables(qrels, texts, folder.name, tuple(notes))


def read_triples(path: Path, text: str) -> pd.DataFrame | None:
    """The rows of triples.*.tsv, which are query, relevant passage and passage that is not relevant.

    Returns:
        A table; None if the file is called otherwise, or names its columns.

    Raises:
        ValueError: a line has more or fewer fields.
    """
    if path.name.split(".")[0] != "triples":
        return None
    rows = _fields(text, _TRIPLES)
    named = bool(rows) and rows[0][0].strip().casefold() in ("query", "anchor", "question", "qid")
    return None if named else pd.DataFrame(rows, columns=list(_TRIPLES), dtype=object)


def _rows(path: Path, names: Sequence[str]) -> list[list[str]]:
    try:
        content = path.read_bytes()
        text, _ = decoded(gzip.decompress(content) if path.suffix.lower() == ".gz" else content)
        return _fields(text, names)
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a file of MS MARCO: {error}. Mend the file.") from error


def _fields(text: str, names: Sequence[str]) -> list[list[str]]:
    """The fields of each line; there is no quoting. Qrels may have spaces for tabs, as TREC has them."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        fields = line.split() if names == _JUDGED else line.split("\t")
        if len(fields) != len(names):
            raise ValueError(
                f"line {number} has {len(fields)} fields, but expected {len(names)}, separated by tabs and without a "
                f"line of names: {', '.join(names)}"
            )
        rows.append(fields)
    return rows
