"""`/v1/jobs`: calibrations, from their order to their report."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from service.api.creation import add_dataset, add_model, still_inspecting
from service.api.datasets import DatasetOptions
from service.api.dependencies import ServicesDep, Wait, created, long_poll, still_open, tagged
from service.api.evidence import answer_evidence
from service.api.forms import Form
from service.api.idempotency import IdempotencyKey, Key, create_in_group, create_once, reserved
from service.api.json_values import parse_json
from service.api.models import ModelOptions
from service.api.pages import After, Limit, cursor, page_of
from service.api.receiving import is_multipart, receive_parts, take_part
from service.api.request_bodies import check_json
from service.api.routing import Route
from service.api.services import Services
from service.registry import tables
from service.registry.contract import FINAL, GPU_ONLY, PLAN, JobOptions, JobRecord, JobRequest, Page
from service.registry.documents import JsonObject, Report
from service.registry.errors import Conflict, InvalidRequest, UnknownReference
from service.registry.presenters import job_record
from service.registry.resource_estimates import memory_of_job
from service.registry.tables import new_id, now
from service.registry.unit_of_work import UnitOfWork
from service.registry.webhooks import parse_url

router = APIRouter(route_class=Route, prefix="/v1/jobs", tags=["jobs"])

Options = TypeVar("Options", bound=JobOptions)

#: Parts of a call that brings its files along, beside `model` and `dataset`.
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
    services: ServicesDep,
    key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Check everything, train nothing.")] = False,
) -> Response:
    """Order a calibration of a stored model on a stored dataset, or upload both in the same call."""
    scoped = Key.of("jobs", key)
    if is_multipart(request):
        async with reserved(services, scoped) as held:
            answer = await _create_with_files(request, services, held, dry_run=dry_run)
    else:
        body = _checked(services, JobRequest.model_validate_json(await request.body() or b"null"), dry_run=dry_run)
        answer = await create_in_group(services, scoped, [body.model_dump_json()], partial(_create, body=body))
    return created(answer, "/v1/jobs", 202)


def _create(unit: UnitOfWork, body: JobRequest) -> JobRecord:
    model, dataset = unit.models.find(body.model_id), unit.datasets.find(body.dataset_id)
    for noun, row in (("model", model), ("dataset", dataset)):
        if row is None:
            field = f"{noun}_id"
            message = f"there is no {noun} {getattr(body, field)!r}"
            raise UnknownReference(f"unknown_{noun}", message, field=field)
    assert model is not None
    assert dataset is not None
    return _add_job(unit, body, model, dataset)


def _checked(services: Services, options: Options, *, dry_run: bool) -> Options:
    """The same options, as a dry run where the query asks for one; raises InvalidRequest."""
    if options.webhook is not None:
        try:
            services.settings.webhook_policy.check(parse_url(options.webhook.url))
        except ValueError as error:
            raise InvalidRequest("webhook_not_permitted", str(error), field="webhook.url") from error
    return options.model_copy(update={"dry_run": True}) if dry_run else options


async def _create_with_files(request: Request, services: ServicesDep, key: Key | None, *, dry_run: bool) -> str:
    with ExitStack() as stack:
        form = await receive_parts(request, services, stack, files=("model", "dataset"), documents=_JSON_PARTS)
        given = {name: _json_object(form, name) for name in _JSON_PARTS}
        options = _checked(services, JobOptions.model_validate(given["job"]), dry_run=dry_run)
        model_options = ModelOptions.model_validate(_flat(given["model_options"]))
        dataset_options = DatasetOptions.model_validate(_flat(given["dataset_options"]))
        stored_model, stored_dataset = model_options.stored(), dataset_options.stored()
        model_file, model_name = await take_part(form, "model", services, stack, upload_id=model_options.upload_id)
        dataset_file, dataset_name = await take_part(
            form, "dataset", services, stack, upload_id=dataset_options.upload_id
        )

        def make(unit: UnitOfWork) -> JobRecord:
            model = add_model(unit, model_file, model_options.name or model_name, stored_model)
            dataset = add_dataset(unit, dataset_file, dataset_options.name or dataset_name, stored_dataset)
            body = JobRequest(model_id=model.id, dataset_id=dataset.id, **options.model_dump())
            return _add_job(unit, body, model, dataset)

        content = [model_file.fingerprint, dataset_file.fingerprint, json.dumps([given, dry_run], sort_keys=True)]
        return await services.write_in_thread(create_once, services, key, content, make)


def _json_object(form: Form, name: str) -> JsonObject:
    """The object in a part, which many clients send as a file; empty without it. Raises InvalidRequest."""
    content = bytes(form.contents.get(name, b"{}"))
    check_json(content, field=name)
    value = parse_json(content, name)
    if not isinstance(value, dict):
        raise InvalidRequest("invalid_json", f"part {name!r} must be a JSON object", field=name)
    return value


def _flat(options: JsonObject) -> JsonObject:
    """Options that are JSON within a query may stand in a JSON part as what they are."""
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in options.items()}


def _add_job(unit: UnitOfWork, body: JobRequest, model: tables.Model, dataset: tables.Dataset) -> JobRecord:
    row = tables.Job(
        id=new_id("job"),
        status="queued",
        created_at=now(),
        model_id=body.model_id,
        dataset_id=body.dataset_id,
        request=body.model_dump(),
        progress={},
        history=[],
        promoted=False,
    )
    unit.jobs.open(row)
    work = unit.work.open(
        row.id,
        kind=PLAN if body.dry_run else None,
        queue=GPU_ONLY if body.accelerator == "gpu" else None,
        blocked=still_inspecting(model, dataset),
        memory_bytes=memory_of_job(model.bytes),
    )
    return job_record(row, work)


def _record(unit: UnitOfWork, row: tables.Job) -> JobRecord:
    return job_record(row, unit.work.of(row.id))


@router.get("", response_model=Page[JobRecord])
def list_jobs(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List jobs, newest first."""
    after = cursor(after, "job")
    with services.registry.read() as unit:
        return page_of((_record(unit, row) for row in unit.jobs.newest(limit=limit + 1, after=after)), limit)


@router.get("/{job_id}", response_model=JobRecord)
async def get_job(request: Request, services: ServicesDep, job_id: str, wait: Wait = None) -> Response:
    """Return one job; `wait` returns as soon as it has ended."""
    name: str | None = None

    def read() -> JobRecord:
        nonlocal name
        with services.registry.read() as unit:
            row = unit.jobs.get(job_id)
            name = row.request["publish_as"]
            return _record(unit, row)

    record = await long_poll(services, read, wait)
    if name is not None and record.status in FINAL:
        await services.model_repository.renew(name)  # a client that has seen the new version is answered by it
    return tagged(request, record, headers=still_open(record))


@router.post("/{job_id}/cancel", response_model=JobRecord)
def cancel_job(request: Request, services: ServicesDep, job_id: str) -> Response:
    """Cancel a job: at once if it waits, else with the next heartbeat of its worker."""
    with services.registry.write() as unit:
        row = unit.jobs.get(job_id)
        if row.status in FINAL:
            raise Conflict("already_finished", f"{job_id} has already {row.status}")
        if unit.work.withdraw(job_id):
            unit.jobs.change_status(row, "cancelled")
        elif row.status != "cancelling":
            unit.jobs.change_status(row, "cancelling")
        record = _record(unit, row)
    return tagged(request, record)


@router.get("/{job_id}/report", response_model=Report)
def get_report(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The evidence, as JSON; 409 before the job has ended."""
    return _evidence(request, services, job_id, "report_sha256", "application/json")


@router.get("/{job_id}/reliability.svg")
def get_diagram(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The reliability diagram, as SVG; 409 before the job has ended."""
    return _evidence(request, services, job_id, "diagram_sha256", "image/svg+xml")


@router.get("/{job_id}/report.html", response_class=HTMLResponse)
def get_page(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The evidence as one page for people, which loads nothing from anywhere; 409 before the job has ended."""
    return _evidence(request, services, job_id, "page_sha256", "text/html")


def _evidence(
    request: Request,
    services: ServicesDep,
    job_id: str,
    column: str,
    media_type: str,
) -> Response:
    with services.registry.read() as unit:
        row = unit.jobs.get(job_id)
    digest = getattr(row, column)
    if digest is None and row.request.get("dry_run"):
        raise Conflict("no_report", f"{job_id} is a dry run and has no report; its record has the plan")
    return answer_evidence(request, services, row, digest, media_type)
