"""The serving application in front of FastAPI: it answers predictions and passes every other request on."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from fastapi import FastAPI
from opentelemetry.trace import INVALID_SPAN, Span
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api import problems
from service.api.access import AccessControl
from service.api.services import Services
from service.inference.answer_size import RowSize
from service.inference.json_limits import too_many_bytes
from service.inference.metrics import ModelMetrics
from service.inference.model_queue import ModelQueue
from service.inference.oip.inflation import inflated
from service.inference.scheduler import Scheduler
from service.inference.standard_outputs import Outputs
from service.model_repository import Catalogue, Target
from service.registry.errors import DeadlineExceeded, Overloaded, RegistryError, TooLarge
from service.serving.deadlines import patiently, seconds_given, too_late
from service.serving.messages import Answer, Request
from service.serving.routing import ServingRoute
from service.settings import ServiceSettings
from service.tracing import Tracing, end

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: More than these are not worked through on the event loop: bytes of text, and rows or numbers to be written.
SMALL_BYTES = 64 * 1024
_FEW_ROWS = 256
_FEW_NUMBERS = 32 * 1024
_THREADS = 2


@dataclass(slots=True)
class Call:
    """A request for predictions on its way: what was asked for, and what became of it.

    Attributes:
        arrived, until: when it came and when its time is up, on the clock of the event loop.
        held_bytes: of its body, its rows and its answer; answer_bytes: of these the answer, as far as it is known.
    """

    request: Request
    began_at: float
    model: str
    version: str | None = None
    arrived: float = 0.0
    until: float = math.inf
    target: Target | None = None
    metrics: ModelMetrics | None = None
    span: Span = INVALID_SPAN
    rows: int = 0
    abstained: int = 0
    held_bytes: int = 0
    answer_bytes: int = 0


Handler = Callable[..., Awaitable[Answer]]


class Serving:
    """What handlers need: models, the engine, and threads for what takes long."""

    def __init__(self, settings: ServiceSettings, catalogue: Catalogue, engine: Scheduler, tracing: Tracing) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.engine = engine
        self.tracing = tracing
        self._held_bytes = 0  # of bodies that are being received or worked on
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="formats")
        self._free = asyncio.Semaphore(_THREADS)
        self._waiting = 0  # for a thread, or for what it does

    async def body(self, call: Call, limit: int, *, json: bool) -> bytes:
        """The whole body; raises TooLarge, Stalled, DeadlineExceeded, ClientDisconnect, and Overloaded as `hold`."""
        with _told_of_json(limit, json):
            return await call.request.body(limit, call.until, lambda size: self.hold(call, call.held_bytes + size))

    async def unpacked(self, call: Call, body: bytes, limit: int, *, json: bool) -> bytes:
        """The body as it was before it was compressed, if it was; raises what `inflated` does, and as `hold`."""
        encoding = call.request.headers.get(b"content-encoding")
        if encoding is None:
            return body
        with _told_of_json(limit, json):
            body = await self._in_thread(call, partial(inflated, body, encoding.decode("latin-1"), limit=limit))
        self.hold(call, len(body))
        return body

    def hold(self, call: Call, size: int) -> None:
        """The request holds so many bytes from now on, if more than before; raises Overloaded where all hold too many.

        One that is alone is never refused.
        """
        more, most = size - call.held_bytes, self.settings.max_inflight_bytes
        if more <= 0:
            return
        if self._held_bytes > call.held_bytes and self._held_bytes + more > most:
            message = f"other requests fill the {most} bytes there are for bodies and rows; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        call.held_bytes += more
        self._held_bytes += more

    def expect(self, call: Call, rows: int, size: RowSize) -> None:
        """An answer of so much for each row will be made; raises TooLarge, and Overloaded as `hold`."""
        size.check(rows, self.settings.max_answer_bytes)
        call.answer_bytes = rows * size.total
        self.hold(call, call.held_bytes + call.answer_bytes)

    def hold_answer(self, call: Call, size: int) -> None:
        """It holds an answer of this size, in place of what was expected, until that is sent; nobody is refused."""
        more, call.answer_bytes = size - call.answer_bytes, size
        call.held_bytes += more
        self._held_bytes += more

    async def find(self, call: Call) -> tuple[Target, ModelQueue]:
        """The model that is asked for, open; raises what `Catalogue.find` does, or DeadlineExceeded."""
        found = self.catalogue.known(call.model, call.version)
        if found is None:
            try:
                async with asyncio.timeout_at(call.until):
                    found = await self.catalogue.find(call.model, call.version)
            except TimeoutError:
                raise too_late() from None
        call.target = target = found[0]
        call.metrics = self.catalogue.metrics.of(target.called, target.version, target.model_id)
        return found

    async def read(
        self, call: Call, body: bytes, function: Callable[..., T], *args: object, small: int = SMALL_BYTES
    ) -> T:
        """`function(body, *args)`, in a thread where the body is not small: one body must not stop all others."""
        if len(body) <= small:
            return function(body, *args)
        return await self._in_thread(call, function, body, *args)

    async def write(self, call: Call, outputs: Outputs, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`, in a thread where these outputs are more than a few rows or numbers."""
        if call.rows <= _FEW_ROWS and sum([array.size for array in outputs.values()]) <= _FEW_NUMBERS:
            return function(*args)
        return await self._in_thread(call, function, *args)

    async def _in_thread(self, call: Call, function: Callable[..., T], *args: object) -> T:
        """Raises DeadlineExceeded, what has not been begun by then will not be; Overloaded where too many wait."""
        if self._waiting >= self.settings.max_waiting_bodies:
            message = f"{self._waiting} bodies and answers wait to be read or written; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(call.until):
                # Waited for here, not in the queue of the threads: that would keep the bodies of those who give up.
                await self._free.acquire()
                return await asyncio.wrap_future(self._begun(function, *args))
        except TimeoutError:
            raise too_late() from None
        finally:
            self._waiting -= 1

    def _begun(self, function: Callable[..., T], *args: object) -> Future[T]:
        """The work in a thread, which is free again when that has ended, whoever still waits for it."""
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._free.release)

        work = self._threads.submit(function, *args)
        work.add_done_callback(ended)
        return work

    async def run(
        self, call: Call, line: ModelQueue, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]
    ) -> Outputs:
        """The outputs for these rows; raises Overloaded, DeadlineExceeded, InvalidRequest, ClientDisconnect."""
        call.rows = len(next(iter(inputs.values())))
        # A small file may be a large image.
        self.hold(call, sum(array.nbytes for array in inputs.values()) + call.answer_bytes)
        future = self.engine.submit(
            line, inputs, outputs=outputs, observer=call.metrics, span=call.span, until=call.until
        )
        return await patiently(future, call.request.receive, until=call.until)

    def let_go(self, call: Call) -> None:
        """The request is over."""
        self._held_bytes -= call.held_bytes

    def shut_down(self) -> None:
        """The process ends."""
        self.engine.shut_down()
        self._threads.shutdown(wait=False, cancel_futures=True)


class ServingApp:
    """The ASGI application in front of FastAPI: it answers its own routes and passes everything else on."""

    def __init__(self, fastapi: FastAPI, services: Services, serving: Serving, routes: Sequence[ServingRoute]) -> None:
        self.fastapi = fastapi
        self.services = services
        self.serving = serving
        self._routes = tuple(routes)
        self._access = AccessControl(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for route in self._routes:
                if (match := route.pattern.fullmatch(scope["path"])) is not None:
                    return await self._answer(route, match.groups(), scope, receive, send)
        return await self.fastapi(scope, receive, send)

    async def _answer(
        self, route: ServingRoute, parameters: tuple[str, ...], scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = Request.read(scope, receive)
        if refusal := self._refusal(scope, request):
            await request.answer(send, refusal)
            return
        model, *version = parameters
        call = Call(request, time.perf_counter(), model, version[0] if version else None)
        call.span = self.serving.tracing.start(request.headers, route.handler.__name__)
        outcome = "gone"
        try:
            outcome, answer = await self._outcome(route.handler, call)
            if answer is not None:
                self.serving.hold_answer(call, len(answer.body))
                await request.answer(send, answer)
        finally:
            self.serving.let_go(call)
            self._tell(call, outcome)

    def _refusal(self, scope: Scope, request: Request) -> Answer | None:
        """The answer to a request that no handler sees."""
        if refusal := self._access.refusal(scope, request.headers):
            return _refused(refusal)
        if scope["method"] == "POST":
            return None
        if scope["method"] == "OPTIONS":
            return Answer(b"", status=204, headers=[(b"allow", b"POST")])
        detail, headers = "Method Not Allowed", {"Allow": "POST"}
        return _refused(problems.problem(405, "method_not_allowed", detail, path=scope["path"], headers=headers))

    async def _outcome(self, handler: Handler, call: Call) -> tuple[str, Answer | None]:
        method, path = call.request.scope["method"], call.request.scope["path"]
        try:
            call.arrived = asyncio.get_running_loop().time()
            call.until = call.arrived + self._seconds(call.request)
            return "ok", await handler(self.serving, call)
        except ClientDisconnect:  # nobody is left to be answered
            _LOG.info("%s %s: the client has gone", method, path)
            return "gone", None
        except RegistryError as error:
            return _kind(error), _refused(problems.told(path, error))
        except ValidationError as error:
            return "refused", _refused(problems.invalid(path, error))
        except Exception as error:
            return "failed", _refused(problems.defect(method, path, error))

    def _seconds(self, request: Request) -> float:
        given = request.headers.get(b"x-request-timeout")
        most = self.serving.settings.predict_timeout_seconds
        return most if given is None else seconds_given(given.decode("latin-1"), most)

    def _tell(self, call: Call, outcome: str) -> None:
        metrics = call.metrics or self.serving.catalogue.metrics.unknown
        metrics.request(outcome, call.rows, time.perf_counter() - call.began_at, call.abstained)
        if call.span.is_recording():
            found = {} if call.target is None else {"version": call.target.version}
            end(call.span, outcome, model=call.model, rows=call.rows, request_id=call.request.id, **found)


@contextmanager
def _told_of_json(limit: int, is_json: bool) -> Iterator[None]:
    """Who sends more JSON than is read is told what to send instead."""
    try:
        yield
    except TooLarge as error:
        if is_json and error.code == "too_large":
            raise too_many_bytes(limit) from error
        raise


def _refused(response: Response) -> Answer:
    headers = [item for item in response.raw_headers if item[0] not in (b"content-length", b"content-type")]
    return Answer(bytes(response.body), response.headers["content-type"].encode(), response.status_code, headers)


def _kind(error: RegistryError) -> str:
    match error:
        case Overloaded():
            return "overloaded"
        case DeadlineExceeded():
            return "deadline"
    return "refused" if problems.status_of(error) < 500 else "failed"
