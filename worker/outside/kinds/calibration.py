"""Calibrations: a job's place in the evaluation ledger, and what the job publishes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.documents import ModelProfile
from service.registry.presenters import job_record, model_record
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork
from worker.documents import CalibrateOrder, JobResult
from worker.outside.kinds.base import JsonObject, check_report, require_answerable
from worker.outside.kinds.jobs import JobKind
from worker.sandbox.protocol import Limits


class Calibrate(JobKind):
    """The job itself."""

    order = CalibrateOrder

    def looks_before(self, unit: UnitOfWork, row: tables.Job, dataset: tables.Dataset) -> int:
        """Take a look: the test rows will judge."""
        return unit.ledger.enter(dataset.sha256, row.id)

    def limits(self, row: tables.Job) -> Limits:
        """Its own budget of time, and some grace."""
        return Limits(60 * row.request["budget"]["minutes"] + self.settings.job_grace_seconds)

    def succeeded(self, result: JsonObject, folder: Path) -> None:
        """Publish calibrated model, report, diagram and page together with the job's end."""
        found = JobResult.arrived(result)
        check_report(folder / found.report)
        names = {"report": found.report, "diagram": found.diagram}
        if found.page is not None:
            names["page"] = found.page
        if found.calibrated is not None:
            names["model"] = found.model
        with ExitStack() as stack:
            files = {key: stack.enter_context(self.staged(folder / name)) for key, name in names.items()}
            unit = stack.enter_context(self.publishing())
            self.write_events(unit)
            row = unit.jobs.get(self.record_id)
            row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
            row.page_sha256 = files["page"].keep() if "page" in files else None
            row.verdict, row.promoted = found.verdict, found.promoted
            if row.verdict == "undetermined":  # the test rows have judged nothing
                unit.ledger.withdraw(row.id)
            served = unit.models.get(row.model_id)
            if found.calibrated is not None:
                served = unit.models.add(_calibrated(served, row, found.calibrated, files["model"]))
                require_answerable(model_record(served))
            row.calibrated_model_id = served.id
            if row.request["publish_as"] and (row.promoted or row.request["publish_when"] == "always"):
                version = unit.names.publish(row.request["publish_as"], served)
                if served.origin == "calibrated":
                    served.name, served.version = row.request["publish_as"], version
            unit.jobs.update_progress(row, "publishing", {"fraction": 1.0})
            unit.jobs.change_status(row, "succeeded")
            require_answerable(job_record(row, unit.work.of(row.id)))


def _calibrated(parent: tables.Model, job: tables.Job, profile: ModelProfile, file: StagedFile) -> tables.Model:
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
        profile=profile.stored(),
        calibrated=True,
        parent_id=parent.id,
        job_id=job.id,
    )
