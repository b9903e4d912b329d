"""`/jobs`: all jobs, newest first, page by page, with filters that stand in the address."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple, get_args
from urllib.parse import urlencode

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
from service.web.rendering import page

router = APIRouter(include_in_schema=False)

_ROWS = 25
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


class JobPage(NamedTuple):
    """One page of the list, and whether older jobs follow."""

    rows: list[ListedJob]
    has_more: bool


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
    shown = await services.read(partial(_page_of, only, after))
    template = "jobs/rows.html.jinja" if "hx-request" in request.headers else "jobs/list.html.jinja"
    return page(
        request,
        template,
        shown=shown,
        only=only,
        after=after,
        statuses=_STATUSES,
        newest=_address(only),
        older=_address(only, shown.rows[-1].job.id) if shown.has_more else None,
    )


def _page_of(only: ListFilter, after: str | None, unit: UnitOfWork) -> JobPage:
    rows = list(unit.jobs.listed(only, limit=_ROWS + 1, after=after))
    return JobPage([listed(unit, row) for row in rows[:_ROWS]], len(rows) > _ROWS)


def listed(unit: UnitOfWork, row: tables.Job) -> ListedJob:
    """A job as a line of a list."""
    model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
    return ListedJob(
        job_record(row, unit.work.of(row.id)),
        None if model is None else model.name,
        None if dataset is None else dataset.name,
    )


def _address(only: ListFilter, after: str | None = None) -> str:
    given = {"status": only.status, "name": only.name, "after": after}
    query = urlencode({key: value for key, value in given.items() if value})
    return f"/jobs?{query}" if query else "/jobs"
