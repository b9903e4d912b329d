"""A collector of traces: it receives OTLP over HTTP and reads the protobuf."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from contextlib import ExitStack

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan

from tests.helpers.answering import Asked, Told, answering


class Collector:
    """An OpenTelemetry collector, as far as it is needed."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        self.headers: Mapping[str, str] = {}  # of the last request, by names in lower case
        self._serving = ExitStack()
        self.url = self._serving.enter_context(answering(self._take))

    def _take(self, asked: Asked) -> Told:
        self.paths.add(asked.path)
        self.headers = asked.headers
        is_packed = asked.headers.get("content-encoding") == "gzip"
        self.received.append(
            ExportTraceServiceRequest.FromString(gzip.decompress(asked.body) if is_packed else asked.body)
        )
        return 200, {}, b""

    def close(self) -> None:
        self._serving.close()

    def spans(self) -> dict[str, SentSpan]:
        """By name; of each there is one."""
        found = [
            span for one in self.received for group in one.resource_spans for s in group.scope_spans for span in s.spans
        ]
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}
