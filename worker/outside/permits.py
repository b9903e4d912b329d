"""Permits: what they are good for in this worker, and how many of each queue may be in use at once.

A permit is used once: it claims the next work of its queue, in the registry's fair order, and executes it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from service.registry.contract import ANY_DEVICE, GPU_ONLY
from service.registry.errors import RegistryError
from service.registry.registry import Registry
from service.registry.repositories import Claim, ClaimLimits, Permit
from worker.outside import metrics
from worker.outside.supervisor import Supervisor

_LOG = logging.getLogger("fedlas.worker")

_PAUSE_S = 1.0  # before the registry is asked again, after it could not answer


class Places:
    """The threads of a worker, shared equally among its queues: no queue takes more, so none waits behind another.

    >>> places = Places(["inspect", "deliver"], threads=4)
    >>> [places.take("deliver"), places.free("deliver"), places.take("deliver"), places.free("deliver")]
    [None, 1, None, 0]
    >>> places.free("inspect")
    2
    """

    def __init__(self, queues: Sequence[str], *, threads: int) -> None:
        self._threads = threads
        self._share = max(1, threads // max(1, len(queues)))
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()

    def take(self, queue: str) -> None:
        """A permit of this queue was received."""
        with self._changed:
            self._taken[queue] += 1

    def leave(self, queue: str) -> None:
        """It was used."""
        with self._changed:
            self._taken[queue] -= 1
            self._changed.notify_all()

    def free(self, queue: str) -> int:
        """How many more permits of this queue could be used now."""
        with self._changed:
            return max(0, min(self._share - self._taken[queue], self._threads - self._taken.total()))

    def has_share(self, queue: str) -> bool:
        """Whether this queue may have more; all threads may be taken nevertheless."""
        with self._changed:
            return self._taken[queue] < self._share

    @property
    def in_use(self) -> int:
        """How many permits are in use."""
        with self._changed:
            return self._taken.total()

    @property
    def full(self) -> bool:
        """Whether no thread is free."""
        return self.in_use >= self._threads

    def await_idle(self, seconds: float) -> None:
        """Wait until none is in use, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken.total() == 0, seconds)


class Permits:
    """Uses permits of the queues that this worker serves; safe to be used by several threads at once.

    Attributes:
        limits: by queue, what may be claimed; the reaper knows which larger workers live.
        on_used: each is called with the queue of a permit that has been used.
    """

    def __init__(
        self, supervisor: Supervisor, registry: Registry, *, queues: Sequence[str], threads: int, lease_seconds: float,
        versions: str,
    ) -> None:  # fmt: skip
        self.queues = tuple(queues)
        self.places = Places(queues, threads=threads)
        self.versions = versions
        self.limits: Mapping[str, ClaimLimits] = {}
        self.on_used: list[Callable[[str], None]] = []
        self._supervisor = supervisor
        supervisor.limits = self.limits_of
        self._registry = registry
        self._lease_seconds = lease_seconds

    def redeem(self, queue: str, show: Callable[[Claim], None]) -> None:
        """Claim the next work of this queue, if there is any, show it, and do it."""
        try:
            if (claim := self._claim(queue)) is not None:
                metrics.CLAIMS.labels(claim.kind).inc()
                show(claim)
                self._supervisor.execute(claim, show=show)
        finally:
            self.places.leave(queue)
            for told in self.on_used:
                told(queue)

    def due(self, queue: str, *, skip: int = 0, limit: int, due_for: float = 0.0) -> list[Permit]:
        """Permits for work of this queue that may be claimed here."""
        with self._registry.read() as unit:
            return unit.work.due(queue, self.limits_of(queue), skip=skip, limit=limit, due_for=due_for)

    def limits_of(self, queue: str) -> ClaimLimits:
        """What of this queue may be claimed."""
        return self.limits.get(queue, ClaimLimits(versions=self.versions))

    def _claim(self, queue: str) -> Claim | None:
        try:
            for source in self._sources(queue):
                if (claim := self._claim_from(source)) is not None:
                    return claim
        except RegistryError as error:
            _LOG.warning("no work can be claimed: %s", error)
            self._supervisor.stopping.wait(_PAUSE_S)
        except Exception:
            _LOG.exception("no work can be claimed")
            self._supervisor.stopping.wait(_PAUSE_S)
        return None

    def _sources(self, queue: str) -> Sequence[str]:
        """A worker with a GPU does first what only it can do."""
        return (GPU_ONLY, queue) if queue == ANY_DEVICE and GPU_ONLY in self.queues else (queue,)

    def _claim_from(self, queue: str) -> Claim | None:
        if self._supervisor.stopping.is_set():
            return None
        limits = self.limits_of(queue)
        with self._registry.read() as unit:  # a writer's turn is not taken in vain
            if unit.work.next_due(queue, limits) is None:
                return None
        with self._registry.write() as unit:
            return unit.work.claim_next(queue, limits, worker=self._supervisor.name, lease_seconds=self._lease_seconds)
