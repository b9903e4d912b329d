"""A channel is read by bounded turns; questions have their own answers; only connections of clients are adopted."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from service.ipc import reader
from service.ipc.channel import Channel, Full, Malformed, Packet, TokenBucket, pair
from service.ipc.documents import (
    Answer,
    Connection,
    Counted,
    Done,
    Open,
    Refusal,
    ToControl,
    error_of,
    refusal_of,
)
from service.ipc.reader import TCP, Adoption, Questions, Reader
from service.registry import errors

READ: TypeAdapter[ToControl] = TypeAdapter(ToControl)
ERRORS: list[Callable[[], errors.RegistryError]] = [
    lambda: errors.NotFound("unknown_model", "there is none", field="model"),
    lambda: errors.InvalidRequest("invalid_request", "so not"),
    lambda: errors.Conflict("model_not_ready", "it is inspected", passing=True),
    lambda: errors.Conflict("model_unloaded", "it was unloaded"),
    lambda: errors.TooLarge("too_large", "more than 5"),
    lambda: errors.Unavailable("database_unavailable", "it is away"),
]
Made = Callable[[ExitStack], tuple[socket.socket, socket.socket]]


class Bench:
    """A reader, and the end that sends to it."""

    def __init__(
        self,
        take: Callable[[Packet[ToControl]], None] | None = None,
        rate: TokenBucket | None = None,
        on_fault: Callable[[str], None] = lambda fault: None,
    ) -> None:
        own, self.other = pair()
        self.sender = Channel(self.other, READ)
        self.taken: list[BaseModel] = []
        self.reader: Reader[ToControl] = Reader(
            Channel(own, READ),
            take or (lambda packet: self.taken.append(packet.document)),
            name="serving-1",
            rate=rate,
            on_fault=on_fault,
        )
        self.own = own
        self.reader.start()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait while the loop turns."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)

    def close(self) -> None:
        """Close both ends."""
        self.reader.stop()
        self.own.close()
        self.other.close()


def on_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a test, after which no file is open that was not before."""
    asyncio.run(_nothing())  # the loop's own machinery
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(test())
    assert len(os.listdir("/proc/self/fd")) == before


async def _nothing() -> None:
    pass


def test_what_cannot_be_read_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Bytes of no kind, documents of another release, files without end and odd sockets: then the next is taken."""

    async def test() -> None:
        bench = Bench()
        null = os.open("/dev/zero", os.O_RDONLY)
        other_release = b'i{"kind":"hello","release":"1","provider":"a","more":1}\n'
        bad = [b"", b"x", b"i{}\n", other_release, b"i" + b"[" * 50_000, b"f"]
        for message in bad:
            bench.other.send(message)
            socket.send_fds(bench.other, [message or b"f"], [null, null])
        bench.sender.send(Counted(release="1", provider="CPU"))
        os.close(null)
        await bench.until(lambda: len(bench.taken) == 1)
        assert bench.reader.unreadable == 2 * len(bad)
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert len(caplog.records) == 1
    assert "serving-1 could not be read" in caplog.text


def test_what_breaks_a_handler_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An error of whatever takes a message has its place in the log, and its files are closed; the next is taken.

    A message of another release is no error of ours.
    """

    async def test() -> None:
        seen: list[int] = []

        def take(packet: Packet[ToControl]) -> None:
            seen.append(len(packet.files))
            raise RecursionError

        bench = Bench(take)
        for _ in range(3):
            bench.sender.send(Counted(release="1", provider="CPU"), files=[0])
        bench.other.send(b'i{"kind":"greeting"}\n')
        await bench.until(lambda: bench.reader.unreadable == 1)
        assert seen == [1, 1, 1]
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert [record.exc_info is None for record in caplog.records] == [False, True]
    assert "another release" in caplog.text


def test_who_sends_more_than_it_may_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A flood fills the channel of who sends it, while the loop turns for others; later all of it is taken."""

    async def test() -> None:
        # No time passes for the bucket: it holds ten messages, and each further one is owed for longer.
        bench = Bench(rate=TokenBucket(per_second=409_600, most=40_960, clock=lambda: 0.0))
        for number in range(20):
            bench.sender.send(Done(number=number))
        seen: set[int] = set()
        await bench.until(lambda: seen.add(len(bench.taken)) or len(bench.taken) > 11)  # type: ignore[func-returns-value]
        assert 11 in seen  # the loop turned, and nothing more was taken
        await bench.until(lambda: len(bench.taken) == 20)
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert "serving-1 sends more than it may" in caplog.text


def test_who_goes_on_for_long_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that goes on for long floods; one that sends too much for a moment, twice, does not."""

    async def test() -> None:
        floods: list[str] = []
        bench = Bench(rate=TokenBucket(per_second=40_960_000, most=4096), on_fault=floods.append)

        async def send(number: int) -> None:
            for _ in range(number):
                bench.sender.send(Counted(release="1", provider="CPU"))
            await bench.until(lambda: bench.reader._holds == 0 and bench.sender.has_room)

        monkeypatch.setattr(reader, "_PAUSE_S", 0.0)
        for _ in range(20):
            await send(10)
            await asyncio.sleep(0.01)
        assert not floods
        monkeypatch.setattr(reader, "_PAUSE_S", 60.0)
        while not floods:
            await send(10)
        bench.close()

    monkeypatch.setattr(reader, "_FLOOD_S", 0.1)
    on_a_loop(test)


def test_the_rest_of_who_has_ended_is_bounded() -> None:
    """A process that has ended may have left gigabytes: as much is taken as it may send."""

    async def test() -> None:
        bench = Bench(rate=TokenBucket(per_second=1, most=10 * 4096, clock=lambda: 0.0))
        bench.reader.stop()
        bench.reader._loop = asyncio.get_running_loop()
        for _ in range(50):
            bench.sender.send(Counted(release="1", provider="CPU"))
        bench.reader.take_rest()
        assert 10 <= len(bench.taken) < 20
        bench.close()

    on_a_loop(test)


def test_a_channel_that_is_closed_is_not_read_any_more() -> None:
    """A closed channel, which would be readable without end, is read no more."""

    async def test() -> None:
        bench = Bench()
        bench.sender.send(Counted(release="1", provider="CPU"))
        bench.other.close()
        await bench.until(lambda: len(bench.taken) == 1)
        await bench.until(lambda: bench.reader._loop is None)
        bench.close()

    on_a_loop(test)


class Other:
    """The other side: it keeps what it is asked, or reads nothing."""

    def __init__(self, *, reads: bool = True) -> None:
        self.asked: list[Any] = []
        self._reads = reads

    def send(self, document: BaseModel) -> None:
        """Take a message."""
        if not self._reads:
            raise Full
        self.asked.append(document)


def opened(number: int) -> Open:
    """A question."""
    return Open(number=number, called="a")


def packet(answer: Answer) -> Packet[Answer]:
    """An answer as it arrives."""
    return Packet(answer)


def test_each_has_its_own_answer() -> None:
    """Answers come in any order; one that nobody waits for, or a second one, is nothing."""

    async def talk() -> None:
        other = Other()
        questions = Questions(other)
        asked = [asyncio.ensure_future(questions.ask(opened, seconds=60)) for _ in range(3)]
        await asyncio.sleep(0)
        numbers = [question.number for question in other.asked]
        for number in (99, *reversed(numbers), *numbers):
            questions.answered(packet(Done(number=number)))
        found = [answer.document for answer in await asyncio.gather(*asked)]
        assert [answer.number for answer in found] == numbers
        questions.answered(packet(Done(number=numbers[0])))

    asyncio.run(talk())


@pytest.mark.parametrize("reads", [True, False])
def test_who_does_not_answer_is_away(reads: bool) -> None:
    """In the time that was given, or at once where it does not even read; a late answer changes nothing."""

    async def talk() -> None:
        other = Other(reads=reads)
        questions = Questions(other)
        with pytest.raises(errors.PeerAway):
            await questions.ask(opened, seconds=0.05 if reads else 60)
        questions.answered(packet(Done(number=1)))

    asyncio.run(talk())


@pytest.mark.parametrize("make", ERRORS)
def test_errors_arrive_as_they_were(make: Callable[[], errors.RegistryError]) -> None:
    """Errors have kind, code, words and field, and are raised where the question was asked."""
    error = make()

    async def talk() -> errors.RegistryError:
        other = Other()
        questions = Questions(other)
        asked = asyncio.ensure_future(questions.ask(opened, seconds=60))
        await asyncio.sleep(0)
        questions.answered(packet(refusal_of(other.asked[0].number, error)))
        with pytest.raises(errors.RegistryError) as raised:
            await asked
        return raised.value

    found = asyncio.run(talk())
    assert type(found) is type(error)
    assert {**vars(found)} == {**vars(error)}


def test_other_errors_are_unavailable() -> None:
    """An error that no question can have, or that another release adds, is called unavailable."""
    assert type(error_of(refusal_of(1, errors.LeaseLost("lease_lost", "gone")))) is errors.Unavailable
    assert type(error_of(Refusal(number=1, error="SystemExit", code="a", message="b"))) is errors.Unavailable


class Echo(asyncio.Protocol):
    """Sends back what was received before, and what comes."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._received)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._transport.write(data)


def nowhere(packet: Packet[Connection]) -> None:
    """Refuse a connection that comes at the wrong time."""
    raise AssertionError(packet)


@pytest.fixture(autouse=True)
def _no_file_stays() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def given(file: int, content: bytes = b"") -> Packet[Connection]:
    """A message with a file of its own."""
    return Packet(Connection(), content, [os.dup(file)])


def tcp(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A client and the connection that was accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stack.enter_context(closing(socket.create_connection(listener.getsockname(), timeout=20)))
        return client, stack.enter_context(closing(listener.accept()[0]))


def stream_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets."""
    first, second = socket.socketpair()
    first.settimeout(20)
    return stack.enter_context(closing(first)), stack.enter_context(closing(second))


@pytest.mark.parametrize("make", [tcp, stream_pair])
def test_a_client_is_answered(make: Made) -> None:
    """A client's bytes that were read before come first, and later ones after them."""

    async def talk() -> None:
        with ExitStack() as stack:
            client, accepted = make(stack)
            adoption = Adoption(nowhere, TCP | {socket.AF_UNIX})
            adoption.begin(Echo)
            adoption.adopt(given(accepted.fileno(), b"before "))
            accepted.close()
            client.sendall(b"and after")
            received = b""
            while len(received) < len(b"before and after"):
                received += await asyncio.to_thread(client.recv, 100)
            assert received == b"before and after"
            client.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(client.recv, 100) == b""

    asyncio.run(talk())


def test_what_is_no_client_is_refused() -> None:
    """No file, no socket, no stream, a pair of sockets; one that has gone or listens is closed and no fault."""

    async def talk() -> None:
        adoption = Adoption(nowhere)
        adoption.begin(Echo)
        with ExitStack() as stack:
            reading, writing = os.pipe()
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            bad = [reading, writing, datagrams.fileno(), stream_pair(stack)[0].fileno()]
            for file in bad:
                with pytest.raises(Malformed):
                    adoption.adopt(given(file))
            with pytest.raises(Malformed):
                adoption.adopt(Packet(Connection()))
            client, accepted = tcp(stack)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            for gone in (accepted, listener):
                adoption.adopt(given(gone.fileno()))
            os.close(reading)
            os.close(writing)
            await asyncio.sleep(0.01)

    asyncio.run(talk())


def test_what_comes_too_early_or_too_late_is_handed_back() -> None:
    """A message too early or too late comes back with its files; in between it is answered."""

    async def talk() -> None:
        back: list[Packet[Connection]] = []
        adoption = Adoption(back.append)
        with ExitStack() as stack:
            client, accepted = tcp(stack)
            early, late = given(accepted.fileno()), given(accepted.fileno())
            adoption.adopt(early)
            adoption.begin(Echo)
            adoption.adopt(given(accepted.fileno(), b"answered"))
            received = await asyncio.to_thread(client.recv, 100)
            adoption.end()
            adoption.adopt(late)
            accepted.close()
            assert (back, received) == ([early, late], b"answered")
            for packet in back:
                packet.close()
        await asyncio.sleep(0.01)

    asyncio.run(talk())
