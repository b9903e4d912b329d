"""Traces: sent over real OTLP to a receiver that reads the protobuf, and nothing at all where none is configured."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN

from service import tracing as module
from service.tracing import Tracing, end
from tests.helpers import ROOT
from tests.helpers.collector import Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {b"host": b"x", b"traceparent": f"00-{TRACE}-{PARENT}-01".encode(), b"tracestate": b"congo=t61rcWkgMzE"}


def attributes(span: SentSpan) -> dict[str, object]:
    return {item.key: getattr(item.value, str(item.value.WhichOneof("value"))) for item in span.attributes}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set where the tests run."""
    for name in module.os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def in_memory(provider: TracerProvider | None = None) -> tuple[Tracing, InMemorySpanExporter]:
    provider, exporter = provider or TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider), exporter


def test_requests_and_their_batch_reach_the_collector(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's trace goes on; the batch is a child of its first request, linked with all, at the time it was run."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    tracing = Tracing.from_environment()
    assert tracing.on
    before = time.time_ns()
    continued, fresh = tracing.start(HEADERS, "predict"), tracing.start({b"host": b"x"}, "infer")
    began = time.perf_counter()
    ended = time.perf_counter() + 0.25
    tracing.batch([continued, INVALID_SPAN, fresh], began, ended, rows=6)
    end(continued, "ok", model="digits", version="2", rows=3, abstained=0, request_id="req_1", calibrated=True)
    end(fresh, "failed", model="digits", rows=2)
    after = time.time_ns()
    tracing.close()
    assert collector.paths == {"/v1/traces"}
    spans = collector.spans()
    assert set(spans) == {"predict", "infer", "batch"}
    predict, infer, batch = spans["predict"], spans["infer"], spans["batch"]
    assert (predict.trace_id.hex(), predict.parent_span_id.hex()) == (TRACE, PARENT)
    assert predict.trace_state == "congo=t61rcWkgMzE"
    assert (infer.trace_id != predict.trace_id, infer.parent_span_id) == (True, b"")
    server, internal = SentSpan.SPAN_KIND_SERVER, SentSpan.SPAN_KIND_INTERNAL
    assert (predict.kind, infer.kind, batch.kind) == (server, server, internal)
    assert attributes(predict) == {
        "fedlas.outcome": "ok",
        "fedlas.model": "digits",
        "fedlas.version": "2",
        "fedlas.rows": 3,
        "fedlas.abstained": 0,
        "fedlas.request_id": "req_1",
        "fedlas.calibrated": True,
    }
    assert attributes(infer) == {"fedlas.outcome": "failed", "fedlas.model": "digits", "fedlas.rows": 2}
    assert (predict.status.code, infer.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR)
    assert (batch.trace_id, batch.parent_span_id) == (predict.trace_id, predict.span_id)
    assert [link.span_id for link in batch.links] == [predict.span_id, infer.span_id]
    assert [link.trace_id for link in batch.links] == [predict.trace_id, infer.trace_id]
    assert [[link.span_id for link in span.links] for span in (predict, infer)] == [[batch.span_id]] * 2
    assert attributes(batch) == {"fedlas.rows": 6, "fedlas.requests": 3}
    assert batch.end_time_unix_nano - batch.start_time_unix_nano == pytest.approx((ended - began) * 1e9, abs=1000)
    assert before <= predict.start_time_unix_nano <= batch.start_time_unix_nano <= predict.end_time_unix_nano <= after
    resource = {
        item.key: item.value.string_value for item in collector.received[0].resource_spans[0].resource.attributes
    }
    assert (resource["service.name"], resource["deployment.environment"]) == ("fedlas", "test")


@pytest.mark.parametrize(
    "traceparent",
    [b"", b"x", b"\xff\xfe", f"00-{'0' * 32}-{PARENT}-01".encode(), f"00-{TRACE}-{PARENT}".encode(), b"0" * 10_000],
)
def test_a_traceparent_that_is_none_begins_a_new_trace(traceparent: bytes) -> None:
    """Whatever a client sends there, its request is traced, and answered."""
    tracing, exporter = in_memory()
    end(tracing.start({b"traceparent": traceparent}, "predict"), "ok")
    (found,) = exporter.get_finished_spans()
    assert found.parent is None


def test_what_is_not_sampled_is_not_recorded() -> None:
    """A client that does not trace its request (flags 00) causes no spans; neither does a batch of such requests."""
    tracing, exporter = in_memory()
    quiet = tracing.start({b"traceparent": f"00-{TRACE}-{PARENT}-00".encode()}, "predict")
    tracing.batch([quiet, INVALID_SPAN], 1.0, 2.0, rows=2)
    tracing.batch([], 1.0, 2.0, rows=0)
    end(quiet, "ok")
    assert exporter.get_finished_spans() == ()
    loud = tracing.start({b"traceparent": f"00-{TRACE}-{PARENT}-01".encode()}, "predict")
    tracing.batch([quiet, loud], 1.0, 2.0, rows=2)
    end(loud, "ok")
    batch, request = exporter.get_finished_spans()
    assert batch.attributes is not None
    assert (batch.name, batch.attributes["fedlas.requests"]) == ("batch", 2)
    assert [link.context.span_id for link in batch.links] == [request.context.span_id]
    silent, exporter = in_memory(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    end(silent.start({}, "predict"), "ok", rows=1)
    assert exporter.get_finished_spans() == ()


def test_a_request_that_ended_before_its_batch_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A request without a client, or past its deadline, is no part of the batch's trace, and nothing is logged."""
    tracing, exporter = in_memory()
    gone, there = tracing.start({}, "gone"), tracing.start({}, "there")
    end(gone, "gone")
    tracing.batch([gone, there], 1.0, 2.0, rows=2)
    end(there, "ok")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert [link.context.span_id for link in spans["batch"].links] == [spans["there"].context.span_id]
    assert spans["gone"].status.is_unset
    assert not caplog.records


def test_spans_are_no_ops_where_none_are_asked_for() -> None:
    """Without the variables the SDK is not even imported, and no span records anything."""
    script = """
import sys
from service.tracing import Tracing, end
from tests.helpers.collector import Collector
tracing = Tracing.from_environment()
span = tracing.start({b"traceparent": b"x"}, "predict")
assert not tracing.on and not span.is_recording()
tracing.batch([span], 1.0, 2.0, rows=1)
end(span, "ok")
tracing.close()
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, env={"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("OTEL_SDK_DISABLED", "TRUE", ""),
        ("OTEL_TRACES_EXPORTER", "none", ""),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only 'http/protobuf' is supported"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "only 'http/protobuf' is supported"),
    ],
)
def test_what_cannot_be_done_is_said(
    name: str, value: str, warning: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Switched off by OpenTelemetry's own variables it is silent; a protocol that is not here is warned of."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    caplog.set_level(logging.WARNING)
    assert not Tracing.from_environment().on
    assert warning in caplog.text
    assert bool(caplog.records) == bool(warning)


def test_without_the_extra_one_is_told_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service runs without traces, and the log says what is missing."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert not Tracing.from_environment().on
    assert "fedlas-service[otel]" in caplog.text


def test_a_collector_that_says_nothing_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that could not be sent in time are given up."""
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracing = Tracing.from_environment()
        end(tracing.start({}, "predict"), "ok")
        tracing.close()
        closing = [thread for thread in threading.enumerate() if thread.name == "traces-close"]
        assert len(closing) == 1  # it still waits, and no request for it
        accepted, _ = silent.accept()
        accepted.close()
    closing[0].join(60)
