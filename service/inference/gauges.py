"""The gauges of serving: what a process keeps open, and what waits in it."""

from __future__ import annotations

from typing import Protocol

from service.inference.metrics import ServingMetrics


class Load(Protocol):
    """What a scheduler has in hand."""

    @property
    def open_sessions(self) -> int:
        """Models."""

    @property
    def open_bytes(self) -> int:
        """The size of their files."""

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""


class NoLoad:
    """That of a process that runs no models, and shows what others do."""

    open_sessions = open_bytes = queued_rows = 0


def add_gauges(metrics: ServingMetrics, load: Load) -> None:
    """Register them, to be read at each scrape."""
    metrics.gauge("fedlas_sessions_open", "Models that are kept open.", lambda: load.open_sessions)
    about = "Size of the files of the models that are kept open."
    metrics.gauge("fedlas_session_bytes", about, lambda: load.open_bytes)
    metrics.gauge("fedlas_queued_rows", "Rows that wait for their batch.", lambda: load.queued_rows)
