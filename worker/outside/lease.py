"""The lease renewal: a thread of its own keeps a claim alive, and notices a cancellation or the loss of the claim."""

from __future__ import annotations

import logging
import threading

from service.registry.errors import LeaseLost, RegistryError
from service.registry.registry import Registry
from worker.outside.kinds import WorkKind

_LOG = logging.getLogger("fedlas.worker")

#: News of a child are written so soon, and no more often: a race of small networks has hundreds of epochs a second.
_NEWS_S = 0.5


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
            except (
                RegistryError
            ) as error:  # the database is away for a moment; a worker that takes over needs it as well
                _LOG.warning("%s: no heartbeat: %s", self._work.claim, error)
            except Exception as error:  # a defect: the thread that does the work raises it
                self._error = error
