"""The metrics of one worker process, for Prometheus, and the small server that answers `/metrics` with them.

What waits in the queues is the registry's to say: the API's `/metrics` tells it. Labels are words of ours; the codes of
failures, which a child chooses, are bounded in number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from fedlas.contract.events import Stage
from service.registry.queues import QUEUE_OF, QUEUES
from service.registry.repositories import Ended
from service.registry.settings import WorkerSettings
from worker.sandbox.process import ChildOutcome

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series, and every process tells when it started

#: Reasons that work of a worker waits again.
RELEASED = ("worker_died", "worker_silent", "worker_stopped", "worker_failed", "process_lost", "postponed")
#: How children end: with a result, with an error that they explain, or by force.
CHILD_ENDS = (
    *("result", "error", "died", "timeout", "unprotected"),
    *("cancelled", "stopping", "lease_lost", "failed"),
)
#: Codes of failures that no sender can mend.
OUR_CODES = ("internal_error", "out_of_memory", "poisoned", "storage_full", "timeout")
_UPLOADS = ("kept", "delayed", "refused")
_STATUSES = ("succeeded", "failed", "cancelled")
_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600, 1800, 3600, 7200, 14400, 28800)
_MAX_CODES = 200
_OTHER = "other"


def _counter(name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
    """A counter with a series for each value from the start: a rate needs a first zero."""
    counter = Counter(name, documentation, [label])
    for value in values:
        counter.labels(value)
    return counter


CLAIMS = _counter("fedlas_claims", "Work that this worker has claimed.", "kind", QUEUE_OF)
LEASES_LOST = Counter("fedlas_leases_lost", "Attempts that ended because the lease was another worker's by then.")
WORK_RELEASED = _counter(
    "fedlas_work_released", "Work that waits again, by why nobody holds it any more.", "reason", RELEASED
)
CHILDREN_STARTED = _counter("fedlas_children_started", "Sandboxed processes started.", "kind", QUEUE_OF)
CHILDREN_ENDED = _counter("fedlas_children_ended", "Sandboxed processes that have ended.", "reason", CHILD_ENDS)
PERMITS_RESENT = _counter(
    "fedlas_permits_resent", "Permits sent because the broker held fewer than rows were due.", "queue", QUEUES
)
CHECKPOINT_UPLOADS = _counter("fedlas_checkpoint_uploads", "Checkpoints of children.", "outcome", _UPLOADS)
CHECKPOINT_BYTES = Counter("fedlas_checkpoint_bytes", "Size of the checkpoints that were kept.")
JOBS_ENDED = _counter("fedlas_jobs_ended", "Jobs and dry runs whose end this worker wrote.", "status", _STATUSES)
JOB_FAILURES = _counter("fedlas_job_failures", "Jobs and dry runs that failed.", "code", OUR_CODES)
BATCH_FAILURES = _counter("fedlas_batch_failures", "Batch predictions that failed.", "code", OUR_CODES)
STAGE_SECONDS = Histogram(
    "fedlas_job_stage_seconds", "Time that a job spent in each stage, counted at its end.", ["stage"], buckets=_SECONDS
)
for _stage in ("queued", *get_args(Stage)):
    STAGE_SECONDS.labels(_stage)

LOADED_BYTES = Gauge(
    "fedlas_worker_loaded_bytes", "Memory of a process that has loaded PyTorch, before it opens an upload.", ["kind"]
)
LOADING_SECONDS = Gauge("fedlas_worker_loading_seconds", "Time that such a process took to load its libraries.")

_codes: set[str] = set()


def count_ended(endings: Iterable[Ended]) -> None:
    for one in endings:
        is_job = one.record_id.startswith("job_")
        if is_job:
            JOBS_ENDED.labels(one.status).inc()
            for stage, seconds in one.stage_seconds.items():
                STAGE_SECONDS.labels(stage).observe(seconds)
        if one.code is not None:
            (JOB_FAILURES if is_job else BATCH_FAILURES).labels(_bounded(one.code)).inc()


def counted_child(
    kind: str, run: Callable[[], ChildOutcome], *, interruptions: Mapping[type[Exception], str]
) -> ChildOutcome:
    """Run a child and count its start and its end; `interruptions` are the words for errors that end it by force."""
    CHILDREN_STARTED.labels(kind).inc()
    reason = "failed"
    try:
        outcome = run()
        reason = _end_of(outcome)
        return outcome
    except tuple(interruptions) as error:
        reason = interruptions[type(error)]
        raise
    finally:
        CHILDREN_ENDED.labels(reason).inc()


def _end_of(outcome: ChildOutcome) -> str:
    if outcome.unprotected is not None:
        return "unprotected"
    if outcome.died is not None:
        return "timeout" if outcome.died == "timeout" else "died"
    return "result" if outcome.result is not None else "error"


def _bounded(code: str) -> str:
    if len(_codes) < _MAX_CODES:
        _codes.add(code)
    return code if code in _codes else _OTHER


_LOG = logging.getLogger("fedlas.worker")


def serve_metrics(settings: WorkerSettings) -> Callable[[], None]:
    """Serve where the settings name a port; returns what ends it.

    A port that is taken is logged and left: the work goes on without being watched.
    """
    host, port = settings.worker_metrics_host, settings.worker_metrics_port
    if port is None:
        return lambda: None
    try:
        server, thread = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError as error:
        _LOG.error("no metrics on http://%s:%d: %s (FEDLAS_WORKER_METRICS_PORT)", host, port, error)
        return lambda: None
    _LOG.info("metrics on http://%s:%d/metrics", host, server.server_port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
