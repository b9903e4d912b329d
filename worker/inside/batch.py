"""Batch predictions, inside the sandbox: the served copy over rows of a prepared dataset, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from fedlas.contract.events import Progress
from fedlas.contract.options import AnswerOptions
from fedlas.errors import Mismatch
from fedlas.preprocessing import usable_cores
from service.predict.engine.profile import MODEL_OUTPUTS, Outputs, ServingProfile, completed
from service.predict.engine.session import REFUSALS, former_names, open_session, refusal
from service.predict.formats.predictions import DecisionPolicy, no_confidence
from service.predict.formats.result_tables import TableWriter, numbered, write_results
from service.registry.errors import InvalidRequest
from worker.documents import (
    BatchOrder,
    BatchResult,
    ChildEvent,
    PredictedPart,
    PredictionOrder,
    SavedCheckpoint,
    ShardOrder,
    ShardsResult,
)
from worker.inside.batch_rows import AlignedRows, Errors, ModelRows, by_halves, unlisted
from worker.inside.channel import Ask, Emit, Files

T = TypeVar("T")

_TELL_EVERY_S = 1.0
#: Where a child leaves what is kept before it ends.
PARTS = "journal"


def predict(order: BatchOrder, files: Files, folder: Path, emit: Emit) -> BatchResult:
    """Predict all rows in the order of the owner's file and leave them in `results.parquet`."""
    return _Predictions(order, files).write(None, folder / "results.parquet", emit)


def predict_shard(order: ShardOrder, files: Files, folder: Path, emit: Emit, ask: Ask) -> ShardsResult:
    """Predict one shard after the other, opening model and rows once, until there is none for this child.

    The file of each, a part, has the same bytes whoever writes it with the same versions.
    """
    predictions = _Predictions(order, files)
    (folder / PARTS).mkdir(exist_ok=True)
    shard, number = order.shard, 0
    while True:
        file = f"part-{number}.parquet"
        written = predictions.write(shard.rows, folder / PARTS / file, emit)
        part = PredictedPart(num_rows=written.num_rows, num_errors=written.num_errors)
        emit(ChildEvent(checkpoint=SavedCheckpoint(name="part", file=file), part=part))
        number += 1
        if (next_shard := ask().shard) is None:
            return ShardsResult(num_shards=number)
        shard = next_shard


class _Predictions:
    """Model and rows, opened; any number of stretches of the rows can then be predicted."""

    def __init__(self, order: PredictionOrder, files: Files) -> None:
        policy = _policy(ServingProfile.of(order.profile.stored()), order.options)
        self._tolerant = order.errors == "column"
        self._rows = ModelRows(files["dataset"], order.profile, tolerant=self._tolerant)
        # On all cores. Rows are read and answers written meanwhile: a million rows of 64 numbers took 5.4 s of
        # processor time with threads that spin, and 3.2 s without.
        self._session = open_session(str(files["model"]), threads=usable_cores(), spinning=False)
        self._outputs = tuple(dict.fromkeys((*MODEL_OUTPUTS, *policy.taken_outputs)))
        former = former_names(self._session)
        self._stored_outputs = [former.get(name, name) for name in self._outputs]
        self._writer = TableWriter(policy)
        self._num_errors = 0  # rows of this stretch without an answer, so far

    def write(self, rows: range | None, path: Path, emit: Emit) -> BatchResult:
        rows = range(len(self._rows)) if rows is None else rows
        told, self._num_errors = _Progress(rows, emit), 0

        def tables() -> Iterator[pa.Table]:
            for block in ahead(self._rows.blocks(rows)):
                yield self._table(block)
                told.reached(block.first_row + block.count)

        count = write_results(path, ahead(tables()))
        return BatchResult(results=path.name, num_rows=count, num_errors=self._num_errors if self._tolerant else None)

    def _run(self, rows: Mapping[str, np.ndarray], first_row: int) -> Outputs:
        """The outputs of these rows; raises Mismatch `inputs_refused` where one cannot be computed."""
        try:
            return dict(zip(self._outputs, self._session.run(self._stored_outputs, dict(rows)), strict=True))
        except REFUSALS as error:
            where = f"row {first_row} (counted from 0)"
            raise Mismatch("inputs_refused", f"{where}: the model cannot compute it: {refusal(error)}") from error

    def _table(self, block: AlignedRows) -> pa.Table:
        """The answers of a block, and in place of one why there is none; raises the first error that is not allowed."""
        numbers, errors = block.numbers, block.errors
        outputs = by_halves(self._run, block.inputs, numbers, errors if self._tolerant else None)
        if self._tolerant:
            outputs = _finite(outputs, unlisted(numbers, errors), errors)
            self._num_errors += len(errors)
        try:
            answers = self._writer.table(outputs, first_row=block.first_row)
        except InvalidRequest as error:
            raise Mismatch(error.code, error.message) from error
        return numbered(answers, block.first_row, block.count, ids=block.ids, errors=errors if self._tolerant else None)


def _finite(outputs: Outputs, numbers: np.ndarray, errors: Errors) -> Outputs:
    """Outputs of the rows whose numbers are finite; the others' errors are added."""
    if not outputs:
        return outputs
    outputs = completed(outputs)
    finite = outputs.pop("finite", None)
    if finite is None:
        return outputs
    errors |= {row: Mismatch("non_finite_output", no_confidence(row)) for row in numbers[~finite].tolist()}
    return {name: array[finite] for name, array in outputs.items()}


def _policy(profile: ServingProfile, options: AnswerOptions) -> DecisionPolicy:
    """Checks what could not be checked when the batch was created, because the model was still being inspected."""
    try:
        return DecisionPolicy.of(profile, options)
    except InvalidRequest as error:
        raise Mismatch(error.code, error.message) from error


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items; while one of them is used, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class _Progress:
    def __init__(self, rows: range, emit: Emit) -> None:
        self._rows, self._emit = rows, emit
        self._began = self._told = time.monotonic()

    def reached(self, row: int) -> None:
        """All rows before this one are done."""
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_S and row < self._rows.stop:
            return
        self._told, share = now, (row - self._rows.start) / len(self._rows)
        eta = (now - self._began) * (1 - share) / share
        self._emit(ChildEvent(progress=Progress(fraction=round(share, 4), eta_seconds=round(eta, 1))))
