"""The progress of a job: the stage that it is at, and how many of its planned trainings have ended.

The share that is done follows from both and never falls. Another thread may ask at any time, so that a client sees
progress while a single computation is long.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

#: The share of a job that is done as each of its stages begins; between the second and the third its trainings count.
_BEGINNINGS = {
    "inspecting": 0.0,
    "evaluating": 0.02,
    "training": 0.05,
    "calibrating": 0.9,
    "exporting": 0.97,
    "publishing": 0.99,
}


@dataclass(frozen=True)
class Position:
    """The share of the whole that is done; trainings that have ended of those planned, and seconds of those to come.

    Attributes:
        eta_seconds: None before the first training has ended.
    """

    fraction: float
    trained: int
    planned: int
    eta_seconds: float | None


class JobProgress:
    """The stage of a job and its trainings.

    Attributes:
        began: when that was, by `time.perf_counter`.

    >>> progress = JobProgress()
    >>> progress.begin("training")
    >>> progress.expect(8)
    >>> for _ in range(5):
    ...     progress.ended(40.0)
    >>> progress.position()
    Position(fraction=0.58125, trained=5, planned=8, eta_seconds=120.0)
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._stage = "inspecting"
        self._trained, self._to_come, self._seconds = 0, 0, 0.0
        self._share, self._fraction = 0.0, 0.0
        self._lock = threading.Lock()

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._stage = stage

    def expect(self, trainings: int) -> None:
        """So many trainings are to come, whatever was expected before."""
        self._to_come = trainings

    def reached(self, share: float) -> None:
        """So much of the training that runs is done."""
        self._share = share

    def ended(self, seconds: float) -> None:
        """A training has ended, which took so many seconds in all attempts."""
        with self._lock:
            self._trained, self._to_come = self._trained + 1, max(0, self._to_come - 1)
            self._seconds, self._share = self._seconds + seconds, 0.0

    def position(self) -> Position:
        """How far the job is, now."""
        with self._lock:
            planned, done = self._trained + self._to_come, self._trained + self._share
            fraction = _BEGINNINGS[self._stage]
            if self._stage == "training" and planned:
                fraction += (_BEGINNINGS["calibrating"] - fraction) * min(1.0, done / planned)
            self._fraction = max(self._fraction, fraction)
            mean = self._seconds / self._trained if self._trained else None
            eta = None if mean is None else round(max(0.0, planned - done) * mean, 1)
            return Position(self._fraction, self._trained, planned, eta)
