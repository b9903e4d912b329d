"""Spans of serving processes on their way to the collector: sent as they came, dropped where it does not take them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.control import app as module
from service.control.app import Collector as Sender
from service.control.app import SpanRelay
from tests.helpers.collector import Collector
from tests.helpers.processes import until


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of traces."""
    made = Collector()
    yield made
    made.close()


def test_a_collector_that_is_slow_costs_a_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond a number and a size spans are dropped, logged once; closing gives up, and what waits still goes."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(module, "_MAX_BYTES", 100)
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    monkeypatch.setattr(module, "_CLOSE_TIMEOUT_S", 0.1)
    taken, answers = list[bytes](), threading.Event()

    def export(request: bytes) -> None:
        taken.append(request)
        answers.wait(60)

    relay = SpanRelay(export)
    relay.pass_on(b"first")
    until(lambda: taken == [b"first"], what="the collector has it")
    for request in (b"a" * 101, b"b" * 60, b"c" * 41, b"d", b"e", b"f"):
        relay.pass_on(request)
    relay.close()
    assert caplog.text.count("spans are dropped") == 1
    answers.set()
    until(lambda: not relay._thread.is_alive(), what="all that waited was sent")
    assert taken == [b"first", b"b" * 60, b"d", b"e"]


def test_the_environment_says_how_and_where(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """The variables of OTLP are those of the SDK; what cannot be sent is logged, and the next is sent again."""
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="predict")
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{collector.url}/"}
    packed = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20k", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/own"}
    for environment, key in ((base, None), (base | packed, "Bearer k"), (base | own, None)):
        send, failures = Sender(environment).send, [httpx.ConnectError("away")]

        def export(
            request: bytes, send: Callable[[bytes], None] = send, failures: list[httpx.ConnectError] = failures
        ) -> None:
            if failures:
                raise failures.pop()
            send(request)

        relay = SpanRelay(export)
        relay.pass_on(b"lost")
        relay.pass_on(request.SerializeToString())
        relay.close()
        assert collector.received[-1] == request
        assert collector.headers["content-type"] == "application/x-protobuf"
        assert collector.headers.get("authorization") == key
    assert len(collector.received) == 3
    assert collector.paths == {"/v1/traces", "/own"}
    assert "away" in caplog.text
