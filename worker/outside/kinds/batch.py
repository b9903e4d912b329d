"""Batch predictions: every row of a stored dataset, with the served copy of a model."""

from __future__ import annotations

from pathlib import Path

from service.registry.contract import RecordError
from service.registry.documents import ModelProfile
from service.registry.registry import Registry
from service.registry.repositories import Claim
from service.registry.unit_of_work import UnitOfWork
from worker.documents import BatchOptions, BatchOrder, BatchResult, ChildEvent
from worker.outside.kinds.base import JsonObject, Prepared, WorkKind, inputs_of
from worker.sandbox.protocol import Limits
from worker.settings import WorkerSettings

_MOST_SECONDS = 24 * 3600


class Predict(WorkKind):
    """Predictions over a stored dataset."""

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._progress: JsonObject = {}

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what cannot run."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            row = unit.batches.get(self.record_id)
            inputs = inputs_of(unit, row.model_id, row.dataset_id)
            if inputs is None:
                unit.work.block(self.claim)
                return None
            if isinstance(inputs, RecordError):
                unit.work.finish(self.claim)
                unit.batches.fail(row, inputs.model_dump())
                return None
            unit.batches.change_status(row, "running")
        model, dataset = inputs
        self.give("model", model.served_sha256)
        self.give("dataset", dataset.prepared_sha256)
        profile = ModelProfile.read(model.profile)
        order = BatchOrder(profile=profile, options=BatchOptions.model_validate(row.options))
        return self.prepared(order, Limits(_MOST_SECONDS))

    def note(self, event: JsonObject) -> None:
        """Remember progress."""
        told = ChildEvent.parse(event)
        if told is not None and told.progress is not None:
            self._progress = told.progress.model_dump()

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write progress."""
        if self._progress:
            unit.batches.get(self.record_id).progress = self._progress
        return False

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Keep the results."""
        found = BatchResult.arrived(result)
        with self.staged(folder / found.results) as staged, self.publishing() as unit:
            row = unit.batches.get(self.record_id)
            row.results_sha256, row.num_rows = staged.keep(), found.num_rows
            row.progress = {"fraction": 1.0}
            unit.batches.change_status(row, "succeeded")

    def failed(self, error: RecordError) -> None:
        """The batch ends without a result."""
        with self.publishing() as unit:
            unit.batches.fail(unit.batches.get(self.record_id), error.model_dump())
