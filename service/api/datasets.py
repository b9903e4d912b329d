"""`/v1/datasets`: labelled datasets are received here and opened elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from service.api.creation import IdempotencyKey, add_dataset, create_once, parse_json, receive_upload
from service.api.dependencies import After, Limit, PartsDep, Wait, created, tagged
from service.registry.contract import DatasetRecord, Page, SeenByModel, Strict
from service.registry.errors import InvalidRequest, NotYetAvailable
from service.registry.records import dataset_record

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

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
        None, description="Without it, the format is told from the content."
    )
    roles: str | None = Field(None, description='JSON, for example {"label": "diagnosis", "group": "patient"}.')
    seen_by_model: SeenByModel | None = Field(None, description="Which rows the uploaded model was trained on.")
    split_seed: int = Field(0, ge=0, lt=2**32)
    missing: Literal["reject", "nan"] = "reject"
    upload_id: str | None = None
    padding: str | None = None

    def stored(self) -> dict[str, Any]:
        """The options as they are kept with the record; raises for what this version cannot do."""
        for field in ("upload_id", "padding"):
            if getattr(self, field) is not None:
                raise NotYetAvailable("not_yet_available", f"{field} is not available in this version", field=field)
        roles = parse_roles(self.roles) if self.roles else None
        return {**self.model_dump(exclude={"name", "roles", "upload_id", "padding"}), "roles": roles}


def parse_roles(text: str) -> dict[str, Any]:
    """Parse and check the roles; raises InvalidRequest."""
    roles = parse_json(text, "roles")
    if not isinstance(roles, dict):
        raise InvalidRequest("invalid_roles", "roles must be a JSON object of role → column name", field="roles")
    for role, column in roles.items():
        if role not in ROLE_NAMES:
            known = ", ".join(ROLE_NAMES)
            raise InvalidRequest("invalid_roles", f"unknown role {role!r}; the roles are {known}", field="roles")
        names = column if role == "slices" and isinstance(column, list) else [column]
        if not all(isinstance(name, str) for name in names):
            raise InvalidRequest("invalid_roles", f"role {role!r} must name a column, not {column!r}", field="roles")
    return roles


@router.post("", status_code=201, response_model=DatasetRecord, openapi_extra=UPLOAD_BODY)
async def create_dataset(
    request: Request,
    parts: PartsDep,
    options: Annotated[DatasetOptions, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Store a dataset; it is inspected in the background and becomes `ready` or `rejected`."""
    with ExitStack() as stack:
        staged, texts, filename = await receive_upload(request, parts, stack)
        merged = DatasetOptions.model_validate({**options.model_dump(exclude_unset=True), **texts})
        stored = merged.stored()

        def create() -> Response:
            result = create_once(
                parts,
                key and f"datasets:{key}",
                [staged.digest, merged.model_dump_json()],
                lambda unit: _inserted(add_dataset(unit, staged, merged.name or filename, stored)),
            )
            record = DatasetRecord.model_validate_json(result.answer)
            return created(record, f"/v1/datasets/{record.id}")

        return await run_in_threadpool(create)


def _inserted(row: Any) -> tuple[DatasetRecord, list[str]]:
    return dataset_record(row), [row.id]


@router.get("")
def list_datasets(parts: PartsDep, limit: Limit = 20, after: After = None) -> Page[DatasetRecord]:
    """List datasets, newest first."""
    with parts.registry.read() as unit:
        rows, has_more = unit.datasets.page(limit=limit, after=after)
        return Page(data=[dataset_record(row) for row in rows], has_more=has_more)


@router.get("/{dataset_id}", response_model=DatasetRecord)
async def get_dataset(request: Request, parts: PartsDep, dataset_id: str, wait: Wait = None) -> Response:
    """Return one dataset; `wait` returns as soon as it is ready or rejected."""

    def read() -> DatasetRecord:
        with parts.registry.read() as unit:
            return dataset_record(unit.datasets.get(dataset_id))

    record = await run_in_threadpool(read)
    if wait and record.status == "inspecting":
        await parts.waiting.for_final(dataset_id, wait)
        record = await run_in_threadpool(read)
    return tagged(request, record)


@router.delete("/{dataset_id}", status_code=204)
def delete_dataset(parts: PartsDep, dataset_id: str) -> None:
    """Delete a dataset and its files; 409 while an open job or batch needs it."""
    with parts.registry.write() as unit:
        unnamed = unit.datasets.delete(dataset_id)
    parts.registry.discard(unnamed)
