"""A channel: typed documents, bytes and open files between two processes, over an inherited pair of Unix sockets.

The pair keeps the boundaries of messages (`SOCK_SEQPACKET`), so that a process which takes the place of another reads
on where that one stopped. What is too large for a message goes in a sealed file in memory.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import select
import socket
import stat
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PAUSE_S = 10.0
Incoming = TypeVar("Incoming", bound=BaseModel)
#: The kernel holds about 200 KiB of a pair's messages; a larger one would never fit.
_MESSAGE_BYTES = 60_000
#: A document: the longest has a path or a key in it that a head of 64 KiB has brought, each letter escaped.
_DOCUMENT_BYTES = 1024**2
_MIN_BYTES = 4096
_MAX_DESCRIPTORS = 6  # of a process that is started: its channel, heartbeat, output, what it runs, and a long message
_INLINE = b"i"
_IN_FILE = b"f"
_UNREAD = termios.TIOCOUTQ  # which is SIOCOUTQ: what was sent, and not read yet
#: The other side has the same open socket, and may have made it one that waits.
_NEVER_WAIT = socket.MSG_DONTWAIT


def sealed(content: bytes) -> int:
    memory = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(content)
    while left:
        left = left[os.write(memory, left) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory


def content_of(memory: int, most_bytes: int) -> bytes:
    """The content of such a file; raises ValueError for any other, whose reader might wait or never end."""
    status = os.fstat(memory)
    if not stat.S_ISREG(status.st_mode) or fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("not a sealed file in memory")
    if status.st_size > most_bytes:
        raise ValueError(f"a message of {status.st_size} bytes; at most {most_bytes}")
    return os.pread(memory, status.st_size, 0)


class TokenBucket:
    """Filled at a steady rate, up to what it holds; on one thread.

    >>> now = 0.0
    >>> bucket = TokenBucket(per_second=10, most=20, clock=lambda: now)
    >>> bucket.take(20), bucket.take(5)
    (0.0, 0.5)
    """

    def __init__(self, *, per_second: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = self._left = most
        self._clock = clock
        self._filled_at = clock()

    def take(self, tokens: float) -> float:
        """Take so many, owed where they are not there; returns in how many seconds there are any again."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._filled_at) * self._per_second) - tokens
        self._filled_at = now
        return max(0.0, -self._left / self._per_second)


class ThrottledLog:
    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._next: dict[str, float] = {}

    def warning(self, kind: str, text: str, error: Exception | None = None) -> None:
        """Log this, with the traceback of an error, unless one of the kind was logged a moment ago."""
        now = time.monotonic()
        if now >= self._next.get(kind, 0.0):
            self._next[kind] = now + _PAUSE_S
            self._log.warning("%s", text, exc_info=error)


class Full(Exception):
    """The other side does not read: nothing was sent."""


class Malformed(Exception):
    """A message that the other side should not have sent; its files are closed."""


class Closed(Malformed):
    """All other ends are closed: nothing will come any more."""


@dataclass(slots=True)
class Packet(Generic[Incoming]):
    """A message that has arrived; its files are the receiver's, and closed by `close`."""

    document: Incoming
    content: bytes = b""
    files: list[int] = field(default_factory=list)
    size: int = _MIN_BYTES  # about what it takes to carry and to read it, in bytes
    memory: int | None = None  # the sealed file that it came in, to be passed on as it is

    def take_file(self) -> int:
        """The next file, which is the caller's from now on; raises Malformed where there is none."""
        if not self.files:
            raise Malformed(f"no file came with {type(self.document).__name__}")
        return self.files.pop(0)

    def take_socket(self) -> socket.socket:
        """The next file as a socket; raises Malformed for a file that is none."""
        descriptor = self.take_file()
        try:
            return socket.socket(fileno=descriptor)
        except OSError as error:
            os.close(descriptor)
            raise Malformed(f"the file of {type(self.document).__name__} is no socket: {error}") from error

    def taken(self) -> Packet[Incoming]:
        """The message, whose files are the caller's to close."""
        packet = replace(self)
        self.files, self.memory = [], None
        return packet

    def close(self) -> None:
        _close(self.files if self.memory is None else [*self.files, self.memory])
        self.files, self.memory = [], None


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel(Generic[Incoming]):
    """One end of a channel; used on one thread, and never waits.

    Args:
        end: a socket of `pair`.
        reads: validates the documents that come from the other side.
        most_bytes: of the content of one message from there.
        rate: of the bytes that are sent; beyond it the other side counts as full.
    """

    def __init__(
        self,
        end: socket.socket,
        reads: TypeAdapter[Incoming],
        *,
        most_bytes: int = 8 * 1024**2,
        rate: TokenBucket | None = None,
    ) -> None:
        end.setblocking(False)
        self._end = end
        self._reads = reads
        self._most_bytes = most_bytes
        self._rate = rate

    @property
    def unread(self) -> int:
        """Bytes that the other side has yet to read."""
        unread = array.array("i", [0])
        fcntl.ioctl(self._end, _UNREAD, unread)
        return unread[0]

    @property
    def has_room(self) -> bool:
        """True where the other side has read more than half of its queue: connections leave the rest to documents."""
        return 2 * self.unread < self._end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, document: BaseModel, content: bytes = b"", files: Sequence[int] = ()) -> None:
        """Send one message; the files stay the caller's. Raises Full where the other side has not read earlier ones."""
        if self._rate is not None and self._rate.take(0) > 0:
            raise Full("more was sent than may be")
        head = document.model_dump_json(exclude_none=True).encode()
        size = len(head) + len(content)
        if size <= _MESSAGE_BYTES:
            self._send([_INLINE, head, b"\n", content], files)
        else:
            memory = sealed(head + b"\n" + content)
            try:
                self._send([_IN_FILE], [memory, *files])
            finally:
                os.close(memory)
        if self._rate is not None:
            self._rate.take(_MIN_BYTES + size)

    def offer(self, document: BaseModel, content: bytes = b"", files: Sequence[int] = ()) -> bool:
        """Send one message; False where the other side does not read."""
        try:
            self.send(document, content, files)
        except Full:
            return False
        return True

    def pass_on(self, packet: Packet[Incoming], files: Sequence[int] | None = None) -> None:
        """Send a message as it came, with its own files or these; a large one is not made anew. Raises Full."""
        files = packet.files if files is None else files
        if packet.memory is None:
            self.send(packet.document, packet.content, files)
        else:
            self._send([_IN_FILE], [packet.memory, *files])

    def receive(self) -> Packet[Incoming] | None:
        """The next message, None where none has arrived; raises Malformed for what is none, Closed at the end."""
        files: list[int] = []
        try:
            message, ancillary, flags, _ = self._end.recvmsg(
                _MESSAGE_BYTES + 16, socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC | _NEVER_WAIT
            )
            files = _received(ancillary)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a message that is too long, or has too many files")
            if not message and not files and _is_closed(self._end):
                raise Closed("the channel is closed")
            return self._packet(message, files)
        except BlockingIOError:
            return None
        except (ValueError, OSError) as error:
            _close(files)
            raise Malformed(" ".join(str(error).split())[:300]) from error

    def close(self) -> None:
        self._end.close()

    def _send(self, parts: Sequence[bytes], files: Sequence[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        try:
            self._end.sendmsg(parts, ancillary, _NEVER_WAIT)
        except OSError as error:  # also ETOOMANYREFS: too many files are under way
            raise Full(str(error)) from error

    def _packet(self, message: bytes, files: list[int]) -> Packet[Incoming]:
        form, whole = message[:1], message[1:]
        memory = files[0] if form == _IN_FILE and files else None
        if form == _IN_FILE:
            whole = content_of(-1 if memory is None else memory, self._most_bytes)
        elif form != _INLINE:
            raise ValueError(f"a message that begins with {form!r}")
        head, _, content = whole.partition(b"\n")
        if len(head) > _DOCUMENT_BYTES:
            raise ValueError(f"a document of {len(head)} bytes; at most {_DOCUMENT_BYTES}")
        own = files if memory is None else files[1:]
        return Packet(self._reads.validate_json(head), content, own, _MIN_BYTES + len(whole), memory)


def _is_closed(end: socket.socket) -> bool:
    """True where no other end is open: a message of no bytes looks the same."""
    look = select.poll()
    look.register(end, 0)  # the kernel always tells of a hang-up
    return bool(look.poll(0))


def _received(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    files = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return list(files)


def _close(files: Sequence[int]) -> None:
    for descriptor in files:
        with suppress(OSError):
            os.close(descriptor)
