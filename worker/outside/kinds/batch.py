"""Batch predictions: every row of a stored dataset, with the served copy of a model, at once or in shards.

A shard is neighbouring rows that a worker claims by themselves, each a part of the results.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from fedlas.contract.options import AnswerOptions
from fedlas.contract.predictions import BatchManifest, PartResult, ResultPart
from fedlas.contract.profiles import ModelProfile
from fedlas.contract.records import RecordError
from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.errors import NotFound, WorkGone
from service.registry.presenters import batch_record
from service.registry.queues import QUEUE_OF
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim, NewPiece
from service.registry.settings import WorkerSettings
from worker.documents import (
    BatchOrder,
    BatchResult,
    ChildEvent,
    PredictedPart,
    Reply,
    RowRange,
    ShardOrder,
    ShardsResult,
)
from worker.outside import metrics
from worker.outside.kinds.base import ChildWork, OnInputs, Prepared, log_started
from worker.sandbox.protocol import JsonObject, Limits

_LOG = logging.getLogger("fedlas.worker")

#: Rows of a group of the results (`formats.result_tables.GROUP_ROWS`): a shard of more has whole groups.
GROUP_ROWS = 1 << 15
#: Seconds to read a row of 64 numbers and write its answer, on two cores; to read a file of an image.
_ROW_S = 3e-6
_IMAGE_S = 4e-3
#: A batch of less than so many shards is none: a process more would take as long as what two workers save.
_MIN_SHARDS = 2
#: Rows of the `pieces` table are read all at once.
_MAX_SHARDS = 10_000
_MAX_SECONDS = 24 * 3600
_KIND = "predict_shard"
_QUEUE = QUEUE_OF[_KIND]


def planned_shards(num_rows: int, profile: ModelProfile, *, seconds: float) -> list[NewPiece]:
    """The shards of a batch, of equal size, each of so many seconds by an estimate; none where it is done at once."""
    measured = None if profile.cost is None else profile.cost.measured
    computed = 0.0 if measured is None else measured.seconds / measured.rows
    of_row = _ROW_S + computed + (0.0 if profile.preprocessing is None else _IMAGE_S)
    number = min(_MAX_SHARDS, math.floor(num_rows * of_row / seconds), num_rows)
    if number < _MIN_SHARDS:
        return []
    size = math.ceil(num_rows / number)
    if size > GROUP_ROWS:
        size = math.ceil(size / GROUP_ROWS) * GROUP_ROWS
    shards = [RowRange(first_row=first, num_rows=min(size, num_rows - first)) for first in range(0, num_rows, size)]
    return [
        NewPiece(name=f"rows-{shard.first_row}", order=shard.stored(), work_seconds=shard.num_rows * of_row)
        for shard in shards
    ]


class PredictShard(ChildWork[ShardsResult]):
    """A shard, and those of the same batch after it whose turn it is while the child lives."""

    result = ShardsResult
    most_checkpoint_bytes = sys.maxsize  # a part has no limit, as results that are one file have none

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._batch_id = ""
        self._hold(claim, None)

    def _hold(self, claim: Claim, shard: RowRange | None) -> None:
        self.claim, self.record_id, self._shard = claim, claim.record_id, shard
        self._part: PredictedPart | None = None
        self._reached, self._kept, self._began = 0.0, False, time.monotonic()

    def begin(self) -> Prepared | None:
        """The served copy and the prepared one; nothing where the shard has ended already."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            piece = unit.pieces.get(self.record_id)
            if piece.status != "waiting":
                unit.work.finish(self.claim)
                return None
            batch = unit.batches.get(piece.parent_id)
            model, dataset = unit.models.get(batch.model_id), unit.datasets.get(batch.dataset_id)
        shard = RowRange.read(piece.order)
        self._batch_id = batch.id
        self._hold(self.claim, shard)
        order = ShardOrder(
            profile=ModelProfile.read(model.profile),
            options=AnswerOptions.read(batch.options),
            errors=batch.options.get("errors", "fail"),
            shard=shard,
        )
        files = {"model": self.stored(model.served_sha256), "dataset": self.stored(dataset.prepared_sha256)}
        return Prepared(order=order, limits=Limits(_MAX_SECONDS), files=files)

    def note(self, event: JsonObject) -> None:
        """Remember how far the child is; keep the part that it has left before it gets another shard."""
        told = ChildEvent.parse(event)
        if told is None:
            return
        if told.progress is not None:
            self._reached = told.progress.fraction
        if told.checkpoint is not None and told.part is not None:
            self._part = told.part
            self.keep(told.checkpoint)
        if told.asks is not None:
            self.ask()

    def save_checkpoint(self, unit: UnitOfWork, name: str, file: StagedFile) -> list[str]:
        """Keep the part; the batch is locked first, so that of two shards that end at once one knows to be the last."""
        part, shard = self._part, self._shard
        if part is None or shard is None or part.num_rows != shard.num_rows:
            raise OSError(f"it is no part of {shard and shard.num_rows} rows: the child says {part}")
        self._lock_batch(unit)
        unit.work.finish(self.claim)
        result = PartResult(num_rows=part.num_rows, num_errors=part.num_errors, bytes=file.size)
        unit.pieces.finish(self.record_id, sha256=file.keep(), result=result.stored())
        unit.batches.advance(self._batch_id)
        self._kept = True
        unit.callbacks.append(self._ended)
        return []

    def _ended(self, committed: bool) -> None:
        self._kept = committed
        if committed:
            super().log_done(time.monotonic() - self._began)

    def reply(self) -> Reply:
        """The next shard of the batch, if it is its turn; else the child ends."""
        if not self._kept or not self.worker:
            return Reply()
        with self.registry.write() as unit:
            due = unit.work.next_due(_QUEUE)
            if due is None or (due.flow, due.kind) != (self._batch_id, _KIND):
                return Reply()
            claim = unit.work.claim(due.record_id, worker=self.worker, lease_seconds=self.settings.lease_seconds)
            if claim is None:
                return Reply()
            if claim.losses:  # whose fault it was shows in a process of its own
                unit.work.release(claim)
                return Reply()
            shard = RowRange.read(unit.pieces.get(claim.record_id).order)
        self._hold(claim, shard)
        metrics.CLAIMS.labels(claim.kind).inc()
        log_started(claim)
        self.show(claim)
        return Reply(shard=shard)

    def renew(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        if not self._kept:
            super().renew(unit, lease_seconds=lease_seconds)

    def heartbeat(self, unit: UnitOfWork) -> bool:
        if not self._kept and self._batch_id:
            unit.pieces.reach(self.record_id, self._reached)
            unit.batches.advance(self._batch_id)
        return False

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """A transaction that ends this work, the batch locked first."""
        with self.registry.write() as unit:
            self._lock_batch(unit)
            unit.work.finish(self.claim)
            yield unit

    def _lock_batch(self, unit: UnitOfWork) -> None:
        try:
            unit.pieces.lock_parent(self.record_id)
        except NotFound as error:
            raise WorkGone("lease_lost", f"{self.claim} has gone with its batch") from error

    def succeeded(self, answer: JsonObject, folder: Path) -> None:
        """The child has done all that it was given; its parts are there already, or the last is done again."""
        self.result.arrived(answer)
        if not self._kept:
            with self.registry.write() as unit:
                self.lost(unit, "its part was not kept")

    def log_done(self, seconds: float) -> None:
        """Each shard was logged at its own end."""

    def publish(self, unit: UnitOfWork, result: ShardsResult, files: Mapping[str, StagedFile]) -> BaseModel:
        raise NotImplementedError

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        piece = unit.pieces.get(self.record_id)
        unit.pieces.close(piece.parent_id, behind=piece.place)
        unit.pieces.fail(self.record_id, error.model_dump())

    def failed(self, error: RecordError) -> None:
        """The shard has no part; one that has been kept is not taken back."""
        if not self._kept:
            super().failed(error)

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        if not self._kept:
            super().handed_back(unit, reason, after_seconds=after_seconds)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        if not self._kept:
            super().lost(unit, reason)


class Predict(OnInputs[BatchResult]):
    """Predictions over a stored dataset: a child's, or where it takes long the plan of its shards, and their fan-in."""

    result = BatchResult

    def begin(self) -> Prepared | None:
        """The request to a child, or None: it has been split, or its shards have ended and it has, too."""
        with self.registry.read() as unit:
            shards = unit.pieces.of(self.record_id)
        if not shards:
            return super().begin()
        if any(shard.status == "waiting" for shard in shards):
            self._wait_for([])
        elif (failed := next((shard for shard in shards if shard.status == "failed"), None)) is not None:
            self.failed(RecordError.model_validate(failed.error))
        else:
            self._gather(shards)
        return None

    def row(self, unit: UnitOfWork) -> tables.Batch:
        return unit.batches.get(self.record_id)

    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        unit.batches.change_status(self.row(unit), "running")

    def prepare(self, row: tables.Job | tables.Batch, model: tables.Model, dataset: tables.Dataset) -> Prepared | None:
        """The served copy and the prepared one; None where the rows are left to shards."""
        assert isinstance(row, tables.Batch)
        profile = ModelProfile.read(model.profile)
        if shards := planned_shards(_num_rows(dataset), profile, seconds=self.settings.shard_seconds):
            self._wait_for(shards)
            return None
        order = BatchOrder(
            profile=profile, options=AnswerOptions.read(row.options), errors=row.options.get("errors", "fail")
        )
        files = {"model": self.stored(model.served_sha256), "dataset": self.stored(dataset.prepared_sha256)}
        return Prepared(order=order, limits=Limits(_MAX_SECONDS), files=files)

    def _wait_for(self, shards: Sequence[NewPiece]) -> None:
        """Let shards be claimed; the last of them to end opens this work again."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            unit.pieces.add_all(self.record_id, shards, queue=_QUEUE)
            unit.pieces.suspend_parent(self.claim)
        if shards:
            _LOG.info("%s is split into %d shards", self.record_id, len(shards))

    def _gather(self, shards: Sequence[tables.Piece]) -> None:
        with self.registry.read() as unit:
            row = self.row(unit)
            model, dataset = unit.models.get(row.model_id), unit.datasets.get(row.dataset_id)
        manifest = _manifest(row.id, model.sha256, dataset.sha256, shards)
        with self.registry.artifacts.stage() as staged:
            staged.write(manifest.model_dump_json().encode())
            staged.seal()
            with self.publishing() as unit:
                row = self.row(unit)
                row.manifest_sha256 = staged.keep()
                self._succeed(unit, row, manifest.num_rows, manifest.num_errors)
        _LOG.info("%s done: %d rows in %d parts", self.record_id, manifest.num_rows, len(manifest.parts))

    def heartbeat(self, unit: UnitOfWork) -> bool:
        if self.progress is not None:
            self.row(unit).progress = self.progress.model_dump()
        return False

    def publish(self, unit: UnitOfWork, result: BatchResult, files: Mapping[str, StagedFile]) -> BaseModel:
        row = self.row(unit)
        row.results_sha256 = files["results"].keep()
        self._succeed(unit, row, result.num_rows, result.num_errors)
        return batch_record(unit, row, unit.work.of(row.id))

    def _succeed(self, unit: UnitOfWork, row: tables.Batch, num_rows: int, num_errors: int | None) -> None:
        row.num_rows, row.num_errors, row.progress = num_rows, num_errors, {"fraction": 1.0}
        unit.batches.change_status(row, "succeeded")

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        unit.batches.fail(self.row(unit), error.model_dump())


def _num_rows(dataset: tables.Dataset) -> int:
    match dataset.profile:
        case {"num_samples": int(num_rows)}:
            return num_rows
    return 0


def _manifest(batch_id: str, model_sha256: str, dataset_sha256: str, shards: Sequence[tables.Piece]) -> BatchManifest:
    """The manifest of shards that are all done, in order; it has the same bytes whoever makes it."""
    parts, num_errors = [], []
    for number, shard in enumerate(shards):
        rows, part_result = RowRange.read(shard.order), PartResult.read(shard.result)
        num_errors += [] if part_result.num_errors is None else [part_result.num_errors]
        part = ResultPart(
            number=number,
            first_row=rows.first_row,
            num_rows=part_result.num_rows,
            bytes=part_result.bytes,
            sha256=shard.sha256,
        )
        parts.append(part)
    return BatchManifest(
        batch_id=batch_id,
        model_sha256=model_sha256,
        dataset_sha256=dataset_sha256,
        num_rows=sum(part.num_rows for part in parts),
        num_errors=sum(num_errors) if num_errors else None,
        parts=parts,
    )
