"""`/v1/names`: published names, switched and rolled back by one call."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.dependencies import PartsDep
from service.registry.contract import DefaultVersion, NameRecord, Page

router = APIRouter(prefix="/v1/names", tags=["names"])


@router.get("")
def list_names(parts: PartsDep) -> Page[NameRecord]:
    """List all published names with their versions."""
    with parts.registry.read() as unit:
        return Page(data=unit.names.all(), has_more=False)


@router.put("/{name}")
def switch_default_version(parts: PartsDep, name: str, body: DefaultVersion) -> NameRecord:
    """Choose which version answers under the name."""
    with parts.registry.write() as unit:
        return unit.names.switch(name, body.default_version)
