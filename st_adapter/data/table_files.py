"""Read the files that hold tables in a form of their own: parquet, Arrow and feather, Excel."""

from __future__ import annotations

import io
from collections.abc import Iterable
from zipfile import BadZipFile

import pandas as pd
import pyarrow as pa
from pyarrow.parquet import read_schema

from st_adapter.data.tables import NO_SPLIT, as_frame, usual_split
from st_adapter.words import listed

TABLE_FORMATS = (".parquet", ".arrow", ".feather", ".ipc", ".xlsx")
_ARROW_FILE = b"ARROW1"  # begins a file; a stream, as `datasets` writes it, has no mark


def read_tables(content: bytes, form: str) -> dict[str, pd.DataFrame]:
    """The tables of a file by name; a single one, whatever it is called, under `NO_SPLIT`.

    Args:
        content: The whole file.
        form: One of `TABLE_FORMATS`.

    Raises:
        ValueError: It is damaged, has two columns of one name, or sheets of which none is known to be meant.
        ImportError: Excel's files need openpyxl.
    """
    if form == ".xlsx":
        return _read_sheets(content)
    if form == ".parquet":
        _check_names(read_schema(io.BytesIO(content)).names)
        return {NO_SPLIT: pd.read_parquet(io.BytesIO(content))}
    opened = (pa.ipc.open_file if content.startswith(_ARROW_FILE) else pa.ipc.open_stream)(pa.py_buffer(content))
    _check_names(opened.schema.names)
    return {NO_SPLIT: as_frame(opened.read_all())}


def _check_names(names: Iterable[str]) -> None:
    names = list(names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"there are several columns called {listed(twice)}. Keep or rename one of each")


def _read_sheets(content: bytes) -> dict[str, pd.DataFrame]:
    """The sheets that are not empty: a single one, one per split, or queries, corpus and judgements."""
    try:
        read = pd.read_excel(
            io.BytesIO(content), sheet_name=None, header=None, dtype=object, engine="openpyxl", na_values=[""],
            keep_default_na=False,
        )  # fmt: skip
    except ImportError as error:
        raise ImportError('Excel\'s files need openpyxl. Run `pip install "st-adapter[excel]"`.') from error
    except (BadZipFile, KeyError) as error:
        raise ValueError("it is damaged, or of another kind") from error
    sheets = {str(name): _with_header(sheet) for name, sheet in read.items() if not sheet.empty}
    if len(sheets) < 2:
        return {NO_SPLIT: next(iter(sheets.values()), pd.DataFrame())}
    if {"corpus", "queries"} <= set(sheets) or all(usual_split(name) for name in sheets):
        return sheets
    raise ValueError(
        f"it has the sheets {listed(sheets)}. Expected one, one per split (train, dev, test), or corpus, queries and "
        "qrels. Save the one that is meant by itself"
    )


def _with_header(sheet: pd.DataFrame) -> pd.DataFrame:
    """A sheet whose first row names its columns; those without a name or a value are left out."""
    sheet = sheet.dropna(how="all").dropna(how="all", axis=1)
    names = [f"Unnamed: {place}" if pd.isna(name) else str(name) for place, name in enumerate(sheet.iloc[0])]
    _check_names(names)
    frame: pd.DataFrame = sheet.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    return frame
