"""The composition root of the API: settings in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
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
    operations,
    predictions,
    problems,
    uploads,
)
from service.api.dependencies import Parts
from service.api.documentation import openapi_document
from service.api.middleware import BearerKeys, BodyLimit, HeadAsGet, RequestId
from service.api.together import Together
from service.api.waiting import Waiting
from service.inference.engine import Engine
from service.inference.runtime import check_single_runtime
from service.queue import Doorbell
from service.registry.unit_of_work import Registry
from service.settings import ServiceSettings

_SMALL_BODY_BYTES = 4 * 1024**2
_FORM_OVERHEAD_BYTES = 1024**2
_UPLOAD_PATHS = frozenset({"/v1/datasets", "/v1/models", "/v1/calibrators"})
_PIECES = "/v1/uploads/"
_RESOURCES = (
    *(uploads, datasets, models, jobs, events, deliveries, calibrators),
    *(predictions, batches, names, operations),
)


def create_app(settings: ServiceSettings) -> FastAPI:
    """Build the application; the registry is opened and migrated here, and closed when the application stops."""
    check_single_runtime()
    registry = Registry.open(settings)
    registry.migrate()
    doorbell = Doorbell(settings.resolved_broker_url)
    registry.ring = doorbell.ring
    turn = CapacityLimiter(1)
    parts = Parts(
        settings=settings,
        registry=registry,
        doorbell=doorbell,
        waiting=Waiting(registry),
        turn=turn,
        together=Together(registry, turn),
        engine=Engine(registry.artifacts, cache_bytes=settings.session_cache_bytes, threads=settings.inference_threads),
    )
    app = FastAPIOffline(  # /docs works without the internet
        title="FedLAS service",
        summary="Calibration as a service: upload a classifier, get back confidences one can act on.",
        version=version("fedlas"),
        lifespan=_lifespan,
        middleware=_middleware(settings),
        responses=problems.RESPONSES,
        generate_unique_id_function=_operation_id,
    )
    app.state.parts = parts
    problems.install(app)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    for resource in _RESOURCES:
        app.include_router(resource.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: Parts = app.state.parts
    yield
    parts.waiting.close()
    parts.doorbell.close()
    parts.registry.close()


def _middleware(settings: ServiceSettings) -> list[Middleware]:
    keys = [Middleware(BearerKeys, keys=settings.api_keys)] if settings.api_keys else []

    def limit_of(path: str) -> int:
        if path in _UPLOAD_PATHS or path.startswith(_PIECES):
            return settings.max_upload_bytes + _FORM_OVERHEAD_BYTES
        if path == "/v1/jobs":  # may carry both files
            return 2 * settings.max_upload_bytes + _FORM_OVERHEAD_BYTES
        return settings.max_predict_bytes if path.endswith("/predict") else _SMALL_BODY_BYTES

    return [Middleware(RequestId), *keys, Middleware(BodyLimit, limit_of=limit_of), Middleware(HeadAsGet)]


def _operation_id(route: APIRoute) -> str:
    return route.name
