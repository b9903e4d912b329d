"""Puts together what serves: counts, traces, engine, catalogue and lane; a part of the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp

from service.api.cross_site import Sites
from service.api.metrics import Exposition
from service.api.middleware import Keys
from service.inference.batching import InferenceBatch
from service.inference.metrics import ServingMetrics
from service.inference.quarantine import Quarantine
from service.inference.runtime import prepare, spare_runs
from service.inference.scheduler import Scheduler
from service.model_repository import Catalogue
from service.registry.unit_of_work import Registry
from service.serving.app import Serving, ServingLane
from service.serving.infer import infer
from service.serving.predict import predict
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts
from service.tracing import Tracing


@dataclass(frozen=True)
class Assembly:
    """Everything that serves, for as long as the process lives."""

    settings: ServiceSettings
    metrics: ServingMetrics
    tracing: Tracing
    engine: Scheduler
    catalogue: Catalogue
    serving: Serving
    exposition: Exposition
    shared: SharedCounts | None

    @classmethod
    def of(cls, settings: ServiceSettings, registry: Registry, on_stuck: Callable[[str], None] | None) -> Assembly:
        """Make it; nothing is started yet."""
        metrics, tracing = ServingMetrics(most_models=settings.metrics_models), Tracing.from_environment()
        engine = _engine(settings, registry, tracing, on_stuck)
        for name, about, ask in _gauges(engine):
            metrics.gauge(name, about, ask)
        catalogue = Catalogue(registry, engine, metrics)
        several = settings.api_processes > 1
        shared = SharedCounts(settings.data_dir.absolute() / "run" / "metrics", metrics) if several else None
        return cls(
            settings=settings,
            metrics=metrics,
            tracing=tracing,
            engine=engine,
            catalogue=catalogue,
            serving=Serving(settings, catalogue, engine, tracing),
            exposition=Exposition(
                metrics,
                process_ids=shared.process_ids if shared else None,
                most_models=settings.metrics_models,
            ),
            shared=shared,
        )

    def before(self, app: ASGIApp) -> ServingLane:
        """The lane, in front of everything that the framework does with a request."""
        keys, sites = Keys(self.settings.api_keys), Sites.of(self.settings)
        return ServingLane(app, serving=self.serving, keys=keys, sites=sites, predict=predict, infer=infer)

    def start(self) -> None:
        """The process serves from now on."""
        prepare(arena_bytes=self.settings.resolved_api_memory_bytes // 2)
        if self.shared is not None:
            self.shared.start()

    def stop(self) -> None:
        """It has stopped."""
        self.serving.shut_down()
        if self.shared is not None:
            self.shared.stop()
        self.tracing.close()


def suspensions(settings: ServiceSettings) -> Quarantine:
    """Which served copies are out of service on this machine."""
    return Quarantine(settings.data_dir.absolute() / "run" / "suspended")


def _engine(
    settings: ServiceSettings, registry: Registry, tracing: Tracing, on_stuck: Callable[[str], None] | None
) -> Scheduler:
    def trace(batch: InferenceBatch) -> None:
        spans = [piece.request.span for piece in batch.slices if piece.request.span is not None]
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
        suspensions=suspensions(settings),
        on_stuck=on_stuck,
        on_batch=trace if tracing.on else None,
    )


def _gauges(engine: Scheduler) -> list[tuple[str, str, Callable[[], float]]]:
    return [
        ("fedlas_sessions_open", "Models that are kept open.", lambda: engine.open_sessions),
        ("fedlas_session_bytes", "Size of the files of the models that are kept open.", lambda: engine.open_bytes),
        ("fedlas_queued_rows", "Rows that wait for their batch.", lambda: engine.queued_rows),
    ]
