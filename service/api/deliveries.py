"""`/v1/jobs/{id}/deliveries`: messages to a job's webhook, with every attempt, and sent once more on request."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.dependencies import RETRY_AFTER_S, After, Limit, Parts, PartsDep
from service.registry import tables
from service.registry.contract import DeliveryRecord, Page
from service.registry.errors import NotFound
from service.registry.records import delivery_record
from service.registry.unit_of_work import UnitOfWork

router = APIRouter(prefix="/v1/jobs/{job_id}/deliveries", tags=["jobs"])


@router.get("")
def list_deliveries(parts: PartsDep, job_id: str, limit: Limit = 20, after: After = None) -> Page[DeliveryRecord]:
    """What was sent to a job's webhook, or is about to be, newest first; there is nothing before the job has ended."""
    with parts.registry.read() as unit:
        unit.jobs.get(job_id)
        rows = unit.deliveries.of_job(job_id)
        if after is not None:
            rows = [row for row in rows if row.id < _find(unit, job_id, after).id]
        records = [delivery_record(row, unit.work.of(row.id)) for row in rows[:limit]]
        return Page(data=records, has_more=len(rows) > limit)


@router.post("/{delivery_id}/resend", status_code=202, response_model=DeliveryRecord)
async def resend_delivery(parts: PartsDep, job_id: str, delivery_id: str) -> Response:
    """Send a message once more, now and under the same `webhook-id`; 409 while an attempt is running."""
    record = await parts.in_turn(_resend, parts, job_id, delivery_id)
    headers = {"Retry-After": RETRY_AFTER_S}
    return Response(record.model_dump_json(), 202, headers=headers, media_type="application/json")


def _resend(parts: Parts, job_id: str, delivery_id: str) -> DeliveryRecord:
    with parts.registry.write() as unit:
        unit.jobs.get(job_id)
        row = _find(unit, job_id, delivery_id)
        unit.deliveries.resend(row)
        return delivery_record(row, unit.work.of(row.id))


def _find(unit: UnitOfWork, job_id: str, delivery_id: str) -> tables.Delivery:
    for row in unit.deliveries.of_job(job_id):
        if row.id == delivery_id:
            return row
    raise NotFound("unknown_delivery", f"{job_id} has no delivery {delivery_id!r}")
