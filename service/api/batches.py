"""`/v1/predictions`: predictions by a worker over a stored dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from service.api.creation import still_inspecting
from service.api.dependencies import ServicesDep, Wait, created, long_poll, still_open, stored_file, tagged
from service.api.idempotency import IdempotencyKey, Key, create_in_group
from service.api.pages import MOST_BYTES, After, Limit, cursor, json_page, page_of
from service.api.predictions import Prediction, find_model
from service.api.problems import Responses
from service.api.routing import Route
from service.inference.decision_policy import DecisionPolicy
from service.inference.profile import ServingProfile
from service.inference.writers.table import read_page
from service.registry import tables
from service.registry.contract import FINAL, AnswerOptions, BatchRecord, BatchRequest, Page
from service.registry.errors import Conflict, NotFound, UnknownReference
from service.registry.presenters import batch_record
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, tags=["predictions"])

_PARQUET = "application/vnd.apache.parquet"
_RESULTS: Responses = {
    200: {"content": {_PARQUET: {"schema": {"type": "string", "format": "binary"}}}},
}


@router.post("/v1/predictions", status_code=202, response_model=BatchRecord)
async def create_batch(services: ServicesDep, body: BatchRequest, key: IdempotencyKey = None) -> Response:
    """Order predictions for every row of a stored dataset."""

    def make(unit: UnitOfWork) -> BatchRecord:
        try:
            model = find_model(unit, body.model)
        except NotFound as error:
            raise UnknownReference(error.code, error.message, field="model") from error
        dataset = unit.datasets.find(body.dataset_id)
        if dataset is None:
            message = f"there is no dataset {body.dataset_id!r}"
            raise UnknownReference("unknown_dataset", message, field="dataset_id")
        options = body.model_dump(include=set(AnswerOptions.model_fields))
        if model.profile is not None:  # else the worker checks, once the model has been inspected
            DecisionPolicy.of(ServingProfile.of(model.profile), body)
        row = tables.Batch(
            id=new_id("bat"),
            status="queued",
            created_at=now(),
            model_id=model.id,
            dataset_id=body.dataset_id,
            options=options,
            progress={},
        )
        unit.batches.add(row)
        return batch_record(row, unit.work.open(row.id, blocked=still_inspecting(model, dataset)))

    answer = await create_in_group(services, Key.of("predictions", key), [body.model_dump_json()], make)
    return created(answer, "/v1/predictions", 202)


@router.get("/v1/predictions", response_model=Page[BatchRecord])
def list_batches(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List batches, newest first."""
    after = cursor(after, "bat")
    with services.registry.read() as unit:
        rows = unit.batches.newest(limit=limit + 1, after=after)
        return page_of((batch_record(row, unit.work.of(row.id)) for row in rows), limit)


@router.get("/v1/predictions/{batch_id}", response_model=BatchRecord)
async def get_batch(request: Request, services: ServicesDep, batch_id: str, wait: Wait = None) -> Response:
    """Return one batch; `wait` returns as soon as it has ended."""

    def read() -> BatchRecord:
        with services.registry.read() as unit:
            row = unit.batches.get(batch_id)
            return batch_record(row, unit.work.of(row.id))

    record = await long_poll(services, read, wait)
    return tagged(request, record, headers=still_open(record))


RowCursor = Annotated[int | None, Query(ge=-1, description="Continue after this row.")]
#: Rows that are looked at to learn how large they are: with `top_k` of a thousand classes one has 60 KB.
_FIRST_ROWS = 16


@router.get("/v1/predictions/{batch_id}/results", response_model=Page[Prediction], responses=_RESULTS)
def get_results(
    request: Request, services: ServicesDep, batch_id: str, limit: Limit = 100, after: RowCursor = None
) -> Response:
    """One page of a batch's predictions, in the dataset's order; 409 before it has ended.

    With `Accept: application/vnd.apache.parquet` the whole file, whatever `limit` and `after` say: the same columns,
    those alone that were asked for. Its `ETag` is its digest, and ranges work.
    """
    with services.registry.read() as unit:
        row = unit.batches.get(batch_id)
    if row.results_sha256 is None:
        message = f"{batch_id} is {row.status}; results exist once it has succeeded"
        raise Conflict("no_results", message, passing=row.status not in FINAL)
    if _PARQUET in request.headers.get("accept", ""):
        answer = stored_file(request, services, row.results_sha256, f"{batch_id}.parquet", media_type=_PARQUET)
        answer.headers["Vary"] = "Accept"
        return answer
    path = services.registry.artifacts.path(row.results_sha256)
    rows = _rows(path, 0 if after is None else after + 1, limit + 1)
    return json_page(rows, limit, headers={"Vary": "Accept"})


def _rows(path: Path, start: int, limit: int) -> Iterator[bytes]:
    """Rows as JSON, read in pieces of about a page: a group of the file is read for each piece, in 12 ms."""
    rows, more, some = 0, True, _FIRST_ROWS
    while more and limit > rows:
        found, more = read_page(path, start=start + rows, limit=min(some, limit - rows))
        written = [to_json(row) for row in found]
        yield from written
        rows += len(found)
        some = max(1, MOST_BYTES * len(found) // max(1, sum(map(len, written))))


@router.delete("/v1/predictions/{batch_id}", status_code=204)
def delete_batch(services: ServicesDep, batch_id: str) -> None:
    """Delete a batch with its results; 409 before it has ended."""
    with services.registry.write() as unit:
        unnamed = unit.batches.delete(batch_id)
    services.registry.discard(unnamed)
