"""The metadata and health routes of the Open Inference Protocol, `/v2`, and Triton's model configuration.

`service.serving` answers inference itself; Triton's other extensions are in `oip_repository` and `oip_statistics`.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.api.document.declarations import operation
from service.api.oip_repository import listed
from service.api.oip_schemas import (
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ServedModels,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.api.oip_statistics import NAMED, Version, versions_of, with_version
from service.api.problems import Responses
from service.api.routing import Route
from service.api.services import ServicesDep
from service.inference.oip.metadata import model_config, model_metadata, server_metadata
from service.registry.documents import JsonObject
from service.registry.errors import Conflict, Unavailable

OF_VERSION = "/models/{model}/versions/{version}"

_NOT_READY: Responses = {503: {"model": ModelReady, "description": "Not ready."}}

router = APIRouter(route_class=Route, prefix="/v2", tags=["inference protocol"])


@router.get("", response_model=ServerMetadata, name="server_metadata")
async def server() -> JsonObject:
    """The server's name, version and extensions."""
    return server_metadata(version_of("fedlas"))


@router.get("/health/live", response_model=ServerLive, name="server_live")
async def live() -> JsonObject:
    """Whether the process answers."""
    return {"live": True}


@router.get(
    "/health/ready",
    name="server_ready",
    response_model=ServerReady,
    responses={503: {"model": ServerReady, "description": "Not ready."}},
)
async def ready(services: ServicesDep) -> JSONResponse:
    """Whether models can be found and opened; 503 where they cannot."""
    try:
        await services.probes.run("database", services.registry.check)
        await services.probes.run("storage", services.registry.artifacts.check)
        services.served_models.check()
    except Exception:  # any error is the answer
        return JSONResponse({"ready": False}, 503)
    return JSONResponse({"ready": True})


@router.get("/models", response_model=ServedModels, name="list_served_models")
def list_served(services: ServicesDep) -> JsonObject:
    """The names and ids that answer, as KServe lists them."""
    with services.registry.read() as unit:
        return {"models": list(dict.fromkeys(item["name"] for item in listed(unit, only_ready=True)))}


@router.get("/models/{model}", response_model=ModelMetadata, name="model_metadata", openapi_extra=operation(*NAMED))
@router.get(
    OF_VERSION, response_model=ModelMetadata, name="model_metadata_of_version", openapi_extra=with_version(*NAMED)
)
def metadata(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Inputs, outputs and versions."""
    target = services.look_up.look_up(model, version)
    return model_metadata(target.profile, model, versions_of(services, model, target.version))


@router.get("/models/{model}/config", response_model=ModelConfig, name="model_config", openapi_extra=operation(*NAMED))
@router.get(
    f"{OF_VERSION}/config",
    response_model=ModelConfig,
    name="model_config_of_version",
    openapi_extra=with_version(*NAMED),
)
async def config(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Inputs and outputs in Triton's words; `instance_group` says what it really runs on, once it is open."""
    target = await services.look_up(model, version)
    provider = services.served_models.provider(target.digest)
    return model_config(target.profile, model, max_rows=services.settings.max_predict_rows, provider=provider)


@router.get(
    "/models/{model}/ready",
    name="model_ready",
    response_model=ModelReady,
    responses=_NOT_READY,
    openapi_extra=operation("unknown_model", "unknown_version"),
)
@router.get(
    f"{OF_VERSION}/ready",
    name="model_ready_of_version",
    response_model=ModelReady,
    responses=_NOT_READY,
    openapi_extra=with_version("unknown_model", "unknown_version"),
)
async def model_ready(services: ServicesDep, model: str, version: Version) -> JSONResponse:
    """Whether it answers, and is open from now on; 503 while it is inspected, was unloaded, or cannot be had."""
    try:
        await services.served_models.ready(model, version)
    except (Conflict, Unavailable):
        return JSONResponse({"name": model, "ready": False}, 503)
    return JSONResponse({"name": model, "ready": True})
