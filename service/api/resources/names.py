"""`/v1/names`: published names, switched and rolled back by one call."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from fedlas.contract.base import Page
from fedlas.contract.records import ModelRecord, NameRecord
from fedlas.contract.requests import NameUpdate
from service.api.plumbing.declarations import LOST, SERVED, operation
from service.api.plumbing.responses import Limit, page_of, tagged
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep
from service.predict.engine.profile import ServingProfile
from service.registry.presenters import model_record
from service.registry.registry import UnitOfWork
from service.served.folder import version_number

AfterName = Annotated[
    str | None, Query(max_length=100, description="Continue after this name, whether or not it is still there.")
]

router = APIRouter(route_class=Route, prefix="/v1/names", tags=["names"])


@router.get("", response_model=Page[NameRecord])
async def list_names(services: ServicesDep, limit: Limit = 20, after: AfterName = None) -> Response:
    """List published names: with their versions, in alphabetical order."""
    answer = await services.read(
        lambda unit: page_of(unit.names.listed(limit=limit + 1, after=after), limit, lambda record: record.name)
    )
    await services.follow_served()
    return answer


@router.get("/{name}", response_model=NameRecord, openapi_extra=operation("unknown_name", tagged=True))
async def get_name(request: Request, services: ServicesDep, name: str) -> Response:
    """Return one published name with its versions."""
    record = await services.read(lambda unit: unit.names.get(name))
    await services.follow_served()
    return tagged(request, record)


@router.patch(
    "/{name}",
    openapi_extra=operation(
        "unknown_name",
        "unknown_version",
        "no_class_shares",
        "default_changed",
        *SERVED,
        at={**LOST, 422: ["unknown_version"]},
    ),
)
async def update_name(services: ServicesDep, name: str, body: NameUpdate) -> NameRecord:
    """Switch the version of a name; also the class priors that it answers for.

    It is open and warm before the first request is sent to it. A later version takes the priors over, unless its job
    had its own or its classes are others. 409 where another version than `instead_of` answers by now.
    """
    present = await services.read(lambda unit: unit.names.get(name))
    version = body.default_version or present.default_version
    chosen = await services.read(lambda unit: unit.models.find(present.versions.get(str(version), "")))
    if chosen is not None:
        if body.class_priors is not None:
            ServingProfile.of(chosen.profile or {}).shift_to(body.class_priors)
        await services.served_models.prepare(chosen.id)

    def change(unit: UnitOfWork) -> NameRecord:
        unasked = None if body.default_version else present.default_version
        record = unit.names.switch(name, version, instead_of=body.instead_of or unasked)
        given = "class_priors" in body.model_fields_set
        return unit.names.set_priors(name, version, body.class_priors) if given else record

    return await services.write(change)


@router.delete("/{name}", status_code=204, response_class=Response, openapi_extra=operation("unknown_name"))
async def delete_name(services: ServicesDep, name: str) -> None:
    """Delete a name with its versions; their models stay and answer under their ids.

    Requests that came before are answered. Later ones are answered 404, at other API processes within a second. A job
    that is still to publish under this name begins it anew, with version 1.
    """
    await services.write(lambda unit: unit.names.delete(name))


@router.get(
    "/{name}/versions/{version}",
    response_model=ModelRecord,
    openapi_extra=operation("unknown_name", "unknown_version", tagged=True),
)
async def get_version(request: Request, services: ServicesDep, name: str, version: str) -> Response:
    """Return the model of a version."""
    record = await services.read(
        lambda unit: model_record(unit, unit.models.get(unit.names.version(name, version_number(version)).model_id))
    )
    await services.follow_served()
    return tagged(request, record)


@router.delete(
    "/{name}/versions/{version}",
    status_code=204,
    response_class=Response,
    openapi_extra=operation("unknown_name", "unknown_version", "default_version"),
)
async def delete_version(services: ServicesDep, name: str, version: str) -> None:
    """Delete a version of a name; its model stays; 409 for the one that answers. Its number is not given again."""
    await services.write(lambda unit: unit.names.delete_version(name, version_number(version)))
