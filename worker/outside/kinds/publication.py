"""Publication: the calibrated model of a job as a record, and the name that it answers under from then on."""

from __future__ import annotations

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.documents import ModelProfile, Publication
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id, now


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
