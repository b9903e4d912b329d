"""Batch predictions: every row of a stored dataset, with the served copy of a model, at once or in shards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import QUEUE_OF, AnswerOptions, RecordError
from service.registry.documents import BatchManifest, ModelProfile, PartResult, ResultPart
from service.registry.presenters import batch_record
from service.registry.registry import UnitOfWork
from service.registry.repositories import NewPiece
from worker.documents import BatchOrder, BatchResult, RowRange
from worker.outside.kinds.base import Prepared
from worker.outside.kinds.on_inputs import OnInputs
from worker.outside.kinds.shards import planned_shards
from worker.sandbox.protocol import Limits

_LOG = logging.getLogger("fedlas.worker")

_MOST_SECONDS = 24 * 3600


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
        """The batch."""
        return unit.batches.get(self.record_id)

    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        """Mark as running."""
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
        return Prepared(order=order, limits=Limits(_MOST_SECONDS), files=files)

    def _wait_for(self, shards: Sequence[NewPiece]) -> None:
        """Let shards be claimed; the last of them to end opens this work again."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            unit.pieces.add_all(self.record_id, shards, queue=QUEUE_OF["predict_shard"])
            unit.pieces.suspend_parent(self.claim)
        if shards:
            _LOG.info("%s is split into %d shards", self.record_id, len(shards))

    def _gather(self, shards: Sequence[tables.Piece]) -> None:
        """The parts of the shards become the results."""
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
        """Write progress."""
        if self.progress is not None:
            self.row(unit).progress = self.progress.model_dump()
        return False

    def publish(self, unit: UnitOfWork, found: BatchResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the results."""
        row = self.row(unit)
        row.results_sha256 = files["results"].keep()
        self._succeed(unit, row, found.num_rows, found.num_errors)
        return batch_record(unit, row, unit.work.of(row.id))

    def _succeed(self, unit: UnitOfWork, row: tables.Batch, num_rows: int, num_errors: int | None) -> None:
        row.num_rows, row.num_errors, row.progress = num_rows, num_errors, {"fraction": 1.0}
        unit.batches.change_status(row, "succeeded")

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The batch ends without a result."""
        unit.batches.fail(self.row(unit), error.model_dump())


def _num_rows(dataset: tables.Dataset) -> int:
    """Rows of the dataset, as inspection counted them; 0 where its profile does not say."""
    match dataset.profile:
        case {"num_samples": int(num_rows)}:
            return num_rows
    return 0


def _manifest(batch_id: str, model_sha256: str, dataset_sha256: str, shards: Sequence[tables.Piece]) -> BatchManifest:
    """The manifest of shards that are all done, in order; it has the same bytes whoever makes it."""
    parts, num_errors = [], []
    for number, shard in enumerate(shards):
        rows, found = RowRange.read(shard.order), PartResult.read(shard.result)
        num_errors += [] if found.num_errors is None else [found.num_errors]
        part = ResultPart(
            number=number, first_row=rows.first_row, num_rows=found.num_rows, bytes=found.bytes, sha256=shard.sha256
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
