"""The threads that read and write large bodies: a body that takes long must not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service.registry.errors import Overloaded
from service.serving.deadlines import too_late

T = TypeVar("T")
_THREADS = 2


class FormatThreads:
    """A small pool with a bounded queue, used on the event loop."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="formats")
        self._free = asyncio.Semaphore(_THREADS)
        self._waiting = 0  # for a thread, or for its result

    async def run(self, until: float, function: Callable[..., T], *args: object) -> T:
        """Return `function(*args)`.

        Raises:
            DeadlineExceeded: at `until`, on the clock of the event loop; what was not begun by then never is.
            Overloaded: where too many calls wait already.
        """
        if self._waiting >= self._max_waiting:
            message = f"{self._waiting} bodies and answers wait to be read or written; try again in 1 s"
            raise Overloaded("overloaded", message, retry_after=1)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                # Not in the queue of the pool: it would keep the bodies of requests that are given up.
                await self._free.acquire()
                return await asyncio.wrap_future(self._submitted(function, *args))
        except TimeoutError:
            raise too_late() from None
        finally:
            self._waiting -= 1

    def shut_down(self) -> None:
        """End the pool; what was not begun is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(self, function: Callable[..., T], *args: object) -> Future[T]:
        """The work in a thread, which is free again at its end even if no request waits for it any more."""
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._free.release)

        work = self._pool.submit(function, *args)
        work.add_done_callback(ended)
        return work
