"""The writers of whole results: files of them one after the other, as text or one Parquet file, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic_core import to_json

from service.inference.writers.table import WRITTEN, json_objects

#: Rows that are written at once: at most so many, and so many bytes. With `top_k` of a thousand classes 1,024 rows have
#: 60 MB, with all probabilities of 65,536 classes they would have 2 GB.
_ROWS = 1 << 10
_BATCH_BYTES = 1 << 24
#: How a text begins that spreadsheets would run: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

Writer = Callable[[Iterable[pq.ParquetFile]], Iterator[bytes]]


def ndjson(files: Iterable[pq.ParquetFile]) -> Iterator[bytes]:
    """One JSON object a line, the same as in a page; closes the files, one after the other."""
    for batch in _batches(files):
        yield b"".join(to_json(row, inf_nan_mode="null") + b"\n" for row in json_objects(batch))


def csv(files: Iterable[pq.ParquetFile]) -> Iterator[bytes]:
    """A line of names and one for each row; what has parts (`top_k`, `prediction_set`, `error`) is JSON in its cell.

    A text that is a formula for a spreadsheet has an apostrophe in front.
    """
    for number, batch in enumerate(_batches(files)):
        buffer = BytesIO()
        table = pa.table([_cells(column) for column in batch.columns], names=batch.schema.names)
        pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(include_header=number == 0))
        yield buffer.getvalue()


def parquet(files: Iterable[pq.ParquetFile]) -> Iterator[bytes]:
    """One Parquet file of all groups, each written as it is read; closes the files, one after the other."""
    pieces, writer = _Pieces(), None
    for file in files:
        with file:
            writer = writer or pq.ParquetWriter(pieces, file.schema_arrow, **WRITTEN)
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group, use_threads=False))
                yield pieces.take()
    if writer is not None:
        writer.close()
    yield pieces.take()


class _Pieces:
    """A file that Arrow writes and nobody reads back: what was written is taken away."""

    closed = False

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._taken = 0

    def write(self, content: bytes) -> int:
        """Append; Arrow is told how many bytes it gave."""
        self._waiting += content
        return len(content)

    def tell(self) -> int:
        """The place in the whole file."""
        return self._taken + len(self._waiting)

    def flush(self) -> None:
        """Do nothing: Arrow asks for it."""

    def take(self) -> bytes:
        """The bytes since the last time."""
        piece, self._waiting = bytes(self._waiting), bytearray()
        self._taken += len(piece)
        return piece


def _batches(files: Iterable[pq.ParquetFile]) -> Iterator[pa.RecordBatch]:
    for file in files:
        with file:
            group = file.metadata.row_group(0)
            most = _BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)
            yield from file.iter_batches(min(_ROWS, max(1, most)), use_threads=False)


def _cells(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        # In Python: to import Arrow's functions takes 8 MiB of a process that needs none of them.
        return pa.array(
            [f"'{text}" if text and text.startswith(_FORMULA) else text for text in column.to_pylist()], pa.string()
        )
    if not pa.types.is_nested(column.type):
        return column
    return pa.array([None if cell is None else to_json(cell).decode() for cell in column.to_pylist()], pa.string())
