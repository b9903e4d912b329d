"""The reader of a channel on an event loop: a bounded number of messages in each turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel

from service.ipc.channel import Channel, Malformed, Packet

_LOG = logging.getLogger(__name__)
_AT_ONCE = 32

Incoming = TypeVar("Incoming", bound=BaseModel)


class Reader(Generic[Incoming]):
    """Gives what arrives to `take`, whose files are closed after it unless they were taken.

    Args:
        name: of the other side, for the log.
    """

    def __init__(self, channel: Channel[Incoming], take: Callable[[Packet[Incoming]], None], *, name: str) -> None:
        self._channel = channel
        self._take = take
        self._name = name
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

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = self._channel.receive()
                if packet is None:
                    return
                try:
                    self._take(packet)
                finally:
                    packet.close()
            except Malformed as error:
                _LOG.warning("a message of %s cannot be read: %s", self._name, error)
            if self._loop is None:
                return
