"""Headers of every answer: `X-Request-Id`, the client's own where it is harmless; and pages may not be framed."""

from __future__ import annotations

import logging
import re
from random import getrandbits

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import headers_of
from service.api.problems import defect

_LOG = logging.getLogger(__name__)
#: What a page asks of the API has the id of the page's own request.
SCOPE_KEY = "fedlas.request_id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


def request_id_of(given: bytes) -> str:
    """The client's own id of its request if it is harmless, else a new one."""
    text = given.decode("latin-1")
    return text if text and _REQUEST_ID.fullmatch(text) else f"req_{getrandbits(96):024x}"


class RequestIdMiddleware:
    """Adds the id to every answer, also to those of defects, which it logs; requests find it as `scope[SCOPE_KEY]`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(headers_of(scope).get(b"x-request-id", b""))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", "frame-ancestors 'none'")
            await send(message)

        try:
            await self.app({**scope, SCOPE_KEY: request_id}, receive, send_with_id)
        except ClientDisconnect:
            _LOG.info("%s %s: the client has disconnected", scope["method"], scope["path"])
        except Exception as error:
            # Answered here: further out the id is not known, and uvicorn would close the connection without an answer.
            if started:
                raise
            await defect(scope["method"], scope["path"], error)(scope, receive, send_with_id)
