"""`/live`: jobs as they happen, as parts of pages in a stream of server-sent events, one stream for a browser.

The event of a job has the job's id as its name, and as its data the part of its page that changes.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from service.web.live_jobs import END, LiveJobs

router = APIRouter(include_in_schema=False)

#: `X-Accel-Buffering` is nginx's: it would keep a stream back until 4 KiB are together.
_STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

JobId = Annotated[str, Query(pattern="^job_[0-9a-z]{26}$")]


@router.get("/live")
async def live(
    request: Request,
    job: Annotated[list[JobId], Query(min_length=1, max_length=20)],
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """The stream; a browser that has seen its end is told not to come back."""
    if last_event_id == END:
        return Response(status_code=204, headers=_STREAMED)
    live_jobs: LiveJobs = request.app.state.live_jobs
    return EventSourceResponse(live_jobs.stream(list(dict.fromkeys(job))), headers=_STREAMED)
