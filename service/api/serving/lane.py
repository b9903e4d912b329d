"""Tells requests for predictions from all others and answers them: key, body, model, rows, answer, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.middleware import Keys
from service.api.serving.exchange import Answer, Request
from service.api.serving.patience import patiently, seconds_given, too_late
from service.catalogue import Catalogue, Target
from service.inference.batching import Line
from service.inference.engine import Engine
from service.inference.outputs import Outputs
from service.registry.errors import DeadlineExceeded, Overloaded, RegistryError
from service.settings import ServiceSettings
from service.tracing import Span, Tracing

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: What takes longer than this many bytes of text or rows to work through is not done on the event loop.
SMALL_BYTES = 64 * 1024
_FEW_ROWS = 256


@dataclass(slots=True)
class Call:
    """A request for predictions on its way: what was asked for, and what became of it.

    Attributes:
        until: when its time is up, on the clock of the event loop.
    """

    request: Request
    model: str
    version: str | None
    began_at: float
    until: float = 0.0
    target: Target | None = None
    span: Span | None = None
    rows: int = 0
    abstained: int = 0
    held_bytes: int = 0


Handler = Callable[["Serving", Call], Awaitable[Answer]]


class Serving:
    """What handlers need: models, the engine, and threads for what takes long."""

    def __init__(self, settings: ServiceSettings, catalogue: Catalogue, engine: Engine, tracing: Tracing) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.engine = engine
        self.tracing = tracing
        self._held_bytes = 0  # of bodies that are being received or worked on
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="formats")

    async def body(self, call: Call) -> bytes:
        """The whole body; raises TooLarge, Stalled, ClientDisconnect, or Overloaded where too many are held already."""
        limit, most = self.settings.max_predict_bytes, self.settings.max_inflight_bytes
        size = call.request.declared(limit)
        if self._held_bytes and self._held_bytes + size > most:
            message = f"the bodies of other requests fill the {most} bytes there are for them; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self.hold(call, size)
        return await call.request.body(limit)

    def hold(self, call: Call, size: int) -> None:
        """The request holds so many bytes more, until it is over."""
        call.held_bytes += size
        self._held_bytes += size

    async def find(self, call: Call) -> tuple[Target, Line]:
        """The model that is asked for, open; raises what `Catalogue.find` does, or DeadlineExceeded."""
        found = self.catalogue.known(call.model, call.version)
        if found is None:
            try:
                async with asyncio.timeout_at(call.until):
                    found = await self.catalogue.find(call.model, call.version)
            except TimeoutError:
                raise too_late() from None
        call.target = found[0]
        return found

    async def read(self, body: bytes, function: Callable[..., T], *args: object, small: int = SMALL_BYTES) -> T:
        """`function(body, *args)`, in a thread where the body is not small: one body must not stop all others."""
        if len(body) <= small:
            return function(body, *args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, body, *args)

    async def write(self, rows: int, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`, in a thread where it writes more than a few rows."""
        if rows <= _FEW_ROWS:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def run(self, call: Call, line: Line, inputs: Mapping[str, np.ndarray], wants: tuple[str, ...]) -> Outputs:
        """The outputs for these rows; raises Overloaded, DeadlineExceeded, InvalidRequest, ClientDisconnect."""
        assert call.target is not None
        call.rows = len(next(iter(inputs.values())))
        future = self.engine.submit(line, inputs, wants=wants, watch=call.target.metrics, span=call.span)
        return await patiently(future, call.request.receive, until=call.until)

    def let_go(self, call: Call) -> None:
        """The request is over."""
        self._held_bytes -= call.held_bytes

    def shut_down(self) -> None:
        """The process ends."""
        self.engine.shut_down()
        self._threads.shutdown(wait=False, cancel_futures=True)


class ServingLane:
    """ASGI middleware, the outermost: what is no prediction goes on to the framework untouched."""

    def __init__(self, app: ASGIApp, *, serving: Serving, keys: Keys, predict: Handler, infer: Handler) -> None:
        self.app = app
        self._serving = serving
        self._keys = keys
        self._predict = predict
        self._infer = infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].split("/")
            match path:
                case ["", "v1", "models", model, "predict"] if model:
                    return await self._answer(self._predict, model, None, scope, receive, send)
                case ["", "v2", "models", model, "infer"] if model:
                    return await self._answer(self._infer, model, None, scope, receive, send)
                case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
                    return await self._answer(self._infer, model, version, scope, receive, send)
        await self.app(scope, receive, send)
        return None

    async def _answer(
        self, handler: Handler, model: str, version: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = Request.read(scope, receive)
        path = scope["path"]
        if not self._keys.admit(request.headers.get(b"authorization", b"")):
            await request.answer(send, _refused(Keys.refusal(path)))
            return
        call = Call(request, model, version, time.perf_counter())
        call.span = self._serving.tracing.begin(request.headers, handler.__name__)
        outcome, answer = "ok", None
        try:
            call.until = self._until(request)
            answer = await handler(self._serving, call)
        except ClientDisconnect:  # nobody is left to be answered
            outcome = "gone"
            _LOG.info("%s %s: the client has gone", scope["method"], path)
        except RegistryError as error:
            outcome, answer = _outcome(error), _refused(problems.told(path, error))
        except ValidationError as error:
            outcome, answer = "refused", _refused(problems.invalid(path, error))
        except Exception as error:
            outcome, answer = "failed", _refused(problems.defect(scope["method"], path, error))
        finally:
            self._serving.let_go(call)
        if answer is not None:
            await request.answer(send, answer)
        if call.target is not None:
            call.target.metrics.request(outcome, call.rows, time.perf_counter() - call.began_at, call.abstained)
        if call.span is not None:
            found = {} if call.target is None else {"version": call.target.version}
            call.span.end(outcome, model=model, rows=call.rows, request_id=request.id, **found)

    def _until(self, request: Request) -> float:
        given = request.headers.get(b"x-request-timeout")
        most = self._serving.settings.predict_timeout_seconds
        seconds = most if given is None else seconds_given(given.decode("latin-1"), most)
        return asyncio.get_running_loop().time() + seconds


def _refused(response: Response) -> Answer:
    headers = [item for item in response.raw_headers if item[0] not in (b"content-length", b"content-type")]
    return Answer(bytes(response.body), response.headers["content-type"].encode(), response.status_code, headers)


def _outcome(error: RegistryError) -> str:
    match error:
        case Overloaded():
            return "overloaded"
        case DeadlineExceeded():
            return "deadline"
    return "refused" if problems.status_of(error) < 500 else "failed"
