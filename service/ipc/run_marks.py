"""Run marks: the models that a process runs at this moment, in memory that its parent reads once it has ended.

A thread that opens or runs a model leaves a mark: who it is, and the digest of the served copy. Where a signal ends the
process, the C runtime notes behind the marks which thread has caught it (`faulthandler`). No lock, no system call: a
mark costs less than half a microsecond.
"""

from __future__ import annotations

import faulthandler
import fcntl
import mmap
import os
import re
import struct
from threading import get_ident
from typing import NamedTuple

_MARK = struct.Struct("=Q32s")  # the thread, and the digest
_NOTHING = bytes(_MARK.size)
_MAX_MARKS = 64  # a run beyond them goes unmarked
_OWNER = struct.Struct("=Q")  # the thread of the event loop, before the marks
_NOTES_AT = 4096
_BYTES = 64 * 1024
_CAUGHT = re.compile(rb"Current thread 0x([0-9a-f]{1,16})")


class RunMark:
    __slots__ = ("_digest", "_free", "_memory")

    def __init__(self, memory: mmap.mmap, free: list[int], digest: bytes) -> None:
        self._memory = memory
        self._free = free
        self._digest = digest

    def begin(self) -> int | None:
        """Mark that this thread opens or runs the model, until `end` is called with the number returned."""
        try:
            place = self._free.pop()  # atomic, as `append` is
        except IndexError:
            return None
        _MARK.pack_into(self._memory, place, get_ident(), self._digest)
        return place

    def end(self, place: int | None) -> None:
        if place is not None:
            self._memory[place : place + _MARK.size] = _NOTHING
            self._free.append(place)


class RunMarks:
    """The marks of this process, which is that of the event loop in the thread that makes them.

    Args:
        memory: of a `RunRecord`, inherited; without one the marks are seen by no other process.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if memory is None else memory, _NOTES_AT)
        self._free = [_OWNER.size + _MARK.size * number for number in range(_MAX_MARKS)]
        _OWNER.pack_into(self._memory, 0, get_ident())
        if memory is not None:
            os.lseek(memory, _NOTES_AT, os.SEEK_SET)
            faulthandler.enable(memory)

    def of(self, digest: str) -> RunMark:
        return RunMark(self._memory, self._free, bytes.fromhex(digest))


class Marked(NamedTuple):
    """The models that ran at the end of a process, by their digests.

    Attributes:
        models: all of them.
        on_loop: those that ran on the event loop.
        caught: those in whose thread a signal was caught; None where no thread of the interpreter has caught one.
    """

    models: frozenset[str]
    on_loop: frozenset[str]
    caught: frozenset[str] | None


class RunRecord:
    """The memory of the marks of one process, as its parent holds it: what stands there may be a lie."""

    def __init__(self) -> None:
        self._memory = os.memfd_create("run-marks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._memory, _BYTES)
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def fileno(self) -> int:
        return self._memory

    def read(self) -> Marked:
        content, notes = os.pread(self._memory, _NOTES_AT, 0), self._notes()
        (owner,) = _OWNER.unpack_from(content)
        marks = content[_OWNER.size : _OWNER.size + _MAX_MARKS * _MARK.size]
        runs = [(thread, digest.hex()) for thread, digest in _MARK.iter_unpack(marks) if any(digest)]
        caught = _CAUGHT.search(notes)
        return Marked(
            models=frozenset(digest for _, digest in runs),
            on_loop=_of_thread(runs, owner),
            caught=None if caught is None else _of_thread(runs, int(caught[1], 16)),
        )

    def notes(self) -> list[str]:
        """Where its threads were when a signal was caught, for the log."""
        return self._notes().decode(errors="replace").splitlines()

    def _notes(self) -> bytes:
        return os.pread(self._memory, _BYTES, _NOTES_AT).partition(b"\0")[0]

    def close(self) -> None:
        """Give the memory back once no process has it any more."""
        os.close(self._memory)


def _of_thread(runs: list[tuple[int, str]], thread: int) -> frozenset[str]:
    return frozenset(digest for of, digest in runs if of == thread)
