"""Inspections meet the registry: an upload becomes ready, or is rejected with a reason."""

from __future__ import annotations

from pathlib import Path

from service.registry.documents import DatasetProfile, ModelProfile
from service.registry.presenters import dataset_record, model_record
from worker.outside.kinds.base import Json, Prepared, WorkKind, answerable


class InspectDataset(WorkKind):
    """An uploaded dataset becomes ready with a profile, or rejected with a reason."""

    name = "inspect_dataset"

    def begin(self) -> Prepared | None:
        """Nothing to note: it is inspecting from the start."""
        with self.registry.read() as unit:
            row = unit.datasets.get(self.record_id)
        self.give("file", row.sha256)
        return self.order({"options": row.options}, self.inspection_limits(row.bytes))

    def succeeded(self, result: Json, folder: Path) -> None:
        """Keep the prepared copy, in which the splits are fixed."""
        profile = DatasetProfile.arrived(result["profile"]).stored()
        with self.staged(folder / result["prepared"]) as prepared, self.publishing() as unit:
            unit.datasets.ready(self.record_id, profile=profile, prepared_sha256=prepared.keep())
            answerable(dataset_record(unit.datasets.get(self.record_id)))
            unit.work.unblock(unit.jobs.waiting_for(self.record_id))

    def failed(self, error: Json) -> None:
        """Reject."""
        with self.publishing() as unit:
            unit.datasets.reject(self.record_id, error)
            unit.work.unblock(unit.jobs.waiting_for(self.record_id))


class InspectModel(WorkKind):
    """An uploaded model becomes ready with a served copy, or rejected with a reason."""

    name = "inspect_model"

    def begin(self) -> Prepared | None:
        """Nothing to note: it is inspecting from the start."""
        with self.registry.read() as unit:
            row = unit.models.get(self.record_id)
        self.give("file", row.sha256)
        return self.order({"options": row.options}, self.inspection_limits(row.bytes))

    def succeeded(self, result: Json, folder: Path) -> None:
        """Keep the served copy."""
        profile = ModelProfile.arrived(result["profile"]).stored()
        with self.staged(folder / result["served"]) as served, self.publishing() as unit:
            unit.models.ready(self.record_id, profile=profile, served_sha256=served.keep())
            answerable(model_record(unit.models.get(self.record_id)))
            unit.work.unblock(unit.jobs.waiting_for(self.record_id))

    def failed(self, error: Json) -> None:
        """Reject."""
        with self.publishing() as unit:
            unit.models.reject(self.record_id, error)
            unit.work.unblock(unit.jobs.waiting_for(self.record_id))
