"""Calibrations and their dry runs: what is looked at and what is published."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import JobRequest, RecordError
from service.registry.documents import ModelProfile, Progress, Publication
from service.registry.errors import LeaseLost
from service.registry.presenters import job_record, model_record
from service.registry.registry import Registry
from service.registry.repositories import Claim, NewPiece
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork
from worker.documents import (
    CalibrateOrder,
    ChildEvent,
    GoOnReply,
    JobResult,
    OfferedTraining,
    PlanOrder,
    PlanResult,
    Reply,
)
from worker.outside.kinds.base import PieceFailed, Suspended
from worker.outside.kinds.jobs import JobKind
from worker.outside.kinds.race import RUNNING, HeldTraining, RaceWork
from worker.outside.versions import race_versions
from worker.sandbox.protocol import Limits
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")

#: A race has at most a thousand candidates, of three folds and with a few refits.
_MOST_TRAININGS = 3_100


class Calibrate(RaceWork[JobResult]):
    """The job itself, which leads its race: it offers trainings to all workers, and does one at a time itself."""

    result, order = JobResult, CalibrateOrder

    def __init__(self, registry: Registry, settings: WorkerSettings, claim: Claim) -> None:
        super().__init__(registry, settings, claim)
        self._rung: dict[str, OfferedTraining] = {}
        self._offers = 0
        self._known: set[str] = set()  # the outcomes that the child has
        self._suspended = False

    def start(self, unit: UnitOfWork, dataset: tables.Dataset) -> None:
        """The same; what workers of other versions have begun of the race is begun anew."""
        pieces = unit.pieces.of(self.job_id)
        if pieces and unit.work.of(pieces[0].id).requires != race_versions():
            _LOG.warning("%s: other versions have begun its race, which is begun again", self.job_id)
            unit.after_commit.unreferenced += unit.pieces.drop(self.job_id)
        super().start(unit, dataset)

    def saved(self, unit: UnitOfWork) -> Mapping[str, str]:
        """The same, and the outcomes of trainings that are done."""
        done = {piece.name: piece.sha256 for piece in unit.pieces.of(self.job_id) if piece.sha256 is not None}
        self._known = set(done)
        return {**super().saved(unit), **done}

    def take(self, told: ChildEvent) -> None:
        """The same, and note what is offered."""
        if told.offer is not None and told.offer.name != RUNNING and self._offers < _MOST_TRAININGS:
            self._offers += 1
            self._rung[told.offer.name] = told.offer
        super().take(told)

    def reply(self, journal: Path) -> Reply | None:
        """The training whose turn it is, or the outcomes of all that were offered; for those of others it waits."""
        outcomes: Mapping[str, str] | None = None
        if self.held is None or self.held.told:
            with self.registry.write() as unit:
                self.held, outcomes = self._next(unit)
            if self._suspended:
                raise Suspended
        if self.held is not None:
            return self.train_reply(self.held, journal)
        if outcomes is None:
            return None
        reply = GoOnReply(entries=self.given(outcomes, journal))
        self._known |= set(outcomes)
        self._rung.clear()
        self.waits = False
        return reply

    def _next(self, unit: UnitOfWork) -> tuple[HeldTraining | None, Mapping[str, str] | None]:
        """A training to do, or the outcomes that the child lacks, where all are there; neither where others do some."""
        unit.work.verify(self.claim)
        self.drop_unkept(unit)
        pieces = self._offered(unit)
        if errors := [piece.error for piece in pieces if piece.error is not None]:
            raise PieceFailed(RecordError.model_validate(errors[0]))
        if all(piece.status == "done" for piece in pieces if piece.name in self._rung):
            self.know_told(unit)
            done = {piece.name: piece.sha256 for piece in pieces if piece.sha256 is not None}
            return None, {name: done[name] for name in done.keys() - self._known}
        held = self.claim_training(unit)
        if held is None:
            self._let_others_pass(unit)
        return held, None

    def _offered(self, unit: UnitOfWork) -> Sequence[tables.Piece]:
        """All pieces of the job, after those of this rung were made that are not there yet."""
        work = unit.work.of(self.job_id)
        return unit.pieces.add_all(
            self.job_id,
            [
                NewPiece(name, offer.order.stored(), work_seconds=offer.order.work_seconds)
                for name, offer in self._rung.items()
            ],
            queue=work.queue,
            requires=race_versions(),
            memory_bytes=work.memory_bytes,
        )

    def _let_others_pass(self, unit: UnitOfWork) -> None:
        """Where work of others is due, wait for the trainings without a worker: whoever ends the last goes on."""
        assert self.claimant is not None
        queue = unit.work.of(self.job_id).queue
        if unit.work.next_due(queue, self.claimant.limits(queue)) is not None:
            self.write_events(unit)
            unit.pieces.suspend_parent(self.claim)
            self._suspended = True
            unit.callbacks.append(lambda committed: setattr(self, "_suspended", committed))

    def renew(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        """Renew both claims; a training that another worker has taken over is that worker's."""
        if self._suspended:
            return
        super().renew(unit, lease_seconds=lease_seconds)
        try:
            self.renew_training(unit, lease_seconds=lease_seconds)
        except LeaseLost:
            self.held = None

    def save_checkpoint(self, unit: UnitOfWork, name: str, file: StagedFile) -> list[str]:
        """Keep an entry of the training that was ordered for whoever goes on with it, any other for this job."""
        held = self.held
        if held is not None and held.takes(name):
            unit.work.verify(self.claim)
            with suppress(LeaseLost):  # another worker does it: the entry is of use where this one goes on
                replaced = self.save_training(unit, held, name, file)
                unit.work.verify(self.claim, reached=Progress.model_validate(self.row(unit).progress).fraction)
                self._known.add(name)
                return replaced
        return super().save_checkpoint(unit, name, file)

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        """The same, with its training."""
        super().handed_back(unit, reason, after_seconds=after_seconds)
        self.release_training(unit)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        """The same, with its training."""
        super().lost(unit, reason)
        self.release_training(unit, lost=reason)

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """Take a look: the test rows will judge."""
        return unit.ledger.enter(dataset.sha256, self.record_id)

    def publish(self, unit: UnitOfWork, found: JobResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Publish calibrated model, report, diagram and page together with the job's end."""
        self.write_events(unit)
        row = self.row(unit)
        row.report_sha256, row.diagram_sha256 = files["report"].keep(), files["diagram"].keep()
        row.page_sha256 = files["page"].keep()
        row.verdict, row.promoted, row.shown = found.verdict, found.promoted, found.shown
        row.adjustments = [notice.stored() for notice in found.adjustments]
        if row.verdict == "undetermined":  # the test rows have judged nothing
            unit.ledger.withdraw(row.id)
        served = unit.models.get(row.model_id)
        if found.calibrated is not None:
            served = unit.models.add(_calibrated(served, row, found.calibrated, files["model"]))
            if "seen_rows" in files:
                served.seen_rows_sha256, served.seen_rows_key = files["seen_rows"].keep(), self._row_key
            model_record(served).model_dump_json()  # raises where no list could show it
        row.calibrated_model_id = served.id
        unit.jobs.enter_stage(row, "publishing")
        row.progress = {"fraction": 1.0}
        # Another release may have inserted the row without the column, which only lists are searched by.
        if (name := JobRequest.read(row.request).publish_as) is not None:
            publication = _published(unit, name, row, served)
            unit.events.add(row.id, "publication", publication.stored())
        unit.jobs.change_status(row, "succeeded")
        return job_record(row, unit.work.of(row.id))


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
        return job_record(row, unit.work.of(row.id))


def _published(unit: UnitOfWork, name: str, job: tables.Job, served: tables.Model) -> Publication:
    """Make the served model the next version of the name, unless the job has shown too little for that."""
    when = job.request.get("publish_when")
    if when is None:  # what answers under a name already is replaced only by what is shown to be better
        when = "shown" if unit.names.exists(name) else "promoted"
    if when != "always" and not job.promoted:
        return Publication(name=name, reason=f"the uploaded model is served as it is ({job.verdict})")
    if when == "shown" and not job.shown:
        return Publication(name=name, reason="the test rows do not show what is served to be better")
    version = unit.names.publish(name, served)
    if served.origin == "calibrated":
        served.name, served.version = name, version
    return Publication(name=name, version=version)


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
        seen_rows_sha256=parent.seen_rows_sha256,
        seen_rows_key=parent.seen_rows_key,
    )
