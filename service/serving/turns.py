"""Turns: so many of something begin in a second, and the next ones wait a little."""

from __future__ import annotations

import asyncio

from service.ipc.token_bucket import TokenBucket


class Turns(TokenBucket):
    """A token bucket that is waited for; on the event loop."""

    async def turn(self, *, longest: float) -> bool:
        """Wait for a token that is not owed; False, and none is taken, where that would take longer than this."""
        if self.take(0) > longest:
            return False
        if (wait := self.take(1)) > 0:
            await asyncio.sleep(wait)
        return True

    def give_back(self) -> None:
        """Put back a token that was not needed."""
        self.take(-1)
