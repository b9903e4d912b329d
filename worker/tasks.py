"""One message, one record: claim it, supervise its child, publish what came of it, or hand it back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.registry.contract import WORK_KINDS
from service.registry.errors import LeaseLost, RegistryError, Unavailable
from service.registry.repositories import Claim
from service.registry.unit_of_work import Registry
from worker import sandbox
from worker.settings import WorkerSettings
from worker.steps import NotReady, Step, step_of

_LOG = logging.getLogger("fedlas.worker")


class Cancelled(Exception):
    """Somebody asked for the job to be cancelled."""


class Stopping(Exception):
    """This worker is shutting down."""


class Worker:
    """Does pieces of work, several at once; knows nothing of the queue but how to ring."""

    def __init__(self, settings: WorkerSettings, registry: Registry, *, name: str, ring: Callable[[str], None]) -> None:
        self._settings = settings
        self._registry = registry
        self._name = name
        self._ring = ring
        self._free_jobs = threading.BoundedSemaphore(settings.worker_jobs)
        self.stopping = threading.Event()

    def handle(self, record_id: str) -> None:
        """Do the work of this record if it is open and there is room for it; a doubled message does nothing."""
        trains = self._kind_of(record_id) == WORK_KINDS["job"]
        if self.stopping.is_set() or (trains and not self._free_jobs.acquire(blocking=False)):
            return  # the row stays open; whoever is free next is told
        settled = False
        try:
            settled = self._claim_and_do(record_id)
        finally:
            if trains:
                self._free_jobs.release()
            if trains and settled:
                self._ring_next()

    def _kind_of(self, record_id: str) -> str | None:
        with self._registry.read() as unit:
            return unit.work.kind_of(record_id)

    def _claim_and_do(self, record_id: str) -> bool:
        """Return whether the work is off the list: a job that still waits for its inputs must not ring for itself."""
        with self._registry.write() as unit:
            claim = unit.work.claim(record_id, worker=self._name, lease_seconds=self._settings.lease_seconds)
        if claim is None:
            return False
        step = step_of(claim)(self._registry, self._settings, claim)
        try:
            self._do(step, claim)
            return True
        except LeaseLost:
            _LOG.warning("%s: another worker owns it now; nothing was written", record_id)
        except Unavailable as error:
            _LOG.warning("%s: given up for now, its lease will end: %s", record_id, error)
        except NotReady as error:
            _LOG.info("%s waits: %s", record_id, error)
            self._hand_back(claim, counts=False)
        except Stopping:
            _LOG.info("%s handed back, this worker stops", record_id)
            self._hand_back(claim, counts=False)
            self._ring(record_id)
        except Cancelled:
            step.cancelled()
            _LOG.info("%s cancelled", record_id)
            return True
        return False

    def _do(self, step: Step, claim: Claim) -> None:
        if claim.attempts > self._settings.max_attempts:
            step.failed(_given_up(claim))
            return
        prepared = step.begin()
        if prepared is None:
            return
        _LOG.info("%s started (attempt %d)", claim.record_id, claim.attempts)
        started = time.monotonic()
        with sandbox.private_folder(self._settings.work_dir) as folder:
            outcome = sandbox.run(
                step.name,
                prepared.spec,
                folder=folder,
                limits=prepared.limits,
                on_event=step.note,
                on_tick=self._heart(step, claim),
            )
            self._conclude(step, claim, outcome, folder, time.monotonic() - started)

    def _conclude(self, step: Step, claim: Claim, outcome: sandbox.Outcome, folder: Path, seconds: float) -> None:
        record_id = claim.record_id
        if outcome.result is not None:
            result = outcome.result
            for waiting in self._patiently(lambda: step.succeeded(result, folder)):
                self._ring(waiting)
            _LOG.info("%s done in %.1f s", record_id, seconds)
        elif outcome.error is not None:
            if not outcome.error["user_error"]:
                _LOG.error("%s failed: %s\n%s", record_id, outcome.error["code"], outcome.log)
            error = outcome.error
            for waiting in self._patiently(lambda: step.failed(error)):
                self._ring(waiting)
            _LOG.info("%s refused after %.1f s: %s", record_id, seconds, outcome.error["code"])
        elif outcome.died == "timeout":
            step.failed(_timed_out(seconds))
        else:
            _LOG.warning("%s lost its process (%s)\n%s", record_id, outcome.died, outcome.log)
            self._hand_back(claim, counts=True)
            self._ring(record_id)

    def _patiently(self, publish: Callable[[], Sequence[str]]) -> Sequence[str]:
        """Publish, also if the database is away for a moment: hours of work must not be lost for seconds."""
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                return publish()
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                _LOG.warning("cannot publish yet: %s", error)
                time.sleep(1)

    def _heart(self, step: Step, claim: Claim) -> Callable[[], None]:
        """What keeps the lease alive while the child runs, and hears of cancellation and shutdown."""
        next_beat = time.monotonic()

        def beat() -> None:
            nonlocal next_beat
            if self.stopping.is_set():
                raise Stopping
            if time.monotonic() < next_beat:
                return
            next_beat = time.monotonic() + self._settings.heartbeat_seconds
            try:
                with self._registry.write() as unit:
                    unit.work.renew(claim, lease_seconds=self._settings.lease_seconds)
                    if step.beat(unit):
                        raise Cancelled
            except LeaseLost:
                raise
            except RegistryError as error:  # the database is away for a moment: the lease outlives a few beats
                _LOG.warning("%s: no heartbeat: %s", claim.record_id, error)

        return beat

    def _hand_back(self, claim: Claim, *, counts: bool) -> None:
        try:
            with self._registry.write() as unit:
                unit.work.hand_back(claim, counts=counts)
        except LeaseLost:
            _LOG.warning("%s: another worker owns it already", claim.record_id)

    def _ring_next(self) -> None:
        """A job has ended: tell about the next one that waits, instead of letting it wait for the reaper."""
        if not self.stopping.is_set():
            with self._registry.read() as unit:
                waiting = unit.work.next_waiting(WORK_KINDS["job"])
            if waiting is not None:
                self._ring(waiting)


def _given_up(claim: Claim) -> dict[str, Any]:
    message = f"its process was lost {claim.attempts - 1} times (killed, or out of memory); it was given up"
    return {"code": "worker_lost", "message": message, "user_error": False}


def _timed_out(seconds: float) -> dict[str, Any]:
    return {"code": "timeout", "message": f"it was ended by force after {seconds:.0f} s", "user_error": False}
