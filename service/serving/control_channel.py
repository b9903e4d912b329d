"""The channel to control: questions, counts, spans and connections go there, answers and changes come from there.

Profiles that control answers with are remembered for as long as they are asked for. A name that was known before is
asked about at once. Of others, any number of which strangers may send, so many are asked about in a second; the next
ones wait, and beyond that their requests are refused.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version

import orjson
from pydantic import TypeAdapter

from service.ipc import reader
from service.ipc.channel import Channel, Full, Packet, TokenBucket
from service.ipc.documents import (
    MAX_TEXT,
    SERVING,
    Connection,
    Count,
    Counted,
    Done,
    Drop,
    Forget,
    Hello,
    Leaving,
    ModelAnswer,
    ModelQuestion,
    Open,
    Refusal,
    Spans,
    Stuck,
    ToServing,
    Welcome,
    place_of_request,
    refusal_of,
)
from service.ipc.reader import TCP, Adoption, BackgroundTasks, Questions, Reader
from service.model_repository import ModelRepository, Profiles, ResolvedModel
from service.registry.errors import Overloaded, RegistryError

_MAX_WAIT_S = 0.5
_MAX_KEPT = 1000
#: Questions about names that mean nothing: a client may make up any number of them.
_UNKNOWN_NAMES_PER_S = 500
_UNKNOWN_NAMES_AT_ONCE = 500
_LOG = logging.getLogger(__name__)
_READ: TypeAdapter[ToServing] = TypeAdapter(ToServing)
#: Control that does not answer in this time is away. Less than the second that an open model waits for its name. A
#: meaning, which is half a second old at most when it is asked for again, is used meanwhile.
_ANSWER_S = 0.9
_MAX_BYTES = 256 * 1024**2  # a profile with a hundred thousand names


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
        self.take(-1)


class Meanings:
    """Looks up names at control; on the event loop.

    Args:
        seconds: after so long without an answer control is away.
    """

    def __init__(self, questions: Questions, *, seconds: float) -> None:
        self._questions = questions
        self._seconds = seconds
        self._profiles: Profiles = {}
        self._last: OrderedDict[tuple[str, str | None], ResolvedModel] = OrderedDict()
        self._unknown = Turns(per_second=_UNKNOWN_NAMES_PER_S, most=_UNKNOWN_NAMES_AT_ONCE)

    async def look_up(self, called: str, version: str | None) -> ResolvedModel:
        """Model that a name means now; raises ControlAway, Overloaded, and what control answers."""
        last = self._last.get((called, version))
        if last is None and not await self._unknown.turn(longest=_MAX_WAIT_S):
            raise Overloaded("overloaded", "too many unknown models are asked for; try again in 1 s", retry_after=1)
        known = None if last is None else last.model_id
        # No name or number is longer: a longer one is unknown.
        name, numbered = called[:MAX_TEXT], version and version[:MAX_TEXT]
        packet = await self._questions.ask(
            lambda number: ModelQuestion(number=number, called=name, version=numbered, known=known),
            seconds=self._seconds,
        )
        answer = packet.document
        assert isinstance(answer, ModelAnswer)
        if last is None:
            self._unknown.give_back()
        resolved = self._last[called, version] = ResolvedModel(
            called=called,
            version=answer.version,
            model_id=answer.model_id,
            digest=answer.digest,
            served=answer.served.encode(),
            recorded=orjson.loads(packet.content) if packet.content or last is None else last.recorded,
            priors=answer.priors,
            profiles=self._profiles,
        )
        self._last.move_to_end((called, version))
        if len(self._last) > _MAX_KEPT:
            self._last.popitem(last=False)
        return resolved


class ControlChannel:
    """The end of a process on its channel to control; on the event loop.

    Args:
        provider: what its models run on.

    Attributes:
        meanings: says what names mean.
    """

    def __init__(self, end: socket.socket, *, provider: str) -> None:
        self._channel: Channel[ToServing] = Channel(end, _READ, most_bytes=_MAX_BYTES, rate=reader.sent())
        self._questions = Questions(self._channel)
        self._provider = provider
        self._reader = Reader(self._channel, self._take, name="control")
        self.meanings = Meanings(self._questions, seconds=_ANSWER_S)
        self._tasks = BackgroundTasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adoption = Adoption(self._hand_back, TCP | {socket.AF_UNIX})  # those are of control's pages
        self._repository: ModelRepository | None = None
        self._counted: Callable[[], bytes] = bytes
        self._greeted = False

    def start(
        self, protocol: Callable[[bytes], asyncio.Protocol], repository: ModelRepository, counted: Callable[[], bytes]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._adoption.begin(protocol)
        self._repository = repository
        self._counted = counted
        self._reader.start()

    def tell_counts(self) -> None:
        """Send what was counted so far; later, where control does not read."""
        if self._greeted or self._greet():
            self._channel.offer(Counted(), self._counted())

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

    def _greet(self) -> bool:
        """Say that this process answers; False where control does not read."""
        self._greeted = self._channel.offer(Hello(release=version("fedlas"), provider=self._provider))
        return self._greeted

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
            case ModelAnswer() | Refusal():
                self._questions.answered(packet)  # type: ignore[arg-type]
            case Welcome():
                self._greet()
                self._questions.ask_again()
            case Count(number=number):
                self.tell_counts()
                self._channel.offer(Done(number=number))
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
                    await self._repository.forget()
                case Forget(called=str() as called):
                    await self._repository.renew(called)
                case Open(called=called, ahead=True):
                    await self._repository.prepare(called)
                case Open(called=called, version=version):
                    await self._repository.ready(called, version)
                case Drop(called=called):
                    await self._repository.drop(called)
            self._channel.offer(Done(number=number))
        except RegistryError as error:
            self._channel.offer(refusal_of(number, error))
