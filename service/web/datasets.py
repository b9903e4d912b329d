"""`/datasets`: the labelled rows that are here, and what inspection found in each."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from fedlas.contract.problems import Problem
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.contract.records import DatasetRecord
from service.api.plumbing.responses import After, cursor
from service.api.plumbing.services import Services, ServicesDep
from service.registry.presenters import dataset_record
from service.registry.registry import UnitOfWork
from service.web.jobs import ListedJob, listed
from service.web.rendering import page, see_other
from service.web.routes import ROWS, WAIT_S, PageRoute, call_api, is_news, list_page, problem_in

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_JOBS = 20


@router.get("/datasets")
async def list_datasets(request: Request, services: ServicesDep, after: After = None) -> Response:
    after = cursor(after or None, "ds")

    def read(unit: UnitOfWork) -> list[DatasetRecord]:
        return [dataset_record(unit, row) for row in unit.datasets.newest(limit=ROWS + 1, after=after)]

    shown = list_page(request, await services.read(read), lambda dataset: dataset.id)
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
    answer = await call_api(request, "DELETE", f"/v1/datasets/{dataset_id}")
    if not answer.is_error:
        return see_other("/datasets")
    return await _dataset_page(request, services, dataset_id, refused=problem_in(answer))


async def _dataset_page(
    request: Request, services: Services, dataset_id: str, refused: Problem | None = None
) -> Response:
    def read(unit: UnitOfWork) -> tuple[DatasetRecord, list[ListedJob]]:
        dataset = dataset_record(unit, unit.datasets.get(dataset_id))
        return dataset, [listed(unit, row) for row in unit.jobs.of_dataset(dataset_id, limit=_JOBS)]

    dataset, jobs = await services.read(read)
    return page(request, "datasets/page.html.jinja", dataset=dataset, jobs=jobs, refused=refused, codes=RECORD_CODES)
