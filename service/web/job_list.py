"""`/jobs`: all jobs, newest first, page by page, with filters that stand in the address."""

from __future__ import annotations

from typing import Annotated, NamedTuple, get_args

from fastapi import APIRouter, Query, Request, Response

from service.api.responses import After, cursor
from service.api.services import ServicesDep
from service.registry import tables
from service.registry.contract import JobRecord
from service.registry.contract.records import JobStatus
from service.registry.errors import InvalidRequest
from service.registry.list_filter import ListFilter
from service.registry.presenters import job_record
from service.registry.unit_of_work import UnitOfWork
from service.web.job_words import verdict_in_words
from service.web.lists import ROWS, list_page
from service.web.rendering import page

router = APIRouter(include_in_schema=False)

_STATUSES: tuple[str, ...] = get_args(JobStatus)


class ListedJob(NamedTuple):
    """A line of the list; a model or dataset that was deleted has no name."""

    job: JobRecord
    model: str | None
    dataset: str | None

    @property
    def verdict(self) -> str:
        """What is served from now on, in a few words."""
        return verdict_in_words(self.job)


@router.get("/jobs")
async def list_jobs(
    request: Request,
    services: ServicesDep,
    status: Annotated[str, Query(max_length=20)] = "",
    name: Annotated[str, Query(max_length=200)] = "",
    after: After = None,
) -> Response:
    """The list; a form with empty fields asks for all."""
    if status and status not in _STATUSES:
        raise InvalidRequest("invalid_request", f"there is no status {status!r}; known are {', '.join(_STATUSES)}")
    name, after = name.strip(), cursor(after or None, "job")
    only = ListFilter(status or None, name or None)

    def read(unit: UnitOfWork) -> list[ListedJob]:
        return [listed(unit, row) for row in unit.jobs.listed(only, limit=ROWS + 1, after=after)]

    shown = list_page(request, await services.read(read), lambda line: line.job.id)
    template = "jobs/rows.html.jinja" if "hx-request" in request.headers else "jobs/list.html.jinja"
    return page(request, template, shown=shown, only=only, statuses=_STATUSES)


def listed(unit: UnitOfWork, row: tables.Job) -> ListedJob:
    """A job as a line of a list."""
    model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
    return ListedJob(
        job_record(unit, row, unit.work.of(row.id)),
        None if model is None else model.name,
        None if dataset is None else dataset.name,
    )
