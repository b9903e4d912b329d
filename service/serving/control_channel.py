"""The channel to control: questions, counts, spans and connections go there, answers and changes come from there."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version

from pydantic import TypeAdapter

from service.background_tasks import BackgroundTasks
from service.ipc import rates
from service.ipc.adoption import TCP, Adoption
from service.ipc.channel import Channel, Full, Packet
from service.ipc.documents import (
    Connection,
    Count,
    Counted,
    Done,
    Drop,
    Forget,
    Hello,
    KeyAnswer,
    KeyQuestion,
    Leaving,
    ModelAnswer,
    Open,
    Places,
    Refusal,
    Spans,
    Stuck,
    ToServing,
)
from service.ipc.placement import Placement, place_of
from service.ipc.questions import Questions
from service.ipc.reader import Reader
from service.ipc.refusals import refusal_of
from service.model_repository import ModelRepository
from service.registry.errors import RegistryError
from service.serving.meanings import Meanings
from service.serving.remembered_keys import RememberedKeys

_LOG = logging.getLogger(__name__)
_READ: TypeAdapter[ToServing] = TypeAdapter(ToServing)
#: Control that does not answer in this time is away. Less than the second that an open model waits for its name. A
#: meaning, which is half a second old at most when it is asked for again, is used meanwhile.
_ANSWER_S = 0.9
_MOST_BYTES = 256 * 1024**2  # a profile with a hundred thousand names


class ControlChannel:
    """This process' end; on the event loop.

    Args:
        name: of this process.
        provider: what its models run on.

    Attributes:
        keys: says which are admitted.
        meanings: says what names mean.
    """

    def __init__(self, end: socket.socket, *, name: str, placement: Placement, provider: str) -> None:
        self._channel: Channel[ToServing] = Channel(end, _READ, most_bytes=_MOST_BYTES, rate=rates.sent())
        self._questions = Questions(self._channel)
        self._placement = placement
        self._place = place_of(name)
        self._provider = provider
        self._reader = Reader(self._channel, self._take, name="control")
        self.keys = RememberedKeys(self._ask_key)
        self.meanings = Meanings(self._questions, seconds=_ANSWER_S)
        self._tasks = BackgroundTasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adoption = Adoption(self._hand_back, TCP | {socket.AF_UNIX})  # those are of control's pages
        self._repository: ModelRepository | None = None
        self._counted: Callable[[], bytes] = bytes
        self._greeted = False

    def start(
        self,
        protocol: Callable[[bytes], asyncio.Protocol],
        repository: ModelRepository,
        counted: Callable[[], bytes],
    ) -> None:
        """Take what comes from now on."""
        self._loop = asyncio.get_running_loop()
        self._adoption.begin(protocol)
        self._repository = repository
        self._counted = counted
        self._reader.start()

    def tell_counts(self) -> None:
        """Send what was counted so far; later, where control does not read."""
        with suppress(Full):
            if not self._greeted:
                self._greet()
            self._channel.send(Counted(), self._counted())

    def tell_spans(self, spans: bytes) -> None:
        """Send spans that have ended, from any thread; they are dropped where control does not read."""
        try:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._send_spans, spans)
        except RuntimeError:  # the loop has ended, and with it the only other thread that sends
            self._send_spans(spans)

    def _send_spans(self, spans: bytes) -> None:
        with suppress(Full):
            self._channel.send(Spans(), spans)

    def leave(self) -> None:
        """Say that this process stops: it answers the connections that it has."""
        with suppress(Full):
            self._channel.send(Leaving())

    def _greet(self) -> None:
        """Say that this process answers."""
        self._greeted = False
        self._channel.send(Hello(release=version("fedlas"), provider=self._provider))
        self._greeted = True

    def adopt_no_more(self) -> None:
        """Give connections that still come to control, which knows that this process stops."""
        self._adoption.end()

    def stuck(self, digest: str) -> None:
        """Say that a run does not end, and take nothing any more: the process ends."""
        self._reader.stop()
        self.tell_counts()
        with suppress(Full):
            self._channel.send(Stuck(digest=digest))

    async def _ask_key(self, authorization: bytes) -> bool:
        text = authorization.decode("latin-1")
        packet = await self._questions.ask(
            lambda number: KeyQuestion(number=number, authorization=text), seconds=_ANSWER_S
        )
        assert isinstance(packet.document, KeyAnswer)
        return packet.document.admitted

    # Connections (HandOver)

    def is_elsewhere(self, path: bytes) -> bool:
        """Whether another process answers this."""
        return self._placement.place(path) != self._place

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Give a connection to control, which hands it on."""
        try:
            self._channel.send(Connection(), received, [descriptor])
        except Full:
            return False
        return True

    def _take(self, packet: Packet[ToServing]) -> None:
        match packet.document:
            case Connection():
                self._adoption.adopt(packet)  # type: ignore[arg-type]
            case ModelAnswer() | Refusal() | KeyAnswer():
                self._questions.answered(packet)  # type: ignore[arg-type]
            case Places(alone=alone):  # what control says first: it may have been started again
                self._placement.alone = alone
                with suppress(Full):
                    self._greet()
                self._questions.ask_again()
            case Count(number=number):
                self.tell_counts()
                self._done(number)
            case Forget(number=number) | Open(number=number) | Drop(number=number):
                self._tasks.begin(self._do(packet.document, number), "what control has asked for")

    def _hand_back(self, packet: Packet[Connection]) -> None:
        with suppress(Full):
            self._channel.pass_on(packet)  # type: ignore[arg-type]

    async def _do(self, document: Forget | Open | Drop, number: int) -> None:
        assert self._repository is not None
        try:
            match document:
                case Forget(called=None):
                    self.keys.forget()
                    await self._repository.forget()
                case Forget(called=str() as called):
                    await self._repository.renew(called)
                case Open(called=called, ahead=True):
                    await self._repository.prepare(called)
                case Open(called=called, version=version):
                    await self._repository.ready(called, version)
                case Drop(called=called):
                    await self._repository.drop(called)
            self._done(number)
        except RegistryError as error:
            with suppress(Full):
                self._channel.send(refusal_of(number, error))

    def _done(self, number: int) -> None:
        with suppress(Full):
            self._channel.send(Done(number=number))
