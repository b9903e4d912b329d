"""`/names`: published names, their versions side by side, and which of them answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import JsonValue

from service.api.names import AfterName
from service.api.problems import Problem
from service.api.services import Services, ServicesDep
from service.registry import tables
from service.registry.contract import NameRecord
from service.registry.unit_of_work import UnitOfWork
from service.web.api_calls import call_api
from service.web.lists import ROWS, list_page
from service.web.page_route import PageRoute
from service.web.rendering import page, see_other
from service.web.report_excerpts import Excerpt, excerpt_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Versions of one name on a page: a report is read for each.
_VERSIONS = 20
#: A version that every database can be asked for.
_LARGEST = 999_999_999


@dataclass(frozen=True)
class NameLine:
    """A name in the list, with the model that answers."""

    name: str
    num_versions: int
    default: tables.PublishedVersion
    model: tables.Model


@dataclass(frozen=True)
class VersionLine:
    """A version: its model, the job that made it, and what the job's report says of it."""

    published: tables.PublishedVersion
    model: tables.Model
    job: tables.Job | None
    excerpt: Excerpt | None

    @property
    def version(self) -> int:
        """Its number."""
        return self.published.version


@router.get("/names")
async def list_names(request: Request, services: ServicesDep, after: AfterName = None) -> Response:
    """All names, in alphabetical order."""

    def lines(unit: UnitOfWork) -> list[NameLine]:
        return [_name_line(unit, one) for one in unit.names.listed(limit=ROWS + 1, after=after or None)]

    return page(request, "names/list.html.jinja", names=list_page(request, await services.read(lines), _name_of))


@router.get("/names/{name}")
async def show_name(
    request: Request,
    services: ServicesDep,
    name: str,
    switch_to: Annotated[int | None, Query(ge=1, le=_LARGEST)] = None,
    below: Annotated[int | None, Query(ge=1, le=_LARGEST)] = None,
) -> Response:
    """One name with its versions; with `switch_to` it asks whether that version shall answer."""
    return await _name_page(request, services, name, switch_to=switch_to, below=below)


@router.post("/names/{name}")
async def switch_name(
    request: Request,
    services: ServicesDep,
    name: str,
    version: Annotated[int, Form(ge=1, le=_LARGEST)],
    instead_of: Annotated[int, Form(ge=1, le=_LARGEST)],
) -> Response:
    """Let a version answer, if what answers is still what the user has seen."""
    content: JsonValue = {"default_version": version, "instead_of": instead_of}
    answer = await call_api(request, "PUT", f"/v1/names/{name}", content=content)
    if answer.failed:
        again = version if answer.problem.code == "default_changed" else None
        return await _name_page(request, services, name, switch_to=again, refused=answer.problem)
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
    def find(unit: UnitOfWork) -> tuple[NameRecord, list[VersionLine], VersionLine, VersionLine | None]:
        record = unit.names.get(name)
        lines = [
            _version_line(services, unit, one)
            for one in unit.names.newest_versions(name, limit=_VERSIONS + 1, below=below)
        ]
        chosen = None if switch_to is None else _one(services, unit, name, switch_to)
        return record, lines, _one(services, unit, name, record.default_version), chosen

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


def _name_line(unit: UnitOfWork, record: NameRecord) -> NameLine:
    default = _published(unit, record.name, record.default_version)
    return NameLine(record.name, len(record.versions), default, unit.models.get(default.model_id))


def _name_of(line: NameLine) -> str:
    return line.name


def _published(unit: UnitOfWork, name: str, version: int) -> tables.PublishedVersion:
    unit.names.version(name, version)  # raises NotFound with the versions that there are
    return unit.names.newest_versions(name, limit=1, below=version + 1)[0]


def _one(services: Services, unit: UnitOfWork, name: str, version: int) -> VersionLine:
    return _version_line(services, unit, _published(unit, name, version))


def _version_line(services: Services, unit: UnitOfWork, published: tables.PublishedVersion) -> VersionLine:
    model = unit.models.get(published.model_id)
    job = unit.jobs.behind(model)
    excerpt = None if job is None else excerpt_of(services.registry.artifacts, job.report_sha256)
    return VersionLine(published, model, job, excerpt)
