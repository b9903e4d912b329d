"""The composition root of control: everything but predictions; those that its pages make go to a serving process.

Spans that serving processes have traced go to the collector as they have written them: they may have been taken over,
and nothing of it is read here.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import h11
import httpx
from fastapi import FastAPI
from opentelemetry.util.re import parse_env_headers
from starlette.types import Receive, Scope, Send

from service.api.plumbing.services import Core, Services
from service.control.peers import PeerModels, ServingPeers
from service.control.suspension import Suspension
from service.http import problems
from service.ipc.channel import ThrottledLog
from service.registry.errors import Unavailable
from service.registry.settings import ServiceSettings
from service.rest_api import App, rest_api
from service.tracing import Tracing, asked_for, option

_READ_BYTES = 64 * 1024
#: A session's cookie is for control alone: the key that it stands for was put in its place.
_LEFT_OUT = frozenset({b"connection", b"expect", b"cookie"})
_TIMEOUT_S = "10"  # the default of OpenTelemetry
_TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_LOG = logging.getLogger(__name__)
#: OTLP requests that wait, of 512 spans each, and their bytes: a process that was taken over may send large ones.
_MAX_WAITING = 32
_MAX_BYTES = 16 * 1024**2
#: A collector that does not answer must not keep the process from ending.
_CLOSE_TIMEOUT_S = 5.0


async def forward(peers: ServingPeers, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by what a serving process answers; raises Unavailable where none takes it or one ends meanwhile."""
    client = h11.Connection(h11.CLIENT)
    reader, writer = await _connected(peers, scope, _head(client, scope))
    asking = asyncio.ensure_future(_send_body(client, writer, receive))
    try:
        async for event in _events(client, reader):
            if isinstance(event, h11.Response):
                kept = [(name, value) for name, value in event.headers if name != b"connection"]
                await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
            else:
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except Unavailable:
        if client.their_state is h11.SEND_RESPONSE:
            raise  # else an answer has begun: it stays incomplete
    finally:
        asking.cancel()
        writer.close()


def _head(client: h11.Connection, scope: Scope) -> bytes:
    headers = [(name, value) for name, value in scope["headers"] if name not in _LEFT_OUT]
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    request = h11.Request(method=scope["method"], target=target, headers=[*headers, (b"connection", b"close")])
    return client.send(request) or b""


async def _send_body(client: h11.Connection, writer: asyncio.StreamWriter, receive: Receive) -> None:
    more = True
    with suppress(ConnectionError, h11.LocalProtocolError):  # it was answered before its end
        while (message := await receive())["type"] == "http.request":
            if more:
                more = message.get("more_body", False)
                writer.write(client.send(h11.Data(data=message.get("body", b""))) or b"")
                writer.write(b"" if more else client.send(h11.EndOfMessage()) or b"")
                await writer.drain()
        writer.close()


async def _connected(
    peers: ServingPeers, scope: Scope, head: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the head was sent: where it waits at the acceptor, that looks at it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # who gets it cannot
    ours.send(head)
    with theirs:
        if not peers.hand_over(scope["raw_path"], theirs.fileno(), b""):
            ours.close()
            raise Unavailable("unavailable", "no process that answers predictions is running; come again in 1 s")
    return await asyncio.open_connection(sock=ours)


async def _events(client: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[h11.Response | h11.Data]:
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response | h11.Data):
                yield event
    except (ConnectionError, h11.RemoteProtocolError):
        raise Unavailable("unavailable", "the process that answers predictions has ended") from None


class Collector:
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
        self._client.post(self._url, content=gzip.compress(request) if self._packs else request).raise_for_status()


def _trust(environment: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=option(environment, "CERTIFICATE") or None)
    if certificate := option(environment, "CLIENT_CERTIFICATE"):
        context.load_cert_chain(certificate, option(environment, "CLIENT_KEY") or None)
    return context


class SpanRelay:
    """Sends OTLP requests, one after the other, on a thread of its own.

    Args:
        export: sends one; may take seconds, and raises what httpx does where the collector does not take it.
    """

    def __init__(self, export: Callable[[bytes], object]) -> None:
        self._export = export
        self._log = ThrottledLog(_LOG)
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="span-relay", daemon=True)
        self._thread.start()

    def pass_on(self, request: bytes) -> None:
        with self._changed:
            if len(self._waiting) >= _MAX_WAITING or self._bytes + len(request) > _MAX_BYTES:
                self._log.warning("dropped", "spans are dropped: the collector does not take them in time")
                return
            self._waiting.append(request)
            self._bytes += len(request)
            self._changed.notify()

    def close(self) -> None:
        """Send what waits; gives up after a few seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            try:
                self._export(request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:  # the next may be sent
                self._log.warning("refused", f"spans were not sent to the collector: {error!r}")

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            request = self._waiting.popleft()
            self._bytes -= len(request)
            return request


def create_control(settings: ServiceSettings, peers: ServingPeers, served: Path) -> App:
    """Build the application of a control process, whose predictions other processes answer, as the folder says."""
    core = Core.open(settings, Tracing(), served)
    relay = SpanRelay(Collector(os.environ).send if asked_for(os.environ) else lambda request: None)
    suspension = Suspension(core.quarantine, core.served.name_of)
    peers.connect(core.served, suspension, core.metrics, relay.pass_on)
    services = Services.over(core, PeerModels(peers, core.served), process_ids=peers.process_ids)
    fastapi = rest_api(services, stopping=relay.close)
    return App.fronted(ControlApp(fastapi, peers), fastapi, services)


class ControlApp:
    def __init__(self, fastapi: FastAPI, peers: ServingPeers) -> None:
        self.fastapi = fastapi
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A prediction comes here from a page, or over a connection that no serving process takes."""
        if scope["type"] != "http" or not self._peers.is_elsewhere(scope["raw_path"]):
            await self.fastapi(scope, receive, send)
            return
        if scope["method"] != "POST":
            await problems.only_post(scope["path"], scope["method"])(scope, receive, send)
            return
        try:
            await forward(self._peers, scope, receive, send)
        except Unavailable as error:
            await problems.problem_of(scope["path"], error)(scope, receive, send)
