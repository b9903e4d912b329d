"""`/jobs`: all jobs, newest first, and each from its request to its verdict, with forms that end or delete it.

Reports are here, too. The stored page was written by a process that had opened somebody's model, so none of its markup
gets here: templates and drawings of this release show what `report.json` holds. A report that cannot be drawn, as of a
version that did not know all these figures, is shown by its stored page alone, which a browser isolates.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from jinja2 import TemplateError
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.records import FINAL, DeliveryRecord, JobRecord, JobStatus
from fedlas.contract.report import Report
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.reports import missing_evidence
from service.registry import tables
from service.registry.artifacts import ArtifactStore
from service.registry.errors import InvalidRequest, RegistryError
from service.registry.presenters import delivery_record, job_record
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories.records import ListFilter
from service.web.job_words import LEFT_OUT, Step, ToldEvent, request_sentences, steps_of, told, verdict_of
from service.web.race import Contender, Panel, Race, loss_panels, nll_chart
from service.web.rendering import page
from service.web.routes import ROWS, PageRoute, acted, list_page

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_LOG = logging.getLogger(__name__)
#: Errors of figures that are of another kind: their types were checked when they came, not all of their values.
NOT_DRAWN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TemplateError)
#: So many reports are remembered; jobs that have ended are looked at again and again.
_REMEMBERED = 128


@router.get("/jobs/{job_id}/report")
def report_of_job(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The report of a job; in a thread of its own, since drawing takes some milliseconds."""
    with services.registry.read() as unit:
        row = unit.jobs.get(job_id)
    return report_page(request, services.registry, row, "jobs")


def report_page(request: Request, registry: Registry, row: tables.Job | tables.Calibrator, collection: str) -> Response:
    if row.report_sha256 is None:
        raise missing_evidence(row)
    content = registry.artifacts.path(row.report_sha256).read_bytes()
    try:
        report = Report.read(json.loads(content))
        return page(request, "reports/page.html.jinja", report=report, record_id=row.id, collection=collection)
    except NOT_DRAWN as reason:
        _LOG.warning("the report of %s cannot be drawn: %r", row.id, reason)
        return page(request, "reports/earlier.html.jinja", record_id=row.id, collection=collection)


def stored_report(artifacts: ArtifactStore, report_sha256: str | None) -> Report | None:
    """A stored report; None where there is none, or one of a version without these figures."""
    if report_sha256 is None:
        return None
    try:
        return _read(artifacts.path(report_sha256))
    except (RegistryError, ValueError):
        return None


@lru_cache(_REMEMBERED)
def _read(path: Path) -> Report:
    return Report.read(json.loads(path.read_bytes()))


_STATUSES: tuple[str, ...] = get_args(JobStatus)
#: The newest events, and the best candidates, that a page shows; the API has all.
_EVENTS = 40
_CANDIDATES = 20
_DELIVERIES = 5
#: The rest of a job with more events is read the next time.
_MAX_EVENTS = 50_000
#: Rows that the ranking has room for before it scrolls.
_ROWS = 10


@dataclass(frozen=True)
class ListedJob:
    """A line of the list; a model or dataset that was deleted has no name."""

    job: JobRecord
    model: str | None
    dataset: str | None

    @property
    def verdict(self) -> str:
        return verdict_of(self.job)


@router.get("/jobs")
async def list_jobs(
    request: Request,
    services: ServicesDep,
    status: Annotated[str, Query(max_length=20)] = "",
    name: Annotated[str, Query(max_length=200)] = "",
    kind: Literal["", "dry_run"] = "",
    after: After = None,
) -> Response:
    if status and status not in _STATUSES:
        raise InvalidRequest("invalid_request", f"there is no status {status!r}; known are {', '.join(_STATUSES)}")
    name, after = name.strip(), cursor(after or None, "job")
    only = ListFilter(status or None, name or None, dry_run=kind == "dry_run")

    lines = await services.read(
        lambda unit: [listed(unit, row) for row in unit.jobs.listed(only, limit=ROWS + 1, after=after)]
    )
    shown = list_page(request, lines, lambda line: line.job.id)
    template = "jobs/rows.html.jinja" if "hx-request" in request.headers else "jobs/list.html.jinja"
    return page(request, template, shown=shown, only=only, statuses=_STATUSES)


def listed(unit: UnitOfWork, row: tables.Job) -> ListedJob:
    model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
    record = job_record(unit, row, unit.work.of(row.id))
    return ListedJob(record, model.name if model else None, dataset.name if dataset else None)


@router.get("/jobs/{job_id}")
async def job_page(request: Request, services: ServicesDep, job_id: str) -> Response:
    return await _shown(request, services, job_id)


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, services: ServicesDep, job_id: str) -> Response:
    again = partial(_shown, request, services, job_id)
    return await acted(request, "POST", f"/v1/jobs/{job_id}/cancel", f"/jobs/{job_id}", again)


@router.post("/jobs/{job_id}/delete")
async def delete(request: Request, services: ServicesDep, job_id: str) -> Response:
    return await acted(request, "DELETE", f"/v1/jobs/{job_id}", "/jobs", partial(_shown, request, services, job_id))


async def _shown(request: Request, services: Services, job_id: str, refused: Problem | None = None) -> Response:
    view = await run_in_threadpool(FollowedJob(services.registry, job_id).view)
    return page(request, "jobs/page.html.jinja", view=view, order=request_sentences(view.job), refused=refused)


@dataclass(frozen=True)
class JobView(ListedJob):
    """Everything that the page of a job shows.

    Attributes:
        events: newest first.
        last_event: the number of the newest.
        deliveries: of messages to its webhook, newest first.
        figures: None before there is a report.
    """

    race: Race
    events: Sequence[ToldEvent]
    last_event: int
    deliveries: Sequence[DeliveryRecord]
    figures: Report | None

    @property
    def ended(self) -> bool:
        return self.job.status in FINAL

    @property
    def title(self) -> str:
        model = "a deleted model" if self.model is None else self.model
        return f"{'Dry run' if self.job.dry_run else 'Calibration'} of {model}"

    @property
    def steps(self) -> tuple[Step, ...]:
        return steps_of(self.job)

    @property
    def step(self) -> Step | None:
        return next((step for step in self.steps if step.state == "current"), None)

    @property
    def says(self) -> str:
        """Announcement for screen readers: the status, and of a running job the stage."""
        if self.job.status == "running" and self.step is not None:
            return f"{self.step.title}: {self.step.happens}"
        return f"The status of the job is {self.job.status}"

    @property
    def failure(self) -> str | None:
        return None if self.job.error is None else RECORD_CODES.get(self.job.error.code)

    @property
    def races(self) -> bool:
        return bool(self.race.contenders) or not (
            self.ended or self.job.dry_run or self.job.method in ("post_hoc", "temperature")
        )

    @property
    def ranking(self) -> list[Contender]:
        return self.race.ranking[:_CANDIDATES]

    @property
    def leader(self) -> Contender | None:
        return next((one for one in self.race.ranking if one.nll is not None), None)

    @property
    def rows(self) -> int:
        """Room for so many candidates is kept free from the start, so that nothing moves when they come."""
        return min(self.job.budget.candidates + 1, _ROWS)

    @property
    def chart(self) -> Markup:
        return nll_chart(self.race)

    @property
    def panels(self) -> list[Panel]:
        return loss_panels(self.race)


class FollowedJob:
    """A job that is looked at again and again: each of its events is read once."""

    def __init__(self, registry: Registry, job_id: str) -> None:
        self._registry = registry
        self.job_id = job_id
        self._race = Race()
        self._known = 0

    def view(self) -> JobView:
        """The job as it is now; raises NotFound. One thread calls it at a time."""
        with self._registry.read() as unit:
            row = unit.jobs.get(self.job_id)
            events = unit.events.after(self.job_id, self._known, limit=_MAX_EVENTS)
            self._race.follow(events)
            self._known = events[-1].number if events else self._known
            line = listed(unit, row)
            deliveries = unit.deliveries.of_job(row.id, limit=_DELIVERIES, after=None)
            return JobView(
                line.job,
                line.model,
                line.dataset,
                race=self._race,
                events=told(unit.events.newest_but(row.id, LEFT_OUT, limit=_EVENTS)),
                last_event=self._known,
                deliveries=[delivery_record(one, unit.work.of(one.id)) for one in deliveries],
                figures=stored_report(self._registry.artifacts, row.report_sha256),
            )
