"""Questions that wait for their answers from the other side of a channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from pydantic import BaseModel

from service.ipc.channel import Full, Packet
from service.ipc.documents import Answer, Refusal
from service.ipc.refusals import error_of
from service.registry.errors import ControlAway


class _Waiting(NamedTuple):
    question: BaseModel
    answer: asyncio.Future[Packet[Answer]]


class Sender(Protocol):
    """One end of a channel, to send into."""

    def send(self, document: BaseModel) -> None:
        """Send one message; raises Full."""


class Questions:
    """Numbers questions and gives each its answer; on the event loop."""

    def __init__(self, channel: Sender) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._ended = False

    async def ask(self, document: Callable[[int], BaseModel], *, seconds: float) -> Packet[Answer]:
        """Send the document of a number, and wait for the answer.

        Raises:
            ControlAway: the other side does not read, does not answer in time, or has ended.
            RegistryError: what it answers.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Packet[Answer]] = asyncio.get_running_loop().create_future()
        question = document(number)
        self._waiting[number] = _Waiting(question, answer)
        try:
            if self._ended:
                raise ControlAway
            self._channel.send(question)
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
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(packet)

    def ask_again(self) -> None:
        """Send what waits once more: another process has taken the place of the one that was asked."""
        for waiting in self._waiting.values():
            with suppress(Full):
                self._channel.send(waiting.question)

    def end(self) -> None:
        """The other side has ended: nothing is answered any more."""
        self._ended = True
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(ControlAway())
