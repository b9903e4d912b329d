"""`/models`: classifiers, what each of them is, where it came from and where it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from service.api.named_models import find_model
from service.api.problems import Problem
from service.api.responses import After, cursor
from service.api.services import ServicesDep
from service.inference.profile import ServingProfile
from service.registry import tables
from service.registry.contract import ModelRecord
from service.registry.list_filter import ListFilter
from service.registry.presenters import model_record
from service.registry.unit_of_work import UnitOfWork
from service.web.api_calls import call_api
from service.web.lineage import Lineage, lineage_of
from service.web.lists import ROWS, list_page
from service.web.origin import origin_of
from service.web.page_route import PageRoute
from service.web.rendering import page, see_other
from service.web.snippets import Caller, Snippet, snippets

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Name = Annotated[str, Query(max_length=200)]
#: Class names of a model that its page shows without being asked.
_SHOWN_CLASSES = 50


@dataclass(frozen=True)
class ModelLine:
    """A model in a list."""

    id: str
    name: str
    origin: str
    status: str
    num_classes: int | None
    bytes: int
    created_at: datetime
    published: Sequence[tables.PublishedVersion]


@router.get("/models")
async def list_models(
    request: Request,
    services: ServicesDep,
    name: Name = "",
    origin: Literal["", "uploaded", "calibrated"] = "",
    after: After = None,
) -> Response:
    """All models, newest first."""
    only = ListFilter(name=name or None, origin=origin or None)
    before = cursor(after or None, "mdl")

    def lines(unit: UnitOfWork) -> list[ModelLine]:
        return [_line(unit, row) for row in unit.models.listed(only, limit=ROWS + 1, after=before)]

    found = list_page(request, await services.read(lines), lambda line: line.id)
    return page(request, "models/list.html.jinja", models=found, name=name, origin=origin)


@router.get("/models/{ref}")
async def show_model(request: Request, services: ServicesDep, ref: str) -> Response:
    """One model, by its id or a name under which it answers."""
    return await _model_page(request, services, ref)


@router.post("/models/{ref}/delete")
async def delete_model(request: Request, services: ServicesDep, ref: str) -> Response:
    """Delete it, or say why that cannot be."""
    answer = await call_api(request, "DELETE", f"/v1/models/{ref}")
    if answer.failed:
        return await _model_page(request, services, ref, refused=answer.problem)
    return see_other("/models")


async def _model_page(request: Request, services: ServicesDep, ref: str, *, refused: Problem | None = None) -> Response:
    caller = Caller(ref, origin_of(request, services.settings.allowed_hosts), bool(services.settings.api_keys))

    def find(unit: UnitOfWork) -> tuple[ModelRecord, Lineage, Sequence[Snippet]]:
        row = find_model(unit, ref)
        record = model_record(unit, row)
        profile = row.profile if record.status == "ready" else None
        programs = () if profile is None else snippets(record, ServingProfile.of(profile), caller)
        return record, lineage_of(unit, row), programs

    model, lineage, programs = await services.read(find)
    return page(
        request,
        "models/show.html.jinja",
        refused=refused,
        model=model,
        lineage=lineage,
        caller=caller,
        snippets=programs,
        shown_classes=(model.class_names or [])[:_SHOWN_CLASSES],
    )


def _line(unit: UnitOfWork, row: tables.Model) -> ModelLine:
    found = (row.profile or {}).get("num_classes")
    num_classes = found if isinstance(found, int) else None
    published = unit.names.of_models([row.id])
    return ModelLine(row.id, row.name, row.origin, row.status, num_classes, row.bytes, row.created_at, published)
