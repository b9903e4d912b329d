"""`/v1/datasets`: labelled datasets; a worker opens them in its sandbox."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field

from service.api.creation import add_dataset
from service.api.dependencies import ServicesDep, UploadId, Wait, created, long_poll, still_open, tagged
from service.api.idempotency import IdempotencyKey, Key, create_once, reserved
from service.api.json_values import parse_json
from service.api.pages import After, Limit, cursor, page_of
from service.api.receiving import receive_file
from service.api.routing import Route
from service.registry.contract import DatasetRecord, Page, Strict
from service.registry.documents import JsonObject, SeenByModel
from service.registry.errors import InvalidRequest
from service.registry.presenters import dataset_record
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/datasets", tags=["datasets"])

#: Integers of JSON may be larger than any float.
_LARGEST = sys.float_info.max
ROLE_NAMES = ("label", "split", "group", "slices", "weight", "time", "id")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
#: OpenAPI: the raw file, or multipart with a part `file`.
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


class DatasetOptions(Strict):
    """How to read the file; everything has a default."""

    model_config = ConfigDict(strict=False)  # a query parameter is always text

    name: str | None = Field(None, max_length=200)
    format: Literal["npz", "csv", "parquet", "imagefolder"] | None = Field(
        None, description="Without it, the format is detected from the content."
    )
    roles: str | None = Field(
        None, max_length=100_000, description='JSON, for example {"label": "diagnosis", "group": "patient"}.'
    )
    seen_by_model: SeenByModel | None = Field(None, description="Which rows the uploaded model was trained on.")
    split_seed: int = Field(0, ge=0, lt=2**32)
    missing: Literal["reject", "nan"] = "reject"
    padding: str | None = Field(None, max_length=100_000, description='JSON, fills ragged lists: {"input_ids": 0}.')
    upload_id: UploadId = None

    def stored(self) -> JsonObject:
        """The options as they are kept with the record; raises InvalidRequest."""
        roles = parse_roles(self.roles) if self.roles else None
        padding = parse_padding(self.padding) if self.padding else None
        kept = self.model_dump(include={"format", "seen_by_model", "split_seed", "missing"})
        return {**kept, "roles": roles, "padding": padding}


def parse_roles(text: str) -> JsonObject:
    """Parse and check the roles; raises InvalidRequest."""
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


def parse_padding(text: str) -> dict[str, float]:
    """Parse and check what fills ragged lists; raises InvalidRequest."""
    padding = parse_json(text, "padding")
    if not isinstance(padding, dict):
        raise InvalidRequest("invalid_padding", "padding must be a JSON object of input → number", field="padding")
    for name, value in padding.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not -_LARGEST <= value <= _LARGEST:
            message = f"padding of input {name[:100]!r} must be a finite number"
            raise InvalidRequest("invalid_padding", message, field="padding")
    return padding


@router.post("", status_code=201, response_model=DatasetRecord, openapi_extra=UPLOAD_BODY)
async def create_dataset(
    request: Request,
    services: ServicesDep,
    options: Annotated[DatasetOptions, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Store a dataset; it is inspected in the background and becomes `ready` or `rejected`."""
    async with reserved(services, Key.of("datasets", key)) as held:
        with ExitStack() as stack:
            file, texts, filename = await receive_file(request, services, stack, upload_id=options.upload_id)
            merged = DatasetOptions.model_validate({**options.model_dump(exclude_unset=True), **texts})
            stored = merged.stored()

            def make(unit: UnitOfWork) -> DatasetRecord:
                return dataset_record(add_dataset(unit, file, merged.name or filename, stored))

            content = [file.fingerprint, merged.model_dump_json()]
            answer = await services.write_in_thread(create_once, services, held, content, make)
    return created(answer, "/v1/datasets")


@router.get("", response_model=Page[DatasetRecord])
def list_datasets(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List datasets, newest first."""
    after = cursor(after, "ds")
    with services.registry.read() as unit:
        return page_of(map(dataset_record, unit.datasets.newest(limit=limit + 1, after=after)), limit)


@router.get("/{dataset_id}", response_model=DatasetRecord)
async def get_dataset(request: Request, services: ServicesDep, dataset_id: str, wait: Wait = None) -> Response:
    """Return one dataset; `wait` returns as soon as it is ready or rejected."""

    def read() -> DatasetRecord:
        with services.registry.read() as unit:
            return dataset_record(unit.datasets.get(dataset_id))

    record = await long_poll(services, read, wait)
    return tagged(request, record, headers=still_open(record))


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(services: ServicesDep, dataset_id: str) -> None:
    """Delete a dataset and its files; 409 while an open job or batch needs it."""
    with services.registry.write() as unit:
        unnamed = unit.datasets.delete(dataset_id)
    services.registry.discard(unnamed)
