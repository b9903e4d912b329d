"""Rings again for work that nobody hears of, and forgets uploads that nobody has finished.

Messages may be lost, workers die, and records wait for others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from service.registry.errors import RegistryError
from service.registry.unit_of_work import Registry
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")
_RINGS_AT_ONCE = 20


def reap(registry: Registry, settings: WorkerSettings, ring: Callable[[str], None], stopping: threading.Event) -> None:
    """Look for overdue work until `stopping` is set. Several workers may do this: each work is rung by one of them."""
    while not stopping.wait(settings.reap_seconds):
        try:
            with registry.write() as unit:
                overdue = unit.work.overdue(ring_after_seconds=settings.reap_seconds, limit=_RINGS_AT_ONCE)
            for record_id, _ in overdue:
                ring(record_id)
            for upload_id in registry.forget_expired_uploads():
                _LOG.info("%s forgotten: nothing came for a day", upload_id)
        except RegistryError as error:
            _LOG.warning("the reaper could not look: %s", error)
