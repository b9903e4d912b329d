"""`/v1/jobs/{id}/deliveries`: the messages to a job's webhook with their attempts; they are sent again on request."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.plumbing.declarations import operation
from service.api.plumbing.responses import RETRY_AFTER_S, After, Limit, cursor, page_of
from service.api.plumbing.routing import Route
from service.api.plumbing.services import ServicesDep
from service.registry.contract import DeliveryRecord, Page
from service.registry.errors import NotFound
from service.registry.presenters import delivery_record
from service.registry.registry import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/jobs/{job_id}/deliveries", tags=["jobs"])


@router.get(
    "",
    name="list_job_deliveries",
    response_model=Page[DeliveryRecord],
    openapi_extra=operation("unknown_job", "invalid_cursor"),
)
def list_deliveries(services: ServicesDep, job_id: str, limit: Limit = 20, after: After = None) -> Response:
    """What was sent to a job's webhook, or is about to be, newest first; there is nothing before the job has ended."""
    after = cursor(after, "msg")
    with services.registry.read() as unit:
        unit.jobs.get(job_id)
        rows = unit.deliveries.of_job(job_id, limit=limit + 1, after=after)
        return page_of((delivery_record(row, unit.work.of(row.id)) for row in rows), limit)


@router.post(
    "/{delivery_id}/resend",
    status_code=202,
    response_model=DeliveryRecord,
    openapi_extra=operation("unknown_job", "unknown_delivery", "delivery_running", headers={202: ["Retry-After"]}),
)
async def resend_delivery(services: ServicesDep, job_id: str, delivery_id: str) -> Response:
    """Send a message once more, now and under the same `webhook-id`; 409 while an attempt is running."""

    def resend(unit: UnitOfWork) -> DeliveryRecord:
        unit.jobs.get(job_id)
        row = unit.deliveries.find(delivery_id)
        if row is None or row.job_id != job_id:
            raise NotFound("unknown_delivery", f"{job_id} has no delivery {delivery_id!r}")
        unit.deliveries.resend(row)
        return delivery_record(row, unit.work.of(row.id))

    record = await services.write(resend)
    headers = {"Retry-After": RETRY_AFTER_S}
    return Response(record.model_dump_json(), 202, headers=headers, media_type="application/json")
