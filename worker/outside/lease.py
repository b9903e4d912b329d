"""Keeps a claim alive from a thread of its own, and hears whether the work is still wanted; it does no work."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from service.registry.errors import LeaseLost, RegistryError
from service.registry.unit_of_work import Registry
from worker.outside.kinds import WorkKind

_LOG = logging.getLogger("fedlas.worker")


class Cancelled(Exception):
    """Somebody asked for the job to be cancelled."""


class LeaseRenewal:
    """Beats while its `with` block runs, however long the block copies a file or waits for a child."""

    def __init__(self, registry: Registry, work: WorkKind, *, lease_seconds: float, every_seconds: float) -> None:
        self._registry = registry
        self._work = work
        self._lease = lease_seconds
        self._every = every_seconds
        self._stopped = threading.Event()
        self._heard: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"lease {work.record_id}", daemon=True)

    def check(self) -> None:
        """Raise what a beat has met: LeaseLost, Cancelled, or a defect."""
        if self._heard is not None:
            raise self._heard

    def __enter__(self) -> LeaseRenewal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while self._heard is None and not self._stopped.wait(self._every):
            try:
                with self._registry.write() as unit:
                    unit.work.renew(self._work.claim, lease_seconds=self._lease)
                    unwanted = self._work.heartbeat(unit)
                if unwanted:
                    self._heard = Cancelled()
            except LeaseLost as error:
                self._heard = error
            except RegistryError as error:  # the database is away for a moment; whoever takes over asks it as well
                _LOG.warning("%s: no heartbeat: %s", self._work.record_id, error)
            except Exception as error:  # a defect of ours: who does the work must hear of it
                self._heard = error
