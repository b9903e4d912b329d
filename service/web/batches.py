"""`/batches`: predictions over stored datasets, newest first, and each with its first answers and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.records import BatchRecord
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep, in_thread
from service.api.resources.batches import BatchResults
from service.registry import tables
from service.registry.errors import RegistryError
from service.registry.presenters import batch_record
from service.registry.registry import UnitOfWork
from service.web.rendering import page
from service.web.routes import ROWS, WAIT_S, PageRoute, acted, is_news, list_page

router = APIRouter(include_in_schema=False, route_class=PageRoute)

#: Answers that a page shows of a batch.
_ANSWERS = 5


@dataclass(frozen=True)
class ListedBatch:
    """A line of the list; a model or dataset that was deleted has no name."""

    batch: BatchRecord
    model: str | None
    dataset: str | None

    @classmethod
    def of(cls, unit: UnitOfWork, row: tables.Batch) -> ListedBatch:
        model, dataset = unit.models.find(row.model_id), unit.datasets.find(row.dataset_id)
        record = batch_record(unit, row, unit.work.of(row.id))
        return cls(record, model.name if model else None, dataset.name if dataset else None)


@router.get("/batches")
async def list_batches(request: Request, services: ServicesDep, after: After = None) -> Response:
    after = cursor(after or None, "bat")
    lines = await services.read(
        lambda unit: [ListedBatch.of(unit, row) for row in unit.batches.newest(limit=ROWS + 1, after=after)]
    )
    return page(request, "batches/list.html.jinja", shown=list_page(request, lines, lambda line: line.batch.id))


@router.get("/batches/{batch_id}")
async def show_batch(request: Request, services: ServicesDep, batch_id: str, told: bool = False) -> Response:
    """One batch; to a script the changing part alone, as soon as there is news of it."""
    if "hx-request" in request.headers:
        await services.long_poll.for_final(batch_id, WAIT_S)
    return await _page(request, services, batch_id, told=told)


@router.post("/batches/{batch_id}/delete")
async def delete_batch(request: Request, services: ServicesDep, batch_id: str) -> Response:
    again = partial(_page, request, services, batch_id)
    return await acted(request, "DELETE", f"/v1/batches/{batch_id}", "/batches", again)


async def _page(
    request: Request, services: Services, batch_id: str, refused: Problem | None = None, *, told: bool = False
) -> Response:
    line = await services.read(lambda unit: ListedBatch.of(unit, unit.batches.get(batch_id)))
    is_part = "hx-request" in request.headers
    if is_part and not is_news(line.batch, told=told):
        return Response(status_code=204)
    answers, damage = await in_thread(_answers, services, line.batch)
    return page(
        request,
        f"batches/{'state' if is_part else 'page'}.html.jinja",
        refused=refused,
        line=line,
        batch=line.batch,
        answers=answers,
        damage=damage,
        codes=RECORD_CODES,
    )


def _answers(services: Services, batch: BatchRecord) -> tuple[Sequence[JsonValue], str]:
    """The first answers of a batch that has some, and why its stored files cannot be read, if so."""
    if batch.results_url is None:
        return [], ""
    try:
        rows = BatchResults.of(services.registry, batch.id).rows(0, _ANSWERS)
        return [json.loads(content) for _, content in rows], ""
    except RegistryError as error:
        return [], error.message
