"""The registry's figures for Prometheus: what waits for workers, and how many of these live.

They are read when somebody asks, by one short transaction, and cached for a few seconds. Each process reads what all
share, so that whichever process a scrape reaches tells each figure once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service.api.plumbing.exposition import Figures, counted
from service.api.plumbing.probes import Probes
from service.registry.queues import GPU_ONLY, QUEUE_OF, QUEUES
from service.registry.registry import Registry
from service.registry.repositories.workers import ENDED_JOBS, OPEN_JOBS, SILENT_S, OpenWork
from service.registry.tables import WorkerProcess

#: Figures are cached for so long; jobs that have ended, whose index is read from end to end, for longer.
_FRESH_S = 3.0
_ENDED_FRESH_S = 60.0
#: Queues with their kinds of work: zero is reported where nothing waits.
_PAIRS = [*((queue, kind) for kind, queue in QUEUE_OF.items()), (GPU_ONLY, "calibrate")]
#: The fields of `OpenWork` as metrics.
_WORK = {
    "due": ("fedlas_work_due", "Rows that a worker may claim now."),
    "oldest_seconds": ("fedlas_work_oldest_age_seconds", "How long the oldest row that is due has been."),
    "later": ("fedlas_work_later", "Rows that wait for a moment: after a loss, or a delivery that failed."),
    "blocked": ("fedlas_work_blocked", "Rows that wait for other records, or for their own pieces."),
    "claimed": ("fedlas_work_claimed", "Rows that a worker holds."),
    "expired": ("fedlas_work_expired", "Claimed rows whose lease has ended and that are not released yet."),
}


@dataclass(frozen=True, slots=True)
class _Figures:
    work: Mapping[tuple[str, str], OpenWork]
    jobs: Mapping[str, int]
    workers: Mapping[str, int]
    idle: Mapping[str, int]


class RegistryFigures(Figures):
    """The collector of one API process; `refresh` comes before a scrape, and never hangs with the database."""

    def __init__(self, registry: Registry, probes: Probes) -> None:
        self._registry = registry
        self._probes = probes
        self._figures: _Figures | None = None
        self._read_at = self._ended_read_at = float("-inf")
        self._ended: Mapping[str, int] = {}

    async def refresh(self) -> None:
        """Read unless that was a moment ago; nothing is reported of a registry that cannot be read."""
        if time.monotonic() - self._read_at < _FRESH_S:
            return
        try:
            self._figures = await self._probes.run("registry_figures", self._read)
        except Exception:  # any error is the answer
            self._figures = None
        self._read_at = time.monotonic()

    def _read(self) -> _Figures:
        with self._registry.read() as unit:
            statistics = unit.work_overview
            if time.monotonic() - self._ended_read_at > _ENDED_FRESH_S:
                self._ended, self._ended_read_at = statistics.jobs(ENDED_JOBS), time.monotonic()
            living, holders = unit.workers.living(within_seconds=SILENT_S), statistics.holders()
            return _Figures(
                work={**dict.fromkeys(_PAIRS, OpenWork()), **statistics.open_work()},
                jobs={**statistics.jobs(OPEN_JOBS), **self._ended},
                workers=by_queue(living),
                idle=by_queue(worker for worker in living if worker.name not in holders),
            )

    def collect(self) -> Iterable[Metric]:
        figures = self._figures
        yield GaugeMetricFamily("fedlas_registry_up", "Whether the registry could be read.", figures is not None)
        if figures is None:
            return
        for field in fields(OpenWork):
            family = GaugeMetricFamily(*_WORK[field.name], labels=("queue", "kind"))
            for pair, work in figures.work.items():
                family.add_metric(pair, getattr(work, field.name))
            yield family
        yield counted("fedlas_jobs", "Jobs and dry runs, by status.", "status", figures.jobs)
        yield counted("fedlas_workers", "Living workers that take from a queue.", "queue", figures.workers)
        yield counted("fedlas_workers_idle", "Workers that hold nothing.", "queue", figures.idle)


def by_queue(workers: Iterable[WorkerProcess]) -> Mapping[str, int]:
    return {**dict.fromkeys(QUEUES, 0), **Counter(queue for worker in workers for queue in worker.queues)}
