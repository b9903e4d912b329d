"""`/v1/names`: published names, switched and rolled back by one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import ServicesDep, tagged
from service.api.pages import Limit, page_of
from service.api.routing import Route
from service.registry.contract import DefaultVersion, NameRecord, Page
from service.registry.unit_of_work import UnitOfWork

AfterName = Annotated[
    str | None, Query(max_length=100, description="Continue after this name, whether or not it is still there.")
]

router = APIRouter(route_class=Route, prefix="/v1/names", tags=["names"])


@router.get("", response_model=Page[NameRecord])
async def list_names(services: ServicesDep, limit: Limit = 20, after: AfterName = None) -> Response:
    """List published names with their versions, in alphabetical order."""
    shown: list[str] = []

    def names(unit: UnitOfWork) -> Iterator[NameRecord]:
        for record in unit.names.listed(limit=limit + 1, after=after):
            shown.append(record.name)
            yield record

    def read() -> Response:
        with services.registry.read() as unit:
            return page_of(names(unit), limit)

    page = await run_in_threadpool(read)
    for name in shown:
        await services.model_repository.renew(name)
    return page


@router.get("/{name}", response_model=NameRecord)
async def get_name(request: Request, services: ServicesDep, name: str) -> Response:
    """Return one published name with its versions."""

    def read() -> NameRecord:
        with services.registry.read() as unit:
            return unit.names.get(name)

    record = await run_in_threadpool(read)
    await services.model_repository.renew(name)
    return tagged(request, record)


@router.put("/{name}")
async def switch_default_version(services: ServicesDep, name: str, body: DefaultVersion) -> NameRecord:
    """Choose which version answers under the name; it is open and warm before the first request is sent to it."""

    def served() -> tuple[str | None, Mapping[str, Any] | None]:
        with services.registry.read() as unit:
            model = unit.models.find(unit.names.get(name).versions.get(str(body.default_version), ""))
            return (None, None) if model is None else (model.served_sha256, model.profile)

    def switch() -> NameRecord:
        with services.registry.write() as unit:
            return unit.names.switch(name, body.default_version)

    await services.model_repository.prepare(*await run_in_threadpool(served))
    record = await services.write_in_thread(switch)
    services.model_repository.forget()
    return record
