"""Work on a race: its child does one training at a time, each a piece of the job under a claim of its own.

The job's own worker and all that help it hold such claims. Writers take turns, by a lock that every writing transaction
begins with (`registry.database`): what one has marked here the next one sees, and no two hold rows of each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from service.registry import tables
from service.registry.artifacts import StagedFile
from service.registry.contract import JobRequest, RecordError
from service.registry.documents import Document, Progress
from service.registry.errors import LeaseLost, NotFound
from service.registry.registry import UnitOfWork
from service.registry.repositories import Claim
from worker.documents import ChildEvent, TrainingOrder, TrainReply
from worker.outside.journal_folder import give_file
from worker.outside.kinds.base import R, given_up, log_done, log_given_up
from worker.outside.kinds.jobs import JobKind
from worker.sandbox.protocol import Limits

_LOG = logging.getLogger("fedlas.worker")

CANDIDATE = "candidate"
#: The entry that is replaced with every epoch.
RUNNING = "running"
_NOT_KEPT = "its outcome was not kept"


class TrainingEnded(Document):
    """The result of a piece beside its outcome."""

    seconds: float


class HeldTraining:
    """A training that the child has been given, or is about to be given.

    Attributes:
        share: of it that is done, by the child's account.
        told: whether the child knows of it.
        ended: whether the claim is given up, with the outcome or without.
    """

    def __init__(self, claim: Claim, piece: tables.Piece) -> None:
        self.claim, self.piece_id, self.name = claim, piece.id, piece.name
        self.order = TrainingOrder.read(piece.order)
        self.share, self.told, self.ended = 0.0, False, False
        self._began = time.monotonic()

    def takes(self, name: str) -> bool:
        """Whether an entry of this name is its state, or its outcome."""
        return not self.ended and name in (RUNNING, self.name)

    @property
    def seconds(self) -> float:
        """How long it has been held."""
        return time.monotonic() - self._began


class RaceWork(JobKind[R]):
    """Work that claims trainings of its job.

    Attributes:
        held: the training that the child does now.
        waits: whether the child waits until others have done theirs.
    """

    held: HeldTraining | None = None
    waits = False

    def limits(self, request: JobRequest) -> Limits:
        """Its own budget of time, and some grace."""
        return Limits(60 * request.budget.minutes + self.settings.job_grace_seconds)

    def take(self, told: ChildEvent) -> None:
        """Pass on what it asks for, after all that it has told."""
        held = self.held
        if told.share is not None and held is not None:
            held.share = max(held.share, told.share)
        super().take(told)
        if told.asks is not None:
            self.waits = True
            self.ask()

    def claim_training(self, unit: UnitOfWork) -> HeldTraining | None:
        """Claim a training of this race if it is next in the order of the queue; None if it is not.

        What is given up is written as failed, which is what becomes of the job.
        """
        queue = unit.work.of(self.job_id).queue
        while (claim := self.next_piece(unit, of=self.job_id, kind=CANDIDATE, queue=queue)) is not None:
            if (error := given_up(claim, self.settings.max_attempts)) is None:
                unit.callbacks.append(partial(self._claimed, claim))
                return self.hold(unit, claim)
            log_given_up(claim, error)
            fail_piece(unit, claim, error)
        return None

    def hold(self, unit: UnitOfWork, claim: Claim) -> HeldTraining:
        """The training of this claim; what an earlier attempt at it has told is not told again."""
        piece = unit.pieces.get(claim.record_id)
        if claim.attempts > 1:
            self.know_told(unit)
        held = HeldTraining(claim, piece)
        spent = _spent_since(unit, piece)
        held.order = held.order.model_copy(update={"spent_seconds": held.order.spent_seconds + spent})
        return held

    def _claimed(self, claim: Claim, committed: bool) -> None:
        if committed:
            self.show_next(claim)

    def train_reply(self, held: HeldTraining, journal: Path) -> TrainReply:
        """Tell the child of it, with what an earlier attempt has saved."""
        with self.registry.read() as unit:
            saved = unit.checkpoints.of(held.piece_id)
        reply = TrainReply(name=held.name, order=held.order, entries=self.given(saved, journal))
        held.told = True
        return reply

    def given(self, entries: Mapping[str, str], journal: Path) -> dict[str, str]:
        """Put stored entries into the child's folder; what is lost or damaged is only trained again."""
        files = {}
        for name, digest in entries.items():
            try:
                with self.registry.artifacts.held(digest) as source:
                    files[name] = give_file(journal, source, digest)
            except (NotFound, ValueError) as error:
                _LOG.warning("%s: the entry %s is trained again: %s", self.claim, name, error)
        return files

    def drop_unkept(self, unit: UnitOfWork) -> None:
        """A training whose outcome is not there when the child asks for the next one waits to be done again."""
        if self.held is not None and not self.held.ended:
            _LOG.warning("%s: %s", self.held.claim, _NOT_KEPT)
            self.release_training(unit, lost=_NOT_KEPT)

    def release_training(self, unit: UnitOfWork, *, lost: str | None = None) -> None:
        """Let others do the held training; `lost` says why this was an attempt."""
        held = self.held
        if held is not None and not held.ended:
            with suppress(LeaseLost):
                if lost is None:
                    unit.work.release(held.claim)
                else:
                    unit.work.retry(held.claim, lost)
            _mark_ended(unit, held)

    def save_training(self, unit: UnitOfWork, held: HeldTraining, name: str, file: StagedFile) -> list[str]:
        """Keep an entry of the held training: its state, or its outcome, with which it ends. Raises LeaseLost."""
        if name == RUNNING:
            unit.work.verify(held.claim, reached=held.share)
            self.write_events(unit)
            self.advance(unit, held, held.share)
            older = unit.checkpoints.save(held.piece_id, name, file.keep())
            return [] if older is None else [older]
        unit.work.finish(held.claim)
        self.write_events(unit)
        self.advance(unit, held, 1.0)
        unit.pieces.finish(
            held.piece_id, sha256=file.keep(), result=TrainingEnded(seconds=round(held.seconds, 3)).stored()
        )
        _mark_ended(unit, held)
        unit.callbacks.append(lambda committed: log_done(held.claim, held.seconds) if committed else None)
        return []

    def renew_training(self, unit: UnitOfWork, *, lease_seconds: float) -> None:
        """Renew the claim of the held training; raises LeaseLost."""
        held = self.held
        if held is not None and not held.ended:
            unit.work.renew(held.claim, lease_seconds=lease_seconds)

    def write_progress(self, unit: UnitOfWork, row: tables.Job) -> None:
        """Write how far the held training is, or the child; one that waits does not know how far the others are."""
        held = self.held
        if held is not None and not held.ended:
            self.advance(unit, held, held.share)
        elif not self.waits:
            super().write_progress(unit, row)

    def advance(self, unit: UnitOfWork, held: HeldTraining, share: float) -> None:
        """So much of the training is done: the job is further by what is new of it."""
        piece, row = unit.pieces.get(held.piece_id), self.row(unit)
        gained = max(0.0, share - piece.reached) * held.order.job_share
        unit.pieces.reach(piece.id, share)
        self.set_progress(unit, row, _further(Progress.model_validate(row.progress), gained, self.progress))


def _mark_ended(unit: UnitOfWork, held: HeldTraining) -> None:
    """The claim is not held any more, from this transaction on."""
    held.ended = True
    unit.callbacks.append(lambda committed: setattr(held, "ended", committed))


def fail_piece(unit: UnitOfWork, claim: Claim, error: RecordError) -> None:
    """End a piece without a result; its job ends with it, by whoever goes on with it now."""
    unit.work.finish(claim)
    parent_id = unit.pieces.get(claim.record_id).parent_id
    unit.pieces.fail(claim.record_id, error.model_dump())
    unit.work.unblock([parent_id])


def _further(before: Progress, gained: float, told: Progress | None) -> Progress:
    """The progress of a job whose race is further by `gained`; the time that is left shrinks with the work."""
    fraction = min(1.0, round(before.fraction + gained, 6))
    left, eta = 1 - before.fraction, before.eta_seconds
    shown = {} if told is None else told.model_dump(include={"candidate", "epoch", "epochs"})
    eta = eta * (1 - fraction) / left if eta is not None and left > 0 else eta
    return before.model_copy(update={**shown, "fraction": fraction, "eta_seconds": eta})


def _spent_since(unit: UnitOfWork, piece: tables.Piece) -> float:
    """Seconds of the budget since the training was offered: no more than trainings took, however busy others were."""
    waited = (unit.now() - piece.created_at).total_seconds()
    rung = [one for one in unit.pieces.of(piece.parent_id) if one.created_at >= piece.created_at]
    worked = sum(TrainingEnded.read(one.result).seconds for one in rung if one.result is not None)
    return max(0.0, min(waited, worked))
