"""The composition root of the API: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from service.api import (
    batches,
    calibrators,
    datasets,
    deliveries,
    events,
    jobs,
    models,
    names,
    oip,
    oip_repository,
    oip_statistics,
    operations,
    problems,
    uploads,
)
from service.api.access import AccessMiddleware
from service.api.access_log import AccessLogMiddleware
from service.api.document.building import build
from service.api.methods import HeadMiddleware
from service.api.request_ids import RequestIdMiddleware
from service.api.services import Core, Services, quarantine
from service.control.app import ControlApp
from service.control.peers import ServingPeers
from service.inference.runtime import check_single_runtime
from service.registry.documents import JsonObject
from service.registry.errors import Unavailable
from service.serving.app import ServingApp
from service.serving.routes import ROUTES
from service.serving.services import ServingServices
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts
from service.web import pages
from service.web.sessions import Sessions

_RESOURCES = (
    *(uploads, datasets, models, jobs, events, deliveries, calibrators),
    *(batches, names, oip_statistics, oip, oip_repository, operations),
)


class App(NamedTuple):
    """The application of a process.

    Attributes:
        front: what the server calls.
        fastapi: what answers all but predictions.
    """

    front: ASGIApp
    fastapi: FastAPI
    services: Services


def create_app(settings: ServiceSettings, *, on_stuck: Callable[[str], None] | None = None) -> App:
    """Build the application; the registry is opened and migrated here, and closed when the application stops.

    `on_stuck` is called with the digest of a served copy whose run does not end when its time is up.
    """
    check_single_runtime()
    core = Core.open(settings)
    serving = ServingServices.open(
        settings,
        access=core.access,
        admission=core.keys,
        look_up=core.look_up,
        files=core.registry.artifacts,
        metrics=core.metrics,
        tracing=core.tracing,
        access_log=core.access_log,
        quarantine=quarantine(settings),
        on_stuck=on_stuck,
    )
    shared_counts = None
    if settings.api_processes > 1:
        shared_counts = SharedCounts(settings.data_dir.absolute() / "run" / "metrics", core.metrics)
    services = Services.over(core, serving.model_repository, shared_counts)
    fastapi = _rest_api(services, starting=serving.start, stopping=serving.close)
    return _app(ServingApp(fastapi, serving, ROUTES), fastapi, services)


def create_control(settings: ServiceSettings, peers: ServingPeers) -> App:
    """Build the application of a control process, whose predictions other processes answer."""
    core = Core.open(settings)
    peers.connect(core.look_up, core.keys, core.registry.artifacts, core.metrics)
    services = Services.over(core, peers)
    fastapi = _rest_api(services)
    return _app(ControlApp(fastapi, peers), fastapi, services)


def _app(front: ASGIApp, fastapi: FastAPI, services: Services) -> App:
    fastapi.state.front = front  # pages ask the API, predictions included
    return App(front, fastapi, services)


def _rest_api(
    services: Services, *, starting: Callable[[], None] = lambda: None, stopping: Callable[[], None] = lambda: None
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with suppress(Unavailable):  # what is left over goes with the next sweep
            await run_in_threadpool(services.registry.artifacts.clear_abandoned)
        services.start()
        starting()
        yield
        stopping()
        services.close()

    sessions = Sessions(services)
    app = FastAPIOffline(  # /docs works without the internet
        title="FedLAS service",
        summary="Calibration as a service: upload a classifier, get back confidences one can act on.",
        version=version("fedlas"),
        lifespan=lifespan,
        redirect_slashes=False,  # it would lead to wherever `Host` says
        middleware=_middleware(services, sessions),
        responses=problems.RESPONSES,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours are `tracing` and `metrics`
    )
    app.state.services = services
    problems.install(app)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    for resource in _RESOURCES:
        app.include_router(resource.router)
    pages.install(app, sessions)
    return app


def _middleware(services: Services, sessions: Sessions) -> list[Middleware]:
    return [
        Middleware(AccessLogMiddleware, log=services.access_log),
        pages.problem_pages(),
        Middleware(RequestIdMiddleware),
        pages.session_access(sessions),
        Middleware(AccessMiddleware, access=services.access, keys=services.keys),
        Middleware(HeadMiddleware),
    ]


def _operation_id(route: APIRoute) -> str:
    return route.name


def _document(app: FastAPI) -> JsonObject:
    """The OpenAPI document, built once."""
    if app.openapi_schema is None:
        app.openapi_schema = build(app, ROUTES)
    return app.openapi_schema
