"""The Open Inference Protocol, `/v2`: metadata and health, and Triton's repository, statistics and configuration.

`service.predict` answers inference itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as version_of
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import JsonValue

from fedlas.contract.base import JsonObject
from fedlas.contract.protocol import (
    Done,
    IndexedModel,
    IndexRequest,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    RepositoryParameters,
    ServedModels,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
)
from service.api.plumbing.declarations import LOST, SERVED, operation
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.http.problems import Responses
from service.predict.engine.metrics import Totals
from service.predict.formats.oip_responses import model_config, model_metadata, model_statistics, server_metadata
from service.registry.errors import Conflict, InvalidRequest, Unavailable
from service.registry.registry import UnitOfWork, find_model

#: Clients of Triton send JSON without saying so.
repository_router = APIRouter(
    route_class=Route, prefix="/v2/repository", tags=["inference protocol"], strict_content_type=False
)

#: Names with their versions, and ids: the protocol knows no pages, and these are about 1 MB.
_MAX_LISTED = 10_000
_MAX_REASON = 200


@repository_router.post("/index", response_model=list[IndexedModel], name="repository_index")
async def index(services: ServicesDep, body: IndexRequest | None = None) -> list[JsonObject]:
    """List models of the repository: names with their versions, and ids, the newest first; 10,000 at most."""
    found = await services.read(lambda unit: listed(unit, only_ready=body is not None and body.ready))
    await services.follow_served()
    return found


@repository_router.post(
    "/models/{model}/load",
    response_model=Done,
    name="load_model",
    openapi_extra=operation("unknown_model", "model_not_ready", *SERVED, at=LOST),
)
async def load(services: ServicesDep, model: str, body: RepositoryParameters | None = None) -> Response:
    """Load a model; a name or id answers again, and this call once it is open and warm.

    It also ends the time for which a model is suspended whose runs have ended their process.
    """
    if body is not None and body.parameters:
        given = f"found the parameters {', '.join(sorted(body.parameters))}"
        raise InvalidRequest("invalid_request", f"a stored model is loaded as it is; {given}, expected none")

    def change(unit: UnitOfWork) -> str | None:
        unit.names.load(model)
        return find_model(unit, model).served_sha256

    digest = await services.write(change)
    if digest is not None:
        services.quarantine.lift(digest)
    await services.served_models.ready(model)
    return JSONResponse({})


@repository_router.post(
    "/models/{model}/unload", response_model=Done, name="unload_model", openapi_extra=operation("unknown_model")
)
async def unload(services: ServicesDep, model: str, body: RepositoryParameters | None = None) -> Response:
    """Unload a model; it answers nothing until it is loaded again, but requests that have begun."""

    def change(unit: UnitOfWork) -> None:
        find_model(unit, model)
        unit.names.unload(model)

    await services.write(change)
    return JSONResponse({})


def listed(unit: UnitOfWork, *, only_ready: bool) -> list[JsonObject]:
    """Names with each of their versions, and ids: name, version, state and, where it is not READY, the reason."""
    names = [(name, version, "ready", None) for name, version in unit.names.versions(limit=_MAX_LISTED)]
    unloaded = unit.names.unloaded()
    index: list[JsonObject] = []
    for name, version, status, error in (*names, *unit.models.states(limit=_MAX_LISTED - len(names))):
        state, reason = _state(status, error, unloaded=name in unloaded)
        if state == "READY" or not only_ready:
            index.append({"name": name, "version": str(version), "state": state, "reason": reason})
    return index


def _state(status: str, error: Mapping[str, JsonValue] | None, *, unloaded: bool) -> tuple[str, str]:
    """Triton's word for the status of a model, and why it is not READY."""
    if status == "inspecting":
        return "LOADING", "it is being inspected"
    if status == "rejected":
        return "UNAVAILABLE", str((error or {}).get("message", "rejected by inspection"))[:_MAX_REASON]
    return ("UNAVAILABLE", "unloaded") if unloaded else ("READY", "")


async def _counted(services: ServicesDep) -> None:
    await services.served_models.count()


#: Before that of `/v2/models/{model}`: no model is called `stats`.
statistics_router = APIRouter(
    route_class=Route, prefix="/v2/models", tags=["inference protocol"], dependencies=[Depends(_counted)]
)


async def _version(request: Request) -> str | None:
    version: str | None = request.path_params.get("version")
    return version


#: The version in the path of a function that answers two paths, None in the one without.
Version = Annotated[str | None, Depends(_version)]
#: Codes of what a path under `/v2` names.
NAMED = ("unknown_model", "unknown_version", "model_not_ready", "model_unloaded")
_VERSION_IN_PATH: JsonObject = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "A number of the name's `versions`.",
    "schema": {"type": "string", "title": "Version"},
}


def with_version(*codes: str) -> JsonObject:
    """How the path with a version is documented, of a function that answers two."""
    return operation(*codes, more={"parameters": [_VERSION_IN_PATH]})


#: Each is about 1 KB.
_MAX_RECORDS = 1000


@statistics_router.get("/stats", response_model=Statistics, name="all_statistics")
def all_statistics(services: ServicesDep) -> JsonObject:
    """Return statistics of all models: of those that were asked for anything, and zeros of others; 1,000 together."""
    asked = services.metrics.all_totals()
    with services.registry.read() as unit:
        ready = {(str(item["name"]), str(item["version"])) for item in listed(unit, only_ready=True)}
    silent = sorted(ready - asked.keys())[: max(0, _MAX_RECORDS - len(asked))]
    totals = {call: Totals.of(()) for call in silent} | asked
    return {"model_stats": [model_statistics(name, version, counted) for (name, version), counted in totals.items()]}


@statistics_router.get(
    "/{model}/stats", response_model=Statistics, name="model_statistics", openapi_extra=operation(*NAMED)
)
@statistics_router.get(
    "/{model}/versions/{version}/stats",
    response_model=Statistics,
    name="model_statistics_of_version",
    openapi_extra=with_version(*NAMED),
)
async def statistics(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Return statistics of a model: requests, rows and times since the service began, of all versions or of one."""
    number = (await services.look_up(model, version)).version
    if version is not None:
        return {"model_stats": [model_statistics(model, number, services.metrics.totals(model, number))]}
    counted, none = services.metrics.all_totals(), Totals.of(())
    newest = (await versions_of(services, model, number))[-_MAX_RECORDS:]
    return {"model_stats": [model_statistics(model, one, counted.get((model, one), none)) for one in newest]}


async def versions_of(services: Services, model: str, own: str) -> list[str]:
    """All versions of a name; an id has one, its `own`."""
    if model.startswith("mdl_"):
        return [own]
    return await services.read(lambda unit: list(unit.names.get(model).versions))


OF_VERSION = "/models/{model}/versions/{version}"

_NOT_READY: Responses = {503: {"model": ModelReady, "description": "The model does not answer yet."}}

router = APIRouter(route_class=Route, prefix="/v2", tags=["inference protocol"])


@router.get("", response_model=ServerMetadata, name="server_metadata")
async def server() -> JsonObject:
    """Return the server's name and version."""
    return server_metadata(version_of("fedlas"))


@router.get("/health/live", response_model=ServerLive, name="server_live")
async def live() -> JsonObject:
    """Check that the process answers."""
    return {"live": True}


@router.get(
    "/health/ready",
    name="server_ready",
    response_model=ServerReady,
    responses={503: {"model": ServerReady, "description": "The server does not answer yet."}},
)
async def ready(services: ServicesDep) -> JSONResponse:
    """Check that models can be found and opened; 503 where they cannot."""
    try:
        await services.probes.run("database", services.registry.check)
        await services.probes.run("storage", services.registry.artifacts.check)
        services.served_models.check()
    except Exception:  # any error is the answer
        return JSONResponse({"ready": False}, 503)
    return JSONResponse({"ready": True})


@router.get("/models", response_model=ServedModels, name="list_served_models")
def list_served(services: ServicesDep) -> JsonObject:
    """List names and ids that answer; KServe's form of it."""
    with services.registry.read() as unit:
        return {"models": list(dict.fromkeys(item["name"] for item in listed(unit, only_ready=True)))}


@router.get("/models/{model}", response_model=ModelMetadata, name="model_metadata", openapi_extra=operation(*NAMED))
@router.get(
    OF_VERSION, response_model=ModelMetadata, name="model_metadata_of_version", openapi_extra=with_version(*NAMED)
)
async def metadata(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Return the inputs and outputs of a model; and its versions."""
    target = await services.look_up(model, version)
    return model_metadata(target.profile, model, await versions_of(services, model, target.version))


@router.get("/models/{model}/config", response_model=ModelConfig, name="model_config", openapi_extra=operation(*NAMED))
@router.get(
    f"{OF_VERSION}/config",
    response_model=ModelConfig,
    name="model_config_of_version",
    openapi_extra=with_version(*NAMED),
)
async def config(services: ServicesDep, model: str, version: Version) -> JsonObject:
    """Return a model's configuration: in Triton's words; `instance_group` is the device on which it runs, once open."""
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
    """Check that a model answers; it is open from now on; 503 while it is inspected, was unloaded, or cannot be had."""
    try:
        await services.served_models.ready(model, version)
    except (Conflict, Unavailable):
        return JSONResponse({"name": model, "ready": False}, 503)
    return JSONResponse({"name": model, "ready": True})
