"""The exposition of metrics for Prometheus: what serving counts, what waits for workers, and what the processes use."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Iterable

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.exposition import gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector

from service.api.metrics_registry import RegistryFigures
from service.api.metrics_text import serving_text
from service.inference.counters import latest
from service.inference.metrics import MOST_MODELS, Gauge, ServingMetrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
#: Not added to `other`: its sum would fall and jump as models enter and leave the list, like restarts and bursts.
_LEFT_OUT = Gauge("fedlas_models_left_out", "Names and versions asked too long ago to be listed here.", lambda: 0.0)


class Exposition:
    """All metrics of the service as text; thread-safe.

    Args:
        metrics: what serving counts.
        figures: what the registry knows of queues, jobs and workers.
        count: has what other processes have counted at hand.
        process_ids: of the processes that serve this port, where there are several: a scrape reaches only one of them,
            so the resources of each are exposed with its `pid`.
        most_models: names and versions with series of their own, those that were asked last; each process may have
            counted so many others.
    """

    def __init__(
        self,
        metrics: ServingMetrics,
        *,
        figures: RegistryFigures | None = None,
        count: Callable[[], Awaitable[None]] | None = None,
        process_ids: Callable[[], Iterable[int]] | None = None,
        most_models: int = MOST_MODELS,
    ) -> None:
        self._metrics = metrics
        self._most_models = most_models
        self._figures = figures
        self._count = count
        self._registry = CollectorRegistry()
        if figures is not None:
            self._registry.register(figures)
        if process_ids is None:
            ProcessCollector(registry=self._registry)
        else:
            self._registry.register(_Processes(process_ids))
        PlatformCollector(registry=self._registry)
        self._turn = CapacityLimiter(1)  # a scrape during another one waits without a thread

    async def answer(self, accept: str, accept_encoding: str) -> Response:
        """The text in a format that the client accepts."""
        if self._figures is not None:
            await self._figures.refresh()
        if self._count is not None:
            await self._count()
        return await to_thread.run_sync(self._answer, accept, accept_encoding, limiter=self._turn)

    def _answer(self, accept: str, accept_encoding: str) -> Response:
        openmetrics = _takes_openmetrics(accept)
        counts, gauges = self._metrics.everywhere()
        shown = latest(counts, self._most_models)
        gauges.append((_LEFT_OUT, len(counts) - len(shown)))
        serving = serving_text(shown, gauges, openmetrics=openmetrics)
        processes = (openmetrics_text if openmetrics else prometheus_text)(self._registry)
        text, headers = serving.encode() + processes, {"Content-Type": OPENMETRICS if openmetrics else TEXT}
        if gzip_accepted(accept_encoding):
            text, headers["Content-Encoding"] = gzip.compress(text, compresslevel=1), "gzip"
        return Response(text, headers=headers)


def _takes_openmetrics(accept: str) -> bool:
    """Whether 1.0.0 is among what is accepted; prometheus_client's `choose_encoder` promises any later version, too.

    >>> _takes_openmetrics("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2")
    True
    >>> _takes_openmetrics("application/openmetrics-text; version=2.0.0, text/plain;version=0.0.4")
    False
    """
    for kind in accept.split(","):
        name, *parameters = (part.strip().lower() for part in kind.split(";"))
        versions = [value for value in parameters if value.startswith("version=")]
        if name == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
            return True
    return False


class _Processes(Collector):
    """The metrics of prometheus_client's `ProcessCollector` for each process."""

    def __init__(self, process_ids: Callable[[], Iterable[int]]) -> None:
        self._process_ids = process_ids

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for pid in map(str, self._process_ids()):
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                samples = [sample._replace(labels={**sample.labels, "pid": pid}) for sample in family.samples]
                known = families.get(family.name)
                family.samples = samples if known is None else known.samples + samples
                families[family.name] = family
        return families.values()
