"""The serving application: it answers predictions and passes every other request on.

`service.api.document.prediction_operations` describes its routes for clients.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import problems
from service.http.access_log import GONE, Access
from service.predict.call import InferenceCall, ServingServices
from service.predict.infer import infer
from service.predict.messages import Answer, Request, seconds_given
from service.predict.predict import predict
from service.predict.scores import predict_scores
from service.registry.errors import DeadlineExceeded, Overloaded, RegistryError, Unavailable
from service.tracing import end

_PARAMETER = re.compile(r"\{\w+\}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingRoute:
    """`POST` to a path that the serving application answers itself.

    Attributes:
        path: with parameters as `{name}`, each one segment.
        handler: answers a request; the parameters are given in the order of the path.
    """

    path: str
    handler: Callable[..., Awaitable[Answer]]
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(_PARAMETER.sub("([^/]+)", self.path)))


class ServingApp:
    """The ASGI application of a process that answers predictions.

    Args:
        others: what answers every path that is not in `routes`.
    """

    def __init__(self, others: ASGIApp, services: ServingServices, routes: Sequence[ServingRoute]) -> None:
        self.others = others
        self.services = services
        self._routes = tuple(routes)
        self._log = services.access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for route in self._routes:
                if (match := route.pattern.fullmatch(scope["path"])) is not None:
                    return await self._answer(route, match.groups(), scope, receive, send)
        await self.others(scope, receive, send)
        if scope["type"] == "lifespan":
            self.services.threads.shut_down()
        return None

    def give_up(self) -> None:
        """Answer all requests whose outputs are not there: the process ends, and another follows."""
        self.services.waits.fail(restarting)

    def call(self, request: Request, name: str, model: str, version: str | None = None) -> InferenceCall:
        span = self.services.tracing.start(request.headers, name)
        return InferenceCall(self.services, request, model, version, span)

    async def _answer(
        self, route: ServingRoute, parameters: Sequence[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = Request.read(scope, receive)
        services = self.services
        grant = services.keys.grant(request.headers.get(b"authorization", b"")) if services.access.keyed else None
        if refusal := services.access.refusal(request.scope, request.headers, grant):
            await request.answer(send, _answer_of(refusal))
            self._note(request, refusal.status_code)
            return
        if scope["method"] != "POST":
            other = problems.only_post(request.scope["path"], scope["method"])
            other.headers["X-Request-Id"] = request.id
            await other(scope, receive, send)
            self._note(request, other.status_code)
            return
        call = self.call(request, route.handler.__name__, *parameters)
        outcome, answer = "gone", None
        try:
            outcome, answer = await self._outcome(route, call)
            if answer is not None:
                call.hold_answer(len(answer.body))
                await request.answer(send, answer)
        finally:
            call.release()
            seconds = time.perf_counter() - call.began_at
            self._record(call, outcome, seconds)
            model_id = "" if call.resolved is None else call.resolved.model_id
            self._note(request, GONE if answer is None else answer.status, seconds, model_id)

    async def _outcome(self, route: ServingRoute, call: InferenceCall) -> tuple[str, Answer | None]:
        method, path = call.request.scope["method"], call.request.scope["path"]
        try:
            call.arrived = asyncio.get_running_loop().time()
            given, most = call.request.headers.get(b"x-request-timeout"), self.services.settings.predict_timeout_seconds
            call.until = call.arrived + (most if given is None else seconds_given(given.decode("latin-1"), most))
            return "ok", await route.handler(call)
        except ClientDisconnect:
            _LOG.info("%s %s: the client has disconnected", method, path)
            return "gone", None
        except RegistryError as error:
            return _outcome_of(error), _answer_of(problems.problem_of(path, error))
        except ValidationError as error:
            return "refused", _answer_of(problems.invalid(path, error))
        except Exception as error:
            return "failed", _answer_of(problems.defect(method, path, error))

    def _record(self, call: InferenceCall, outcome: str, seconds: float) -> None:
        (call.metrics or self.services.metrics.unknown).request(outcome, call.rows, seconds, call.abstained)
        if call.span.is_recording():
            attributes = {} if call.resolved is None else {"version": call.resolved.version}
            end(call.span, outcome, model=call.model, rows=call.rows, request_id=call.request.id, **attributes)

    def _note(self, request: Request, status: int, seconds: float = 0.0, model_id: str = "") -> None:
        scope = request.scope
        self._log.note(Access(scope["method"], scope["path"], status, seconds, request.id, model_id, prediction=True))


def restarting() -> Unavailable:
    return Unavailable("unavailable", "the process that answers this is being started again; come again in 1 s")


def _answer_of(response: Response) -> Answer:
    headers = [item for item in response.raw_headers if item[0] not in (b"content-length", b"content-type")]
    return Answer(bytes(response.body), response.headers["content-type"].encode(), response.status_code, headers)


def _outcome_of(error: RegistryError) -> str:
    match error:
        case Overloaded():
            return "overloaded"
        case DeadlineExceeded():
            return "deadline"
    return "refused" if problems.status_of(error) < 500 else "failed"


ROUTES = (
    ServingRoute("/v1/models/{model}/predict", predict),
    ServingRoute("/v1/calibrators/{calibrator}/predict", predict_scores),
    ServingRoute("/v2/models/{model}/infer", infer),
    ServingRoute("/v2/models/{model}/versions/{version}/infer", infer),
)
