"""A batch's answers as columns: tables of any rows, and their Parquet file, written in groups and read by pages.

What the columns mean is said in `answers` and `acting`; here they are only laid out without an object per row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.inference.decision_policy import acting, positive_index
from service.inference.predictions import AnswerOptions, abstention_threshold, best_classes, check_finite, familiarity
from service.inference.standard_outputs import Outputs, completed

_RANKED = ["label", "index", "confidence"]
#: What a page is read from and a writer holds. Of 10 million rows with `top_k` any page takes 12 ms, 4 of them for the
#: list of the groups; twice as large it would be 20, and half as large no less.
GROUP_ROWS = 1 << 15
_GROUP_BYTES = 1 << 25
#: Columns that repeat a few values; to look for repetitions among confidences takes longer than all the rest.
_REPEATED = (
    "label", "index", "decision", "prediction_set.list.element", "top_k.list.element.label", "top_k.list.element.index",
)  # fmt: skip


class TableWriter:
    """A model's profile and a client's wishes, checked once, for any number of blocks of rows.

    Raises:
        InvalidRequest: the model cannot keep what is wished for.
    """

    def __init__(self, profile: Mapping[str, Any], options: AnswerOptions) -> None:
        self._options = options
        self._wishes = acting(
            profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision
        )
        self._threshold = abstention_threshold(options, self._wishes)
        self._positive = positive_index(profile) if profile.get("task") == "binary" else None
        self._names = pa.array(list(profile["class_names"]), pa.string())

    def table(self, outputs: Mapping[str, np.ndarray], *, first_row: int | None) -> pa.Table:
        """What `answers.answer` gives, as columns of the same names: numbers as doubles, `index` and `row` as integers.

        Args:
            outputs: logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,) and, where the
                file has it, familiarity (N,).
            first_row: of these rows, for a column `row` (and for errors); None leaves it out.

        Raises:
            InvalidRequest: as `answers.answer`, with the number of the row.
        """
        known: Outputs = dict(outputs)
        known = known if "index" in known else completed(known)
        check_finite(known, first_row=first_row or 0)
        probs, confidence, index = known["probabilities"], _doubles(known["confidence"]), _integers(known["index"])
        columns: dict[str, pa.Array] = {}
        if first_row is not None:
            columns["row"] = pa.array(np.arange(first_row, first_row + len(index), dtype=np.int64))
        columns |= {
            "label": self._names.take(index),
            "index": index,
            "confidence": confidence,
            "uncalibrated_confidence": _doubles(known["uncalibrated_confidence"]),
            # As doubles: numpy would round the threshold to the confidences' type.
            "abstain": pa.array(confidence.to_numpy() < self._threshold),
        }
        if self._positive is not None:
            columns["probability"] = _doubles(probs[:, self._positive])
        if "familiarity" in known:
            columns["familiarity"] = _doubles(familiarity(known))
        if self._options.top_k is not None:
            columns["top_k"] = self._top_k(probs, self._options.top_k)
        if self._options.coverage is not None:
            columns["prediction_set"] = self._prediction_sets(probs)
        if (decided := self._wishes.decided(probs)) is not None:
            columns["decision"] = self._names.take(_integers(decided))
        return pa.table(columns)

    def _top_k(self, probs: np.ndarray, k: int) -> pa.Array:
        best = best_classes(probs, k)
        index = _integers(best.reshape(-1))
        confidence = _doubles(np.take_along_axis(probs, best, axis=1).reshape(-1))
        ranked = pa.StructArray.from_arrays([self._names.take(index), index, confidence], _RANKED)
        return pa.ListArray.from_arrays(_offsets(np.full(len(best), best.shape[1])), ranked)

    def _prediction_sets(self, probs: np.ndarray) -> pa.Array:
        classes, sizes = self._wishes.sets(probs)
        return pa.ListArray.from_arrays(_offsets(sizes), self._names.take(_integers(classes)))


def _doubles(values: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype=np.float64))


def _integers(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.int32))


def _offsets(sizes: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))


def write_results(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write a batch's tables, at least one, in groups of some `GROUP_ROWS` rows; returns how many rows they are.

    Where the tables end with an error no file stays.
    """
    groups = _groups(tables)
    first = next(groups)
    count = 0
    try:
        with pq.ParquetWriter(path, first.schema, compression="zstd", use_dictionary=list(_REPEATED)) as writer:
            for group in chain([first], groups):
                writer.write_table(group, row_group_size=group.num_rows)
                count += group.num_rows
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Neighbouring tables put together."""
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
    """Return at most `limit` rows from row `start` on, and whether more follow; reads only the groups it needs."""
    with pq.ParquetFile(path) as file:
        ends = _ends(file.metadata)
        stop = min(start + limit, ends[-1])
        if start >= stop:
            return [], False
        first, last = bisect_right(ends, start), bisect_left(ends, stop)
        found = file.read_row_groups(list(range(first, last + 1)), use_threads=False)
        before = ends[first - 1] if first else 0
        return found.slice(start - before, stop - start).to_pylist(), stop < ends[-1]


def _ends(metadata: pq.FileMetaData) -> Sequence[int]:
    """How many rows there are up to the end of each group."""
    return list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))) or [0]
