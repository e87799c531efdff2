"""Vectors that came with the data: the cells of a column, or arrays in NumPy's files, as one matrix."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from st_adapter.data.cells import is_missing
from st_adapter.stores.store import Vectors
from st_adapter.words import counted, first_three, listed

NUMPY_FORMATS = (".npy", ".npz")
_IDS, _TEXTS, _EMBEDDINGS = ("ids", "id"), ("texts", "text"), ("embeddings", "embedding", "vectors", "vector")


def as_vectors(cells: Sequence[Any], labels: Sequence[str], what: str, column: str) -> Vectors:
    """The cells of a column as a matrix, one vector a row; lists that were written as text are read.

    Args:
        cells: N lists of numbers, arrays, or such lists as JSON.
        labels: N names, for messages.
        what: ``queries`` or ``documents``.
        column: where they stand.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: a cell holds no vector, one of another dimension than the others, or no finite numbers.
    """
    rows = [_vector(cell) for cell in cells]
    _refuse(
        [label for label, row in zip(labels, rows, strict=True) if row is None],
        f"{what} hold no vector in column {column!r}",
        "one list of numbers in each row. Fill them in, or leave the column out with ignore_columns (--ignore-columns)",
    )
    found = [row for row in rows if row is not None]
    dimensions = np.array([len(row) for row in found])
    usual = int(np.bincount(dimensions).argmax())
    _refuse(
        [f"{labels[number]} ({dimensions[number]})" for number in np.flatnonzero(dimensions != usual).tolist()],
        f"{what} have a vector in column {column!r} whose dimension is not the {usual} of the others",
        "vectors of one model. Embed these again",
    )
    matrix = np.stack(found)
    _refuse(
        [labels[number] for number in np.flatnonzero(~np.isfinite(matrix).all(axis=1)).tolist()],
        f"{what} have NaN or infinite numbers in the vectors of column {column!r}",
        "finite numbers. Embed these again",
    )
    return matrix


def _vector(cell: Any) -> Vectors | None:
    """One vector; None if the cell holds none."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            return None
    if isinstance(cell, float) or is_missing(cell) or np.ma.is_masked(cell):
        return None
    try:
        vector = np.asarray(cell, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return vector if vector.ndim == 1 and len(vector) else None


def _refuse(bad: Sequence[str], problem: str, expected: str) -> None:
    if bad:
        raise ValueError(f"{len(bad):,} {problem}: {first_three(bad)}. Expected {expected}.")


def in_row_order(ids: Iterable[Any]) -> Sequence[Any]:
    """Ids in the order of the rows of their vectors: as they are, or as a list.

    Raises:
        ValueError: they have no order.
    """
    if isinstance(ids, set | frozenset | str) or not isinstance(ids, Iterable):
        name = type(ids).__name__
        raise ValueError(
            f"The ids are {'an' if name[0] in 'aeiou' else 'a'} {name}, but which vector is whose only their order "
            "tells. Pass a list of ids, in the order of the vectors."
        )
    if isinstance(ids, Sequence):
        return ids
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)


def table_of_arrays(ids: Iterable[Any], embeddings: Any, texts: Sequence[Any] | None = None) -> pd.DataFrame:
    """A table of ids, vectors and, if there are any, texts.

    Args:
        ids: N ids, in the order of their vectors.
        embeddings: (N, D) numbers, of NumPy or PyTorch, or N rows of them, such as a column of a frame.
        texts: N texts.

    Raises:
        ValueError: the ids have no order, there is not one vector, or not one text, for each id, or a number is masked.
    """
    ids, matrix = in_row_order(ids), _matrix(embeddings)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or len(matrix) != len(ids):
        raise ValueError(
            f"The vectors are an array of the shape {matrix.shape} and the type {matrix.dtype}, but there are "
            f"{counted(len(ids), 'id')}. Expected one row of numbers per id."
        )
    if texts is not None and len(texts) != len(ids):
        raise ValueError(f"There are {counted(len(texts), 'text')} for {counted(len(ids), 'id')}. Expected one each.")
    columns = {"id": list(ids), "embedding": list(matrix.astype(np.float32, copy=False))}
    table: pd.DataFrame = pd.DataFrame({**columns, **({} if texts is None else {"text": list(texts)})})
    return table


def _matrix(embeddings: Any) -> np.ndarray[Any, Any]:
    """What should be a matrix, as an array."""
    if hasattr(embeddings, "detach"):  # a tensor, wherever it lies; half precisions that NumPy lacks included
        return np.asarray(embeddings.detach().float().cpu().numpy())
    if isinstance(embeddings, Iterable) and not hasattr(embeddings, "__array__"):
        embeddings = list(embeddings)
    may_be_masked = isinstance(embeddings, list | pd.Series | np.ma.MaskedArray)
    masked = [row for row, each in enumerate(embeddings) if np.ma.is_masked(each)] if may_be_masked else []
    if masked:
        raise ValueError(
            f"The vectors have masked numbers in {counted(len(masked), 'row')}, the first: {masked[:3]}. Leave these "
            "rows and their ids out, or embed them again."
        )
    try:
        matrix = np.asarray(embeddings)
        return np.stack(list(matrix)) if matrix.dtype == object and matrix.ndim == 1 else matrix
    except ValueError as error:
        raise ValueError(
            f"The vectors do not make a matrix ({error}), but rows of one length are expected. Embed all with one "
            "model."
        ) from None


def read_numpy(path: Path, content: bytes) -> pd.DataFrame:
    """Read the vectors of an ``npz`` file with their ids, or of an ``npy`` file whose ids lie beside it.

    The ids of ``x.npy`` are the lines of ``x.ids.txt``, the list in ``x.ids.json``, or the array in ``x.ids.npy``.

    Raises:
        ValueError: ids or vectors are missing, or are no plain arrays (pickles are not opened).
    """
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        if path.suffix == ".npy":
            return table_of_arrays(_ids_beside(path), arrays)
        named: Mapping[str, Any] = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it is no whole file of NumPy ({error})") from error
    ids, texts, vectors = (next((n for n in names if n in named), None) for names in (_IDS, _TEXTS, _EMBEDDINGS))
    if ids is None or vectors is None:
        raise ValueError(f"it holds the arrays {listed(named)}. Expected 'ids' and 'embeddings', and 'texts' if any")
    return table_of_arrays(
        named[ids].tolist(), named[vectors], None if texts is None else [str(text) for text in named[texts].tolist()]
    )


def is_list_of_ids(path: Path) -> bool:
    """Whether a file holds the ids of the vectors beside it."""
    return len(path.suffixes) > 1 and path.suffixes[-2] == ".ids"


def _ids_beside(path: Path) -> list[Any]:
    lines, array, listing = (path.with_name(f"{path.stem}.ids{suffix}") for suffix in (".txt", ".npy", ".json"))
    if lines.is_file():
        return lines.read_text(encoding="utf-8").splitlines()
    if array.is_file():
        ids: list[Any] = np.load(array, allow_pickle=False).tolist()
        return ids
    if listing.is_file():
        content = json.loads(listing.read_text(encoding="utf-8"))
        if isinstance(content, list):
            return content
    raise ValueError(f"its ids are not beside it. Put them into {lines.name}, one a line, or {array.name}")
