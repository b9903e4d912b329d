"""Calibrations and their dry runs: what is looked at, what is published, and the name that it answers under."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import JobRequest
from service.registry.documents import ModelProfile, Notice, Publication
from service.registry.presenters import job_record, model_record
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id, now
from worker.documents.orders import CalibrateOrder, PlanOrder
from worker.documents.results import JobResult, PlanResult
from worker.outside.kinds.jobs import JobKind
from worker.sandbox.protocol import Limits

_UNDETERMINED = (
    "nothing was fitted and nothing is judged, since it is unknown which rows the model was trained on: send the "
    "dataset again with seen_by_model=no, or with a column split"
)


def published(unit: UnitOfWork, name: str, job: tables.Job, served: tables.Model) -> Publication:
    """Make the served model the first version of a new name, or the next one where the job has shown enough."""
    # What answers under a name already is replaced only by what is shown to be better; a new name shall answer.
    when = (job.request.get("publish_when") or "shown") if unit.names.exists(name) else "always"
    if when != "always" and not job.promoted:
        return Publication(name=name, reason=f"the uploaded model is served as it is ({job.verdict})")
    if when == "shown" and not job.shown:
        return Publication(name=name, reason="the test rows do not show what is served to be better")
    version = unit.names.publish(name, served)
    if served.origin == "calibrated":
        served.name, served.version = name, version
    return Publication(name=name, version=version)


def calibrated(parent: tables.Model, job: tables.Job, profile: ModelProfile, file: StagedFile) -> tables.Model:
    """The record of the file that a job has made of its model; it is an ordinary model from here on."""
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
        seen_rows_sha256=parent.seen_rows_sha256,
        seen_rows_key=parent.seen_rows_key,
    )


class Calibrate(JobKind[JobResult]):
    """The job itself."""

    result, order = JobResult, CalibrateOrder

    def limits(self, request: JobRequest) -> Limits:
        """Its own budget of time, and some grace."""
        return Limits(60 * request.budget.minutes + self.settings.job_grace_seconds)

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """Take a look: the test rows will judge."""
        return unit.ledger.enter(dataset.sha256, self.record_id)

    def publish(self, unit: UnitOfWork, found: JobResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Publish calibrated model, report, diagram, page and predictions together with the job's end."""
        self.write_events(unit)
        row = self.row(unit)
        row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
        row.page_sha256, row.predictions_sha256 = files["page"].keep(), files["predictions"].keep()
        row.verdict, row.promoted, row.shown = found.verdict, found.promoted, found.shown
        row.adjustments = [notice.stored() for notice in found.adjustments]
        if row.verdict == "undetermined":  # the test rows have judged nothing
            unit.ledger.withdraw(row.id)
            unit.jobs.add_warning(row, Notice(code="undetermined", message=_UNDETERMINED).stored())
        served = unit.models.get(row.model_id)
        if found.calibrated is not None:
            served = unit.models.add(calibrated(served, row, found.calibrated, files["model"]))
            if "seen_rows" in files:
                served.seen_rows_sha256, served.seen_rows_key = files["seen_rows"].keep(), self._row_key
            model_record(unit, served).model_dump_json()  # raises where no list could show it
        row.calibrated_model_id = served.id
        unit.jobs.enter_stage(row, "publishing")
        row.progress = {"fraction": 1.0}
        # Another release may have inserted the row without the column, which only lists are searched by.
        if (name := JobRequest.read(row.request).publish_as) is not None:
            publication = published(unit, name, row, served)
            unit.events.add(row.id, "publication", publication.stored())
            if publication.version is None:
                message = f"“{name}” answers as before: {publication.reason}; predict_url leads to what this job serves"
                unit.jobs.add_warning(row, Notice(code="not_published", message=message).stored())
        unit.jobs.change_status(row, "succeeded")
        return job_record(unit, row, unit.work.of(row.id))


class Plan(JobKind[PlanResult]):
    """A dry run: no test row is looked at, nothing is published, and a plan is left in the job's record."""

    result, order = PlanResult, PlanOrder

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """What the job would be told, without a place in the ledger."""
        return unit.ledger.evaluations(dataset.sha256)

    def limits(self, request: JobRequest) -> Limits:
        """As long as a job may go beyond its budget: reading large inputs takes as long as before training."""
        return Limits(self.settings.job_grace_seconds)

    def publish(self, unit: UnitOfWork, found: PlanResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Keep the plan."""
        self.write_events(unit)
        row = self.row(unit)
        row.plan, row.progress = found.plan.stored(), {"fraction": 1.0}
        row.warnings = [notice.stored() for notice in found.plan.warnings]
        row.adjustments = [notice.stored() for notice in found.plan.adjustments]
        unit.jobs.change_status(row, "succeeded")
        return job_record(unit, row, unit.work.of(row.id))
