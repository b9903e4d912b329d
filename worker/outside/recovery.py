"""Recovery: every second it takes what waits while threads are free, and releases work of dead workers; the cleanup.

Every worker runs one. Nothing depends on which of them comes first, and nothing on the broker: where that is away,
silent or emptied, or has lost a message, a worker is its own. The permit that it then takes in goes the same way as one
that came by the broker, to the same threads, and never to more of them: if both come, the second finds nothing to do.

The cleanup removes unfinished uploads, old idempotency keys, folders of dead workers, unnamed stored files, and records
that the operator keeps no longer. Every worker does this, since what is half-written lies on its own disk.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from itertools import takewhile

from service.registry.errors import RegistryError
from service.registry.garbage_collection import collect_garbage, delete_expired
from service.registry.queues import GPU_ONLY
from service.registry.registry import Registry
from service.registry.repositories import Permit
from service.registry.repositories.work import SILENT
from service.registry.settings import WorkerSettings
from worker.outside import metrics
from worker.outside.permits import Permits, surviving
from worker.outside.supervisor import Supervisor
from worker.sandbox.process import is_gone, machine, process_mark, remove_stale_folders

_LOG = logging.getLogger("fedlas.worker")

#: A worker that has been silent for so many leases is not counted, and after so many seconds it is forgotten.
_LEASES = 3
_FORGOTTEN_S = 3600.0
_DEAD = "its worker died"
_FAILED = "the reaper failed"
#: Reasons as metrics call them.
_RELEASED = {_DEAD: "worker_died", SILENT: "worker_silent"}


class Reaper:
    """The reaper of one worker.

    Args:
        take: takes in a permit as if the broker had sent it.
    """

    def __init__(
        self, registry: Registry, settings: WorkerSettings, supervisor: Supervisor, permits: Permits,
        *, take: Callable[[Permit], None],
    ) -> None:  # fmt: skip
        self._registry = registry
        self._settings = settings
        self._supervisor = supervisor
        self._permits = permits
        self._take = take
        self._alive = settings.data_dir.absolute() / "run" / f"{supervisor.name}.alive"
        self._alive.parent.mkdir(parents=True, exist_ok=True)
        self._mark = process_mark(os.getpid())
        self._last_sweep = time.monotonic()
        self._judges_from = self._last_sweep + settings.lease_seconds
        self._register_at = 0.0
        self._freed = threading.Event()

    def run(self) -> None:
        """Until the worker stops: every second, and for more work as soon as a thread is free."""
        sweeps_at = time.monotonic() + self._settings.poll_seconds
        while not self._supervisor.stopping.is_set():
            freed = self._freed.wait(max(0.0, sweeps_at - time.monotonic()))
            self._freed.clear()
            if self._supervisor.stopping.is_set():
                return
            if freed and time.monotonic() < sweeps_at:
                with surviving(_FAILED):
                    self._look_for_work()
            else:
                self.sweep()
                sweeps_at = time.monotonic() + self._settings.poll_seconds

    def look_soon(self, queue: str) -> None:
        """A permit of this queue was used: the broker's next one may take a second to come."""
        self._freed.set()

    def deregister(self) -> None:
        self._alive.unlink(missing_ok=True)
        with suppress(RegistryError), self._registry.write() as unit:
            unit.workers.forget([self._supervisor.name])

    def sweep(self) -> None:
        """Sweep once, and touch the file of the health check: a worker that sweeps finds work, whatever it hears."""
        with suppress(OSError):  # a full disk is no failure of the worker
            self._alive.touch()
        with surviving(_FAILED):
            self._sweep()

    def _sweep(self) -> None:
        # After an outage of the database, or of this process, leases have ended that their holders could not renew; the
        # start may follow one.
        if time.monotonic() - self._last_sweep > self._settings.lease_seconds - self._settings.heartbeat_seconds:
            self._judges_from = time.monotonic() + self._settings.lease_seconds
        if time.monotonic() >= self._register_at:
            self._register_at = time.monotonic() + self._settings.heartbeat_seconds
            self._register()
        self._release()
        for job_id in self._registry.cancel_due():
            _LOG.info("%s cancelled", job_id)
        self._look_for_work()
        self._last_sweep = time.monotonic()

    def _look_for_work(self) -> None:
        for queue in self._permits.queues:
            if free := self._permits.places.free(queue):
                for permit in self._permits.due(queue, limit=free):
                    self._take(permit)

    def _register(self) -> None:
        settings, unfit = self._settings, self._supervisor.unfit
        # A job holds its network, and what it is trained with, in the memory of its card.
        mine = min(
            [
                max(0, settings.resolved_memory_bytes - self._supervisor.library_bytes),
                *(one.memory_bytes for one in self._permits.cards.known if one.memory_bytes),
            ]
        )
        with self._registry.write() as unit:
            unit.workers.heartbeat(
                self._supervisor.name,
                machine=machine(),
                process=self._mark,
                queues=self._permits.queues,
                gpu=GPU_ONLY in self._permits.queues,
                memory_bytes=mine,
                release=version("fedlas"),
                unfit=unfit,
            )
            others = unit.workers.living(within_seconds=_LEASES * settings.lease_seconds)
        # Work too large for all workers of a queue is tried by the largest of them, and does not wait for ever. If this
        # one opens nothing, it leaves all to others; without any it tells each sender why.
        fitter = {
            queue
            for other in others
            if other.unfit is None and (unfit is not None or other.memory_bytes > mine)
            for queue in other.queues
        }
        self._permits.max_memory = dict.fromkeys(fitter, mine if unfit is None else -1)

    def _release(self) -> None:
        with self._registry.read() as unit:
            gone = [row.name for row in unit.workers.on_machine(machine()) if is_gone(row.process)]
            gone += unit.workers.silent(for_seconds=_FORGOTTEN_S)
            expired = time.monotonic() >= self._judges_from and unit.work.has_expired()
        if not (gone or expired):
            return
        began = time.monotonic()
        with self._registry.write() as unit:
            # A long wait for this turn has delayed the heartbeats of other workers as well.
            expired = expired and time.monotonic() - began < self._settings.heartbeat_seconds
            released = dict.fromkeys(unit.work.release_held_by(gone, _DEAD), _DEAD) if gone else {}
            unit.workers.forget(gone)
            if expired:
                released |= dict.fromkeys(unit.work.release_expired(), SILENT)
            for record_id, reason in released.items():
                _LOG.warning("%s waits again: %s", unit.work.name_of(record_id), reason)
                metrics.WORK_RELEASED.labels(_RELEASED[reason]).inc()
                unit.requeue(record_id, reason)


def run_cleanup(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    """Until `stopping` is set, go on with the next files every `sweep_seconds`."""
    after: str | None = None
    grace = timedelta(seconds=settings.sweep_grace_seconds)
    while not stopping.wait(settings.sweep_seconds):
        with surviving("cleanup failed"):
            remove_stale_folders(settings.work_dir)  # of those whose children were not dead yet when we started
            for upload_id in registry.forget_expired_uploads():
                _LOG.info("%s forgotten: nothing came for a day", upload_id)
            swept = collect_garbage(registry, older_than=grace, after=after)
            if removed := swept.orphans + swept.left_overs:
                size = swept.orphan_bytes + swept.left_over_bytes
                _LOG.info("%d stored files that nothing names are gone, %d bytes", removed, size)
            after = swept.next
            # Above room is made, on a full disk, too; below the database needs some.
            _expire(registry, settings, stopping)
            with registry.write() as unit:
                unit.keys.forget_old()
                unit.browser_sessions.forget_expired()


def _expire(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    expired = delete_expired(registry, jobs_days=settings.keep_jobs_days, results_days=settings.keep_results_days)
    if deleted := list(takewhile(lambda _: not stopping.is_set(), expired)):
        _LOG.info("deleted what is kept no longer: jobs and batches, %d in all, from %s on", len(deleted), deleted[0])
