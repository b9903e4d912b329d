"""The parquet reader: columns of a parquet file, some rows at a time.

List columns become inputs under their own names, numeric columns together one input; ragged lists need a number that
fills them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedlas.data.arrays import MAX_BYTES, NO_ROOM, PIECE_BYTES, ArrayFactory
from fedlas.data.columns import (
    TABLE,
    Columns,
    check_names,
    is_numeric,
    is_tensor,
    longest,
    not_numeric,
    numeric,
    side_by_side,
    single_values,
    stored,
    stored_type,
    tensor,
)
from fedlas.data.dataset import Array
from fedlas.data.roles import described_index, dropped, index_columns
from fedlas.errors import BadDataset

#: The description of the columns stands at the end of the file and is read as a whole.
MAX_FOOTER_BYTES = 1 << 26
#: Columns and row groups: every pair is an object in memory.
MAX_CHUNKS = 1 << 20
_MAX_BATCH_ROWS = 1 << 16
_MAX_DEPTH = 32


class ParquetReader:
    """A parquet file whose footer has been read.

    Args:
        padding: list column -> the number that fills its rows to the length of the longest.

    Raises:
        BadDataset: `corrupt`, `encrypted`, `too_large`, `empty`, `duplicate_column`, `bad_padding`.
    """

    def __init__(self, path: str | Path, *, padding: Mapping[str, float] | None = None) -> None:
        _check_footer(Path(path))
        with _decoding():
            self._file = pq.ParquetFile(
                path,
                buffer_size=1 << 20,
                pre_buffer=False,
                thrift_string_size_limit=MAX_FOOTER_BYTES,
                thrift_container_size_limit=MAX_CHUNKS,
                schema_depth_limit=_MAX_DEPTH,
            )
            self._schema = self._file.schema_arrow
            self._metadata = self._file.metadata
        self.names = [str(name) for name in self._schema.names]
        self._padding = dict(padding or {})
        self._check_schema()

    def read(self, named: Collection[str], arrays: ArrayFactory) -> Columns:
        """The columns `named` with one value per row, and all others as inputs.

        Raises:
            BadDataset: `corrupt`, `no_inputs`, `non_numeric_column`, `unsupported_dtype`, `bad_role`, `ragged`,
                `non_finite`, `too_large`.
        """
        metadata = (self._schema.metadata or {}).get(b"pandas")
        index = index_columns(self.names, self._counts_rows, described=described_index(metadata))
        index = [name for name in index if name not in named]
        inputs, table = self._inputs([name for name in self.names if name not in named and name not in index], arrays)
        columns = {name: self._named(name) for name in self.names if name in named}
        for name, array in (*inputs.items(), *columns.items()):
            if len(array) != self._metadata.num_rows:
                raise BadDataset(
                    "corrupt", f"'{name}' has {len(array)} rows, but the file claims {self._metadata.num_rows}"
                )
        return Columns(columns, inputs, table=table, adjustments=dropped(index))

    def _counts_rows(self, name: str) -> bool:
        """True where a column is 0, 1, 2, ... from the first row to the last."""
        if not is_numeric(stored_type(self._kind(name))):
            return False
        rows = 0
        for batch in self._batches([name]):
            if not np.array_equal(numeric(stored(batch.column(name))), np.arange(rows, rows + batch.num_rows)):
                return False
            rows += batch.num_rows
        return True

    def _check_schema(self) -> None:
        check_names(self.names)
        if self._metadata.num_row_groups * self._metadata.num_columns > MAX_CHUNKS:
            raise BadDataset(
                "too_large",
                f"the file has {self._metadata.num_row_groups} row groups of {self._metadata.num_columns} columns; "
                "write fewer and larger row groups",
            )
        if self._metadata.num_rows <= 0:
            raise BadDataset("empty", "the parquet file has no rows")
        lists = [name for name in self.names if is_tensor(self._kind(name))]
        if unknown := [name for name in self._padding if name not in lists]:
            raise BadDataset(
                "bad_padding",
                f"padding names '{unknown[0]}', but the list columns are {', '.join(lists[:50]) or 'none'}",
            )

    def _kind(self, name: str) -> pa.DataType:
        return self._schema.field(name).type

    def _inputs(self, names: list[str], arrays: ArrayFactory) -> tuple[dict[str, Array], list[str] | None]:
        lists = [name for name in names if is_tensor(self._kind(name))]
        numbers = [name for name in names if name not in lists]
        for name in numbers:
            if not is_numeric(stored_type(self._kind(name))):
                raise self._refused(name)
        inputs = {name: self._tensor(name, arrays) for name in lists}
        if numbers:
            name = TABLE
            while name in lists:
                name += "_"
            inputs[name] = self._table(name, numbers, arrays)
        return inputs, numbers or None

    def _refused(self, name: str) -> BadDataset:
        kind = self._kind(name)
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return BadDataset(
                "unsupported_dtype",
                f"the column '{name}' is {str(kind)[:100]}; numbers or lists of numbers are needed"
                + ("; images are read from a zip of class folders" if "binary" in str(kind) else ""),
            )
        first = next(iter(self._batches([name], rows=1)), None)
        value = first.column(name)[0].as_py() if first is not None else None
        return not_numeric("column", name, "text" if "string" in str(kind) else str(kind), value, 0)

    def _table(self, name: str, columns: list[str], arrays: ArrayFactory) -> Array:
        with arrays.builder(name, columns=columns) as table:
            for batch in self._batches(columns):
                table.append(side_by_side([numeric(stored(batch.column(column))) for column in columns]))
            return table.finish()

    def _tensor(self, name: str, arrays: ArrayFactory) -> Array:
        fill = self._padding.get(name)
        width = None if fill is None else self._width(name)
        with arrays.builder(name) as array:
            for batch in self._batches([name]):
                array.append(tensor(name, batch.column(name), first=len(array), width=width, fill=fill))
            return array.finish()

    def _width(self, name: str) -> int:
        """The longest list of a ragged column, for which its rows are decoded once more."""
        width = max((longest(batch.column(name)) for batch in self._batches([name])), default=0)
        if width * self._metadata.num_rows > MAX_BYTES:
            raise BadDataset("too_large", f"'{name}' padded to its longest row of {width} has more than 64 GiB")
        return width

    def _named(self, name: str) -> Array:
        if is_tensor(self._kind(name)):
            raise BadDataset("bad_role", f"'{name}' is a list column; a role needs one value per row")
        with _decoding():
            chunks = [batch.column(name) for batch in self._batches([name])]
            return single_values(name, pa.chunked_array(chunks, self._kind(name)))

    def _batches(self, names: list[str], *, rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of rows that hold about `PIECE_BYTES`, as far as the footer tells the truth."""
        with _decoding():
            yield from self._file.iter_batches(rows or self._batch_rows(names), columns=names, use_threads=False)

    def _batch_rows(self, names: list[str]) -> int:
        values = sum(
            self._metadata.row_group(group).column(index).num_values
            for group in range(self._metadata.num_row_groups)
            for index in self._leaves(names)
        )
        return max(1, min(_MAX_BATCH_ROWS, int(PIECE_BYTES * self._metadata.num_rows // max(1, 8 * values))))

    def _leaves(self, names: list[str]) -> list[int]:
        """The physical columns that hold these columns: a nested one has one for each of its leaves, in order."""
        leaves: list[int] = []
        first = 0
        for field in self._schema:
            count = _leaf_count(field.type)
            leaves += range(first, first + count) if field.name in names else ()
            first += count
        return leaves


def _leaf_count(kind: pa.DataType) -> int:
    kind = stored_type(kind)
    children = range(kind.num_fields)
    return sum(_leaf_count(kind.field(i).type) for i in children) if children else 1


def _check_footer(path: Path) -> None:
    """The file's two magic words and the size of its footer, before anything is allocated for it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        end = file.read(8)
    if end[4:] == b"PARE":
        raise BadDataset("encrypted", "the parquet file is encrypted; send it without")
    if size < 12 or end[4:] != b"PAR1":
        raise BadDataset("corrupt", "the parquet file has no footer: it is truncated, or was not closed when written")
    footer = int.from_bytes(end[:4], "little")
    if footer > size - 12:
        raise BadDataset("corrupt", f"the parquet file claims a footer of {footer} bytes, but has {size} in all")
    if footer > MAX_FOOTER_BYTES:
        raise BadDataset("too_large", f"the parquet footer has {footer >> 20} MiB; write fewer row groups or columns")


@contextmanager
def _decoding() -> Iterator[None]:
    """Arrow's errors in our words; what it says of memory passes."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in NO_ROOM:
            raise
        word = "encrypted" if "ncrypted" in str(error) or "decrypt" in str(error).lower() else "corrupt"
        raise BadDataset(word, f"the parquet file cannot be read: {str(error)[:300]}") from error
