"""The keys that control has admitted or refused, remembered for seconds by their digests.

A key that was admitted before is asked about at once. Of others, any number of which strangers may send, so many are
asked about in a second; the next ones wait, and beyond that their requests are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from service.registry.errors import Overloaded
from service.serving.turns import Turns

_REMEMBERED_S = 5.0
#: They have places of their own: no number of wrong keys makes a good one be asked about again.
_MOST_ADMITTED, _MOST_REFUSED = 1000, 4096
#: Questions about keys that are refused: so many take a hundredth of control's core, at 11 µs each.
_UNKNOWN_PER_S, _UNKNOWN_AT_ONCE, _LONGEST_WAIT_S = 1000, 1000, 0.5


class RememberedKeys:
    """Which keys are admitted; on the event loop.

    Args:
        ask: asks control about one; raises ControlAway.
    """

    def __init__(self, ask: Callable[[bytes], Awaitable[bool]]) -> None:
        self._ask = ask
        self._admitted: OrderedDict[bytes, float] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[bool]] = {}
        self._unknown = Turns(per_second=_UNKNOWN_PER_S, most=_UNKNOWN_AT_ONCE)
        self._since = 0.0  # what was answered before is not remembered any more

    def known(self, authorization: bytes) -> bool | None:
        """Whether this was admitted or refused within the last seconds; None where it has to be asked."""
        digest, since = _digest(authorization), max(self._since, time.monotonic() - _REMEMBERED_S)
        if self._admitted.get(digest, since) > since:
            return True
        return False if self._refused.get(digest, since) > since else None

    async def ask(self, authorization: bytes) -> bool:
        """Ask control, once for all requests of this moment; raises ControlAway, Overloaded."""
        digest = _digest(authorization)
        if (asking := self._asking.get(digest)) is None:
            asking = self._asking[digest] = asyncio.ensure_future(self._asked(digest, authorization))
            asking.add_done_callback(lambda task: self._answered(digest, task))
        return await asyncio.shield(asking)

    def forget(self) -> None:
        """Ask again before the next answer."""
        self._since = time.monotonic()

    async def _asked(self, digest: bytes, authorization: bytes) -> bool:
        is_new = digest not in self._admitted
        if is_new and not await self._unknown.turn(longest=_LONGEST_WAIT_S):
            raise Overloaded("overloaded", "too many unknown keys are being sent; try again in 1 s", retry_after=1)
        asked_at = time.monotonic()
        admitted = await self._ask(authorization)
        if is_new and admitted:
            self._unknown.give_back()
        self._note(digest, asked_at, admitted)
        return admitted

    def _note(self, digest: bytes, asked_at: float, admitted: bool) -> None:
        self._admitted.pop(digest, None)
        answers, most = (self._admitted, _MOST_ADMITTED) if admitted else (self._refused, _MOST_REFUSED)
        answers[digest] = asked_at
        answers.move_to_end(digest)
        if len(answers) > most:
            answers.popitem(last=False)

    def _answered(self, digest: bytes, task: asyncio.Task[bool]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            task.exception()  # raised by every request that waited


def _digest(authorization: bytes) -> bytes:
    return hashlib.sha256(authorization).digest()
