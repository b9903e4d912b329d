"""`/live`: jobs as they happen, as parts of pages in a stream of server-sent events, one stream for a browser.

The event of a job has the job's id as its name, and as its data the part of its page that changes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event

from service.registry.errors import Unavailable
from service.web.live_jobs import END, LiveJobs
from service.web.session_access import session_id_of
from service.web.sessions import Sessions

router = APIRouter(include_in_schema=False)

#: Whether a session has ended meanwhile is looked for so often.
SESSION_EVERY_S = 30.0
#: `X-Accel-Buffering` is nginx's: it would keep a stream back until 4 KiB are together.
_STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_SIGNED_OUT = format_sse_event(event="signed-out", data_str="the session has ended")

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
    return EventSourceResponse(_while_signed_in(request, live_jobs, list(dict.fromkeys(job))), headers=_STREAMED)


async def _while_signed_in(request: Request, live_jobs: LiveJobs, job_ids: Sequence[str]) -> AsyncIterator[bytes]:
    """The stream until the session ends that it was opened with, by itself or because its key is one no more."""
    sessions: Sessions = request.app.state.sessions
    session_id, checked = session_id_of(request.scope), time.monotonic()
    async with aclosing(live_jobs.stream(job_ids)) as stream:
        async for piece in stream:
            if sessions.needed and session_id and time.monotonic() - checked > SESSION_EVERY_S:
                if await _has_ended(sessions, session_id):
                    yield _SIGNED_OUT
                    return
                checked = time.monotonic()
            yield piece


async def _has_ended(sessions: Sessions, session_id: str) -> bool:
    try:
        return await sessions.key_of(session_id) is None
    except Unavailable:  # the database is away: looked for again later
        return False
