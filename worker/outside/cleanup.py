"""The cleanup: it removes unfinished uploads, old idempotency keys, folders of dead workers, unnamed stored files, and
records that the operator keeps no longer.

Every worker does this, since what is half-written lies on its own disk; in a thread of its own, since a bucket may be
slow. Nothing waits for it.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from itertools import takewhile

from service.registry.errors import RegistryError
from service.registry.garbage_collection import collect_garbage
from service.registry.registry import Registry
from service.registry.retention import delete_expired
from worker.sandbox.process import remove_stale_folders
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")


def run_cleanup(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    """Until `stopping` is set, go on with the next files every `sweep_seconds`."""
    after: str | None = None
    while not stopping.wait(settings.sweep_seconds):
        try:
            remove_stale_folders(settings.work_dir)  # of those whose children were not dead yet when we started
            for upload_id in registry.forget_expired_uploads():
                _LOG.info("%s forgotten: nothing came for a day", upload_id)
            after = _sweep(registry, timedelta(seconds=settings.sweep_grace_seconds), after)
            # The database writes below only: above, room is made on a full disk.
            _expire(registry, settings, stopping)
            with registry.write() as unit:
                unit.keys.forget_old()
                unit.browser_sessions.forget_expired()
        except RegistryError as error:
            _LOG.warning("cleanup failed: %s", error)
        except Exception:
            _LOG.exception("cleanup failed")


def _expire(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    expired = delete_expired(
        registry, keep_jobs=_days(settings.keep_jobs_days), keep_results=_days(settings.keep_results_days)
    )
    deleted = list(takewhile(lambda _: not stopping.is_set(), expired))
    if deleted:
        _LOG.info("deleted what is kept no longer: jobs and batches, %d in all, from %s on", len(deleted), deleted[0])


def _days(number: float | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


def _sweep(registry: Registry, grace: timedelta, after: str | None) -> str | None:
    swept = collect_garbage(registry, older_than=grace, after=after)
    if removed := swept.orphans + swept.left_overs:
        size = swept.orphan_bytes + swept.left_over_bytes
        _LOG.info("%d stored files that nothing names are gone, %d bytes", removed, size)
    return swept.next
