"""Servers of others on loopback: of HTTP, which a function answers, and of bytes, which a script writes as it likes."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

#: Status, headers and body.
Told = tuple[int, Mapping[str, str], bytes]


class Asked(NamedTuple):
    """A request; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def answering(answer: Callable[[Asked], Told]) -> Iterator[str]:
    """The URL of a server that lives for the block; where `answer` raises, the connection ends without an answer."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            status, added, content = answer(Asked(self.command, self.path, headers, body))
            self.send_response(status)
            for name, value in {**added, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815  # names of http.server

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _running(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


Script = Callable[[socket.socket], None]


def accepts(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Receiver(socketserver.ThreadingTCPServer):
    """A server that reads a request, keeps it, and answers as its script says; by default it speaks no TLS."""

    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, script: Script, host: str, port: int, tls: ssl.SSLContext | None, *, reads: bool) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Connection)
        self.port = int(self.server_address[1])
        self.script, self.tls, self.reads = script, tls, reads
        self.connections, self.requests = 0, list[bytes]()


class _Connection(socketserver.BaseRequestHandler):
    server: Receiver

    def handle(self) -> None:
        self.server.connections += 1
        with suppress(OSError), ExitStack() as closing:
            sock = self.request
            sock.settimeout(30)
            if self.server.tls:
                sock = closing.enter_context(self.server.tls.wrap_socket(sock, server_side=True))
            if self.server.reads:
                self.server.requests.append(_request(sock))
            self.server.script(sock)


def _request(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= int(headers_of(head)["content-length"]):
            break
    return data


def headers_of(request: bytes) -> dict[str, str]:
    """By names in lower case."""
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@contextmanager
def receiving(
    script: Script = accepts,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
    reads: bool = True,
) -> Iterator[Receiver]:
    """A receiver for the block, on a free port where none is given."""
    with Receiver(script, host, port, tls, reads=reads) as receiver, _running(receiver):
        yield receiver
