"""Channels between processes: messages arrive whole and in order, and what is wrong with one stays with it."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter

from service.ipc.channel import Channel, Closed, Full, Malformed, TokenBucket, pair
from service.ipc.documents import Connection, Counted, Open

pytestmark = pytest.mark.slow

Read = Annotated[Connection | Counted | Open, Field(discriminator="kind")]
READ: TypeAdapter[Read] = TypeAdapter(Read)
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MAX_BYTES = 300_000

Ends = tuple[socket.socket, Channel[Read]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """An end to send into, and the channel that reads the other one; no file is left when the test is over."""
    gc.collect()  # files that other tests have left to the collector are not to close in between
    before = open_files()
    sending, reading = pair()
    with closing(sending), closing(Channel(reading, READ, most_bytes=MAX_BYTES)) as channel:
        yield sending, channel
    until = time.monotonic() + 1  # threads of other tests may be opening something
    while open_files() - before and time.monotonic() < until:
        time.sleep(0.01)
    assert not open_files() - before


def open_files() -> set[str]:
    """The sockets, pipes and files in memory that this process has open, which are all that a channel holds."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith(("socket:", "pipe:", "/memfd:"))}


def memory(content: bytes, *, seals: int = ALL_SEALS) -> int:
    """A file in memory with these seals."""
    made = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(made, content)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
    return made


@pytest.mark.parametrize("size", [0, 1, 59_000, 60_001, 250_000])
def test_messages_arrive_whole_and_in_order(ends: Ends, size: int) -> None:
    """Messages hold content of any size, files and line breaks; a reader that comes later finds them apart."""
    sending, channel = ends
    out = Channel(sending, READ)
    reading, writing = os.pipe()
    content = b"\n\x00" * (size // 2) + b"x" * (size % 2)
    out.send(Counted(release="1", provider="CPU"), content, [reading, writing])
    out.send(Open(number=7, called="a\nb"))
    os.close(reading)
    os.close(writing)
    first, second = channel.receive(), channel.receive()
    assert first is not None
    assert (first.document, first.content, len(first.files)) == (Counted(release="1", provider="CPU"), content, 2)
    mine = [first.take_file() for _ in range(2)]
    os.write(mine[1], b"through")
    assert os.read(mine[0], 10) == b"through"
    for descriptor in mine:
        os.close(descriptor)
    with pytest.raises(Malformed):
        first.take_file()
    first.close()
    assert second is not None
    assert second.document == Open(number=7, called="a\nb")
    assert channel.receive() is None


def test_who_does_not_read_is_full(ends: Ends) -> None:
    """Sending never waits; nothing of what was refused arrives, and what was sent before does."""
    sending, channel = ends
    out = Channel(sending, READ)
    sent = 0
    with pytest.raises(Full):
        while True:
            out.send(Counted(release="1", provider="CPU"), bytes(100_000) if sent % 2 else bytes(10_000))
            sent += 1
    found = 0
    while (packet := channel.receive()) is not None:
        assert len(packet.content) == (100_000 if found % 2 else 10_000)
        packet.close()
        found += 1
    assert found == sent > 2
    out.send(Counted(release="1", provider="CPU"))
    assert channel.receive() is not None


def test_connections_leave_room_for_documents(ends: Ends) -> None:
    """A sender that asks for room first leaves half to others on the same channel, until the other side has read."""
    sending, channel = ends
    out = Channel(sending, READ)
    while out.has_room:
        out.send(Connection())
    for number in range(64):
        out.send(Open(number=number, called="a"))
    assert not out.has_room
    while channel.receive() is not None:
        pass
    assert out.has_room


def test_who_has_a_rate_keeps_to_it(ends: Ends) -> None:
    """A sender beyond its rate finds the other side full, though it reads everything; a while later it does not."""
    sending, channel = ends
    now = 0.0
    out = Channel(sending, READ, rate=TokenBucket(per_second=4096, most=8192, clock=lambda: now))
    for _ in range(2):
        out.send(Open(number=1, called="a"))
    with pytest.raises(Full):
        out.send(Open(number=1, called="a"))
    now = 2.0
    out.send(Open(number=2, called="a"))
    assert [packet.document for packet in iter(channel.receive, None)] == [Open(number=1, called="a")] * 2 + [
        Open(number=2, called="a")
    ]


def test_who_has_ended_is_full(ends: Ends) -> None:
    """A reader that is gone raises what one that does not read raises."""
    sending, channel = ends
    channel.close()
    with pytest.raises(Full):
        Channel(sending, READ).send(Counted(release="1", provider="CPU"))


BAD: dict[str, Callable[[], tuple[bytes, list[int]]]] = {
    "no form": lambda: (b"?{}", []),
    "no JSON": lambda: (b"i{", []),
    "no document": lambda: (b'i{"kind": "peers"}\n', []),
    "a field of another release": lambda: (b'i{"kind": "counted", "more": 1}\n', []),
    "a number beyond": lambda: (b'i{"kind": "forget", "number": %d}\n' % 2**53, []),
    "no text": lambda: (b'i{"kind": "forget", "number": 1, "called": "\xff"}\n', []),
    "nothing": lambda: (b"", []),
    "too many files": lambda: (b'i{"kind": "counted"}\n', [memory(b"") for _ in range(7)]),
    "a message that is cut off": lambda: (b'i{"kind": "counted"}\n' + bytes(70_000), []),
    "a document without end": lambda: (b"f", [memory(b'{"kind": "forget", "number": 1%b}\n' % (b" " * 1_100_000))]),
    "files and nothing else": lambda: (b"", [memory(b"")]),
    "no file where the message is": lambda: (b"f", []),
    "a pipe that would be waited for": lambda: (b"f", list(os.pipe())),
    "a file that may change": lambda: (b"f", [memory(b'{"kind": "counted"}\n', seals=fcntl.F_SEAL_GROW)]),
    "more than is read": lambda: (b"f", [memory(b'{"kind": "counted"}\n' + bytes(MAX_BYTES))]),
    "a sealed file that is wrong": lambda: (b"f", [memory(b"{}"), memory(b"")]),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_stays_with_its_message(ends: Ends, bad: str) -> None:
    """A wrong message is Malformed, its files are closed, and the next message is read."""
    sending, channel = ends
    message, files = BAD[bad]()
    socket.send_fds(sending, [message], files)
    for descriptor in files:
        os.close(descriptor)
    with pytest.raises(Malformed):
        channel.receive()
    Channel(sending, READ).send(Open(number=1, called="a"))
    packet = channel.receive()
    assert packet is not None
    assert packet.document == Open(number=1, called="a")


def test_a_channel_whose_other_ends_are_closed(ends: Ends) -> None:
    """Messages sent before are read, and then the channel says that nothing will come."""
    sending, channel = ends
    Channel(sending, READ).send(Open(number=1, called="a"))
    sending.close()
    assert channel.receive() is not None
    with pytest.raises(Closed):
        channel.receive()


def test_a_file_that_is_no_socket(ends: Ends) -> None:
    """Taken as one it is Malformed and closed; a socket is the taker's."""
    sending, channel = ends
    reading, writing = os.pipe()
    with closing(sending.dup()) as good:
        Channel(sending, READ).send(Connection(), files=[reading, good.fileno(), writing])
    os.close(reading)
    os.close(writing)
    packet = channel.receive()
    assert packet is not None
    with closing(packet):
        with pytest.raises(Malformed):
            packet.take_socket()
        packet.take_socket().close()
