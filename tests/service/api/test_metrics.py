"""`GET /metrics`: read by Prometheus' own parsers, compared with the library's own rendering and with NumPy."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.testclient import TestClient

from service.api.plumbing import metrics as figures_of_registry
from service.api.plumbing.exposition import OPENMETRICS, TEXT, Exposition
from service.api.resources.operations import router
from service.predict.engine.metrics import (
    ABSTENTIONS,
    BATCH_ROWS,
    COMPUTE_SECONDS,
    CONFIDENCE,
    LAST_REQUEST,
    OUTCOMES,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    ServingMetrics,
)
from service.registry.errors import Unavailable
from service.serving_counts import ServingCounts, Snapshot
from tests.helpers.api import Api, Json
from tests.helpers.processes import die_with_parent

#: The header that Prometheus 3 sends.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
MODELS = [
    ("digits", "2", "mdl_a"),
    ("digits", "10", "mdl_b"),
    ("mdl_a", "2", "mdl_a"),
    ('Ziffern "ä" \\ 数字\nneu', "1", "mdl_c"),
]
LABELS = ("model", "version", "model_id")


def client_of(metrics: ServingMetrics, exposition: Exposition | None = None) -> TestClient:
    app = FastAPI()
    app.include_router(router)
    app.state.services = SimpleNamespace(exposition=exposition or Exposition(metrics))
    return TestClient(app)


@pytest.fixture
def metrics() -> ServingMetrics:
    """Four models with a thousand requests each."""
    serving = ServingMetrics()
    rng = np.random.default_rng(0)
    for call in MODELS:
        model = serving.of(*call)
        for _ in range(250):
            rows, seconds = int(rng.integers(1, 3000)), float(rng.lognormal(-4, 2))
            model.request(str(rng.choice(OUTCOMES)), rows, seconds, rows // 3)
            model.batch(rows, int(rng.integers(1, 9)), seconds, seconds / 2)
            model.confidences(rng.beta(5, 1, rows).astype(np.float32))
    serving.gauge("fedlas_sessions_open", "Models kept open.", lambda: 3)
    serving.gauge("fedlas_session_bytes", "The size of their files.", lambda: 12_345_678)
    return serving


class Families(Collector):
    """Counts as families of the library."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._counts, self._gauges = metrics.everywhere()

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "fedlas_requests", "Requests that have ended, by outcome.", labels=(*LABELS, "outcome")
        )
        for key, row in self._counts.items():
            for outcome in OUTCOMES:
                requests.add_metric((*key, outcome), row[REQUESTS[outcome]])
        yield requests
        for name, text, place in (
            ("fedlas_rows", "Rows of the requests that were answered.", ROWS),
            ("fedlas_abstentions", "Rows on which the answer abstained, as the request asked for.", ABSTENTIONS),
        ):
            counter = CounterMetricFamily(name, text, labels=LABELS)
            for key, row in self._counts.items():
                counter.add_metric(key, row[place])
            yield counter
        for name, buckets, unit in (
            ("fedlas_request_seconds", REQUEST_SECONDS, "seconds"),
            ("fedlas_queue_seconds", QUEUE_SECONDS, "seconds"),
            ("fedlas_compute_seconds", COMPUTE_SECONDS, "seconds"),
            ("fedlas_batch_rows", BATCH_ROWS, ""),
            ("fedlas_confidence", CONFIDENCE, ""),
        ):
            histogram = HistogramMetricFamily(name, "", labels=LABELS, unit=unit)
            for key, row in self._counts.items():
                numbers = np.cumsum(buckets.counts(row))
                pairs = [*zip(map(str, buckets.edges), numbers, strict=False), ("+Inf", numbers[-1])]
                histogram.add_metric(key, pairs, row[buckets.sum])
            yield histogram
        for gauge, value in self._gauges:
            yield GaugeMetricFamily(gauge.name, gauge.help, value=value)
        left_out = "Names and versions asked too long ago to be listed here."
        yield GaugeMetricFamily("fedlas_models_left_out", left_out, value=0)


def told(families: Iterable[Metric]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    """The serving metrics that a parser found: name, type, unit and samples of each family."""
    for family in families:
        if family.name.startswith("fedlas_"):
            samples = sorted(family.samples, key=lambda sample: (sample.name, sorted(sample.labels.items())))
            yield family.name, family.type, family.unit, samples


def value(text: str, name: str, **labels: str) -> float:
    """The one sample with this name and these labels."""
    found = [
        sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_the_text_says_what_the_librarys_own_says(metrics: ServingMetrics) -> None:
    """Families, types and every sample are those of prometheus_client's rendering, names in any script included."""
    registry = CollectorRegistry()
    registry.register(Families(metrics))
    answer = client_of(metrics).get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, TEXT)
    ours = [*told(parse_text(answer.text))]
    assert ours == [*told(parse_text(prometheus_text(registry).decode()))]
    assert len(ours) == 11
    assert sum(len(samples) for *_, samples in ours) == 4 * (6 + 2 + 3 * 17 + 18 + 24) + 3


def test_openmetrics_is_what_the_librarys_own_is(metrics: ServingMetrics) -> None:
    """Prometheus' own headers get OpenMetrics 1.0.0, with units and an end; a strict parser finds the same samples."""
    registry = CollectorRegistry()
    registry.register(Families(metrics))
    answer = client_of(metrics).get("/metrics", headers={"Accept": ACCEPT})
    assert (answer.status_code, answer.headers["content-type"]) == (200, OPENMETRICS)
    assert answer.text.endswith("# EOF\n")
    assert [*told(parse_openmetrics(answer.text))] == [*told(parse_openmetrics(openmetrics_text(registry).decode()))]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", TEXT),
        ("", TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("text/plain, application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=1.x", TEXT),
        (";;,=,;version", TEXT),
    ],
)
def test_no_other_format_is_promised_than_is_sent(accept: str, content_type: str) -> None:
    """OpenMetrics 1.0.0 where it is accepted; everybody else, whatever they ask for, gets the plain text."""
    answer = client_of(ServingMetrics()).get("/metrics", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


def test_a_scrape_is_packed_for_who_takes_it(metrics: ServingMetrics) -> None:
    """With gzip among the accepted encodings the same text comes in a fraction of the bytes."""
    client = client_of(metrics)
    plain = client.get("/metrics", headers={"Accept-Encoding": "identity"})
    with client.stream("GET", "/metrics", headers={"Accept-Encoding": "br, gzip;q=0.5"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert [*told(parse_text(gzip.decompress(packed).decode()))] == [*told(parse_text(plain.text))]
    assert len(packed) < len(plain.content) / 4


def test_a_service_without_models_has_metrics_too() -> None:
    """Families without samples are allowed, and the use of the process is always reported."""
    client = client_of(ServingMetrics())
    assert value(client.get("/metrics").text, "process_resident_memory_bytes") > 0
    names = {family.name for family in parse_openmetrics(client.get("/metrics", headers={"Accept": ACCEPT}).text)}
    assert {"fedlas_requests", "fedlas_confidence", "process_cpu_seconds", "python_info"} <= names


def test_control_tells_of_all_processes(tmp_path: Path) -> None:
    """Control shows what others have counted, and what each of them uses under its process id."""
    metrics, counts = ServingMetrics(), ServingCounts(tmp_path / "serving.counts")
    other = ServingMetrics()
    other.of("digits", "1", "mdl_a").request("ok", 3, 0.1)
    counts.met("serving-1", 1)
    counts.tell("serving-1", Snapshot(other.own(), other.own_gauges()).encode())
    metrics.others = counts.others
    process = subprocess.Popen(
        [sys.executable, "-c", "input(1)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent()
    )
    assert process.stdout is not None
    process.stdout.read(1)  # before it runs it has no memory of its own
    exposition = Exposition(
        metrics,
        processes=lambda: {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 1},
        process_ids=lambda: [os.getpid(), process.pid],
    )
    client = client_of(metrics, exposition)
    try:
        text = client.get("/metrics", headers={"Accept": ACCEPT}).text
    finally:
        process.communicate(b"\n")
    assert value(text, "fedlas_rows_total", model="digits") == 3
    assert value(text, "fedlas_predict_processes", provider="CUDAExecutionProvider") == 2
    assert value(text, "fedlas_predict_processes", provider="CPUExecutionProvider") == 1
    for pid in (os.getpid(), process.pid):
        assert value(text, "process_resident_memory_bytes", pid=str(pid)) > 0
        assert value(text, "process_cpu_seconds_total", pid=str(pid)) >= 0
    assert {family.name for family in parse_openmetrics(text)} >= {"process_open_fds", "fedlas_rows"}


def test_what_the_service_does_is_told(served: tuple[Api, Json]) -> None:
    """A request with three rows is one request, three rows and three confidences; an unknown model counts for none."""
    api, model = served

    def counted(name: str, **labels: str) -> float:
        labels = {"model": model["id"], "version": "1", "model_id": model["id"], **labels}
        return value(api.client.get("/metrics").text, name, **labels)

    def ask(model_id: str) -> int:
        rows = [[0.0] * 64] * 3
        return api.client.post(f"/v1/models/{model_id}/predict", json={"inputs": rows, "abstain_below": 1}).status_code

    assert ask(model["id"]) == 200
    names = ("rows_total", "abstentions_total", "confidence_count", "batch_rows_sum", "queue_seconds_count")
    before = [counted(f"fedlas_{name}") for name in names]
    answered = counted("fedlas_requests_total", outcome="ok")
    assert ask("nobody") == 404
    others = value(api.client.get("/metrics").text, "fedlas_requests_total", model="other", outcome="refused")
    assert (ask(model["id"]), ask("mdl_nobody"), ask("nobody")) == (200, 404, 404)
    after = [counted(f"fedlas_{name}") for name in names]
    assert [late - early for early, late in zip(before, after, strict=True)] == [3, 3, 3, 3, 1]
    assert counted("fedlas_requests_total", outcome="ok") == answered + 1
    text = api.client.get("/metrics").text
    assert "nobody" not in text
    assert value(text, "fedlas_requests_total", model="other", outcome="refused") == others + 2
    assert value(text, "fedlas_sessions_open") >= 1


def test_what_waits_is_told_as_it_stands_in_the_registry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are due, put off, blocked or held, by queue and kind, with the age of the oldest; jobs and workers."""
    monkeypatch.setattr(figures_of_registry, "_FRESH_S", 0.0)
    monkeypatch.setattr(figures_of_registry, "_ENDED_FRESH_S", -1.0)
    order = api.order()
    jobs = [api.post("/v1/jobs", json=order)["id"] for _ in range(4)]
    with api.registry.write() as unit:
        moment = unit.now()
        for record_id in jobs[:3]:
            unit.work.unblock([record_id])
        unit.work.of(jobs[0]).not_before = moment - timedelta(seconds=500)
        unit.work.of(jobs[1]).not_before = moment + timedelta(hours=1)
        for name, queues in (("w", ["inspect", "predict"]), ("idle", ["predict"])):
            unit.workers.heartbeat(
                name, machine="m", process=name, queues=queues, gpu=False, memory_bytes=1, release=None
            )
    with api.registry.write() as unit:
        assert unit.work.claim(jobs[2], worker="w", lease_seconds=1e-3) is not None
        unit.jobs.change_status(unit.jobs.get(jobs[3]), "cancelled")
    told = api.client.get("/metrics", headers={"Accept": ACCEPT}).text

    def work(name: str, queue: str = "calibrate.cpu", kind: str = "calibrate") -> float:
        return value(told, f"fedlas_work_{name}", queue=queue, kind=kind)

    names = ("due", "later", "blocked", "claimed", "expired")
    assert [work(name) for name in names] == [1, 1, 1, 1, 1]
    assert 500 <= work("oldest_age_seconds") < 600
    assert [work(name, "inspect", "inspect") for name in names] == [2, 0, 0, 0, 0]
    assert [work(name, "calibrate.gpu", "calibrate") for name in names] == [0, 0, 0, 0, 0]
    assert [value(told, "fedlas_jobs", status=status) for status in ("queued", "cancelled", "failed")] == [3, 1, 0]
    queues = ("inspect", "predict", "deliver")
    assert [value(told, "fedlas_workers", queue=queue) for queue in queues] == [1, 2, 0]
    assert [value(told, "fedlas_workers_idle", queue=queue) for queue in queues] == [0, 1, 0]
    assert value(told, "fedlas_registry_up") == 1

    def away() -> Any:
        raise Unavailable("database_unavailable", "it is away")

    monkeypatch.setattr(api.registry, "read", away)
    told = api.client.get("/metrics").text
    assert value(told, "fedlas_registry_up") == 0
    assert "fedlas_work_due{" not in told
    assert value(told, "process_resident_memory_bytes") > 0


def test_the_number_of_series_is_bounded() -> None:
    """1,500 versions are no more text than 200: those asked last are listed, and the rest is counted."""
    serving = ServingMetrics(most_models=1500)
    for version in range(1500):
        model = serving.of("digits", str(version), "mdl_a")
        model.request("ok", 1, 0.001)
        model._numbers[LAST_REQUEST] = version
    serving.unknown.request("refused", 0, 0.001)
    text = client_of(serving, Exposition(serving)).get("/metrics").text
    assert len(text) < 3_000_000
    told = {
        line.split('version="')[1].split('"')[0] for line in text.splitlines() if line.startswith("fedlas_rows_total")
    }
    assert told == {str(version) for version in range(1300, 1500)} | {""}
    assert value(text, "fedlas_models_left_out") == 1300
    assert value(text, "fedlas_requests_total", model="other", outcome="refused") == 1
