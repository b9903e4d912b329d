"""Shards: neighbouring rows of a batch that a worker claims by themselves, each a part of the results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel

from service.registry.artifacts import StagedFile
from service.registry.contract import AnswerOptions, RecordError
from service.registry.documents import ModelProfile, PartResult
from service.registry.errors import LeaseLost, NotFound
from service.registry.repositories import NewPiece
from service.registry.unit_of_work import UnitOfWork
from worker.documents import BatchResult, ChildEvent, RowRange, ShardOrder
from worker.outside.kinds.base import ChildWork, Prepared
from worker.sandbox.protocol import JsonObject, Limits

#: Rows of a group of the results (`service.inference.writers.table.GROUP_ROWS`): a shard of more has whole groups.
GROUP_ROWS = 1 << 15
#: What a row of 64 numbers takes to be read, and its answer to be written, on two cores; a file of an image.
_ROW_S, _IMAGE_S = 3e-6, 4e-3
#: A batch of less than so many shards is none: a process more would take as long as what two workers save.
_LEAST_SHARDS = 2
#: Rows of the `pieces` table are read all at once.
_MOST_SHARDS = 10_000
_MOST_SECONDS = 24 * 3600


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


class PredictShard(ChildWork[BatchResult]):
    """Predictions over one shard."""

    result = BatchResult

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
        self._batch_id, self._place, self._shard = batch.id, piece.place, RowRange.read(piece.order)
        self._reached = 0.0
        order = ShardOrder(
            profile=ModelProfile.read(model.profile),
            options=AnswerOptions.read(batch.options),
            errors=batch.options.get("errors", "fail"),
            shard=self._shard,
        )
        files = {"model": self.stored(model.served_sha256), "dataset": self.stored(dataset.prepared_sha256)}
        return Prepared(order=order, limits=Limits(_MOST_SECONDS), files=files)

    def note(self, event: JsonObject) -> None:
        """Remember how far the child is."""
        if (told := ChildEvent.parse(event)) is not None and told.progress is not None:
            self._reached = told.progress.fraction

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write progress, of the shard and of its batch."""
        unit.pieces.reach(self.record_id, self._reached)
        unit.batches.advance(self._batch_id)
        return False

    @contextmanager
    def publishing(self) -> Iterator[UnitOfWork]:
        """The same; the batch is locked first, so that of two shards that end at once one knows to be the last."""
        with self.registry.write() as unit:
            try:
                unit.pieces.lock_parent(self.record_id)
            except NotFound as error:
                raise LeaseLost("lease_lost", f"{self.record_id} has gone with its batch") from error
            unit.work.finish(self.claim)
            yield unit

    def publish(self, unit: UnitOfWork, found: BatchResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the part."""
        if found.num_rows != self._shard.num_rows:
            raise ValueError(f"the child has answered {found.num_rows} rows of {self._shard.num_rows}")
        file = files["results"]
        part = PartResult(num_rows=found.num_rows, num_errors=found.num_errors, bytes=file.size)
        unit.pieces.finish(self.record_id, sha256=file.keep(), result=part.stored())
        unit.batches.advance(self._batch_id)
        return part

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The batch will fail with the first of its rows that has no answer: shards behind this one hold none such."""
        piece = unit.pieces.get(self.record_id)
        unit.pieces.close(piece.parent_id, behind=piece.place)
        unit.pieces.fail(self.record_id, error.model_dump())
