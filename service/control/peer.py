"""A serving process as control sees it: its questions are answered, its connections adopted, its counts kept.

It may have been taken over: what it sends is validated and bounded, and it learns what is answered here, nothing else.
The served copies that it may read are links in a folder of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import orjson
from pydantic import TypeAdapter

from service.control.suspension import Suspension
from service.ipc import reader
from service.ipc.channel import Channel, Packet
from service.ipc.documents import (
    Connection,
    Counted,
    Done,
    Hello,
    Leaving,
    ModelAnswer,
    ModelQuestion,
    Open,
    Refusal,
    Spans,
    Stuck,
    ToControl,
    refusal_of,
)
from service.ipc.reader import Adoption, BackgroundTasks, Questions, Reader
from service.model_lookup import ModelLookup
from service.registry.artifacts import ArtifactStore
from service.registry.errors import RegistryError, Unavailable
from service.shared_counts import ServingCounts

_MAX_FILES = 1000
_UNFINISHED = ".new"
_LOG = logging.getLogger(__name__)
READ: TypeAdapter[ToControl] = TypeAdapter(ToControl)
#: Questions of one process that are being answered; others wait in its channel.
_MAX_QUESTIONS = 64
#: Models that its successor opens before they are asked for, and how long it waits for one.
_MAX_WARMED = 32
_OPENED_S = 60.0


class ServedFolder:
    """Gives files by their digest; used in threads, one at a time.

    What lies there when control is started again is what the process was given.

    Attributes:
        turn: held by the one that uses it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.turn = asyncio.Lock()
        self._given: OrderedDict[str, None] = OrderedDict()
        root.mkdir(parents=True, exist_ok=True)
        for file in sorted(root.iterdir(), key=lambda file: file.stat().st_atime):
            if file.suffix == _UNFINISHED:
                file.unlink()
            else:
                self._given[file.name] = None

    def give(self, artifacts: ArtifactStore, digest: str) -> None:
        """Put a file there, if it is not; raises NotFound, Unavailable."""
        place = self._root / digest
        if not place.exists():
            with artifacts.held(digest) as path:
                fresh = place.with_suffix(_UNFINISHED)
                fresh.unlink(missing_ok=True)
                try:
                    os.link(path, fresh)
                except OSError:  # another file system
                    shutil.copyfile(path, fresh)
                os.replace(fresh, place)
        self._given[digest] = None
        self._given.move_to_end(digest)
        while len(self._given) > _MAX_FILES:
            self.remove([next(iter(self._given))])

    def holds(self, digest: str) -> bool:
        return digest in self._given

    def digests(self) -> set[str]:
        return set(self._given)

    def remove(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._given.pop(digest, None)
            with suppress(OSError):
                (self._root / digest).unlink(missing_ok=True)


@dataclass(frozen=True)
class Known:
    """Shared parts of control that answer the questions of all serving processes, and take the rest."""

    look_up: ModelLookup
    artifacts: ArtifactStore
    suspension: Suspension
    counts: ServingCounts
    adoption: Adoption
    on_spans: Callable[[bytes], None]


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
        folder: ServedFolder,
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
        self._asked: OrderedDict[tuple[str, str | None], None] = OrderedDict()
        self.channel = channel
        self.folder = folder
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

    async def sweep(self) -> None:
        """Take the served copies away that no model has any more, of those that it was given; in a thread."""
        async with self.folder.turn:
            await asyncio.to_thread(self._sweep)

    def _sweep(self) -> None:
        if digests := self.folder.digests():
            self.folder.remove(digests - self._known.look_up.served(digests))

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        return list(reversed(self._asked))

    def warm(self, called: Sequence[tuple[str, str | None]]) -> None:
        """Have it open these, one after the other, as the process before it had them open."""
        self._answer(self._opened(called))

    async def _opened(self, called: Sequence[tuple[str, str | None]]) -> None:
        for name, version in called:
            with suppress(RegistryError):  # its next request raises
                await self.questions.ask(partial(_open, name, version), seconds=_OPENED_S)

    def _take(self, packet: Packet[ToControl]) -> None:
        match packet.document:
            case Connection():
                self._known.adoption.adopt(packet)  # type: ignore[arg-type]
            case ModelQuestion() as question:
                self._answer(self._model(question))
            case Done() | Refusal():
                self.questions.answered(packet)  # type: ignore[arg-type]
            case Counted():
                self._known.counts.tell(self.name, packet.content)
            case Spans():
                self._known.on_spans(packet.content)
            case Stuck(digest=digest) if not self._ends and self.folder.holds(digest):
                self._ends = True
                self._known.suspension.ended(digest, self.name)
            case Hello() as hello:
                self._greeted(hello)
            case Leaving() if not self.ended:
                self._on_leaving(self)

    def _greeted(self, hello: Hello) -> None:
        if self.provider is None and hello.release != (own := metadata.version("fedlas")):
            _LOG.warning("%s is of release %s, control of %s: restart the service", self.name, hello.release, own)
        self.provider = hello.provider

    def _answer(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.begin(work, f"a question of {self.name}").add_done_callback(self._answered)
        if len(self._tasks) == _MAX_QUESTIONS:
            self._reader.hold()

    def _answered(self, task: asyncio.Task[None]) -> None:
        if len(self._tasks) == _MAX_QUESTIONS - 1:
            self._reader.release()

    async def _model(self, question: ModelQuestion) -> None:
        try:
            meaning = await self._known.look_up(question.called, question.version)
            self._known.suspension.admit(question.called, meaning.digest)
            async with self.folder.turn:
                await asyncio.to_thread(self.folder.give, self._known.artifacts, meaning.digest)
        except RegistryError as error:
            self.channel.offer(refusal_of(question.number, error))
            return
        except OSError as error:
            _LOG.error("a served copy cannot be given to %s: %s", self.name, error)
            self.channel.offer(
                refusal_of(question.number, Unavailable("unavailable", "the model's file cannot be had now"))
            )
            return
        self._note(question)
        answer = ModelAnswer(
            number=question.number,
            version=meaning.version,
            model_id=meaning.model_id,
            digest=meaning.digest,
            served=meaning.served.decode(),
            priors=None if meaning.priors is None else dict(meaning.priors),
        )
        self.channel.offer(answer, b"" if question.known == meaning.model_id else orjson.dumps(meaning.recorded))

    def _note(self, question: ModelQuestion) -> None:
        key = question.called, question.version
        self._asked[key] = None
        self._asked.move_to_end(key)
        if len(self._asked) > _MAX_WARMED:
            self._asked.popitem(last=False)


def _open(called: str, version: str | None, number: int) -> Open:
    return Open(number=number, called=called, version=version)
