"""The supervision of child processes: started in order, kept running, and stopped so that no request is lost.

The acceptor ends first, so that what it has accepted is answered; then the processes that answer predictions, which ask
control until their last answer; then control. Workers stop meanwhile, their broker last.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from service.processes.child_process import ChildProcess, say

_CHECK_EVERY_S = 0.1
#: Kinds that are asked to stop together, one after the other.
_STAGES = (frozenset({"acceptor", "template"}), frozenset({"api", "serving", "alone"}), frozenset({"control"}))
_BROKER = "broker"


@contextlib.contextmanager
def running(children: Sequence[ChildProcess]) -> Iterator[None]:
    """Start the processes in order, and stop them at the end."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        _stop(children)


def supervise(children: Sequence[ChildProcess], *, name: str) -> None:
    """Keep the processes running until SIGINT or SIGTERM; a second one ends them at once.

    Args:
        name: of this process, for the log.
    """
    signals: list[int] = []  # an event could be locked by the very thread that a signal interrupts

    def caught(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        for child in children if len(signals) > 1 else ():
            child.hurry()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, caught)
    with running(children):
        while not signals:
            time.sleep(_CHECK_EVERY_S)
            tend(children)
        say(name, "stopping")
    say(name, "stopped")


def tend(children: Sequence[ChildProcess]) -> None:
    """Start again what has ended or hangs, and pass on what waits for it."""
    for child in children:
        try:
            child.ensure_running()
        except OSError as error:  # too many processes, or too little memory: those that run go on
            say(child.name, f"cannot be started now, and is tried again: {error}")
    for introductions in {child.introductions for child in children if child.introductions is not None}:
        introductions.rescue()


def _stop(children: Sequence[ChildProcess]) -> None:
    staged = [[child for child in children if child.kind in stage] for stage in _STAGES]
    workers = [child for child in children if child.kind not in {_BROKER}.union(*_STAGES)]
    for child in workers:
        child.ask_to_stop()
    for stage in (*staged, workers, [child for child in children if child.kind == _BROKER]):
        for child in stage:
            child.ask_to_stop()
        for child in stage:
            child.stop()
