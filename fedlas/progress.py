"""The progress of a job: its steps with their seconds as they were estimated, the share that is done, and what is left.

The share moves at the speed that would end it at one with the seconds that are left: it never falls, and where these
turn out to be others it moves slower or faster, but does not jump. A step that takes longer than it was estimated to
keeps something to come until it ends. Another thread may ask at any time, so that a client sees progress while a single
computation is long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: The kind of the steps that train: where one was slower than measured, others will be.
TRAINING = "training"
#: What a step that takes longer than estimated keeps to come: a share of its estimate.
_KEPT = 0.2
#: Beyond the share of the seconds spent and half of those to come it moves at such a part of its speed.
_HALF, _CREEP = 0.5, 0.25
#: From this share of a step on its own speed alone says how long it takes.
_TELLING_SHARE = 0.25


@dataclass(frozen=True)
class Position:
    """The share of the whole that is done, and the seconds that are left."""

    fraction: float
    eta_seconds: float


@dataclass(frozen=True)
class _Expected:
    """A step to come; steps of a `kind` take as much longer than estimated as those before them did."""

    seconds: float
    kind: str = ""


class JobProgress:
    """Steps that are over, the one that runs, and those to come.

    Args:
        spent: seconds that the job had begun before.

    Attributes:
        began: when the job began, by its clock.
        deadline: the moment by which the steps of a kind leave room for all others.

    >>> moment = 0.0
    >>> progress = JobProgress(lambda: moment)
    >>> progress.expect("reading", 10.0), progress.expect("judging", 30.0)
    (None, None)
    >>> progress.begin("reading")
    >>> moment = 4.0
    >>> where = progress.position()
    >>> round(where.fraction, 3), where.eta_seconds
    (0.1, 36.0)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, spent: float = 0.0) -> None:
        self.clock, self.began = clock, clock() - spent
        self.deadline: float | None = None
        self._to_come: dict[str, _Expected] = {}
        self._running: _Running | None = None
        self._paces: dict[str, tuple[float, float]] = {}
        self._spent, self._restored = spent, 0.0
        self._fraction, self._told_at = 0.0, self.began
        self._lock = threading.RLock()

    def expect(self, name: str, seconds: float, *, kind: str = "") -> None:
        """A step is to come and takes about so many seconds, whatever was expected of it before."""
        with self._lock:
            self._to_come[name] = _Expected(seconds, kind)

    def drop(self, *names: str) -> None:
        """Steps that do not come after all."""
        with self._lock:
            for name in names:
                self._to_come.pop(name, None)

    def begin(self, name: str) -> None:
        """The step runs from now on, and one that ran has ended."""
        with self._lock:
            self.end()
            step = self._to_come.pop(name, _Expected(0.0))
            self._running = _Running(step, step.seconds * self._slower(step.kind), self.clock())

    def reached(self, share: float) -> None:
        """So much of the running step is done; the first that is told may be what an earlier attempt has done."""
        with self._lock:
            if self._running is not None:
                self._running.reached(share, self.clock())

    def end(self, took: float = 0.0, *, whole: bool = True) -> None:
        """The running step has ended, perhaps before all of it was done; it took so many seconds in all attempts."""
        with self._lock:
            if (running := self._running) is None:
                return
            self._running, kind = None, running.step.kind
            seconds = max(self.clock() - running.began, took)
            self._spent += seconds
            self._restored += seconds - (self.clock() - running.began)
            before = self._paces.get(kind, (0.0, 0.0))
            share = 1.0 if whole else running.share
            self._paces[kind] = (before[0] + seconds, before[1] + share * running.step.seconds)

    def position(self) -> Position:
        """How far the job is, now."""
        with self._lock:
            now, running = self.clock(), self._running
            spent = self._spent + (running.spent(now) if running else 0.0)
            left = [(step.kind, step.seconds * self._slower(step.kind)) for step in self._to_come.values()]
            left += [(running.step.kind, running.left(now))] if running else []
            others = sum(seconds for kind, seconds in left if not kind)
            limited = sum(seconds for kind, seconds in left if kind)
            if self.deadline is not None:
                limited = min(limited, max(0.0, self.deadline - now - others))
            eta = others + limited
            self._move(now, spent, eta)
            return Position(self._fraction, eta)

    @property
    def share(self) -> float | None:
        """The share of the running step that is done, as far as it was told; None where none runs."""
        with self._lock:
            return None if self._running is None else self._running.share

    def fraction_after(self, seconds: float) -> float:
        """The share that will be done when steps of so many estimated seconds are over that are expected now."""
        where = self.position()
        return where.fraction + (1 - where.fraction) * min(1.0, seconds / where.eta_seconds if where.eta_seconds else 1)

    def stands_at(self, fraction: float) -> None:
        """So large a share is done by now, at the least: others have done their part of it."""
        with self._lock:
            self._fraction = max(self._fraction, fraction)

    def _move(self, now: float, spent: float, eta: float) -> None:
        """Move on since the last time, and over what an earlier attempt has done."""
        gone, self._told_at = now - self._told_at, now
        if spent + eta <= 0:
            return
        restored = self._restored + (self._running.restored if self._running else 0.0)
        moved = 1 - (1 - self._fraction) * (eta / (eta + gone) if eta + gone > 0 else 1.0)
        most = 1 - _HALF * eta / (spent + eta)
        creeping = self._fraction + _CREEP * (moved - self._fraction)
        self._fraction = max(min(moved, max(most, creeping)), restored / (spent + eta))

    def _slower(self, kind: str) -> float:
        """How much longer than estimated steps of this kind take."""
        took, estimated = self._paces.get(kind, (0.0, 0.0))
        running = self._running
        if running is not None and running.step.kind == kind:
            took, estimated = took + running.share * running.whole, estimated + running.share * running.step.seconds
        return took / estimated if kind and estimated > 0 else 1.0


class _Running:
    """A step that runs: what is known of its speed."""

    def __init__(self, step: _Expected, seconds: float, began: float) -> None:
        self.step, self._seconds, self.began = step, seconds, began
        self.share, self.at = 0.0, began
        self._first, self._first_at = 0.0, began

    def reached(self, share: float, now: float) -> None:
        if self.share == 0.0 and (now - self.began) < share * self._seconds / 2:  # an earlier attempt did it
            self._first, self._first_at = share, now
        self.share, self.at = max(self.share, min(1.0, share)), now

    @property
    def whole(self) -> float:
        """Seconds of the step, by its estimate and more and more by its own speed."""
        gone = self.share - self._first
        weight = min(1.0, max(0.0, gone) / _TELLING_SHARE)
        return (1 - weight) * self._seconds + (weight * (self.at - self._first_at) / gone if weight else 0.0)

    def left(self, now: float) -> float:
        to_come = (1 - self.share) * self.whole
        return max(to_come - (now - self.at), _KEPT * to_come)

    @property
    def restored(self) -> float:
        """Seconds of what an earlier attempt has done."""
        return self._first * self.whole

    def spent(self, now: float) -> float:
        return now - self.began + self.restored
