"""Long polls: a record as it is when its work has ended."""

from __future__ import annotations

import time
from typing import Any, TypeVar

from fedlas.client._async.transport import AsyncTransport
from fedlas.client.errors import JobCancelled, JobFailed, Rejected, WaitTimeout, WorkFailed
from fedlas.client.records.parts import Record, RecordError
from fedlas.client.waiting import async_sleep, warn_of

R = TypeVar("R", bound=Record)

#: Statuses after which a record never changes again.
FINAL = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})
_POLL_S = 10.0
#: The first answer comes sooner, since no worker may be there at all.
_FIRST_POLL_S = 1.0
_ANSWER_S = 30.0
_LEAST_S = 1.0


async def until_final(
    transport: AsyncTransport, kind: type[R], path: str, *, timeout: float | None, check: bool = True
) -> R:
    """The record when it is final; raises WaitTimeout and, with `check`, why it has no result."""
    deadline = None if timeout is None else time.monotonic() + timeout
    patience = _FIRST_POLL_S
    while True:
        left = patience if deadline is None else min(patience, max(0.0, deadline - time.monotonic()))
        began = time.monotonic()
        record = await look(transport, kind, path, params={"wait": f"{left:.3f}"}, timeout=left + _ANSWER_S)
        if record.status in FINAL:
            if check and (error := failure_of(record)) is not None:
                raise error
            return record
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeout(f"{record.id} is still {record.status} after {timeout:g} s; it goes on")
        await pause(began, deadline)
        patience = _POLL_S


async def look(transport: AsyncTransport, kind: type[R], path: str, **given: Any) -> R:
    """The record now; a warning is logged where something keeps it from going on."""
    record = await transport.read(kind, "GET", path, **given)
    warn_of(record.waiting_for, record.id, transport.obstacles, transport.warn)
    return record


async def pause(began: float, deadline: float | None) -> None:
    """What is asked again waits a second at least, also where the answer came at once."""
    now = time.monotonic()
    end = min(began + _LEAST_S, deadline or began + _LEAST_S)
    if now < end:
        await async_sleep(end - now)


def failure_of(record: Record) -> WorkFailed | None:
    """Why the record has no result; None where it has one, or is not at its end."""
    if record.status == "cancelled":
        return JobCancelled("job_cancelled", f"{record.id} was cancelled", record=record)
    if record.status not in ("failed", "rejected"):
        return None
    error = record.error or RecordError(code="unknown", message="no reason was given")
    kind = Rejected if record.status == "rejected" else JobFailed
    return kind(error.code, error.message, record=record, user_error=error.user_error)
