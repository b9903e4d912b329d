"""What serving processes have counted: each tells the whole of it, and what those that have ended told stays.

A scrape must not see a sum that is smaller than the last one, which Prometheus takes for a restart. So control writes
what it was told to a file before it shows it, and reads that file where it is started again itself.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from pydantic import BaseModel

from service.inference.counters import Counts, latest, merged
from service.inference.metrics import OtherProcesses
from service.shared_counts import Snapshot

_LOG = logging.getLogger(__name__)
_MOST_ENDED = 1000  # models of processes that have ended
_ENDED = ""


@dataclass(slots=True)
class _Process:
    """What the process of a name has told; `start` numbers the processes of all names."""

    start: int
    lives: bool = True
    unread: deque[bytes] = field(default_factory=lambda: deque(maxlen=1))
    snapshot: Snapshot | None = None


class _Part(BaseModel):
    """The snapshot of a process, or of all that have ended; of so many bytes."""

    name: str
    start: int
    size: int


class _Head(BaseModel):
    """The first line of the file."""

    parts: list[_Part]


class ServingCounts:
    """The counts of all serving processes; thread-safe.

    Args:
        file: in the folder that is cleared when the service is started.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._processes: dict[str, _Process] = {}
        self._ended: Counts = {}
        self._lock = Lock()
        self._read()

    def met(self, name: str, start: int) -> None:
        """The process of this name is the one that was started as this, from now on."""
        with self._lock:
            if (known := self._processes.get(name)) is not None and known.start == start:
                known.lives = True
                return
            self._part(name)
            self._processes[name] = _Process(start)

    def parted(self, name: str) -> None:
        """The process of this name has ended."""
        with self._lock:
            self._part(name)

    def tell(self, name: str, content: bytes) -> None:
        """What the process of this name has counted, as it sends it; it is read when it is shown."""
        if (process := self._processes.get(name)) is not None:
            process.unread.append(content)  # without the lock: a scrape holds it while it writes to the disk

    def others(self) -> OtherProcesses:
        """All counts, and the gauges of the processes that live; from now on they are not lost."""
        with self._lock:
            news = [self._decode(name, process) for name, process in self._processes.items()]
            if any(news):
                self._write()
            told = [(process.lives, process.snapshot) for process in self._processes.values()]
            counts = [snapshot.counts for _, snapshot in told if snapshot is not None]
            gauges = [snapshot.gauges for lives, snapshot in told if lives and snapshot is not None]
            return OtherProcesses([self._ended, *counts], gauges)

    def _part(self, name: str) -> None:
        if (process := self._processes.get(name)) is not None:
            self._decode(name, process)
            if process.snapshot is not None:
                self._ended = latest(merged((self._ended, process.snapshot.counts)), _MOST_ENDED)
            del self._processes[name]
            self._write()

    def _decode(self, name: str, process: _Process) -> bool:
        """Read what was sent; what cannot be read changes nothing."""
        try:
            process.snapshot = Snapshot.decode(process.unread.pop())
        except IndexError:
            return False
        except ValueError as error:
            _LOG.warning("the counts of %s cannot be read: %.200r", name, error)
            return False
        return True

    def _write(self) -> None:
        told = {_ENDED: (0, Snapshot(self._ended, {}))}
        told |= {
            name: (process.start, process.snapshot)
            for name, process in self._processes.items()
            if process.snapshot is not None
        }
        parts = [(name, start, snapshot.encode()) for name, (start, snapshot) in told.items()]
        head = _Head(parts=[_Part(name=name, start=start, size=len(content)) for name, start, content in parts])
        fresh = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(head.model_dump_json().encode() + b"\n" + b"".join(content for _, _, content in parts))
            os.replace(fresh, self._file)
        except OSError as error:
            _LOG.warning("the counts of the serving processes were not written: %s", error)

    def _read(self) -> None:
        try:
            first, _, rest = self._file.read_bytes().partition(b"\n")
            for part in _Head.model_validate_json(first).parts:
                snapshot, rest = Snapshot.decode(rest[: part.size]), rest[part.size :]
                if part.name == _ENDED:
                    self._ended = snapshot.counts
                else:
                    self._processes[part.name] = _Process(part.start, lives=False, snapshot=snapshot)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _LOG.warning("the counts that were written before cannot be read: %s", error)
