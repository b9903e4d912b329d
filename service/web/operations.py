"""`/operations`: what waits, what runs and where, what is stuck and why, and what the service rests on."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from service.api.health import outcomes
from service.api.services import Services, ServicesDep, quarantine
from service.registry.errors import Unavailable
from service.web.disk import Disk
from service.web.operations_view import Operations, code_in_words, counted, record_path
from service.web.rendering import page
from service.web.troubles import troubles

router = APIRouter(include_in_schema=False)


@router.get("/operations")
async def show_operations(request: Request, services: ServicesDep) -> Response:
    """The page, or for a script that reads it again what changes in it."""
    health, disk, found = await asyncio.gather(
        outcomes(services), run_in_threadpool(Disk.of, services.settings.data_dir), _read(services)
    )
    return page(
        request,
        "operations/now.html.jinja" if "hx-request" in request.headers else "operations/page.html.jinja",
        health=health,
        disk=disk,
        found=found,
        troubles=troubles(found, health, disk),
        device=services.served_models.device(),
        counted=counted,
        record_path=record_path,
        code_in_words=code_in_words,
    )


async def _read(services: Services) -> Operations | None:
    """None where the database cannot say; the checks name it."""

    def read() -> Operations:
        suspended = quarantine(services.settings).suspended()
        with services.registry.read() as unit:
            return Operations.read(unit, suspended)

    try:
        return await services.probes.run("operations", read)
    except (Unavailable, TimeoutError):
        return None
