"""Deadlines of inference: outputs are awaited until the deadline or until the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.inference.standard_outputs import Outputs
from service.registry.errors import DeadlineExceeded, InvalidRequest

#: Most answers are there sooner; only for the others it is worth detecting a disconnect.
_LISTEN_AFTER_S = 0.02
_LONGEST_S = 3600.0


class Waits:
    """The requests that wait for outputs, until their deadlines or until their clients disconnect.

    One timer serves all of them: most outputs are there before it fires, and one for each request takes longer than all
    that is done with its answer.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Outputs], _Wait] = {}  # those without a listener
        self._listening: set[asyncio.Future[Outputs]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def outputs(self, future: asyncio.Future[Outputs], receive: Receive, *, until: float) -> Outputs:
        """The outputs, as soon as the scheduler has them.

        Args:
            until: on the clock of the event loop.

        Raises:
            DeadlineExceeded: at that time; rows that still wait are given up.
            ClientDisconnect: when the client disconnects; rows that still wait are given up.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        wait = self._waiting[future] = _Wait(receive, until, min(now + _LISTEN_AFTER_S, until))
        if self._timer is None or wait.listen_at < self._due or loop is not self._loop:
            self._wake_at(loop, wait.listen_at)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)
            if wait.listener is not None:
                wait.listener.cancel()
                self._listening.discard(future)

    def fail(self, make: Callable[[], Exception]) -> None:
        """Set an error as the result of all that is awaited: the process ends."""
        for future in (*self._waiting, *self._listening):
            if not future.done():
                future.set_exception(make())

    def _wake_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop, self._due = loop, due
        self._timer = loop.call_at(due, self._listen_to_late, loop)

    def _listen_to_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for future, wait in list(self._waiting.items()):
            if wait.listen_at <= now:
                del self._waiting[future]  # thousands may wait for a slow model, and each wake-up looks at all here
                wait.listener = loop.create_task(_listen(future, wait.receive, wait.until))
                self._listening.add(future)
        if self._waiting:
            self._wake_at(loop, min(wait.listen_at for wait in self._waiting.values()))


@dataclass(slots=True)
class _Wait:
    """A request that waits, and from when on it is worth detecting its disconnect."""

    receive: Receive
    until: float
    listen_at: float
    listener: asyncio.Task[None] | None = None


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
