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
from service.registry.documents import Notice, Progress
from service.registry.errors import LeaseLost
from service.registry.presenters import job_record, model_record
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim, Due, NewPiece
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
from worker.outside.kinds.publication import calibrated, published
from worker.outside.kinds.race import RUNNING, HeldTraining, RaceWork
from worker.outside.versions import race_versions
from worker.sandbox.protocol import Limits
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")

#: A race has at most a thousand candidates, of three folds and with a few refits.
_MOST_TRAININGS = 3_100

_UNDETERMINED = (
    "nothing was fitted and nothing is judged, since it is unknown which rows the model was trained on: send the "
    "dataset again with seen_by_model=no, or with a column split"
)


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
            unit.work.of(self.job_id).requires = None
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
        held, outcomes = self.held, None
        if held is None or held.told:
            if self._only_waits(held):
                return None
            with self.registry.write() as unit:
                held, outcomes = self._next(unit)
            self.held = held
            if self._suspended:
                raise Suspended
        if held is not None:
            return self.train_reply(held, journal)
        if outcomes is None:
            return None
        reply = GoOnReply(entries=self.given(outcomes, journal))
        self._known |= set(outcomes)
        self._rung.clear()
        self.waits = False
        return reply

    def _only_waits(self, held: HeldTraining | None) -> bool:
        """Whether others are at what is left of the rung, and nothing is due: no writer's turn is taken in vain."""
        if held is not None and not held.ended:
            return False
        with self.registry.read() as unit:
            states = unit.pieces.by_name(self.job_id)
            rung = {states.get(name, "new") for name in self._rung}
            if "waiting" not in rung or "new" in rung or "failed" in states.values():
                return False
            return self._due(unit) is None

    def _due(self, unit: UnitOfWork) -> Due | None:
        """What this worker may take of the job's queue now."""
        assert self.claimant is not None
        queue = unit.work.of(self.job_id).queue
        return unit.work.next_due(queue, self.claimant.limits(queue))

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
        if self._rung:
            work.requires = race_versions()  # of whoever leads on, too
        return unit.pieces.add_all(
            self.job_id,
            [
                NewPiece(name, offer.order.stored(), work_seconds=offer.order.work_seconds)
                for name, offer in sorted(self._rung.items(), key=lambda one: -one[1].order.work_seconds)
            ],  # the longest first: a rung ends with its last training
            queue=work.queue,
            requires=race_versions(),
            memory_bytes=work.memory_bytes,
            most=_MOST_TRAININGS,
        )

    def show_next(self, claim: Claim) -> None:
        """What is shown is the job, also while its leader trains."""
        self.count_next(claim)

    def _let_others_pass(self, unit: UnitOfWork) -> None:
        """Where work of others is due, wait for the trainings without a worker: whoever ends the last goes on."""
        if self._due(unit) is not None:
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
