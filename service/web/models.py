"""`/models`, `/names` and `/datasets`: where each came from, what inspection found in it, and where it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import JsonValue

from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.records import DatasetRecord, ModelRecord, NameRecord
from fedlas.contract.report import Report
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.names import AfterName
from service.predict.engine.profile import ServingProfile
from service.registry import tables
from service.registry.presenters import dataset_record, model_record
from service.registry.registry import UnitOfWork, find_model
from service.registry.repositories.records import ListFilter
from service.web.jobs import ListedJob, listed, stored_report
from service.web.rendering import page, see_other
from service.web.routes import ROWS, WAIT_S, PageRoute, acted, call_api, is_news, list_page, problem_in
from service.web.sessions import origin_of
from service.web.snippets import Caller, Snippet, snippets

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Class names of a model that its page shows without being asked.
_SHOWN_CLASSES = 50
#: Jobs that are shown of one model or dataset, and calibrated models.
_RELATED = 20
#: Versions of one name on a page: a report is read for each.
_VERSIONS = 20
#: A version that every database can be asked for.
_MAX_VERSION = 999_999_999

Name = Annotated[str, Query(max_length=200)]


@router.get("/models")
async def list_models(
    request: Request,
    services: ServicesDep,
    name: Name = "",
    origin: Literal["", "uploaded", "calibrated"] = "",
    after: After = None,
) -> Response:
    only = ListFilter(name=name or None, origin=origin or None)

    def lines(unit: UnitOfWork) -> list[tuple[tables.Model, Sequence[tables.PublishedVersion]]]:
        rows = unit.models.listed(only, limit=ROWS + 1, after=cursor(after or None, "mdl"))
        return [(row, unit.names.of_models([row.id])) for row in rows]

    models = list_page(request, await services.read(lines), lambda line: line[0].id)
    return page(request, "models/list.html.jinja", models=models, name=name, origin=origin)


@router.get("/models/{ref}")
async def show_model(request: Request, services: ServicesDep, ref: str) -> Response:
    return await _model_page(request, services, ref)


@router.post("/models/{ref}/delete")
async def delete_model(request: Request, services: ServicesDep, ref: str) -> Response:
    return await acted(request, "DELETE", f"/v1/models/{ref}", "/models", partial(_model_page, request, services, ref))


async def _model_page(request: Request, services: Services, ref: str, refused: Problem | None = None) -> Response:
    caller = Caller(ref, origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))

    def find(unit: UnitOfWork) -> tuple[ModelRecord, str | None, Lineage, Sequence[Snippet]]:
        row = find_model(unit, ref)
        record = model_record(unit, row)
        profile = row.profile if record.status == "ready" else None
        programs = () if profile is None else snippets(record, ServingProfile.of(profile), caller)
        return record, row.served_sha256, lineage_of(unit, row), programs

    model, digest, lineage, programs = await services.read(find)
    return page(
        request,
        "models/show.html.jinja",
        refused=refused,
        model=model,
        lineage=lineage,
        provider=None if digest is None else services.served_models.provider(digest),
        caller=caller,
        snippets=programs,
        shown_classes=(model.class_names or [])[:_SHOWN_CLASSES],
    )


class Ancestor(NamedTuple):
    """A model or job; without a name where it was deleted."""

    id: str
    name: str | None


@dataclass(frozen=True)
class Lineage:
    """Where a model came from, what came of it, and the versions of names that it is, as far as it is still there.

    Attributes:
        descendants: jobs that were given the model, each with what it has made: None where that is no model of its own.
        orphans: models that were made of it by jobs which have been deleted.
    """

    parent: Ancestor | None
    job: Ancestor | None
    descendants: Sequence[tuple[tables.Job, Ancestor | None]]
    orphans: Sequence[Ancestor]
    published: Sequence[tables.PublishedVersion]


def lineage_of(unit: UnitOfWork, row: tables.Model) -> Lineage:
    def model(model_id: str | None) -> Ancestor | None:
        if model_id in (None, row.id):
            return None
        related = unit.models.find(model_id)
        return Ancestor(model_id, related.name if related else None)

    jobs = unit.jobs.of_model(row.id, limit=_RELATED)
    descendants = [(job, model(job.calibrated_model_id)) for job in jobs]
    known = {made.id for _, made in descendants if made}
    return Lineage(
        parent=model(row.parent_id),
        job=None if row.job_id is None else Ancestor(row.job_id, None if row.job_deleted_at else row.job_id),
        descendants=descendants,
        orphans=[
            Ancestor(one.id, one.name) for one in unit.models.made_of(row.id, limit=_RELATED) if one.id not in known
        ],
        published=unit.names.of_models([row.id]),
    )


class VersionLine(NamedTuple):
    """A version: its model, the job that made it, and what the job's report says of it."""

    published: tables.PublishedVersion
    model: tables.Model
    job: tables.Job | None
    report: Report | None

    @property
    def version(self) -> int:
        return self.published.version


@router.get("/names")
async def list_names(request: Request, services: ServicesDep, after: AfterName = None) -> Response:
    def line(unit: UnitOfWork, record: NameRecord) -> tuple[NameRecord, tables.PublishedVersion, tables.Model]:
        default = unit.names.version(record.name)
        return record, default, unit.models.get(default.model_id)

    lines = await services.read(
        lambda unit: [line(unit, one) for one in unit.names.listed(limit=ROWS + 1, after=after or None)]
    )
    names = list_page(request, lines, lambda line: line[0].name)
    return page(request, "names/list.html.jinja", names=names)


@router.get("/names/{name}")
async def show_name(
    request: Request,
    services: ServicesDep,
    name: str,
    switch_to: Annotated[int | None, Query(ge=1, le=_MAX_VERSION)] = None,
    below: Annotated[int | None, Query(ge=1, le=_MAX_VERSION)] = None,
) -> Response:
    """One name with its versions; with `switch_to` it asks whether that version shall answer."""
    return await _name_page(request, services, name, switch_to=switch_to, below=below)


@router.post("/names/{name}")
async def switch_name(
    request: Request,
    services: ServicesDep,
    name: str,
    version: Annotated[int, Form(ge=1, le=_MAX_VERSION)],
    instead_of: Annotated[int, Form(ge=1, le=_MAX_VERSION)],
) -> Response:
    """Let a version answer, if what answers is still what the user has seen."""
    content: JsonValue = {"default_version": version, "instead_of": instead_of}
    answer = await call_api(request, "PATCH", f"/v1/names/{name}", content=content)
    if answer.is_error:
        refused = problem_in(answer)
        again = version if refused.code == "default_changed" else None
        return await _name_page(request, services, name, switch_to=again, refused=refused)
    return see_other(f"/names/{name}")


async def _name_page(
    request: Request,
    services: Services,
    name: str,
    *,
    switch_to: int | None = None,
    below: int | None = None,
    refused: Problem | None = None,
) -> Response:
    def line(unit: UnitOfWork, published: tables.PublishedVersion) -> VersionLine:
        model = unit.models.get(published.model_id)
        job = unit.jobs.behind(model)
        report = None if job is None else stored_report(services.registry.artifacts, job.report_sha256)
        return VersionLine(published, model, job, report)

    def find(unit: UnitOfWork) -> tuple[NameRecord, list[VersionLine], VersionLine, VersionLine | None]:
        record = unit.names.get(name)
        newest = unit.names.newest_versions(name, limit=_VERSIONS + 1, below=below)
        default = line(unit, unit.names.version(name))
        chosen = None if switch_to is None else line(unit, unit.names.version(name, switch_to))
        return record, [line(unit, one) for one in newest], default, chosen

    record, lines, default, chosen = await services.read(find)
    return page(
        request,
        "names/show.html.jinja",
        refused=refused,
        record=record,
        versions=lines[:_VERSIONS],
        older=lines[_VERSIONS - 1].version if len(lines) > _VERSIONS else None,
        below=below,
        default=default,
        chosen=chosen,
    )


@router.get("/datasets")
async def list_datasets(request: Request, services: ServicesDep, after: After = None) -> Response:
    after = cursor(after or None, "ds")

    records = await services.read(
        lambda unit: [dataset_record(unit, row) for row in unit.datasets.newest(limit=ROWS + 1, after=after)]
    )
    shown = list_page(request, records, lambda dataset: dataset.id)
    return page(request, "datasets/list.html.jinja", shown=shown)


@router.get("/datasets/{dataset_id}")
async def dataset_page(request: Request, services: ServicesDep, dataset_id: str) -> Response:
    """One dataset; what its inspection finds is loaded as soon as it is found."""
    return await _dataset_page(request, services, dataset_id)


@router.get("/datasets/{dataset_id}/findings")
async def dataset_findings(request: Request, services: ServicesDep, dataset_id: str, told: bool = False) -> Response:
    """Findings of inspection, as soon as it is through; after a while what keeps it from that, or nothing new."""
    await services.long_poll.for_final(dataset_id, WAIT_S)
    dataset = await services.read(lambda unit: dataset_record(unit, unit.datasets.get(dataset_id)))
    if not is_news(dataset, told=told):
        return Response(status_code=204)
    return page(request, "datasets/findings.html.jinja", dataset=dataset, codes=RECORD_CODES)


@router.post("/datasets/{dataset_id}/delete")
async def delete_dataset(request: Request, services: ServicesDep, dataset_id: str) -> Response:
    """Delete it; where an open job needs it, say so on its page."""
    again = partial(_dataset_page, request, services, dataset_id)
    return await acted(request, "DELETE", f"/v1/datasets/{dataset_id}", "/datasets", again)


async def _dataset_page(
    request: Request, services: Services, dataset_id: str, refused: Problem | None = None
) -> Response:
    def read(unit: UnitOfWork) -> tuple[DatasetRecord, list[ListedJob]]:
        dataset = dataset_record(unit, unit.datasets.get(dataset_id))
        return dataset, [listed(unit, row) for row in unit.jobs.of_dataset(dataset_id, limit=_RELATED)]

    dataset, jobs = await services.read(read)
    return page(request, "datasets/page.html.jinja", dataset=dataset, jobs=jobs, refused=refused, codes=RECORD_CODES)
