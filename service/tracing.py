"""Traces from request to batch, for OpenTelemetry; without its SDK, or unasked for, nothing is made and nothing costs.

A span for each request, which goes on with the trace that the client began (W3C `traceparent`), and one for each batch:
a child of the first traced request in it, linked with all of them, and they with it. It knows neither HTTP nor models.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

_LOG = logging.getLogger(__name__)
_SIGNAL, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_NO_SPANS = "none"
_PROTOCOL = "http/protobuf"
#: A collector that does not answer must not keep the process from ending.
_PATIENCE_S = 5.0
#: Outcomes that are the service's fault, as status 5xx is.
_ERRORS = frozenset({"failed", "deadline"})

Value = str | int | float | bool


class Span(Protocol):
    """A request on its way."""

    def end(self, outcome: str, **attributes: Value) -> None:
        """It has been answered, or not; the attributes are told as `fedlas.NAME`."""


class Tracing:
    """Traces nothing; what does is made by `from_environment`."""

    #: Whether it is worth the while to collect what `batch` is told.
    on = False

    @staticmethod
    def off() -> Tracing:
        """Trace nothing, whatever the environment says."""
        return Tracing()

    @staticmethod
    def from_environment() -> Tracing:
        """Trace to where OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) says, where the extra `otel` is installed.

        OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_* and the exporter's own variables
        mean what they always mean.
        """
        if not _asked_for():
            return Tracing()
        protocol = os.environ.get(f"{_SIGNAL}PROTOCOL") or os.environ.get(f"{_ALL}PROTOCOL") or _PROTOCOL
        if protocol != _PROTOCOL:
            _LOG.warning("no traces: OTLP by %r was asked for, only %r is spoken here", protocol, _PROTOCOL)
            return Tracing()
        try:
            return Recording(_provider())
        except ImportError as error:
            _LOG.warning("no traces, although %sENDPOINT is set: pip install 'fedlas[otel]' (%s)", _ALL, error)
            return Tracing()

    def begin(self, headers: Mapping[bytes, bytes], name: str) -> Span | None:
        """The span of a request with these headers (lower-case names); None where nothing is traced."""
        return None

    def batch(self, spans: Sequence[object], began: float, ended: float, *, rows: int, **attributes: Value) -> None:
        """A batch was run for these requests, between two readings of `time.perf_counter`."""

    def close(self) -> None:
        """Send what has not been sent; blocks, for a few seconds at most."""


class Recording(Tracing):
    """Traces to the provider; thread-safe."""

    on = True

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("fedlas", version("fedlas"))
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[bytes, bytes], name: str) -> Span | None:
        """The span of a request; with a `traceparent` it belongs to the client's trace."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        context = Context()
        if b"traceparent" in headers:
            names = (b"traceparent", b"tracestate")
            carrier = {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
            context = self._propagator.extract(carrier, context)
        return _Request(self._tracer.start_span(name, context, SpanKind.SERVER))

    def batch(self, spans: Sequence[object], began: float, ended: float, *, rows: int, **attributes: Value) -> None:
        """A span for the batch, if any of its requests is traced."""
        from opentelemetry.trace import Link, set_span_in_context

        requests = [span.span for span in spans if isinstance(span, _Request) and span.span.is_recording()]
        if not requests:
            return
        # Spans tell the time of the day; the difference between the two clocks is that of this moment.
        offset = time.time_ns() - time.perf_counter_ns()
        links = [Link(request.get_span_context()) for request in requests]
        context = set_span_in_context(requests[0])
        batch = self._tracer.start_span("batch", context, links=links, start_time=offset + round(began * 1e9))
        batch.set_attributes({"fedlas.rows": rows, "fedlas.requests": len(spans), **_named(attributes)})
        batch.end(offset + round(ended * 1e9))
        for request in requests:
            request.add_link(batch.get_span_context())

    def close(self) -> None:
        """Send what has not been sent; a collector that is away is given up after a few seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(_PATIENCE_S)


class _Request:
    __slots__ = ("span",)

    def __init__(self, span: OtelSpan) -> None:
        self.span = span

    def end(self, outcome: str, **attributes: Value) -> None:
        from opentelemetry.trace import StatusCode

        if self.span.is_recording():
            self.span.set_attributes({"fedlas.outcome": outcome, **_named(attributes)})
            if outcome in _ERRORS:
                self.span.set_status(StatusCode.ERROR)
        self.span.end()


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {f"fedlas.{name}": value for name, value in attributes.items()}


def _asked_for() -> bool:
    """The variables and what they mean are OpenTelemetry's; exporters other than OTLP are not here."""
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(environment.get(f"{_SIGNAL}ENDPOINT") or environment.get(f"{_ALL}ENDPOINT"))


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes
    resource = Resource.create({"service.name": "fedlas", "service.version": version("fedlas"), **given})
    # It is closed by whoever made it: at the interpreter's exit a collector that is away would be waited for.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
