"""A serving process that is killed again and again: when predictions are answered next."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from benchmarks.serving import load, models, ours
from benchmarks.serving.fleet import round_to
from benchmarks.serving.ours import Fedlas
from benchmarks.serving.payloads import Failed, Request
from benchmarks.wall.forms import Json

_EVERY_S, _KILLS = 14.0, 4
_PAUSE_S = 0.005


def measured() -> Json:
    """Start two serving processes, and kill the first one again and again."""
    with ours.serving(FEDLAS_WALL="preferred", FEDLAS_API_PROCESSES="2") as service:
        (model,) = service.upload([models.digits().content])
        request = ours.predict(model, models.digits().rows[:1])
        load.once(service.running.port, request)
        with _asked(service, request) as client, _killing(service) as moments:
            time.sleep(_EVERY_S * _KILLS)
    gaps = [client.next_after(moment) - moment for moment in moments]
    return {
        "kills": len(gaps),
        "next answer, s": {"median": round_to(median(gaps)), "longest": round_to(max(gaps))},
    }


@dataclass
class _Client:
    """One that asks every few milliseconds, over a new connection each time."""

    port: int
    request: Request
    answered: list[tuple[float, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.wait(_PAUSE_S):
            began = time.perf_counter()
            try:
                load.once(self.port, self.request)
            except (OSError, Failed):
                continue
            self.answered.append((began, time.perf_counter()))

    def next_after(self, moment: float) -> float:
        """When the first request was answered that was sent after this moment."""
        return next((ended for began, ended in self.answered if began > moment), float("inf"))


@contextmanager
def _asked(service: Fedlas, request: Request) -> Iterator[_Client]:
    client = _Client(service.running.port, request)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        yield client
    finally:
        client.ended.set()
        thread.join()


@contextmanager
def _killing(service: Fedlas) -> Iterator[list[float]]:
    moments: list[float] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(_EVERY_S * 0.9):
            os.kill(int((service.data_dir / "run" / "serving-1.pid").read_text()), signal.SIGKILL)
            moments.append(time.perf_counter())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield moments
    finally:
        ended.set()
        thread.join()
