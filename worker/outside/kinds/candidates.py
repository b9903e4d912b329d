"""Candidates: trainings of a race that another worker leads, one after the other in the same child."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import FINAL, RecordError
from service.registry.documents import JsonObject
from service.registry.registry import UnitOfWork
from worker.documents import CandidateOrder, CandidatesResult, ChildEvent, EndReply, Reply
from worker.outside.kinds.base import Prepared
from worker.outside.kinds.on_inputs import obstacle
from worker.outside.kinds.race import RaceWork, fail_piece
from worker.outside.kinds.told_events import REPEATED
from worker.outside.versions import race_versions

#: A training that this worker may not do is left to others for so long.
_LEFT_S = 10.0


class Candidate(RaceWork[CandidatesResult]):
    """A training of a race, and those after it whose turn it is while the child lives."""

    result, order = CandidatesResult, CandidateOrder
    _job_id = ""

    @property
    def job_id(self) -> str:
        """The job whose race it is."""
        return self._job_id

    def looks_before(self, unit: UnitOfWork, dataset: tables.Dataset) -> int:
        """Nobody looks at the test rows."""
        return 0

    def begin(self) -> Prepared | None:
        """Hold the training; close it where its job has ended, leave it where it is not for this worker."""
        with self.registry.write() as unit:
            unit.work.verify(self.claim)
            self._job_id = unit.pieces.get(self.record_id).parent_id
            row = unit.jobs.find(self.job_id)
            if row is None or row.status in FINAL:
                unit.work.finish(self.claim)
                return None
            if unit.work.of(self.record_id).requires != race_versions() or row.status == "cancelling":
                unit.work.release(self.claim, after_seconds=_LEFT_S)
                return None
            model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
            for noun, found in (("model", model), ("dataset", dataset)):
                if (error := obstacle(noun, found, fits=True)) is not None:
                    fail_piece(unit, self.claim, error)
                    return None
            self.know_told(unit)
            self.held = self.hold(unit, self.claim)
        assert model is not None
        assert dataset is not None
        return self.prepare(row, model, dataset)

    def take(self, told: ChildEvent) -> None:
        """Only what happens in trainings; the rest is told by the one that leads."""
        event = told.event if told.event is not None and told.event.type in REPEATED else None
        super().take(told.model_copy(update={"stage": None, "event": event}))

    def reply(self, journal: Path) -> Reply | None:
        """The training that is held, or the next of this race if it is its turn; else the child ends."""
        if self.held is None or self.held.told:
            with self.registry.write() as unit:
                self.drop_unkept(unit)
                row = unit.jobs.find(self.job_id)
                ends = row is None or row.status in (*FINAL, "cancelling")
                held = None if ends else self.claim_training(unit)
            if held is None:
                return EndReply()
            self.held, self.claim, self.record_id = held, held.claim, held.piece_id
        return self.train_reply(self.held, journal)

    @property
    def _holds(self) -> bool:
        """Whether there is something to hand back."""
        return self.held is None or not self.held.ended

    def renew(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        """Renew the claim of the training, if there is one just now."""
        if self._holds:
            super().renew(unit, lease_seconds=lease_seconds)

    def heartbeat(self, unit: UnitOfWork) -> bool:
        """Write events and progress of the job; its cancellation takes the training away."""
        if self.held is not None and self._holds:
            self.write_events(unit)
            self.write_progress(unit, self.row(unit))
        return False

    def save_checkpoint(self, unit: UnitOfWork, name: str, file: StagedFile) -> list[str]:
        """Keep an entry of the training."""
        if self.held is None or not self.held.takes(name):
            raise OSError("it is of no training that was ordered")
        return self.save_training(unit, self.held, name, file)

    def succeeded(self, answer: JsonObject, folder: Path) -> None:
        """The child has done all that it was given; its outcomes are there already."""
        self.result.arrived(answer)
        with self.registry.write() as unit:
            self.drop_unkept(unit)

    def log_done(self, seconds: float) -> None:
        """Each training was logged at its own end."""

    def publish(self, unit: UnitOfWork, found: CandidatesResult, files: Mapping[str, StagedFile]) -> BaseModel:
        """Nothing is published but outcomes."""
        raise NotImplementedError

    def given_up(self, error: RecordError) -> None:
        """The training is lost too often, and its job fails."""
        with self.registry.write() as unit:
            fail_piece(unit, self.claim, error)

    def failed(self, error: RecordError) -> None:
        """This worker cannot do it: another may."""
        with self.registry.write() as unit:
            self.lost(unit, f"{error.code}: {error.message}")

    def handed_back(self, unit: UnitOfWork, reason: str, *, after_seconds: float = 0.0) -> None:
        """Another worker goes on with the training; this was no attempt."""
        if self._holds:
            super().handed_back(unit, reason, after_seconds=after_seconds)

    def lost(self, unit: UnitOfWork, reason: str) -> None:
        """The training is tried again from its last epoch."""
        if self._holds:
            super().lost(unit, reason)
