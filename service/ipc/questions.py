"""Questions that wait for their answers from the other side of a channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol

from pydantic import BaseModel

from service.ipc.channel import Full, Packet
from service.ipc.documents import Answer, Refusal
from service.ipc.refusals import error_of
from service.registry.errors import ControlAway


class Sender(Protocol):
    """One end of a channel, to send into."""

    def send(self, document: BaseModel) -> None:
        """Send one message; raises Full."""


class Questions:
    """Numbers questions and gives each its answer; on the event loop."""

    def __init__(self, channel: Sender) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Packet[Answer]]] = {}

    async def ask(self, document: Callable[[int], BaseModel], *, seconds: float) -> Packet[Answer]:
        """Send the document of a number, and wait for the answer.

        Raises:
            ControlAway: the other side does not read, or does not answer in time.
            RegistryError: what it answers.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Packet[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._channel.send(document(number))
            async with asyncio.timeout(seconds):
                packet = await answer
        except (Full, TimeoutError):
            raise ControlAway from None
        finally:
            del self._waiting[number]
        if isinstance(packet.document, Refusal):
            raise error_of(packet.document)
        return packet

    def answered(self, packet: Packet[Answer]) -> None:
        """An answer has arrived; one that came too late is dropped."""
        waiting = self._waiting.get(packet.document.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(packet)
