"""The exposition of metrics for Prometheus: counts of serving, and what the processes use.

Counts of serving are written here: prometheus_client renders families of samples in 8 µs a sample, and there are about
a hundred for each model, a second for 1,000 models, in which the event loop waits for the interpreter. Here it is 1 µs.
"""

from __future__ import annotations

import gzip
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.exposition import gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector
from starlette.responses import Response

from service.predict.engine.metrics import (
    ABSTENTIONS,
    BATCH_ROWS,
    COMPUTE_SECONDS,
    CONFIDENCE,
    MAX_MODELS,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    Buckets,
    Counts,
    Gauge,
    ModelKey,
    Row,
    ServingMetrics,
    latest,
)

_COUNTERS = (
    ("fedlas_rows", "Rows of the requests that were answered.", ROWS),
    ("fedlas_abstentions", "Rows on which the answer abstained, as the request asked for.", ABSTENTIONS),
)
_HISTOGRAMS = (
    ("fedlas_request_seconds", "From a request's arrival to its answer, of those that were answered.", REQUEST_SECONDS),
    (
        "fedlas_queue_seconds",
        "How long requests waited for their batch; sum and count are exact, the bucket is that of the batch's mean.",
        QUEUE_SECONDS,
    ),
    ("fedlas_compute_seconds", "How long ONNX Runtime took for a batch.", COMPUTE_SECONDS),
    ("fedlas_batch_rows", "Rows in a batch.", BATCH_ROWS),
    ("fedlas_confidence", "Calibrated confidences of the rows that were run.", CONFIDENCE),
)
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def serving_text(counts: Counts, gauges: Iterable[tuple[Gauge, float]], *, openmetrics: bool) -> str:
    """All families with the samples of all models; OpenMetrics still needs its last line, `# EOF`."""
    rows = [(_labels(key), row) for key, row in counts.items()]
    lines = [*_head("fedlas_requests", "Requests that have ended, by outcome.", "counter", openmetrics)]
    for labels, row in rows:
        # Outcomes that have not occurred, too: a rate needs a first zero.
        lines += [
            f'fedlas_requests_total{{{labels},outcome="{outcome}"}} {float(row[place])}'
            for outcome, place in REQUESTS.items()
        ]
    for name, text, place in _COUNTERS:
        lines += _head(name, text, "counter", openmetrics)
        lines += [f"{name}_total{{{labels}}} {float(row[place])}" for labels, row in rows]
    for name, text, buckets in _HISTOGRAMS:
        lines += _head(name, text, "histogram", openmetrics)
        edges = [f'{name}_bucket{{le="{edge}",' for edge in (*buckets.edges, "+Inf")]
        for labels, row in rows:
            lines += _histogram(name, edges, labels, row, buckets)
    for gauge, value in gauges:
        kind, sample = ("counter", f"{gauge.name}_total") if gauge.counts else ("gauge", gauge.name)
        lines += [*_head(gauge.name, gauge.help, kind, openmetrics), f"{sample} {value}"]
    return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str, openmetrics: bool) -> Iterator[str]:
    """OpenMetrics names the family, Prometheus' text the samples; only the former knows units."""
    shown = f"{name}_total" if kind == "counter" and not openmetrics else name
    yield f"# HELP {shown} {text}"
    yield f"# TYPE {shown} {kind}"
    if openmetrics and name.endswith("_seconds"):
        yield f"# UNIT {shown} seconds"


def _histogram(name: str, edges: list[str], labels: str, row: Row, buckets: Buckets) -> Iterator[str]:
    cumulated = buckets.counts(row).cumsum().tolist()
    for edge, number in zip(edges, cumulated, strict=True):
        yield f"{edge}{labels}}} {number}"
    yield f"{name}_count{{{labels}}} {cumulated[-1]}"
    yield f"{name}_sum{{{labels}}} {float(row[buckets.sum])}"


def _labels(key: ModelKey) -> str:
    name, version, model_id = (value.translate(_ESCAPES) for value in key)
    return f'model="{name}",version="{version}",model_id="{model_id}"'


TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
#: Not added to `other`: its sum would fall and jump as models enter and leave the list, like restarts and bursts.
_LEFT_OUT = Gauge("fedlas_models_left_out", "Names and versions asked too long ago to be listed here.", lambda: 0.0)


class Figures(Collector):
    """Figures that are read before a scrape."""

    @abstractmethod
    async def refresh(self) -> None:
        """Read them, unless that was a moment ago."""


class Exposition:
    """All metrics of the service as text; thread-safe.

    Args:
        metrics: what serving counts.
        figures: what the registry knows of queues, jobs and workers.
        count: has what other processes have counted at hand.
        processes: those that answer predictions, by the execution provider of ONNX Runtime.
        process_ids: of the processes that serve this port, where there are several: a scrape reaches only one of them,
            so the resources of each are exposed with its `pid`.
        most_models: names and versions with series of their own, those that were asked last; each process may have
            counted so many others.
    """

    def __init__(
        self,
        metrics: ServingMetrics,
        *,
        figures: Figures | None = None,
        count: Callable[[], Awaitable[None]] | None = None,
        processes: Callable[[], Mapping[str, int]] | None = None,
        process_ids: Callable[[], Iterable[int]] | None = None,
        most_models: int = MAX_MODELS,
    ) -> None:
        self._metrics = metrics
        self._most_models = most_models
        self._figures = figures
        self._count = count
        self._registry = CollectorRegistry()
        if figures is not None:
            self._registry.register(figures)
        if processes is not None:
            self._registry.register(_Providers(processes))
        if process_ids is None:
            ProcessCollector(registry=self._registry)
        else:
            self._registry.register(_Processes(process_ids))
        PlatformCollector(registry=self._registry)
        self._turn = CapacityLimiter(1)  # a scrape during another one waits without a thread

    async def answer(self, accept: str, accept_encoding: str) -> Response:
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
    """True where 1.0.0 is accepted; prometheus_client's `choose_encoder` promises any later version, too.

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


def counted(name: str, documentation: str, label: str, numbers: Mapping[str, int]) -> Metric:
    """A gauge of each value of its label."""
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for value, number in numbers.items():
        family.add_metric((value,), number)
    return family


class _Providers(Collector):
    """The execution providers of ONNX Runtime that predictions run on."""

    def __init__(self, processes: Callable[[], Mapping[str, int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        text = "Processes that answer predictions, by the execution provider of ONNX Runtime."
        yield counted("fedlas_predict_processes", text, "provider", self._processes())


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
