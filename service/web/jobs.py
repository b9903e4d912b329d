"""`/jobs/{id}`: one calibration from its order to its verdict, and the forms that end it or delete it.

The key figures of a report: what is served, the next step, and what each model says and is right on.

The view of a job: everything that its page shows, followed from event to event.

`/jobs`: all jobs, newest first, page by page, with filters that stand in the address.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple, get_args

from fastapi import APIRouter, Query, Request, Response
from markupsafe import Markup
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from service.api.plumbing.problems import Problem
from service.api.plumbing.record_codes import RECORD_CODES
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep
from service.registry import tables
from service.registry.artifacts import ArtifactStore
from service.registry.contract import FINAL, DeliveryRecord, JobRecord
from service.registry.contract.records import JobStatus
from service.registry.documents import Document
from service.registry.documents.report import Figure
from service.registry.errors import InvalidRequest, RegistryError
from service.registry.presenters import delivery_record, job_record
from service.registry.registry import Registry, UnitOfWork
from service.registry.repositories.pieces import Spread
from service.registry.repositories.records import ListFilter
from service.web.job_words import LEFT_OUT, Step, ToldEvent, order_sentences, steps_of, told, verdict_in_words
from service.web.race import Contender, Panel, Race, loss_panels, nll_chart
from service.web.rendering import page, see_other
from service.web.routes import ROWS, PageRoute, call_api, list_page

#: So many reports are remembered; jobs that have ended are looked at again and again.
_REMEMBERED = 64


class _Confidence(Document):
    mean_confidence: float
    accuracy: float


class _Gap(Document):
    gap: float
    standard_error: float


class _Gaps(Document):
    test: _Gap


class _Estimate(Document):
    value: Figure


class _Metrics(Document):
    nll: _Estimate
    brier: _Estimate


class KeyFigures(Document):
    """What is read of a report; the rest, which grows with the classes, is passed over.

    `confidence_gap` is empty where an earlier version wrote the report.
    """

    advice: list[str]
    confidence: dict[str, _Confidence]
    confidence_gap: dict[str, _Gaps] = Field(default_factory=dict)
    metrics: dict[str, _Metrics]
    num_test_rows: int


@lru_cache(_REMEMBERED)
def key_figures(artifacts: ArtifactStore, digest: str) -> KeyFigures:
    """Those of the report with this digest."""
    return KeyFigures.model_validate_json(artifacts.path(digest).read_bytes(), extra="ignore")


#: The newest events, and the best candidates, that a page shows; the API has all.
_EVENTS, _CANDIDATES = 40, 20
_DELIVERIES = 5
#: Of a job with more events the rest is read the next time.
_MOST_EVENTS = 50_000
#: Rows that the ranking has room for before it scrolls.
_ROWS = 10


@dataclass(frozen=True)
class JobView:
    """A job, what it calibrates, and where it stands.

    Attributes:
        model_name, dataset_name: None where it was deleted.
        events: newest first.
        last_event: the number of the newest.
        deliveries: of messages to its webhook, newest first.
        spread: None where its trainings are not offered to other workers, or its race is over.
        figures: None before there is a report.
    """

    job: JobRecord
    model_name: str | None
    dataset_name: str | None
    race: Race
    events: Sequence[ToldEvent]
    last_event: int
    deliveries: Sequence[DeliveryRecord]
    spread: Spread | None
    figures: KeyFigures | None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.job.status in FINAL

    @property
    def title(self) -> str:
        """The heading."""
        model = "a deleted model" if self.model_name is None else self.model_name
        return f"{'Dry run' if self.job.dry_run else 'Calibration'} of {model}"

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its stages."""
        return steps_of(self.job)

    @property
    def step(self) -> Step | None:
        """The stage that it is at."""
        return next((step for step in self.steps if step.state == "current"), None)

    @property
    def says(self) -> str:
        """What is told to those who do not look: the status, and of a running job the stage."""
        if self.job.status == "running" and self.step is not None:
            return f"{self.step.title}: {self.step.happens}"
        return f"The status of the job is {self.job.status}"

    @property
    def verdict(self) -> str:
        """What is served from now on, in a few words."""
        return verdict_in_words(self.job)

    @property
    def failure(self) -> str | None:
        """What the code of its error stands for."""
        return None if self.job.error is None else RECORD_CODES.get(self.job.error.code)

    @property
    def races(self) -> bool:
        """Whether candidates train, or may."""
        return bool(self.race.contenders) or not (
            self.ended or self.job.dry_run or self.job.method in ("post_hoc", "temperature")
        )

    @property
    def ranking(self) -> list[Contender]:
        """The best candidates."""
        return self.race.ranking[:_CANDIDATES]

    @property
    def leader(self) -> Contender | None:
        """The best so far."""
        return next((one for one in self.race.ranking if one.nll is not None), None)

    @property
    def rows(self) -> int:
        """Room for so many candidates is kept free from the start, so that nothing moves when they come."""
        return min(self.job.budget.candidates + 1, _ROWS)

    @property
    def chart(self) -> Markup:
        """The course of their NLL."""
        return nll_chart(self.race)

    @property
    def panels(self) -> list[Panel]:
        """The losses of the candidates."""
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
            events = unit.events.after(self.job_id, self._known, limit=_MOST_EVENTS)
            self._race.follow(events)
            self._known = events[-1].number if events else self._known
            return self._view(unit, row)

    def _view(self, unit: UnitOfWork, row: tables.Job) -> JobView:
        model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
        deliveries = unit.deliveries.of_job(row.id, limit=_DELIVERIES, after=None)
        return JobView(
            job=job_record(unit, row, unit.work.of(row.id)),
            model_name=None if model is None else model.name,
            dataset_name=None if dataset is None else dataset.name,
            race=self._race,
            events=told(unit.events.newest_but(row.id, LEFT_OUT, limit=_EVENTS)),
            last_event=self._known,
            deliveries=[delivery_record(one, unit.work.of(one.id)) for one in deliveries],
            spread=unit.pieces.spread(row.id) if row.stage == "training" else None,
            figures=self._figures(row.report_sha256),
        )

    def _figures(self, report_sha256: str | None) -> KeyFigures | None:
        with suppress(RegistryError):  # the page says the rest without the report
            return None if report_sha256 is None else key_figures(self._registry.artifacts, report_sha256)
        return None


router = APIRouter(include_in_schema=False, route_class=PageRoute)

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


@router.get("/jobs/{job_id}")
async def job_page(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The job as it is now."""
    return await _shown(request, services, job_id)


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, services: ServicesDep, job_id: str) -> Response:
    """Cancel it, and show what has become of it."""
    answer = await call_api(request, "POST", f"/v1/jobs/{job_id}/cancel")
    if answer.failed:
        return await _shown(request, services, job_id, refused=answer.problem)
    return see_other(f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/delete")
async def delete(request: Request, services: ServicesDep, job_id: str) -> Response:
    """Delete it, and show those that are left."""
    answer = await call_api(request, "DELETE", f"/v1/jobs/{job_id}")
    if answer.failed:
        return await _shown(request, services, job_id, refused=answer.problem)
    return see_other("/jobs")


async def _shown(request: Request, services: Services, job_id: str, *, refused: Problem | None = None) -> Response:
    view = await run_in_threadpool(FollowedJob(services.registry, job_id).view)
    return page(
        request,
        "jobs/page.html.jinja",
        view=view,
        order=order_sentences(view.job),
        refused=refused,
    )
