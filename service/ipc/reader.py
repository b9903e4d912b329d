"""The reader of a channel on an event loop: a bounded number of messages in each turn, and in each second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel

from service.ipc.channel import Channel, Closed, Malformed, Packet
from service.ipc.throttled_log import ThrottledLog
from service.ipc.token_bucket import TokenBucket

_LOG = logging.getLogger(__name__)
#: Messages of one turn of the loop: of a side that is not trusted; of the parent and the acceptor, whatever waits.
FEW, ALL = 32, 512
_MOST_REST = 1000  # the kernel holds some hundred
_UNREADABLE_BYTES = 64 * 1024  # what a message costs that cannot be read
#: Who sends more than it may for so long, without a pause, floods.
_FLOOD_S, _PAUSE_S = 10.0, 1.0
#: After so many messages that cannot be read it is not waited for that one can.
_MOST_UNREADABLE = 8

Incoming = TypeVar("Incoming", bound=BaseModel)


class Reader(Generic[Incoming]):
    """Gives what arrives to `take`, whose files are closed after it unless they were taken.

    The other side may have been taken over: what cannot be read is counted, told once in a while, and changes nothing.

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
        """Read from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._read)

    def stop(self) -> None:
        """Read no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._channel.fileno())
            self._loop = None

    def take_rest(self) -> None:
        """Take what has arrived, as far as that may be much: the other side has ended."""
        for _ in range(_MOST_REST):
            if self._loop is None or self._is_over_rate or not self._took_one():
                return

    @property
    def _is_over_rate(self) -> bool:
        return self._rate is not None and self._rate.take(0) > 0

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
        """Whether there was a message."""
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
            if self.unreadable % _MOST_UNREADABLE == 0:
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
        """Whether pauses have followed each other for long."""
        if now - self._over_until > _PAUSE_S:
            self._over_since = now
        self._over_until = now + pause
        if now - self._over_since > _FLOOD_S:
            self._over_since = now
            self._on_fault("floods control with messages")
