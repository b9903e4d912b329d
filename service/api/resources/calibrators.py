"""`/v1/calibrators`: scores are received here, fitted elsewhere, and answered within the request."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from fedlas.contract.base import JsonObject
from fedlas.contract.options import ScoresPart
from fedlas.contract.record_codes import DATASET_CODES, FILE_CODES, REFUSED_SCORES, WORK_CODES
from fedlas.contract.records import FINAL, CalibratorRecord, RecordError
from fedlas.contract.report import Report
from fedlas.contract.scores import ScoreReport
from service.api.plumbing.declarations import header_references
from service.api.plumbing.idempotency import IdempotencyKey, Key
from service.api.plumbing.receiving import ReceivedFile
from service.api.plumbing.records import RecordRoutes, create_from_file, uploading
from service.api.plumbing.responses import PriorsOption, created, downloading, stored_graph
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.reports import add_evidence
from service.registry import tables
from service.registry.errors import Conflict, InvalidRequest, RegistryError, WorkFailed
from service.registry.presenters import calibrator_record
from service.registry.registry import UnitOfWork
from service.registry.tables import new_id

router = APIRouter(route_class=Route, prefix="/v1/calibrators", tags=["calibrators"])

#: Parameters by the error of the worker that speaks of them.
_FIELDS = {
    "unknown_method": "method",
    "unsuitable_method": "method",
    "class_names_mismatch": "class_names",
    "bad_split_shares": "split_shares",
    "class_priors_mismatch": "class_priors",
    "warning_not_given": "accept_warnings",
}


def add_calibrator(unit: UnitOfWork, file: ReceivedFile, options: ScoresPart, stored: JsonObject) -> tables.Calibrator:
    """Keep the scores and insert the record; fitting is open work."""
    columns = file.columns(unit, options.name, "calibrator")
    row = tables.Calibrator(id=new_id("cal"), status="running", method=options.method, options=stored, **columns)
    unit.calibrators.add(row)
    unit.work.open(row.id)
    return row


@router.post(
    "",
    status_code=201,
    response_model=CalibratorRecord,
    responses={
        202: {
            "model": CalibratorRecord,
            "description": "Not fitted within `wait`; its record tells when it is.",
            "headers": header_references(["Location", "Retry-After"]),
        }
    },
    openapi_extra=uploading(
        ScoresPart,
        *("invalid_roles", "invalid_split_shares", "invalid_class_names", "unknown_calibrator"),
        # A fit that fails within the request is its answer.
        at={422: [*DATASET_CODES, *FILE_CODES, *REFUSED_SCORES], 500: [*WORK_CODES]},
    ),
)
async def create_calibrator(request: Request, services: ServicesDep, key: IdempotencyKey = None) -> Response:
    """Fit a calibrator on scores and labels, at most 100,000 rows.

    One `score`, or several signals (`signal_…`), with `label` 0 or 1: csv, ndjson, JSON, Parquet or npz; or `logits`
    (or `probabilities`) of all classes with `labels`: npz or csv.

    Answered when it is fitted; with 202 and `Retry-After` where that takes longer than `wait`.
    """
    scoped = Key.of("calibrators", key)
    answer, merged = await create_from_file(request, services, scoped, ScoresPart, add_calibrator, calibrator_record)
    record = CalibratorRecord.model_validate_json(answer.record)
    if record.status not in FINAL:
        await services.long_poll.for_final(record.id, merged.wait)
        record = await services.write(partial(_settle, record, scoped))
    if record.error is not None:
        raise _refusal(record.error)
    await services.follow_served()  # who reads that it is fitted is answered by it
    settled = answer._replace(record=record.model_dump_json())
    return created(settled, "/v1/calibrators", 201 if record.status in FINAL else 202)


def _settle(asked: CalibratorRecord, key: Key | None, unit: UnitOfWork) -> CalibratorRecord:
    """The record now; once it is final the key answers with it, and of bad scores nothing else stays behind."""
    row = unit.calibrators.find(asked.id)
    if row is None:  # gone: settled by a request beside this one, or deleted
        answer = unit.keys.current(key.text) if key is not None else None
        told = asked if answer is None else CalibratorRecord.model_validate_json(answer)
        return told if told.status in FINAL else calibrator_record(unit, unit.calibrators.get(asked.id))
    record = calibrator_record(unit, row)
    if record.status in FINAL and key is not None:
        unit.keys.amend(key.text, record.model_dump_json())
    if record.error is not None:
        unit.after_commit.unreferenced += unit.calibrators.delete(row.id)
    return record


def _refusal(error: RecordError) -> RegistryError:
    if not error.user_error:
        return WorkFailed(error.code, error.message)
    return InvalidRequest(error.code, error.message, field=_FIELDS.get(error.code))


ROUTES = RecordRoutes(
    *(router, "calibrator", "calibrators", "cal", CalibratorRecord),
    rows=lambda unit: unit.calibrators,
    show=calibrator_record,
)
ROUTES.add_list("Only records of this name, as a whole.")


async def _followed(services: Services, called: str, row: tables.Calibrator) -> None:
    """Let what is served be there before its record says so."""
    if row.status in FINAL:
        await services.follow_served()


ROUTES.add_get("is fitted or refused", _followed)
ROUTES.add_delete(
    lambda unit, record_id: unit.calibrators.delete(record_id),
    "Delete a calibrator with its scores, its file and its report; its look at the test rows stays counted. "
    "409 while it is published.",
    refused="in_use",
)
add_evidence(ROUTES, ScoreReport | Report)


@router.get(
    "/{calibrator_id}/onnx",
    response_class=FileResponse,
    openapi_extra=downloading("unknown_calibrator", "no_calibrator"),
)
def download_calibrator(
    request: Request, services: ServicesDep, calibrator_id: str, class_priors: PriorsOption = None
) -> Response:
    """Download a calibrator as ONNX: scores in, `probabilities` and `confidence` out; 409 before it is there."""
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    if row.onnx_sha256 is None:
        message = f"{calibrator_id} is {row.status}; its file exists once it has succeeded"
        raise Conflict("no_calibrator", message, passing=row.status not in FINAL)
    return stored_graph(request, services, row, row.onnx_sha256, class_priors)
