"""Batch predictions, inside the sandbox: the served copy over every row of a prepared dataset, in constant memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from fedlas.errors import Mismatch
from fedlas.preprocessing import usable_cores
from service.inference.decision_policy import DecisionPolicy
from service.inference.profile import ServingProfile
from service.inference.runtime import REFUSALS, open_session, refusal
from service.inference.standard_outputs import MODEL_OUTPUTS
from service.inference.writers.table import TableWriter, write_results
from service.registry.contract import AnswerOptions
from service.registry.errors import InvalidRequest
from worker.documents import BatchOrder, BatchResult, ChildEvent, ReportedProgress
from worker.inside.batch_rows import ModelRows
from worker.inside.work_function import Emit, Files

Rows = Mapping[str, np.ndarray]
T = TypeVar("T")

_TELL_EVERY_S = 1.0


def predict(order: BatchOrder, files: Files, folder: Path, emit: Emit) -> BatchResult:
    """Predict all rows in the order of the owner's file and leave them in `results.parquet`."""
    policy = _policy(ServingProfile.of(order.profile.stored()), order.options)
    writer = TableWriter(policy)
    rows = ModelRows(files["dataset"], order.profile)
    network = _Network(str(files["model"]), tuple(dict.fromkeys((*MODEL_OUTPUTS, *policy.taken_outputs))))
    told = _Progress(len(rows), emit)

    def tables() -> Iterator[pa.Table]:
        for first, block in ahead(rows.blocks()):
            outputs = network.run(block, first_row=first)
            try:
                answers = writer.table(outputs, first_row=first)
            except InvalidRequest as error:
                raise Mismatch(error.code, error.message) from error
            yield answers
            told.reached(first + answers.num_rows)

    count = write_results(folder / "results.parquet", ahead(tables()))
    return BatchResult(results="results.parquet", num_rows=count)


def _policy(profile: ServingProfile, options: AnswerOptions) -> DecisionPolicy:
    """Checks what could not be checked when the batch was ordered, because the model was still being inspected."""
    try:
        return DecisionPolicy.of(profile, options)
    except InvalidRequest as error:
        raise Mismatch(error.code, error.message) from error


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; while one of them is used, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


class _Network:
    """A session of the served copy, on all cores that this process may use."""

    def __init__(self, file: str, outputs: tuple[str, ...]) -> None:
        # Rows are read and answers written meanwhile: a million rows of 64 numbers took 5.4 s of processor time with
        # threads that spin, and 3.2 s without.
        self._session = open_session(file, threads=usable_cores(), spinning=False)
        self._outputs = outputs

    def run(self, rows: Rows, *, first_row: int) -> dict[str, np.ndarray]:
        """The outputs of these rows; raises Mismatch `inputs_refused` with the first that cannot be computed.

        Refused rows are tried by halves: what is only too much at once is computed in parts.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, rows), strict=True))
        except REFUSALS as error:
            half = len(next(iter(rows.values()))) // 2
            if half == 0:
                where = f"row {first_row} (counted from 0)"
                raise Mismatch("inputs_refused", f"{where}: the model cannot compute it: {refusal(error)}") from error
        upper = self.run({name: array[:half] for name, array in rows.items()}, first_row=first_row)
        lower = self.run({name: array[half:] for name, array in rows.items()}, first_row=first_row + half)
        return {name: np.concatenate([upper[name], lower[name]]) for name in self._outputs}


class _Progress:
    """Tells how far the work is, once a second or so."""

    def __init__(self, num_rows: int, emit: Emit) -> None:
        self._num_rows, self._emit = num_rows, emit
        self._began = self._told = time.monotonic()

    def reached(self, row: int) -> None:
        """All rows before this one are done."""
        now = time.monotonic()
        if now - self._told < _TELL_EVERY_S and row < self._num_rows:
            return
        self._told, share = now, row / self._num_rows
        eta = (now - self._began) * (1 - share) / share
        self._emit(ChildEvent(progress=ReportedProgress(fraction=round(share, 4), eta_seconds=round(eta, 1))))
