"""The calibration job meets the registry: its place in the ledger of looks, its progress, and what it publishes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import JobRequest
from service.registry.ids import new_id
from service.registry.repositories import Claim
from service.registry.repositories.records import now
from service.registry.unit_of_work import Registry, UnitOfWork
from worker.sandbox import Limits
from worker.settings import WorkerSettings
from worker.steps.base import Json, Prepared, Step, ready


class Calibrate(Step):
    """The job itself."""

    name = "calibrate"

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._stage = "inspecting"
        self._progress: Json = {}

    def begin(self) -> Prepared | None:
        """Mark as running and take a look at the test rows; settle at once what was cancelled or cannot run."""
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
            looks_before = unit.looks.take(both[1].sha256, row.id)
        return Prepared(self._spec(row, *both, looks_before), self._limits(row))

    def _spec(self, row: tables.Job, model: tables.Model, dataset: tables.Dataset, looks_before: int) -> Json:
        return {
            "job_id": row.id,
            "request": JobRequest.model_validate(row.request).model_dump(),  # ordered before an upgrade: its defaults
            "model": {
                "id": model.id,
                "file": self.path(model.sha256),
                "sha256": model.sha256,
                "importing": _importing(model),
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

    def _limits(self, row: tables.Job) -> Limits:
        return Limits(60 * row.request["budget"]["minutes"] + self.settings.job_grace_seconds)

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

    def succeeded(self, result: Json, folder: Path) -> Sequence[str]:
        """Publish calibrated model, report, diagram and page together with the job's end."""
        names = ["report", "diagram", *(["page"] if "page" in result else [])]
        names += ["model"] if result["calibrated"] is not None else []
        with ExitStack() as stack:
            files = {name: stack.enter_context(self.staged(folder / result[name])) for name in names}
            unit = stack.enter_context(self.publishing())
            row = unit.jobs.get(self.record_id)
            row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
            row.page_sha256 = files["page"].keep() if "page" in files else None
            row.verdict, row.promoted = result["verdict"], result["promoted"]
            if row.verdict == "undetermined":  # the test rows have judged nothing
                unit.looks.give_back(row.id)
            served = unit.models.get(row.model_id)
            if result["calibrated"] is not None:
                served = unit.models.add(_calibrated(served, row, result["calibrated"], files["model"]))
            row.calibrated_model_id = served.id
            if row.request["publish_as"] and (row.promoted or row.request["publish_when"] == "always"):
                version = unit.names.publish(row.request["publish_as"], served)
                if served.origin == "calibrated":
                    served.name, served.version = row.request["publish_as"], version
            row.stage, row.progress = "publishing", {"fraction": 1.0}
            unit.jobs.change_status(row, "succeeded")
        return ()

    def failed(self, error: Json) -> Sequence[str]:
        """The job ends without a result."""
        with self.publishing() as unit:
            unit.jobs.fail(unit.jobs.get(self.record_id), error)
        return ()

    def cancelled(self) -> None:
        """The job ends because somebody asked for it."""
        with self.publishing() as unit:
            unit.jobs.change_status(unit.jobs.get(self.record_id), "cancelled")


def _importing(model: tables.Model) -> Json:
    """How the importer is to understand the model's file."""
    if model.origin == "calibrated":  # our own file: its calibrated output is the one that counts
        return {"output": "probabilities", "task": (model.profile or {}).get("task")}
    return {name: model.options.get(name) for name in ("output", "features", "task")}


def _calibrated(parent: tables.Model, job: tables.Job, profile: Json, file: StagedFile) -> tables.Model:
    digest = file.keep()
    return tables.Model(
        id=new_id("mdl"),
        name=parent.name,
        version=1,
        origin="calibrated",
        status="ready",
        created_at=now(),
        sha256=digest,
        served_sha256=digest,
        bytes=file.size,
        options={},
        profile=profile,
        calibrated=True,
        parent_id=parent.id,
        job_id=job.id,
    )
