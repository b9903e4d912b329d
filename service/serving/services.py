"""The services of a process that answers predictions: made once, and shared by all requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.trace import Span

from service.api.plumbing.access import AccessControl
from service.api.plumbing.access_log import AccessLog
from service.inference.batching import InferenceBatch
from service.inference.executor import LONGEST_GRACE_S
from service.inference.gauges import add_gauges
from service.inference.metrics import ServingMetrics
from service.inference.open_models import Files
from service.inference.quarantine import Quarantine
from service.inference.runtime import prepare, spare_runs
from service.inference.scheduler import Scheduler
from service.ipc.run_marks import RunMarks
from service.model_repository import LookUp, ModelRepository
from service.settings import ServingSettings
from service.tracing import Tracing


class Admission(Protocol):
    """Says which keys are admitted."""

    def known(self, authorization: bytes) -> bool | None:
        """Whether this `Authorization` is admitted; None where it has to be asked."""

    def ask(self, authorization: bytes) -> Awaitable[bool]:
        """The same, asked; raises Unavailable."""


@dataclass(frozen=True)
class ServingServices:
    """What predictions need, and nothing else: no database, no stored files, no broker."""

    settings: ServingSettings
    access: AccessControl
    admission: Admission
    metrics: ServingMetrics
    tracing: Tracing
    scheduler: Scheduler
    model_repository: ModelRepository
    access_log: AccessLog

    @classmethod
    def open(
        cls,
        settings: ServingSettings,
        *,
        access: AccessControl,
        admission: Admission,
        look_up: LookUp,
        files: Files,
        metrics: ServingMetrics,
        tracing: Tracing,
        access_log: AccessLog,
        quarantine: Quarantine | None = None,
        on_stuck: Callable[[str], None] | None = None,
        longest_grace: float = LONGEST_GRACE_S,
        marks: RunMarks | None = None,
    ) -> ServingServices:
        """Make the scheduler and the repository of models, and count what they do."""

        def trace(batch: InferenceBatch) -> None:
            spans = [piece.request.span for piece in batch.slices if isinstance(piece.request.span, Span)]
            tracing.batch(spans, batch.started, batch.ended, rows=batch.rows)

        threads = settings.inference_threads
        scheduler = Scheduler(
            files,
            cache_bytes=settings.session_cache_bytes,
            threads=threads,
            runs=settings.inference_runs or spare_runs(processes=settings.api_processes, threads=threads),
            max_batch_rows=settings.max_batch_rows,
            max_queued_rows=settings.max_queued_rows,
            max_batch_bytes=settings.resolved_api_memory_bytes // 4,
            quarantine=quarantine,
            on_stuck=on_stuck,
            longest_grace=longest_grace,
            marks=marks,
            on_batch=trace if tracing.on else None,
        )
        add_gauges(metrics, scheduler)
        repository = ModelRepository(look_up, scheduler)
        return cls(settings, access, admission, metrics, tracing, scheduler, repository, access_log)

    def start(self) -> None:
        """Prepare the inference runtime."""
        prepare(arena_bytes=self.settings.resolved_api_memory_bytes // 2)

    def close(self) -> None:
        """Stop the threads, when no request is answered any more."""
        self.scheduler.shut_down()
