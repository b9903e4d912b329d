"""Batch predictions meet the registry."""

from __future__ import annotations

from pathlib import Path

from service.registry.repositories import Claim
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.outside.kinds.base import Json, Prepared, WorkKind, ready
from worker.outside.kinds.child_events import sound_progress
from worker.sandbox.process import Limits
from worker.settings import WorkerSettings


class Predict(WorkKind):
    """Predictions over a stored dataset."""

    name = "predict"

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._progress: Json = {}

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what cannot run."""
        with self.registry.write() as unit:
            unit.work.prove(self.claim)
            row = unit.batches.get(self.record_id)
            both = ready(unit, row.model_id, row.dataset_id)
            if both is None:
                unit.work.block(self.claim)
                return None
            if isinstance(both, dict):
                unit.work.finish(self.claim)
                unit.batches.fail(row, both)
                return None
            unit.batches.change_status(row, "running")
        model, dataset = both
        self.give("model.file", model.served_sha256)
        self.give("dataset.file", dataset.prepared_sha256)
        return self.order({"model": {"profile": model.profile}, "options": row.options}, Limits(seconds=24 * 3600))

    def note(self, event: Json) -> None:
        """Remember progress."""
        self._progress = sound_progress(event.get("progress")) or self._progress

    def beat(self, unit: UnitOfWork) -> bool:
        """Write progress."""
        if self._progress:
            unit.batches.get(self.record_id).progress = self._progress
        return False

    def succeeded(self, result: Json, folder: Path) -> None:
        """Keep the results."""
        with self.staged(folder / result["results"]) as staged, self.publishing() as unit:
            row = unit.batches.get(self.record_id)
            row.results_sha256, row.num_rows = staged.keep(), int(result["num_rows"])
            row.progress = {"fraction": 1.0}
            unit.batches.change_status(row, "succeeded")

    def failed(self, error: Json) -> None:
        """The batch ends without a result."""
        with self.publishing() as unit:
            unit.batches.fail(unit.batches.get(self.record_id), error)
