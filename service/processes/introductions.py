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

from service.ipc.channel import Channel, Full, Malformed, Packet, pair
from service.ipc.documents import ACCEPTOR, CONTROL, Connection, End, Fault, Gone, Peer, place_of
from service.ipc.run_marks import RunRecord

_CONNECTIONS: TypeAdapter[Connection] = TypeAdapter(Connection)
_OF_CONTROL: TypeAdapter[End] = TypeAdapter(End)
#: How long others may still send into the channel of a process that has ended.
_RESCUE_S = 5.0
_MAX_WAITING = 1000  # the kernel holds some hundred


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
        own, other = pair()
        return cls(own, other, RunRecord() if runs_models else None)

    @property
    def inherited(self) -> dict[str, int]:
        """Files that its process inherits: option → file descriptor."""
        record = {} if self.record is None else {"--run-marks": self.record.fileno()}
        return {"--channel": self.own.fileno(), **record}

    def close(self) -> None:
        self.own.close()
        self.other.close()
        if self.record is not None:
            self.record.close()


class _Ended:
    """The mailbox of a process that has ended: what others still send there is moved to its successor."""

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        self.name = name
        self.until = time.monotonic() + _RESCUE_S
        self._mailbox = mailbox
        self._channel = Channel(mailbox.own, _CONNECTIONS)
        self._held: Packet[Connection] | None = None  # the successor had no room for it

    def move_all(self, successor: Mailbox) -> None:
        """Move the connections that wait, as far as there is room; what else waits was meant for the one that ended."""
        for _ in range(_MAX_WAITING):
            try:
                self._held = self._held or self._channel.receive()
                if self._held is None:
                    return
                _sender(successor).pass_on(self._held)
            except Malformed:
                continue
            except Full:
                return
            self._held.close()
            self._held = None

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        self._mailbox.close()


class Introductions:
    """The present processes and their channels."""

    def __init__(self) -> None:
        self._present: dict[str, Mailbox] = {}
        self._pids: dict[str, int] = {}
        self._ended: list[_Ended] = []
        self._to_end: dict[str, tuple[int, str]] = {}
        self._untold: list[tuple[str, Peer | Gone, Mailbox | None]] = []

    def introduce(self, name: str, mailbox: Mailbox, pid: int, fault: Fault | None = None) -> None:
        """A process has taken its place: it and the others learn of each other.

        Control learns once how the process before has ended.
        """
        if (before := self._present.get(name)) is not None:
            self._ended.append(_Ended(name, before))
        self._present[name], self._pids[name] = mailbox, pid
        for reader in (ACCEPTOR, CONTROL):
            for other in self._present if reader == name else (name,):
                if other != reader:
                    shown, told = self._present[other], fault if reader == CONTROL else None
                    self._tell(reader, Peer(name=other, pid=self._pids[other], start=shown.start, fault=told), shown)
        self.rescue()

    def part(self, name: str) -> None:
        """A process will not come back: what waits for it is handed on by control."""
        if (mailbox := self._present.pop(name, None)) is None:
            return
        self._ended.append(_Ended(name, mailbox))
        for reader in (ACCEPTOR, CONTROL):
            self._tell(reader, Gone(name=name), None)
        self.rescue()

    def rescue(self) -> None:
        """Give connections that no process has taken to the successor, and hear control; called again and again."""
        self._listen()
        untold, self._untold = self._untold, []
        for reader, document, shown in untold:
            self._tell(reader, document, shown)
        for ended in self._ended:
            if (successor := self._successor(ended.name)) is not None:
                ended.move_all(successor)
        now = time.monotonic()
        for ended in [ended for ended in self._ended if ended.until < now]:
            ended.close()
        self._ended = [ended for ended in self._ended if ended.until >= now]

    def _successor(self, name: str) -> Mailbox | None:
        """Another process of the same place, which answers already, before the one that is being started."""
        others = [other for other in self._present if other != name and place_of(other) == place_of(name)]
        return next((self._present[one] for one in (*others, name, CONTROL) if one in self._present), None)

    def _listen(self) -> None:
        if (control := self._present.get(CONTROL)) is None:
            return
        channel = Channel(control.other, _OF_CONTROL)
        for _ in range(_MAX_WAITING):
            with suppress(Malformed):
                if (packet := channel.receive()) is None:
                    return
                told = packet.document
                self._to_end[told.name] = told.pid, told.reason
                packet.close()

    def reason_to_end(self, name: str, pid: int) -> str | None:
        wanted, reason = self._to_end.pop(name, (0, ""))
        return reason if wanted == pid else None

    def close(self) -> None:
        for mailbox in self._present.values():
            mailbox.close()
        for ended in self._ended:
            ended.close()

    def _tell(self, reader: str, document: Peer | Gone, shown: Mailbox | None) -> None:
        """Tell a process of another's mailbox, or that it has none, now or later, as long as it is true."""
        if (told := self._present.get(reader)) is None or self._present.get(document.name) is not shown:
            return
        try:
            _sender(told).send(document, files=[] if shown is None else [shown.other.fileno()])
        except Full:
            self._untold.append((reader, document, shown))


def _sender(mailbox: Mailbox) -> Channel[Connection]:
    return Channel(mailbox.other, _CONNECTIONS)
