"""Shards: neighbouring rows of a batch that a worker claims by themselves, each a part of the results."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from service.registry.artifacts import StagedFile
from service.registry.contract import QUEUE_OF, AnswerOptions, RecordError
from service.registry.documents import ModelProfile, PartResult
from service.registry.errors import NotFound, WorkGone
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim, NewPiece
from worker.documents import (
    ChildEvent,
    EndReply,
    PredictedPart,
    PredictReply,
    Reply,
    RowRange,
    ShardOrder,
    ShardsResult,
)
from worker.outside.kinds.base import ChildWork, Prepared, log_done
from worker.sandbox.protocol import JsonObject, Limits
from worker.settings import WorkerSettings

#: Rows of a group of the results (`service.inference.result_tables.GROUP_ROWS`): a shard of more has whole groups.
GROUP_ROWS = 1 << 15
#: What a row of 64 numbers takes to be read, and its answer to be written, on two cores; a file of an image.
_ROW_S, _IMAGE_S = 3e-6, 4e-3
#: A batch of less than so many shards is none: a process more would take as long as what two workers save.
_LEAST_SHARDS = 2
#: Rows of the `pieces` table are read all at once.
_MOST_SHARDS = 10_000
_MOST_SECONDS = 24 * 3600
_KIND = "predict_shard"
_QUEUE = QUEUE_OF[_KIND]


def planned_shards(num_rows: int, profile: ModelProfile, *, seconds: float) -> list[NewPiece]:
    """The shards of a batch, of equal size, each of so many seconds by an estimate; none where it is done at once."""
    of_row = _seconds_of_row(profile)
    number = min(_MOST_SHARDS, math.floor(num_rows * of_row / seconds), num_rows)
    if number < _LEAST_SHARDS:
        return []
    size = math.ceil(num_rows / number)
    if size > GROUP_ROWS:
        size = math.ceil(size / GROUP_ROWS) * GROUP_ROWS
    shards = [RowRange(first_row=first, num_rows=min(size, num_rows - first)) for first in range(0, num_rows, size)]
    return [
        NewPiece(name=f"rows-{shard.first_row}", order=shard.stored(), work_seconds=shard.num_rows * of_row)
        for shard in shards
    ]


def _seconds_of_row(profile: ModelProfile) -> float:
    measured = None if profile.cost is None else profile.cost.measured
    computed = 0.0 if measured is None else measured.seconds / measured.rows
    return _ROW_S + computed + (0.0 if profile.preprocessing is None else _IMAGE_S)


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
        return Prepared(order=order, limits=Limits(_MOST_SECONDS), files=files)

    def note(self, event: JsonObject) -> None:
        """Remember how far the child is; keep the part that it has left before it is told of another shard."""
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
            log_done(self.claim, time.monotonic() - self._began)

    def reply(self, journal: Path) -> Reply | None:
        """The next shard of the batch, if it is its turn; else the child ends."""
        if not self._kept or self.claimant is None:
            return EndReply()
        with self.registry.write() as unit:
            claim = self.next_piece(unit, of=self._batch_id, kind=_KIND, queue=_QUEUE)
            if claim is None:
                return EndReply()
            if claim.losses:  # whose fault it was shows in a process of its own
                unit.work.release(claim)
                return EndReply()
            shard = RowRange.read(unit.pieces.get(claim.record_id).order)
        self._hold(claim, shard)
        self.show_next(claim)
        return PredictReply(shard=shard)

    def renew(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        """Renew the claim of the shard, if there is one just now."""
        if not self._kept:
            super().renew(unit, lease_seconds=lease_seconds)

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write progress, of the shard and of its batch."""
        if not self._kept and self._batch_id:
            unit.pieces.reach(self.record_id, self._reached)
            unit.batches.advance(self._batch_id)
        return False

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """The same; the batch is locked first."""
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

    def publish(self, unit: UnitOfWork, found: ShardsResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Nothing is published but parts."""
        raise NotImplementedError

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The batch will fail with the first of its rows that has no answer: shards behind this one hold none such."""
        piece = unit.pieces.get(self.record_id)
        unit.pieces.close(piece.parent_id, behind=piece.place)
        unit.pieces.fail(self.record_id, error.model_dump())

    def failed(self, error: RecordError) -> None:
        """The shard has no part; one that has been kept is not taken back."""
        if not self._kept:
            super().failed(error)

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        """Another worker does the shard; this was no attempt."""
        if not self._kept:
            super().handed_back(unit, reason, after_seconds=after_seconds)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        """The shard is tried again."""
        if not self._kept:
            super().lost(unit, reason)
