"""The REST API: all resources and pages behind one ASGI application of FastAPI; predictions are answered elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from importlib.metadata import version
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_fields_from_routes
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.api.document.building import Documents, build
from service.api.document.prediction_operations import OPERATIONS
from service.api.plumbing import error_handlers
from service.api.plumbing.error_handlers import HeadMiddleware
from service.api.plumbing.services import FOLLOWED_EVERY_S, REWRITTEN_EVERY_S, Services
from service.api.resources import (
    batches,
    calibrators,
    datasets,
    events,
    jobs,
    keys,
    models,
    names,
    oip,
    operations,
    uploads,
)
from service.http.access import AccessMiddleware
from service.http.access_log import AccessLogMiddleware, RequestIdMiddleware
from service.http.problems import RESPONSES
from service.registry.errors import Unavailable
from service.repeated import repeat
from service.served.keys import REFRESH_S
from service.web.pages import ProblemPagesMiddleware, install
from service.web.rendering import StaticFile, answer
from service.web.sessions import SessionMiddleware, Sessions

_DOCUMENT = "/openapi.json"
_PROTOCOL_DOCUMENT = "/openapi-v2.json"
_RESOURCES = (uploads, datasets, models, jobs, events, calibrators, batches, names, keys)


class App(NamedTuple):
    """The application of a process.

    Attributes:
        front: what the server calls.
        fastapi: what answers all but predictions.
    """

    front: ASGIApp
    fastapi: FastAPI
    services: Services

    @classmethod
    def fronted(cls, front: ASGIApp, fastapi: FastAPI, services: Services) -> App:
        """With what answers predictions in front."""
        fastapi.state.front = front  # pages ask the API, predictions included
        return cls(front, fastapi, services)


def rest_api(
    services: Services,
    *,
    starting: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
    working: Callable[[], Coroutine[None, None, None]] | None = None,
) -> FastAPI:
    """Build it; `starting` and `stopping` are called when the application starts and stops, `working` runs between."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with suppress(Unavailable):  # what is left over goes with the next sweep
            await run_in_threadpool(services.registry.artifacts.clear_abandoned)
        services.access_log.start()
        starting()
        with suppress(Unavailable):  # a moment later, then
            await services.write_keys()
        with suppress(Unavailable):
            await run_in_threadpool(services.served.follow)
        background = [
            asyncio.create_task(work)
            for work in (
                repeat(jobs.CANCELLING_S, partial(jobs.cancel_due, services)),
                repeat(REFRESH_S, services.follow_keys),
                repeat(FOLLOWED_EVERY_S, services.follow_served),
                repeat(REWRITTEN_EVERY_S, partial(run_in_threadpool, services.served.rewrite)),
                *([working()] if working else []),
            )
        ]
        yield
        for task in background:
            task.cancel()
        for close in (stopping, services.close):  # a broker or a collector may not answer: the event loop goes on
            await run_in_threadpool(close)

    sessions = Sessions(services)
    app = FastAPIOffline(  # /docs works without the internet
        title="FedLAS service",
        summary="Calibration as a service: upload a classifier, get back confidences one can act on.",
        version=version("fedlas"),
        lifespan=lifespan,
        redirect_slashes=False,  # it would lead to wherever `Host` says
        middleware=[
            Middleware(AccessLogMiddleware, log=services.access_log),
            Middleware(ProblemPagesMiddleware),  # outside of what gives answers their ids
            Middleware(RequestIdMiddleware),
            Middleware(SessionMiddleware, sessions=sessions),  # before the keys are looked at
            Middleware(AccessMiddleware, access=services.access, keys=services.keys),
            Middleware(HeadMiddleware),
        ],
        responses=RESPONSES,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours are `tracing` and `metrics`
        routes=[
            Route(path, _get_document) for path in (_DOCUMENT, _PROTOCOL_DOCUMENT)
        ],  # before the framework's own, which encodes it for each request
    )
    app.state.services = services
    error_handlers.install(app)
    app.openapi = lambda: documents(app).main  # type: ignore[method-assign]
    protocol = (oip.statistics_router, oip.router, oip.repository_router)
    for router in (*(resource.router for resource in _RESOURCES), *protocol, operations.router):
        app.include_router(router)
    install(app, sessions)
    return app


async def build_document(app: FastAPI) -> None:
    """Build the OpenAPI document in a thread: it takes a quarter of a second.

    Two threads must not fill FastAPI's cache of parameters at once: it is filled here, in the thread that answers
    requests. Otherwise the document is built of other objects than it began with, which raises KeyError.
    """
    get_fields_from_routes(app.routes)
    await run_in_threadpool(app.openapi)


def documents(app: FastAPI) -> Documents:
    """The OpenAPI documents; built once, by the first who asks."""
    if not hasattr(app.state, "documents"):
        app.state.documents = build(app, OPERATIONS)
    built: Documents = app.state.documents
    return built


def _get_document(request: Request) -> Response:
    """An OpenAPI document; in a thread, where the first request builds and encodes it in half a second."""
    return answer(request, _written(request.app, request.url.path == _PROTOCOL_DOCUMENT), cache="no-cache")


@lru_cache(maxsize=2)
def _written(app: FastAPI, of_protocol: bool) -> StaticFile:
    built = documents(app)
    content = json.dumps(built.protocol if of_protocol else built.main, separators=(",", ":"), ensure_ascii=False)
    return StaticFile.of(content.encode(), "application/json")
