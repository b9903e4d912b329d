"""What surrounds every request: its id, its key, the limit on its body; plain ASGI, so that streams stay streams."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Callable
from random import getrandbits

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import defect, problem
from service.registry.errors import Stalled, TooLarge

_LOG = logging.getLogger(__name__)

#: Probes and the documentation tell no secrets, and neither a load balancer nor a browser's address bar has a key.
_OPEN_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/docs", "/redoc", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_FILES = "/static-offline-docs/"
#: As nginx's `client_body_timeout`.
PATIENCE_S = 60.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


def request_id_of(given: str) -> str:
    """The client's own id of its request if it is harmless, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"req_{getrandbits(96):024x}"


class RequestId:
    """Answers carry `X-Request-Id`, those to our own defects too: the client's own if harmless, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id", ""))
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:  # nobody is left to be answered
            _LOG.info("%s %s: the client has gone", scope["method"], scope["path"])
        except Exception as error:
            # Answered here: further out the id is not known, and uvicorn would close the connection without a word.
            if started:
                raise
            await defect(scope["method"], scope["path"], error)(scope, receive, send_with_id)


class HeadAsGet:
    """HEAD is answered by whatever answers GET, without the body; no route needs to know of it.

    What would answer piece by piece is ended after the first: a stream of events may never end by itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        answered = False

        async def send_without_body(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                await send(message)
            elif not answered:  # a file is only named (`pathsend`) and not read
                answered = True
                await send({"type": "http.response.body"})
                if message.get("more_body"):
                    answering.cancel()

        extensions = {**scope.get("extensions", {}), "http.response.pathsend": {}}
        as_get = {**scope, "method": "GET", "extensions": extensions}
        answering = asyncio.ensure_future(self.app(as_get, receive, send_without_body))
        try:
            await answering
        except asyncio.CancelledError:
            if not answered:
                raise


class Keys:
    """The keys that are configured; without any, everybody is let in."""

    def __init__(self, keys: frozenset[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def admit(self, authorization: bytes) -> bool:
        """Whether a header `Authorization` shows one of them."""
        if not self._keys:
            return True
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        # No early exit: time must not tell which key was nearly right.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    @staticmethod
    def refusal(path: str) -> JSONResponse:
        """The answer to everybody else."""
        detail = "send a key of this service as 'Authorization: Bearer …'"
        return problem(401, "unauthorized", detail, path=path, headers={"WWW-Authenticate": "Bearer"})


class BearerKeys:
    """Where keys are configured, every path but the probes and the documentation needs one."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]) and not self._knows(scope):
            await Keys.refusal(scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        return self._keys.admit(Headers(scope=scope).get("authorization", "").encode("latin-1"))


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FILES)


def too_large(limit: int) -> TooLarge:
    """The answer to a body beyond the limit."""
    return TooLarge("too_large", f"the body is larger than the limit of {limit} bytes")


def stalled() -> Stalled:
    """The answer to a client that falls silent in the middle of its body."""
    detail = f"nothing arrived for {PATIENCE_S:.0f} s in the middle of the body; send the request again"
    return Stalled("body_stalled", detail)


class BodyLimit:
    """Counts bodies while they are received: no client can make the process hold or store more than the limit.

    A client that falls silent in the middle is not waited for: its connection may be gone without a word, and what the
    request holds, an Idempotency-Key for one, must become free for its next attempt.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int]) -> None:
        self.app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        error = too_large(limit)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            # The body stays unread, so the connection cannot be used again.
            headers = {"Connection": "close"}
            answer = problem(413, error.code, error.message, path=scope["path"], headers=headers)
            await answer(scope, receive, send)
            return
        received, whole = 0, False

        async def receive_counted() -> Message:
            nonlocal received, whole
            if whole:  # waits for the client to go away
                return await receive()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    message = await receive()
            except TimeoutError:
                raise stalled() from None
            whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise error
            return message

        await self.app(scope, receive_counted, send)
