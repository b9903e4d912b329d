"""The metadata and health routes of the Open Inference Protocol, `/v2`, and Triton's model configuration.

`service.serving` answers inference itself; Triton's other extensions are in `oip_repository` and `oip_statistics`.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import ServicesDep
from service.api.oip_repository import listed
from service.api.oip_schemas import RESPONSES
from service.api.oip_statistics import versions_of
from service.api.routing import Route
from service.api.services import Services
from service.inference.oip.metadata import model_config, model_metadata, server_metadata
from service.registry.errors import Conflict, Unavailable

router = APIRouter(route_class=Route, prefix="/v2", tags=["open inference protocol"], responses=RESPONSES)

Json = dict[str, Any]


@router.get("")
async def server() -> Json:
    """Who serves, and which extensions."""
    return server_metadata(version_of("fedlas"))


@router.get("/health/live")
async def live() -> Json:
    """Whether the process answers."""
    return {"live": True}


@router.get("/health/ready")
async def ready(services: ServicesDep) -> JSONResponse:
    """Whether models can be found and opened; 503 where they cannot."""
    try:
        await services.probes.run("database", services.registry.check)
        await services.probes.run("storage", services.registry.artifacts.check)
    except Exception:  # any error is the answer
        return JSONResponse({"ready": False}, 503)
    return JSONResponse({"ready": True})


@router.get("/models")
def list_served(services: ServicesDep) -> Json:
    """The names and ids that answer, as KServe lists them."""
    with services.registry.read() as unit:
        return {"models": list(dict.fromkeys(item["name"] for item in listed(unit, only_ready=True)))}


@router.get("/models/{model}")
def metadata(services: ServicesDep, model: str) -> Json:
    """Inputs, outputs and versions."""
    return _metadata(services, model, None)


@router.get("/models/{model}/versions/{version}")
def metadata_of_version(services: ServicesDep, model: str, version: str) -> Json:
    """The same of one version."""
    return _metadata(services, model, version)


@router.get("/models/{model}/config")
async def config(services: ServicesDep, model: str) -> Json:
    """Inputs and outputs in Triton's words; `instance_group` says what it really runs on, once it is open."""
    return await _config(services, model, None)


@router.get("/models/{model}/versions/{version}/config")
async def config_of_version(services: ServicesDep, model: str, version: str) -> Json:
    """The same of one version."""
    return await _config(services, model, version)


@router.get("/models/{model}/ready")
async def model_ready(services: ServicesDep, model: str) -> JSONResponse:
    """Whether it answers, and is open from now on; 503 while it is inspected, was unloaded, or cannot be had."""
    return await _ready(services, model, None)


@router.get("/models/{model}/versions/{version}/ready")
async def version_ready(services: ServicesDep, model: str, version: str) -> JSONResponse:
    """The same of one version."""
    return await _ready(services, model, version)


def _metadata(services: Services, model: str, version: str | None) -> Json:
    target = services.model_repository.look_up(model, version)
    return model_metadata(target.profile, model, versions_of(services, model, target.version))


async def _config(services: Services, model: str, version: str | None) -> Json:
    target = await run_in_threadpool(services.model_repository.look_up, model, version)
    line = services.scheduler.opened(target.digest)
    provider = None if line is None else line.model.provider
    return model_config(target.profile, model, max_rows=services.settings.max_predict_rows, provider=provider)


async def _ready(services: Services, model: str, version: str | None) -> JSONResponse:
    try:
        await services.model_repository.find(model, version)
    except (Conflict, Unavailable):
        return JSONResponse({"name": model, "ready": False}, 503)
    return JSONResponse({"name": model, "ready": True})
