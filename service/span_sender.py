"""The exporter of a process without a way out: spans go to another process as OTLP requests, which passes them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class SpanSender(SpanExporter):
    """Hands what was encoded on; called on the thread of the SDK's processor, which bounds what waits."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these spans."""
        self._send(encode_spans(spans).SerializePartialToString())
        return SpanExportResult.SUCCESS
