"""The other side of the webhooks: it checks every signature with the standard's own library."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.helpers import Json


@dataclass(frozen=True)
class Message:
    """One POST that came in: for which customer, under which id; no payload if its signature or time was wrong."""

    customer: int
    message_id: str
    payload: Json | None


class Receiver(ThreadingHTTPServer):
    """Takes messages at `/CUSTOMER` while its `with` block runs, with the customers' secrets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[Message] = []
        self.secrets: dict[int, str] = {}

    def url(self, customer: int) -> str:
        """Where the messages of this customer go."""
        return f"http://127.0.0.1:{self.server_port}/{customer}"

    def take(self, customer: int, headers: Mapping[str, str], body: bytes) -> int:
        """Judge one message; returns the status to answer with."""
        try:
            payload = Webhook(self.secrets[customer]).verify(body, dict(headers))
        except (WebhookVerificationError, KeyError, ValueError):
            payload = None
        self.messages.append(Message(customer, headers.get("webhook-id", ""), payload))
        return 400 if payload is None else 204

    def __enter__(self) -> Receiver:
        threading.Thread(target=self.serve_forever, name="receiver", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """One message."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.take(int(self.path.strip("/")), headers, body))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: what came is kept."""
