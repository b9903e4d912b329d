"""A serving process as control sees it: its connections are adopted, its counts kept, and what it wants is served.

It may have been taken over: what it sends is validated and bounded, and nothing is answered but by files of the served
folder, which all such processes read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata

from anyio import CapacityLimiter, to_thread
from pydantic import TypeAdapter

from service.control.suspension import Suspension
from service.ipc import reader
from service.ipc.channel import Channel, Packet, TokenBucket
from service.ipc.documents import (
    MAX_WANTED,
    WANTED_PER_S,
    Connection,
    Counted,
    Done,
    Leaving,
    Refusal,
    Spans,
    Stuck,
    ToControl,
    Wanted,
)
from service.ipc.reader import Adoption, BackgroundTasks, Questions, Reader
from service.registry.errors import RegistryError
from service.served.writer import ServedWriter
from service.serving_counts import ServingCounts

_LOG = logging.getLogger(__name__)
READ: TypeAdapter[ToControl] = TypeAdapter(ToControl)
#: Wishes of one process that are being met; others wait in its channel.
_MAX_WISHES = 64
#: Threads for them, of all processes: a file in a bucket takes a while.
_GIVERS = 4


@dataclass(frozen=True)
class Known:
    """Shared parts of control that take what all serving processes send."""

    served: ServedWriter
    suspension: Suspension
    counts: ServingCounts
    adoption: Adoption
    on_spans: Callable[[bytes], None]
    givers: CapacityLimiter = field(default_factory=partial(CapacityLimiter, _GIVERS))


class ServingPeer:
    """One serving process.

    Args:
        on_leaving: called when it takes no connections any more.
        on_fault: called with what is wrong where it floods control, or cannot be understood.

    Attributes:
        provider: what its models run on; None until it says so.
    """

    def __init__(
        self,
        name: str,
        pid: int,
        channel: Channel[ToControl],
        known: Known,
        *,
        on_leaving: Callable[[ServingPeer], None],
        on_fault: Callable[[ServingPeer, str], None],
    ) -> None:
        self.name = name
        self.pid = pid
        self.provider: str | None = None
        self.ended = False
        self._ends = False
        self._wishes = TokenBucket(per_second=WANTED_PER_S, most=MAX_WANTED)
        self.channel = channel
        self.questions = Questions(channel)
        self._known = known
        self._on_leaving = on_leaving
        self._reader = Reader(channel, self._take, name=name, rate=reader.read(), on_fault=partial(on_fault, self))
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        self._reader.start()

    def close(self) -> None:
        """Take what it has sent last, and answer no more: it has ended."""
        self.ended = True
        self._reader.take_rest()
        self._reader.stop()
        self.questions.end()
        self.channel.close()

    def _take(self, packet: Packet[ToControl]) -> None:
        match packet.document:
            case Connection():
                self._known.adoption.adopt(packet)  # type: ignore[arg-type]
            case Wanted(model=model_id) if self._wishes.take(0) == 0:
                self._wishes.take(1)
                self._answer(self._give(model_id))
            case Done() | Refusal():
                self.questions.answered(packet)  # type: ignore[arg-type]
            case Counted() as counted:
                self._known.counts.tell(self.name, packet.content)
                if self.provider is None and counted.release != (own := metadata.version("fedlas")):
                    _LOG.warning("%s is of release %s, control of %s: restart all", self.name, counted.release, own)
                self.provider = counted.provider
            case Spans():
                self._known.on_spans(packet.content)
            case Stuck(digest=digest) if not self._ends and self._known.served.holds(digest):
                self._ends = True
                self._known.suspension.ended(digest, self.name)
            case Leaving() if not self.ended:
                self._on_leaving(self)

    def _answer(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.begin(work, f"a wish of {self.name}").add_done_callback(self._answered)
        if len(self._tasks) == _MAX_WISHES:
            self._reader.hold()

    def _answered(self, task: asyncio.Task[None]) -> None:
        if len(self._tasks) == _MAX_WISHES - 1:
            self._reader.release()

    async def _give(self, model_id: str) -> None:
        with suppress(RegistryError):  # as the log says; it is asked for again
            await to_thread.run_sync(self._known.served.give, model_id, limiter=self._known.givers)
