"""`/v1/datasets`: rows to fit to, or only to be predicted; a worker opens them in its sandbox."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from fedlas.contract.base import JsonObject
from fedlas.contract.options import DatasetPart
from fedlas.contract.records import DatasetRecord
from service.api.plumbing.idempotency import IdempotencyKey, Key
from service.api.plumbing.receiving import ReceivedFile
from service.api.plumbing.records import RecordRoutes, create_from_file, uploading
from service.api.plumbing.responses import created
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep
from service.registry import tables
from service.registry.presenters import dataset_record
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id

router = APIRouter(route_class=Route, prefix="/v1/datasets", tags=["datasets"])


def add_dataset(unit: UnitOfWork, file: ReceivedFile, options: DatasetPart, stored: JsonObject) -> tables.Dataset:
    """Keep the file and insert the record; inspection is open work."""
    columns = file.columns(unit, options.name, "dataset")
    row = unit.datasets.add(tables.Dataset(id=new_id("ds"), status="inspecting", options=stored, **columns))
    unit.work.open(row.id)
    return row


@router.post(
    "",
    status_code=201,
    response_model=DatasetRecord,
    openapi_extra=uploading(
        DatasetPart, "invalid_roles", "invalid_split_shares", "invalid_padding", at={422: ["unknown_upload"]}
    ),
)
async def create_dataset(request: Request, services: ServicesDep, key: IdempotencyKey = None) -> Response:
    """Upload a dataset; it is inspected in the background and becomes `ready` or `rejected`."""
    scoped = Key.of("datasets", key)
    answer, _ = await create_from_file(request, services, scoped, DatasetPart, add_dataset, dataset_record)
    return created(answer, "/v1/datasets")


ROUTES = RecordRoutes(router, "dataset", "datasets", "ds", DatasetRecord, lambda unit: unit.datasets, dataset_record)
ROUTES.add_list("Only records of this name, as a whole.")
ROUTES.add_get("is ready or rejected")
ROUTES.add_delete(
    lambda unit, record_id: unit.datasets.delete(record_id),
    "Delete a dataset and its files; 409 while an open job or batch needs it.",
    refused="in_use",
)
