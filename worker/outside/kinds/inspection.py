"""Inspections: an upload becomes ready, or is rejected with a reason."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from pydantic import BaseModel

from service.registry.artifacts import StagedFile
from service.registry.contract import RecordError
from service.registry.presenters import dataset_record, model_record
from service.registry.registry import UnitOfWork
from worker.documents import (
    DatasetInspection,
    DatasetOptions,
    InspectDatasetOrder,
    InspectModelOrder,
    ModelInspection,
    ModelOptions,
)
from worker.outside.kinds.base import ChildWork, Prepared, R
from worker.settings import inspection_limits


class _Inspection(ChildWork[R]):
    """Either kind; jobs that wait for the upload go on when it is ready or rejected."""

    def publish(self, unit: UnitOfWork, found: R, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the copy that jobs or requests read."""
        record = self.ready(unit, found, files)
        unit.work.unblock(unit.jobs.open_users(self.record_id))
        return record

    @abstractmethod
    def ready(self, unit: UnitOfWork, found: R, files: Mapping[str, StagedFile]) -> BaseModel:
        """Write the profile and keep the copy."""

    def fail(self, unit: UnitOfWork, error: RecordError) -> None:
        """Reject."""
        records = unit.datasets if self.result is DatasetInspection else unit.models
        records.reject(self.record_id, error.model_dump())
        unit.work.unblock(unit.jobs.open_users(self.record_id))


class InspectDataset(_Inspection[DatasetInspection]):
    """An uploaded dataset becomes ready with a profile and a prepared copy, in which the splits are fixed."""

    result = DatasetInspection

    def begin(self) -> Prepared:
        """Nothing to note: the record is `inspecting` from the start."""
        with self.registry.read() as unit:
            row = unit.datasets.get(self.record_id)
        order = InspectDatasetOrder(options=DatasetOptions.read(row.options))
        return Prepared(
            order=order, limits=inspection_limits(self.settings, row.bytes), files={"dataset": self.stored(row.sha256)}
        )

    def ready(self, unit: UnitOfWork, found: DatasetInspection, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the prepared copy."""
        digest = files["prepared"].keep()
        unit.datasets.ready(self.record_id, profile=found.profile.stored(), prepared_sha256=digest)
        return dataset_record(unit, unit.datasets.get(self.record_id))


class InspectModel(_Inspection[ModelInspection]):
    """An uploaded model becomes ready with a profile and a served copy."""

    result = ModelInspection

    def begin(self) -> Prepared:
        """Nothing to note: the record is `inspecting` from the start."""
        with self.registry.read() as unit:
            row = unit.models.get(self.record_id)
        order = InspectModelOrder(options=ModelOptions.read(row.options))
        return Prepared(
            order=order, limits=inspection_limits(self.settings, row.bytes), files={"model": self.stored(row.sha256)}
        )

    def ready(self, unit: UnitOfWork, found: ModelInspection, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the served copy."""
        digest = files["served"].keep()
        unit.models.ready(
            self.record_id, profile=found.profile.stored(), served_sha256=digest, written_by=found.written_by
        )
        return model_record(unit, unit.models.get(self.record_id))
