"""`/v1/jobs`: calibrations are ordered, followed, cancelled, and their evidence handed out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from service.api.creation import (
    Created,
    IdempotencyKey,
    add_dataset,
    add_model,
    create_once,
    parse_json,
)
from service.api.datasets import DatasetOptions
from service.api.dependencies import After, Limit, PartsDep, Wait, created, long_poll, tagged, tagged_bytes
from service.api.models import ModelOptions
from service.api.receiving import is_multipart, take_part
from service.registry import tables
from service.registry.contract import FINAL, PLAN, JobOptions, JobRecord, JobRequest, Page
from service.registry.errors import Conflict, InvalidRequest, NotYetAvailable, UnknownReference
from service.registry.ids import new_id
from service.registry.records import job_record
from service.registry.repositories.records import now
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Options = TypeVar("Options", bound=JobOptions)

#: Parts of a call that brings its files along, beside `model` and `dataset`.
_JSON_PARTS = ("job", "model_options", "dataset_options")

#: Names of classes and slices in a report are its sender's: whatever they hold, nothing runs and nothing is fetched.
_INERT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}
#: Why an ended job lacks a piece of evidence.
_REASONS = {
    "succeeded": "was done by a version that did not make this yet",
    "failed": "has no report, since it did not succeed",
    "cancelled": "has no report, since it did not succeed",
}

_JOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "model": {
                            "type": "string",
                            "format": "binary",
                            "description": "Needed, unless model_options name an upload_id.",
                        },
                        "dataset": {
                            "type": "string",
                            "format": "binary",
                            "description": "Needed, unless dataset_options name an upload_id.",
                        },
                        "job": {"type": "string", "description": "JSON: the job without model_id and dataset_id."},
                        "model_options": {"type": "string", "description": "JSON: options of the model."},
                        "dataset_options": {"type": "string", "description": "JSON: options of the dataset."},
                    },
                }
            },
        },
    }
}


@router.post("", status_code=202, response_model=JobRecord, openapi_extra=_JOB_BODY)
async def create_job(
    request: Request,
    parts: PartsDep,
    key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Check everything, train nothing.")] = False,
) -> Response:
    """Order a calibration of a stored model on a stored dataset, or upload both in the same call."""
    scoped_key = key and f"jobs:{key}"
    if is_multipart(request):
        result = await _create_with_files(request, parts, scoped_key, dry_run=dry_run)
    else:
        body = _marked(JobRequest.model_validate_json(await request.body() or b"null"), dry_run=dry_run)
        _refuse_unavailable(body)
        result = await run_in_threadpool(_create, parts, scoped_key, body)
    record = JobRecord.model_validate_json(result.answer)
    return created(record, f"/v1/jobs/{record.id}", 202, **{"Retry-After": "2"})


def _create(parts: PartsDep, key: str | None, body: JobRequest) -> Created:
    def make(unit: UnitOfWork) -> tuple[BaseModel, Sequence[str]]:
        for noun, repository, record_id in (
            ("model", unit.models, body.model_id),
            ("dataset", unit.datasets, body.dataset_id),
        ):
            if repository.find(record_id) is None:
                message = f"there is no {noun} {record_id!r}"
                raise UnknownReference(f"unknown_{noun}", message, field=f"{noun}_id")
        return _add_job(unit, body)

    return create_once(parts, key, [body.model_dump_json()], make)


def _marked(options: Options, *, dry_run: bool) -> Options:
    """The same options, as a dry run where the query asks for one."""
    return options.model_copy(update={"dry_run": True}) if dry_run else options


async def _create_with_files(request: Request, parts: PartsDep, key: str | None, *, dry_run: bool) -> Created:
    with ExitStack() as stack:
        async with request.form(max_files=2 + len(_JSON_PARTS)) as form:
            if unknown := sorted(set(form) - {"model", "dataset", *_JSON_PARTS}):
                raise InvalidRequest("unknown_part", f"there is no part {unknown[0]!r}", field=unknown[0])
            given = {name: await _json_object(form, name) for name in _JSON_PARTS}
            options = _marked(JobOptions.model_validate(given["job"]), dry_run=dry_run)
            _refuse_unavailable(options)
            model_options = ModelOptions.model_validate(_flat(given["model_options"]))
            dataset_options = DatasetOptions.model_validate(_flat(given["dataset_options"]))
            stored_model, stored_dataset = model_options.stored(), dataset_options.stored()
            model_file, model_name = await take_part(form, "model", parts, stack, upload_id=model_options.upload_id)
            dataset_file, dataset_name = await take_part(
                form, "dataset", parts, stack, upload_id=dataset_options.upload_id
            )

        def make(unit: UnitOfWork) -> tuple[BaseModel, Sequence[str]]:
            model = add_model(unit, model_file, model_options.name or model_name, stored_model)
            dataset = add_dataset(unit, dataset_file, dataset_options.name or dataset_name, stored_dataset)
            body = JobRequest(model_id=model.id, dataset_id=dataset.id, **options.model_dump())
            record, ids = _add_job(unit, body)
            return record, [model.id, dataset.id, *ids]

        content = [model_file.fingerprint, dataset_file.fingerprint, json.dumps([given, dry_run], sort_keys=True)]
        return await run_in_threadpool(create_once, parts, key, content, make)


async def _json_object(form: FormData, name: str) -> dict[str, Any]:
    """The object in a part, which many clients send as a file; empty without it. Raises InvalidRequest."""
    part = form.get(name, "{}")
    content = await part.read() if isinstance(part, UploadFile) else part
    try:
        text = content.decode() if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise InvalidRequest("invalid_json", f"part {name!r} is not UTF-8 text", field=name) from error
    value = parse_json(text, name)
    if not isinstance(value, dict):
        raise InvalidRequest("invalid_json", f"part {name!r} must be a JSON object", field=name)
    return value


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Options that are JSON within a query may stand in a JSON part as what they are."""
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in options.items()}


def _refuse_unavailable(options: JobOptions) -> None:
    if options.webhook is not None:
        # Accepting it and never calling would be worse than saying so.
        raise NotYetAvailable("not_yet_available", "webhooks are not available in this version", field="webhook")


def _add_job(unit: UnitOfWork, body: JobRequest) -> tuple[JobRecord, list[str]]:
    created_at = now()
    row = tables.Job(
        id=new_id("job"),
        status="queued",
        created_at=created_at,
        model_id=body.model_id,
        dataset_id=body.dataset_id,
        request=body.model_dump(),
        progress={},
        history=[{"status": "queued", "at": created_at.isoformat()}],
        promoted=False,
    )
    unit.jobs.add(row)
    unit.work.open(row.id, kind=PLAN if body.dry_run else None)
    return _record(unit, row), [row.id]


def _record(unit: UnitOfWork, row: tables.Job) -> JobRecord:
    return job_record(row, unit.work.of(row.id))


@router.get("")
def list_jobs(parts: PartsDep, limit: Limit = 20, after: After = None) -> Page[JobRecord]:
    """List jobs, newest first."""
    with parts.registry.read() as unit:
        rows, has_more = unit.jobs.page(limit=limit, after=after)
        return Page(data=[_record(unit, row) for row in rows], has_more=has_more)


@router.get("/{job_id}", response_model=JobRecord)
async def get_job(request: Request, parts: PartsDep, job_id: str, wait: Wait = None) -> Response:
    """Return one job; `wait` returns as soon as it has ended."""

    def read() -> JobRecord:
        with parts.registry.read() as unit:
            return _record(unit, unit.jobs.get(job_id))

    record = await long_poll(parts, read, wait)
    return tagged(request, record, headers=None if record.status in FINAL else {"Retry-After": "2"})


@router.post("/{job_id}/cancel", response_model=JobRecord)
def cancel_job(request: Request, parts: PartsDep, job_id: str) -> Response:
    """Cancel a job: at once if nobody has begun it, else as soon as its worker hears of it."""
    with parts.registry.write() as unit:
        row = unit.jobs.get(job_id)
        if row.status in FINAL:
            raise Conflict("already_finished", f"{job_id} has already {row.status}")
        if unit.work.withdraw(job_id):
            unit.jobs.change_status(row, "cancelled")
        elif row.status != "cancelling":
            unit.jobs.change_status(row, "cancelling")
        record = _record(unit, row)
    return tagged(request, record)


@router.get("/{job_id}/report")
def get_report(request: Request, parts: PartsDep, job_id: str) -> Response:
    """The evidence, as JSON; 409 before the job has ended."""
    return _evidence(request, parts, job_id, "report_sha256", "application/json")


@router.get("/{job_id}/reliability.svg")
def get_diagram(request: Request, parts: PartsDep, job_id: str) -> Response:
    """The reliability diagram, as SVG; 409 before the job has ended."""
    return _evidence(request, parts, job_id, "diagram_sha256", "image/svg+xml")


@router.get("/{job_id}/report.html", response_class=HTMLResponse)
def get_page(request: Request, parts: PartsDep, job_id: str) -> Response:
    """The evidence as one page for people, which loads nothing from anywhere; 409 before the job has ended."""
    return _evidence(request, parts, job_id, "page_sha256", "text/html", headers=_INERT)


def _evidence(
    request: Request,
    parts: PartsDep,
    job_id: str,
    column: str,
    media_type: str,
    *,
    headers: dict[str, str] | None = None,
) -> Response:
    with parts.registry.read() as unit:
        row = unit.jobs.get(job_id)
    digest = getattr(row, column)
    if digest is None and row.request.get("dry_run"):
        raise Conflict("no_report", f"{job_id} is a dry run and has no report; its record has the plan")
    if digest is None:
        raise Conflict("no_report", f"{job_id} is {row.status} and {_REASONS.get(row.status, 'has not ended yet')}")
    body = parts.registry.artifacts.path(digest).read_bytes()
    return tagged_bytes(request, body, media_type=media_type, headers=headers)
