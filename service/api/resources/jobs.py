"""`/v1/jobs`: calibrations, from their order to their report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pyarrow.parquet import ParquetFile
from pydantic_core import to_json

from fedlas.contract.base import JsonObject
from fedlas.contract.options import DatasetPart, ModelPart, check_classes
from fedlas.contract.predictions import JudgedRows
from fedlas.contract.problems import NEEDS_PROVENANCE, PROVENANCE_NEEDED, UNLABELLED, needs_labels
from fedlas.contract.profiles import ModelProfile
from fedlas.contract.records import FINAL, JobRecord
from fedlas.contract.requests import JobOptions, JobRequest
from fedlas.contract.webhooks import parse_url
from service.api.plumbing.declarations import BINARY, CREATED, KEYED, RECEIVED, STORED, operation
from service.api.plumbing.idempotency import Creation, IdempotencyKey, Key, create_once, reserved
from service.api.plumbing.options import read_options, stored_options
from service.api.plumbing.receiving import Form, is_multipart, join_weights, receive_parts, take_part
from service.api.plumbing.records import WEIGHTS, RecordRoutes
from service.api.plumbing.request_bodies import check_json, parse_json
from service.api.plumbing.responses import MAX_BYTES, Limit, created, json_page, stored_file
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.batches import PARQUET, RowCursor
from service.api.resources.datasets import add_dataset
from service.api.resources.models import add_model, stored_model_options
from service.api.resources.reports import add_evidence, missing_evidence
from service.http.problems import named_by_body
from service.predict.formats.result_tables import CLASS_NAMES, read_page
from service.registry import tables
from service.registry.errors import Conflict, InvalidRequest, Unavailable
from service.registry.presenters import job_record
from service.registry.queues import GPU_ONLY, PLAN, QUEUE_OF, memory_of_job
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id, now

router = APIRouter(route_class=Route, prefix="/v1/jobs", tags=["jobs"])

Options = TypeVar("Options", bound=JobOptions)

#: Inspection of rows takes some seconds, and longer than a client waits for an answer where they are gigabytes.
_MAX_INSPECTION_S = 20.0
#: Jobs that have waited for too long are looked for so often.
CANCELLING_S = 2.0

#: Parts of a call that brings its files along, beside `model`, its `data`, and `dataset`.
_JSON_PARTS = ("job", "model_options", "dataset_options")
_JOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "model": {**BINARY, "description": "Needed, unless model_options name an upload_id."},
                        "dataset": {**BINARY, "description": "Needed, unless dataset_options name an upload_id."},
                        "data": WEIGHTS,
                        "job": {"$ref": "#/components/schemas/JobOptions"},
                        "model_options": {"$ref": "#/components/schemas/ModelPart"},
                        "dataset_options": {"$ref": "#/components/schemas/DatasetPart"},
                    },
                },
                "encoding": {name: {"contentType": "application/json"} for name in _JSON_PARTS},
            },
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=JobRecord,
    openapi_extra=operation(
        *(*RECEIVED, *KEYED, "unknown_part", "provenance_needed", "unlabelled_dataset", "webhook_not_permitted"),
        *("invalid_roles", "invalid_split_shares", "invalid_padding", "invalid_class_names", "invalid_columns"),
        *("invalid_positive_class", "invalid_preprocessing"),
        at={422: ["unknown_model", "unknown_dataset", "unknown_upload"]},
        headers={202: [*CREATED, "Retry-After"]},
        more=_JOB_BODY,
    ),
)
async def create_job(
    request: Request,
    services: ServicesDep,
    key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Check everything, train nothing.")] = False,
) -> Response:
    """Calibrate a model: a stored one on a stored dataset, or both uploaded in the same call."""
    scoped = Key.of("jobs", key)
    if is_multipart(request):
        async with reserved(services, scoped) as held:
            answer = await _create_with_files(request, services, held, dry_run=dry_run)
    else:
        body = _checked(services, JobRequest.model_validate_json(await request.body() or b"{}"), dry_run=dry_run)
        await _await_provenance(services, body.dataset_id)
        answer = await create_once(services, scoped, [body.model_dump_json()], partial(_create, body=body))
    return created(answer, "/v1/jobs", 202)


def _create(unit: UnitOfWork, body: JobRequest) -> JobRecord:
    with named_by_body("model_id"):
        model = unit.models.get(body.model_id)
    with named_by_body("dataset_id"):
        dataset = unit.datasets.get(body.dataset_id)
    if not dataset.labelled:
        raise InvalidRequest(UNLABELLED, needs_labels(dataset.id, dataset.columns), field="dataset_id")
    if dataset.lacks_provenance:
        raise InvalidRequest(PROVENANCE_NEEDED, NEEDS_PROVENANCE, field="seen_by_model")
    return _add_job(unit, body, model, dataset)


def _checked(services: Services, options: Options, *, dry_run: bool) -> Options:
    """Checked options, as a dry run where the query asks for one; raises InvalidRequest."""
    if options.webhook is not None:
        try:
            services.settings.webhook_policy.check(parse_url(options.webhook.url))
        except ValueError as error:
            raise InvalidRequest("webhook_not_permitted", str(error), field="webhook.url") from error
    return options.model_copy(update={"dry_run": True}) if dry_run else options


async def _create_with_files(request: Request, services: ServicesDep, key: Key | None, *, dry_run: bool) -> Creation:
    with ExitStack() as stack:
        form = await receive_parts(request, services, stack, files=("model", "data", "dataset"), documents=_JSON_PARTS)
        await join_weights(form, "model", services, stack)
        given = {name: _json_object(form, name) for name in _JSON_PARTS}
        options = _checked(services, JobOptions.model_validate(given["job"]), dry_run=dry_run)
        model_options = read_options(ModelPart, given["model_options"])
        dataset_options = read_options(DatasetPart, given["dataset_options"])
        stored_model, stored_dataset = stored_model_options(model_options), stored_options(dataset_options)
        if dataset_options.purpose is None:
            stored_dataset["purpose"] = "fit"
        model_file = await take_part(form, "model", services, stack, upload_id=model_options.upload_id)
        dataset_file = await take_part(form, "dataset", services, stack, upload_id=dataset_options.upload_id)

        def store(unit: UnitOfWork) -> JobRequest:
            model = add_model(unit, model_file, model_options, stored_model)
            dataset = add_dataset(unit, dataset_file, dataset_options, stored_dataset)
            return JobRequest(model_id=model.id, dataset_id=dataset.id, **options.model_dump())

        content = [model_file.fingerprint, dataset_file.fingerprint, json.dumps([given, dry_run], sort_keys=True)]
        if tables.Dataset(status="inspecting", options=stored_dataset).awaits_provenance:
            return await _create_when_inspected(services, key, content, store)
        return await create_once(services, key, content, lambda unit: _create(unit, store(unit)))


async def _create_when_inspected(
    services: Services, key: Key | None, content: Sequence[str], store: Callable[[UnitOfWork], JobRequest]
) -> Creation:
    """Store both files, and create the job when it is known whether the rows have splits; without it neither stays."""
    body = await services.write(store)
    answered = None
    try:
        await _await_provenance(services, body.dataset_id)
        answered = await create_once(services, key, content, partial(_create, body=body))
        return answered
    finally:
        if answered is None or answered.replayed:  # refused, or answered before under this key
            await asyncio.shield(services.write(partial(_delete_files, body=body)))


def _delete_files(unit: UnitOfWork, body: JobRequest) -> None:
    unit.after_commit.unreferenced += [*unit.models.delete(body.model_id), *unit.datasets.delete(body.dataset_id)]


async def _await_provenance(services: Services, dataset_id: str) -> None:
    """Wait for the inspection of rows without a word on them, where a worker is there: they may have splits."""

    def awaited(unit: UnitOfWork) -> bool:
        row = unit.datasets.find(dataset_id)
        return row is not None and row.awaits_provenance and unit.workers.obstacle(QUEUE_OF["inspect"]) is None

    if await services.read(awaited):
        await services.long_poll.for_final(dataset_id, _MAX_INSPECTION_S)


def _json_object(form: Form, name: str) -> JsonObject:
    """The object in a part, which many clients send as a file; empty without it. Raises InvalidRequest."""
    content = bytes(form.contents.get(name, b"{}"))
    check_json(content, field=name)
    value = parse_json(content, name)
    if not isinstance(value, dict):
        raise InvalidRequest("invalid_json", f"part {name!r} must be a JSON object", field=name)
    return value


def _add_job(unit: UnitOfWork, body: JobRequest, model: tables.Model, dataset: tables.Dataset) -> JobRecord:
    if model.profile is not None and body.class_priors is not None:
        profile = ModelProfile.read(model.profile)
        if profile.class_names_given:  # else the dataset may name them, and the job finds out
            try:
                check_classes(body.class_priors, profile.class_names)
            except ValueError as error:
                raise InvalidRequest("invalid_request", str(error), field="class_priors") from error
    moment, limit = now(), body.cancel_after
    row = tables.Job(
        id=new_id("job"),
        status="queued",
        created_at=moment,
        cancel_at=None if limit is None else moment + timedelta(minutes=limit.minutes),
        model_id=body.model_id,
        dataset_id=body.dataset_id,
        request=body.model_dump(),
        progress={},
        history=[],
        warnings=[],
        adjustments=[],
    )
    unit.jobs.open(row)
    work = unit.work.open(
        row.id,
        kind=PLAN if body.dry_run else None,
        queue=GPU_ONLY if body.accelerator == "gpu" else None,
        blocked="inspecting" in (model.status, dataset.status),
        memory_bytes=memory_of_job(model.bytes),
    )
    return job_record(unit, row, work)


async def cancel_due(services: Services) -> None:
    """Cancel jobs that have waited for longer than `cancel_after`: workers may all be away."""
    with suppress(Unavailable):
        await run_in_threadpool(services.registry.cancel_due)


def _record(unit: UnitOfWork, row: tables.Job) -> JobRecord:
    return job_record(unit, row, unit.work.of(row.id))


async def _follow(services: Services, job_id: str, row: tables.Job) -> None:
    """A client that has seen the new version is answered by it."""
    if row.publish_as is not None and row.status in FINAL:
        await services.follow_served()


ROUTES = RecordRoutes(router, "job", "jobs", "job", JobRecord, lambda unit: unit.jobs, _record)
ROUTES.add_list(
    "The name that it publishes under or of its model, or a name that its model is published as.", metadata=True
)
ROUTES.add_get("has ended", _follow)
ROUTES.add_delete(
    lambda unit, record_id: unit.jobs.delete(record_id),
    "Delete a job with its report, events and messages; 409 before it has ended. The model that it made stays.",
)
add_evidence(ROUTES)


@router.get(
    "/{job_id}/predictions",
    name="get_job_predictions",
    response_model=JudgedRows,
    openapi_extra=operation(
        *("unknown_job", "no_report", *STORED),
        tagged=True,
        ranges=PARQUET,
        content={PARQUET: {"schema": BINARY}},
    ),
)
def get_job_predictions(
    request: Request,
    services: ServicesDep,
    job_id: str,
    split: Annotated[
        Literal["test"], Query(description="Rows that neither trained nor calibrated the model: of `test` alone.")
    ] = "test",
    limit: Limit = 100,
    after: RowCursor = None,
    format: Annotated[Literal["parquet"] | None, Query(description="All rows as a file; over `Accept`.")] = None,
) -> Response:
    """Return predictions for a job's test rows: the served model's answers, with labels; 409 before its end.

    The report judges these probabilities: at the shares of the calibration rows, whatever `class_priors` the job
    has. With `format=parquet`, or that media type in `Accept`, all rows are one file.
    """
    with services.registry.read() as unit:
        row = unit.jobs.get(job_id)
    if (digest := row.predictions_sha256) is None:
        raise missing_evidence(row)
    if format is not None or PARQUET in request.headers.get("accept", ""):
        answer = stored_file(request, services, digest, f"{job_id}-{split}.parquet", media_type=PARQUET)
        answer.headers["Vary"] = "Accept"
        return answer
    try:
        return _judged_rows(services.registry.artifacts.path(digest), limit, -1 if after is None else after)
    except (ValueError, IndexError, OSError, pa.ArrowException) as error:
        raise Unavailable("artifact_damaged", f"the predictions of {job_id} are damaged: {error}") from error


def _judged_rows(path: Path, limit: int, after: int) -> Response:
    """The rows behind this one; of very many classes no more are read than an answer has."""
    with ParquetFile(path) as file:
        group, names = file.metadata.row_group(0), file.schema_arrow.metadata[CLASS_NAMES]
        start = int(np.searchsorted(file.read(["row"], use_threads=False)["row"].to_numpy(), after, side="right"))
    most = min(limit, max(1, MAX_BYTES * group.num_rows // group.total_byte_size))
    rows, _ = read_page(path, start=start, limit=most + 1)
    written = ((row["row"], to_json(row, inf_nan_mode="null")) for row in rows)
    return json_page(written, most, headers={"Vary": "Accept"}, before=b'"class_names":%b,' % names)


@router.post(
    "/{job_id}/cancel",
    response_model=JobRecord,
    openapi_extra=operation("unknown_job", "already_finished"),
)
def cancel_job(services: ServicesDep, job_id: str) -> JobRecord:
    """Cancel a job: at once if it waits, else with the next heartbeat of its worker."""
    with services.registry.write() as unit:
        row = unit.jobs.get(job_id)
        if row.status in FINAL:
            raise Conflict("already_finished", f"{job_id} has already {row.status}")
        if unit.work.withdraw(job_id):
            unit.jobs.change_status(row, "cancelled")
        elif row.status != "cancelling":
            unit.jobs.change_status(row, "cancelling")
        return _record(unit, row)
