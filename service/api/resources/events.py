"""`/v1/jobs/{id}/events` and `/deliveries`: what happened to a job, and the messages to its webhook.

Events are a list, or a stream that goes on until the job has ended, after the standard for server-sent events
(https://html.spec.whatwg.org/multipage/server-sent-events.html). They are in the database: a client that was cut off
continues where it stopped, at any API process. One path answers both forms, by `Accept`, so that the stream is a
response of its own and not a generator of FastAPI's routing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from fedlas.contract.base import Page
from fedlas.contract.events import EventList
from fedlas.contract.records import FINAL, DeliveryRecord
from service.api.plumbing.declarations import operation
from service.api.plumbing.responses import RETRY_AFTER_S, After, Limit, cursor, json_page, page_of
from service.api.plumbing.routing import Route
from service.api.plumbing.services import Services, ServicesDep
from service.registry.errors import InvalidRequest, NotFound
from service.registry.presenters import delivery_record, event_json
from service.registry.registry import UnitOfWork

router = APIRouter(route_class=Route, prefix="/v1/jobs/{job_id}", tags=["jobs"])

#: Proxies close connections on which nothing happens, many after 30 s or 60 s.
_HEARTBEAT_S = 15.0
_EVENT_STREAM = "text/event-stream"
#: `X-Accel-Buffering` is nginx's: it would keep a stream back until 4 KiB are together.
_STREAMED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Vary": "Accept"}

AfterEvent = Annotated[
    int | None, Query(ge=0, lt=2**63, description="The `next` of the page before; of pages, not of a stream.")
]
KnownEvent = Annotated[
    int | None,
    Query(ge=0, lt=2**63, description="`Last-Event-ID` of a stream, where a client cannot set headers; not of pages."),
]


@router.get(
    "/events",
    name="list_job_events",
    response_model=EventList,
    responses={
        200: {"content": {_EVENT_STREAM: {"schema": {"type": "string"}}}},
        204: {"description": "The job of a stream has ended, and the client knows all its events."},
    },
    openapi_extra=operation("unknown_job"),
)
async def list_events(
    request: Request,
    services: ServicesDep,
    job_id: str,
    limit: Limit = 20,
    after: AfterEvent = None,
    last_event_id: KnownEvent = None,
    header: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern="^[0-9]{1,18}$",
            description="The last event that the reader of a stream knows.",
        ),
    ] = None,
) -> Response:
    """List or stream events of a job: a page, newest first; by `Accept: text/event-stream` a stream, oldest first.

    A stream begins after `Last-Event-ID` (or `last_event_id`, where a client cannot set headers), else with the first
    event.
    """
    is_stream = _EVENT_STREAM in request.headers.get("accept", "")
    if is_stream and after is not None:
        raise InvalidRequest("invalid_request", "a stream goes on by last_event_id; after is for pages", field="after")
    if not is_stream and last_event_id is not None:
        message = "a page goes on by after; last_event_id is for streams"
        raise InvalidRequest("invalid_request", message, field="last_event_id")
    if not is_stream:
        page = await services.read(partial(_page, job_id, limit, after))
        await services.follow_served()  # who reads that a version answers is answered by it
        return page
    known = (last_event_id or 0) if header is None else int(header)
    if await services.read(lambda unit: unit.jobs.get(job_id).status in FINAL and unit.events.last(job_id) <= known):
        return Response(status_code=204, headers=_STREAMED)  # a browser would come back again and again
    return EventSourceResponse(_stream(services, job_id, known), headers=_STREAMED)


def _page(job_id: str, limit: int, after: int | None, unit: UnitOfWork) -> Response:
    unit.jobs.get(job_id)
    rows = unit.events.newest_before(job_id, after, limit=limit + 1)
    return json_page(((row.number, event_json(row).encode()) for row in rows), limit, headers={"Vary": "Accept"})


async def _stream(services: Services, job_id: str, known: int) -> AsyncIterator[bytes]:
    yield format_sse_event(comment="connected")
    while True:
        update = await services.long_poll.for_events(job_id, known, _HEARTBEAT_S)
        if update.events:
            await services.follow_served()
            known = update.events[-1].number
            yield b"".join(frame.content for frame in update.events)
        elif not update.ended:
            yield KEEPALIVE_COMMENT
        if update.ended:
            return


@router.get(
    "/deliveries",
    name="list_job_deliveries",
    response_model=Page[DeliveryRecord],
    openapi_extra=operation("unknown_job", "invalid_cursor"),
)
def list_deliveries(services: ServicesDep, job_id: str, limit: Limit = 20, after: After = None) -> Response:
    """List messages to a job's webhook: sent or due, newest first; there is nothing before the job has ended."""
    after = cursor(after, "msg")
    with services.registry.read() as unit:
        unit.jobs.get(job_id)
        rows = unit.deliveries.of_job(job_id, limit=limit + 1, after=after)
        return page_of((delivery_record(row, unit.work.of(row.id)) for row in rows), limit, lambda record: record.id)


@router.post(
    "/deliveries/{delivery_id}/resend",
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
