"""Reads the columns of a csv file with Arrow; it knows no roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset


def read_csv(path: str | Path) -> dict[str, Array]:
    """All columns by name: numbers (empty cells become NaN), booleans, times (datetime64) or text.

    Raises:
        BadDataset: `empty`, `corrupt` (a row with another number of cells, not UTF-8), `duplicate_column`.
    """
    try:
        table = arrow_csv.read_csv(path, parse_options=arrow_csv.ParseOptions(delimiter=_delimiter(Path(path))))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        if "Empty CSV" in str(error):
            raise BadDataset("empty", "the csv file has no header row") from error
        raise BadDataset("corrupt", f"the csv file cannot be parsed: {error}") from error
    if table.num_rows == 0:
        raise BadDataset("empty", "the csv file has a header but no rows")
    names = [str(name) for name in table.column_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadDataset("duplicate_column", f"these columns appear more than once: {', '.join(twice)}")
    return {name: _array(name, table.column(i)) for i, name in enumerate(names)}


def _delimiter(path: Path) -> str:
    """A comma, unless the header has none but semicolons or tabs (spreadsheets in half of Europe)."""
    with path.open("rb") as file:
        header = file.readline(1 << 20)
    if b"," in header:
        return ","
    return ";" if b";" in header else "\t" if b"\t" in header else ","


def _array(name: str, column: Any) -> Array:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.to_numpy())
    if pa.types.is_boolean(kind):
        values = column.to_pylist()
        if column.null_count:
            return np.array([np.nan if value is None else float(value) for value in values])
        return np.array(values, dtype=bool)
    if pa.types.is_temporal(kind) and not pa.types.is_time(kind):
        return np.asarray(column.cast(pa.timestamp("us")).to_numpy())
    if pa.types.is_binary(kind):
        raise BadDataset("corrupt", f"the column '{name}' is not UTF-8 text")
    return np.array([_text(value) for value in column.to_pylist()], dtype=np.str_)


def _text(value: object) -> str:
    return "" if value is None else str(value)
