"""Work that is waited for: the events of a job, and long polls until a record is final.

A stream goes on after a lost connection, or becomes pages where no stream comes through. `EventReader`, `EventStream`
and `LongPoll` send nothing: both clients ask them what comes next.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx

from fedlas.client import problems
from fedlas.client.errors import (
    APIConnectionError,
    JobCancelled,
    JobFailed,
    RateLimitError,
    Rejected,
    ServerError,
    WaitTimeout,
    WorkFailed,
)
from fedlas.client.problems import backoff
from fedlas.client.transport import Transport
from fedlas.contract.base import ANOTHER_VERSION, Page
from fedlas.contract.events import JOB_EVENT, JobEvent
from fedlas.contract.records import FINAL, JobRecord, Record, RecordError

R = TypeVar("R", bound=Record)
#: Errors after which perhaps only streams do not come through.
NO_STREAM = (APIConnectionError, RateLimitError, ServerError)
#: The server says something at least every 15 s.
_MAX_SILENCE_S = 45.0
#: After so many streams without an event something between here and the server keeps them back.
_MAX_EMPTY_STREAMS = 3
#: Nothing else ends a line of a stream: the data may hold what Python and others take for line ends, too.
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")
_PER_PAGE = 100
EVENTS_POLL_S = 5.0
_POLL_S = 10.0
#: The first answer comes sooner, since no worker may be there at all.
_FIRST_POLL_S = 1.0
_ANSWER_S = 30.0


class EventReader:
    """Server-sent events (html.spec.whatwg.org), read as their text arrives.

    Of a field only the data matters, which holds the whole record.

    >>> reader = EventReader()
    >>> record = '{"id":1,"type":"stage","at":"2026-05-04T10:00:00Z","data":{"stage":"training"}}'
    >>> reader.feed(f": connected\\n\\nid: 1\\ndata: {record[:20]}")
    []
    >>> [(event.id, event.type) for event in reader.feed(f"{record[20:]}\\n\\n")]
    [(1, 'stage')]
    """

    def __init__(self) -> None:
        self._rest = ""
        self._data: list[str] = []

    def feed(self, text: str) -> list[JobEvent]:
        """The events that end within this text; raises ValueError for one that cannot be read."""
        *lines, self._rest = _LINE_END.split(self._rest + text)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> JobEvent | None:
        """The event that ends with this line; comments keep the connection open."""
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        data, self._data = "\n".join(self._data), []
        return JOB_EVENT.validate_json(data, extra="allow", context=ANOTHER_VERSION) if data else None


class EventStream:
    """The place of somebody who follows a job's events from number `after` on, over connections, until `deadline`."""

    def __init__(self, job_path: str, *, after: int, deadline: float | None) -> None:
        self.path, self.known, self._deadline = f"{job_path}/events", after, deadline
        self._empty = 0

    @property
    def comes_through(self) -> bool:
        """Streams have brought events, or may yet do so."""
        return self._empty < _MAX_EMPTY_STREAMS

    def connection(self) -> dict[str, Any]:
        """The arguments of a request for the events to come; raises WaitTimeout."""
        self._before, self._renewed, self._reader = self.known, False, EventReader()
        self._allowed_s = self.silence_s()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.known)}
        return {"path": self.path, "headers": headers, "timeout": self._allowed_s}

    def feed(self, response: httpx.Response, text: str) -> list[JobEvent]:
        """The new events in the text; raises Unreadable."""
        try:
            return self.new(self._reader.feed(text))
        except ValueError:
            raise problems.Unreadable(f"{problems.describe(response)}, in which an event is not as expected") from None

    def new(self, events: list[JobEvent]) -> list[JobEvent]:
        fresh = [event for event in events if event.id > self.known]
        self.known = max([self.known, *(event.id for event in fresh)])
        return fresh

    def must_renew(self) -> bool:
        """The connection would be waited for longer than there is time; raises WaitTimeout."""
        self._renewed = self.silence_s() < self._allowed_s - 1
        return self._renewed

    def ended(self) -> float:
        """Note that a connection has ended; returns the seconds until the next."""
        self._empty = 0 if self.known > self._before or self._renewed else self._empty + 1
        return backoff(self._empty - 1) if self._empty else 0.0

    def silence_s(self) -> float:
        """How long a stream may say nothing; raises WaitTimeout where no time is left."""
        left = _MAX_SILENCE_S if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeout("the job has not ended in the time that was given; it goes on")
        return min(left, _MAX_SILENCE_S)

    def page(self, before: list[JobEvent]) -> dict[str, Any]:
        """The parameters of the page of events that follows these, the newest first."""
        return {"limit": _PER_PAGE, **({"after": before[-1].id} if before else {})}

    def needs_more(self, page: Page[JobEvent]) -> bool:
        """Older events than those of this page may be unknown, too."""
        return page.has_more and bool(page.data) and page.data[-1].id > self.known


class LongPoll:
    """Asking for a record again and again, for `wait_timeout` seconds; the server holds each request for a while."""

    def __init__(self, wait_timeout: float | None) -> None:
        self.wait_timeout = wait_timeout
        self.deadline = None if wait_timeout is None else time.monotonic() + wait_timeout
        self._patience = _FIRST_POLL_S

    def options(self) -> dict[str, Any]:
        now = time.monotonic()
        left = self._patience if self.deadline is None else min(self._patience, max(0.0, self.deadline - now))
        self.began, self._patience = now, _POLL_S
        return {"params": {"wait": f"{left:.3f}"}, "timeout": left + _ANSWER_S}

    def is_final(self, record: Record) -> bool:
        """The record will not change again; raises WaitTimeout where it may and no time is left."""
        if record.status in FINAL:
            return True
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise WaitTimeout(f"{record.id} is still {record.status} after {self.wait_timeout:g} s; it goes on")
        return False


def pause_s(began: float, deadline: float | None) -> float:
    """Seconds that are left of the second since a request began, however soon its answer came, and of the time."""
    end = began + 1.0
    return max(0.0, min(end, deadline or end) - time.monotonic())


def failure_of(record: Record) -> WorkFailed | None:
    """Error of a record without a result; None where it has one, or is not at its end."""
    if record.status == "cancelled":
        return JobCancelled("job_cancelled", f"{record.id} was cancelled", record=record)
    if record.status not in ("failed", "rejected"):
        return None
    error = record.error or RecordError(code="unknown", message="no reason was given")
    kind = Rejected if record.status == "rejected" else JobFailed
    return kind(error.code, error.message, record=record, user_error=error.user_error)


def until_final(transport: Transport, kind: type[R], path: str, poll: LongPoll, *, check: bool = True) -> R:
    """The record when it is final; raises WaitTimeout and, with `check`, why it has no result."""
    while not poll.is_final(record := _look(transport, kind, path, **poll.options())):
        time.sleep(pause_s(poll.began, poll.deadline))
    if check and (error := failure_of(record)) is not None:
        raise error
    return record


def _look(transport: Transport, kind: type[R], path: str, **given: Any) -> R:
    record = transport.read(kind, "GET", path, **given)
    transport.warn_of(record.waiting_for, record.id)
    return record


def events_of(transport: Transport, job_path: str, *, after: int, deadline: float | None) -> Iterator[JobEvent]:
    """Events after number `after`, oldest first, until the job has ended; raises WaitTimeout."""
    stream = EventStream(job_path, after=after, deadline=deadline)
    while stream.comes_through:
        try:
            with transport.stream(**stream.connection()) as response:
                if response.status_code == 204:
                    return  # it has ended, and all is known
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    break
                for text in response.iter_text():
                    with transport.readable(response):
                        events = stream.feed(response, text)
                    yield from events
                    if text.startswith(":"):  # a comment: the stream has begun, or nothing has happened for a while
                        _look(transport, JobRecord, job_path, timeout=stream.silence_s())
                    if stream.must_renew():
                        break
        except httpx.TransportError:
            stream.silence_s()
        except NO_STREAM:
            break
        time.sleep(stream.ended())
    yield from _polled(transport, job_path, stream, deadline)


def _polled(transport: Transport, job_path: str, stream: EventStream, deadline: float | None) -> Iterator[JobEvent]:
    while True:
        stream.silence_s()
        began = time.monotonic()
        job = _look(transport, JobRecord, job_path, params={"wait": EVENTS_POLL_S})  # before its events
        events: list[JobEvent] = []
        more = True
        while more:
            page = transport.read(Page[JobEvent], "GET", stream.path, params=stream.page(events))
            events += page.data
            more = stream.needs_more(page)
        yield from stream.new(events[::-1])
        if job.status in FINAL:
            return
        time.sleep(pause_s(began, deadline))
