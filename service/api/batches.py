"""`/v1/predictions`: predictions by a worker over a stored dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pyarrow.parquet import ParquetFile
from pydantic_core import to_json

from service.api.document.declarations import BINARY, KEYED, OPTIONS_REFUSED, STORED, operation
from service.api.idempotency import IdempotencyKey, Key, create_in_group
from service.api.predict_schemas import Prediction, RowFailure, find_model, priors_of
from service.api.problems import named_by_body
from service.api.records import RecordRoutes
from service.api.responses import MOST_BYTES, Limit, created, etag_matches, json_page, stored_file
from service.api.routing import Route
from service.api.services import Services, ServicesDep
from service.inference.decision_policy import DecisionPolicy
from service.inference.profile import ServingProfile
from service.inference.writers.rows import Writer, csv, ndjson
from service.inference.writers.table import read_page
from service.registry import tables
from service.registry.contract import FINAL, AnswerOptions, BatchRecord, BatchRequest, Page
from service.registry.documents import JsonObject
from service.registry.errors import Conflict
from service.registry.presenters import batch_record
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/predictions", tags=["predictions"])

Format = Literal["parquet", "ndjson", "csv"]
_MEDIA_TYPES: dict[Format, str] = {
    "parquet": "application/vnd.apache.parquet",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
}
_WRITERS: dict[Format, Writer] = {"ndjson": ndjson, "csv": csv}
_RESULTS: JsonObject = {name: {"schema": BINARY} for name in _MEDIA_TYPES.values()}


@router.post(
    "",
    status_code=202,
    response_model=BatchRecord,
    openapi_extra=operation(
        *(*KEYED, *OPTIONS_REFUSED),
        at={422: ["unknown_model", "unknown_dataset"]},
        headers={202: ["Location", "Retry-After"]},
    ),
)
async def create_batch(services: ServicesDep, body: BatchRequest, key: IdempotencyKey = None) -> Response:
    """Order predictions for every row of a stored dataset."""

    def make(unit: UnitOfWork) -> BatchRecord:
        with named_by_body("model"):
            model = find_model(unit, body.model)
        with named_by_body("dataset_id"):
            dataset = unit.datasets.get(body.dataset_id)
        priors = body.class_priors or priors_of(unit, body.model)
        options = body.model_copy(update={"class_priors": priors})
        if model.profile is not None:  # else the worker checks, once the model has been inspected
            DecisionPolicy.of(ServingProfile.of(model.profile), options)
        row = tables.Batch(
            id=new_id("bat"),
            status="queued",
            created_at=now(),
            model_id=model.id,
            dataset_id=body.dataset_id,
            options=options.model_dump(include={*AnswerOptions.model_fields, "errors"}),
            progress={},
        )
        unit.batches.add(row)
        return batch_record(row, unit.work.open(row.id, blocked="inspecting" in (model.status, dataset.status)))

    answer = await create_in_group(services, Key.of("predictions", key), [body.model_dump_json()], make)
    return created(answer, "/v1/predictions", 202)


ROUTES = RecordRoutes(
    *(router, "batch", "batches", "bat", BatchRecord),
    rows=lambda unit: unit.batches,
    show=lambda unit, row: batch_record(row, unit.work.of(row.id)),
)
ROUTES.add_list("The name of its model, or one that its model is published as.")
ROUTES.add_get("has ended")
ROUTES.add_delete(
    lambda unit, record_id: unit.batches.delete(record_id), "Delete a batch with its results; 409 before it has ended."
)

RowCursor = Annotated[int | None, Query(ge=-1, description="Continue after this row.")]
#: Rows that are looked at to learn how large they are: with `top_k` of a thousand classes one has 60 KB.
_FIRST_ROWS = 16


@router.get(
    "/{batch_id}/results",
    name="get_batch_results",
    response_model=Page[Prediction | RowFailure],
    openapi_extra=operation(
        "unknown_prediction",
        "no_results",
        *STORED,
        tagged=True,
        ranges=[_MEDIA_TYPES["parquet"], "application/octet-stream"],  # generators of clients know the second alone
        content=_RESULTS,
    ),
)
def get_results(
    request: Request,
    services: ServicesDep,
    batch_id: str,
    limit: Limit = 100,
    after: RowCursor = None,
    format: Annotated[Format | None, Query(description="All rows as a file; over `Accept`.")] = None,
) -> Response:
    """One page of a batch's predictions, in the dataset's order; 409 before it has ended.

    With `format`, or its media type in `Accept`, all of them, whatever `limit` and `after` say. A Parquet file has the
    same columns, those alone that were asked for; its `ETag` is its digest, and ranges work.
    """
    with services.registry.read() as unit:
        row = unit.batches.get(batch_id)
    if row.results_sha256 is None:
        message = f"{batch_id} is {row.status}; results exist once it has succeeded"
        raise Conflict("no_results", message, passing=row.status not in FINAL)
    accepted = request.headers.get("accept", "")
    format = format or next((name for name, media_type in _MEDIA_TYPES.items() if media_type in accepted), None)
    if format is not None:
        answer = _whole(request, services, row.results_sha256, batch_id, format)
        answer.headers["Vary"] = "Accept"
        return answer
    path = services.registry.artifacts.path(row.results_sha256)
    rows = _rows(path, 0 if after is None else after + 1, limit + 1)
    return json_page(rows, limit, headers={"Vary": "Accept"})


def _whole(request: Request, services: Services, digest: str, batch_id: str, format: Format) -> Response:
    """All rows as a file."""
    name, media_type = f"{batch_id}.{format}", _MEDIA_TYPES[format]
    if format == "parquet":
        return stored_file(request, services, digest, name, media_type=media_type)
    etag = f'"{digest}-{format}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    file = ParquetFile(services.registry.artifacts.path(digest))
    headers = {"ETag": etag, "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_WRITERS[format](file), media_type=media_type, headers=headers)


def _rows(path: Path, start: int, limit: int) -> Iterator[bytes]:
    """Rows as JSON, read in pieces of about a page: a group of the file is read for each piece, in 12 ms."""
    rows, more, some = 0, True, _FIRST_ROWS
    while more and limit > rows:
        found, more = read_page(path, start=start + rows, limit=min(some, limit - rows))
        written = [to_json(row, inf_nan_mode="null") for row in found]
        yield from written
        rows += len(found)
        some = max(1, MOST_BYTES * len(found) // max(1, sum(map(len, written))))
