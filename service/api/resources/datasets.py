"""`/v1/datasets`: rows to fit to, or only to be predicted; a worker opens them in its sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, ValidationError

from fedlas.contract.base import JsonObject
from fedlas.contract.profiles import Purpose, SeenByModel, SplitShares
from fedlas.contract.records import DatasetRecord
from service.api.plumbing.idempotency import IdempotencyKey, Key
from service.api.plumbing.receiving import ReceivedFile
from service.api.plumbing.records import FileOptions, RecordRoutes, UploadId, create_from_file, uploading
from service.api.plumbing.request_bodies import parse_json, parse_padding
from service.api.plumbing.responses import created
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep
from service.registry import tables
from service.registry.errors import InvalidRequest
from service.registry.presenters import dataset_record
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id

router = APIRouter(route_class=Route, prefix="/v1/datasets", tags=["datasets"])

#: The parameter `split_shares`.
SHARES = Field(
    None,
    max_length=1000,
    description='JSON, shares of drawn splits, for example {"calibration": 0.4, "guarantee": 0.2, "test": 0.4}.',
)
ROLE_NAMES = ("label", "split", "group", "slices", "weight", "time", "id")


class DatasetOptions(FileOptions):
    """Options of reading the file; everything has a default."""

    format: Literal["npz", "csv", "parquet", "imagefolder"] | None = Field(
        None, description="Without it, the format is detected from the content."
    )
    roles: str | None = Field(
        None, max_length=100_000, description='JSON, for example {"label": "diagnosis", "group": "patient"}.'
    )
    seen_by_model: SeenByModel | None = Field(None, description="The rows that the uploaded model was trained on.")
    split_seed: int = Field(0, ge=0, lt=2**32)
    split_shares: str | None = SHARES
    missing: Literal["reject", "nan"] = "reject"
    padding: str | None = Field(None, max_length=100_000, description='JSON, fills ragged lists: {"input_ids": 0}.')
    purpose: Purpose | None = Field(
        None,
        description="`predict`: rows without labels and splits, for batch predictions only; `fit`: a label is needed; "
        "without it, what the file is fit for.",
    )
    upload_id: UploadId = None

    def stored(self) -> JsonObject:
        """The options as they are kept with the record; raises InvalidRequest."""
        return {
            **self.model_dump(include={"format", "seen_by_model", "split_seed", "missing", "purpose"}),
            "roles": parse_roles(self.roles) if self.roles else None,
            "padding": parse_padding(self.padding) if self.padding else None,
            "split_shares": parse_split_shares(self.split_shares) if self.split_shares else None,
        }


def parse_roles(text: str) -> JsonObject:
    roles = parse_json(text, "roles")
    if not isinstance(roles, dict):
        raise InvalidRequest("invalid_roles", "roles must be a JSON object of role → column name", field="roles")
    for role, column in roles.items():
        if role not in ROLE_NAMES:
            known = ", ".join(ROLE_NAMES)
            raise InvalidRequest("invalid_roles", f"unknown role {role[:100]!r}; the roles are {known}", field="roles")
        names = column if role == "slices" and isinstance(column, list) else [column]
        if not all(isinstance(name, str) for name in names):
            raise InvalidRequest(
                "invalid_roles", f"role {role!r} must name a column, not {type(column).__name__}", field="roles"
            )
    return roles


def parse_split_shares(text: str) -> JsonObject:
    try:
        return SplitShares.model_validate(parse_json(text, "split_shares"), strict=True).stored()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["split_shares", *map(str, first["loc"])])[:100]
        said = first["msg"].removeprefix("Value error, ")
        message = f"{place}: {said} (shares of {', '.join(SplitShares.model_fields)}, which sum to 1)"
        raise InvalidRequest("invalid_split_shares", message, field="split_shares") from error


def add_dataset(unit: UnitOfWork, file: ReceivedFile, options: DatasetOptions, stored: JsonObject) -> tables.Dataset:
    """Keep the file and insert the record; inspection is open work."""
    columns = file.columns(unit, options.name, "dataset")
    row = unit.datasets.add(tables.Dataset(id=new_id("ds"), status="inspecting", options=stored, **columns))
    unit.work.open(row.id)
    return row


@router.post(
    "",
    status_code=201,
    response_model=DatasetRecord,
    openapi_extra=uploading("invalid_roles", "invalid_split_shares", "invalid_padding", at={422: ["unknown_upload"]}),
)
async def create_dataset(
    request: Request, services: ServicesDep, options: Annotated[DatasetOptions, Query()], key: IdempotencyKey = None
) -> Response:
    """Upload a dataset; it is inspected in the background and becomes `ready` or `rejected`."""
    scoped = Key.of("datasets", key)
    answer, _ = await create_from_file(request, services, scoped, options, add_dataset, dataset_record)
    return created(answer, "/v1/datasets")


ROUTES = RecordRoutes(router, "dataset", "datasets", "ds", DatasetRecord, lambda unit: unit.datasets, dataset_record)
ROUTES.add_list("Only records of this name, as a whole.")
ROUTES.add_get("is ready or rejected")
ROUTES.add_delete(
    lambda unit, record_id: unit.datasets.delete(record_id),
    "Delete a dataset and its files; 409 while an open job or batch needs it.",
    refused="in_use",
)
