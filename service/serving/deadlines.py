"""Deadlines of inference: outputs are awaited until the deadline or until the client disconnects."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.inference.standard_outputs import Outputs
from service.registry.errors import DeadlineExceeded, InvalidRequest

#: Most answers are there sooner; only for the others it is worth detecting a disconnect.
_LISTEN_AFTER_S = 0.02
_LONGEST_S = 3600.0


async def outputs_in_time(future: asyncio.Future[Outputs], receive: Receive, *, until: float) -> Outputs:
    """The outputs, as soon as the scheduler has them.

    Args:
        until: on the clock of the event loop.

    Raises:
        DeadlineExceeded: at that time; rows that still wait are given up.
        ClientDisconnect: when the client disconnects; rows that still wait are given up.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    listeners: list[asyncio.Task[None]] = []
    timer = loop.call_later(
        min(_LISTEN_AFTER_S, max(0.0, until - loop.time())),
        lambda: listeners.append(asyncio.ensure_future(_listen(future, receive, until))),
    )
    try:
        return await future
    finally:
        timer.cancel()
        for listener in listeners:
            listener.cancel()


async def _listen(future: asyncio.Future[Outputs], receive: Receive, until: float) -> None:
    reason: Exception
    try:
        async with asyncio.timeout_at(until):
            while (await receive())["type"] != "http.disconnect":
                pass
        reason = ClientDisconnect()
    except TimeoutError:
        reason = too_late()
    with suppress(asyncio.InvalidStateError):
        future.set_exception(reason)


def too_late() -> DeadlineExceeded:
    """The error of a request whose time is up."""
    return DeadlineExceeded("deadline_exceeded", "the answer was not ready in the time that the request gives")


def seconds_given(text: str, most: float) -> float:
    """The seconds that `X-Request-Timeout` gives, at most `most`; raises InvalidRequest."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= _LONGEST_S:
        needed = f"needed are seconds, more than 0 and at most {_LONGEST_S:.0f}"
        raise InvalidRequest("invalid_request", f"X-Request-Timeout is {text[:40]!r}; {needed}")
    return min(seconds, most)
