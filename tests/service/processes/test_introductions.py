"""Introductions: who may send to whom, and what becomes of connections that nobody has taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest
from pydantic import TypeAdapter

from service.ipc.channel import Channel, Full
from service.ipc.documents import Connection, Gone, Open, Peer, ToAcceptor
from service.processes import introductions as module
from service.processes.introductions import Introductions, Mailbox

READ: TypeAdapter[ToAcceptor] = TypeAdapter(ToAcceptor)


class Bench:
    """Processes that are started, and read their messages."""

    def __init__(self) -> None:
        self.introductions = Introductions()

    def start(self, name: str) -> Mailbox:
        """A new process."""
        mailbox = Mailbox.made()
        self.introductions.introduce(name, mailbox, pid=1)
        return mailbox


@pytest.fixture
def bench() -> Iterator[Bench]:
    """No file stays when it is closed."""
    before = len(os.listdir("/proc/self/fd"))
    made = Bench()
    yield made
    made.introductions.close()
    assert len(os.listdir("/proc/self/fd")) == before


def told(mailbox: Mailbox) -> list[str]:
    """The messages that a process got since."""
    channel, found = Channel(mailbox.own, READ), []
    while (packet := channel.receive()) is not None:
        with closing(packet):
            match packet.document:
                case Peer(name=name) | Gone(name=name):
                    found.append(f"{type(packet.document).__name__} {name}")
                case Connection():
                    found.append(packet.content.decode())
    return found


def test_who_is_told_of_whom(bench: Bench) -> None:
    """Acceptor and control of those that they send to, in any order of starts, anew for each; the others of nobody."""
    first = bench.start("serving-1")
    control = bench.start("control")
    acceptor = bench.start("acceptor")
    bench.start("serving-2")
    assert told(control) == ["Peer serving-1", "Peer acceptor", "Peer serving-2"]
    assert sorted(told(acceptor)) == ["Peer control", "Peer serving-1", "Peer serving-2"]
    again = bench.start("control")
    assert sorted(told(again)) == ["Peer acceptor", "Peer serving-1", "Peer serving-2"]
    assert told(acceptor) == ["Peer control"]
    bench.introductions.part("serving-2")
    assert (told(acceptor), told(again)) == (["Gone serving-2"], ["Gone serving-2"])
    assert (told(first), told(control)) == ([], [])


def test_connections_of_the_dead_go_to_their_successor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor gets the connections with their read bytes, late ones too, and no other messages."""
    before = bench.start("serving-1")
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        sender = Channel(before.other, READ)
        sender.send(Connection(), b"early", [theirs.fileno()])
        sender.send(Open(number=1, called="a"))
        before.other.send(b"what?")
        sender.send(Connection(), bytes(100_000), [theirs.fileno()])
        after = bench.start("serving-1")
        sender.send(Connection(), b"late", [theirs.fileno()])
        bench.introductions.rescue()
        channel = Channel(after.own, READ)
        for content in (b"early", bytes(100_000), b"late"):
            packet = channel.receive()
            assert packet is not None
            assert (packet.document, packet.content) == (Connection(), content)
            with closing(packet), packet.take_socket() as client:
                client.sendall(b"x")
            assert ours.recv(1) == b"x"
        assert channel.receive() is None
    monkeypatch.setattr(module.time, "monotonic", lambda: 1e12)
    bench.introductions.rescue()
    assert before.own.fileno() == -1


def fill(mailbox: Mailbox) -> None:
    """Send into a channel until it has no more room."""
    with suppress(Full):
        while True:
            Channel(mailbox.other, READ).send(Gone(name="serving-9"))


def test_what_has_no_room_is_kept(bench: Bench) -> None:
    """A connection of the dead goes to who answers already, waits while that takes no more, and then its successor's.

    The word that one has gone waits, too.
    """
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        before, control = bench.start("serving-1"), bench.start("control")
        other = bench.start("serving-2")
        sender = Channel(before.other, READ)
        sender.send(Connection(), b"early", [theirs.fileno()])
        after = bench.start("serving-1")
        assert (told(other), told(after)) == (["early"], [])
        fill(other)
        sender.send(Connection(), b"late", [ours.fileno()])
        bench.introductions.rescue()
        fill(control)
        bench.introductions.part("serving-2")
        assert told(after) == ["late"]
        assert set(told(control)) - {"Peer serving-1", "Peer serving-2"} == {"Gone serving-9"}
        bench.introductions.rescue()
        assert told(control) == ["Gone serving-2"]
