# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""The events of a job: a stream that goes on after a lost connection, or pages where no stream comes through."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx

from fedlas.client import problems
from fedlas.client._sync.final import FINAL, look, pause
from fedlas.client._sync.pages import Pages
from fedlas.client._sync.transport import Transport
from fedlas.client.errors import Overloaded, ServerError, ServerUnreachable, WaitTimeout
from fedlas.client.records.events import Event
from fedlas.client.records.page import Page
from fedlas.client.records.runs import JobRecord
from fedlas.client.retrying import backoff
from fedlas.client.server_sent_events import EventReader
from fedlas.client.waiting import sleep

#: The server says something at least every 15 s.
_SILENCE_S = 45.0
#: After so many streams without an event something between here and the server keeps them back.
_MOST_EMPTY_STREAMS = 3
_POLL_S = 5.0


def events_of(transport: Transport, job_path: str, *, after: int, deadline: float | None) -> Iterator[Event]:
    """Events after number `after`, oldest first, until the job has ended; raises WaitTimeout."""
    known, empty = after, 0
    while empty < _MOST_EMPTY_STREAMS:
        before, renewed = known, False
        silence = _silence(deadline)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(known)}
        try:
            with transport.stream(f"{job_path}/events", headers=headers, timeout=silence) as response:
                if response.status_code == 204:
                    return  # it has ended, and all is known
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    break
                reader = EventReader()
                for text in response.iter_text():
                    for event in _read(transport, response, reader, text):
                        if event.id > known:
                            known = event.id
                            yield event
                    if text.startswith(":"):  # a comment: the stream has begun, or nothing has happened for a while
                        look(transport, JobRecord, job_path, timeout=_silence(deadline))
                    renewed = _silence(deadline) < silence - 1  # else it would be waited for too long
                    if renewed:
                        break
        except httpx.TransportError:
            _silence(deadline)
        except (ServerUnreachable, Overloaded, ServerError):
            break  # perhaps only streams do not come through
        empty = 0 if known > before or renewed else empty + 1
        if empty:
            sleep(backoff(empty - 1))
    for event in _polled(transport, job_path, known, deadline):
        yield event


def _read(transport: Transport, response: httpx.Response, reader: EventReader, text: str) -> list[Event]:
    try:
        return reader.feed(text)
    except ValueError:
        found = f"{problems.describe(response)}, in which an event is not as expected"
        raise transport.mismatch(found, response) from None


def _polled(transport: Transport, job_path: str, known: int, deadline: float | None) -> Iterator[Event]:
    while True:
        _silence(deadline)
        began = time.monotonic()
        job = look(transport, JobRecord, job_path, params={"wait": _POLL_S})  # before its events
        new: list[Event] = []
        pages = Pages(transport, Page[Event], f"{job_path}/events", {}, limit=None, cursor=lambda event: event.id)
        for event in pages:
            if event.id <= known:
                break
            new.append(event)
        for event in reversed(new):
            known = event.id
            yield event
        if job.status in FINAL:
            return
        pause(began, deadline)


def _silence(deadline: float | None) -> float:
    """How long a stream may say nothing; raises WaitTimeout where no time is left."""
    left = _SILENCE_S if deadline is None else deadline - time.monotonic()
    if left <= 0:
        raise WaitTimeout("the job has not ended in the time that was given; it goes on")
    return min(left, _SILENCE_S)
