"""Tables of batch results: written as columns to a Parquet file, read by pages or whole, in constant memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic_core import to_json

from service.predict.engine.profile import Outputs
from service.predict.formats.predictions import DecisionPolicy, Predictions

_NAMES = ("row", "id")
_RANKED = ["label", "index", "confidence"]
_ERROR = pa.struct({"code": pa.string(), "message": pa.string()})
#: Rows of a group, which a page is read from and a writer holds. Of 10 million rows with `top_k` any page takes 12 ms,
#: 4 of them for the list of the groups; twice as large it would be 20, and half as large no less.
GROUP_ROWS = 1 << 15
_GROUP_BYTES = 1 << 25
#: Metadata of a file whose lists are in the order of these names, which are JSON.
CLASS_NAMES = b"class_names"
#: Probabilities of more classes are written where they are asked for: a million rows of a thousand are 4 GB.
MAX_DEFAULT_CLASSES = 100
#: Columns that repeat a few values; to look for repetitions among confidences takes longer than all the rest.
_REPEATED = ["label", "index", "decision", "prediction_set.list.element"]
_REPEATED += ["top_k.list.element.label", "top_k.list.element.index", "error.code", "error.message"]
#: Every page has a checksum, by which readers notice that it is damaged.
WRITTEN = {"compression": "zstd", "use_dictionary": _REPEATED, "write_page_checksum": True}


class RowError(Protocol):
    code: str
    message: str


class TableWriter:
    """Lays out any number of blocks of rows under one policy."""

    def __init__(self, policy: DecisionPolicy) -> None:
        self._policy = policy
        self._names = pa.array(list(policy.profile.class_names), pa.string())
        asked = policy.options.probabilities
        self._has_probabilities = len(self._names) <= MAX_DEFAULT_CLASSES if asked is None else asked

    def table(self, outputs: Outputs, *, first_row: int = 0) -> pa.Table:
        """The fields of JSON rows as columns: numbers as doubles, `index` as integers.

        Args:
            outputs: as for `Predictions`; without any there are no rows.
            first_row: the number of the first of these rows, for errors.

        Raises:
            InvalidRequest: as `Predictions`, with the number of the row.
        """
        predictions = Predictions(outputs or self._nothing(), self._policy, first_row=first_row)
        columns = {
            "label": self._labels(predictions.index),
            "index": _integers(predictions.index),
            "confidence": _doubles(predictions.confidence),
            "uncalibrated_confidence": _doubles(predictions.uncalibrated_confidence),
            "abstain": pa.array(predictions.abstain),
        }
        if (probability := predictions.probability) is not None:
            columns["probability"] = _doubles(probability)
        if (typicality := predictions.typicality) is not None:
            columns["typicality"] = _doubles(typicality)
        if self._policy.options.top_k is not None:
            columns["top_k"] = self._top_k(predictions)
        if self._policy.options.coverage is not None:
            classes, sizes = self._policy.sets(predictions.probabilities)
            columns["prediction_set"] = pa.ListArray.from_arrays(_offsets(sizes), self._labels(classes))
        if (decision := predictions.decision) is not None:
            columns["decision"] = self._labels(decision)
        if self._has_probabilities:
            columns["probabilities"] = lists(predictions.probabilities)
        return pa.table(columns)

    def _nothing(self) -> Outputs:
        scores, numbers = np.empty((0, len(self._names)), np.float32), np.empty(0, np.float32)
        outputs = {"logits": scores, "probabilities": scores, "confidence": numbers}
        return outputs | ({"typicality": numbers} if self._policy.profile.typicality else {})

    def _labels(self, index: np.ndarray) -> pa.Array:
        return self._names.take(_integers(index))

    def _top_k(self, predictions: Predictions) -> pa.Array:
        best = predictions.best.reshape(-1)
        columns = [self._labels(best), _integers(best), _doubles(predictions.best_confidence.reshape(-1))]
        ranked = pa.StructArray.from_arrays(columns, _RANKED)
        return pa.ListArray.from_arrays(_offsets(np.full(len(predictions.best), predictions.best.shape[1])), ranked)


def lists(probs: np.ndarray) -> pa.Array:
    """(N, K) as one list in each row, of single precision: their digits are all that the model computes."""
    ends = plain(np.arange(len(probs) + 1, dtype=np.int32) * np.int32(probs.shape[1]))
    return pa.ListArray.from_arrays(ends, plain(np.ascontiguousarray(probs, dtype=np.float32).reshape(-1)))


def plain(values: np.ndarray) -> pa.Array:
    """Numbers without gaps as they lie in memory; `pyarrow.array` would import pandas, half a second of a job."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _doubles(values: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype=np.float64))


def _integers(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.int32))


def _offsets(sizes: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))


def numbered(
    answers: pa.Table,
    first_row: int,
    count: int,
    *,
    ids: np.ndarray | None = None,
    errors: Mapping[int, RowError] | None = None,
) -> pa.Table:
    """Neighbouring rows with their number (`row`), the owner's name of them (`id`), and their answer or error.

    Args:
        answers: of those rows that have no error, in their order.
        errors: by the number of the row; None leaves out the column `error`.
    """
    numbers = np.arange(first_row, first_row + count, dtype=np.int64)
    before = {"row": pa.array(numbers)} | ({} if ids is None else {"id": pa.array(ids, from_pandas=True)})
    if errors:
        failed = np.isin(numbers, list(errors))
        answers = answers.take(pa.array(np.cumsum(~failed) - 1, mask=failed))
    after = {}
    if errors is not None:
        cells = [errors.get(number) for number in numbers.tolist()] if errors else [None] * count
        after["error"] = pa.array([error and {"code": error.code, "message": error.message} for error in cells], _ERROR)
    return pa.table({**before, **dict(zip(answers.column_names, answers.columns, strict=True)), **after})


def write_results(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write a batch's tables, at least one, in groups of some `GROUP_ROWS` rows; returns how many rows they are.

    Where the tables end with an error no file stays.
    """
    groups = _groups(tables)
    first = next(groups)
    count = 0
    try:
        with pq.ParquetWriter(path, first.schema, **WRITTEN) as writer:
            for group in chain([first], groups):
                writer.write_table(group, row_group_size=group.num_rows)
                count += group.num_rows
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = size = 0
    for part in tables:
        waiting.append(part)
        rows, size = rows + part.num_rows, size + part.nbytes
        if rows >= GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def read_page(path: Path, *, start: int, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return at most `limit` rows from row `start` on, and whether more follow; reads only the groups it needs.

    Raises OSError for pages whose checksum is another.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        ends = list(accumulate(group.num_rows for group in groups)) or [0]
        stop = min(start + limit, ends[-1])
        if start >= stop:
            return [], False
        first, last = bisect_right(ends, start), bisect_left(ends, stop)
        table = file.read_row_groups(list(range(first, last + 1)), use_threads=False)
        return json_objects(table.slice(start - (ends[first - 1] if first else 0), stop - start)), stop < ends[-1]


def json_objects(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = rows.to_pylist()
    for number, row in enumerate(objects):
        if (error := row.pop("error", None)) is not None:
            objects[number] = {**{name: row[name] for name in _NAMES if name in row}, "error": error}
    return objects


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


class _Pieces(BytesIO):
    """A file that Arrow writes and nobody reads back: what was written is taken away."""

    _taken = 0

    def tell(self) -> int:
        return self._taken + super().tell()

    def take(self) -> bytes:
        piece = self.getvalue()
        self._taken += len(piece)
        self.seek(0)
        self.truncate()
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
