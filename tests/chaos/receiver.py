"""The other side of the webhooks: checks every signature with the standard's own library, and counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.helpers import Json


@dataclass(frozen=True)
class Delivered:
    """One POST that came in: for which order, under which id, and what was found in it."""

    order: int
    message_id: str
    payload: Json | None  # None: the signature or its time was refused
    refusal: str = ""
    answered: int = 204


class Receiver:
    """Takes messages at `/hook/ORDER`; the first message of the orders in `unwilling` is answered with 503."""

    def __init__(self) -> None:
        self.received: list[Delivered] = []
        self.secrets: dict[int, str] = {}
        self.unwilling: set[int] = set()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    def url(self, order: int) -> str:
        """Where the messages of this order go."""
        return f"http://127.0.0.1:{self._server.server_port}/hook/{order}"

    def took(self, order: int) -> bool:
        """True where a message of this order has arrived well."""
        with self._lock:
            return any(one.order == order and one.answered == 204 for one in self.received)

    def count(self) -> Counter[int]:
        """How many messages came in, by the answer they were given."""
        with self._lock:
            return Counter(one.answered for one in self.received)

    def take(self, order: int, headers: Mapping[str, str], body: bytes) -> int:
        """Judge one message; returns the status to answer with."""
        message_id = headers.get("webhook-id", "")
        try:
            one = Delivered(order, message_id, Webhook(self.secrets[order]).verify(body, dict(headers)))
        except (WebhookVerificationError, KeyError, ValueError) as error:
            one = Delivered(order, message_id, None, refusal=str(error), answered=400)
        with self._lock:
            if one.payload is not None and order in self.unwilling:
                self.unwilling.discard(order)
                one = Delivered(order, message_id, one.payload, answered=503)
            self.received.append(one)
        return one.answered

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.receiver = receiver


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """One message."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.receiver.take(int(self.path.rpartition("/")[2]), headers, body))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the messages that matter are counted."""
