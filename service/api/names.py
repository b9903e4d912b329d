"""`/v1/names`: published names, switched and rolled back by one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from service.api.dependencies import PartsDep, tagged
from service.registry.contract import DefaultVersion, NameRecord, Page

router = APIRouter(prefix="/v1/names", tags=["names"])


@router.get("")
async def list_names(parts: PartsDep) -> Page[NameRecord]:
    """List all published names with their versions."""

    def read() -> Page[NameRecord]:
        with parts.registry.read() as unit:
            return Page(data=unit.names.all(), has_more=False)

    page = await run_in_threadpool(read)
    for record in page.data:
        await parts.catalogue.renew(record.name)
    return page


@router.get("/{name}", response_model=NameRecord)
async def get_name(request: Request, parts: PartsDep, name: str) -> Response:
    """Return one published name with its versions."""

    def read() -> NameRecord:
        with parts.registry.read() as unit:
            return unit.names.get(name)

    record = await run_in_threadpool(read)
    await parts.catalogue.renew(name)
    return tagged(request, record)


@router.put("/{name}")
async def switch_default_version(parts: PartsDep, name: str, body: DefaultVersion) -> NameRecord:
    """Choose which version answers under the name; it is open and warm before the first request is sent to it."""

    def served() -> tuple[str | None, Mapping[str, Any] | None]:
        with parts.registry.read() as unit:
            model = unit.models.find(unit.names.get(name).versions.get(str(body.default_version), ""))
            return (None, None) if model is None else (model.served_sha256, model.profile)

    def switch() -> NameRecord:
        with parts.registry.write() as unit:
            return unit.names.switch(name, body.default_version)

    await parts.catalogue.prepare(*await run_in_threadpool(served))
    record = await parts.in_turn(switch)
    parts.catalogue.forget()
    return record
