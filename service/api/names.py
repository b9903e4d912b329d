"""`/v1/names`: published names, switched and rolled back by one call."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.dependencies import PartsDep, tagged
from service.registry.contract import DefaultVersion, NameRecord, Page

router = APIRouter(prefix="/v1/names", tags=["names"])


@router.get("")
def list_names(parts: PartsDep) -> Page[NameRecord]:
    """List all published names with their versions."""
    with parts.registry.read() as unit:
        return Page(data=unit.names.all(), has_more=False)


@router.get("/{name}", response_model=NameRecord)
def get_name(request: Request, parts: PartsDep, name: str) -> Response:
    """Return one published name with its versions."""
    with parts.registry.read() as unit:
        record = unit.names.get(name)
    return tagged(request, record)


@router.put("/{name}")
def switch_default_version(parts: PartsDep, name: str, body: DefaultVersion) -> NameRecord:
    """Choose which version answers under the name."""
    with parts.registry.write() as unit:
        return unit.names.switch(name, body.default_version)
