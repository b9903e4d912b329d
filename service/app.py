"""The composition root of the API: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

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
from service.api.access import AccessControl, AccessMiddleware
from service.api.access_log import AccessLogMiddleware
from service.api.document.building import build
from service.api.methods import HeadMiddleware
from service.api.request_ids import RequestIdMiddleware
from service.api.services import Services
from service.inference.runtime import check_single_runtime
from service.registry.documents import JsonObject
from service.registry.errors import Unavailable
from service.serving.app import ServingApp
from service.serving.routes import ROUTES
from service.settings import ServiceSettings
from service.web import pages
from service.web.sessions import Sessions

_RESOURCES = (
    *(uploads, datasets, models, jobs, events, deliveries, calibrators),
    *(batches, names, oip_statistics, oip, oip_repository, operations),
)


def create_app(settings: ServiceSettings, *, on_stuck: Callable[[str], None] | None = None) -> ServingApp:
    """Build the application; the registry is opened and migrated here, and closed when the application stops.

    `on_stuck` is called with the digest of a served copy whose run does not end when its time is up.
    """
    check_single_runtime()
    services = Services.open(settings, on_stuck)
    fastapi = _rest_api(services)
    front = ServingApp(fastapi, services, ROUTES)
    fastapi.state.front = front  # pages ask the API, predictions included
    return front


def _rest_api(services: Services) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with suppress(Unavailable):  # what is left over goes with the next sweep
            await run_in_threadpool(services.registry.artifacts.clear_abandoned)
        services.start()
        yield
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
        Middleware(AccessMiddleware, access=AccessControl(services.settings)),
        Middleware(HeadMiddleware),
    ]


def _operation_id(route: APIRoute) -> str:
    return route.name


def _document(app: FastAPI) -> JsonObject:
    """The OpenAPI document, built once."""
    if app.openapi_schema is None:
        app.openapi_schema = build(app, ROUTES)
    return app.openapi_schema
