"""Batch predictions: every row of a stored dataset, with the served copy of a model."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import AnswerOptions, RecordError
from service.registry.documents import ModelProfile
from service.registry.presenters import batch_record
from service.registry.unit_of_work import UnitOfWork
from worker.documents import BatchOrder, BatchResult
from worker.outside.kinds.base import Prepared
from worker.outside.kinds.on_inputs import OnInputs
from worker.sandbox.protocol import Limits

_MOST_SECONDS = 24 * 3600


class Predict(OnInputs[BatchResult]):
    """Predictions over a stored dataset."""

    result = BatchResult

    def row(self, unit: UnitOfWork) -> tables.Batch:
        """The batch."""
        return unit.batches.get(self.record_id)

    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        """Mark as running."""
        unit.batches.change_status(self.row(unit), "running")

    def prepare(self, row: tables.Job | tables.Batch, model: tables.Model, dataset: tables.Dataset) -> Prepared:
        """The served copy and the prepared one."""
        assert isinstance(row, tables.Batch)
        profile = ModelProfile.read(model.profile)
        order = BatchOrder(
            profile=profile, options=AnswerOptions.read(row.options), errors=row.options.get("errors", "fail")
        )
        files = {"model": self.stored(model.served_sha256), "dataset": self.stored(dataset.prepared_sha256)}
        return Prepared(order=order, limits=Limits(_MOST_SECONDS), files=files)

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write progress."""
        if self.progress is not None:
            self.row(unit).progress = self.progress.model_dump()
        return False

    def publish(self, unit: UnitOfWork, found: BatchResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the results."""
        row = self.row(unit)
        row.results_sha256, row.num_rows = files["results"].keep(), found.num_rows
        row.num_errors = found.num_errors
        row.progress = {"fraction": 1.0}
        unit.batches.change_status(row, "succeeded")
        return batch_record(row, unit.work.of(row.id))

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """The batch ends without a result."""
        unit.batches.fail(self.row(unit), error.model_dump())
