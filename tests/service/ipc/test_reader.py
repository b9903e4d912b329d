"""The reader of a channel: what the other side sends is bounded in each turn and second, and never ends this side."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine

import pytest
from pydantic import BaseModel, TypeAdapter

from service.ipc import reader
from service.ipc.channel import Channel, Packet, pair
from service.ipc.documents import Hello, KeyQuestion, ToControl
from service.ipc.reader import Reader
from service.ipc.token_bucket import TokenBucket

READ: TypeAdapter[ToControl] = TypeAdapter(ToControl)


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
        bad = [
            b"",
            b"x",
            b"i{}\n",
            b'i{"kind":"hello","release":"1","provider":"a","more":1}\n',
            b"i" + b"[" * 50_000,
            b"f",
        ]
        for message in bad:
            bench.other.send(message)
            socket.send_fds(bench.other, [message or b"f"], [null, null])
        bench.sender.send(Hello(release="1", provider="CPU"))
        os.close(null)
        await bench.until(lambda: len(bench.taken) == 1)
        assert bench.reader.unreadable == 2 * len(bad)
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert len(caplog.records) == 1
    assert "serving-1 could not be read" in caplog.text


def test_what_breaks_a_handler_ends_nothing() -> None:
    """An error of whatever takes a message is the message's: its files are closed, and the next is taken."""

    async def test() -> None:
        seen: list[int] = []

        def take(packet: Packet[ToControl]) -> None:
            seen.append(len(packet.files))
            raise RecursionError

        bench = Bench(take)
        for _ in range(3):
            bench.sender.send(Hello(release="1", provider="CPU"), files=[0])
        await bench.until(lambda: seen == [1, 1, 1])
        bench.close()

    on_a_loop(test)


def test_who_sends_more_than_it_may_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A flood fills the channel of who sends it, while the loop turns for others; later all of it is taken."""

    async def test() -> None:
        # No time passes for the bucket: it holds ten messages, and each further one is owed for longer.
        bench = Bench(rate=TokenBucket(per_second=409_600, most=40_960, clock=lambda: 0.0))
        for number in range(20):
            bench.sender.send(KeyQuestion(number=number, authorization="Bearer guess"))
        seen: set[int] = set()
        await bench.until(lambda: seen.add(len(bench.taken)) or len(bench.taken) > 11)  # type: ignore[func-returns-value]
        assert 11 in seen  # the loop turned, and nothing more was taken
        await bench.until(lambda: len(bench.taken) == 20)
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert "serving-1 sends more than it may" in caplog.text


def test_who_goes_on_for_long_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not who sends more than it may for a moment, and then again after a pause."""

    async def test() -> None:
        floods: list[str] = []
        bench = Bench(rate=TokenBucket(per_second=40_960_000, most=4096), on_fault=floods.append)

        async def send(number: int) -> None:
            for _ in range(number):
                bench.sender.send(Hello(release="1", provider="CPU"))
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
    """It may have left gigabytes: as much is taken as it may send."""

    async def test() -> None:
        bench = Bench(rate=TokenBucket(per_second=1, most=10 * 4096, clock=lambda: 0.0))
        bench.reader.stop()
        bench.reader._loop = asyncio.get_running_loop()
        for _ in range(50):
            bench.sender.send(Hello(release="1", provider="CPU"))
        bench.reader.take_rest()
        assert 10 <= len(bench.taken) < 20
        bench.close()

    on_a_loop(test)


def test_our_own_errors_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """With where they came from; a message of another release is none of them."""

    async def test() -> None:
        bench = Bench(lambda packet: {}["missing"])
        bench.sender.send(Hello(release="1", provider="CPU"))
        bench.other.send(b'i{"kind":"greeting"}\n')
        await bench.until(lambda: bench.reader.unreadable == 1)
        bench.close()

    with caplog.at_level(logging.WARNING):
        on_a_loop(test)
    assert [record.exc_info is None for record in caplog.records] == [False, True]
    assert "another release" in caplog.text


def test_a_channel_that_is_closed_is_not_read_any_more() -> None:
    """It would be readable without end."""

    async def test() -> None:
        bench = Bench()
        bench.sender.send(Hello(release="1", provider="CPU"))
        bench.other.close()
        await bench.until(lambda: len(bench.taken) == 1)
        await bench.until(lambda: bench.reader._loop is None)
        bench.close()

    on_a_loop(test)
