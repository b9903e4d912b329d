"""The end of a process one of whose runs does not end.

What others wait for is answered first, if that is quick, and their connections are handed over: who has no request
under way notices nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from service.server import STUCK_EXIT_CODE, Server

_LOG = logging.getLogger("fedlas.api")
#: For the requests in flight, then for the refusals of those that are not answered by then.
_LAST_ANSWERS_S, _REFUSALS_S = 0.3, 0.1


class Ending:
    """Ends the process once; on the event loop.

    Args:
        begun: called with the file at fault: no request is taken any more.

    Attributes:
        server: its connections are handed over, those with a request under way after their answers.
        give_up: refuses what has no answer yet.
    """

    def __init__(self, begun: Callable[[str], None]) -> None:
        self._begun = begun
        self._task: asyncio.Task[None] | None = None
        self.server: Server | None = None
        self.give_up: Callable[[], None] = lambda: None

    def __call__(self, digest: str) -> None:
        """A run of this served copy does not end."""
        if self._task is None:
            _LOG.critical("a run of the served copy %s does not end: the process ends", digest)
            self._begun(digest)
            self._task = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        try:
            if self.server is not None:
                await self.server.depart(seconds=_LAST_ANSWERS_S)
                self.give_up()
                await self.server.depart(seconds=_REFUSALS_S)
        finally:
            os._exit(STUCK_EXIT_CODE)
