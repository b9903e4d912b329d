"""The text format of the counts of serving, for Prometheus and OpenMetrics.

prometheus_client renders families of samples in 8 µs a sample, and there are about a hundred for each model: a second
for 1,000 models, in which the event loop waits for the interpreter. Here it is 1 µs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.inference.counters import (
    ABSTENTIONS,
    BATCH_ROWS,
    COMPUTE_SECONDS,
    CONFIDENCE,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    Buckets,
    Counts,
    ModelKey,
    Row,
)
from service.inference.metrics import Gauge

_REQUESTS_HELP = "Requests that have ended, by outcome."
_COUNTERS = (
    ("fedlas_rows", "Rows of the requests that were answered.", ROWS),
    ("fedlas_abstentions", "Rows on which the answer abstained, as the request asked for.", ABSTENTIONS),
)
_QUEUE_HELP = (
    "How long requests waited for their batch; sum and count are exact, the bucket is that of the batch's mean."
)
_HISTOGRAMS = (
    ("fedlas_request_seconds", "From a request's arrival to its answer, of those that were answered.", REQUEST_SECONDS),
    ("fedlas_queue_seconds", _QUEUE_HELP, QUEUE_SECONDS),
    ("fedlas_compute_seconds", "How long ONNX Runtime took for a batch.", COMPUTE_SECONDS),
    ("fedlas_batch_rows", "Rows in a batch.", BATCH_ROWS),
    ("fedlas_confidence", "Calibrated confidences of the rows that were run.", CONFIDENCE),
)
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def serving_text(counts: Counts, gauges: Iterable[tuple[Gauge, float]], *, openmetrics: bool) -> str:
    """All families with the samples of all models; OpenMetrics still needs its last line, `# EOF`."""
    rows = [(_labels(key), row) for key, row in counts.items()]
    lines = [*_head("fedlas_requests", _REQUESTS_HELP, "counter", openmetrics)]
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
