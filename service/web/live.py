"""`/live`: jobs as they happen, as parts of pages in a stream of server-sent events, one stream for a browser.

The event of a job has the job's id as its name, and as its data the part of its page that changes. Each job is followed
once, and drawn once for all its readers, whenever it has changed: a page that is open holds no thread and no connection
to the database, and costs no drawing of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from service.api.plumbing.long_poll import LongPoll
from service.registry.errors import NotFound, Unavailable
from service.registry.registry import Registry
from service.web.jobs import FollowedJob
from service.web.rendering import environment

router = APIRouter(include_in_schema=False)

_LOG = logging.getLogger(__name__)

#: A job is drawn twice in a second at most.
_INTERVAL_S = 0.5
#: Progress comes without an event: it is looked for so often.
_PATIENCE_S = 2.0
#: Proxies close connections on which nothing happens, many after 30 s or 60 s.
_HEARTBEAT_S = 15.0
#: Sending a part to 200 pages in one go would hold up everybody else for 50 ms.
_TOLD_AT_ONCE = 10
_PAUSE_S = 0.005
#: The id of a stream's last event: a browser that comes back with it has had everything.
END = "end"
_END = format_sse_event(event=END, id=END, data_str="all jobs have ended")
_AWAY = format_sse_event(event="away", data_str="the database does not answer")
_BACK = format_sse_event(event="back", data_str="the database answers again")
#: `X-Accel-Buffering` is nginx's: it would keep a stream back until 4 KiB are together.
_STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

JobId = Annotated[str, Query(pattern="^job_[0-9a-z]{26}$")]


@router.get("/live")
async def live(
    request: Request,
    job: Annotated[list[JobId], Query(min_length=1, max_length=20)],
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """The stream; a browser that has seen its end learns not to come back."""
    if last_event_id == END:
        return Response(status_code=204, headers=_STREAMED)
    live_jobs: LiveJobs = request.app.state.live_jobs
    return EventSourceResponse(live_jobs.stream(list(dict.fromkeys(job))), headers=_STREAMED)


class Frame(NamedTuple):
    """A job as its listeners are sent it, written once for all of them; `final` where no other follows."""

    content: bytes
    last_event: int
    final: bool


@dataclass(eq=False)
class _Watched:
    """A job, and for each open page that looks at it an event that tells it of news.

    Attributes:
        away: the database cannot be asked for it just now.
    """

    followed: FollowedJob
    listeners: set[asyncio.Event] = field(default_factory=set)
    frame: Frame | None = None
    away: bool = False
    task: asyncio.Task[None] | None = None


class LiveJobs:
    """Follows jobs for as long as they have listeners."""

    def __init__(self, registry: Registry, long_poll: LongPoll) -> None:
        self._registry = registry
        self._long_poll = long_poll
        self._watched: dict[str, _Watched] = {}

    async def stream(self, job_ids: Sequence[str]) -> AsyncGenerator[bytes]:
        """The states of some jobs, now and whenever one has changed, until all have ended.

        Something comes with every heartbeat at least, so that the caller can end the stream then.
        """
        news = asyncio.Event()
        watched = {job_id: self._join(job_id, news) for job_id in job_ids}
        try:
            yield format_sse_event(comment="connected")
            sent: dict[str, Frame] = {}
            was_away = False
            while not self._long_poll.closed:
                if (away := any(one.away for one in watched.values())) != was_away:
                    was_away = away
                    yield _AWAY if away else _BACK
                for job_id, one in watched.items():
                    if one.frame is not None and sent.get(job_id) is not one.frame:
                        sent[job_id] = one.frame
                        yield one.frame.content
                if len(sent) == len(watched) and all(frame.final for frame in sent.values()):
                    yield _END
                    return
                try:
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await news.wait()
                except TimeoutError:
                    yield KEEPALIVE_COMMENT
                news.clear()
        finally:
            for one in watched.values():
                self._leave(one, news)

    def _join(self, job_id: str, news: asyncio.Event) -> _Watched:
        watched = self._watched.get(job_id)
        if watched is None:
            watched = self._watched[job_id] = _Watched(FollowedJob(self._registry, job_id))
            watched.task = asyncio.create_task(self._watch(watched))
        watched.listeners.add(news)
        return watched

    def _leave(self, watched: _Watched, news: asyncio.Event) -> None:
        watched.listeners.discard(news)
        if not watched.listeners:
            del self._watched[watched.followed.job_id]
            if watched.task is not None:
                watched.task.cancel()

    async def _watch(self, watched: _Watched) -> None:
        """Draw the job, wait until something has happened to it, draw it again."""
        job_id = watched.followed.job_id
        frame: Frame | None = None
        while not self._long_poll.closed:
            try:
                frame = await run_in_threadpool(drawn, watched.followed)
                await self._publish(watched, frame, away=False)
            except Unavailable:  # what was drawn stays
                await self._publish(watched, watched.frame, away=True)
            except Exception:  # one job that cannot be drawn must not end the pages of others
                _LOG.exception("the page of %s cannot be drawn just now", job_id)
            if frame is not None and frame.final:
                return
            await asyncio.sleep(_INTERVAL_S)
            await self._long_poll.for_events(job_id, 0 if frame is None else frame.last_event, _PATIENCE_S)
        for news in watched.listeners:  # the process stops, and the streams end
            news.set()

    async def _publish(self, watched: _Watched, frame: Frame | None, *, away: bool) -> None:
        """Tell all listeners what is new, some at a time: requests that wait are answered in between."""
        if frame is None or (watched.frame is not None and watched.frame.content == frame.content):
            frame = watched.frame
        if frame is watched.frame and away == watched.away:
            return
        watched.frame, watched.away = frame, away
        for number, news in enumerate(list(watched.listeners), 1):
            news.set()
            if number % _TOLD_AT_ONCE == 0:
                await asyncio.sleep(_PAUSE_S)


def drawn(followed: FollowedJob) -> Frame:
    """The job as it is now, as the event of a stream; one that is gone says so."""
    try:
        view = followed.view()
    except NotFound:
        html = environment().get_template("jobs/gone.html.jinja").render()
        return Frame(format_sse_event(event=followed.job_id, id="gone", data_str=html), 0, final=True)
    html = environment().get_template("jobs/live.html.jinja").render(view=view)
    event = format_sse_event(event=view.job.id, id=f"{view.job.id}:{view.last_event}", data_str=html)
    return Frame(event, view.last_event, view.ended)
