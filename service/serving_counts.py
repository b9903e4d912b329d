"""Counts of the processes that answer predictions, as control receives and keeps them.

A scrape must not see a sum that is smaller than the last one, which Prometheus takes for a restart. So what is counted
is written to a file before it is shown, and what processes that have ended have counted stays.

Ours beside prometheus_client 0.26's multiprocess mode: it cannot forget a model (`remove` does nothing there, so that
names fill the disk), and a scrape of 200 models took 2.1 s; here it takes 0.02 s.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

from service.predict.engine.metrics import WIDTH, Counts, ModelKey, OtherProcesses, latest, merged

_LOG = logging.getLogger(__name__)
_MAX_ENDED = 1000  # models of processes that have ended
_LAYOUT: Literal[1] = 1  # of the rows; increased with every change of them
_MAX_HEAD_BYTES = 4 * 1024**2
_MAX_MODELS = 11_000  # with those that have ended, and `OTHER`
_MAX_GAUGES = 200
_Name = Annotated[str, Field(max_length=1000)]
_ENDED = ""


class _Head(BaseModel):
    """The first line of a snapshot; the rows of these models follow."""

    model_config = ConfigDict(hide_input_in_errors=True)

    layout: Literal[1]
    models: Annotated[list[tuple[_Name, _Name, _Name]], Field(max_length=_MAX_MODELS)]
    gauges: Annotated[dict[_Name, FiniteFloat], Field(max_length=_MAX_GAUGES)]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters and gauges of one process at one moment."""

    counts: Counts
    gauges: Mapping[str, float]

    def encode(self) -> bytes:
        """A line of JSON, then the rows as they stand in memory."""
        head = _Head(layout=_LAYOUT, models=list(self.counts), gauges=dict(self.gauges))
        return head.model_dump_json().encode() + b"\n" + b"".join(row.tobytes() for row in self.counts.values())

    @classmethod
    def decode(cls, content: bytes) -> Snapshot:
        """Read a file; raises ValueError where it is incomplete, or another version of this software wrote it."""
        first, _, rest = content.partition(b"\n")
        if len(first) > _MAX_HEAD_BYTES:
            raise ValueError(f"a head of {len(first)} bytes; at most {_MAX_HEAD_BYTES}")
        head = _Head.model_validate_json(first)
        keys = [ModelKey(*key) for key in head.models]
        rows = np.frombuffer(rest).reshape(len(keys), WIDTH)
        if not (rows >= 0).all() or not np.isfinite(rows).all():
            raise ValueError("counts are finite and not negative")
        return cls(dict(zip(keys, rows, strict=True)), head.gauges)


@dataclass(slots=True)
class _Process:
    """Counts reported by the process of a name; `start` numbers the processes of all names."""

    start: int
    lives: bool = True
    unread: deque[bytes] = field(default_factory=lambda: deque(maxlen=1))
    snapshot: Snapshot | None = None


#: The first line of the file: of each process, and of all that have ended, name, start and bytes of its snapshot.
_PARTS: TypeAdapter[list[tuple[str, int, int]]] = TypeAdapter(list[tuple[str, int, int]])


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
        """Take the counts that the process of this name sends; they are read when they are shown."""
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
                self._ended = latest(merged((self._ended, process.snapshot.counts)), _MAX_ENDED)
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
        parts = [(_ENDED, 0, Snapshot(self._ended, {}).encode())]
        parts += [
            (name, process.start, process.snapshot.encode())
            for name, process in self._processes.items()
            if process.snapshot is not None
        ]
        head = _PARTS.dump_json([(name, start, len(content)) for name, start, content in parts])
        fresh = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(head + b"\n" + b"".join(content for _, _, content in parts))
            os.replace(fresh, self._file)
        except OSError as error:
            _LOG.warning("the counts of the serving processes were not written: %s", error)

    def _read(self) -> None:
        try:
            first, _, rest = self._file.read_bytes().partition(b"\n")
            for name, start, size in _PARTS.validate_json(first):
                snapshot, rest = Snapshot.decode(rest[:size]), rest[size:]
                if name == _ENDED:
                    self._ended = snapshot.counts
                else:
                    self._processes[name] = _Process(start, lives=False, snapshot=snapshot)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _LOG.warning("the counts that were written before cannot be read: %s", error)
