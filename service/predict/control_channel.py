"""The channel to control: counts, spans, wishes and connections go there, connections come from there.

Nothing is asked: a served copy that is not in the folder is wanted, and a moment later it lies there, or why not.
So many are wanted in a second, since clients may make up any number of ids; the next ones are refused.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version

from pydantic import TypeAdapter

from service.ipc import reader
from service.ipc.channel import Channel, Full, Packet, TokenBucket
from service.ipc.documents import (
    MAX_WANTED,
    SERVING,
    WANTED_PER_S,
    Connection,
    Count,
    Counted,
    Done,
    Leaving,
    Open,
    Spans,
    Stuck,
    ToServing,
    Wanted,
    place_of_request,
    refusal_of,
)
from service.ipc.reader import TCP, Adoption, BackgroundTasks, Reader
from service.predict.repository import ModelRepository
from service.registry.errors import Overloaded, RegistryError

#: How soon it is looked again whether a served copy is there, and how often control is told: it may be started again.
_LOOK_EVERY_S = 0.005
_TELL_EVERY_S = 0.5
_LOG = logging.getLogger(__name__)
_READ: TypeAdapter[ToServing] = TypeAdapter(ToServing)


class ControlChannel:
    """The end of a process on its channel to control; on the event loop.

    Args:
        provider: what its models run on.
    """

    def __init__(self, end: socket.socket, *, provider: str) -> None:
        self._channel: Channel[ToServing] = Channel(end, _READ, rate=reader.sent())
        self._provider = provider
        self._reader = Reader(self._channel, self._take, name="control")
        self._wanted: dict[str, float] = {}  # since when control knows
        self._bucket = TokenBucket(per_second=WANTED_PER_S, most=MAX_WANTED)
        self._tasks = BackgroundTasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adoption = Adoption(self._hand_back, TCP | {socket.AF_UNIX})  # those are of control's pages
        self._repository: ModelRepository | None = None
        self._counted: Callable[[], bytes] = bytes

    def start(
        self, protocol: Callable[[bytes], asyncio.Protocol], repository: ModelRepository, counted: Callable[[], bytes]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._adoption.begin(protocol)
        self._repository = repository
        self._counted = counted
        self._reader.start()

    async def want(self, model_id: str) -> None:
        """Have control put a served copy into the folder, and wait a moment; raises Overloaded."""
        now = time.monotonic()
        if now - self._wanted.get(model_id, 0.0) > _TELL_EVERY_S:
            if self._bucket.take(0) > 0:
                raise Overloaded("overloaded", "too many unknown models are asked for; try again in 1 s", retry_after=1)
            self._bucket.take(1)
            self._wanted = {known: since for known, since in self._wanted.items() if now - since < _TELL_EVERY_S}
            self._wanted[model_id] = now
            self._channel.offer(Wanted(model=model_id))
        await asyncio.sleep(_LOOK_EVERY_S)

    def tell_counts(self) -> None:
        """Send what was counted so far; later, where control does not read."""
        self._channel.offer(Counted(release=version("fedlas"), provider=self._provider), self._counted())

    def tell_spans(self, spans: bytes) -> None:
        """Send spans that have ended, from any thread; they are dropped where control does not read."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._channel.offer, Spans(), spans)
        except RuntimeError:  # the loop has ended, and with it the only other thread that sends
            self._channel.offer(Spans(), spans)

    def leave(self) -> None:
        """Say that this process stops: it answers the connections that it has."""
        self._channel.offer(Leaving())

    def adopt_no_more(self) -> None:
        """Give connections that still come to control, which knows that this process stops."""
        self._adoption.end()

    def stuck(self, digest: str) -> None:
        """Say that a run does not end, and take nothing any more: the process ends."""
        self._reader.stop()
        self.tell_counts()
        self._channel.offer(Stuck(digest=digest))

    # Connections (HandOver)

    def is_elsewhere(self, path: bytes) -> bool:
        return place_of_request(path) != SERVING

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        return self._channel.offer(Connection(), received, [descriptor])

    def _take(self, packet: Packet[ToServing]) -> None:
        match packet.document:
            case Connection():
                self._adoption.adopt(packet)  # type: ignore[arg-type]
            case Count(number=number):
                self.tell_counts()
                self._channel.offer(Done(number=number))
            case Open() as document:
                self._tasks.begin(self._open(document), "what control has asked for")

    def _hand_back(self, packet: Packet[Connection]) -> None:
        with suppress(Full):
            self._channel.pass_on(packet)  # type: ignore[arg-type]

    async def _open(self, document: Open) -> None:
        assert self._repository is not None
        try:
            await self._repository.ready(document.called, document.version)
            self._channel.offer(Done(number=document.number))
        except RegistryError as error:
            self._channel.offer(refusal_of(document.number, error))
