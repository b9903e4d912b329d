"""`/v1/calibrators`: scores are received here, fitted elsewhere, and answered within the request."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import ConfigDict, Field

from service.api.creation import add_calibrator
from service.api.datasets import UPLOAD_BODY, parse_roles
from service.api.dependencies import ServicesDep, Wait, created, long_poll, still_open, stored_file, tagged
from service.api.evidence import answer_evidence
from service.api.idempotency import IdempotencyKey, Key, create_once, reserved
from service.api.models import parse_class_names
from service.api.pages import After, Limit, cursor, page_of
from service.api.problems import Responses
from service.api.receiving import receive_file
from service.api.routing import Route
from service.api.services import Services
from service.registry.contract import FINAL, CalibratorRecord, Page, RecordError, Strict
from service.registry.documents import Report
from service.registry.errors import Conflict, InvalidRequest, RegistryError, WorkFailed
from service.registry.presenters import calibrator_record
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/calibrators", tags=["calibrators"])

#: Which parameter an error of the worker speaks of.
_FIELDS = {"unknown_method": "method", "unsuitable_method": "method", "class_names_mismatch": "class_names"}
_RESPONSES: Responses = {
    202: {"model": CalibratorRecord, "description": "Not fitted within `wait`; its record tells when it is."},
}


class CalibratorOptions(Strict):
    """How to fit; everything has a default."""

    model_config = ConfigDict(strict=False)  # a query parameter is always text

    name: str | None = Field(None, max_length=200)
    method: str = Field(
        "auto", pattern="^[a-z][a-z0-9_]{0,39}$", description="`auto`, `temperature`, `affine`, … or another by name."
    )
    class_names: str | None = Field(None, max_length=1_000_000, description="Comma-separated, in the columns' order.")
    roles: str | None = Field(
        None, max_length=100_000, description='JSON, for example {"label": "diagnosis", "group": "patient"}.'
    )
    wait: float = Field(60, ge=0, le=60, description="Seconds to wait for the calibrator; then the answer is 202.")

    def stored(self) -> dict[str, Any]:
        """The options as they are kept with the record."""
        names = parse_class_names(self.class_names) if self.class_names is not None else None
        return {"method": self.method, "class_names": names, "roles": parse_roles(self.roles) if self.roles else None}


@router.post("", status_code=201, response_model=CalibratorRecord, responses=_RESPONSES, openapi_extra=UPLOAD_BODY)
async def create_calibrator(
    request: Request,
    services: ServicesDep,
    options: Annotated[CalibratorOptions, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Fit a calibrator on `logits` (or `probabilities`) and `labels`, an npz or csv of at most 100,000 rows.

    Answered when it is fitted; with 202 and `Retry-After` where that takes longer than `wait`.
    """
    scoped = Key.of("calibrators", key)
    async with reserved(services, scoped) as held:
        with ExitStack() as stack:
            file, texts, filename = await receive_file(request, services, stack)
            merged = CalibratorOptions.model_validate({**options.model_dump(exclude_unset=True), **texts})
            stored = merged.stored()

            def make(unit: UnitOfWork) -> CalibratorRecord:
                return calibrator_record(add_calibrator(unit, file, merged.name or filename, merged.method, stored))

            content = [file.fingerprint, merged.model_dump_json(exclude={"wait"})]
            answer = await services.write_in_thread(create_once, services, held, content, make)
    record = CalibratorRecord.model_validate_json(answer)
    if record.status not in FINAL:
        await services.long_poll.for_final(record.id, merged.wait)
        record = await services.write_in_thread(_settled, services, scoped, record)
    if record.error is not None:
        raise _refusal(record.error)
    return created(record.model_dump_json(), "/v1/calibrators", 201 if record.status in FINAL else 202)


def _settled(services: Services, key: Key | None, asked: CalibratorRecord) -> CalibratorRecord:
    """The record now; once it is final the key answers with it, and of bad scores nothing else stays behind."""
    unnamed: list[str] = []
    with services.registry.write() as unit:
        row = unit.calibrators.find(asked.id)
        if row is None:  # gone: settled by a request beside this one, or deleted
            answer = unit.keys.current(key.text) if key is not None else None
            told = asked if answer is None else CalibratorRecord.model_validate_json(answer)
            return told if told.status in FINAL else calibrator_record(unit.calibrators.get(asked.id))
        record = calibrator_record(row)
        if record.status in FINAL and key is not None:
            unit.keys.amend(key.text, record.model_dump_json())
        if record.error is not None:
            unnamed = unit.calibrators.delete(row.id)
    services.registry.discard(unnamed)
    return record


def _refusal(error: RecordError) -> RegistryError:
    if not error.user_error:
        return WorkFailed(error.code, error.message)
    return InvalidRequest(error.code, error.message, field=_FIELDS.get(error.code))


@router.get("", response_model=Page[CalibratorRecord])
def list_calibrators(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """List calibrators, newest first."""
    after = cursor(after, "cal")
    with services.registry.read() as unit:
        return page_of(map(calibrator_record, unit.calibrators.newest(limit=limit + 1, after=after)), limit)


@router.get("/{calibrator_id}", response_model=CalibratorRecord)
async def get_calibrator(request: Request, services: ServicesDep, calibrator_id: str, wait: Wait = None) -> Response:
    """Return one calibrator; `wait` returns as soon as it is fitted or refused."""

    def read() -> CalibratorRecord:
        with services.registry.read() as unit:
            return calibrator_record(unit.calibrators.get(calibrator_id))

    record = await long_poll(services, read, wait)
    return tagged(request, record, headers=still_open(record))


@router.get("/{calibrator_id}/onnx", response_class=FileResponse)
def download_calibrator(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    """The calibrator as a file: scores in, `probabilities` and `confidence` out. Ranges work; 409 before it exists."""
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    if row.onnx_sha256 is None:
        message = f"{calibrator_id} is {row.status}; its file exists once it has succeeded"
        raise Conflict("no_calibrator", message, passing=row.status not in FINAL)
    return stored_file(request, services, row.onnx_sha256, f"{Path(row.name).stem}-{row.id}.onnx")


@router.get("/{calibrator_id}/report", response_model=Report)
def get_calibrator_report(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    """The whole evidence, as JSON; 409 before there is any."""
    return _evidence(request, services, calibrator_id, "report_sha256", "application/json")


@router.get("/{calibrator_id}/reliability.svg")
def get_calibrator_diagram(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    """The reliability diagram, as SVG; 409 before there is one."""
    return _evidence(request, services, calibrator_id, "diagram_sha256", "image/svg+xml")


@router.get("/{calibrator_id}/report.html", response_class=HTMLResponse)
def get_calibrator_page(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    """The evidence as one page for people, which loads nothing from anywhere; 409 before there is any."""
    return _evidence(request, services, calibrator_id, "page_sha256", "text/html")


def _evidence(request: Request, services: Services, calibrator_id: str, column: str, media_type: str) -> Response:
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    return answer_evidence(request, services, row, getattr(row, column), media_type)


@router.delete("/{calibrator_id}", status_code=204)
def delete_calibrator(services: ServicesDep, calibrator_id: str) -> None:
    """Delete a calibrator with its scores, its file and its report; its look at the test rows stays counted."""
    with services.registry.write() as unit:
        unnamed = unit.calibrators.delete(calibrator_id)
    services.registry.discard(unnamed)
