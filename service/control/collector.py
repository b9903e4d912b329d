"""The collector of traces that OpenTelemetry's variables name, as it takes OTLP requests that are encoded already.

The SDK's exporter takes spans: for it, what processes behind the wall have written would have to be decoded here.
"""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Mapping

import httpx
from opentelemetry.util.re import parse_env_headers

from service.tracing import option

_TIMEOUT_S = "10"  # the default of OpenTelemetry
_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


class Collector:
    """Sends OTLP requests over HTTP."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        endpoint = option(environment, "ENDPOINT")
        self._url = endpoint if environment.get(_TRACES) else f"{endpoint.rstrip('/')}/v1/traces"
        self._packs = option(environment, "COMPRESSION") == "gzip"
        headers = {"Content-Type": "application/x-protobuf", **({"Content-Encoding": "gzip"} if self._packs else {})}
        self._client = httpx.Client(
            headers={**headers, **parse_env_headers(option(environment, "HEADERS"), liberal=True)},
            timeout=float(option(environment, "TIMEOUT") or _TIMEOUT_S),
            verify=_trust(environment),
        )

    def send(self, request: bytes) -> None:
        """Send one; raises HTTPError."""
        self._client.post(self._url, content=gzip.compress(request) if self._packs else request).raise_for_status()


def _trust(environment: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=option(environment, "CERTIFICATE") or None)
    if certificate := option(environment, "CLIENT_CERTIFICATE"):
        context.load_cert_chain(certificate, option(environment, "CLIENT_KEY") or None)
    return context
