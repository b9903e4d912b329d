"""`/v2/repository`: which models there are, and taking them out of service and back, as Triton's clients do it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue

from service.api.document.declarations import LOST, SERVED, operation
from service.api.named_models import find_model
from service.api.oip_schemas import Done, IndexedModel
from service.api.routing import Route
from service.api.services import ServicesDep
from service.registry.documents import JsonObject
from service.registry.errors import InvalidRequest
from service.registry.unit_of_work import UnitOfWork

#: Clients of Triton send JSON without saying so.
router = APIRouter(
    route_class=Route,
    prefix="/v2/repository",
    tags=["inference protocol"],
    strict_content_type=False,
)

#: Names with their versions, and ids: the protocol knows no pages, and these are about 1 MB.
_MOST_LISTED = 10_000
_LONGEST_REASON = 200


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool = False


class Parameters(BaseModel):
    """Parameters that Triton's clients send along with `load` and `unload`."""

    parameters: dict[str, JsonValue] = {}


@router.post("/index", response_model=list[IndexedModel], name="repository_index")
def index(services: ServicesDep, body: IndexRequest | None = None) -> list[JsonObject]:
    """Published names with their versions, and models by their ids, the newest first; 10,000 together at most."""
    with services.registry.read() as unit:
        return listed(unit, only_ready=body is not None and body.ready)


@router.post(
    "/models/{model}/load",
    response_model=Done,
    name="load_model",
    openapi_extra=operation("unknown_model", "model_not_ready", *SERVED, at=LOST),
)
async def load(services: ServicesDep, model: str, body: Parameters | None = None) -> Response:
    """Put a name or id into service again; answers once it is open and warm."""
    if body is not None and body.parameters:
        found = f"found the parameters {', '.join(sorted(body.parameters))}"
        raise InvalidRequest("invalid_request", f"a stored model is loaded as it is; {found}, needed is none")

    def change(unit: UnitOfWork) -> None:
        find_model(unit, model)
        unit.names.load(model)

    await services.write(change)
    await services.served_models.forget()
    await services.served_models.ready(model)
    return JSONResponse({})


@router.post(
    "/models/{model}/unload", response_model=Done, name="unload_model", openapi_extra=operation("unknown_model")
)
async def unload(services: ServicesDep, model: str, body: Parameters | None = None) -> Response:
    """Take a name or id out of service until it is loaded again; requests that have begun are still answered."""

    def change(unit: UnitOfWork) -> None:
        find_model(unit, model)
        unit.names.unload(model)

    await services.write(change)
    await services.served_models.forget()
    await services.served_models.drop(model)
    return JSONResponse({})


def listed(unit: UnitOfWork, *, only_ready: bool) -> list[JsonObject]:
    """Names with each of their versions, and ids: name, version, state and, where it is not READY, the reason."""
    names = [(name, version, "ready", None) for name, version in unit.names.versions(limit=_MOST_LISTED)]
    models = unit.models.states(limit=_MOST_LISTED - len(names))
    unloaded = unit.names.unloaded()
    index: list[JsonObject] = []
    for name, version, status, error in (*names, *models):
        state, reason = _state(status, error, unloaded=name in unloaded)
        if state == "READY" or not only_ready:
            index.append({"name": name, "version": str(version), "state": state, "reason": reason})
    return index


def _state(status: str, error: Mapping[str, JsonValue] | None, *, unloaded: bool) -> tuple[str, str]:
    """Triton's word for the status of a model, and why it is not READY."""
    if status == "inspecting":
        return "LOADING", "it is being inspected"
    if status == "rejected":
        return "UNAVAILABLE", str((error or {}).get("message", "rejected by inspection"))[:_LONGEST_REASON]
    return ("UNAVAILABLE", "unloaded") if unloaded else ("READY", "")
