"""Inspections: an upload becomes ready, or is rejected with a reason."""

from __future__ import annotations

from pathlib import Path

from service.registry.contract import RecordError
from service.registry.presenters import dataset_record, model_record
from worker.documents import (
    DatasetInspection,
    DatasetOptions,
    InspectDatasetOrder,
    InspectModelOrder,
    ModelInspection,
    ModelOptions,
)
from worker.outside.kinds.base import JsonObject, Prepared, WorkKind, require_answerable
from worker.settings import inspection_limits


class InspectDataset(WorkKind):
    """An uploaded dataset becomes ready with a profile, or rejected with a reason."""

    def begin(self) -> Prepared | None:
        """Nothing to note: the record is `inspecting` from the start."""
        with self.registry.read() as unit:
            row = unit.datasets.get(self.record_id)
        self.give("dataset", row.sha256)
        order = InspectDatasetOrder(options=DatasetOptions.model_validate(row.options))
        return self.prepared(order, inspection_limits(self.settings, row.bytes))

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Keep the prepared copy, in which the splits are fixed."""
        found = DatasetInspection.arrived(result)
        with self.staged(folder / found.prepared) as prepared, self.publishing() as unit:
            unit.datasets.ready(self.record_id, profile=found.profile.stored(), prepared_sha256=prepared.keep())
            require_answerable(dataset_record(unit.datasets.get(self.record_id)))
            unit.work.unblock(unit.datasets.open_users(self.record_id))

    def failed(self, error: RecordError) -> None:
        """Reject."""
        with self.publishing() as unit:
            unit.datasets.reject(self.record_id, error.model_dump())
            unit.work.unblock(unit.datasets.open_users(self.record_id))


class InspectModel(WorkKind):
    """An uploaded model becomes ready with a served copy, or rejected with a reason."""

    def begin(self) -> Prepared | None:
        """Nothing to note: the record is `inspecting` from the start."""
        with self.registry.read() as unit:
            row = unit.models.get(self.record_id)
        self.give("model", row.sha256)
        order = InspectModelOrder(options=ModelOptions.model_validate(row.options))
        return self.prepared(order, inspection_limits(self.settings, row.bytes))

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Keep the served copy."""
        found = ModelInspection.arrived(result)
        with self.staged(folder / found.served) as served, self.publishing() as unit:
            unit.models.ready(self.record_id, profile=found.profile.stored(), served_sha256=served.keep())
            require_answerable(model_record(unit.models.get(self.record_id)))
            unit.work.unblock(unit.models.open_users(self.record_id))

    def failed(self, error: RecordError) -> None:
        """Reject."""
        with self.publishing() as unit:
            unit.models.reject(self.record_id, error.model_dump())
            unit.work.unblock(unit.models.open_users(self.record_id))
