"""The csv reader: columns of a csv file, read with Arrow block by block."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from fedlas.data.arrays import ArrayFactory
from fedlas.data.columns import TABLE, Column, Columns, check_names, not_numeric, numeric, side_by_side, text_array
from fedlas.data.dataset import Array
from fedlas.data.roles import dropped, index_columns
from fedlas.errors import BadDataset

#: No line may be longer: it is parsed as a whole.
MAX_LINE_BYTES = 1 << 24
#: More would be text that only looks like a table.
MAX_COLUMNS = 1 << 16

_KINDS = (pa.int64(), pa.float64(), pa.bool_())


class CsvReader:
    """A csv file whose header has been read.

    Raises:
        BadDataset: `empty`, `corrupt` (not a table, not UTF-8), `duplicate_column`, `too_large` (too many columns).
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        with self._path.open("rb") as file:
            start = file.read(MAX_LINE_BYTES)
        if len(start) == MAX_LINE_BYTES and b"\n" not in start and b"\r" not in start:
            raise BadDataset("corrupt", f"the first line is longer than {MAX_LINE_BYTES >> 20} MiB: no csv file")
        header = re.split(rb"[\r\n]", start.lstrip(b"\r\n"), maxsplit=1)[0]
        self._separator = _separator(header)
        if (columns := header.count(self._separator.encode()) + 1) > MAX_COLUMNS:
            raise BadDataset("too_large", f"the csv file has {columns} columns, at most {MAX_COLUMNS} are read")
        self.names = _header(start, self._separator)
        check_names(self.names)
        if next(self._batches(), None) is None:
            raise _no_rows()

    def read(self, named: Collection[str], arrays: ArrayFactory) -> Columns:
        """The columns `named` as numbers (empty cells become NaN), booleans or text; all others as one table.

        Raises:
            BadDataset: `corrupt`, `empty`, `no_inputs`, `non_numeric_column`, `non_finite`.
        """
        index = [name for name in index_columns(self.names, self._counts_rows) if name not in named]
        others = [name for name in self.names if name not in named and name not in index]
        kept: dict[str, list[pa.Array]] = {name: [] for name in self.names if name in named}
        rows = 0
        with arrays.builder(TABLE, columns=others) as table:
            for batch in self._batches():
                for name in kept:
                    kept[name].append(_utf8(name, batch.column(name)))
                if others:
                    table.append(side_by_side([_cells(name, batch.column(name), rows) for name in others]))
                rows += batch.num_rows
            columns = {name: _column(name, pa.chunked_array(chunks)) for name, chunks in kept.items()}
            return Columns(
                columns, {TABLE: table.finish()} if others else {}, table=others or None, adjustments=dropped(index)
            )

    def _counts_rows(self, name: str) -> bool:
        """True where a column is 0, 1, 2, ... from the first row to the last."""
        rows = 0
        for batch in self._batches():
            numbers = _numbers(_utf8(name, batch.column(name)))
            if numbers is None or not np.array_equal(numbers, np.arange(rows, rows + len(numbers))):
                return False
            rows += len(numbers)
        return True

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Blocks of rows, every cell as it was written."""
        last = None
        with _parsing(self.names), self._path.open("rb") as file:
            checked = _Checked(file)
            for batch in self._open(checked):
                if batch.num_rows:
                    yield batch
                    last = batch.slice(batch.num_rows - 1)
        if checked.quotes % 2 and last is not None and any(b"\n" in cells[0].as_py() for cells in last.columns):
            raise BadDataset("corrupt", "the csv file cannot be parsed: a quote is never closed")

    def _open(self, file: io.RawIOBase) -> arrow_csv.CSVStreamingReader:
        stream = arrow_csv.open_csv(
            pa.PythonFile(file, mode="r"),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=MAX_LINE_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(self.names, pa.binary()), check_utf8=False, strings_can_be_null=False
            ),
        )
        if stream.schema.names != self.names:
            raise BadDataset("corrupt", "the header of the csv file cannot be parsed")
        return stream


class _Checked(io.RawIOBase):
    """Bytes on their way to the parser, which would take NUL for a letter and an open quote for a very long cell."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._place = 0
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._file.read(size)
        if (place := content.find(b"\0")) >= 0:
            raise BadDataset("corrupt", f"the csv file has a NUL byte at byte {self._place + place}: it is no text")
        self.quotes += content.count(b'"')
        self._place += len(content)
        return content


@contextmanager
def _parsing(names: Sequence[str] = ()) -> Iterator[None]:
    """Arrow's errors in our words; names with semicolons show that commas were not meant to separate them."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        message = str(error)
        if "Empty CSV" in message:
            raise _no_rows("no header row") from error
        if "straddling" in message:
            message = f"a line is longer than {MAX_LINE_BYTES >> 20} MiB, or a quote is never closed"
        if any(";" in name for name in names):
            message += ". The header has semicolons and a comma: separate all fields by one of them, decimals by points"
        raise BadDataset("corrupt", f"the csv file cannot be parsed: {message[:300]}") from error


def _no_rows(what: str = "a header but no rows") -> BadDataset:
    return BadDataset("empty", f"the csv file has {what}")


def _separator(header: bytes) -> str:
    """A comma, unless the header has none but semicolons or tabs (spreadsheets in half of Europe)."""
    if b"," in header:
        return ","
    return ";" if b";" in header else "\t" if b"\t" in header else ","


def _header(start: bytes, separator: str) -> list[str]:
    lines = io.TextIOWrapper(io.BytesIO(start), "utf-8-sig", errors="replace", newline="")
    try:
        return next(names for names in csv.reader(lines, delimiter=separator) if names)
    except StopIteration:
        raise _no_rows("no header row") from None
    except csv.Error as error:
        raise BadDataset("corrupt", f"the header of the csv file cannot be parsed: {error}") from error


def _utf8(name: str, column: Column) -> Column:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise BadDataset(
            "corrupt",
            f"the column '{name}' is not UTF-8 text, perhaps it is Latin-1 (Windows-1252): save the csv as UTF-8, "
            "for example with pandas.read_csv('data.csv', encoding='cp1252').to_csv('data.csv', index=False)",
        ) from error


def _cells(name: str, column: Column, first: int) -> Array:
    """Numbers (n,) of a block of an input column, integers where all are; `first` is the block's first row."""
    column = _utf8(name, column)
    numbers = _numbers(column)
    if numbers is None:
        row = next(row for row in range(len(column)) if _numbers(column.slice(row, 1)) is None)
        raise not_numeric("column", name, "text", column[row].as_py(), first + row)
    return numbers.astype(np.int64) if numbers.dtype.kind == "b" else numbers


def _column(name: str, column: Column) -> Array:
    """A whole column, of the narrowest type that all of its cells have; 007 is a name and no number."""
    numbers = None if pc.any(pc.match_substring_regex(column, "^ *0[0-9]+ *$")).as_py() else _numbers(column)
    return text_array(name, column) if numbers is None else numbers


def is_number(text: str) -> bool:
    """True for a cell that alone makes a column of numbers; 1_000, 007 and a full-width 1 do not."""
    return _column("", pa.array([text])).dtype.kind in "iuf"


def _numbers(texts: Column) -> Array | None:
    """Integers, floats (NaN where a cell is empty) or booleans; None where some cell is neither."""
    for attempt in (texts, None):
        if attempt is None:  # padded cells and empty ones are rare enough to look for them only now
            trimmed = pc.utf8_trim_whitespace(texts)
            attempt = pc.if_else(pc.is_in(trimmed, value_set=_missing()), pa.scalar(None, pa.string()), trimmed)
        for kind in _KINDS:
            with suppress(pa.ArrowInvalid):
                return numeric(attempt.cast(kind))
    return None


@cache
def _missing() -> pa.Array:
    """Names of empty cells of numeric columns, Arrow's and pandas'; on first use: `pa.array` may import pandas."""
    return pa.array(arrow_csv.ConvertOptions().null_values)
