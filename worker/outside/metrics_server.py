"""The worker's `/metrics`: a small HTTP server of prometheus_client, in threads of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prometheus_client import REGISTRY, start_http_server

import worker.outside.metrics  # noqa: F401  # registers its series: they are there from the first scrape on
from worker.settings import WorkerSettings

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
