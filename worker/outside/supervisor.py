"""The supervisor: it executes a claim, that is it runs the child, publishes its result, or hands the work back.

A thread of its own renews the lease meanwhile, and notices a cancellation or the loss of the claim.
"""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedlas.contract.records import RecordError
from service.process_memory import oom_kills
from service.registry.errors import LeaseLost, RegistryError, Unavailable, WorkGone
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories import Claim
from service.registry.settings import WorkerSettings
from worker.outside import metrics
from worker.outside.cards import CARD_FAILED, CARD_TOO_SMALL
from worker.outside.checkpoint_upload import CheckpointUploader
from worker.outside.kinds import WorkKind, kind_of
from worker.outside.kinds.base import KILLED, KILLED_FOR_MEMORY, given_up, lasting_error, log_started
from worker.sandbox import process as sandbox
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import Replies

_LOG = logging.getLogger("fedlas.worker")

#: News of a child are written so soon, and no more often: a race of small networks has hundreds of epochs a second.
_NEWS_S = 0.5
#: Work that this worker cannot do (no disk, no database, no protection) waits for so long.
_PAUSE_S = 5.0
#: Work of a kind that is newer than this release waits for so long.
_NEWER_S = 60.0
#: How long results wait for a database that is away, and how long a stopping worker tries to hand work back.
_PUBLISH_S = 3600.0
_HAND_BACK_S = 5.0
_TICK_S = 0.5
_MAX_PAUSE_S = 15.0
#: How long checkpoints of a child that has died, or must stop, may take to be kept.
_KEEP_DEAD_S = 10.0
_KEEP_STOPPING_S = 5.0
#: Errors of a disk that takes no more; with less room than this others have filled it.
FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 256 * 1024**2
#: The child's way to say that the disk is full: no fault of the upload.
STORAGE_FULL = "storage_full"


class Cancelled(Exception):
    """The cancellation of the job was asked for."""


class LeaseRenewal:
    """Renews the lease while its `with` block runs, however long the block copies a file or waits for a child."""

    def __init__(self, registry: Registry, work: WorkKind, *, lease_seconds: float, every_seconds: float) -> None:
        self._registry = registry
        self._work = work
        self._lease = lease_seconds
        self._every = every_seconds
        self._stopped, self._news = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"lease {work.record_id}", daemon=True)

    def check(self) -> None:
        """Raise what a heartbeat has met: LeaseLost, Cancelled, or a defect."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> LeaseRenewal:
        self._work.hurry = self._news.set
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._news.set()
        self._thread.join()

    def _waited(self) -> bool:
        """Wait for the next heartbeat, which news bring forward; False after the block's end."""
        soon = min(_NEWS_S, self._every)
        self._stopped.wait(soon)
        self._news.wait(self._every - soon)
        self._news.clear()
        return not self._stopped.is_set()

    def _run(self) -> None:
        while self._error is None and self._waited():
            try:
                with self._registry.write() as unit:
                    self._work.renew(unit, lease_seconds=self._lease)
                    cancelled = self._work.heartbeat(unit)
                if cancelled:
                    self._error = Cancelled()
            except LeaseLost as error:
                self._error = error
            except RegistryError as error:  # the database is away; a worker that takes over needs it as well
                _LOG.warning("%s: no heartbeat: %s", self._work.claim, error)
            except Exception as error:  # a defect: the thread that does the work raises it
                self._error = error


class Stopping(Exception):
    """A signal that this worker is shutting down."""


#: Reasons to end a child before it has answered, as metrics call them.
_INTERRUPTIONS: dict[type[Exception], str] = {
    Cancelled: "cancelled",
    Stopping: "stopping",
    WorkGone: "cancelled",
    LeaseLost: "lease_lost",
}


class Supervisor:
    """Executes claims; safe to be used by several threads at once.

    Args:
        expected: what children are confined with on this machine; one that lacks any of it opens nothing.

    Attributes:
        unfit: why this worker can open no upload; None if it can, or as long as its trial has not ended.
        library_bytes: resident memory of a child that has loaded its libraries; 0 until that is known.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        registry: Registry,
        *,
        name: str,
        stopping: threading.Event | None = None,
        expected: Collection[str] = (),
    ) -> None:
        self._settings = settings
        self._expected = expected
        self._registry = registry
        self.name = name
        self.stopping = stopping or threading.Event()
        self.unfit: str | None = None
        self.library_bytes = 0

    def execute(
        self, claim: Claim, *, show: Callable[[Claim], None] = lambda claim: None, devices: str | None = None
    ) -> None:
        """Do claimed work, and settle or leave it.

        Args:
            show: is called by another thread with each further claim of the child.
            devices: the `CUDA_VISIBLE_DEVICES` of the child; None for this worker's.
        """
        try:
            work = kind_of(claim)(self._registry, self._settings, claim)
        except KeyError:
            _LOG.warning("%s is left to newer workers: this release knows no work of kind %s", claim, claim.kind)
            return self._settle(lambda unit: unit.work.release(claim, after_seconds=_NEWER_S), claim)
        work.worker, work.show = self.name, show
        try:
            with closing(work):
                self._attempt(work, claim, devices)
        except WorkGone as error:
            _LOG.info("%s; nothing was written", error)
        except LeaseLost:
            metrics.LEASES_LOST.inc()
            _LOG.warning("%s: another worker owns it now; nothing was written", work.claim)
        except Cancelled:
            self._settle(lambda unit: work.cancelled(unit), work.claim)
            _LOG.info("%s cancelled", work.claim)
        except Stopping:
            _LOG.info("%s handed back, this worker stops", work.claim)
            metrics.WORK_RELEASED.labels("worker_stopped").inc()
            self._settle(lambda unit: work.handed_back(unit, "its worker was stopped"), work.claim)
        except Unavailable as error:
            self._postpone(work, str(error))
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in FULL
            # With room a child had filled the disk, and its files are gone by now.
            if full and shutil.disk_usage(self._settings.data_dir).free < _ROOM:
                self._postpone(work, "the disk is full")
                return None
            _LOG.exception("%s failed in the worker itself", work.claim)
            metrics.WORK_RELEASED.labels("worker_failed").inc()
            reason = f"the worker failed: {getattr(error, 'strerror', None) or type(error).__name__}"
            self._settle(lambda unit: work.lost(unit, reason), work.claim)

    def _postpone(self, work: WorkKind, reason: str, seconds: float = _PAUSE_S) -> None:
        _LOG.warning("%s is tried again in %.0f s: %s", work.claim, seconds, reason)
        metrics.WORK_RELEASED.labels("postponed").inc()
        self._settle(lambda unit: work.handed_back(unit, reason, after_seconds=seconds), work.claim)

    def _attempt(self, work: WorkKind, claim: Claim, devices: str | None) -> None:
        settings = self._settings
        with LeaseRenewal(
            self._registry, work, lease_seconds=settings.lease_seconds, every_seconds=settings.heartbeat_seconds
        ) as renewal:
            if (error := given_up(claim, settings.max_attempts)) is not None:
                _LOG.error("%s is %s", claim, error.message)
                work.failed(error)
                return
            prepared = work.begin()
            if prepared is None:
                return
            log_started(claim)
            began = time.monotonic()
            with (
                sandbox.private_folder(settings.work_dir) as folder,
                CheckpointUploader(
                    self._registry, work, folder, replies := Replies(), most_bytes=work.most_checkpoint_bytes
                ) as uploader,
            ):
                work.keep, work.ask = uploader.submit, uploader.ask
                killed_before = oom_kills()
                try:
                    outcome = metrics.counted_child(
                        claim.kind,
                        lambda: sandbox.run(
                            prepared.model_copy(update={"expected": list(self._expected)}),
                            folder=folder,
                            on_event=work.note,
                            on_tick=lambda: self.check(uploader, renewal),
                            replies=replies,
                            devices=devices,
                        ),
                        interruptions=_INTERRUPTIONS,
                    )
                except Stopping:
                    uploader.drain(_KEEP_STOPPING_S)
                    raise
                if outcome.died or (outcome.error is not None and outcome.error.code in (CARD_FAILED, CARD_TOO_SMALL)):
                    uploader.drain(_KEEP_DEAD_S)
                if outcome.died == KILLED and oom_kills() > killed_before:
                    outcome = replace(outcome, died=KILLED_FOR_MEMORY)
                error = lasting_error(outcome, prepared.limits, unfit=self.unfit)
                self._conclude(work, outcome, error, folder, time.monotonic() - began, renewal)

    def check(self, *threads: CheckpointUploader | LeaseRenewal) -> None:
        """Raise what one of these threads has met, or Stopping."""
        for thread in threads:
            thread.check()
        if self.stopping.is_set():
            raise Stopping

    def _conclude(
        self,
        work: WorkKind,
        outcome: ChildOutcome,
        error: RecordError | None,
        folder: Path,
        seconds: float,
        renewal: LeaseRenewal,
    ) -> None:
        claim = work.claim
        if outcome.unprotected is not None:
            _LOG.error("%s was not begun: its process lacks what this machine has: %s", claim, outcome.unprotected)
            raise Unavailable("unprotected", "its process could not be protected")
        if outcome.result is not None:
            result = outcome.result
            self._publish(lambda: work.succeeded(result, folder), renewal)
            work.log_done(seconds)
        elif error is not None and error.code == STORAGE_FULL:
            raise OSError(errno.ENOSPC, "the child found the disk full")
        elif error is not None:
            if not error.user_error:
                _LOG.error("%s failed after %.1f s: %s\n%s", claim, seconds, error.code, outcome.log)
            self._publish(lambda: work.failed(error), renewal)
            if error.user_error:
                _LOG.info("%s refused after %.1f s: %s", claim, seconds, error.code)
        else:
            # What a child says may be meant for the operator's terminal.
            said = outcome.died if outcome.error is None else "".join(filter(str.isprintable, outcome.error.message))
            reason = f"its process ended: {said}"
            _LOG.warning("%s was lost (%s)\n%s", claim, reason, outcome.log)
            metrics.WORK_RELEASED.labels("process_lost").inc()
            self._settle(lambda unit: work.lost(unit, reason), claim)

    def _publish(self, publish: Callable[[], None], renewal: LeaseRenewal) -> None:
        """Publish, also if database or disk are away for a while: hours of work must not be lost for minutes."""
        deadline, pause = time.monotonic() + _PUBLISH_S, 1.0
        while True:
            try:
                return publish()
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                _LOG.warning("cannot publish yet: %s", error)
                self._pause(pause, renewal)
                pause = min(2 * pause, _MAX_PAUSE_S)

    def _pause(self, seconds: float, renewal: LeaseRenewal) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check(renewal)
            time.sleep(_TICK_S)

    def _settle(self, write: Callable[[UnitOfWork], object], claim: Claim) -> None:
        """Write how the attempt ended; where that cannot be, the lease ends by itself."""
        deadline = time.monotonic() + _HAND_BACK_S
        while True:
            try:
                with self._registry.write() as unit:
                    write(unit)
                return
            except LeaseLost:
                _LOG.warning("%s: another worker owns it already", claim)
                return
            except Unavailable as error:
                if time.monotonic() > deadline:
                    _LOG.warning("%s is left to its lease: %s", claim, error)
                    return
                time.sleep(_TICK_S)
            except Exception:
                _LOG.exception("%s is left to its lease", claim)
                return
