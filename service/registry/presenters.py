"""Presenters: rows as the records that clients see, without what is internal (digests of copies, leases)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.registry import contract, tables
from service.registry.documents import GuaranteesSummary
from service.registry.repositories.records import KEPT


def dataset_record(row: tables.Dataset) -> contract.DatasetRecord:
    """The public record of a dataset."""
    profile = row.profile or {}
    declared = {"format": row.options.get("format"), "seen_by_model": row.options.get("seen_by_model")}
    return contract.DatasetRecord(**_own(row, contract.DatasetRecord), **{**declared, **profile})


def model_record(row: tables.Model) -> contract.ModelRecord:
    """The public record of a model."""
    profile = dict(row.profile or {})
    for internal in ("class_names_given", "cost"):  # what serving reads
        profile.pop(internal, None)
    if profile.get("guarantees"):  # its tables grow with the classes and stand in the file's metadata
        profile["guarantees"] = {name: profile["guarantees"].get(name) for name in GuaranteesSummary.model_fields}
    report_url = f"/v1/jobs/{row.job_id}/report" if row.job_id else None
    declared = {name: row.options.get(name) for name in ("architecture", "preprocessing")}
    return contract.ModelRecord(
        **_own(row, contract.ModelRecord),
        **{"format": "onnx" if row.profile else None, **declared, **profile},
        report_url=report_url,
    )


def job_record(row: tables.Job, work: tables.Work) -> contract.JobRecord:
    """The public record of a job."""
    return contract.JobRecord(
        **_own(row, contract.JobRecord),
        method=row.request["method"],
        metadata=row.request["metadata"],
        dry_run=row.request.get("dry_run", False),  # absent in jobs of versions without dry runs
        report_url=f"/v1/jobs/{row.id}/report" if row.report_sha256 else None,
        attempts=work.attempts,
    )


def event_json(row: tables.Event) -> str:
    """The public record of what happened to a job, as JSON; its data has exactly the fields that were stored."""
    content = {"id": row.number, "type": row.type, "at": row.at, "data": row.data}
    return contract.EventRecord.model_validate(content).model_dump_json(exclude_unset=True)


def delivery_record(row: tables.Delivery, work: tables.Work) -> contract.DeliveryRecord:
    """The public record of a message to a webhook."""
    due = work.not_before if row.status == "pending" else None
    return contract.DeliveryRecord(**_own(row, contract.DeliveryRecord), next_attempt_at=due)


def batch_record(row: tables.Batch, work: tables.Work) -> contract.BatchRecord:
    """The public record of a batch prediction."""
    return contract.BatchRecord(
        **_own(row, contract.BatchRecord),
        results_url=f"/v1/predictions/{row.id}/results" if row.results_sha256 else None,
        attempts=work.attempts,
    )


def calibrator_record(row: tables.Calibrator) -> contract.CalibratorRecord:
    """The public record of a calibrator."""
    return contract.CalibratorRecord(
        **_own(row, contract.CalibratorRecord),
        **(row.profile or {}),
        report_url=f"/v1/calibrators/{row.id}/report" if row.report_sha256 else None,
    )


def upload_record(row: tables.Upload, *, offset: int, touched_at: datetime) -> contract.UploadRecord:
    """The public record of an upload of which `offset` bytes are here, the last since `touched_at`."""
    return contract.UploadRecord(**_own(row, contract.UploadRecord), offset=offset, expires_at=touched_at + KEPT)


def _own(row: tables.Base, record: type[BaseModel]) -> dict[str, Any]:
    """The row's columns that the record shows under the same name."""
    columns = {column.key for column in row.__table__.columns}
    return {name: getattr(row, name) for name in record.model_fields if name in columns}
