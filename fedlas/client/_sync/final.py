# Made of `fedlas/client/_async` by `python -m tests.helpers.synchronous`: change it there.
"""Long polls: a record as it is when its work has ended."""

from __future__ import annotations

import time
from typing import TypeVar

from fedlas.client._sync.transport import Transport
from fedlas.client.errors import JobCancelled, JobFailed, Rejected, WaitTimeout, WorkFailed
from fedlas.client.records.files import Calibrator, Dataset, Model
from fedlas.client.records.runs import BatchRecord, JobRecord
from fedlas.client.waiting import sleep

Record = TypeVar("Record", bound=Model | Dataset | Calibrator | JobRecord | BatchRecord)

#: Statuses after which a record never changes again.
FINAL = frozenset({"ready", "rejected", "succeeded", "failed", "cancelled"})
_POLL_S = 30.0
_ANSWER_S = 30.0
_LEAST_S = 1.0


def until_final(
    transport: Transport, kind: type[Record], path: str, *, timeout: float | None, check: bool = True
) -> Record:
    """The record when it is final; raises WaitTimeout and, with `check`, why it has no result."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
        began = time.monotonic()
        record = transport.read(kind, "GET", path, params={"wait": f"{left:.3f}"}, timeout=left + _ANSWER_S)
        if record.status in FINAL:
            if check and (error := failure_of(record)) is not None:
                raise error
            return record
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeout(f"{record.id} is still {record.status} after {timeout:g} s; it goes on")
        pause(began, deadline)


def pause(began: float, deadline: float | None) -> None:
    """What is asked again waits a second at least, also where the answer came at once."""
    now = time.monotonic()
    end = min(began + _LEAST_S, deadline or began + _LEAST_S)
    if now < end:
        sleep(end - now)


def failure_of(record: Model | Dataset | Calibrator | JobRecord | BatchRecord) -> WorkFailed | None:
    """Why the record has no result; None where it has one, or is not at its end."""
    if record.status == "cancelled":
        return JobCancelled("job_cancelled", f"{record.id} was cancelled", record=record)
    if record.status not in ("failed", "rejected"):
        return None
    error = record.error
    code, message, mine = (
        ("unknown", "no reason was given", True)
        if error is None
        else (
            error.code,
            error.message,
            error.user_error,
        )
    )
    kind = Rejected if record.status == "rejected" else JobFailed
    return kind(code, message, record=record, user_error=mine)
