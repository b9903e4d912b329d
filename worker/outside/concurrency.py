"""The work pool: threads that claim and execute work, so many for each kind.

A short inspection never waits behind a long training: each kind has threads of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping

from service.registry.contract import PLAN
from service.registry.errors import RegistryError
from service.registry.registry import Registry
from service.registry.repositories import Claim, ClaimLimits
from worker.outside.supervisor import Supervisor
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")

_PAUSE_S = 1.0  # before the registry is asked again, after it could not answer


class WorkPool:
    """Threads that wait until `wake` tells them to look for work."""

    def __init__(self, supervisor: Supervisor, registry: Registry, settings: WorkerSettings) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._settings = settings
        self._queues = settings.resolved_queues
        #: By queue: calibrations that need more memory are left to the larger workers that live.
        self.memory_bytes: Mapping[str, int] = {}
        self._changed = threading.Condition()
        self._wake_ups = dict.fromkeys(self._concurrency(), 0)
        self._busy = 0
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), name=f"{kind} {i}", daemon=True)
            for kind, number in self._concurrency().items()
            for i in range(number)
        ]

    def start(self) -> None:
        """Begin to take work."""
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the threads to end; `Supervisor.stopping` must be set."""
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wake(self, kinds: Collection[str] | None = None) -> None:
        """There may be work of these kinds, or of any."""
        with self._changed:
            for kind in kinds or self._wake_ups:
                if kind in self._wake_ups:
                    self._wake_ups[kind] += 1
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether no work is being done."""
        with self._changed:
            return self._busy == 0

    def due(self) -> list[str]:
        """The kinds of which something may be claimed now."""
        with self._registry.read() as unit:
            return [
                kind
                for kind in self._wake_ups
                if any(unit.work.next_due(queue, self._limits(queue)) for queue in self._queues_of(kind))
            ]

    def _concurrency(self) -> Mapping[str, int]:
        settings = self._settings
        threads = {
            "calibrate": settings.worker_jobs,
            PLAN: settings.worker_plans,
            "inspect": settings.worker_inspections,
            "predict": settings.worker_predictions,
            "deliver": settings.worker_deliveries,
        }
        return {kind: number for kind, number in threads.items() if number and self._serves(kind)}

    def _serves(self, kind: str) -> bool:
        return bool(self._queues_of(kind))

    def _queues_of(self, kind: str) -> list[str]:
        return [queue for queue in self._queues if queue.startswith(kind)]

    def _limits(self, queue: str) -> ClaimLimits:
        return ClaimLimits(memory_bytes=self.memory_bytes.get(queue))

    def _run(self, kind: str) -> None:
        stopping = self._supervisor.stopping
        while self._wait_for_wake_up(kind):
            while not stopping.is_set() and (claim := self._claim(kind)) is not None:
                self.wake([kind])  # another thread takes what is left
                try:
                    self._supervisor.execute(claim)
                finally:
                    with self._changed:
                        self._busy -= 1

    def _wait_for_wake_up(self, kind: str) -> bool:
        """Wait for a wake-up that no thread has taken yet; False when the worker stops."""
        stopping = self._supervisor.stopping
        with self._changed:
            self._changed.wait_for(lambda: self._wake_ups[kind] > 0 or stopping.is_set())
            self._wake_ups[kind] = 0
        return not stopping.is_set()

    def _claim(self, kind: str) -> Claim | None:
        with self._changed:
            self._busy += 1
        claim = None
        try:
            for queue in self._queues_of(kind):
                claim = claim or self._claim_from(queue)
        except RegistryError as error:
            _LOG.warning("no work can be claimed: %s", error)
            self._supervisor.stopping.wait(_PAUSE_S)
        except Exception:  # a thread that ends would never be missed
            _LOG.exception("no work can be claimed")
            self._supervisor.stopping.wait(_PAUSE_S)
        finally:
            if claim is None:
                with self._changed:
                    self._busy -= 1
        return claim

    def _claim_from(self, queue: str) -> Claim | None:
        with self._registry.read() as unit:  # a writer's turn is not taken in vain
            if unit.work.next_due(queue, self._limits(queue)) is None:
                return None
        with self._registry.write() as unit:
            return unit.work.claim_next(
                queue,
                self._limits(queue),
                worker=self._supervisor.name,
                lease_seconds=self._settings.lease_seconds,
            )
