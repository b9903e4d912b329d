"""`/v1/predictions`: predictions by a worker over a stored dataset."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse

from service.api.batch_results import BatchResults
from service.api.document.declarations import BINARY, KEYED, OPTIONS_REFUSED, STORED, operation
from service.api.idempotency import IdempotencyKey, Key, create_once
from service.api.named_models import find_model, priors_of
from service.api.predict_schemas import Prediction, RowFailure
from service.api.problems import named_by_body
from service.api.records import RecordRoutes
from service.api.responses import Limit, created, etag_matches, json_page, stored_file, tagged
from service.api.routing import Route
from service.api.services import Services, ServicesDep
from service.inference.decision_policy import DecisionPolicy
from service.inference.profile import ServingProfile
from service.inference.writers.rows import Writer, csv, ndjson, parquet
from service.registry import tables
from service.registry.contract import AnswerOptions, BatchRecord, BatchRequest, Page
from service.registry.documents import BatchManifest, JsonObject
from service.registry.presenters import batch_record
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/predictions", tags=["predictions"])

Format = Literal["parquet", "ndjson", "csv"]
PARQUET = "application/vnd.apache.parquet"
_MEDIA_TYPES: dict[Format, str] = {
    "parquet": PARQUET,
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
}
_WRITERS: dict[Format, Writer] = {"parquet": parquet, "ndjson": ndjson, "csv": csv}
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
        return batch_record(unit, row, unit.work.open(row.id, blocked="inspecting" in (model.status, dataset.status)))

    answer = await create_once(services, Key.of("predictions", key), [body.model_dump_json()], make)
    return created(answer, "/v1/predictions", 202)


ROUTES = RecordRoutes(
    *(router, "batch", "batches", "bat", BatchRecord),
    rows=lambda unit: unit.batches,
    show=lambda unit, row: batch_record(unit, row, unit.work.of(row.id)),
)
ROUTES.add_list("The name of its model, or one that its model is published as.")
ROUTES.add_get("has ended")
ROUTES.add_delete(
    lambda unit, record_id: unit.batches.delete(record_id), "Delete a batch with its results; 409 before it has ended."
)

RowCursor = Annotated[int | None, Query(ge=-1, description="Continue after this row.")]
PartNumber = Annotated[int, PathParameter(ge=0, le=1_000_000, description="In the manifest.")]


@router.get(
    "/{batch_id}/results",
    name="get_batch_results",
    response_model=Page[Prediction | RowFailure],
    openapi_extra=operation(
        "unknown_prediction",
        "no_results",
        *STORED,
        tagged=True,
        ranges=[PARQUET, "application/octet-stream"],  # generators of clients know the second alone
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
    same columns, those alone that were asked for. Results of many rows are stored in parts, which `/results/manifest`
    lists: ranges work on a part, and on the whole where it is the only one.
    """
    results = BatchResults.of(services.registry, batch_id)
    accepted = request.headers.get("accept", "")
    format = format or next((name for name, media_type in _MEDIA_TYPES.items() if media_type in accepted), None)
    if format is not None:
        answer = _whole(request, services, results, format)
        answer.headers["Vary"] = "Accept"
        return answer
    rows = results.rows(0 if after is None else after + 1, limit + 1)
    return json_page(rows, limit, headers={"Vary": "Accept"})


@router.get(
    "/{batch_id}/results/manifest",
    name="get_batch_manifest",
    response_model=BatchManifest,
    openapi_extra=operation("unknown_prediction", "no_results", *STORED, tagged=True),
)
def get_manifest(request: Request, services: ServicesDep, batch_id: str) -> Response:
    """Which files the results are, for those who read them in parallel; 409 before the batch has ended."""
    return tagged(request, BatchResults.of(services.registry, batch_id).manifest)


@router.get(
    "/{batch_id}/results/parts/{number}",
    name="download_batch_part",
    openapi_extra=operation(
        *("unknown_prediction", "no_results", "unknown_results_part"),
        *STORED,
        tagged=True,
        ranges=[PARQUET, "application/octet-stream"],
        content={PARQUET: {"schema": BINARY}},
    ),
)
def get_part(request: Request, services: ServicesDep, batch_id: str, number: PartNumber) -> Response:
    """One part of the results, as Parquet; its `ETag` is its digest in the manifest, and ranges work."""
    part = BatchResults.of(services.registry, batch_id).part(number)
    name = f"{batch_id}-{number:05}.parquet"
    return stored_file(request, services, part.sha256, name, media_type=PARQUET)


def _whole(request: Request, services: Services, results: BatchResults, format: Format) -> Response:
    """All rows as a file; every part is looked at before the first byte."""
    name, media_type = f"{results.manifest.batch_id}.{format}", _MEDIA_TYPES[format]
    if format == "parquet" and len(results.manifest.parts) == 1:
        return stored_file(request, services, results.part(0).sha256, name, media_type=media_type)
    etag = f'"{results.digest}-{format}"'
    if etag_matches(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    headers = {"ETag": etag, "Content-Disposition": f'attachment; filename="{name}"'}
    results.check()
    return StreamingResponse(_WRITERS[format](results.files()), media_type=media_type, headers=headers)
