"""What a calibration and its dry run have in common: one row, one progress, one child that reads both inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from service.registry import tables
from service.registry.contract import JobRequest
from service.registry.repositories import Claim
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.sandbox import Limits
from worker.settings import WorkerSettings
from worker.steps.base import Json, Prepared, Step, ready

#: What the sender said of a model and the importer must know.
_IMPORTING = ("output", "features", "task", "architecture", "num_classes", "preprocessing")


class JobStep(Step):
    """A job of either kind."""

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._stage = "inspecting"
        self._progress: Json = {}

    @abstractmethod
    def looks_before(self, unit: UnitOfWork, row: tables.Job, dataset: tables.Dataset) -> int:
        """How often the test rows of this file have been looked at before this job."""

    @abstractmethod
    def limits(self, row: tables.Job) -> Limits:
        """What the child may use."""

    def begin(self) -> Prepared | None:
        """Mark as running; settle at once what was cancelled or cannot run."""
        with self.registry.write() as unit:
            row = unit.jobs.get(self.record_id)
            if row.status == "cancelling":
                unit.work.finish(self.claim)
                unit.jobs.change_status(row, "cancelled")
                return None
            both = ready(unit, row.model_id, row.dataset_id)
            if isinstance(both, dict):
                unit.work.finish(self.claim)
                unit.jobs.fail(row, both)
                return None
            if row.status != "running":
                unit.jobs.change_status(row, "running")
            row.stage, row.progress = "inspecting", {"fraction": 0.0}
            looks_before = self.looks_before(unit, row, both[1])
        return Prepared(self._spec(row, *both, looks_before), self.limits(row))

    def _spec(self, row: tables.Job, model: tables.Model, dataset: tables.Dataset, looks_before: int) -> Json:
        return {
            "job_id": row.id,
            "request": JobRequest.model_validate(row.request).model_dump(),  # ordered before an upgrade: its defaults
            "model": {
                "id": model.id,
                "file": self.path(model.sha256),
                "sha256": model.sha256,
                "importing": importing(model),
                "profile": model.profile,
            },
            "dataset": {
                "id": dataset.id,
                "file": self.path(dataset.prepared_sha256),
                "sha256": dataset.sha256,
                "prepared_sha256": dataset.prepared_sha256,
            },
            "looks_before": looks_before,
        }

    def note(self, event: Json) -> None:
        """Remember stage and progress."""
        self._stage = event.get("stage", self._stage)
        self._progress = event.get("progress", self._progress)

    def beat(self, unit: UnitOfWork) -> bool:
        """Write stage and progress."""
        row = unit.jobs.get(self.record_id)
        if self._progress:
            row.stage, row.progress = self._stage, self._progress
        return row.status == "cancelling"

    def failed(self, error: Json) -> Sequence[str]:
        """The job ends without a result."""
        with self.publishing() as unit:
            unit.jobs.fail(unit.jobs.get(self.record_id), error)
        return ()

    def cancelled(self) -> None:
        """The job ends because somebody asked for it."""
        with self.publishing() as unit:
            unit.jobs.change_status(unit.jobs.get(self.record_id), "cancelled")


def importing(model: tables.Model) -> Json:
    """How the importer is to understand the model's file."""
    said = {name: model.options.get(name) for name in _IMPORTING}
    if model.origin == "calibrated":  # our own file: its calibrated output is the one that counts
        said |= {"output": "probabilities", "task": (model.profile or {}).get("task")}
    return said
