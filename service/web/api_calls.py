"""Calls of our own API within the process: what a form asks for is done, checked and refused as for any client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from fastapi import Request
from pydantic import JsonValue
from starlette.types import Message, Receive, Scope

from service.api.problems import Problem
from service.api.request_ids import SCOPE_KEY

#: What the API is told of the browser's request; everything else is the call's own.
_PASSED_ON = frozenset({b"authorization", b"host", b"origin", b"sec-fetch-site"})
_OF_THE_BODY = frozenset({b"content-type", b"content-length", b"transfer-encoding"})


@dataclass
class ApiAnswer:
    """The answer of the API."""

    status: int = 500
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    @property
    def failed(self) -> bool:
        """Whether the API has refused."""
        return self.status >= 400

    @property
    def problem(self) -> Problem:
        """Why it has refused."""
        return Problem.model_validate_json(self.body)

    def json(self) -> JsonValue:
        """The answer's content."""
        content: JsonValue = json.loads(self.body)
        return content

    def record_id(self) -> str:
        """The id of the record that was made."""
        return self.headers[b"location"].decode("latin-1").rpartition("/")[2]


async def call_api(
    request: Request,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    content: JsonValue = None,
    headers: Mapping[str, str] | None = None,
    pass_body_on: bool = False,
) -> ApiAnswer:
    """Ask the API with the key of a page's request.

    Args:
        path: from `/v1` on; not percent-encoded.
        content: the body, as JSON.
        pass_body_on: send the body of the page's own request, as it comes in.
    """
    answer = ApiAnswer()
    body = b"" if content is None else json.dumps(content).encode()
    kept = _PASSED_ON | (_OF_THE_BODY if pass_body_on else set())
    sent = [(name, value) for name, value in request.scope["headers"] if name in kept]
    sent += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    sent += [(b"accept", b"application/json"), (b"x-request-id", request.scope[SCOPE_KEY].encode())]
    if content is not None:
        sent += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope: Scope = {
        **{name: value for name, value in request.scope.items() if name in _OF_THE_CONNECTION},
        "method": method,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(query or {}).encode(),
        "headers": sent,
        "extensions": {},
    }

    async def take(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], dict(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    receive = request.receive if pass_body_on else _receiving(body, request)
    await request.app.state.front(scope, receive, take)
    return answer


_OF_THE_CONNECTION = frozenset({"type", "asgi", "http_version", "scheme", "client", "server", "root_path", "state"})


def _receiving(body: bytes, request: Request) -> Receive:
    """The body, and after it what else the browser's connection tells: that it was closed."""
    messages = _messages(body, request)

    async def receive() -> Message:
        return await anext(messages)

    return receive


async def _messages(body: bytes, request: Request) -> AsyncIterator[Message]:
    yield {"type": "http.request", "body": body, "more_body": False}
    while True:
        yield await request.receive()
