"""Introductions: which process may send into the channel of which other, as the process that starts them tells them.

Each process has one channel. It reads its own end, the other end is kept here, and given to those that send to it: all
processes to the acceptor, the acceptor and those that answer predictions to control. What waits in the channel of a
process that has ended goes to its successor.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from pydantic import TypeAdapter

from service.ipc.channel import Channel, Full, Malformed, pair
from service.ipc.documents import Connection, End, Fault, Gone, Peer, ToParent, Wanted
from service.ipc.placement import ACCEPTOR, CONTROL
from service.ipc.run_marks import RunRecord

_CONNECTIONS: TypeAdapter[Connection] = TypeAdapter(Connection)
_OF_CONTROL: TypeAdapter[ToParent] = TypeAdapter(ToParent)
#: How long others may still send into the channel of a process that has ended.
_RESCUE_S = 5.0
_MOST_WAITING = 1000  # the kernel holds some hundred


@dataclass(frozen=True, slots=True, eq=False)
class Mailbox:
    """A channel: the end that its process reads, and the end that others send into; numbered.

    `record` is of what the process runs, where it runs models.
    """

    own: socket.socket
    other: socket.socket
    record: RunRecord | None = None
    start: int = field(default_factory=partial(next, count(1)))

    @classmethod
    def made(cls, *, runs_models: bool = False) -> Mailbox:
        """A new one."""
        own, other = pair()
        return cls(own, other, RunRecord() if runs_models else None)

    @property
    def inherited(self) -> dict[str, int]:
        """What its process gets: option → file descriptor."""
        record = {} if self.record is None else {"--run-marks": self.record.fileno()}
        return {"--channel": self.own.fileno(), **record}

    def close(self) -> None:
        """Close both ends here."""
        self.own.close()
        self.other.close()
        if self.record is not None:
            self.record.close()


class Introductions:
    """The present processes and their channels.

    Attributes:
        wanted: the processes of single models that control asks for.
    """

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self._present: dict[str, Mailbox] = {}
        self._pids: dict[str, int] = {}
        self._ended: list[tuple[str, Mailbox, float]] = []
        self._to_end: dict[str, tuple[int, str]] = {}
        self._untold: list[tuple[str, str, Fault | None]] = []

    def introduce(self, name: str, mailbox: Mailbox, pid: int, fault: Fault | None = None) -> None:
        """A process has taken its place: it and the others are told of each other.

        Control is told once what the process before has ended by.
        """
        if (before := self._present.get(name)) is not None:
            self._ended.append((name, before, time.monotonic() + _RESCUE_S))
        self._present[name], self._pids[name] = mailbox, pid
        for reader in (ACCEPTOR, CONTROL):
            for other in self._present if reader == name else (name,):
                if other != reader:
                    self._tell(reader, other, fault if reader == CONTROL else None)
        self.rescue()

    def part(self, name: str) -> None:
        """A process will not come back: what waits for it is placed anew by control."""
        if (mailbox := self._present.pop(name, None)) is None:
            return
        if (control := self._present.get(CONTROL)) is not None:
            _move_all(mailbox, control)
        for reader in (ACCEPTOR, CONTROL):
            if (told := self._present.get(reader)) is not None:
                with suppress(Full):
                    _sender(told).send(Gone(name=name))
        mailbox.close()

    def rescue(self) -> None:
        """Give connections that no process has taken to the successor, and hear control; called again and again."""
        self._listen()
        now = time.monotonic()
        untold, self._untold = self._untold, []
        for reader, other, fault in untold:
            self._tell(reader, other, fault)
        for name, mailbox, _ in self._ended:
            if (successor := self._present.get(name)) is not None:
                _move_all(mailbox, successor)
        for _, mailbox, _ in [ended for ended in self._ended if ended[2] < now]:
            mailbox.close()
        self._ended = [ended for ended in self._ended if ended[2] >= now]

    def _listen(self) -> None:
        if (control := self._present.get(CONTROL)) is None:
            return
        channel = Channel(control.other, _OF_CONTROL)
        for _ in range(_MOST_WAITING):
            with suppress(Malformed):
                if (packet := channel.receive()) is None:
                    return
                match packet.document:
                    case Wanted(alone=alone):
                        self.wanted = alone
                    case End(name=name, pid=pid, reason=reason):
                        self._to_end[name] = pid, reason
                packet.close()

    def reason_to_end(self, name: str, pid: int) -> str | None:
        """Why control wants this process to be ended, if it does."""
        wanted, reason = self._to_end.pop(name, (0, ""))
        return reason if wanted == pid else None

    def close(self) -> None:
        """Close all channels."""
        for mailbox in (*self._present.values(), *(mailbox for _, mailbox, _ in self._ended)):
            mailbox.close()

    def _tell(self, reader: str, other: str, fault: Fault | None) -> None:
        told, shown = self._present.get(reader), self._present.get(other)
        if told is not None and shown is not None:
            introduced = Peer(name=other, pid=self._pids[other], start=shown.start, fault=fault)
            try:
                _sender(told).send(introduced, files=[shown.other.fileno()])
            except Full:
                self._untold.append((reader, other, fault))


def _sender(mailbox: Mailbox) -> Channel[Connection]:
    return Channel(mailbox.other, _CONNECTIONS)


def _move_all(ended: Mailbox, successor: Mailbox) -> None:
    for _ in range(_MOST_WAITING):
        if not _moved(ended, successor):
            return


def _moved(ended: Mailbox, successor: Mailbox) -> bool:
    """Move one connection; what else waits was meant for the process that has ended."""
    try:
        packet = Channel(ended.own, _CONNECTIONS).receive()
    except Malformed:
        return True
    if packet is None:
        return False
    with suppress(Full):
        _sender(successor).pass_on(packet)
    packet.close()
    return True
