"""The metadata and health routes of the Open Inference Protocol, `/v2`, and Triton's model configuration.

`service.serving` answers inference itself; Triton's other extensions are in `oip_repository` and `oip_statistics`.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.api.oip_repository import listed
from service.api.oip_schemas import RESPONSES
from service.api.oip_statistics import WITH_VERSION, Version, versions_of
from service.api.routing import Route
from service.api.services import ServicesDep
from service.inference.oip.metadata import model_config, model_metadata, server_metadata
from service.registry.documents import JsonObject
from service.registry.errors import Conflict, Unavailable

OF_VERSION = "/models/{model}/versions/{version}"

router = APIRouter(route_class=Route, prefix="/v2", tags=["open inference protocol"], responses=RESPONSES)


@router.get("", response_model=dict)
async def server() -> JsonObject:
    """The server's name, version and extensions."""
    return server_metadata(version_of("fedlas"))


@router.get("/health/live", response_model=dict)
async def live() -> JsonObject:
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


@router.get("/models", response_model=dict)
def list_served(services: ServicesDep) -> JsonObject:
    """The names and ids that answer, as KServe lists them."""
    with services.registry.read() as unit:
        return {"models": list(dict.fromkeys(item["name"] for item in listed(unit, only_ready=True)))}


@router.get("/models/{model}", response_model=dict)
@router.get(OF_VERSION, response_model=dict, name="metadata_of_version", openapi_extra=WITH_VERSION)
def metadata(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Inputs, outputs and versions."""
    target = services.model_repository.look_up(model, version)
    return model_metadata(target.profile, model, versions_of(services, model, target.version))


@router.get("/models/{model}/config", response_model=dict)
@router.get(f"{OF_VERSION}/config", response_model=dict, name="config_of_version", openapi_extra=WITH_VERSION)
async def config(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Inputs and outputs in Triton's words; `instance_group` says what it really runs on, once it is open."""
    target = await run_in_threadpool(services.model_repository.look_up, model, version)
    line = services.scheduler.opened(target.digest)
    provider = None if line is None else line.model.provider
    return model_config(target.profile, model, max_rows=services.settings.max_predict_rows, provider=provider)


@router.get("/models/{model}/ready")
@router.get(f"{OF_VERSION}/ready", name="version_ready", openapi_extra=WITH_VERSION)
async def model_ready(services: ServicesDep, model: str, version: Version) -> JSONResponse:
    """Whether it answers, and is open from now on; 503 while it is inspected, was unloaded, or cannot be had."""
    try:
        await services.model_repository.find(model, version)
    except (Conflict, Unavailable):
        return JSONResponse({"name": model, "ready": False}, 503)
    return JSONResponse({"name": model, "ready": True})
