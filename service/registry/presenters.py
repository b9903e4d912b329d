"""Presenters: rows as the records that clients see, without what is internal (digests of copies, leases).

Documents in a row are read with what another release wrote beside the fields of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from fedlas.contract import records
from fedlas.contract.events import JOB_EVENT
from fedlas.contract.keys import KeyRecord
from fedlas.contract.profiles import GuaranteesDocument, ModelPromise
from service.registry import tables
from service.registry.queues import QUEUE_OF
from service.registry.registry import UnitOfWork
from service.registry.repositories.records import KEPT

Record = TypeVar("Record", bound=BaseModel)


def dataset_record(unit: UnitOfWork, row: tables.Dataset) -> records.DatasetRecord:
    declared = {name: row.options.get(name) for name in ("format", "seen_by_model", "split_shares", "purpose")}
    derived = {"labelled": row.labelled if row.profile else None, "waiting_for": _waiting_for(unit, row)}
    return _presented(records.DatasetRecord, row, derived, declared, row.profile)


def model_record(unit: UnitOfWork, row: tables.Model) -> records.ModelRecord:
    """The public record of a model; of its guarantees only the summary, since their tables grow with the classes."""
    declared = {"preprocessing": row.options.get("preprocessing")}
    derived = {
        "format": "onnx" if row.profile else None,
        "report_url": f"/v1/jobs/{row.job_id}/report" if row.job_id and not row.job_deleted_at else None,
        "waiting_for": _waiting_for(unit, row),
        "promise": _promise(row.profile or {}),
    }
    return _presented(records.ModelRecord, row, derived, declared, row.profile)


def job_record(unit: UnitOfWork, row: tables.Job, work: tables.Work) -> records.JobRecord:
    derived = {
        "report_url": f"/v1/jobs/{row.id}/report" if row.report_sha256 else None,
        "predict_url": f"/v1/models/{row.calibrated_model_id}/predict" if row.calibrated_model_id else None,
        "attempts": work.attempts,
        "waiting_for": _waiting_for(unit, row, work),
    }
    return _presented(records.JobRecord, row, row.request, derived)


def event_json(row: tables.Event) -> str:
    """The public record of what happened to a job, as JSON; its data has exactly the fields that were stored."""
    content = {"id": row.number, "type": row.type, "at": row.at, "data": row.data}
    try:
        return JOB_EVENT.validate_python(content).model_dump_json(exclude_unset=True)
    except ValidationError:  # another release wrote it
        return to_json(content).decode()


def delivery_record(row: tables.Delivery, work: tables.Work) -> records.DeliveryRecord:
    due = work.not_before if row.status == "pending" else None
    return _presented(records.DeliveryRecord, row, {"next_attempt_at": due})


def batch_record(unit: UnitOfWork, row: tables.Batch, work: tables.Work) -> records.BatchRecord:
    results_url = f"/v1/batches/{row.id}/results" if row.results_sha256 or row.manifest_sha256 else None
    derived = {
        "errors": row.options.get("errors", "fail"),
        "class_priors": row.options.get("class_priors"),
        "results_url": results_url,
        "manifest_url": f"{results_url}/manifest" if results_url else None,
        "attempts": work.attempts,
        "waiting_for": _waiting_for(unit, row, work),
    }
    return _presented(records.BatchRecord, row, derived)


def calibrator_record(unit: UnitOfWork, row: tables.Calibrator) -> records.CalibratorRecord:
    derived = {
        "split_shares": row.options.get("split_shares"),
        "report_url": f"/v1/calibrators/{row.id}/report" if row.report_sha256 else None,
        "waiting_for": _waiting_for(unit, row),
        "valid_for": row.options.get("valid_for"),
        "publish_as": row.options.get("publish_as"),
    }
    if row.profile and row.profile.get("promise"):
        derived |= {"model_id": row.model_id, "predict_url": f"/v1/calibrators/{row.id}/predict"}
    return _presented(records.CalibratorRecord, row, row.profile, derived)


def upload_record(row: tables.Upload, *, offset: int, touched_at: datetime) -> records.UploadRecord:
    """The public record of an upload of which `offset` bytes are here, the last since `touched_at`."""
    return _presented(records.UploadRecord, row, {"offset": offset, "expires_at": touched_at + KEPT})


def key_record(row: tables.ApiKey) -> KeyRecord:
    return _presented(KeyRecord, row)


def _promise(profile: Mapping[str, Any]) -> Mapping[str, Any] | ModelPromise | None:
    """The promise of a model's profile: that of a score, or what its guarantees say of 5 % errors."""
    if (scores := profile.get("scores")) is not None:
        promise: Mapping[str, Any] = scores["promise"]
        return promise
    guarantees = profile.get("guarantees")
    return None if guarantees is None else GuaranteesDocument.read(guarantees).promise()


def _waiting_for(unit: UnitOfWork, row: tables.Record, work: tables.Work | None = None) -> str | None:
    if row.status in records.FINAL:
        return None
    work = work or unit.work.of(row.id)
    if work.state == "blocked" and row.status == "queued":
        return unit.workers.obstacle(QUEUE_OF["inspect"])
    obstacle = unit.workers.obstacle(work.queue, work.worker if work.state == "claimed" else None)
    return f"{work.losses[-1]}; it is tried again" if obstacle is None and work.losses else obstacle


def _presented(record: type[Record], row: tables.Base, *more: Mapping[str, object] | None) -> Record:
    content = {name: value for part in more for name, value in (part or {}).items()}
    content |= {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return record.model_validate(content, extra="ignore")
