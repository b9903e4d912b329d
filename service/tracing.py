"""Traces from request to batch, by OpenTelemetry; without its SDK, or where none are asked for, spans are no-ops.

A span for each request, which continues the client's trace (W3C `traceparent`), and one for each batch: a child of the
first traced request in it, linked with all of them, and they with it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, NoOpTracerProvider, Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_LOG = logging.getLogger(__name__)
_SIGNAL = "OTEL_EXPORTER_OTLP_TRACES_"
_ALL = "OTEL_EXPORTER_OTLP_"
_PROTOCOL = "http/protobuf"
#: A collector that does not answer must not keep the process from ending.
_CLOSE_TIMEOUT_S = 5.0
#: Outcomes that are the service's fault, as status 5xx is.
_ERRORS = frozenset({"failed", "deadline"})
_NO_PARENT = Context()
_PROPAGATOR = TraceContextTextMapPropagator()

Value = str | int | float | bool


class Tracing:
    """The tracer of the process; thread-safe.

    Args:
        provider: where spans go. Without one they are no-ops: 0.3 µs for each request.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.on = provider is not None
        self._provider = provider
        self._tracer = (provider or NoOpTracerProvider()).get_tracer("fedlas", version("fedlas"))

    @classmethod
    def from_environment(cls) -> Tracing:
        """Trace to OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT), where the extra `otel` is installed.

        OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_* and the exporter's own variables
        have their usual meaning.
        """
        if not asked_for(os.environ):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            _LOG.warning(
                "no traces, although %sENDPOINT is set: pip install 'fedlas-service[otel]' (in a clone '.[otel]'): %s",
                _ALL,
                error,
            )
            return cls()
        return cls(_provider(OTLPSpanExporter()))

    @classmethod
    def through(cls, send: Callable[[bytes], None]) -> Tracing:
        """Trace to a process that sends OTLP requests on to where `from_environment` would.

        It says where traces are impossible; here they are off then.
        """
        try:
            from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
            from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
        except ImportError:
            return cls()

        class SpanSender(SpanExporter):
            """Called on the thread of the SDK's processor, which bounds what waits."""

            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                send(encode_spans(spans).SerializePartialToString())
                return SpanExportResult.SUCCESS

        return cls(_provider(SpanSender()))

    def start(self, headers: Mapping[bytes, bytes], name: str) -> Span:
        """The span of a request with these headers (lower-case names); a `traceparent` makes it part of that trace."""
        if not self.on:
            return INVALID_SPAN
        context = _NO_PARENT
        if b"traceparent" in headers:
            names = (b"traceparent", b"tracestate")
            carrier = {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
            context = _PROPAGATOR.extract(carrier, context)
        return self._tracer.start_span(name, context, SpanKind.SERVER)

    def batch(self, spans: Sequence[Span], began: float, ended: float, *, rows: int) -> None:
        """Record a batch that was run for these requests, between two readings of `time.perf_counter`."""
        recording = [span for span in spans if span.is_recording()]
        if not recording:
            return
        # Spans have the time of day; the difference between the two clocks is that of this moment.
        offset = time.time_ns() - time.perf_counter_ns()
        links = [Link(span.get_span_context()) for span in recording]
        context = set_span_in_context(recording[0])
        batch = self._tracer.start_span("batch", context, links=links, start_time=offset + round(began * 1e9))
        batch.set_attributes({"fedlas.rows": rows, "fedlas.requests": len(spans)})
        batch.end(offset + round(ended * 1e9))
        for span in recording:
            span.add_link(batch.get_span_context())

    def close(self) -> None:
        """Send what was not sent; gives up after a few seconds."""
        if self._provider is not None:
            closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
            closing.start()
            closing.join(_CLOSE_TIMEOUT_S)


def end(span: Span, outcome: str, **attributes: Value) -> None:
    """End the span of a request; the attributes are named `fedlas.NAME`."""
    if span.is_recording():
        span.set_attributes(
            {"fedlas.outcome": outcome, **{f"fedlas.{name}": value for name, value in attributes.items()}}
        )
        if outcome in _ERRORS:
            span.set_status(StatusCode.ERROR)
    span.end()


def asked_for(environment: Mapping[str, str]) -> bool:
    """True where traces are asked for by OpenTelemetry's variables; other exporters than OTLP are not supported."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or not option(environment, "ENDPOINT"):
        return False
    protocol = option(environment, "PROTOCOL") or _PROTOCOL
    if protocol != _PROTOCOL:
        _LOG.warning("no traces: the OTLP protocol is set to %r, only %r is supported", protocol, _PROTOCOL)
    return protocol == _PROTOCOL


def option(environment: Mapping[str, str], name: str) -> str:
    """A variable of OTLP: that of traces, or else that of all signals; empty where neither is set."""
    return environment.get(f"{_SIGNAL}{name}") or environment.get(f"{_ALL}{name}") or ""


def _provider(exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "fedlas", "service.version": version("fedlas"), **given})
    # `Tracing.close` shuts it down: at the interpreter's exit a collector that is away would be waited for.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
