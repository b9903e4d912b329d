"""The reader of a channel on an event loop, and who takes what it reads: questions that wait, connections to answer.

A process that answers predictions sends 50 KiB a second for a model that answers 11,000 predictions (counts every
second), and 6 MiB where strangers make it ask as often as it does. More
is refused on its own side, so that one whose messages exceed what control reads does not run our code any more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from service.ipc.channel import Channel, Closed, Full, Malformed, Packet, ThrottledLog, TokenBucket
from service.ipc.documents import Answer, Connection, Refusal, error_of
from service.registry.errors import PeerAway

_LOG = logging.getLogger(__name__)
_MIB = 1024**2
#: Messages of one turn of the loop: of a side that is not trusted; of the parent and the acceptor, whatever waits.
FEW = 32
ALL = 512
_MAX_REMAINING = 1000  # the kernel holds some hundred
_UNREADABLE_BYTES = 64 * 1024  # what a message costs that cannot be read
#: A sender that exceeds its rate for so long, without a pause, floods.
_FLOOD_S = 10.0
_PAUSE_S = 1.0
#: After so many messages that cannot be read it is not waited for that one can.
_MAX_UNREADABLE = 8
Incoming = TypeVar("Incoming", bound=BaseModel)
TCP = frozenset({socket.AF_INET, socket.AF_INET6})


class BackgroundTasks:
    """Keeps tasks until they have ended: the loop itself has only weak references to them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, work: Coroutine[None, None, None], what: str) -> asyncio.Task[None]:
        """Do this; `what` names it in the log."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("%s has failed", task.get_name(), exc_info=error)


def sent() -> TokenBucket:
    """Bytes that a process sends, each message counted as 4 KiB at least; four times as much after a silence."""
    return TokenBucket(per_second=12 * _MIB, most=48 * _MIB)


def read() -> TokenBucket:
    return TokenBucket(per_second=16 * _MIB, most=64 * _MIB)


class Reader(Generic[Incoming]):
    """Gives what arrives to `take`, whose files are closed after it unless they were taken.

    The other side may have been taken over: what cannot be read is counted, logged at times, and changes nothing.

    Args:
        name: of the other side, for the log.
        rate: of the bytes that are read, where the other side is not trusted: beyond it what comes waits.
        on_fault: called, again and again, with what is wrong where the other side floods or cannot be understood.
        at_once: messages of one turn. A turn may wait 5 ms for threads at work: connections should share one.
    """

    def __init__(
        self,
        channel: Channel[Incoming],
        take: Callable[[Packet[Incoming]], None],
        *,
        name: str,
        rate: TokenBucket | None = None,
        on_fault: Callable[[str], None] = lambda fault: None,
        at_once: int = FEW,
    ) -> None:
        self.unreadable = 0  # messages
        self._channel = channel
        self._take = take
        self._name = name
        self._rate = rate
        self._on_fault = on_fault
        self._at_once = at_once
        self._over_since = self._over_until = 0.0
        self._holds = 0
        self._log = ThrottledLog(_LOG)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._read)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop = None

    def take_rest(self) -> None:
        """Take what has arrived, as far as that may be much: the other side has ended."""
        for _ in range(_MAX_REMAINING):
            if self._loop is None or (self._rate is not None and self._rate.take(0) > 0) or not self._took_one():
                return

    def hold(self) -> None:
        """Read on only when `release` was called as often."""
        self._holds += 1
        if self._holds == 1 and self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if self._holds == 0 and self._loop is not None:
            self._loop.add_reader(self._channel.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(self._at_once):
            if self._loop is None or self._holds or not self._took_one():
                return

    def _took_one(self) -> bool:
        size = _UNREADABLE_BYTES
        try:
            packet = self._channel.receive()
            if packet is None:
                return False
            size = packet.size
            try:
                self._take(packet)
            finally:
                packet.close()
        except Closed:
            self.stop()
            return False
        except Malformed as error:
            self.unreadable += 1
            text = f"{self.unreadable} messages of {self._name} could not be read (if of another release, restart all)"
            self._log.warning("unreadable", f"{text}; the last: {error}")
            if self.unreadable % _MAX_UNREADABLE == 0:
                self._on_fault("sends what cannot be read here")
        except Exception as error:  # whatever the other side has sent must not end this side
            self._log.warning("failure", f"a message of {self._name} was not taken", error)
        self._pace(size)
        return True

    def _pace(self, size: int) -> None:
        if self._rate is not None and (pause := self._rate.take(size)) > 0 and self._loop is not None:
            self.hold()
            self._loop.call_later(pause, self.release)
            self._log.warning("flood", f"{self._name} sends more than it may: what it sends waits")
            self._watch(time.monotonic(), pause)

    def _watch(self, now: float, pause: float) -> None:
        """Report a flood where pauses have followed each other for long."""
        if now - self._over_until > _PAUSE_S:
            self._over_since = now
        self._over_until = now + pause
        if now - self._over_since > _FLOOD_S:
            self._over_since = now
            self._on_fault("floods control with messages")


class _Waiting(NamedTuple):
    question: BaseModel
    answer: asyncio.Future[Packet[Answer]]


class Questions:
    """Numbers questions and gives each its answer; on the event loop."""

    def __init__(self, channel: Channel[Any]) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._ended = False

    async def ask(self, document: Callable[[int], BaseModel], *, seconds: float) -> Packet[Answer]:
        """Send the document of a number and wait for the answer; raises PeerAway, or the RegistryError answered."""
        number = next(self._numbers)
        answer: asyncio.Future[Packet[Answer]] = asyncio.get_running_loop().create_future()
        question = document(number)
        self._waiting[number] = _Waiting(question, answer)
        try:
            if self._ended:
                raise PeerAway
            self._channel.send(question)
            async with asyncio.timeout(seconds):
                packet = await answer
        except (Full, TimeoutError):
            raise PeerAway from None
        finally:
            del self._waiting[number]
        if isinstance(packet.document, Refusal):
            raise error_of(packet.document)
        return packet

    def answered(self, packet: Packet[Answer]) -> None:
        """An answer has arrived; one that came too late is dropped."""
        waiting = self._waiting.get(packet.document.number)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(packet)

    def end(self) -> None:
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(PeerAway())


class Adoption:
    """Answers connections that come over channels; on the event loop.

    Args:
        elsewhere: is given those that come before `begin` and after `end`.
        families: of the sockets that are taken. A pair of sockets is no client: a process that was taken over would
            make requests of its own.
    """

    def __init__(
        self, elsewhere: Callable[[Packet[Connection]], object], families: Collection[socket.AddressFamily] = TCP
    ) -> None:
        self._elsewhere = elsewhere
        self._families = families
        self._protocol: Callable[[bytes], asyncio.Protocol] | None = None
        self._tasks = BackgroundTasks()

    def begin(self, protocol: Callable[[bytes], asyncio.Protocol]) -> None:
        """Answer from now on by the protocol that this makes of what was received of a connection before."""
        self._protocol = protocol

    def end(self) -> None:
        self._protocol = None

    def adopt(self, packet: Packet[Connection]) -> None:
        """Answer the requests of this connection from now on; raises Malformed for what is no connection."""
        if self._protocol is None:
            self._elsewhere(packet)
            return
        client = packet.take_socket()
        try:
            if client.family not in self._families or client.type != socket.SOCK_STREAM:
                raise Malformed(f"a socket that is no connection of a client: {client.family.name}")
            client.setblocking(False)
            client.getpeername()
        except (OSError, Malformed) as error:
            client.close()
            if isinstance(error, Malformed):
                raise
            return  # the client has gone meanwhile
        self._tasks.begin(_answered(client, partial(self._protocol, packet.content)), "a connection")


async def _answered(client: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().connect_accepted_socket(protocol, client)
