"""The services of one API process: made once from the settings, and given to every handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from opentelemetry.trace import Span
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from service.api.access_log import AccessLog
from service.api.group_commit import GroupCommit
from service.api.long_poll import LongPoll
from service.api.metrics import Exposition
from service.api.metrics_registry import RegistryFigures
from service.api.probes import Probes
from service.inference.batching import InferenceBatch
from service.inference.metrics import ServingMetrics
from service.inference.quarantine import Quarantine
from service.inference.runtime import prepare, spare_runs
from service.inference.scheduler import Scheduler
from service.model_repository import ModelRepository
from service.queue import PermitSender
from service.registry.registry import Registry
from service.registry.unit_of_work import UnitOfWork
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts
from service.tracing import Tracing

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """Everything that lives as long as the process.

    Attributes:
        write_limiter: of the threads that write: one.
        shared_counts: None where one process serves the port.
    """

    settings: ServiceSettings
    registry: Registry
    notifier: PermitSender
    long_poll: LongPoll
    write_limiter: CapacityLimiter
    group_commit: GroupCommit
    probes: Probes
    metrics: ServingMetrics
    tracing: Tracing
    scheduler: Scheduler
    model_repository: ModelRepository
    exposition: Exposition
    access_log: AccessLog
    shared_counts: SharedCounts | None

    @classmethod
    def open(cls, settings: ServiceSettings, on_stuck: Callable[[str], None] | None = None) -> Services:
        """Open and migrate the registry and make the rest; nothing runs before `start`."""
        registry = Registry.open(settings)
        registry.migrate()
        notifier = PermitSender(settings.resolved_broker_url)
        registry.notify = notifier.notify
        write_limiter = CapacityLimiter(1)
        metrics, tracing = ServingMetrics(most_models=settings.metrics_models), Tracing.from_environment()
        scheduler = _scheduler(settings, registry, tracing, on_stuck)
        _add_gauges(metrics, scheduler)
        shared_counts, probes = None, Probes()
        if settings.api_processes > 1:
            shared_counts = SharedCounts(settings.data_dir.absolute() / "run" / "metrics", metrics)
        return cls(
            settings=settings,
            registry=registry,
            notifier=notifier,
            long_poll=LongPoll(registry),
            write_limiter=write_limiter,
            group_commit=GroupCommit(registry, write_limiter),
            probes=probes,
            metrics=metrics,
            tracing=tracing,
            scheduler=scheduler,
            model_repository=ModelRepository(registry, scheduler),
            exposition=Exposition(
                metrics,
                figures=RegistryFigures(registry, probes),
                process_ids=shared_counts.process_ids if shared_counts else None,
                most_models=settings.metrics_models,
            ),
            access_log=AccessLog(),
            shared_counts=shared_counts,
        )

    def start(self) -> None:
        """Prepare the inference runtime, and begin to share counts and to log requests."""
        self.access_log.start()
        prepare(arena_bytes=self.settings.resolved_api_memory_bytes // 2)
        if self.shared_counts is not None:
            self.shared_counts.start()

    def close(self) -> None:
        """Stop everything; called once, when no request is answered any more."""
        self.scheduler.shut_down()
        if self.shared_counts is not None:
            self.shared_counts.stop()
        self.access_log.stop()
        self.tracing.close()
        self.long_poll.close()
        self.notifier.close()
        self.registry.close()

    async def read(self, find: Callable[[UnitOfWork], T]) -> T:
        """Run a function in a thread, over a transaction that is never committed."""

        def in_transaction() -> T:
            with self.registry.read() as unit:
                return find(unit)

        return await run_in_threadpool(in_transaction)

    async def write(self, change: Callable[[UnitOfWork], T]) -> T:
        """Run a function in a thread, in a transaction after those that came before it.

        The database lets one write at a time anyway. Threads that queue there wait in no order (with 16 clients on
        SQLite the slowest took 5 s, here 0.1 s) and are missing for reading.
        """

        def in_transaction() -> T:
            with self.registry.write() as unit:
                return change(unit)

        return await to_thread.run_sync(in_transaction, limiter=self.write_limiter)


async def _services(connection: HTTPConnection) -> Services:  # a plain function would be sent to a thread
    services: Services = connection.app.state.services
    return services


async def in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run in a thread, and wait for its end also when the request is cancelled: the work uses a file that is open."""
    running = asyncio.ensure_future(run_in_threadpool(function, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


#: The services as the parameter of a handler.
ServicesDep = Annotated[Services, Depends(_services)]


def quarantine(settings: ServiceSettings) -> Quarantine:
    """Which served copies are out of service on this machine."""
    return Quarantine(settings.data_dir.absolute() / "run" / "suspended")


def _scheduler(
    settings: ServiceSettings, registry: Registry, tracing: Tracing, on_stuck: Callable[[str], None] | None
) -> Scheduler:
    def trace(batch: InferenceBatch) -> None:
        spans = [piece.request.span for piece in batch.slices if isinstance(piece.request.span, Span)]
        tracing.batch(spans, batch.started, batch.ended, rows=batch.rows)

    threads = settings.inference_threads
    return Scheduler(
        registry.artifacts,
        cache_bytes=settings.session_cache_bytes,
        threads=threads,
        runs=settings.inference_runs or spare_runs(processes=settings.api_processes, threads=threads),
        max_batch_rows=settings.max_batch_rows,
        max_queued_rows=settings.max_queued_rows,
        max_batch_bytes=settings.resolved_api_memory_bytes // 4,
        quarantine=quarantine(settings),
        on_stuck=on_stuck,
        on_batch=trace if tracing.on else None,
    )


def _add_gauges(metrics: ServingMetrics, scheduler: Scheduler) -> None:
    metrics.gauge("fedlas_sessions_open", "Models that are kept open.", lambda: scheduler.open_sessions)
    about = "Size of the files of the models that are kept open."
    metrics.gauge("fedlas_session_bytes", about, lambda: scheduler.open_bytes)
    metrics.gauge("fedlas_queued_rows", "Rows that wait for their batch.", lambda: scheduler.queued_rows)
