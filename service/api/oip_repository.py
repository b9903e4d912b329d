"""`/v2/repository`: which models there are, and taking them out of service and back, as Triton's clients do it."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, JsonValue

from service.api.oip_schemas import RESPONSES
from service.api.routing import Route
from service.api.services import ServicesDep
from service.registry.documents import JsonObject
from service.registry.errors import InvalidRequest, NotFound
from service.registry.unit_of_work import UnitOfWork

#: Clients of Triton send JSON without saying so.
router = APIRouter(
    route_class=Route,
    prefix="/v2/repository",
    tags=["open inference protocol"],
    strict_content_type=False,
    responses=RESPONSES,
)

#: Names with their versions, and ids: the protocol knows no pages, and these are about 1 MB.
_MOST_LISTED = 10_000
_LONGEST_REASON = 200


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool = False


class Parameters(BaseModel):
    """What Triton's clients send along with `load` and `unload`."""

    parameters: dict[str, JsonValue] = {}


@router.post("/index", response_model=list[dict[str, object]])
def index(services: ServicesDep, body: IndexRequest | None = None) -> list[JsonObject]:
    """Published names with their versions, and models by their ids, the newest first; 10,000 together at most."""
    with services.registry.read() as unit:
        return listed(unit, only_ready=body is not None and body.ready)


@router.post("/models/{model}/load", response_class=Response)
async def load(services: ServicesDep, model: str, body: Parameters | None = None) -> Response:
    """Put a name or id into service again; answers once it is open and warm."""
    given = sorted(body.parameters) if body else []
    if given:
        found = f"found the parameters {', '.join(given)}"
        raise InvalidRequest("invalid_request", f"a stored model is loaded as it is; {found}, needed is none")

    def change(unit: UnitOfWork) -> None:
        _check_exists(unit, model)
        unit.names.load(model)

    await services.write(change)
    services.model_repository.forget()
    await services.model_repository.find(model)
    return JSONResponse({})


@router.post("/models/{model}/unload", response_class=Response)
async def unload(services: ServicesDep, model: str, body: Parameters | None = None) -> Response:
    """Take a name or id out of service until it is loaded again; requests that have begun are still answered."""

    def change(unit: UnitOfWork) -> None:
        _check_exists(unit, model)
        unit.names.unload(model)

    await services.write(change)
    services.model_repository.forget()
    services.model_repository.drop(model)
    return JSONResponse({})


def _check_exists(unit: UnitOfWork, model: str) -> None:
    if model.startswith("mdl_"):
        unit.models.get(model)
        return
    try:
        unit.names.get(model)
    except NotFound:
        raise NotFound("unknown_model", f"there is no model with the id or published name {model!r}") from None


def listed(unit: UnitOfWork, *, only_ready: bool) -> list[JsonObject]:
    """Names with each of their versions, and ids: name, version, state and, where it is not READY, the reason."""
    names = _names(unit)
    listed = (*names, *_models(unit, _MOST_LISTED - len(names)))
    return [item for item in listed if item["state"] == "READY" or not only_ready]


def _names(unit: UnitOfWork) -> list[JsonObject]:
    unloaded = unit.names.unloaded()
    versions = unit.names.versions(limit=_MOST_LISTED)
    return [_state(name, str(version), unloaded=name in unloaded) for name, version in versions]


def _models(unit: UnitOfWork, most: int) -> Iterator[JsonObject]:
    unloaded = unit.names.unloaded()
    for row in unit.models.states(limit=most):
        state = _state(row.id, str(row.version), unloaded=row.id in unloaded)
        if row.status == "inspecting":
            state |= {"state": "LOADING", "reason": "it is being inspected"}
        elif row.status == "rejected":
            reason = (row.error or {}).get("message", "rejected by inspection")
            state |= {"state": "UNAVAILABLE", "reason": reason[:_LONGEST_REASON]}
        yield state


def _state(name: str, version: str, *, unloaded: bool) -> JsonObject:
    if unloaded:
        return {"name": name, "version": version, "state": "UNAVAILABLE", "reason": "unloaded"}
    return {"name": name, "version": version, "state": "READY", "reason": ""}
