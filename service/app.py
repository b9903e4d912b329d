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
from service.api.cross_site import SameSite, Sites
from service.api.documentation import openapi_document
from service.api.json_bodies import MOST_JSON_BYTES, JsonBodies
from service.api.json_types import JsonTypes
from service.api.methods import AllowedMethods
from service.api.middleware import BearerKeys, BodyLimit, HeadAsGet, Keys, RequestId
from service.api.services import Services
from service.inference.runtime import check_single_runtime
from service.registry.errors import Unavailable
from service.serving.app import Serving, ServingApp
from service.serving.routes import ROUTES
from service.settings import ServiceSettings

_FORM_OVERHEAD_BYTES = 1024**2
_UPLOAD_PATHS = frozenset({"/v1/datasets", "/v1/models", "/v1/calibrators"})
_PIECES = "/v1/uploads/"
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
    serving = Serving(settings, services.model_repository, services.scheduler, services.tracing)
    return ServingApp(_rest_api(services, serving), services, serving, ROUTES)


def _rest_api(services: Services, serving: Serving) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with suppress(Unavailable):  # what is left over goes with the next sweep
            await run_in_threadpool(services.registry.artifacts.clear_abandoned)
        services.start()
        yield
        serving.shut_down()
        services.close()

    app = FastAPIOffline(  # /docs works without the internet
        title="FedLAS service",
        summary="Calibration as a service: upload a classifier, get back confidences one can act on.",
        version=version("fedlas"),
        lifespan=lifespan,
        redirect_slashes=False,  # it would lead to wherever `Host` says
        middleware=_middleware(services.settings),
        responses=problems.RESPONSES,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours are `tracing` and `metrics`
    )
    app.state.services = services
    problems.install(app)
    app.openapi = partial(  # type: ignore[method-assign]
        openapi_document,
        app,
        {route.path: route.openapi() for route in ROUTES},
        requests=[model for route in ROUTES for model in route.body.values() if model],
        responses=[model for route in ROUTES for model in route.response.values() if model],
    )
    for resource in _RESOURCES:
        app.include_router(resource.router)
    return app


def _middleware(settings: ServiceSettings) -> list[Middleware]:

    def takes_file(path: str) -> bool:
        return path in _UPLOAD_PATHS or path.startswith(_PIECES)

    def limit_of(path: str) -> int:
        if takes_file(path):
            return settings.max_upload_bytes + _FORM_OVERHEAD_BYTES
        if path == "/v1/jobs":  # may carry both files; as JSON it may not
            return 2 * settings.max_upload_bytes + _FORM_OVERHEAD_BYTES
        return MOST_JSON_BYTES

    return [
        Middleware(RequestId),
        Middleware(SameSite, sites=Sites.of(settings)),
        *([Middleware(BearerKeys, keys=Keys(settings.api_keys))] if settings.api_keys else []),
        Middleware(JsonTypes),
        Middleware(BodyLimit, limit_of=limit_of),
        Middleware(JsonBodies, takes_file=takes_file),
        Middleware(HeadAsGet),
        Middleware(AllowedMethods),
    ]


def _operation_id(route: APIRoute) -> str:
    # Where one function answers for two paths, the one with a version is told by it.
    return f"{route.name}_of_version" if "{version}" in route.path else route.name
