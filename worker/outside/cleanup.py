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
from service.registry.garbage_collection import collect_garbage, delete_expired
from service.registry.registry import Registry
from worker.sandbox.process import remove_stale_folders
from worker.settings import WorkerSettings

_LOG = logging.getLogger("fedlas.worker")


def run_cleanup(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    """Until `stopping` is set, go on with the next files every `sweep_seconds`."""
    after: str | None = None
    grace = timedelta(seconds=settings.sweep_grace_seconds)
    while not stopping.wait(settings.sweep_seconds):
        try:
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
        except RegistryError as error:
            _LOG.warning("cleanup failed: %s", error)
        except Exception:
            _LOG.exception("cleanup failed")


def _expire(registry: Registry, settings: WorkerSettings, stopping: threading.Event) -> None:
    expired = delete_expired(registry, jobs_days=settings.keep_jobs_days, results_days=settings.keep_results_days)
    if deleted := list(takewhile(lambda _: not stopping.is_set(), expired)):
        _LOG.info("deleted what is kept no longer: jobs and batches, %d in all, from %s on", len(deleted), deleted[0])
