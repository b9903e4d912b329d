"""`/`: where a model and its data are dropped, and the newest jobs."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service.api.services import ServicesDep
from service.registry.unit_of_work import UnitOfWork
from service.web.file_forms import Sent
from service.web.job_list import ListedJob, listed
from service.web.order_page import Choices
from service.web.origin import origin_of
from service.web.rendering import page
from service.web.snippets import Caller, three_requests

router = APIRouter(include_in_schema=False)

_NEWEST = 5


@router.get("/")
async def start_page(request: Request, services: ServicesDep) -> Response:
    """The first page."""

    def read(unit: UnitOfWork) -> tuple[Choices, list[ListedJob]]:
        return Choices.read(unit), [listed(unit, row) for row in unit.jobs.newest(limit=_NEWEST, after=None)]

    choices, jobs = await services.read(read)
    caller = Caller("mine", origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))
    return page(
        request,
        "start/page.html.jinja",
        sent=Sent.nothing(),
        choices=choices,
        jobs=jobs,
        with_key=caller.with_key,
        requests=three_requests(caller),
    )
