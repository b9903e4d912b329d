"""The events of a job: a stream that goes on after a lost connection, or pages where no stream comes through."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx

from fedlas.client._async.final import FINAL
from fedlas.client._async.pages import AsyncPages
from fedlas.client._async.transport import AsyncTransport
from fedlas.client.errors import Overloaded, ServerError, WaitTimeout
from fedlas.client.records.events import Event
from fedlas.client.records.page import Page
from fedlas.client.records.runs import JobRecord
from fedlas.client.retrying import backoff
from fedlas.client.server_sent_events import EventReader
from fedlas.client.waiting import async_sleep

#: The server says something at least every 15 s.
_SILENCE_S = 45.0
#: After so many streams without an event something between here and the server keeps them back.
_MOST_EMPTY_STREAMS = 3
_POLL_S = 5.0


async def events_of(
    transport: AsyncTransport, job_path: str, *, after: int, deadline: float | None
) -> AsyncIterator[Event]:
    """Events after number `after`, oldest first, until the job has ended; raises WaitTimeout."""
    known, empty = after, 0
    while empty < _MOST_EMPTY_STREAMS:
        begun = known
        try:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(known)}
            timeout = _SILENCE_S if deadline is None else max(0.1, min(_SILENCE_S, deadline - time.monotonic()))
            async with transport.stream(f"{job_path}/events", headers=headers, timeout=timeout) as response:
                if response.status_code == 204:
                    return  # it has ended, and all is known
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    break
                reader = EventReader()
                async for line in response.aiter_lines():
                    event = reader.feed(line)
                    if event is not None and event.id > known:
                        known = event.id
                        yield event
                    _check(deadline)
        except (httpx.TransportError, Overloaded, ServerError):
            _check(deadline)
        empty = empty + 1 if known == begun else 0
        if empty:
            await async_sleep(backoff(empty - 1))
    async for event in _polled(transport, job_path, known, deadline):
        yield event


async def _polled(transport: AsyncTransport, job_path: str, known: int, deadline: float | None) -> AsyncIterator[Event]:
    while True:
        _check(deadline)
        job = await transport.read(JobRecord, "GET", job_path, params={"wait": _POLL_S})  # before its events
        new: list[Event] = []
        pages = AsyncPages(transport, Page[Event], f"{job_path}/events", {}, limit=None, cursor=lambda event: event.id)
        async for event in pages:
            if event.id <= known:
                break
            new.append(event)
        for event in reversed(new):
            known = event.id
            yield event
        if job.status in FINAL:
            return


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise WaitTimeout("the job has not ended in the time that was given; it goes on")
